"""Scene graphs: what a picture of the world holds, and where."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SIDE = 48  # pixels of a picture
CELL = 16  # pixels of a cell
CELLS = "abcdefghi"  # row-major

COLORS = ("red", "green", "blue", "yellow", "purple")
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("big", "small")

# What a misleading prior makes of a shape.
USUAL = {
  "circle": "red",
  "square": "blue",
  "triangle": "green",
  "star": "yellow",
}

REGIONS = {
  "top row": "abc",
  "middle row": "def",
  "bottom row": "ghi",
  "left column": "adg",
  "middle column": "beh",
  "right column": "cfi",
}
CHART = "chart"  # the region of every question about a bar chart

NUMBERS = (
  "zero",
  "one",
  "two",
  "three",
  "four",
  "five",
  "six",
  "seven",
  "eight",
  "nine",
  "ten",
  "eleven",
  "twelve",
)

BASE = 46  # the first row of pixels below a chart's bars
UNIT = 11  # pixels of one unit of a bar's height
BAR = 10  # pixels of a bar's width
HEIGHTS = (1, 2, 3, 4)

# Left, top, right, bottom in pixels; right and bottom are exclusive.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Thing:
  """A coloured shape in a cell."""

  cell: str
  color: str
  shape: str
  size: str
  box: Box


@dataclass(frozen=True)
class Bar:
  """A bar of a chart, in a column of the picture counted from the left."""

  column: int
  color: str
  height: int

  @property
  def box(self) -> Box:
    left = CELL * self.column + (CELL - BAR) // 2
    return (left, BASE - UNIT * self.height, left + BAR, BASE)


@dataclass(frozen=True)
class Scene:
  """A picture's content: `kind` is "shapes" or "chart"."""

  kind: str
  things: tuple[Thing, ...] = ()
  bars: tuple[Bar, ...] = ()

  def at(self, cell: str) -> Thing | None:
    """The thing in a cell, if there is one."""
    return next((t for t in self.things if t.cell == cell), None)

  def boxes(self) -> tuple[Box, ...]:
    """Boxes of all things, then of all bars."""
    things = tuple(thing.box for thing in self.things)
    return things + tuple(bar.box for bar in self.bars)

  def to_dict(self) -> dict[str, Any]:
    """JSON-able form; `scene_from_dict` reads it back."""
    things = [{**vars(t), "box": list(t.box)} for t in self.things]
    bars = [{**vars(b), "box": list(b.box)} for b in self.bars]
    return {"kind": self.kind, "things": things, "bars": bars}


def scene_from_dict(values: Mapping[str, Any]) -> Scene:
  """Reads what `Scene.to_dict` wrote."""
  things = tuple(
    Thing(**{**thing, "box": tuple(thing["box"])}) for thing in values["things"]
  )
  bars = tuple(
    Bar(bar["column"], bar["color"], bar["height"]) for bar in values["bars"]
  )
  return Scene(values["kind"], things, bars)


def cell_words(scene: Scene) -> tuple[tuple[str, ...], ...]:
  """Words that name each of the nine cells, row-major.

  Colour and shape of a thing, the colour of a bar that reaches into the cell,
  or "nothing".
  """
  found: dict[str, tuple[str, ...]] = {}
  for thing in scene.things:
    found[thing.cell] = (thing.color, thing.shape)
  for bar in scene.bars:
    for row in range(bar.box[1] // CELL, 3):
      found[CELLS[3 * row + bar.column]] = (bar.color,)
  return tuple(found.get(cell, ("nothing",)) for cell in CELLS)
