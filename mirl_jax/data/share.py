"""What one of several processes reads of every batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

from mirl_jax.data.example import Example


@dataclass(frozen=True)
class Share:
  """A process's part in reading a batch.

  Attributes:
    rows: of the batch that this process reads, growing. Each row is read by
      some process; several may read the same.
    gather: takes what this process says and returns what each of them said.
      All call it equally often.
  """

  rows: tuple[int, ...]
  gather: Callable[[bytes], list[bytes]]


class OwnRows:
  """A batch of which this process has read some rows.

  It is as long as the whole batch; to ask for a row that was not read is an
  error, a LookupError that names it.

  Args:
    rows: what was read, by its place in the batch.
    size: of the batch.
  """

  def __init__(self, rows: Mapping[int, Example], size: int):
    self._rows, self._size = dict(rows), size

  def __len__(self) -> int:
    return self._size

  @overload
  def __getitem__(self, index: int) -> Example: ...
  @overload
  def __getitem__(self, index: slice) -> "OwnRows": ...
  def __getitem__(self, index: int | slice) -> "Example | OwnRows":
    if isinstance(index, slice):
      wanted = range(self._size)[index]
      kept = {n: self._rows[i] for n, i in enumerate(wanted) if i in self._rows}
      return OwnRows(kept, len(wanted))
    at = range(self._size)[index]
    if at not in self._rows:
      # No IndexError: that would quietly end a loop over the batch.
      raise LookupError(f"row {at} of the batch was read by another process")
    return self._rows[at]

  @property
  def ids(self) -> list[str]:
    """Ids of the rows that were read."""
    return [self._rows[i].id for i in sorted(self._rows)]


# A batch; the second where several processes read it.
Rows = Sequence[Example] | OwnRows


def ids(rows: Rows) -> list[str]:
  """Ids of the rows that this process has."""
  if isinstance(rows, OwnRows):
    return rows.ids
  return [example.id for example in rows]
