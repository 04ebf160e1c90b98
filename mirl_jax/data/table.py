"""A source of the rows of one or more files, whatever their format.

Files are scanned once, for the ids, groups, difficulties and weights that the
reader needs; a row is parsed again, and its pictures read, whenever it is
asked for. Rows of one group never stand on both sides of a train/test split.
"""

import dataclasses
import hashlib
import json
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np

from mirl_jax.data.example import Example
from mirl_jax.data.rows import row_id, to_example
from mirl_jax.data.sniff import Layout, at, is_empty
from mirl_jax.data.source import BadRow

SPLITS = ("all", "train", "test")
_LONG = 256  # characters; a longer group is named by its digest
# Columns are judged by so many rows that follow each other at so many places.
_ROWS, _PLACES = 4, 8


@runtime_checkable
class Table(Protocol):
  """Random access to the rows of one file.

  Attributes:
    path: of the file.
    columns: as far as the file itself names them.
    digest: names the content.
    note: what else a user should know of it.
  """

  path: Path
  columns: tuple[str, ...]
  digest: str
  note: str

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, Any]:
    """A row; BadRow where it is torn."""

  def scan(self, columns: Sequence[str]) -> Iterator[dict[str, Any] | None]:
    """At least these columns of every row in order; None where it is torn."""

  def label(self, index: int) -> str:
    """How to find a row in the file."""


@dataclass(frozen=True)
class Reading:
  """What is taken from a table, and how.

  Attributes:
    split: all, train or test, by a hash of each row's group.
    test_share: expected share of groups in the test split.
    group: the column that says which rows belong together; `image` and `id`
      also name these roles. A row where it is empty stands for itself.
    group_pattern: a regular expression; where its first group matches in that
      column, only that part counts ("^(.*)-" on nlvr's ids puts the rows
      `…_12-0` and `…_12-1`, one scene, together). Empty: the whole column.
    image_folder: that image paths are relative to; empty: the file's own.
    show_options: append the options to the question.
    need_answer: a row without a reference answer is a bad one.
    difficulty: "LOW:HIGH", the rows that are taken, both ends included.
    weight_column: how often a row is drawn, relative to the others.

  Raises:
    ValueError, FileNotFoundError: for a field that cannot be.
  """

  split: str = "all"
  test_share: float = 0.2
  group: str = "image"
  group_pattern: str = ""
  image_folder: str = ""
  show_options: bool = True
  need_answer: bool = False
  difficulty: str = ""
  weight_column: str = ""

  def __post_init__(self) -> None:
    if self.split not in SPLITS:
      raise ValueError(f"split={self.split!r}: give one of {SPLITS}")
    if not 0 <= self.test_share <= 1:
      raise ValueError(f"test_share={self.test_share}: give a share in 0..1")
    try:
      pattern = re.compile(self.group_pattern)
    except re.error as error:
      raise ValueError(
        f"group_pattern={self.group_pattern!r}: {error}"
      ) from error
    if self.group_pattern and not pattern.groups:
      raise ValueError(f"group_pattern={self.group_pattern!r} has no (group)")
    window(self.difficulty)
    if self.image_folder and not Path(self.image_folder).is_dir():
      raise FileNotFoundError(
        f"image_folder={self.image_folder!r} is no folder"
      )


def in_test_split(group: str, share: float, salt: str = "") -> bool:
  """Whether a group of rows is held out, from a hash of its name alone."""
  digest = hashlib.sha256(
    f"{salt}\0{group}".encode("utf-8", "surrogatepass")
  ).digest()
  return int.from_bytes(digest[:8], "big") < share * 2.0**64


def window(text: str) -> tuple[float, float] | None:
  """Parses a window "0.2:0.8"; None where there is none.

  Raises:
    ValueError: for anything else.
  """
  if not text:
    return None
  low, colon, high = text.partition(":")
  try:
    ends = float(low or "-inf"), float(high or "inf")
  except ValueError:
    ends = (1.0, 0.0)
  if not colon or not ends[0] <= ends[1]:
    raise ValueError(
      f"difficulty={text!r}: give LOW:HIGH, such as 0.2:0.8 or :0.8"
    )
  return ends


def number(value: Any) -> float | None:
  """A finite number, also where it is written as text."""
  if isinstance(value, bool) or not isinstance(value, int | float | str):
    return None
  try:
    found = float(value)
  except (ValueError, OverflowError):
    return None
  return found if np.isfinite(found) else None


