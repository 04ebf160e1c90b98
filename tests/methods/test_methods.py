import importlib

import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import build
from mirl_jax.config import get_config, method_names
from mirl_jax.learning import credit
from mirl_jax.rewards.assess import LEAF_REWARDS
from mirl_jax.rollout.program import Keep, complete_trajectories, samples
from mirl_jax.rollout.tree import Level

METHODS = method_names()


def levels_of(program, rng, mi):
  """Random levels of two questions, as a rollout would leave them."""
  levels, rows = [], None
  keep = None
  for stage in program:
    if isinstance(stage, Keep):
      keep = stage.k if stage.by != "all" else rows
      continue
    k = 1 if rows is None else (keep or rows)
    parent = np.zeros((2, 1), np.int32)
    if levels:
      parent = np.stack([rng.permutation(rows)[:k] for _ in range(2)])
      kept = np.zeros((2, rows), bool)
      kept[np.arange(2)[:, None], parent] = True
      above = levels[-1]
      levels[-1] = above.replace(
        kept=jnp.asarray(kept.reshape(above.kept.shape))
      )
    shape = (2, k, stage.fanout)
    real = jnp.asarray(np.arange(6) < rng.integers(1, 7, (*shape, 1)))
    scores = {}
    if mi is not None and mi.stage == stage.name:
      names = ("mi", "clean", "prior")
      scores = {
        n: jnp.asarray(rng.normal(size=shape), jnp.float32) for n in names
      }
    levels.append(
      Level(
        tokens=jnp.zeros((*shape, 6), jnp.int32),
        mask=real,
        sampled=real,
        logprobs=jnp.zeros((*shape, 6)),
        parent=jnp.asarray(parent, jnp.int32),
        finished=jnp.ones(shape, bool),
        kept=jnp.ones(shape, bool),
        scores=scores,
      )
    )
    rows, keep = k * stage.fanout, None
  return tuple(levels)


def advantages(config, seed=0):
  program, mi = build.make_program(config, True), build.make_mi(config)
  rng = np.random.default_rng(seed)
  levels = levels_of(program, rng, mi)
  names = tuple(stage.name for stage in samples(program))
  leaf = levels[-1].finished.shape
  rewards = {
    names[-1]: {
      name: jnp.asarray(rng.random(leaf) < 0.5, jnp.float32)
      for name in LEAF_REWARDS
    }
  }
  guards = credit.Guards(**config.guards.to_dict())
  memory = credit.empty_memory()
  terms = build.make_terms(config)
  for _ in range(2):  # the regression predicts from the second step on
    found, memory, _ = credit.compute(
      levels, names, rewards, terms, guards, memory
    )
  return dict(zip(names, map(np.asarray, found), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_tells_its_algorithm_and_its_source(method):
  text = importlib.import_module(f"mirl_jax.methods.{method}").__doc__
  assert "for each question" in text
  assert "arXiv" in text


@pytest.mark.parametrize("method", METHODS)
def test_a_method_pays_every_stage_that_it_samples(method):
  config = get_config(method)
  program = build.make_program(config, training=True)
  assert complete_trajectories(program) >= 2
  found = advantages(config)
  for stage in samples(program):
    assert np.isfinite(found[stage.name]).all()
    assert np.abs(found[stage.name]).max() > 0, stage.name
  build.make_loss(config)


@pytest.mark.parametrize("method", METHODS)
def test_every_weight_of_the_credit_changes_the_advantage(method):
  config = get_config(method)
  start = advantages(config)
  for stage, sources in config.credit.items():
    for source, term in sources.items():
      before = term.weight
      term.weight = before + 0.37
      moved = advantages(config)
      term.weight = before
      assert np.abs(moved[stage] - start[stage]).max() > 1e-4, (stage, source)
      for other in start.keys() - {stage}:
        assert (moved[other] == start[other]).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_baseline_and_spread_of_the_credit_is_read(method):
  config = get_config(method)
  start = advantages(config)
  for stage, sources in config.credit.items():
    for source, term in sources.items():
      if term.weight == 0:
        continue
      term.std = not term.std
      assert not np.allclose(advantages(config)[stage], start[stage]), source
      term.std = not term.std
      before, term.baseline = term.baseline, "none"
      assert not np.allclose(advantages(config)[stage], start[stage]), source
      term.baseline = before


@pytest.mark.parametrize("method", METHODS)
def test_every_field_of_a_stage_is_read(method):
  config = get_config(method)
  start = build.make_program(config, training=False)
  values = {
    "fanout": 11,
    "max_tokens": 3,
    "stop": "x",
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 3,
    "halvings": 2,
    "k": 1,
    "by": "random",
  }
  for name in config.program.stages:
    stage = config.program[name]
    for field in stage:
      before = stage[field]
      stage[field] = values[field]
      assert build.make_program(config, training=False) != start, field
      stage[field] = before
  assert build.make_program(config, training=False) == start


def test_mirl_screens_and_grpo_does_not():
  """12 complete trajectories in the paper's shape, 16 in the baseline's."""
  paper = build.make_program(get_config("mirl_paper"), True)
  plain = build.make_program(get_config("grpo"), True)
  assert complete_trajectories(paper) == 12
  assert complete_trajectories(plain) == 16
  assert build.make_mi(get_config("grpo")) is None
  assert not any(isinstance(stage, Keep) for stage in plain)


def test_the_papers_rewards_are_decoupled():
  """Correctness does not reach the descriptions, nor MI the reasonings."""
  config = get_config("mirl_paper")
  found = [advantages(config, seed) for seed in range(2)]
  assert all(np.abs(f["describe"]).max() > 0 for f in found)
  sources = {stage: set() for stage in ("describe", "reason")}
  for term in build.make_terms(config):
    sources[term.stage].add(term.source)
  assert sources == {"describe": {"mi"}, "reason": {"correct"}}
  assert build.make_loss(config).needs_reference
