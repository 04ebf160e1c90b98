import json

from mirl_jax.worlds.items import item_from_extra
from mirl_jax.worlds.scene import (
  CELL,
  CELLS,
  REGIONS,
  Bar,
  Scene,
  Thing,
  cell_words,
  scene_from_dict,
)


def test_json_round_trip(broken):
  for item in broken[:200]:
    graph = item_from_extra(item.extra).scene
    assert scene_from_dict(json.loads(json.dumps(graph.to_dict()))) == graph


def test_regions_are_the_rows_and_columns():
  grid = [CELLS[0:3], CELLS[3:6], CELLS[6:9]]
  columns = ["".join(row[i] for row in grid) for i in range(3)]
  assert list(REGIONS.values()) == grid + columns


def test_boxes_lie_in_their_cells(broken):
  for item in broken:
    for thing in item.extra["scene"]["things"]:
      row, column = divmod(CELLS.index(thing["cell"]), 3)
      left, top, right, bottom = thing["box"]
      assert CELL * column <= left < right <= CELL * (column + 1)
      assert CELL * row <= top < bottom <= CELL * (row + 1)


def test_cell_words_of_things():
  thing = Thing("f", "red", "star", "big", (33, 17, 45, 29))
  words = cell_words(Scene("shapes", (thing,)))
  assert words[5] == ("red", "star")
  assert [w for i, w in enumerate(words) if i != 5] == [("nothing",)] * 8


def test_cell_words_of_bars():
  bars = (Bar(0, "red", 1), Bar(1, "blue", 2), Bar(2, "green", 4))
  words = cell_words(Scene("chart", bars=bars))
  assert words[0::3] == (("nothing",), ("nothing",), ("red",))
  assert words[1::3] == (("nothing",), ("blue",), ("blue",))
  assert words[2::3] == (("green",), ("green",), ("green",))
