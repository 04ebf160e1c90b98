"""Rows of a tab-separated file, as VLMEvalKit and pandas write them."""

import csv
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mirl_jax.data.rows import read_list
from mirl_jax.data.source import BadRow

# An `image` of at most so many characters is the index of the row that has it.
REFERENCE = 64


class Tsv:
  """Random access to the rows of a TSV file, one column name per field first.

  Only the places of the rows are held. Quoted fields may hold tabs, quotes
  and line breaks. Where there is a column `index`, a short `image` stands for
  that of the row with this index.

  Raises:
    ValueError: for a file without a header, or a column that stands twice.
  """

  note = ""

  def __init__(self, path: Path):
    self.path = path
    digest = hashlib.sha256()
    rows: list[tuple[int, int]] = []
    places: dict[str, int] = {}
    self.columns: tuple[str, ...] = ()
    for start, end, fields in _records(path, digest):
      if not self.columns:
        self.columns = tuple(fields)
        if len(set(fields)) < len(fields) or not any(fields):
          raise ValueError(f"{path}: the first line names no distinct columns")
        continue
      if not fields:
        continue
      if "index" in self.columns and len(fields) == len(self.columns):
        index = fields[self.columns.index("index")]
        places.setdefault(index, len(rows))
      rows.append((start, end))
    if not self.columns:
      raise ValueError(f"{path} is empty")
    self._rows = np.array(rows, np.int64).reshape(-1, 2)
    self._places = places
    self.digest = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    row = self._named(self._fields(index))
    if row is None:
      raise BadRow(
        self.label(index), f"not {len(self.columns)} fields as the first line"
      )
    if self._places and "image" in row:
      row["image"] = self._pictures(row["image"], self.label(index))
    return row

  def _fields(self, index: int) -> list[str]:
    start, end = (int(value) for value in self._rows[index])
    with self.path.open("rb") as file:
      file.seek(start)
      text = file.read(end - start).decode("utf-8", errors="replace")
    try:
      return next(csv.reader([text], delimiter="\t"))
    except csv.Error:  # a bare carriage return outside of quotes
      return []

  def _named(self, fields: list[str]) -> dict[str, Any] | None:
    if len(fields) != len(self.columns):
      return None
    return dict(zip(self.columns, fields, strict=True))

  def _pictures(self, value: str, label: str) -> Any:
    """The pictures that a cell holds or refers to."""
    found = read_list(value)
    if isinstance(found, list):
      return [self._picture(str(item), label) for item in found]
    return self._picture(value, label)

  def _picture(self, value: str, label: str) -> str:
    if not value or len(value) > REFERENCE or value not in self._places:
      return value
    other = self._named(self._fields(self._places[value]))
    held = other["image"] if other else ""
    if len(held) <= REFERENCE:
      raise BadRow(label, f"image {value!r}: that row holds no picture itself")
    return held

  def scan(self, columns: Sequence[str]) -> Iterator[dict[str, Any] | None]:
    """Every row in order, None for an unreadable one."""
    for index in range(len(self)):
      try:
        if "image" in columns:
          yield self[index]
        else:
          yield self._named(self._fields(index))
      except BadRow:
        yield None

  def label(self, index: int) -> str:
    return f"row {index + 1}"


def _records(path: Path, digest: Any) -> Iterator[tuple[int, int, list[str]]]:
  """Start, end and fields of each record; a record may span lines."""
  # A picture in base64 is longer than the limit that csv starts with.
  csv.field_size_limit(sys.maxsize)
  offset = 0

  def lines() -> Iterator[str]:
    nonlocal offset
    with path.open("rb") as file:
      for line in file:
        digest.update(line)
        text = line.decode("utf-8", errors="replace")
        if not offset:
          text = text.removeprefix("\ufeff")
        offset += len(line)
        yield text

  start = 0
  reader = csv.reader(lines(), delimiter="\t")
  while True:
    try:
      fields = next(reader)
    except StopIteration:
      return
    except csv.Error:
      fields = [""]  # a row that `_fields` cannot read either
    yield start, offset, fields
    start = offset
