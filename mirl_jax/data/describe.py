"""Descriptions and reasonings derived from third-party data.

They serve a short supervised adaptation of a model to that data. Words are
those of the world (`mirl_jax.worlds`): cells a to i in reading order, facts
between commas, numbers as words.

SHAPES (Andreas et al., Neural Module Networks, arXiv 1511.02799): pictures of
30 x 30 pixels, a 3 x 3 grid of cells on black, each empty or holding a red,
green or blue circle, square or triangle. The grid is recovered from the pixels.

NLVR (Suhr et al., ACL 2017): three boxes of objects, given as scene lists.
"""

import dataclasses
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as pil

from mirl_jax.data.example import Example, Facts, Image

CELLS = "abcdefghi"
COLORS = ("red", "green", "blue")
SHAPES = ("circle", "square", "triangle")
NOTHING = "nothing"

# A thing is (colour, shape); a grid holds nine things or None, row-major.
Thing = tuple[str, str]
Grid = tuple[Thing | None, ...]
# A logic form as nested lists: ["is", "green", ["left_of", "red"]].
# (Any is again a form: run-time type checkers cannot follow the recursion.)
Form = str | list[Any]

_STEPS = {
  "above": (-1, 0),
  "below": (1, 0),
  "left_of": (0, -1),
  "right_of": (0, 1),
}

NLVR_BOXES = ("box one", "box two", "box three")
NLVR_COLORS = {"#0099ff": "blue", "black": "black", "yellow": "yellow"}
NLVR_SIZES = {10: "small", 20: "medium", 30: "big"}
NLVR_SIDE = 100  # pixels of a box
NLVR_REASONING = "look at each box"


def decode(image: Image) -> UInt8[np.ndarray, "h w 3"]:
  """Pixels of an encoded or decoded picture."""
  if isinstance(image, np.ndarray):
    return image
  with pil.open(io.BytesIO(image)) as picture:
    return np.asarray(picture.convert("RGB"))


def _shape(weight: Float[np.ndarray, "y x"]) -> str:
  """Circle, square or triangle, from central moments of its coverage.

  A triangle on its base is skewed along y. For the others, rows and columns of
  an axis-parallel square are independent, so E[x^2 y^2] = E[x^2] E[y^2]; for a
  disc the ratio is 2/3. Both hold at any size and sub-pixel position.
  """
  weight = weight / weight.sum()
  rows, columns = weight.sum(1), weight.sum(0)
  y = np.arange(len(rows)) - rows @ np.arange(len(rows))
  x = np.arange(len(columns)) - columns @ np.arange(len(columns))
  var_y, var_x = rows @ y**2, columns @ x**2
  if rows @ y**3 < -0.2 * var_y**1.5:
    return "triangle"
  return "circle" if y**2 @ weight @ x**2 < 0.83 * var_y * var_x else "square"


