"""Batches of examples: order, exact position, bad rows.

The order is a function of (seed, source length) alone; grain shuffles each
epoch anew. Every process of a run reads all rows, so that the position, and
what replaces a bad row, are the same for any number of them; pictures stay
encoded until a process needs its own. Rows are read ahead by threads.
"""

import contextlib
import copy
import hashlib
import json
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any, SupportsIndex

import grain

from mirl_jax.data.example import Example
from mirl_jax.data.source import BadRow, Source, TooManyBadRows

# A share of bad draws is judged as if at least so many had been drawn.
_MIN_DRAWS = 100


class Quarantine:
  """An append-only jsonl file of bad rows, each pair (row, reason) once.

  Lines that stand in the file already, from before a resume, count as said; a
  line that a kill cut short is removed.

  Args:
    path: of the file, made with its folders on the first bad row; None keeps
      the rows in memory only.
  """

  def __init__(self, path: Path | None):
    self.path = path
    self.seen: set[tuple[str, str]] = set()
    if path is None or not path.is_file():
      return
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
      with path.open("r+b") as file:
        file.truncate(len(whole))
    for line in whole.splitlines():
      with contextlib.suppress(ValueError, KeyError, TypeError):
        entry = json.loads(line)
        self.seen.add((entry["row"], entry["reason"]))

  def add(self, bad: BadRow) -> None:
    key = (bad.row, bad.reason)
    if key in self.seen:
      return
    self.seen.add(key)
    if self.path is not None:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      with self.path.open("a", encoding="utf-8") as file:
        line = json.dumps({"row": bad.row, "reason": bad.reason})
        file.write(line + "\n")


class _Caught:
  """A source whose bad rows are values, since grain's readers must not fail."""

  def __init__(self, source: Source):
    self._source = source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: SupportsIndex) -> Example | BadRow:
    try:
      return self._source[operator.index(index)]
    except BadRow as bad:
      # A fresh one, without the traceback that would keep frames alive.
      return BadRow(bad.row, bad.reason)


def _fingerprint(source: Source) -> str:
  """Names a source across runs: its repr where it has one, and its length."""
  # Lists name every pixel, and a default repr an address.
  plain = isinstance(source, list | tuple)
  default = type(source).__repr__ is object.__repr__
  name = type(source).__name__ if plain or default else repr(source)
  return hashlib.sha256(f"{name} {len(source)}".encode()).hexdigest()[:16]


