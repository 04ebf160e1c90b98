import collections
import hashlib
import itertools
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import mirl_jax
from mirl_jax.worlds.dials import BROKEN, WARM, Dials
from mirl_jax.worlds.items import SPLITS, make_item

ORACLE = """
import hashlib
from mirl_jax.worlds.dials import WARM
from mirl_jax.worlds.items import make_item
print(*(hashlib.sha256(make_item(9, i, WARM, "tune").images[0].tobytes()
  + make_item(9, i, WARM, "tune").reasoning.encode()).hexdigest()
  for i in range(3)))
"""


def plain(item):
  """Everything of an item that can be compared."""
  return (
    item.images[0].tobytes(),
    json.dumps(item.extra, sort_keys=True),
    item.id,
    item.question,
    item.answer,
    item.answer_type,
    item.category,
    item.description,
    item.reasoning,
    item.regions,
  )


def test_equal_arguments_give_equal_bits():
  one = [plain(make_item(4, i, WARM, "train")) for i in range(50)]
  two = [plain(make_item(4, i, WARM, "train")) for i in reversed(range(50))]
  assert one == two[::-1]


def test_another_process_gives_the_same_bits():
  root = pathlib.Path(mirl_jax.__file__).parents[1]
  done = subprocess.run(
    [sys.executable, "-c", ORACLE],
    capture_output=True,
    text=True,
    check=True,
    cwd=root,
  )
  found = done.stdout.split()
  expected = []
  for i in range(3):
    item = make_item(9, i, WARM, "tune")
    content = item.images[0].tobytes() + item.reasoning.encode()
    expected.append(hashlib.sha256(content).hexdigest())
  assert found == expected


def test_seed_index_and_split_each_matter():
  keys = itertools.product((0, 1, 2**64 - 1), (0, 1, 10**15), SPLITS)
  items = [plain(make_item(s, i, BROKEN, split))[0] for s, i, split in keys]
  assert len(set(items)) == len(items)


def content(item):
  scene = item.extra["scene"]
  return (
    tuple(
      (t["cell"], t["color"], t["shape"], t["size"]) for t in scene["things"]
    ),
    tuple((b["color"], b["height"]) for b in scene["bars"]),
  )


def test_splits_share_no_content():
  """Charts have 3,840 contents, so that independent draws would collide."""
  dials = Dials(kinds=(("chart", 1.0),))
  seen = {
    split: {content(make_item(s, i, dials, split)) for i in range(n)}
    for s, (split, n) in enumerate(
      (("train", 500), ("tune", 200), ("test", 200))
    )
  }
  for one, two in itertools.combinations(seen.values(), 2):
    assert not one & two
  again = {content(make_item(7, i, dials, "train")) for i in range(200)}
  assert again & seen["train"]


def test_splits_stay_apart_across_seeds_and_dials(warm, broken):
  trained = {content(item) for item in warm}
  assert not trained & {content(item) for item in broken}


def test_fields(broken):
  types = collections.defaultdict(set)
  for item in broken:
    types[item.category].add(item.answer_type)
    (image,) = item.images
    assert image.dtype == np.uint8
    assert image.shape == (48, 48, 3)
    assert len(item.regions) == 9
    assert json.loads(json.dumps(item.extra)) == item.extra
    assert len(item.extra["boxes"]) >= 1 or "nothing" in item.description
  yes_no = {kind for kind, found in types.items() if found == {"yes_no"}}
  assert yes_no == {"exist", "relation", "compare"}
  assert all(len(found) == 1 for found in types.values())
  assert len({item.id for item in broken}) == len(broken)


def test_regions_agree_with_the_description(broken):
  """The words of a cell are what a true description says of it."""
  for item in broken[:600]:
    if item.category == "chart":
      continue
    for part in item.description.split(", "):
      cell, *words = part.split()
      words = tuple(w for w in words if w not in ("big", "small"))
      assert item.regions["abcdefghi".index(cell)] == words


@pytest.mark.parametrize(
  ("arguments", "name"),
  [
    ((-1, 0, BROKEN, "train"), "seed"),
    ((2**64, 0, BROKEN, "train"), "seed"),
    ((0, -1, BROKEN, "train"), "index"),
    ((0, 2**62, BROKEN, "train"), "index"),
    ((0, 0, BROKEN, "validation"), "split"),
  ],
)
def test_bad_keys_are_named(arguments, name):
  with pytest.raises(ValueError, match=name):
    make_item(*arguments)
