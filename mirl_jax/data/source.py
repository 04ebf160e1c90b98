"""What a data source is: examples by number, some of which may be bad."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, SupportsIndex, runtime_checkable

import numpy as np

from mirl_jax.data.example import Example


class BadRow(Exception):
  """One row that cannot become an example.

  Attributes:
    row: the row's id, or its line where it has no readable id.
    reason: what is wrong with it, in one line.
  """

  def __init__(self, row: str, reason: str):
    super().__init__(f"{row}: {reason}")
    self.row = row
    self.reason = reason

  def __reduce__(self):
    return BadRow, (self.row, self.reason)


class TooManyBadRows(Exception):
  """More than the allowed share of rows is bad; the data needs a look."""


@runtime_checkable
class Source(Protocol):
  """Random access to examples; a list of examples is one.

  Reading a row may raise BadRow, always for the same rows. A `repr` of its own
  should name what the rows depend on: a pipeline's state holds its hash.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: SupportsIndex, /) -> Example: ...


class Shuffled:
  """A source in another order, which depends on its length alone.

  Rows of a file often stand sorted; the first n of these are a fair sample.
  """

  def __init__(self, source: Source):
    self.source = source
    self._order = np.random.default_rng(0).permutation(len(source))

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: SupportsIndex) -> Example:
    return self.source[int(self._order[operator.index(index)])]

  def __repr__(self) -> str:
    return f"Shuffled({self.source!r})"


@dataclass(frozen=True)
class Mapped:
  """A source with a function applied to each of its examples.

  A ValueError of the function makes the row a BadRow.
  """

  source: Source
  function: Callable[[Example], Example]

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: SupportsIndex) -> Example:
    example = self.source[operator.index(index)]
    try:
      return self.function(example)
    except ValueError as error:
      raise BadRow(example.id, str(error)) from error

  def __repr__(self) -> str:
    # Not the function's own repr, which holds an address.
    name = getattr(self.function, "__qualname__", type(self.function).__name__)
    return f"Mapped({self.source!r}, {name})"


def told(source: Source) -> str:
  """What a source says was decided when it was opened; "" if nothing."""
  while isinstance(source, Mapped | Shuffled):
    source = source.source
  return getattr(source, "told", "")
