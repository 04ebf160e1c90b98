"""Several sources as one, and one whose rows are drawn by weight.

Both are sources with random access, so that the order and the exact position
of a pipeline hold for them as for any other. An epoch is as long as it takes
for the shares to come out and no row that should be drawn to be left out.
"""

import dataclasses
import hashlib
import operator
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from mirl_jax.data.example import Example
from mirl_jax.data.source import BadRow, Source

# An epoch is at most so many times the rows. A row of less than 1 / MOST of the
# mean weight may then not be drawn at all.
MOST = 100


def parse_mix(text: str) -> list[tuple[str, float | None]]:
  """Parses "A*2,B*1" into paths and weights; None where there is none.

  Raises:
    ValueError: for an empty part, a weight that is no number above 0, or
      weights for some parts only.
  """
  parts: list[tuple[str, float | None]] = []
  for part in text.split(","):
    path, star, weight = part.strip().rpartition("*")
    if not star:
      path, weight = weight, ""
    if not path:
      raise ValueError(f"{text!r} has an empty part; give PATH*WEIGHT,…")
    try:
      value = float(weight) if star else None
    except ValueError:
      value = -1.0
    if value is not None and not 0 < value < float("inf"):
      raise ValueError(f"{part.strip()!r}: {weight!r} is no weight above 0")
    parts.append((path.strip(), value))
  if len({weight is None for _, weight in parts}) > 1:
    raise ValueError(f"{text!r}: give a weight to every part or to none")
  return parts


class Mixed:
  """Several sources as one; their rows interleave evenly.

  With weights, rows of the parts come in these proportions, over any stretch
  of the order to within one row of each part. An epoch shows every row of
  every part at least once: rows of the part that is shortest for its weight
  come again. Without weights, every row comes once.

  Args:
    names: one per part, all different; they precede the ids of its rows.
    sources: the parts.
    weights: of the parts; None: in proportion to their lengths.

  Raises:
    ValueError: if the weights ask for an epoch of more than MOST times the
      rows.
  """

  def __init__(
    self,
    names: Sequence[str],
    sources: Sequence[Source],
    weights: Sequence[float] | None = None,
  ):
    self._names, self._sources = tuple(names), tuple(sources)
    sizes = np.array([len(source) for source in sources], np.float64)
    shares = sizes if weights is None else np.array(weights, np.float64)
    counts = np.rint(shares * np.max(sizes / shares)).astype(np.int64)
    if counts.sum() > MOST * sizes.sum():
      raise ValueError(
        f"weights {[float(w) for w in shares]} of {sizes.astype(int).tolist()}"
        f" rows make an epoch of {counts.sum()} rows, more than {MOST} times"
        " as many as there are; give weights that differ less"
      )
    # The j-th of n rows of a part stands at (j + 1/2) / n of the epoch.
    part = np.repeat(np.arange(len(counts)), counts)
    row = np.concatenate([np.arange(n) for n in counts])
    order = np.argsort((row + 0.5) / counts[part], kind="stable")
    self._part, self._row = part[order], row[order]
    self._counts = counts.tolist()

  def __len__(self) -> int:
    return len(self._part)

  def __getitem__(self, index: SupportsIndex) -> Example:
    at = operator.index(index)
    part, row = int(self._part[at]), int(self._row[at])
    name, source = self._names[part], self._sources[part]
    try:
      example = source[row % len(source)]
    except BadRow as bad:
      raise BadRow(f"{name}/{bad.row}", bad.reason) from bad
    return dataclasses.replace(
      example,
      id=f"{name}/{example.id}",
      group=f"{name}/{example.group}" if example.group else "",
    )

  @property
  def told(self) -> str:
    """What was decided, in a line for each part and one about the mix."""
    parts = [
      getattr(source, "told", name)
      for name, source in zip(self._names, self._sources, strict=True)
    ]
    shares = ", ".join(
      f"{count} of {name}"
      for count, name in zip(self._counts, self._names, strict=True)
    )
    return "\n".join([*parts, f"an epoch of {len(self)} rows: {shares}"])

  def __repr__(self) -> str:
    return f"Mixed({self._names}, {self._sources!r}, {self._counts})"


class Weighted:
  """A source whose rows are drawn in proportion to weights.

  Slots of an epoch are dealt out evenly along the weights' cumulative sum
  (systematic sampling): each row has its expected number of them, rounded up
  or down.

  Args:
    source: the rows.
    weights: one per row, 0 or more; NaN counts as their mean.

  Raises:
    ValueError: if no weight is above 0.
  """

  def __init__(self, source: Source, weights: Sequence[float] | np.ndarray):
    self._source = source
    given = np.asarray(weights, np.float64)
    known = given[~np.isnan(given)]
    mean = float(known.mean()) if len(known) else 1.0
    filled = np.where(np.isnan(given), mean, given)
    if not filled.max(initial=0.0) > 0:
      raise ValueError("no row has a weight above 0: nothing to draw from")
    above = filled[filled > 0]
    wanted = above.sum() / above.min()
    length = int(np.ceil(min(wanted, MOST * len(filled))))
    ends = np.cumsum(filled)
    slots = (np.arange(length) + 0.5) * (ends[-1] / length)
    found = np.searchsorted(ends, slots, side="right")
    self._rows = np.minimum(found, len(filled) - 1)
    self._left_out = len(filled) - len(np.unique(self._rows))

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: SupportsIndex) -> Example:
    return self._source[int(self._rows[operator.index(index)])]

  @property
  def told(self) -> str:
    """What was decided, in one line."""
    return (
      f"{getattr(self._source, 'told', '')}; drawn by weight, an epoch of"
      f" {len(self)}, {self._left_out} rows never"
    )

  def __repr__(self) -> str:
    digest = hashlib.sha256(self._rows.tobytes()).hexdigest()[:16]
    return f"Weighted({self._source!r}, {digest})"