class TableSource:
  """The examples of one or more tables of one layout.

  Args:
    tables: in order; their rows follow each other.
    layout: what their columns hold.
    reading: what is taken.
    name: of the data set, for people.

  Attributes:
    told: what was decided, in one line.
    weights: of its rows, where there is a weight column.

  Raises:
    ValueError: for a column that is not there, or nothing left to read.
    BadRow: on access, for a row that cannot be used.
  """

  def __init__(
    self,
    tables: Sequence[Table],
    layout: Layout,
    reading: Reading,
    name: str,
  ):
    self._tables, self._layout, self._reading = tables, layout, reading
    self._pattern = re.compile(reading.group_pattern)
    # A row of a file, by file and row; what makes it bad before it is read.
    self._faults: dict[tuple[int, int], str] = {}
    self._names: dict[tuple[int, int], str] = {}
    self._group = self._group_column()
    rows, weights = self._scan()
    total = sum(len(table) for table in tables)
    if not rows:
      window = reading.difficulty
      where = f", difficulty {window}" if window else ""
      raise ValueError(
        f"{name}: no rows in split {reading.split!r}{where} of {total} rows"
      )
    self._rows = np.array(rows, np.int64)
    self.weights = (
      np.array(weights, np.float64) if reading.weight_column else None
    )
    files = f"{len(tables)} files" if len(tables) > 1 else tables[0].path.name
    self.told = f"{name}: {layout}; {len(rows)} of {total} rows of {files}"
    digest = hashlib.sha256(" ".join(t.digest for t in tables).encode())
    self._repr = (
      f"TableSource({_decided(layout, reading)}, {digest.hexdigest()[:16]})"
    )

  def _group_column(self) -> str:
    """The column of the groups; "" where each row stands for itself."""
    given, columns = self._reading.group, self._layout.columns
    if self._layout.stored:
      return "group"
    role = {"image": "images"}.get(given, given)
    if self._has(given):
      return given
    if role in columns:
      return columns[role]
    if given == "image" and self._layout.numbered:
      return self._layout.numbered[0]
    if given in ("image", "id", ""):
      return ""
    raise ValueError(f"data.group={given!r}: {self._columns()}")

  def _has(self, column: str) -> bool:
    for table in self._tables:
      if column in table.columns:
        return True
      for row in sample(table):
        if column in row or at(row, column) is not None:
          return True
    return False

  def _columns(self) -> str:
    names = {name for t in self._tables for name in t.columns}
    names.update(
      name for t in self._tables for row in sample(t) for name in row
    )
    return f"there is no such column; there are {', '.join(sorted(names))}"

  def _wanted(self) -> dict[str, str]:
    """Columns that the scan needs, by what for."""
    reading, columns = self._reading, self._layout.columns
    wanted = {}
    if "id" in columns:
      wanted["id"] = columns["id"]
    if reading.split != "all" and self._group:
      wanted["group"] = self._group
    if reading.difficulty:
      if "difficulty" not in columns:
        raise ValueError(
          f"difficulty={reading.difficulty!r} needs a column of that name; say"
          ' which it is: data.columns="difficulty=COLUMN".'
          f" Otherwise {self._columns()}"
        )
      wanted["difficulty"] = columns["difficulty"]
    if reading.weight_column:
      if not self._has(reading.weight_column):
        raise ValueError(
          f"data.weight_column={reading.weight_column!r}: {self._columns()}"
        )
      wanted["weight"] = reading.weight_column
    return wanted

  def _scan(self) -> tuple[list[tuple[int, int]], list[float]]:
    """Which rows are taken, and their weights."""
    wanted, reading = self._wanted(), self._reading
    limits = window(reading.difficulty)
    rows: list[tuple[int, int]] = []
    weights: list[float] = []
    seen: dict[str, tuple[int, int]] = {}
    for file, table in enumerate(self._tables):
      cells: Iterator[Mapping[str, Any] | None] = (
        table.scan(list(wanted.values())) if wanted else iter([{}] * len(table))
      )
      for index, row in enumerate(cells):
        place = file, index
        if row is not None:
          self._note_id(row, place, seen)
        held_out = reading.split != "all" and in_test_split(
          self._label(row, place), reading.test_share
        )
        if reading.split != "all" and held_out != (reading.split == "test"):
          continue
        if limits and not self._inside(row, wanted, limits, place):
          continue
        rows.append(place)
        weights.append(self._weight(row, wanted, place))
    return rows, weights

  def _note_id(
    self, row: Mapping[str, Any], place: tuple[int, int], seen: dict
  ) -> None:
    """A repeated id is a fault within a file; in another it is told apart."""
    name = row_id(row, self._layout)
    if not name:
      return
    first = seen.setdefault(name, place)
    if first == place:
      return
    file, index = place
    label = self._tables[file].label
    if first[0] == file:
      self._faults[place] = (
        f"{label(index)} repeats the id of {label(first[1])}"
      )
    else:
      self._names[place] = f"{self._tables[file].path.stem}/{name}"

  def _inside(
    self,
    row: Mapping[str, Any] | None,
    wanted: Mapping[str, str],
    limits: tuple[float, float],
    place: tuple[int, int],
  ) -> bool:
    """Whether a row lies in the window; one without a number is bad."""
    if row is None:
      return True
    column = wanted["difficulty"]
    found = number(at(row, column))
    if found is None:
      self._faults.setdefault(place, f"column {column!r} holds no number")
      return True
    return limits[0] <= found <= limits[1]

  def _weight(
    self,
    row: Mapping[str, Any] | None,
    wanted: Mapping[str, str],
    place: tuple[int, int],
  ) -> float:
    """Of a row; NaN where it has none, which makes it a bad one."""
    if "weight" not in wanted or row is None:
      return float("nan")
    found = number(at(row, wanted["weight"]))
    if found is None or found < 0:
      self._faults.setdefault(
        place, f"column {wanted['weight']!r} holds no weight of 0 or more"
      )
      return float("nan")
    return found

  def _label(
    self, row: Mapping[str, Any] | None, place: tuple[int, int]
  ) -> str:
    """The group of a row; a row without one stands for itself."""
    alone = self._elsewhere(place, self._tables[place[0]].label(place[1]))
    value = at(row, self._group) if row and self._group else None
    return group_of(value, self._pattern) or alone

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: SupportsIndex) -> Example:
    at_row = operator.index(index)
    if not 0 <= at_row < len(self):
      raise IndexError(f"row {at_row}: this source holds {len(self)} rows")
    file, inner = (int(value) for value in self._rows[at_row])
    table, place = self._tables[file], (file, inner)
    try:
      row = table[inner]
    except BadRow as bad:
      raise BadRow(self._elsewhere(place, bad.row), bad.reason) from bad
    name = self._names.get(place) or row_id(row, self._layout)
    if not name and self._layout.strict:
      raise BadRow(
        "row without id", f"{table.label(inner)}: missing columns: id"
      )
    name = name or self._elsewhere(place, table.label(inner))
    if fault := self._faults.get(place):
      raise BadRow(name, fault)
    root = Path(self._reading.image_folder or table.path.parent)
    try:
      example = to_example(
        row,
        self._layout,
        root,
        name,
        show_options=self._reading.show_options,
        need_answer=self._reading.need_answer,
      )
    except RecursionError:
      raise BadRow(name, "a column is nested too deeply") from None
    if self._layout.stored:
      return example
    return dataclasses.replace(example, group=self._label(row, place))

  def _elsewhere(self, place: tuple[int, int], label: str) -> str:
    """A row without an id, by its file where there are several."""
    if len(self._tables) == 1:
      return label
    return f"{self._tables[place[0]].path.stem} {label}"

  def __repr__(self) -> str:
    return self._repr


