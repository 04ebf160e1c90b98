"""Abstract arguments are those of a real run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import batching, build, programs
from mirl_jax import testing_runs as runs
from mirl_jax.learning.optimizer import make_optimizer
from mirl_jax.learning.state import new_state
from mirl_jax.policy.abstract import count_params
from mirl_jax.rewards.assess import LEAF_REWARDS
from mirl_jax.start import abstract, place_state, start_params

SIZES = (
  "--config.data.prompt_buckets=(64,)",
  "--config.data.patch_buckets=(36,)",
)
LORA = (
  "--config.policy.train.vision=frozen",
  "--config.policy.train.merger=frozen",
  "--config.policy.train.text=lora",
  "--config.policy.param_dtype=bfloat16",
)


@functools.cache  # tracing is most of a test
def made(*flags):
  config = runs.small_config(*SIZES, *flags)
  vlm = build.make_policy(config).config
  return config, programs.device_programs(config, vlm, jax.devices()[:1])


def shapes(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)


@pytest.mark.parametrize("flags", [(), LORA], ids=["full", "lora"])
def test_the_state_is_that_of_a_run(flags):
  config, found = made(*flags)
  update = next(p for p in found if p.name == "update")
  state, _, _, frozen = update.arguments
  policy = build.make_policy(config)
  trained, rest = start_params(config, policy)
  optimizer = make_optimizer(config.optimizer.to_dict(), config.train.steps)
  real = new_state(trained, optimizer, reference=True, ema=False)
  assert shapes(state) == shapes(abstract(place_state(real, policy)))
  assert shapes(frozen) == shapes(abstract(rest))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("view", ["blank", "removed", "other"])
def test_prompts_are_those_of_a_batch(view, dtype):
  config, found = made(
    f"--config.mi.view={view}",
    "--config.mi.views=1",
    f"--config.policy.dtype={dtype}",
  )
  _, prompts, views, key, *_ = found[0].arguments
  policy = build.make_policy(config)
  batcher = batching.make_batcher(config, policy, build.make_mi(config))
  source = build.make_source(config, "train", policy)
  examples = list(build.first_examples(source, config.train.questions))
  real, real_views = batcher.batch(examples)
  assert shapes(prompts) == shapes(abstract(real))
  if view == "removed":  # a bucket of their own; no patches
    assert views.patches.shape[2] == real_views.patches.shape[2] == 0
    assert views.tokens.shape[:2] == real_views.tokens.shape[:2]
  else:
    assert shapes(views) == shapes(abstract(real_views))
  assert key.dtype == build.place_key(0, policy).dtype


def test_rewards_are_those_that_assess_gives():
  _, found = made()
  _, tree, rewards, _ = found[1].arguments
  describe, reason = tree.levels
  assert set(rewards["describe"]) == {"exact"}
  assert set(rewards["reason"]) == {"exact", "correct", "format", "score"}
  assert rewards["describe"]["exact"].shape == describe.finished.shape
  assert rewards["reason"]["correct"].shape == reason.finished.shape


def test_programs_of_a_step_and_of_an_evaluation():
  config, found = made("--config.train.sample_parts=2")
  assert [(p.name, p.per_step) for p in found] == [
    ("sample", 2),
    ("update", 1),
    ("evaluate greedy", 0),
    ("evaluate sampled", 0),
  ]
  questions = config.train.questions
  assert len(found[0].arguments[1].tokens) == questions // 2
  assert len(found[1].arguments[1].prompts.tokens) == questions


def test_a_program_that_the_host_cuts_is_two():
  _, found = made("--config.program.keep.by=oracle")
  assert [p.name for p in found][:2] == ["sample 1", "sample 2"]
  *_, carry, scores = found[1].arguments
  level = carry[1][0]
  assert scores.shape == (4, np.prod(level.finished.shape[1:]))


def test_what_lies_beside_is_the_optimisers_and_unread_roles():
  """Float32 throughout: two moments beside the policy and its start."""
  _, found = made("--config.mi.scorer=policy")
  sample, update, greedy, _ = found
  weights, prompts, views, *_ = sample.arguments
  params = 4 * count_params(weights.roles["policy"])
  assert 2 * params < sample.beside < 2.01 * params
  batch = programs.local_bytes((prompts, views))
  assert update.beside == batch  # the next step's
  assert greedy.beside == sample.beside + batch
  _, found = made("--config.mi.scorer=reference")
  assert found[0].beside == sample.beside  # the start is read, and resident


def test_parts_of_a_batch_wait_beside_the_one_that_is_sampled():
  _, (whole, *_) = made()
  _, (half, update, *_) = made("--config.train.sample_parts=2")
  _, prompts, views, *_ = half.arguments
  batch = programs.local_bytes((prompts, views))
  assert half.beside == whole.beside + batch
  assert update.beside == 2 * batch


def test_patches_are_of_the_policys_dtype():
  _, (sample, update, *_) = made("--config.policy.dtype=bfloat16")
  for prompts in (*sample.arguments[1:3], update.arguments[1].prompts):
    assert prompts is None or prompts.patches.dtype == jnp.bfloat16


def test_a_lora_policys_base_is_one_argument():
  _, (full, *_) = made()
  _, (sample, *_) = made(*LORA)
  policy, reference = (
    len(jax.tree.leaves(sample.arguments[0].roles[name]))
    for name in ("policy", "reference")
  )
  assert len(sample.arguments[0].arrays) == policy
  assert len(full.arguments[0].arrays) == 2 * reference


def test_a_leaf_that_stands_twice_lies_there_once():
  x = jax.device_put(jnp.zeros((4, 8)))
  assert programs.local_bytes([x, x]) == 128
  assert programs.local_bytes([x, x + 1]) == 256


def test_lengths_must_be_given():
  config = runs.small_config(*runs.OPEN)
  vlm = build.make_policy(config).config
  with pytest.raises(ValueError, match="data.prompt_buckets and"):
    programs.device_programs(config, vlm, jax.devices()[:1])


def test_rewards_of_ones_own_are_among_those_of_the_update():
  config = runs.small_config()
  names = {"describe": ("exact",), "reason": ("exact", *LEAF_REWARDS)}
  assert programs.reward_names(config) == names
  with config.unlocked():
    config.reward.file = "mine.py"  # which nothing runs
    config.credit.describe["children_own/clear"] = {"weight": 1.0}
  names["reason"] += ("own/clear", "own_failed")
  assert programs.reward_names(config) == names
