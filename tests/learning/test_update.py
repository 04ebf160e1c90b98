"""The whole update on fixed trees."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mirl_jax.learning import credit, update
from mirl_jax.learning.credit import Guards, Term
from mirl_jax.learning.objectives import Clip, token_weights
from mirl_jax.learning.state import new_state
from mirl_jax.learning.update import Fixed, Loss, build_update, score_tree
from mirl_jax.rollout.program import Sample
from mirl_jax.rollout.tree import flat
from mirl_jax.testing import random_params

SHAPE = ((1, 4, 4), (2, 2, 5))
STAGES = (
  Sample("see", 4, 4, "</d>", 1.0),
  Sample("think", 2, 5, "</a>", 0.8),
)
TERMS = (
  Term("see", "mi", 0.5),
  Term("see", "children:correct", 0.5),
  Term("think", "correct"),
)
B = 4


@pytest.fixture(scope="module")
def params(small):
  return random_params(small, 0)


@pytest.fixture(scope="module")
def tree(small, params, random_tree, quick_jit):
  """A tree whose sampler log-probs are the policy's own: on policy."""
  tree = random_tree(small, SHAPE, 0)
  logprobs, _ = quick_jit(lambda p, t: score_tree(p, small, t, STAGES))(
    params, tree
  )
  levels = tuple(
    level.replace(
      logprobs=jnp.where(level.sampled, lp.reshape(level.sampled.shape), 0.0)
    )
    for level, lp in zip(tree.levels, logprobs, strict=True)
  )
  return tree.replace(levels=levels)


@pytest.fixture(scope="module")
def rewards():
  rng = np.random.default_rng(0)
  correct = rng.integers(0, 2, (B, 2, 2))
  correct[:, 0, 0], correct[:, 0, 1] = 1, 0  # contrast in every question
  return {"see": {}, "think": {"correct": jnp.asarray(correct, jnp.float32)}}


@pytest.fixture(scope="module")
def build(small, quick_jit):
  """Compiled updates by SGD, which show the gradient as it is."""
  cache = {}

  def get(loss: Loss, lr: float = 0.05, terms=TERMS):
    key = (repr(loss), lr, terms)
    if key not in cache:
      optimizer = optax.sgd(lr)
      cache[key] = (
        quick_jit(
          build_update(
            small, STAGES, terms, Guards(), loss, optimizer, ema_decay=0.9
          )
        ),
        lambda params: new_state(params, optimizer, loss.needs_reference, True),
      )
    return cache[key]

  return get


@pytest.fixture(scope="module")
def grads_of(small, quick_jit):
  """Gradient with given old log-probs and importance; ours for the rest."""

  run = quick_jit(
    lambda p, t, f: update.gradient(p, small, t, STAGES, f, Loss())[0]
  )

  def get(params, tree, advantages, old, importance=None):
    masks = [flat(level.sampled) for level in tree.levels]
    fixed = Fixed(
      advantage=[flat(a) for a in advantages],
      weight=token_weights(masks, "token"),
      old=old,
      importance=importance or [jnp.ones(m.shape) for m in masks],
      reference=None,
    )
    return run(params, tree, fixed)

  return get


def logprobs_of(tree):
  return [flat(level.logprobs) for level in tree.levels]


def moved(state, params, lr):
  """The gradient that SGD followed."""
  return jax.tree.map(lambda a, b: (b - a) / lr, state.params, params)


def perturbed(tree, seed=1, scale=0.5):
  rng = np.random.default_rng(seed)
  return tree.replace(
    levels=tuple(
      level.replace(
        logprobs=jnp.where(
          level.sampled,
          level.logprobs + rng.normal(0, scale, level.sampled.shape),
          0.0,
        ).astype(jnp.float32)
      )
      for level in tree.levels
    )
  )


def near(got, want):
  """SGD's difference of parameters loses digits: 1e-3 of the maximum."""
  for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    scale = float(jnp.abs(w).max())
    np.testing.assert_allclose(g, w, atol=1e-3 * scale + 3e-5)