def _decided(layout: Layout, reading: Reading) -> str:
  """What rows depend on beside their files; the same in later versions that
  decide more, and wherever the pictures lie."""
  options = {
    field.name: getattr(reading, field.name)
    for field in dataclasses.fields(reading)
    if field.name != "image_folder"
    and getattr(reading, field.name) != field.default
  }
  columns = [*sorted(layout.columns.items()), *layout.labelled]
  return f"{[*columns, *layout.numbered]}, {options}"


def group_of(value: Any, pattern: re.Pattern[str]) -> str:
  """The group that a cell names; "" where it holds nothing.

  A picture's bytes, or any long text, count by their digest.
  """
  if isinstance(value, Mapping) and not is_empty(value.get("bytes")):
    value = value["bytes"]
  elif isinstance(value, Mapping) and value.get("path"):
    value = value["path"]
  if is_empty(value):
    return ""
  if isinstance(value, list) and any(isinstance(x, Mapping) for x in value):
    value = [group_of(item, pattern) for item in value]
  if isinstance(value, bytes):
    return hashlib.sha256(value).hexdigest()[:32]
  if isinstance(value, str):
    text = value
  else:
    text = json.dumps(value, sort_keys=True, default=_bytes_digest)
  match = pattern.search(text) if pattern.groups else None
  text = match[1] or "" if match else text
  if len(text) > _LONG:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[
      :32
    ]
  return text


def _bytes_digest(value: Any) -> str:
  if isinstance(value, bytes):
    return hashlib.sha256(value).hexdigest()[:32]
  return str(value)


def sample(table: Table) -> list[dict[str, Any]]:
  """A few readable rows of a table, from a few places in it."""
  starts = np.linspace(0, max(len(table) - 1, 0), _PLACES, dtype=np.int64)
  picked = {int(at) + i for at in starts for i in range(_ROWS)}
  found = []
  for index in sorted(picked & set(range(len(table)))):
    try:
      found.append(table[index])
    except BadRow:
      continue
  return found
