"""Rows of JSON: one object per line, or a list of objects in one file."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mirl_jax.data.source import BadRow


class JsonLines:
  """Random access to the objects of a jsonl file; blank lines are no rows.

  Only the places of the lines are held.
  """

  columns: tuple[str, ...] = ()  # every row has its own
  note = ""

  def __init__(self, path: Path):
    self.path = path
    digest = hashlib.sha256()
    rows, offset = [], 0
    with path.open("rb") as lines:
      for number, line in enumerate(lines, 1):
        start, offset = offset, offset + len(line)
        digest.update(line)
        if line.strip():
          rows.append((start, offset, number))
    self._rows = np.array(rows, np.int64).reshape(-1, 3)
    self.digest = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    start, end, _ = (int(value) for value in self._rows[index])
    with self.path.open("rb") as lines:
      lines.seek(start)
      row = _parse(lines.read(end - start))
    if row is None:
      raise BadRow(self.label(index), "no readable JSON object")
    return row

  def scan(self, columns: Sequence[str]) -> Iterator[dict[str, Any] | None]:
    """Every row in order, None for an unreadable one."""
    del columns  # a line is parsed whole
    with self.path.open("rb") as lines:
      for line in lines:
        if line.strip():
          yield _parse(line)

  def label(self, index: int) -> str:
    return f"line {int(self._rows[index, 2])}"


class JsonList:
  """The objects of one JSON list, held in memory."""

  columns: tuple[str, ...] = ()
  note = ""

  def __init__(self, path: Path):
    self.path = path
    data = path.read_bytes()
    try:
      rows = json.loads(data)
    except (ValueError, RecursionError) as error:
      raise ValueError(
        f"{path} is no JSON: {error}; one object per line goes into a .jsonl"
      ) from error
    if not isinstance(rows, list):
      raise ValueError(
        f"{path} holds a {type(rows).__name__}; give a list of rows"
      )
    self._rows = rows
    self.digest = hashlib.sha256(data).hexdigest()

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    row = self._rows[index]
    if not isinstance(row, dict):
      raise BadRow(self.label(index), "no JSON object")
    return row

  def scan(self, columns: Sequence[str]) -> Iterator[dict[str, Any] | None]:
    """Every row in order, None for what is no object."""
    del columns
    for row in self._rows:
      yield row if isinstance(row, dict) else None

  def label(self, index: int) -> str:
    return f"row {index + 1}"


def _parse(line: bytes) -> dict[str, Any] | None:
  try:
    row = json.loads(line)
  # RecursionError: thousands of nested brackets.
  except (ValueError, RecursionError):
    return None
  return row if isinstance(row, dict) else None