def test_one_update_and_its_metrics(build, grads_of, params, tree, rewards):
  run, start = build(Loss())
  state, metrics, advantages = run(start(params), tree, rewards)
  want, memory, _ = credit.compute(
    tree.levels,
    ("see", "think"),
    rewards,
    TERMS,
    Guards(),
    credit.empty_memory(),
  )
  for a, b in zip(advantages, want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  np.testing.assert_allclose(
    state.memory.regression.gram, memory.regression.gram, atol=1e-4
  )
  near(
    moved(state, params, 0.05),
    grads_of(params, tree, want, logprobs_of(tree)),
  )
  assert int(state.step) == 1
  sampled = sum(int(level.sampled.sum()) for level in tree.levels)
  assert float(state.generated) == sampled == float(metrics["tokens/step"])
  for name in (
    "loss/total loss/policy/see loss/clipped/think loss/entropy/see"
    " loss/kl_old/think grad_norm skipped/nonfinite tree_token_ratio"
    " padding_fraction length/see truncated/think mi/mean mi/std mi/kept"
    " mi/auc_correct baseline/r2 advantage/abs/see no_contrast/think"
  ).split():
    assert np.isfinite(float(metrics[name])), name
  see = tree.levels[0]
  kept = np.asarray(see.kept)
  mi = np.asarray(see.scores["mi"])
  assert float(metrics["mi/kept"]) == pytest.approx(mi[kept].mean(), rel=1e-5)
  assert float(metrics["truncated/see"]) == pytest.approx(
    1 - np.asarray(see.finished).mean(), abs=1e-6
  )
  assert float(metrics["length/see"]) == pytest.approx(
    np.asarray(see.sampled).sum(-1).mean()
  )
  # On policy, nothing is clipped and nothing has drifted.
  assert float(metrics["loss/clipped/see"]) == 0
  assert float(metrics["loss/kl_old/see"]) == pytest.approx(0, abs=1e-6)
  np.testing.assert_allclose(
    state.ema["text"]["norm"]["scale"],
    0.9 * params["text"]["norm"]["scale"]
    + 0.1 * state.params["text"]["norm"]["scale"],
    rtol=1e-6,
  )


def test_updates_raise_the_logprob_of_a_rewarded_node(
  small, build, params, tree, quick_jit
):
  run, start = build(Loss())
  # All MI alike: no contrast, so that only correctness pays.
  see = tree.levels[0]
  see = see.replace(scores={"mi": jnp.ones(see.finished.shape)})
  tree = tree.replace(levels=(see, tree.levels[1]))
  one = jnp.zeros((B, 2, 2)).at[:, 1, 0].set(1.0)
  score = quick_jit(lambda p: score_tree(p, small, tree, STAGES)[0][1])

  def nodes(params):
    mask = flat(tree.levels[1].sampled)
    return np.where(mask, score(params), 0).sum(-1)  # [B, 4]

  before = nodes(params)
  state = start(params)
  for _ in range(4):
    state, metrics, _ = run(state, tree, {"see": {}, "think": {"correct": one}})
  gain = nodes(state.params) - before
  assert (gain[:, 2] > 0.1).all()  # the rewarded node, of every question
  assert (gain[:, 2] > gain[:, [0, 1, 3]].max(axis=1)).all()
  assert int(metrics["skipped/nonfinite"]) == 0


def test_a_non_finite_gradient_skips_the_step(build, params, tree, rewards):
  run, start = build(Loss())
  level = tree.levels[0]
  bad = level.replace(logprobs=level.logprobs.at[0, 0, 0, 0].set(jnp.nan))
  state = start(params)
  after, metrics, _ = run(
    state, tree.replace(levels=(bad, tree.levels[1])), rewards
  )
  for name in ("params", "opt_state", "ema"):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(after, name), getattr(state, name)
    )
  assert (int(after.step), int(after.skipped)) == (1, 1)
  assert int(metrics["skipped/nonfinite"]) == 1
  assert not np.isfinite(metrics["grad_norm"])


def test_minibatches_are_steps_one_after_another(build, params, tree, rewards):
  """Equal to two updates on interleaved halves, the second one off policy."""
  loss = Loss(Clip(0.02, 0.02), "sequence", minibatches=2)
  terms = (Term("see", "mi"), Term("think", "correct"))
  run, start = build(loss, 0.3, terms)
  both, metrics, _ = run(start(params), tree, rewards)
  assert float(metrics["loss/clipped/think"]) > 0  # the bound is active
  whole, start_one = build(dataclasses.replace(loss, minibatches=1), 0.3, terms)
  state = start_one(params)
  for part in range(2):
    half, values = jax.tree.map(lambda x, i=part: x[i::2], (tree, rewards))
    state, metrics, _ = whole(state, half, values)
    clipped = float(metrics["loss/clipped/think"])
    assert clipped > 0 if part else clipped == 0
  near(both.params, state.params)
  assert (int(both.step), int(state.step)) == (1, 2)


