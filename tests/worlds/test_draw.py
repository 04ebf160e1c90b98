import dataclasses

import numpy as np
import pytest

from mirl_jax.worlds.dials import Dials
from mirl_jax.worlds.draw import (
  PALETTE,
  Look,
  draw,
  place,
  sample_look,
  shape_mask,
)
from mirl_jax.worlds.items import item_from_extra, make_item
from mirl_jax.worlds.scene import (
  CELL,
  COLORS,
  SHAPES,
  SIZES,
  Bar,
  Scene,
  Thing,
)

CLEAN = Dials(noise=(0.0, 0.0), occlusion=0.0, clutter=0, lighting=0.0)
PLAIN = Look(0.5, 1.0, (0.0, 0.0), 0.0, (), ())


def rng(seed=0):
  return np.random.default_rng(seed)


def nearest_color(rgb):
  names = list(PALETTE)
  distance = [np.abs(np.asarray(PALETTE[n]) - rgb / 255).sum() for n in names]
  return names[int(np.argmin(distance))]


def background(image):
  """Pixels that are grey: equal channels."""
  return (image == image[..., :1]).all(-1)


def test_objects_have_their_colour_and_boxes_hold_their_pixels():
  for index in range(150):
    item = make_item(5, index, CLEAN, "train")
    graph = item_from_extra(item.extra).scene
    colored = ~background(item.images[0])
    inside = np.zeros_like(colored)
    for part in (*graph.things, *graph.bars):
      left, top, right, bottom = part.box
      inside[top:bottom, left:right] = True
      spot = item.images[0][top:bottom, left:right]
      mask = colored[top:bottom, left:right]
      assert nearest_color(spot[mask].mean(0)) == part.color
      # The box is tight: every edge of it touches a coloured pixel.
      assert mask.any(0).all()
      assert mask.any(1).all()
    assert not colored[~inside].any()


def test_sizes_and_shapes_are_distinct():
  for shape in SHAPES:
    big, small = (shape_mask(shape, size) for size in ("big", "small"))
    assert big.sum() > 1.5 * small.sum()
    assert max(big.shape) <= CELL
  for size in SIZES:
    fill = [shape_mask(shape, size).mean() for shape in SHAPES]
    # circle, square, triangle and star fill their boxes differently
    assert np.diff(np.sort(fill)).min() > 0.04


def test_masks_are_cached_and_read_only():
  mask = shape_mask("star", "big")
  assert mask is shape_mask("star", "big")
  with pytest.raises(ValueError, match="read-only"):
    mask[0, 0] = 1
  with pytest.raises(ValueError, match="moon"):
    shape_mask("moon", "big")


def test_jitter_moves_a_thing_by_up_to_two_pixels():
  for shape in SHAPES:
    boxes = {place(4, shape, "small", rng(i)) for i in range(200)}
    lefts = sorted({box[0] for box in boxes})
    assert len(lefts) == 5
    assert lefts[-1] - lefts[0] == 4
    assert place(4, shape, "small", rng(), jitter=0) in boxes


def test_bar_heights_are_proportional():
  for height in (1, 2, 3, 4):
    bar = Bar(1, "red", height)
    image = draw(Scene("chart", bars=(bar,)), PLAIN, rng())
    middle = image[:, 24]
    assert (middle[:, 0] > middle[:, 1] + 50).sum() == 11 * height


def test_noise_has_its_standard_deviation():
  for sigma in (0.05, 0.1):
    look = dataclasses.replace(PLAIN, sigma=sigma)
    image = draw(Scene("shapes"), look, rng(1)) / 255
    # 6912 samples: relative error of a standard deviation under 1 %.
    assert abs(image.std() - sigma) < 0.04 * sigma


def test_noise_is_drawn_from_its_range():
  scene = Scene("shapes")
  dials = Dials(noise=(0.1, 0.2))
  sigmas = [sample_look(scene, dials, rng(i)).sigma for i in range(300)]
  assert 0.1 <= min(sigmas) < 0.11
  assert 0.19 < max(sigmas) <= 0.2


def test_occlusion_covers_a_part_of_a_thing_never_all():
  dials = dataclasses.replace(CLEAN, occlusion=1.0)
  shares = []
  for index in range(150):
    clean = make_item(5, index, CLEAN, "train")
    hidden = make_item(5, index, dials, "train")
    graph = item_from_extra(clean.extra).scene
    assert len(hidden.extra["occluded"]) == len(graph.boxes())
    for left, top, right, bottom in graph.boxes():
      box = np.s_[top:bottom, left:right]
      before = ~background(clean.images[0][box])
      after = ~background(hidden.images[0][box])
      shares.append((before & ~after).sum() / before.sum())
  assert min(shares) > 0.02
  assert max(shares) < 0.7


def test_occlusion_rate():
  dials = dataclasses.replace(CLEAN, occlusion=0.1)
  things = covered = 0
  for index in range(400):
    item = make_item(6, index, dials, "train")
    scene = item.extra["scene"]
    things += len(scene["things"]) + len(scene["bars"])
    covered += len(item.extra["occluded"])
  sigma = np.sqrt(things * 0.1 * 0.9)
  assert abs(covered - 0.1 * things) < 4 * sigma


def test_clutter_is_small_and_bounded():
  dials = dataclasses.replace(CLEAN, clutter=5)
  looks = [sample_look(Scene("shapes"), dials, rng(i)) for i in range(200)]
  numbers = {len(look.specks) for look in looks}
  assert numbers == {0, 1, 2, 3, 4, 5}
  image = draw(Scene("shapes"), looks[-1], rng())
  assert (~background(image)).sum() <= 4 * 5


def test_lighting_tilts_a_picture():
  tilted = dataclasses.replace(PLAIN, gradient=(0.4, 0.0))
  image = draw(Scene("shapes"), tilted, rng()).astype(float)
  assert image[:, -1].mean() - image[:, 0].mean() == pytest.approx(51, abs=2)
  assert image[0].mean() == pytest.approx(image[-1].mean(), abs=1)
  bright = draw(Scene("shapes"), dataclasses.replace(PLAIN, gain=1.2), rng())
  assert bright.mean() == pytest.approx(0.6 * 255, abs=1)


def test_every_thing_can_be_told_apart_from_any_other():
  """Template matching on the drawn box finds colour, shape and size."""
  templates = {}
  for color in COLORS:
    for shape in SHAPES:
      for size in SIZES:
        box = place(0, shape, size, rng(), jitter=0)
        thing = Thing("a", color, shape, size, box)
        image = draw(Scene("shapes", (thing,)), PLAIN, rng())
        templates[color, shape, size] = image[:CELL, :CELL].astype(float)
  names = list(templates)
  stack = np.stack([templates[name] for name in names])
  right = 0
  for i, name in enumerate(names):
    box = place(0, name[1], name[2], rng(), jitter=0)
    thing = Thing("a", *name, box)
    look = dataclasses.replace(PLAIN, sigma=0.1)
    image = draw(Scene("shapes", (thing,)), look, rng(i))[:CELL, :CELL]
    best = np.argmin(((stack - image) ** 2).sum((1, 2, 3)))
    right += names[best] == name
  assert right == len(names)
