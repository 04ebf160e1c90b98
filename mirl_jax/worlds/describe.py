"""Descriptions as lists of facts: saying, reading and checking them."""

from collections.abc import Sequence
from dataclasses import dataclass

from mirl_jax.data.example import Facts
from mirl_jax.worlds.questions import Question
from mirl_jax.worlds.scene import (
  CELLS,
  COLORS,
  NUMBERS,
  SHAPES,
  SIZES,
  Scene,
)

NOTHING = "nothing"


@dataclass(frozen=True)
class Fact:
  """One statement: what a cell holds, or how tall a bar is.

  Attributes:
    place: a cell's letter, or a bar's colour.
    color: of the thing in the cell; empty for nothing and for a bar.
    shape: likewise.
    size: likewise, and empty where it is not said.
    height: of the bar; -1 for a cell.
  """

  place: str
  color: str = ""
  shape: str = ""
  size: str = ""
  height: int = -1


@dataclass(frozen=True)
class Item:
  """A question and the scene that it is about."""

  scene: Scene
  question: Question


def name(fact: Fact, sized: bool = False) -> str:
  """The thing of a fact in words, without its place."""
  if fact.height >= 0:
    return f"{fact.place} {NUMBERS[fact.height]}"
  if not fact.shape:
    return NOTHING
  words = (
    (fact.size, fact.color, fact.shape) if sized else (fact.color, fact.shape)
  )
  return " ".join(word for word in words if word)


def say(fact: Fact, sized: bool = False) -> str:
  """A fact in words: "a red circle", "b nothing", "red three"."""
  if fact.height >= 0:
    return name(fact)
  return f"{fact.place} {name(fact, sized)}"


def describe(facts: Sequence[Fact], sized: bool = False) -> str:
  return ", ".join(say(fact, sized) for fact in facts)


def read_fact(text: str) -> Fact | None:
  """The fact that a text states, if it states exactly one."""
  words = text.lower().split()
  if len(words) == 2 and words[0] in COLORS and words[1] in NUMBERS:
    return Fact(words[0], height=NUMBERS.index(words[1]))
  if len(words) < 2 or words[0] not in CELLS or len(words[0]) != 1:
    return None
  place, *rest = words
  if rest == [NOTHING]:
    return Fact(place)
  size = rest.pop(0) if rest[0] in SIZES else ""
  if len(rest) == 2 and rest[0] in COLORS and rest[1] in SHAPES:
    return Fact(place, rest[0], rest[1], size)
  return None


def read(text: str) -> tuple[Fact | None, ...]:
  """The facts of a description, None for each part that states none."""
  if not text.strip():
    return ()
  return tuple(read_fact(part) for part in text.split(","))


def cell_fact(scene: Scene, cell: str) -> Fact:
  thing = scene.at(cell)
  if thing is None:
    return Fact(cell)
  return Fact(cell, thing.color, thing.shape, thing.size)


def true_facts(item: Item) -> tuple[Fact, ...]:
  """What a true description says: the region's cells in reading order."""
  if item.scene.kind == "chart":
    bars = sorted(item.scene.bars, key=lambda bar: bar.column)
    return tuple(Fact(bar.color, height=bar.height) for bar in bars)
  return tuple(cell_fact(item.scene, c) for c in item.question.places)


def check_description(text: str, item: Item) -> Facts:
  """Counts the true, false, missing and irrelevant facts of any text.

  A part between commas is one statement. Right about the region: true; right
  about another cell: irrelevant; wrong, repeated (whatever it says the second
  time) or unreadable: false; a cell or bar of the region that no statement is
  about: missing. Where sizes are asked for, a statement right but for its
  missing size counts as missing; where they are not, a right size adds an
  irrelevant fact.
  """
  relevant = {fact.place: fact for fact in true_facts(item)}
  truth = dict(relevant)
  if item.scene.kind == "shapes":
    for cell in CELLS:
      truth.setdefault(cell, cell_fact(item.scene, cell))
  sized = item.question.kind == "size"
  true = false = irrelevant = unsized = 0
  seen: set[str] = set()
  for fact in read(text):
    if fact is None or fact.place in seen:
      false += 1
      continue
    seen.add(fact.place)
    real = truth.get(fact.place)
    wrong = real is None or (fact.color, fact.shape, fact.height) != (
      real.color,
      real.shape,
      real.height,
    )
    if wrong or (fact.size and real and fact.size != real.size):
      false += 1
    elif fact.place not in relevant:
      irrelevant += 1
    elif sized and fact.shape and not fact.size:
      unsized += 1
    else:
      true += 1
      irrelevant += bool(fact.size) and not sized
  missing = unsized + sum(place not in seen for place in relevant)
  return Facts(true, false, missing, irrelevant)
