"""Metrics of a run: metrics.jsonl and TensorBoard events beside it."""

import logging
import os
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any, SupportsFloat

import numpy as np
from tensorboardX import SummaryWriter

from mirl_jax.runs.files import (
  PathLike,
  local_path,
  read_jsonl,
  to_json,
  write_atomic,
)
from mirl_jax.runs.rollouts import cut_rollouts

# It would warn through a progress bar; the line in metrics.jsonl says the same.
logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)

METRICS_FILE = "metrics.jsonl"


def read_metrics(workdir: PathLike) -> list[dict[str, Any]]:
  """The logged steps of a run, oldest first; none where nothing was logged.

  Raises:
    ValueError: naming a line that is damaged (a torn last line is dropped).
  """
  return read_jsonl(local_path(workdir) / METRICS_FILE)


def cut_metrics(workdir: PathLike, resume_step: int | None) -> int:
  """Drops the lines after `resume_step` (all, if None) and a torn last line.

  Returns:
    The last step that is left, -1 if none.
  """
  path = local_path(workdir) / METRICS_FILE
  rows = read_jsonl(path)
  kept = [
    r for r in rows if resume_step is not None and r["step"] <= resume_step
  ]
  if path.exists():
    write_atomic(path, "".join(to_json(row) + "\n" for row in kept))
  return max((row["step"] for row in kept), default=-1)


def _scalar(name: str, value: SupportsFloat) -> int | float | bool:
  array = np.asarray(value)
  if array.size != 1:
    raise ValueError(
      f"metric {name!r} has shape {array.shape}; log one number per name"
    )
  item = array.reshape(()).item()
  return item if isinstance(item, bool | int | float) else float(item)


class MetricsWriter:
  """Appends one line per logged step, after cutting back to a committed step.

  Making a writer changes the work directory: lines and rollout dumps of steps
  after `resume_step` are removed, and all of them where it is None, since no
  checkpoint was committed then. Make one to train, never to read. NaN and
  infinities are written as `mirl_jax.runs.files` describes.

  Args:
    workdir: made where it does not exist.
    resume_step: the committed step that the run continues from, if any.
    primary: a writer of any other process does nothing.
  """

  def __init__(
    self, workdir: PathLike, resume_step: int | None, primary: bool = True
  ):
    self._file: IO[str] | None = None
    self._board: SummaryWriter | None = None
    self._last = -1
    if not primary:
      return
    folder = local_path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    self._last = cut_metrics(folder, resume_step)
    cut_rollouts(folder, resume_step)
    self._file = open(  # noqa: SIM115 - closed by close()
      folder / METRICS_FILE, "a", encoding="utf-8", newline="\n"
    )
    # TensorBoard hides the events of earlier files from purge_step on.
    purge = 0 if resume_step is None else resume_step + 1
    # Files are named by the second: the suffix keeps quick restarts apart.
    self._board = SummaryWriter(
      str(folder), purge_step=purge, filename_suffix=f".{purge}-{os.getpid()}"
    )

  @property
  def last(self) -> int:
    """The last step that stands in the file, -1 where none does."""
    return self._last

  def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
    """Logs the figures of one step: numbers, numpy or jax scalars.

    Raises:
      ValueError: where the step is not after the last one, the name `step` is
        among the values, or a value is not one number.
    """
    if self._file is None or self._board is None:
      return
    if step <= self._last:
      raise ValueError(
        f"step {step} is not after step {self._last}, the last one logged; "
        "gather the figures of a step and write them once"
      )
    if "step" in values:
      raise ValueError("'step' is given apart and may not be among the values")
    row = {name: _scalar(name, value) for name, value in values.items()}
    self._file.write(to_json({"step": step, **row}) + "\n")
    self._file.flush()
    self._last = step
    for name, value in row.items():
      self._board.add_scalar(name, float(value), step)

  def close(self) -> None:
    """Flushes and closes both files; a second call does nothing."""
    if self._file is not None:
      self._file.close()
    if self._board is not None:
      self._board.close()
    self._file = self._board = None

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()
