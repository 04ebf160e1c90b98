import dataclasses
import json

import pytest

from mirl_jax.worlds.dials import (
  BROKEN,
  KINDS,
  WARM,
  Dials,
  dials_from_dict,
)
from mirl_jax.worlds.items import make_item


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("noise", (0.3, 0.2)),
    ("noise", (-0.1, 0.2)),
    ("occlusion", 1.5),
    ("lighting", -0.1),
    ("clutter", -1),
    ("prior", 2.0),
    ("hallucinate", float("nan")),
    ("slip", -1.0),
    ("reasoning", "medium"),
    ("kinds", (("exist", 1.0), ("guess", 1.0))),
    ("kinds", (("exist", 0.0),)),
    ("kinds", (("exist", 1.0), ("exist", 2.0))),
    ("kinds", ()),
  ],
)
def test_bad_dials_are_named(name, value):
  with pytest.raises(ValueError, match=name):
    Dials(**{name: value})


def test_dials_from_json():
  text = json.dumps(dataclasses.asdict(WARM))
  assert dials_from_dict(json.loads(text)) == WARM
  with pytest.raises(ValueError, match="nois"):
    dials_from_dict({"nois": (0.0, 0.1)})


def test_presets_differ_as_the_failure_needs():
  assert WARM.prior > 0
  assert WARM.hallucinate > 0
  assert WARM.slip > 0
  assert BROKEN.prior == BROKEN.hallucinate == BROKEN.slip == 0


@pytest.mark.parametrize(
  ("dial", "value"),
  [
    ("noise", (0.3, 0.3)),
    ("occlusion", 1.0),
    ("clutter", 60),
    ("lighting", 0.9),
    ("prior", 1.0),
    ("hallucinate", 1.0),
    ("slip", 1.0),
    ("reasoning", "short"),
    ("kinds", (("add", 1.0),)),
  ],
)
def test_each_dial_changes_its_part_and_no_other(dial, value):
  base = Dials()
  turned = dataclasses.replace(base, **{dial: value})
  parts = {"picture": 0, "content": 0, "description": 0, "reasoning": 0}
  number = 40
  for i in range(number):
    one, two = (make_item(3, i, d, "train") for d in (base, turned))
    same = one.extra["scene"] == two.extra["scene"]
    parts["content"] += not same or one.question != two.question
    parts["picture"] += (one.images[0] != two.images[0]).any()
    parts["description"] += one.description != two.description
    parts["reasoning"] += one.reasoning != two.reasoning
  expected = {
    "noise": ("picture",),
    "occlusion": ("picture",),
    "clutter": ("picture",),
    "lighting": ("picture",),
    "prior": ("content", "picture", "description", "reasoning"),
    "hallucinate": ("description", "reasoning"),
    "slip": ("reasoning",),
    "reasoning": ("reasoning",),
    "kinds": ("content", "picture", "description", "reasoning"),
  }[dial]
  for part, changed in parts.items():
    if part in expected:
      assert changed > number / 4, part
    else:
      assert changed == 0, part


def test_kinds_follow_their_weights():
  dials = Dials(kinds=(("exist", 3.0), ("odd", 1.0), ("add", 0.0)))
  kinds = [make_item(0, i, dials, "train").category for i in range(240)]
  assert set(kinds) == {"exist", "odd"}
  # Binomial(240, 3/4): standard deviation 6.7.
  assert abs(kinds.count("exist") - 180) < 30


def test_default_asks_every_kind(broken):
  seen = [item.category for item in broken]
  for kind in KINDS:
    # Binomial(1500, 1/9): 167 with standard deviation 12.
    assert abs(seen.count(kind) - len(broken) / 9) < 55, kind
