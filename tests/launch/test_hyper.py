import itertools
import math

import pytest

from launch import hyper
from mirl_jax.command_line import DEFAULT_CONFIG, load_config, override


def values(points: hyper.Points) -> list[tuple]:
  return [tuple(point.values()) for point in points]


@pytest.mark.parametrize("sizes", [(1,), (3,), (2, 3), (3, 1, 2), (2, 2, 2, 2)])
def test_product_is_every_combination_last_fastest(sizes):
  factors = [hyper.sweep(f"f{i}", range(size)) for i, size in enumerate(sizes)]
  points = hyper.product(*factors)
  assert len(points) == math.prod(sizes)
  assert values(points) == list(itertools.product(*map(range, sizes)))


def test_product_with_fixed_and_with_nothing():
  swept = hyper.sweep("a", "xyz")
  assert hyper.product(swept) == swept
  assert hyper.product(swept, hyper.fixed("b", 1)) == [
    {"a": letter, "b": 1} for letter in "xyz"
  ]
  assert hyper.product() == [{}]


def test_zipped_goes_in_step():
  points = hyper.zipped(hyper.sweep("a", (1, 2)), hyper.sweep("b", "xy"))
  assert points == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
  with pytest.raises(ValueError, match=r"unequal lengths \[2, 3\]"):
    hyper.zipped(hyper.sweep("a", (1, 2)), hyper.sweep("b", (1, 2, 3)))


def test_chain_keeps_order_and_drops_repeats():
  first, second = hyper.sweep("a", (3, 1)), hyper.sweep("a", (1, 2))
  assert values(hyper.chain(first, second)) == [(3,), (1,), (2,)]
  # A product distributes over a chain.
  seeds = hyper.sweep("seed", range(2))
  assert hyper.product(hyper.chain(first, second), seeds) == hyper.chain(
    hyper.product(first, seeds), hyper.product(second, seeds)
  )


@pytest.mark.parametrize("join", [hyper.product, hyper.zipped])
def test_a_field_is_set_once(join):
  with pytest.raises(ValueError, match="field a is set twice"):
    join(hyper.sweep("a", (1, 2)), hyper.sweep("a", (1, 2)))


def test_a_sweep_has_values():
  with pytest.raises(ValueError, match="sweep of a: no values"):
    hyper.sweep("a", ())


def test_flags_reach_the_config_with_their_types():
  point = {
    "optimizer.lr": 3e-7,
    "train.steps": 7,
    "eval.screen": True,
    "guards.trust": False,
    "keep.by": "likelihood",
    "data.prompt_buckets": (8, 16),
  }
  fields = {
    f"program.{k}" if k == "keep.by" else k: v for k, v in point.items()
  }
  config = override(load_config(DEFAULT_CONFIG), hyper.flags(fields))
  for field, value in fields.items():
    found = config
    for part in field.split("."):
      found = found[part]
    assert found == value
    assert type(found) is type(value)


def test_flags_refuse_what_they_cannot_say():
  with pytest.raises(ValueError, match="field a: None"):
    hyper.flags({"a": None})


def test_names_are_directories_and_distinct():
  points = [
    {"optimizer.lr": 1e-4, "seed": 0},
    {"optimizer.lr": 1e-4, "seed": 1},
    {"policy.path": "models/a"},
    {"policy.path": "models_a"},
    {"policy.path": "x" * 300},
    {"policy.path": "x" * 301},
    {"policy.path": ".."},
    {"data.prompt_buckets": (8, 16)},
    {},
  ]
  names = [hyper.name(point) for point in points]
  assert names[0] == "optimizer.lr=0.0001,seed=0"
  assert len(set(names)) == len(points)
  for name in names:
    assert name.strip(".")
    assert "/" not in name
    assert len(name) < 200
