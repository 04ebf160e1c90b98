import pytest
from absl.app import UsageError

from benchmarks.headline.setting import Setting, world_fields


def test_fields_of_the_world_are_of_the_config():
  fields = world_fields(["prior=0.6", "noise=(0.1, 0.2)"])
  world = Setting(world=fields).config("grpo-4").world
  assert (world.prior, world.noise) == (0.6, (0.1, 0.2))


def test_a_field_without_a_value_is_refused():
  with pytest.raises(UsageError, match="' 0.2\\)' is no NAME=VALUE"):
    world_fields(["noise=(0.1", " 0.2)"])
