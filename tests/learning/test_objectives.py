"""Loss terms: by hand, by enumeration, and by their gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax.learning.objectives import (
  REDUCTIONS,
  Clip,
  kl_penalty,
  policy_gradient,
  token_weights,
)


def one(ratio, advantage, clip):
  """Loss, clip mark and d loss / d log-prob of one token."""

  def loss(logprob):
    value, clipped = policy_gradient(
      logprob.reshape(1, 1, 1),
      jnp.zeros((1, 1, 1)),
      jnp.full((1, 1), advantage),
      jnp.ones((1, 1, 1), bool),
      clip,
    )
    return value[0, 0, 0], clipped[0, 0, 0]

  logprob = jnp.asarray(math.log(ratio), jnp.float32)
  (value, clipped), grad = jax.value_and_grad(loss, has_aux=True)(logprob)
  return float(value), bool(clipped), float(grad)


CLIP = Clip(low=0.2, high=0.3)
DUAL = Clip(low=0.2, high=0.3, dual=3.0)


@pytest.mark.parametrize(
  ("ratio", "advantage", "clip", "loss", "clipped", "grad"),
  [
    (1.0, 2.0, CLIP, -2.0, False, -2.0),  # on policy
    (1.1, 2.0, CLIP, -2.2, False, -2.2),
    (1.5, 2.0, CLIP, -2.6, True, 0.0),  # above 1 + high
    (1.25, 2.0, CLIP, -2.5, False, -2.5),  # .2 would bind: high is its own
    (0.5, 2.0, CLIP, -1.0, False, -1.0),  # pessimistic: no clip downwards
    (0.5, -2.0, CLIP, 1.6, True, 0.0),  # below 1 - low
    (0.75, -2.0, CLIP, 1.6, True, 0.0),  # .3 would not bind: low is its own
    (1.5, -2.0, CLIP, 3.0, False, 3.0),
    (5.0, -2.0, CLIP, 10.0, False, 10.0),
    (5.0, -2.0, DUAL, 6.0, False, 0.0),  # dual: bounded by 3 · 2
    (2.5, -2.0, DUAL, 5.0, False, 5.0),
    (0.5, -2.0, DUAL, 1.6, True, 0.0),
    (5.0, 2.0, DUAL, -2.6, True, 0.0),  # dual is for negative ones only
    (0.5, 0.0, DUAL, 0.0, False, 0.0),
  ],
)
def test_clip_by_hand(ratio, advantage, clip, loss, clipped, grad):
  got = one(ratio, advantage, clip)
  assert got[0] == pytest.approx(loss, rel=1e-5)
  assert got[1] == clipped
  assert got[2] == pytest.approx(grad, rel=1e-5)


def batch(seed, shape=(2, 3, 5), scale=0.3):
  rng = np.random.default_rng(seed)
  logprob = rng.normal(-1, 0.5, shape)
  old = logprob + rng.normal(0, scale, shape)
  length = rng.integers(0, shape[-1] + 1, shape[:2])
  mask = np.arange(shape[-1]) < length[..., None]
  advantage = rng.normal(size=shape[:2])
  arrays = (jnp.asarray(x, jnp.float32) for x in (logprob, old, advantage))
  return *arrays, jnp.asarray(mask)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sequence_ratio_value_and_gradient(seed):
  """GSPO: every token reads the node's geometric-mean ratio, and the summed
  gradient is that of the ratio itself."""
  logprob, old, advantage, mask = batch(seed)
  clip = Clip(0.1, 0.15, ratio="sequence")
  weight = token_weights([mask], "sequence")[0]

  def ours(logprob):
    value, _ = policy_gradient(logprob, old, advantage, mask, clip)
    return jnp.sum(value * weight)

  def theirs(logprob):
    total, count = 0.0, 0
    for b, r in np.ndindex(*mask.shape[:2]):
      n = int(mask[b, r].sum())
      if n == 0:
        continue
      s = jnp.exp(jnp.mean((logprob - old)[b, r, :n]))
      a = advantage[b, r]
      total += jnp.minimum(s * a, jnp.clip(s, 0.9, 1.15) * a)
      count += 1
    return -total / count

  np.testing.assert_allclose(ours(logprob), theirs(logprob), rtol=1e-5)
  got, want = jax.grad(ours)(logprob), jax.grad(theirs)(logprob)
  assert float(jnp.abs(want).max()) > 1e-3
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_token_and_sequence_ratio_differ():
  logprob, old, advantage, mask = batch(0)
  token, _ = policy_gradient(logprob, old, advantage, mask, Clip())
  whole, _ = policy_gradient(
    logprob, old, advantage, mask, Clip(ratio="sequence")
  )
  assert float(jnp.abs(token - whole).max()) > 0.05


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_garbage_under_the_mask_changes_nothing(ratio):
  logprob, old, advantage, mask = batch(3)
  clip = Clip(dual=2.0, ratio=ratio)

  def loss(logprob, old):
    value, clipped = policy_gradient(logprob, old, advantage, mask, clip)
    kl = jnp.where(mask, kl_penalty(logprob, old, mask), 0.0)
    return jnp.sum(value + kl), clipped

  run = jax.value_and_grad(loss, has_aux=True)
  # -1e30 is what a banned token's log-prob looks like.
  dirty = [jnp.where(mask, x, bad) for x, bad in ((logprob, -1e30), (old, 7.0))]
  (a, marks), grad = run(logprob, old)
  (b, dirty_marks), dirty_grad = run(*dirty)
  assert float(a) == float(b)
  np.testing.assert_array_equal(marks, dirty_marks)
  np.testing.assert_array_equal(grad, dirty_grad)
  np.testing.assert_array_equal(grad[~np.asarray(mask)], 0)


def categorical(seed):
  rng = np.random.default_rng(seed)
  policy, reference = rng.dirichlet(np.ones(6), 2)
  return policy, reference, float((policy * np.log(policy / reference)).sum())


def estimates(policy, reference, kind):
  logs = [
    jnp.asarray(np.log(x), jnp.float32).reshape(1, 1, -1)
    for x in (policy, reference)
  ]
  return np.asarray(kl_penalty(*logs, jnp.ones((1, 1, 6), bool), kind))[0, 0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(kind, seed):
  policy, reference, exact = categorical(seed)
  got = float(policy @ estimates(policy, reference, kind))
  assert got == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_kl_values_by_definition(seed):
  policy, reference, _ = categorical(seed)
  r = reference / policy
  close = {"rtol": 1e-4, "atol": 1e-6}
  k1, k2, k3 = (estimates(policy, reference, k) for k in ("k1", "k2", "k3"))
  np.testing.assert_allclose(k1, -np.log(r), **close)
  np.testing.assert_allclose(k2, np.log(r) ** 2 / 2, **close)
  np.testing.assert_allclose(k3, r - 1 - np.log(r), **close)
  assert (k3 >= 0).all()


def test_k2_nears_the_kl_of_close_distributions():
  policy, _, _ = categorical(0)
  tilt = np.random.default_rng(0).normal(size=6)
  reference = policy * np.exp(0.05 * tilt)
  reference = reference / reference.sum()
  exact = float((policy * np.log(policy / reference)).sum())
  got = float(policy @ estimates(policy, reference, "k2"))
  assert got == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("seed", range(2))
def test_gradients_of_the_estimators_in_the_loss(seed):
  """On-policy expectations, by enumeration over the vocabulary: k2's is the
  gradient of KL(policy || ref), k3's that of KL(ref || policy), k1's is 0."""
  rng = np.random.default_rng(seed)
  logits = jnp.asarray(rng.normal(size=6), jnp.float32)
  ref = jax.nn.log_softmax(jnp.asarray(rng.normal(size=6), jnp.float32))

  def expected(logits, kind):
    logp = jax.nn.log_softmax(logits)
    p = jax.lax.stop_gradient(jnp.exp(logp))  # sampled: not differentiated
    shape = (1, 1, 6)
    mask = jnp.ones(shape, bool)
    k = kl_penalty(logp.reshape(shape), ref.reshape(shape), mask, kind)
    return jnp.sum(p * k[0, 0])

  def reverse(logits):
    logp = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(logp) * (logp - ref))

  def forward(logits):
    return -jnp.sum(jnp.exp(ref) * jax.nn.log_softmax(logits))

  for kind, want in (
    ("k1", jnp.zeros(6)),
    ("k2", jax.grad(reverse)(logits)),
    ("k3", jax.grad(forward)(logits)),
  ):
    got = jax.grad(expected)(logits, kind)
    np.testing.assert_allclose(got, want, atol=1e-6)


def two_masks(seed):
  rng = np.random.default_rng(seed)
  masks = []
  for r, t in ((4, 3), (6, 5)):
    length = rng.integers(0, t + 1, (2, r))
    length[0, 0] = 0  # a node without tokens
    masks.append(jnp.asarray(np.arange(t) < length[..., None]))
  return masks


@pytest.mark.parametrize("seed", range(8))
def test_token_weights_by_loops(seed):
  masks = two_masks(seed)
  total = sum(int(m.sum()) for m in masks)
  for reduction in REDUCTIONS:
    for mask, got in zip(masks, token_weights(masks, reduction), strict=True):
      length = np.asarray(mask).sum(-1)
      want = np.zeros(mask.shape)
      for b, r, t in np.argwhere(np.asarray(mask)):
        want[b, r, t] = {
          "token": 1 / total,
          "sequence": 1 / length[b, r] / (length > 0).sum(),
          "constant": 1 / mask.size,
        }[reduction]
      np.testing.assert_allclose(got, want, rtol=1e-6)


def test_token_weights_sums():
  masks = two_masks(0)
  sums = {
    name: [float(w.sum()) for w in token_weights(masks, name)]
    for name in REDUCTIONS
  }
  assert sum(sums["token"]) == pytest.approx(1)
  assert sums["sequence"] == pytest.approx([1, 1])
  assert sums["constant"] == pytest.approx(
    [float(m.mean()) for m in masks], rel=1e-6
  )


def test_token_weights_of_nothing_are_finite():
  masks = [jnp.zeros((2, 3, 4), bool)]
  for reduction in REDUCTIONS:
    np.testing.assert_array_equal(token_weights(masks, reduction)[0], 0)


def test_unknown_names_are_errors():
  with pytest.raises(ValueError, match="loss.ratio='tokens'"):
    Clip(ratio="tokens")
  with pytest.raises(ValueError, match="loss.reduction='mean'"):
    token_weights(two_masks(0), "mean")
  x = jnp.zeros((1, 1, 1))
  with pytest.raises(ValueError, match="loss.kl_kind='k4'"):
    kl_penalty(x, x, x == 0, "k4")
