"""Descriptions from third-party data, and the grids behind them."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pil
from PIL import ImageDraw

from mirl_jax.data import describe
from mirl_jax.data.describe import (
  COLORS,
  SHAPES,
  answer_form,
  check_grid,
  describe_box,
  describe_grid,
  describe_scene,
  read_form,
  recover_grid,
)
from mirl_jax.data.example import Example
from mirl_jax.data.open import open_source
from mirl_jax.data.source import BadRow, Mapped

VQA = Path(__file__).parents[2].parent / "shared" / "data" / "vqa"
RGB = {"red": (255, 0, 20), "green": (20, 255, 0), "blue": (0, 20, 255)}
FINE = 16  # subpixels: pictures are drawn large and averaged down

GRID = (
  ("red", "circle"),
  None,
  ("green", "square"),
  None,
  ("blue", "triangle"),
  None,
  ("red", "square"),
  None,
  None,
)


def draw(grid, rng) -> np.ndarray:
  """A SHAPES-like picture with sizes and places jittered below a pixel."""
  picture = pil.new("RGB", (30 * FINE, 30 * FINE))
  pen = ImageDraw.Draw(picture)
  for cell, thing in enumerate(grid):
    if thing is None:
      continue
    half = rng.uniform(2.0, 4.0)
    y, x = (10 * at + 5 + rng.uniform(-0.8, 0.8) for at in divmod(cell, 3))
    box = [FINE * at for at in (x - half, y - half, x + half, y + half)]
    color = RGB[thing[0]]
    if thing[1] == "circle":
      pen.ellipse(box, color)
    elif thing[1] == "square":
      pen.rectangle(box, color)
    else:
      left, top, right, bottom = box
      pen.polygon(
        [((left + right) / 2, top), (left, bottom), (right, bottom)], color
      )
  return np.asarray(picture.resize((30, 30), pil.Resampling.BOX))


@pytest.mark.parametrize("seed", range(8))
def test_drawn_grids_are_recovered(seed):
  rng = np.random.default_rng(seed)
  things = [None, *itertools.product(COLORS, SHAPES)]
  for _ in range(10):
    grid = tuple(things[i] for i in rng.integers(0, 10, 9))
    picture = draw(grid, rng)
    assert recover_grid(picture) == grid
  file = io.BytesIO()
  pil.fromarray(picture).save(file, "PNG")
  assert recover_grid(file.getvalue()) == grid


def test_pictures_without_a_grid_are_refused():
  with pytest.raises(ValueError, match="31 x 30"):
    recover_grid(np.zeros((31, 30, 3), np.uint8))
  with pytest.raises(ValueError, match="neither red, green nor blue"):
    recover_grid(np.full((30, 30, 3), 200, np.uint8))


def test_the_description_names_filled_cells_in_reading_order():
  text = "a red circle, c green square, e blue triangle, g red square"
  assert describe_grid(GRID) == text
  assert describe_grid((None,) * 9) == "nothing"
  words = describe.grid_words(GRID)
  assert words[0] == ("red", "circle")
  assert words[1] == ("nothing",)


@pytest.mark.parametrize(
  ("text", "counts"),
  [
    ("a red circle, c green square, e blue triangle, g red square", (4, 0, 0)),
    ("g red square, A  Red circle, c green square", (3, 0, 1)),
    ("a red square, c green square", (1, 1, 3)),
    ("a red circle, a red circle", (1, 1, 3)),
    ("a red circle or square", (0, 1, 4)),
    ("a red circle, nothing", (1, 1, 3)),
    ("nothing", (0, 1, 4)),
    ("", (0, 0, 4)),
  ],
)
def test_facts_of_any_text_are_counted(text, counts):
  facts = check_grid(text, GRID)
  assert (facts.true, facts.false, facts.missing) == counts
  assert facts.exact == (counts == (4, 0, 0))


def test_nothing_is_exact_of_an_empty_grid():
  assert check_grid("nothing", (None,) * 9).exact
  assert not check_grid("a red circle", (None,) * 9).exact


@pytest.mark.parametrize(
  ("form", "truth", "reasoning"),
  [
    ("(is red circle)", True, "circle a, red a g, both a, true"),
    ("(is blue circle)", False, "circle a, blue e, both none, false"),
    (
      "(is red (left_of square))",
      False,
      "square c g, left b, red a g, both none, false",
    ),
    (
      "(is green (above (right_of blue)))",
      True,
      "blue e, right f, above c, green c, both c, true",
    ),
    # No wrapping around the border.
    (
      "(is triangle (below square))",
      False,
      "square c g, below f, triangle e, both none, false",
    ),
    (
      "(is blue (right_of square))",
      False,
      "square c g, right h, blue e, both none, false",
    ),
  ],
)
def test_logic_forms_are_answered_step_by_step(form, truth, reasoning):
  """`reasoning` names the marked cells of each step only."""
  found, said = answer_form(read_form(form), GRID)
  assert found == truth
  *steps, last = said.split(", ")
  assert all(
    step.split(maxsplit=1)[1].split()[::2] == list("abcdefghi")
    for step in steps
  )
  short = []
  for step in steps:
    name, *marks = step.split()
    cells = [
      c for c, m in zip(marks[::2], marks[1::2], strict=False) if m == "yes"
    ]
    assert set(marks[1::2]) <= {"yes", "no"}
    short.append(" ".join([name, *(cells or ["none"])]))
  assert ", ".join([*short, last]) == reasoning


@pytest.mark.parametrize(
  "text",
  [
    "",
    "(is red",
    "is red)",
    "(is red blue) red",
    "(is mauve red)",
    "(is red)",
    "red",
    "(is is red)",
    "(is red (is red blue))",
    "(is red (above red blue))",
    "(is red ((above) red))",
  ],
)
def test_malformed_logic_forms_are_refused(text):
  with pytest.raises(ValueError, match=r".+"):
    answer_form(read_form(text), GRID)


def _shapes():
  if not (VQA / "shapes").is_dir():
    pytest.skip("SHAPES is not here")
  return open_source(VQA / "shapes")


def test_recovered_grids_answer_every_shapes_question():
  """1,664 of 1,664 as built: pixels, logic and answers agree."""
  source = Mapped(_shapes(), describe.shapes_example)
  examples = [source[i] for i in range(len(source))]
  assert len(examples) == 1664
  for example in examples:
    assert example.check(example.description).exact
    assert example.reasoning.endswith(example.answer)
    assert len(example.regions) == 9
  assert len({e.description for e in examples}) > 1600


def test_a_contradicted_answer_is_a_bad_row_and_regions_are_optional():
  rng = np.random.default_rng(0)
  extra = {"logic_form": "(is red circle)"}
  good = Example("x", (draw(GRID, rng),), "?", "true", extra=extra)
  assert describe.shapes_example(good, regions=False).regions == ()
  bad = Example("y", good.images, "?", "false", extra=extra)
  source = Mapped([good, bad], describe.shapes_example)
  assert source[0].regions
  with pytest.raises(BadRow, match="the picture says True"):
    source[1]
  with pytest.raises(ValueError, match="logic_form"):
    describe.shapes_example(Example("z", good.images, "?", "true"))


def thing(x, y, size=20, color="Yellow", shape="circle"):
  keys = ("x_loc", "y_loc", "size", "color", "type")
  return dict(zip(keys, (x, y, size, color, shape), strict=True))


def test_boxes_list_their_objects_by_cell():
  box = [
    thing(80, 80, color="#0099ff"),
    thing(2, 1, 10, shape="square"),
    thing(40, 35, 30, color="Black", shape="triangle"),
  ]
  assert describe_box(box) == (
    "a small yellow square, e big black triangle, i medium blue circle"
  )
  assert describe_box([]) == "nothing"
  assert describe_scene([box[:0], box[:1], box[:0]]) == (
    "box one: nothing; box two: i medium blue circle; box three: nothing"
  )


@pytest.mark.parametrize(
  "change", [{"color": "mauve"}, {"size": 11}, {"x_loc": None}, {"y_loc": ...}]
)
def test_unreadable_objects_are_refused(change):
  item = {k: v for k, v in {**thing(1, 1), **change}.items() if v is not ...}
  with pytest.raises(ValueError, match="cannot read the object"):
    describe_box([item])
  with pytest.raises(ValueError, match="1 boxes"):
    describe_scene([[item]])


def test_every_nlvr_scene_is_described():
  if not (VQA / "nlvr").is_dir():
    pytest.skip("NLVR is not here")
  source = Mapped(open_source(VQA / "nlvr"), describe.nlvr_example)
  for index in range(0, len(source), 7):
    example = source[index]
    things = sum(len(box) for box in example.extra["scene"])
    said = example.description.replace(";", ",").split(",")
    empty = example.description.count("nothing")
    assert len(said) == things + empty
    assert example.reasoning