def recover_grid(image: Image) -> Grid:
  """The grid that a SHAPES picture shows.

  Raises:
    ValueError: if the sides are no multiple of three, or a cell's picture has
      no clear colour.
  """
  pixels = decode(image).astype(np.float64) / 255
  height, width, _ = pixels.shape
  if height % 3 or width % 3 or not height or not width:
    raise ValueError(f"a {height} x {width} picture has no grid of 3 x 3 cells")
  cells = pixels.reshape(3, height // 3, 3, width // 3, 3).transpose(
    0, 2, 1, 3, 4
  )
  things: list[Thing | None] = []
  for cell in cells.reshape(9, height // 3, width // 3, 3):
    coverage = cell.max(-1)
    if coverage.max() < 0.1:
      things.append(None)
      continue
    total = cell.sum((0, 1))
    main = int(total.argmax())
    if total[main] < 0.6 * total.sum():
      raise ValueError(
        f"cell {CELLS[len(things)]} is neither red, green nor blue"
      )
    things.append((COLORS[main], _shape(coverage)))
  return tuple(things)


def describe_grid(grid: Grid) -> str:
  """ "a red circle, e green square": the cells that hold something."""
  said = [
    f"{cell} {' '.join(thing)}"
    for cell, thing in zip(CELLS, grid, strict=True)
    if thing
  ]
  return ", ".join(said) or NOTHING


def check_grid(text: str, grid: Grid) -> Facts:
  """Counts the facts of any description against a grid.

  A part between commas is one statement, "nothing" states none; wrong, repeated
  and unreadable statements are false. All filled cells are relevant.
  """
  truth = set(describe_grid(grid).split(", ")) - {NOTHING}
  parts = [" ".join(part.split()).casefold() for part in text.split(",")]
  said = [part for part in parts if part and part != NOTHING]
  # A "nothing" beside things, or said of a filled grid, is a false statement.
  false = parts.count(NOTHING) if truth or len(parts) > 1 else 0
  true = len(truth.intersection(said))
  return Facts(true, false + len(said) - true, len(truth) - true, 0)


def read_form(text: str) -> Form:
  """Parses a logic form such as "(is green (left_of red))".

  Raises:
    ValueError: for unbalanced brackets or unknown words.
  """
  tokens = re.findall(r"[()]|[^\s()]+", text)
  stack: list[list[Form]] = [[]]
  for token in tokens:
    if token == "(":
      stack.append([])
    elif token == ")":
      if len(stack) < 2:
        raise ValueError(f"unbalanced brackets in {text!r}")
      done = stack.pop()
      stack[-1].append(done)
    elif token in (*COLORS, *SHAPES, "is", *_STEPS):
      stack[-1].append(token)
    else:
      raise ValueError(f"unknown word {token!r} in {text!r}")
  if len(stack) != 1 or len(stack[0]) != 1:
    raise ValueError(f"not one logic form: {text!r}")
  return stack[0][0]


def _shift(cells: frozenset[int], relation: str) -> frozenset[int]:
  """The cells that lie directly above (below, …) one of these cells."""
  down, right = _STEPS[relation]
  moved = ((cell // 3 + down, cell % 3 + right) for cell in cells)
  return frozenset(
    3 * row + column
    for row, column in moved
    if 0 <= row < 3 and 0 <= column < 3
  )


def _marks(cells: frozenset[int]) -> str:
  """Every cell with yes or no. Naming only the cells that count would be
  shorter, but which cell comes next is then a search, and a small model that
  learned to see within 600 steps had not learned that search; a mark for each
  cell is one look at the description, or one step back."""
  return " ".join(
    f"{name} {'yes' if cell in cells else 'no'}"
    for cell, name in enumerate(CELLS)
  )


def _find(form: Form, grid: Grid, steps: list[str]) -> frozenset[int]:
  """The cells that a noun phrase denotes; writes down each step."""
  if isinstance(form, str):
    if form in _STEPS or form == "is":
      raise ValueError(f"{form!r} stands where a colour or shape should")
    cells = frozenset(
      i for i, thing in enumerate(grid) if thing and form in thing
    )
    steps.append(f"{form} {_marks(cells)}")
    return cells
  if len(form) != 2 or not isinstance(form[0], str) or form[0] not in _STEPS:
    raise ValueError(f"not a noun phrase: {form!r}")
  cells = _shift(_find(form[1], grid, steps), form[0])
  steps.append(f"{form[0].removesuffix('_of')} {_marks(cells)}")
  return cells


def answer_form(form: Form, grid: Grid) -> tuple[bool, str]:
  """What a logic form says of a grid, and a reasoning that leads there.

  "(is green (left_of red))" asks whether a green cell lies directly left of a
  red one. The reasoning marks the cells of each phrase from the inside out:
  "red a no b no c yes …, left a no b yes …, green …, both …, true".

  Raises:
    ValueError: for a form that is not (is phrase phrase).
  """
  if not isinstance(form, list) or len(form) != 3 or form[0] != "is":
    raise ValueError(f"not of the form (is phrase phrase): {form!r}")
  steps: list[str] = []
  place = _find(form[2], grid, steps)
  both = _find(form[1], grid, steps) & place
  truth = bool(both)
  steps += [f"both {_marks(both)}", str(truth).lower()]
  return truth, ", ".join(steps)


def grid_words(grid: Grid) -> tuple[tuple[str, ...], ...]:
  """The words of each cell, row-major, as `Example.regions` wants them."""
  return tuple(thing or (NOTHING,) for thing in grid)


def shapes_example(example: Example, regions: bool = True) -> Example:
  """A SHAPES example with description, reasoning, checker and regions.

  Args:
    example: with one picture and `extra["logic_form"]`.
    regions: fill `regions` with the nine cells; right where the picture has
      3 x 3 merged visual tokens (16 pixels a cell for the tiny model, so it
      must be enlarged to 48 x 48).

  Raises:
    ValueError: if the grid cannot be read, or the logic form contradicts the
      answer (then no faithful reasoning is known).
  """
  if len(example.images) != 1 or "logic_form" not in example.extra:
    raise ValueError("no SHAPES example: one image and a logic_form are needed")
  grid = recover_grid(example.images[0])
  truth, reasoning = answer_form(read_form(example.extra["logic_form"]), grid)
  if example.answer != str(truth).lower():
    raise ValueError(f"the picture says {truth}, the answer {example.answer!r}")
  return dataclasses.replace(
    example,
    description=describe_grid(grid),
    reasoning=reasoning,
    regions=grid_words(grid) if regions else (),
    check=lambda text: check_grid(text, grid),
  )


def describe_box(things: Sequence[Mapping[str, Any]]) -> str:
  """ "a small yellow circle, e medium black square": by cell of the centre.

  Raises:
    ValueError: for an unknown colour or size, or a missing key.
  """
  said = []
  for thing in things:
    try:
      color = NLVR_COLORS[thing["color"].lower()]
      size = NLVR_SIZES[thing["size"]]
      x, y = (thing[key] + thing["size"] / 2 for key in ("x_loc", "y_loc"))
      shape = str(thing["type"])
    except (KeyError, TypeError, AttributeError) as error:
      raise ValueError(
        f"cannot read the object {thing!r}: {error!r}"
      ) from error
    row, column = (min(max(int(3 * at / NLVR_SIDE), 0), 2) for at in (y, x))
    said.append((3 * row + column, y, x, f"{size} {color} {shape}"))
  said.sort()
  return (
    ", ".join(f"{CELLS[cell]} {name}" for cell, _, _, name in said) or NOTHING
  )


def describe_scene(scene: Sequence[Sequence[Mapping[str, Any]]]) -> str:
  """An NLVR scene: "box one: a small yellow circle; box two: nothing; …".

  Raises:
    ValueError: unless there are three boxes of readable objects.
  """
  if len(scene) != len(NLVR_BOXES):
    raise ValueError(f"{len(scene)} boxes; NLVR has {len(NLVR_BOXES)}")
  boxes = zip(NLVR_BOXES, scene, strict=True)
  return "; ".join(f"{name}: {describe_box(box)}" for name, box in boxes)


def nlvr_example(example: Example) -> Example:
  """An NLVR example with a description of its scene.

  The sentence has no logic form, so the reasoning is a constant.

  Raises:
    ValueError: if it has no readable scene.
  """
  if "scene" not in example.extra:
    raise ValueError("no NLVR example: a scene is needed")
  return dataclasses.replace(
    example,
    description=describe_scene(example.extra["scene"]),
    reasoning=NLVR_REASONING,
  )


# By the name that `config.data.describe` gives.
DESCRIBERS: dict[str, Callable[[Example], Example]] = {
  "shapes": shapes_example,
  "nlvr": nlvr_example,
}
