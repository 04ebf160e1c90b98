"""Questions about one region, with scenes composed so that answers balance."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from mirl_jax.worlds.dials import Dials
from mirl_jax.worlds.scene import (
  CHART,
  COLORS,
  HEIGHTS,
  NUMBERS,
  REGIONS,
  SHAPES,
  SIZES,
  USUAL,
)

POINTS = {"circle": 1, "square": 2, "triangle": 3, "star": 4}
YES_NO = ("exist", "relation", "compare")

_EMPTY = 0.3  # share of empty cells where the question leaves it open
_NEAR = 0.7  # share of "no" to existence with a similar thing in the region
_PATIENCE = 32  # draws from a prior that may exclude what is asked for

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
  """What is asked.

  Attributes:
    kind: one of `dials.KINDS`.
    region: a row or a column (`scene.REGIONS`), or "chart".
    args: the colours, shapes and properties asked about: exist (colour,
      shape); attribute (property, referent); size, count, chart (referent);
      relation, compare (two referents); chart (higher bar, lower bar).
  """

  kind: str
  region: str
  args: tuple[str, ...] = ()

  @property
  def places(self) -> str:
    """Cells of the region in reading order; none for a chart."""
    return REGIONS.get(self.region, "")

  @property
  def text(self) -> str:
    return ask(self)


class Form(NamedTuple):
  """How a thing looks, wherever it is."""

  color: str
  shape: str
  size: str


class Draft(NamedTuple):
  """A question, what its region (or chart) must hold, and the answer."""

  question: Question
  forms: tuple[Form | None, ...]
  bars: tuple[tuple[str, int], ...]
  answer: str


def referent(word: str) -> str:
  """How a question refers to the only thing of that colour or shape."""
  return f"the {word}" if word in SHAPES else f"the {word} thing"


def plural(word: str) -> str:
  return f"{word}s" if word in SHAPES else f"{word} shapes"


def ask(question: Question) -> str:
  """The question in words: lower case, numbers spelled out."""
  kind, args, where = question.kind, question.args, f"in the {question.region}"
  if kind == "exist":
    return f"is there a {args[0]} {args[1]} {where}?"
  if kind == "attribute":
    return f"what {args[0]} is {referent(args[1])} {where}?"
  if kind == "size":
    return f"what size is {referent(args[0])} {where}?"
  if kind == "relation":
    how = "left of" if question.region.endswith("row") else "above"
    return f"is {referent(args[0])} {how} {referent(args[1])} {where}?"
  if kind == "count":
    return f"how many {plural(args[0])} {where}?"
  if kind == "compare":
    first = args[0] if args[0] in COLORS else plural(args[0])
    return f"are there more {first} than {plural(args[1])} {where}?"
  if kind == "add":
    return f"how many points {where}?"
  if kind == "odd":
    return f"which color is the odd one out {where}?"
  if len(args) == 1:
    return f"how tall is the {args[0]} bar?"
  return f"how much taller is the {args[0]} bar than the {args[1]} bar?"


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
  return options[int(rng.random() * len(options))]


def shuffled(rng: np.random.Generator, items: Sequence[T]) -> tuple[T, ...]:
  keys = [rng.random() for _ in items]
  return tuple(
    items[i] for i in sorted(range(len(items)), key=keys.__getitem__)
  )


def sample_form(
  rng: np.random.Generator,
  prior: float,
  fits: Callable[[Form], bool] | None = None,
) -> Form:
  """A thing of the world, conditioned by rejection on `fits`.

  Where the prior all but excludes what fits, its colour becomes uniform.
  """
  attempts = 0
  while True:
    # Not `pick`: this is the innermost loop of making an item.
    shape = SHAPES[int(rng.random() * len(SHAPES))]
    color = COLORS[int(rng.random() * len(COLORS))]
    if rng.random() < prior and attempts < _PATIENCE:
      color = USUAL[shape]
    form = Form(color, shape, SIZES[int(rng.random() * len(SIZES))])
    if fits is None or fits(form):
      return form
    attempts += 1


def sample_cell(
  rng: np.random.Generator,
  prior: float,
  fits: Callable[[Form], bool] | None = None,
) -> Form | None:
  """As `sample_form`, or nothing."""
  if rng.random() < _EMPTY:
    return None
  return sample_form(rng, prior, fits)


def matches(form: Any, word: str) -> bool:
  """Whether a colour or shape word is true of a thing."""
  return form is not None and word in (form.color, form.shape)


def _property(rng: np.random.Generator) -> str:
  return "color" if rng.random() < 0.5 else "shape"


def _coin(rng: np.random.Generator) -> str:
  return "yes" if rng.random() < 0.5 else "no"


# Each composer returns (args, the region's three cells, answer).
_Composed = tuple[tuple[str, ...], Sequence[Form | None], str]


def _exist(rng: np.random.Generator, prior: float) -> _Composed:
  asked = sample_form(rng, prior)
  color, shape = asked.color, asked.shape
  answer = _coin(rng)
  if answer == "yes":
    first: Form | None = Form(color, shape, pick(rng, SIZES))
    rest = [sample_cell(rng, prior) for _ in range(2)]
    return (color, shape), shuffled(rng, [first, *rest]), answer
  first, *rest = (
    sample_cell(rng, prior, lambda f: f[:2] != (color, shape)) for _ in range(3)
  )
  if rng.random() < _NEAR:
    first = sample_form(
      rng, prior, lambda f: (f.color == color) != (f.shape == shape)
    )
  return (color, shape), shuffled(rng, [first, *rest]), answer


def _unique(
  rng: np.random.Generator, prior: float, by: str
) -> tuple[Form, tuple[Form | None, ...]]:
  """A thing that alone in its region has its colour or shape."""
  form = sample_form(rng, prior)
  word = getattr(form, by)
  rest = [sample_cell(rng, prior, lambda f: word not in f) for _ in range(2)]
  return form, shuffled(rng, [form, *rest])


def _attribute(rng: np.random.Generator, prior: float) -> _Composed:
  asked = _property(rng)
  by = "shape" if asked == "color" else "color"
  form, cells = _unique(rng, prior, by)
  return (asked, getattr(form, by)), cells, getattr(form, asked)


def _size(rng: np.random.Generator, prior: float) -> _Composed:
  by = _property(rng)
  form, cells = _unique(rng, prior, by)
  return (getattr(form, by),), cells, form.size


def _pair(rng: np.random.Generator, prior: float, by: str) -> tuple[Form, Form]:
  first = sample_form(rng, prior)
  word = getattr(first, by)
  return first, sample_form(rng, prior, lambda f: word not in f)


def _relation(rng: np.random.Generator, prior: float) -> _Composed:
  by = _property(rng)
  one, two = _pair(rng, prior, by)
  words = (getattr(one, by), getattr(two, by))
  third = sample_cell(rng, prior, lambda f: getattr(f, by) not in words)
  answer = _coin(rng)
  cells: list[Form | None] = [one, two] if answer == "yes" else [two, one]
  cells.insert(int(rng.random() * 3), third)
  return words, cells, answer


def _one(rng: np.random.Generator, prior: float, by: str, word: str) -> Form:
  """A thing with that colour or shape."""
  return sample_form(rng, prior, lambda f: getattr(f, by) == word)


def _fill(
  rng: np.random.Generator, prior: float, by: str, numbers: dict[str, int]
) -> tuple[Form | None, ...]:
  """Three cells with so many things of each word, and others without."""
  cells: list[Form | None] = []
  for word, number in numbers.items():
    cells += [_one(rng, prior, by, word) for _ in range(number)]
  while len(cells) < 3:
    other = sample_cell(rng, prior, lambda f: getattr(f, by) not in numbers)
    cells.append(other)
  return shuffled(rng, cells)


def _count(rng: np.random.Generator, prior: float) -> _Composed:
  by = _property(rng)
  word = getattr(sample_form(rng, prior), by)
  number = int(rng.random() * 4)
  return (word,), _fill(rng, prior, by, {word: number}), NUMBERS[number]


_MORE = ((1, 0), (2, 0), (3, 0), (2, 1))
_NOT_MORE = ((0, 0), (1, 1), (0, 1), (0, 2), (0, 3), (1, 2))


def _compare(rng: np.random.Generator, prior: float) -> _Composed:
  by = _property(rng)
  one, two = (getattr(form, by) for form in _pair(rng, prior, by))
  answer = _coin(rng)
  numbers = pick(rng, _MORE if answer == "yes" else _NOT_MORE)
  cells = _fill(rng, prior, by, dict(zip((one, two), numbers, strict=True)))
  return (one, two), cells, answer


def _sums() -> dict[int, list[tuple[str, ...]]]:
  found: dict[int, list[tuple[str, ...]]] = {}
  for triple in itertools.product(("", *SHAPES), repeat=3):
    found.setdefault(sum(POINTS.get(s, 0) for s in triple), []).append(triple)
  return found


_SUMS = _sums()


def _add(rng: np.random.Generator, prior: float) -> _Composed:
  total = int(rng.random() * len(_SUMS))
  cells = [
    _one(rng, prior, "shape", shape) if shape else None
    for shape in pick(rng, _SUMS[total])
  ]
  return (), cells, NUMBERS[total]


def _odd(rng: np.random.Generator, prior: float) -> _Composed:
  odd, second = _pair(rng, prior, "color")
  third = _one(rng, prior, "color", second.color)
  return (), shuffled(rng, [odd, second, third]), odd.color


_COMPOSERS = {
  "exist": _exist,
  "attribute": _attribute,
  "size": _size,
  "relation": _relation,
  "count": _count,
  "compare": _compare,
  "add": _add,
  "odd": _odd,
}


def _chart(rng: np.random.Generator) -> Draft:
  colors = shuffled(rng, COLORS)[:3]
  third = pick(rng, HEIGHTS)
  args: tuple[str, ...]
  if rng.random() < 0.5:
    heights = [pick(rng, HEIGHTS), pick(rng, HEIGHTS), third]
    args, answer = colors[:1], heights[0]
  else:
    answer = pick(rng, HEIGHTS[:-1])
    low = 1 + int(rng.random() * (len(HEIGHTS) - answer))
    heights = [low + answer, low, third]
    args = colors[:2]
  bars = shuffled(rng, tuple(zip(colors, heights, strict=True)))
  return Draft(Question("chart", CHART, args), (), bars, NUMBERS[answer])


def _kind(rng: np.random.Generator, dials: Dials) -> str:
  level = rng.random() * sum(weight for _, weight in dials.kinds)
  weighted = [(name, weight) for name, weight in dials.kinds if weight]
  for name, weight in weighted:
    level -= weight
    if level < 0:
      return name
  return weighted[-1][0]  # rounding


def draft(rng: np.random.Generator, dials: Dials) -> Draft:
  """Draws a kind, a region, a question and what the region must hold.

  The answer is drawn first and the region composed to fit it: yes and no
  are even, numbers uniform over what a kind allows, colours and shapes as
  the prior has them.
  """
  kind = _kind(rng, dials)
  if kind == "chart":
    return _chart(rng)
  region = pick(rng, tuple(REGIONS))
  args, cells, answer = _COMPOSERS[kind](rng, dials.prior)
  return Draft(Question(kind, region, args), tuple(cells), (), answer)
