"""The world made on the fly: a grain source, and texts for a tokenizer."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import SupportsIndex

from mirl_jax.data.example import Example
from mirl_jax.worlds.dials import Dials
from mirl_jax.worlds.items import SPLITS, make_item


@dataclass(frozen=True)
class WorldSource:
  """A `grain.sources.RandomAccessDataSource` of generated examples.

  Its `repr` names everything that its items depend on, so that a pipeline's
  checkpoint notices a changed source.

  Raises:
    ValueError: for a split, seed or length out of range.
    IndexError: on reading an item past either end.
  """

  seed: int
  dials: Dials
  split: str
  length: int

  def __post_init__(self) -> None:
    if self.split not in SPLITS:
      raise ValueError(f"split={self.split!r}: give one of {tuple(SPLITS)}")
    if not 0 <= self.seed < 2**64:
      raise ValueError(f"seed={self.seed}: give 0 <= seed < 2**64")
    if self.length < 1:
      raise ValueError(f"length={self.length}: give at least one item")

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: SupportsIndex) -> Example:
    number = operator.index(index)
    if not 0 <= number < self.length:
      raise IndexError(f"item {number}: this source holds {self.length} items")
    return make_item(self.seed, number, self.dials, self.split)


def corpus(dials: Dials, n: int, seed: int = 0) -> Iterator[str]:
  """Texts of `n` training items, to train a tokenizer on.

  Of each item two texts: the question, and what the policy shall write,
  tags included.
  """
  for index in range(n):
    item = make_item(seed, index, dials, "train")
    yield item.question
    yield (
      f"<description>{item.description}</description>\n"
      f"<think>{item.reasoning}</think>\n"
      f"<answer>{item.extra['demonstrated_answer']}</answer>"
    )
