"""Refusals before a run starts: another run's directory, a bad batch."""

from ml_collections import ConfigDict

from mirl_jax.runs.config_files import differing_fields, load_config

# A run may be continued with other values of these.
_MAY_CHANGE = (
  "train.steps",
  "train.keep",
  "train.dump",
  "sft.log_every",
  "sft.save_every",
  "export.",
)
_SHOWN_FIELDS = 5


def check_same_run(
  config: ConfigDict, workdir: str, saved_mode: str, mode: str
) -> None:
  """Refuses to continue a run of another mode or config.

  Raises:
    ValueError: naming the mode, or the fields that differ.
  """
  if saved_mode != mode:
    raise ValueError(
      f"{workdir} holds a run of --mode={saved_mode}, not of --mode={mode};"
      " use another --workdir"
    )
  differing = [
    field
    for field in differing_fields(load_config(workdir), config)
    if not field.startswith(_MAY_CHANGE)
  ]
  if differing:
    shown = ", ".join(differing[:_SHOWN_FIELDS])
    more = len(differing) - _SHOWN_FIELDS
    raise ValueError(
      f"{workdir} holds a run with another config; these fields differ:"
      f" {shown}{f', and {more} more' if more > 0 else ''}. Use another"
      " --workdir, or the same values"
    )


def check_batch(config: ConfigDict, shards: int) -> None:
  """Refuses a number of questions that the mesh cannot share out.

  Raises:
    ValueError: naming the numbers that would do.
  """
  questions, parts = config.train.questions, config.train.sample_parts
  if parts < 1:
    raise ValueError(f"train.sample_parts={parts}: give at least 1")
  if questions < 1 or questions % (shards * parts):
    raise ValueError(
      f"train.questions={questions}: give a multiple of {shards * parts}, the"
      f" {shards} shards of the data axes times train.sample_parts={parts}"
    )
