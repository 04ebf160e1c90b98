"""The outcome of a run: summary.json and its before/after table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

from mirl_jax.runs.files import (
  PathLike,
  from_json,
  local_path,
  to_json,
  write_atomic,
)

SUMMARY_FILE = "summary.json"
SE = "_se"

# Shown first and in this order; others follow by name. Shares are in percent.
LABELS = {
  "sampled/accuracy": "sampled accuracy",
  "greedy/accuracy": "greedy accuracy",
  "sampled/exact": "exact descriptions, sampled",
  "greedy/exact": "exact descriptions, greedy",
  "tokens_per_answer": "tokens per answer",
}
_SHARES = (
  "accuracy",
  "exact",
  "tags",
  "pass_at_",
  "majority_at_",
  "truncated",
  "coverage",
  "all_of_",
)

Figures = Mapping[str, SupportsFloat | None]


@dataclass(frozen=True)
class Row:
  """One metric, before and after, as text."""

  name: str
  label: str
  before: str
  after: str
  change: str


def is_share(name: str) -> bool:
  """Whether a metric is a share of 1, to be shown in percent."""
  return name.rsplit("/", 1)[-1].startswith(_SHARES)


def _known(values: Figures) -> dict[str, float]:
  return {
    key.removeprefix("eval/"): float(value)
    for key, value in values.items()
    if value is not None
  }


def _decimals(error: float | None, size: float) -> int:
  """Digits that a number deserves: two of its standard error."""
  if error is not None and math.isfinite(error) and error > 0:
    return max(0, min(6, 1 - math.floor(math.log10(error))))
  if not math.isfinite(size) or size == 0 or size >= 100:
    return 0 if size >= 100 else 2
  return max(0, min(6, 2 - math.floor(math.log10(size))))


def format_figure(
  value: float | None, error: float | None, share: bool, signed: bool = False
) -> str:
  """A number with its standard error, where there is one; shares in percent,
  "-" if unknown."""
  if value is None or not math.isfinite(value):
    return "-" if value is None else str(value)
  scale = 100.0 if share else 1.0
  value = value * scale
  error = None if error is None else error * scale
  digits = 1 if share else _decimals(error, abs(value))
  text = f"{value:{'+' if signed else ''},.{digits}f}"
  if error is not None and math.isfinite(error):
    text += f" ± {error:.{digits}f}"
  return text + (" %" if share else "")


def rows(before: Figures, after: Figures) -> list[Row]:
  """The lines of the before/after table.

  A metric NAME takes its standard error from NAME_se. The error of a change is
  that of independent samples, √(before² + after²); where both were measured on
  the same questions, whose outcomes correlate, it is on the wide side.
  """
  old, new = _known(before), _known(after)
  names = {name for name in [*old, *new] if not name.endswith(SE)}
  order = [*(n for n in LABELS if n in names), *sorted(names - LABELS.keys())]
  lines = []
  for name in order:
    share = is_share(name)
    first, last = old.get(name), new.get(name)
    first_se, last_se = old.get(name + SE), new.get(name + SE)
    change = error = None
    if first is not None and last is not None:
      change = last - first
      if first_se is not None and last_se is not None:
        error = math.hypot(first_se, last_se)
    lines.append(
      Row(
        name,
        LABELS.get(name, name.replace("/", " ").replace("_", " ")),
        format_figure(first, first_se, share),
        format_figure(last, last_se, share),
        format_figure(change, error, share, signed=True),
      )
    )
  return lines


def table(before: Figures, after: Figures) -> str:
  """The before/after table as aligned plain text, errors as ± one SE."""
  return format_table(rows(before, after))


def format_table(lines: Sequence[Row]) -> str:
  """Rows in columns: the label to the left, figures to the right."""
  cells = [("", "before", "after", "change")]
  cells += [(r.label, r.before, r.after, r.change) for r in lines]
  widths = [max(len(row[i]) for row in cells) for i in range(4)]
  text = []
  for index, row in enumerate(cells):
    figures = [
      cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)
    ]
    text.append("  ".join([row[0].ljust(widths[0]), *figures]).rstrip())
    if index == 0:
      text.append("-" * (sum(widths) + 6))
  return "\n".join(text)


def write_summary(
  workdir: PathLike,
  before: Figures,
  after: Figures,
  extras: Mapping[str, Any],
  primary: bool = True,
) -> Path | None:
  """Writes summary.json: `before`, `after` and the extras beside them.

  Raises:
    ValueError: where an extra is named `before` or `after`.
    TypeError: naming an entry that JSON cannot hold.
  """
  if not primary:
    return None
  taken = {"before", "after"} & extras.keys()
  if taken:
    raise ValueError(f"extras may not be named {sorted(taken)}; rename them")
  record = {"before": dict(before), "after": dict(after), **extras}
  path = local_path(workdir) / SUMMARY_FILE
  return write_atomic(path, to_json(record, indent=2) + "\n")


def read_summary(workdir: PathLike) -> dict[str, Any]:
  """What `write_summary` wrote.

  Raises:
    FileNotFoundError: where the run has not finished.
    ValueError: where the file is damaged.
  """
  path = local_path(workdir) / SUMMARY_FILE
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist: the run has not finished")
  return from_json(path.read_bytes())