def test_recomputed_logprobs_replace_the_samplers(
  build, grads_of, params, tree, rewards
):
  noisy = perturbed(tree)
  run, start = build(Loss(old_logprob="recomputed"))
  state, metrics, advantages = run(start(params), noisy, rewards)
  near(
    moved(state, params, 0.05),
    grads_of(params, tree, advantages, logprobs_of(tree)),
  )
  gaps = [
    (np.asarray(n.logprobs - t.logprobs))[np.asarray(t.sampled)]
    for n, t in zip(noisy.levels, tree.levels, strict=True)
  ]
  assert float(metrics["mismatch/kl"]) == pytest.approx(
    np.concatenate(gaps).mean(), rel=1e-4
  )
  assert float(metrics["loss/clipped/see"]) == 0
  run, start = build(Loss())  # the sampler's are another loss here
  _, metrics, _ = run(start(params), noisy, rewards)
  assert float(metrics["loss/clipped/see"]) > 0


def test_importance_weights_are_truncated(
  build, grads_of, params, tree, rewards
):
  noisy = perturbed(tree)
  loss = Loss(old_logprob="recomputed", importance_cap=1.2)
  run, start = build(loss)
  state, _, advantages = run(start(params), noisy, rewards)
  importance = [
    jnp.minimum(jnp.exp(t - n), 1.2)
    for t, n in zip(logprobs_of(tree), logprobs_of(noisy), strict=True)
  ]
  assert float(importance[0].max()) == pytest.approx(1.2)
  near(
    moved(state, params, 0.05),
    grads_of(params, tree, advantages, logprobs_of(tree), importance),
  )
  plain, start = build(Loss(old_logprob="recomputed"))
  other, _, _ = plain(start(params), noisy, rewards)
  gap = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()), state.params, other.params
  )
  assert max(jax.tree.leaves(gap)) > 1e-4


def test_kl_pulls_towards_the_states_reference(
  small, build, params, tree, rewards
):
  """Of the stages that have a weight, and by the reference of the state."""
  loss = Loss(kl={"think": 1.0}, kl_kind="k2")
  run, start = build(loss, 0.02, (Term("think", "correct", 1e-9),))
  state = start(random_params(small, 1, scale=0.3))
  state = state.replace(reference=params)
  _, first, _ = run(state, tree, rewards)
  kl = []
  for _ in range(5):
    state, metrics, _ = run(state, tree, rewards)
    kl.append(float(metrics["loss/kl/think"]))
  assert kl[0] == float(first["loss/kl/think"])
  assert kl[-1] < 0.9 * kl[0]
  assert float(first["loss/total"]) == pytest.approx(kl[0], rel=1e-4)
  new, old = (
    score_tree(p, small, tree, STAGES)[0][1]
    for p in (random_params(small, 1, scale=0.3), params)
  )
  mask = np.asarray(flat(tree.levels[1].sampled))
  tokens = sum(int(level.sampled.sum()) for level in tree.levels)
  want = (np.asarray(old - new)[mask] ** 2).sum() / 2 / tokens
  assert kl[0] == pytest.approx(want, rel=1e-4)


def test_kl_flips_where_a_description_goes(small, build, params, tree, rewards):
  """MI alone goes on from where it has led; a KL of its weight turns back."""
  terms = (Term("see", "mi"),)
  free, start = build(Loss(), 0.01, terms)
  state, _, (advantage, _) = free(start(params), tree, rewards)
  for _ in range(3):
    state, _, _ = free(state, tree, rewards)
  pay = flat(advantage[..., None] * tree.levels[0].sampled)

  def paid(params):
    logprobs = score_tree(params, small, tree, STAGES)[0][0]
    return float(jnp.sum(pay * logprobs))

  guarded, again = build(Loss(kl={"see": 30.0}), 0.002, terms)
  held = again(state.params).replace(reference=params)
  assert paid(free(state, tree, rewards)[0].params) > paid(state.params)
  assert paid(guarded(held, tree, rewards)[0].params) < paid(state.params)


def test_entropy_bonus_raises_entropy(build, params, tree, rewards):
  run, start = build(Loss(entropy=0.5), 0.02, (Term("think", "correct", 1e-9),))
  state, found = start(params), []
  for _ in range(4):
    state, metrics, _ = run(state, tree, rewards)
    found.append(float(metrics["loss/entropy/think"]))
  assert found[-1] > found[0] + 0.01
  assert metrics["loss/total"] < 0  # a bonus


def test_bad_settings_are_errors(build, params, tree, rewards):
  for name in ("old_logprob", "reduction", "kl_kind"):
    with pytest.raises(ValueError, match=f"loss.{name}='mean' is not one of"):
      Loss(**{name: "mean"})
  for loss in (Loss(micro_batches=3), Loss(minibatches=3)):
    run, start = build(loss)
    with pytest.raises(
      ValueError, match="4 questions do not split into 3 parts"
    ):
      jax.eval_shape(run, start(params), tree, rewards)