class Batches(Iterator[list[Example]]):
  """An iterator of batches with an exact, JSON-able position.

  Made by `batches`. Not for use by several threads at once.

  Attributes:
    draws: rows drawn so far, bad ones included.
    bad: of these, bad ones.
  """

  def __init__(
    self,
    draws: grain.DatasetIterator,
    size: int,
    round_length: int,
    max_bad_share: float,
    quarantine: Quarantine,
    identity: dict[str, Any],
  ):
    self._draws = draws
    self._size = size
    self._round_length = round_length
    self._max_bad_share = max_bad_share
    self._quarantine = quarantine
    self._identity = identity
    self._step = 0
    self.draws = 0
    self.bad = 0
    self._state = self._here()

  def __iter__(self) -> "Batches":
    return self

  def __next__(self) -> list[Example]:
    batch: list[Example] = []
    bad_in_a_row = 0
    while len(batch) < self._size:
      try:
        row = next(self._draws)
      except StopIteration:
        self._judge(self.draws)
        break
      self.draws += 1
      if isinstance(row, Example):
        batch.append(row)
        bad_in_a_row = 0
        continue
      self.bad += 1
      bad_in_a_row += 1
      self._quarantine.add(row)
      self._judge(max(self.draws, _MIN_DRAWS))
      if bad_in_a_row >= self._round_length:
        raise TooManyBadRows(
          f"all of {bad_in_a_row} rows drawn in a row are bad, the last: {row}"
        )
    if not batch:
      raise StopIteration
    self._step += 1
    self._state = self._here()
    return batch

  def _here(self) -> dict[str, Any]:
    return {
      "identity": dict(self._identity),
      "reader": self._draws.get_state(),
      "step": self._step,
      "draws": self.draws,
      "bad": self.bad,
    }

  def _judge(self, draws: int) -> None:
    if self.bad > self._max_bad_share * draws:
      where = self._quarantine.path
      raise TooManyBadRows(
        f"{self.bad} of {self.draws} rows drawn are bad, more than the allowed "
        f"share of {self._max_bad_share:g}"
        + (f"; see {where}" if where else "")
        + ". Repair the data, or raise the share"
      )

  def get_state(self) -> dict[str, Any]:
    """The position after the last batch that was yielded, JSON-able.

    An interrupted or failed `next` leaves it as it was.
    """
    return copy.deepcopy(self._state)

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a position; what follows equals what followed there.

    Raises:
      ValueError: if the state belongs to another source, seed, order, batch
        size. The number of epochs may differ.
    """
    for key, mine in self._identity.items():
      saved = state["identity"].get(key)
      if saved != mine:
        raise ValueError(
          f"data position was saved with {key}={saved!r}, now {key}={mine!r}"
        )
    self._draws.set_state(state["reader"])
    self._step = state["step"]
    self.draws = state["draws"]
    self.bad = state["bad"]
    self._state = self._here()

  def close(self) -> None:
    """Ends the reading threads."""
    self._draws.close()


def batches(
  source: Source,
  batch_size: int,
  seed: int = 0,
  shuffle: bool = True,
  epochs: int | None = None,
  *,
  quarantine: str | Path | None = None,
  max_bad_share: float = 0.1,
  readers: int = 2,
) -> Batches:
  """Batches of a source, in an order that depends on the seed alone.

  A bad row is written to quarantine and replaced by the next draw. With finite
  epochs the last batch may be short.

  Args:
    source: examples by number.
    batch_size: rows of a batch.
    seed: of the order, 0 <= seed < 2**32.
    shuffle: anew in each epoch; otherwise in the source's order.
    epochs: passes over the source; None never ends.
    quarantine: file for bad rows; None: no file, as on all processes but one.
    max_bad_share: of the rows drawn so far (counted as at least 100).
    readers: threads that read ahead, by up to two batches.

  Returns:
    An iterator with `get_state` and `set_state`. Reading it raises
    TooManyBadRows, and whatever but BadRow the source raises.

  Raises:
    ValueError: for an empty source or a number out of range.
  """
  if len(source) < 1:
    raise ValueError("the source is empty: nothing to draw from")
  if batch_size < 1:
    raise ValueError(f"batch_size={batch_size}: give at least 1")
  if epochs is not None and epochs < 1:
    raise ValueError(f"epochs={epochs}: give at least 1, or None for no end")
  if not 0 <= seed < 2**32:
    raise ValueError(f"seed={seed}: give 0 <= seed < 2**32")
  if not 0 <= max_bad_share <= 1:
    raise ValueError(f"max_bad_share={max_bad_share}: give a share in 0..1")
  if readers < 1:
    raise ValueError(f"readers={readers}: give at least 1")
  rows = grain.MapDataset.source(_Caught(source)).seed(seed)
  if shuffle:
    rows = rows.shuffle()
  rows = rows.repeat(epochs)
  options = grain.ReadOptions(
    num_threads=readers, prefetch_buffer_size=max(2 * batch_size, readers)
  )
  path = None if quarantine is None else Path(quarantine)
  return Batches(
    iter(rows.to_iter_dataset(options)),
    size=batch_size,
    round_length=len(source),
    max_bad_share=max_bad_share,
    quarantine=Quarantine(path),
    identity={
      "source": _fingerprint(source),
      "seed": seed,
      "shuffle": shuffle,
      "batch_size": batch_size,
    },
  )
