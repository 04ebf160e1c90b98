import pytest

from benchmarks.headline.arms import arm, label
from mirl_jax import build
from mirl_jax.rollout.program import complete_trajectories


def test_names_are_shapes():
  c = arm("likelihood-8-4-2")
  assert c.program.describe.fanout == 8
  assert (c.program.keep.k, c.program.keep.by) == (4, "likelihood")
  assert c.program.reason.fanout == 2
  assert arm("mirl-8-4-2").program.keep.by == "mi"
  assert arm("grpo-12").program.response.fanout == 12
  paper = build.make_program(arm("paper"), True)
  assert complete_trajectories(paper) == 12
  for name in ("paper", "grpo-4", "mirl-6-3-1"):
    build.make_program(arm(name), True)


def test_fields_are_set_as_python_writes_them():
  c = arm("grpo-8 loss.entropy=-0.01 credit.response.correct.std=False")
  assert c.loss.entropy == -0.01
  assert c.credit.response.correct.std is False
  assert arm("mirl-6-3-1 mi.view=masked").mi.view == "masked"
  assert (
    label("random-6-3-1 mi.clip=1.0") == "MIRL 6/3x1, random keep mi.clip=1.0"
  )


@pytest.mark.parametrize("name", ["mirl", "grpo-", "best-10-6-1", ""])
def test_an_unknown_arm_is_named(name):
  with pytest.raises(ValueError, match="give paper, grpo-G"):
    arm(name or "x")


@pytest.mark.parametrize("field", ["mi.nothing", "nothing.mi", "seed.x"])
def test_an_unknown_field_is_named(field):
  with pytest.raises(ValueError, match=field):
    arm(f"mirl-10-6-1 {field}=1")
