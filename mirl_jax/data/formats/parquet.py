"""Rows of a parquet file, row groups read on demand."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mirl_jax.data.source import BadRow

# Decoded row groups that are kept. A row group is read whole for one row of
# it, so that random access to a file of large ones is slow beyond this.
CACHED_BYTES = 256 * 2**20
_LARGE = 64 * 2**20  # bytes of a row group that is slow to read for one row
_SCANNED = 64  # rows of a batch while scanning


class Parquet:
  """Random access to the rows of a parquet file.

  The digest is that of the footer, which holds the schema and the place and
  statistics of each column, with the file's length.

  Raises:
    ValueError: if it is no parquet file.
  """

  def __init__(self, path: Path):
    self.path = path
    try:
      self._file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError, ValueError) as error:
      raise ValueError(f"{path} is no readable parquet: {error}") from error
    data = self._file.metadata
    self.columns = tuple(self._file.schema_arrow.names)
    sizes = [data.row_group(i).num_rows for i in range(data.num_row_groups)]
    stored = [
      data.row_group(i).total_byte_size for i in range(data.num_row_groups)
    ]
    slow = max(stored, default=0) > _LARGE and sum(stored) > CACHED_BYTES
    self.note = (
      f"row groups of {max(stored) >> 20} MiB are read whole for one row;"
      " python -m mirl_jax.data.records stores rows apart"
      if slow
      else ""
    )
    self._ends = np.cumsum(sizes, dtype=np.int64)
    self._cache: OrderedDict[int, pa.Table] = OrderedDict()
    # A file may not be read by two threads at once.
    self._lock = threading.Lock()
    self.digest = _digest(path)

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self._ends) else 0

  def __getitem__(self, index: int) -> dict[str, Any]:
    group = int(np.searchsorted(self._ends, index, side="right"))
    first = int(self._ends[group - 1]) if group else 0
    try:
      with self._lock:
        table = self._group(group)
      return table.slice(index - first, 1).to_pylist()[0]
    except (pa.ArrowException, OSError, ValueError) as error:
      raise BadRow(self.label(index), f"no readable row: {error}") from error

  def _group(self, group: int) -> pa.Table:
    if group not in self._cache:
      self._cache[group] = self._file.read_row_group(group)
    self._cache.move_to_end(group)
    while (
      len(self._cache) > 1
      and sum(table.nbytes for table in self._cache.values()) > CACHED_BYTES
    ):
      self._cache.popitem(last=False)
    return self._cache[group]

  def scan(self, columns: Sequence[str]) -> Iterator[dict[str, Any] | None]:
    """The given columns of every row in order."""
    names = {column.partition(".")[0] for column in columns}
    wanted = [name for name in self.columns if name in (names | {*columns})]
    if not wanted:
      yield from ({} for _ in range(len(self)))
      return
    with pq.ParquetFile(self.path, memory_map=True) as file:
      for batch in file.iter_batches(_SCANNED, columns=wanted):
        yield from batch.to_pylist()

  def label(self, index: int) -> str:
    return f"row {index + 1}"


def _digest(path: Path) -> str:
  with path.open("rb") as file:
    size = file.seek(0, 2)
    file.seek(size - 8)
    length = int.from_bytes(file.read(4), "little")
    file.seek(max(size - 8 - length, 0))
    footer = file.read(length)
  return hashlib.sha256(footer + str(size).encode()).hexdigest()
