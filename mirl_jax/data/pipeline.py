"""Batches of examples: order, exact position, bad rows.

The order is a function of (seed, source length) alone; grain shuffles each
epoch anew, and its threads read ahead. A bad row's place in the batch goes to
another row, drawn by (seed, batch). So several processes can each read their
own rows of a batch, and position and replacements are the same for any number
of them; they tell each other which rows are bad.
"""

import contextlib
import copy
import hashlib
import json
import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import grain
import numpy as np

from mirl_jax.data.example import Example
from mirl_jax.data.share import OwnRows, Rows, Share
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


class _Reads:
  """The rows that a process reads: its own of each batch, from one batch on."""

  def __init__(
    self,
    source: _Caught,
    order: grain.MapDataset,
    size: int,
    rows: Sequence[int],
    first: int,
  ):
    self._source, self._order, self._rows = source, order, rows
    self._size, self._first = size, first

  def __len__(self) -> int:
    whole, rest = divmod(len(self._order), self._size)
    last = sum(row < rest for row in self._rows)
    return max(0, (whole - self._first) * len(self._rows) + last)

  def __getitem__(self, index: SupportsIndex) -> Example | BadRow:
    turn, at = divmod(operator.index(index), len(self._rows))
    draw = (self._first + turn) * self._size + self._rows[at]
    return self._source[int(self._order[draw])]


class Batches(Iterator[Rows]):
  """An iterator of batches with an exact, JSON-able position.

  Made by `batches`. Not for use by several threads at once.

  Attributes:
    draws: rows drawn so far by all processes, bad ones included.
    bad: of these, bad ones.
  """

  def __init__(
    self,
    source: Source,
    order: grain.MapDataset,
    size: int,
    max_bad_share: float,
    quarantine: Quarantine,
    identity: dict[str, Any],
    share: Share | None,
    readers: int,
  ):
    self._source = _Caught(source)
    self._order = order
    self._size = size
    self._max_bad_share = max_bad_share
    self._quarantine = quarantine
    self._identity = identity
    self._share = share
    self._rows = range(size) if share is None else share.rows
    self._options = grain.ReadOptions(
      num_threads=readers,
      prefetch_buffer_size=max(2 * len(self._rows), readers),
    )
    self._step = 0
    self.draws = 0
    self.bad = 0
    self._reader = self._open()
    self._state = self._here()

  def _open(self) -> grain.DatasetIterator:
    """Reads what this process needs from the next batch on."""
    reads = _Reads(
      self._source, self._order, self._size, self._rows, self._step
    )
    return iter(grain.MapDataset.source(reads).to_iter_dataset(self._options))

  def __iter__(self) -> "Batches":
    return self

  def __next__(self) -> Rows:
    begin = self._step * self._size
    size = min(self._size, len(self._order) - begin)
    if size <= 0:
      self._judge(self.draws)
      raise StopIteration
    own = [row for row in self._rows if row < size]
    read = {row: next(self._reader) for row in own}
    waiting = list(range(size))
    taken = {int(self._order[begin + row]) for row in waiting}
    found: dict[int, Example] = {}
    rng = np.random.default_rng([self._identity["seed"], self._step])
    while True:
      found |= {n: row for n, row in read.items() if isinstance(row, Example)}
      bad = self._everyones(
        {n: row for n, row in read.items() if isinstance(row, BadRow)}
      )
      self.draws += len(waiting)
      self.bad += len(bad)
      for row in bad.values():
        self._quarantine.add(row)
      self._judge(max(self.draws, _MIN_DRAWS))
      if not bad:
        break
      if len(bad) == size and len(taken) == len(self._source):
        last = list(bad.values())[-1]
        raise TooManyBadRows(
          f"all of {len(taken)} rows are bad, such as {last}"
        )
      waiting = sorted(bad)
      spares = self._others(taken, len(waiting), rng)
      read = {
        n: self._source[spare]
        for n, spare in zip(waiting, spares, strict=True)
        if n in self._rows
      }
    self._step += 1
    self._state = self._here()
    if self._share is not None:
      return OwnRows(found, size)
    return [found[row] for row in range(size)]

  def _everyones(self, bad: dict[int, BadRow]) -> dict[int, BadRow]:
    """The bad rows of all processes, by their place in the batch."""
    if self._share is None:
      return bad
    mine = json.dumps({n: [row.row, row.reason] for n, row in bad.items()})
    said = [json.loads(x) for x in self._share.gather(mine.encode())]
    union = {int(n): BadRow(*row) for rows in said for n, row in rows.items()}
    return {n: union[n] for n in sorted(union)}

  def _others(
    self, taken: set[int], count: int, rng: np.random.Generator
  ) -> list[int]:
    """Rows that the batch has not drawn, added to `taken`; any row, where it
    has drawn all."""
    rows, total = [], len(self._source)
    for _ in range(count):
      row = int(rng.integers(total))
      while len(taken) < total and row in taken:
        row = int(rng.integers(total))
      taken.add(row)
      rows.append(row)
    return rows

  def _here(self) -> dict[str, Any]:
    return {
      "identity": dict(self._identity),
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
    self._reader.close()
    self._step = state["step"]
    self._reader = self._open()
    self.draws = state["draws"]
    self.bad = state["bad"]
    self._state = self._here()

  def close(self) -> None:
    """Ends the reading threads."""
    self._reader.close()


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
  share: Share | None = None,
) -> Batches:
  """Batches of a source, in an order that depends on the seed alone.

  A bad row is written to quarantine and replaced by another one that the batch
  does not have. With finite epochs the last batch may be short.

  Args:
    source: examples by number.
    batch_size: rows of a batch.
    seed: of the order, 0 <= seed < 2**32.
    shuffle: anew in each epoch; otherwise in the source's order.
    epochs: passes over the source; None never ends.
    quarantine: file for bad rows; None: no file, as on all processes but one.
    max_bad_share: of the rows drawn so far (counted as at least 100).
    readers: threads that read ahead, by up to two batches.
    share: the rows that this process reads, where there are several; batches
      are then `OwnRows`, and all processes take theirs together.

  Returns:
    An iterator with `get_state` and `set_state`. Reading it raises
    TooManyBadRows, on all processes alike, and whatever but BadRow the source
    raises.

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
  order = grain.MapDataset.range(len(source)).seed(seed)
  if shuffle:
    order = order.shuffle()
  return Batches(
    source,
    order.repeat(epochs),
    batch_size,
    max_bad_share,
    Quarantine(None if quarantine is None else Path(quarantine)),
    identity={
      "source": _fingerprint(source),
      "seed": seed,
      "shuffle": shuffle,
      "batch_size": batch_size,
    },
    share=share,
    readers=readers,
  )
