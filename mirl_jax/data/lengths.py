"""Before the first step: how many prompts fit, and what to change if not."""

from concurrent import futures
from dataclasses import dataclass

from mirl_jax.data.source import (
  BadRow,
  Mapped,
  Shuffled,
  Source,
  TooManyBadRows,
)

CHECKED = 1024  # rows at most, the same ones in every run


@dataclass(frozen=True)
class Overlong:
  """What a look at some rows of a source found.

  Attributes:
    rows: that were looked at.
    total: rows of the source.
    unusable: of these rows, bad ones for another reason than their length.
    overlong: of these rows, those whose prompt does not fit.
    first: the first of them, with what it needs.
  """

  rows: int
  total: int
  unusable: int
  overlong: int
  first: str

  def __str__(self) -> str:
    looked = (
      f"all {self.rows} rows"
      if self.rows == self.total
      else f"{self.rows} of {self.total} rows"
    )
    bad = f", {self.unusable} unusable" if self.unusable else ""
    if not self.overlong:
      return f"prompt lengths: all fit, of {looked}{bad}"
    return (
      f"prompt lengths: {self.overlong} do not fit, of {looked}{bad}; they are"
      f" left out. The first: {self.first}"
    )


def check_lengths(source: Mapped, rows: int = CHECKED) -> Overlong:
  """Counts the prompts that do not fit, over all rows or a fair sample.

  Args:
    source: rows with a check of their length, such as `folder.fitting`.
    rows: at most so many are read.
  """
  sampled: Source = Shuffled(source.source)
  looked = min(rows, len(sampled))

  def fault(index: int) -> str | None:
    """Why a prompt does not fit, "" if it does, None for a bad row."""
    try:
      example = sampled[index]
    except BadRow:  # the pipeline will name it
      return None
    try:
      source.function(example)
    except ValueError as error:
      return f"{example.id}: {error}"
    return ""

  with futures.ThreadPoolExecutor() as pool:  # pictures decode side by side
    faults = list(pool.map(fault, range(looked)))
  found = [text for text in faults if text]
  return Overlong(
    rows=looked,
    total=len(sampled),
    unusable=faults.count(None),
    overlong=len(found),
    first=found[0] if found else "",
  )


def refuse(found: Overlong, max_bad_share: float) -> None:
  """Ends a run before its first step where too few prompts fit.

  Raises:
    TooManyBadRows: if more than the share does not fit.
  """
  usable = found.rows - found.unusable
  if found.overlong > max_bad_share * max(usable, 1):
    raise TooManyBadRows(
      f"{found}. That is more than data.max_bad_share={max_bad_share:g}"
    )
