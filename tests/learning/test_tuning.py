"""Frozen parts and adapters in the update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from mirl_jax.learning import update as up
from mirl_jax.learning.credit import Guards, Term
from mirl_jax.learning.optimizer import make_optimizer
from mirl_jax.learning.state import new_state, roles
from mirl_jax.learning.update import Loss, build_update, score_tree
from mirl_jax.policy import lora as lr
from mirl_jax.policy.parts import Lora, Training, join, part_of, split
from mirl_jax.rollout.program import Sample
from mirl_jax.testing import random_params

SHAPE = ((1, 4, 4), (2, 2, 5))
STAGES = (Sample("see", 4, 4, "</d>"), Sample("think", 2, 5, "</a>"))
TERMS = (Term("see", "mi", 0.5), Term("think", "correct"))
LORA = Lora(rank=2, alpha=4.0)


@pytest.fixture(scope="module")
def rewards():
  rng = np.random.default_rng(0)
  correct = rng.integers(0, 2, (4, 2, 2))
  correct[:, 0, 0], correct[:, 0, 1] = 1, 0
  return {"see": {}, "think": {"correct": jnp.asarray(correct, jnp.float32)}}


@pytest.fixture(scope="module")
def tree(small, random_tree):
  return random_tree(small, SHAPE, 0)


def adapted(config, training):
  leaves = lr.adapter_leaves(
    config, lr.adapted_modules(config, training), training.lora
  )
  new = lr.init_adapters(leaves, training.lora, 0)
  return lr.extend(
    random_params(config), {path: jnp.asarray(x) for path, x in new.items()}
  )


def one_step(config, training, tree, rewards, loss, quick_jit, rate=0.1):
  params = adapted(config, training)
  trained, frozen = split(params, training)
  optimizer = optax.sgd(rate)
  run = quick_jit(
    build_update(config, STAGES, TERMS, Guards(), loss, optimizer)
  )
  state = new_state(trained, optimizer, loss.needs_reference, False)
  after, metrics, _ = run(state, tree, rewards, frozen)
  return params, frozen, after, metrics


def flat(tree):
  return flatten_dict(tree, sep="/")


@pytest.mark.parametrize("part", ["vision", "merger", "text"])
def test_frozen_parts_stay_and_the_others_move_as_in_full_training(
  small, tree, rewards, quick_jit, part
):
  run = (tree, rewards, Loss(micro_batches=2), quick_jit)
  _, _, full, _ = one_step(small, Training(), *run)
  training = Training(**{part: "frozen"})
  params, frozen, after, _ = one_step(small, training, *run)
  everything, moved = flat(full.params), flat(after.params)
  assert {part_of(path) for path in flat(frozen)} == {part}
  assert {part_of(path) for path in moved} == {"vision", "merger", "text"} - {
    part
  }
  start = flat(params)
  for path, leaf in moved.items():
    np.testing.assert_allclose(leaf, everything[path], atol=1e-6)
    if path.endswith("/kernel"):
      assert not np.allclose(leaf, start[path], atol=1e-7), path


def test_the_optimiser_holds_nothing_for_frozen_parts(small):
  values = {
    "lr": 0.1,
    "schedule": "constant",
    "warmup": 0,
    "end": 0.0,
    "b1": 0.9,
    "b2": 0.9,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "clip_norm": 1.0,
    "factor": dict.fromkeys(("vision", "merger", "text", "embedding"), 1.0),
  }
  training = Training("frozen", "frozen", "lora", LORA)
  trained, _ = split(adapted(small, training), training)
  optimizer = make_optimizer(values, 3)
  state = new_state(trained, optimizer, True, True)
  count = sum(x.size for x in jax.tree.leaves(trained))
  moments = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)
  assert moments == 2 * count
  assert state.reference is None  # the base with adapters off: no copy
  assert sum(x.size for x in jax.tree.leaves(state.ema)) == count


def flops(config, training, tree, forward=False):
  """Floating-point operations of a compiled gradient (or forward pass)."""
  trained, frozen = split(adapted(config, training), training)
  masks = [
    level.sampled.reshape(4, -1, level.mask.shape[-1]) for level in tree.levels
  ]
  ones = [jnp.ones(m.shape, jnp.float32) for m in masks]
  fixed = up.Fixed([x[..., 0] for x in ones], ones, ones, ones, None)

  def run(trained, tree):
    if forward:
      params = join(trained, frozen)
      return up.tree_loss(params, config, tree, STAGES, fixed, Loss())[0]
    return up.gradient(
      trained, config, tree, STAGES, fixed, Loss(), frozen=frozen
    )[0]

  compiled = jax.jit(run).lower(trained, tree).compile()
  return compiled.cost_analysis()["flops"]


def test_frozen_parts_skip_their_backward_pass(small, tree):
  """A backward pass costs about two forward ones: in inputs and weights."""
  full = flops(small, Training(), tree)
  forward = flops(small, Training(), tree, forward=True)
  no_tower = flops(small, Training("frozen", "frozen", "full"), tree)
  tower = flops(small, Training("full", "full", "frozen"), tree)
  lora = flops(small, Training("frozen", "frozen", "lora", LORA), tree)
  assert 2.5 * forward < full < 3.5 * forward
  # The tower and merger are most of this small model's work.
  assert no_tower < 0.75 * full
  assert forward < no_tower
  # The decoder's weight gradients are saved, not the way through it.
  assert tower < 0.95 * full
  # Adapters save the weight gradients of what they adapt.
  assert lora < no_tower


def test_a_lora_policys_reference_is_its_base(small, tree, rewards, quick_jit):
  """After a step the KL to the reference is that to the start."""
  training = Training("frozen", "lora", "lora", LORA)
  loss = Loss(kl={"see": 0.1, "think": 0.1})
  params, frozen, after, metrics = one_step(
    small, training, tree, rewards, loss, quick_jit, rate=5.0
  )
  # On the first step policy and reference are the same.
  assert float(metrics["loss/kl/think"]) == pytest.approx(0, abs=1e-6)
  found = roles(after, frozen)
  base = lr.without_adapters(params)
  jax.tree.map(np.testing.assert_array_equal, found["reference"], base)
  run = quick_jit(lambda p: score_tree(p, small, tree, STAGES)[0])
  for ours, theirs, now in zip(
    run(found["reference"]), run(base), run(found["policy"]), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)
    assert not np.allclose(ours, now, atol=1e-4)


def test_a_mixed_policys_reference_keeps_what_full_training_moves(
  small, tree, rewards, quick_jit
):
  training = Training("frozen", "full", "lora", LORA)
  loss = Loss(kl={"think": 0.1})
  params, frozen, after, _ = one_step(
    small, training, tree, rewards, loss, quick_jit
  )
  assert {part_of(path) for path in flat(after.reference)} == {"merger"}
  base = lr.without_adapters(params)
  jax.tree.map(
    np.testing.assert_array_equal, roles(after, frozen)["reference"], base
  )


def test_roles_are_there_only_where_they_are_kept(small):
  params = random_params(small)
  bare = new_state(params, optax.sgd(0.1), False, False)
  assert set(roles(bare)) == {"policy"}
  full = new_state(params, optax.sgd(0.1), True, True)
  assert set(roles(full)) == {"policy", "reference", "ema"}
