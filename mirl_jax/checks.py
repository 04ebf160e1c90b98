"""Refusals before a run starts: another run's directory, a bad batch."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mirl_jax.evaluate import Strategy, rank_names
from mirl_jax.runs.config_files import (
  CONFIG_FILE,
  differing_fields,
  load_config,
)

# A run may be continued with other values of these.
_MAY_CHANGE = (
  "mesh",
  "train.steps",
  "train.keep",
  "train.dump",
  "train.stuck_after_s",
  "reward.deadline_s",
  "reward.memory_mb",
  "reward.workers",
  "sft.log_every",
  "sft.save_every",
  "export.",
  "eval.keep_best",
  "eval.checkpoint",
  "eval.sets",
  "eval.limit",
  "eval.against",
)
_SHOWN_FIELDS = 5
_BUCKETS = ("prompt_buckets", "patch_buckets")
# What the lengths of prompts depend on, the data apart.
_PROCESSING = ("path", "system", "instruction", "min_pixels", "max_pixels")


def _with_buckets(config: ConfigDict, saved: Mapping[str, Any]) -> ConfigDict:
  """The config with a saved one's buckets where it leaves them open."""
  config = config.copy_and_resolve_references()
  for name in _BUCKETS:
    if not config.data[name]:
      config.data[name] = tuple(saved["data"].get(name, ()))
  return config


def recall_buckets(config: ConfigDict, workdir: str) -> ConfigDict:
  """The config with the run's buckets where it leaves them open.

  As it is, where the directory holds no run, or one of other prompts.
  """
  if not (Path(workdir) / CONFIG_FILE).is_file():
    return config
  saved = load_config(workdir)
  found = _with_buckets(config, saved)

  def prompts(c: Mapping[str, Any]) -> dict[str, Any]:
    policy = {name: c["policy"].get(name) for name in _PROCESSING}
    return {"data": c["data"], "world": c.get("world"), "policy": policy}

  same = not differing_fields(prompts(saved), prompts(found.to_dict()))
  return found if same else config


def check_same_run(
  config: ConfigDict, workdir: str, saved_mode: str, mode: str
) -> ConfigDict:
  """Refuses to continue a run of another mode or config.

  Returns:
    The config, with the run's buckets where it leaves them open.

  Raises:
    ValueError: naming the mode, or the fields that differ.
  """
  if saved_mode != mode:
    raise ValueError(
      f"{workdir} holds a run of --mode={saved_mode}, not of --mode={mode};"
      " use another --workdir"
    )
  saved = load_config(workdir)
  config = _with_buckets(config, saved)
  differing = [
    field
    for field in differing_fields(saved, config)
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
  return config


def check_best(name: str, strategies: Sequence[Strategy], n: int) -> None:
  """Refuses an `eval.keep_best` that is no figure of the loop's evaluations.

  Raises:
    ValueError: naming the nearest one.
  """
  names = rank_names(strategies, n)
  if name and name not in names:
    near = difflib.get_close_matches(name, names, 1, 0)[0]
    raise ValueError(
      f"eval.keep_best={name!r} is no figure to rank checkpoints by; did"
      f" you mean {near!r}? Empty keeps none"
    )


def check_batch(config: ConfigDict, shards: int) -> None:
  """Refuses a number of questions that the mesh cannot share out.

  Raises:
    ValueError: naming the numbers that would do.
  """
  parts = config.train.sample_parts
  if parts < 1:
    raise ValueError(f"train.sample_parts={parts}: give at least 1")
  _check_multiple(
    "train.questions",
    config.train.questions,
    shards * parts,
    f"the {shards} shards of the data axes times train.sample_parts={parts}",
  )


def check_sft_batch(config: ConfigDict, shards: int) -> None:
  """As `check_batch`, of supervised training."""
  why = f"the {shards} shards of the data axes"
  _check_multiple("sft.batch", config.sft.batch, shards, why)


def _check_multiple(field: str, value: int, of: int, why: str) -> None:
  if value < 1 or value % of:
    raise ValueError(f"{field}={value}: give a multiple of {of}, {why}")
