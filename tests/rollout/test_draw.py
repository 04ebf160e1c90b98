"""Random draws and truncated sampling against brute force."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.forward import prefill
from mirl_jax.policy.logprobs import shape_logits
from mirl_jax.rollout.draw import draw, greedy, log_prob, restrict
from mirl_jax.rollout.program import Sample
from mirl_jax.rollout.sampler import sample_stage, start
from mirl_jax.rollout.tree import flat, nodes
from mirl_jax.testing_flat import flat_node_logits

CONFIG = tiny.tiny_config()
STOP = tiny.tiny_stop("</d>")
DESCRIBE = Sample("describe", 4, 7, "</d>")


def question_keys(prompts, seed=0):
  key = jax.random.key(seed)
  return jax.vmap(lambda q: jax.random.fold_in(key, q))(prompts.question)


def test_draws_follow_the_distribution():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=12) * 1.5
  logits[3] = -np.inf
  count = 40_000
  tokens = draw(
    jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (count, 12)),
    jax.random.uniform(jax.random.key(0), (count,)),
  )
  seen = np.bincount(np.asarray(tokens), minlength=12)
  probs = np.exp(logits) / np.exp(logits).sum()
  assert seen[3] == 0
  possible = probs > 0
  expected = count * probs[possible]
  # 99.9 % quantile of chi-square with 10 degrees of freedom is 29.6.
  assert ((seen[possible] - expected) ** 2 / expected).sum() < 29.6


@pytest.mark.parametrize("size", [5, 1000, 152_064])
def test_a_token_of_probability_zero_is_never_drawn(size):
  """Prefix sums of many floats may rise at a zero; aim right there."""
  rng = np.random.default_rng(0)
  possible = rng.random(size) < 0.2
  possible[[0, -1]] = False
  possible[size // 2] = True
  logits = np.where(possible, rng.normal(size=size) * 3, -1e30)
  logits = jnp.asarray(logits, jnp.float32)
  cumulative = np.asarray(jnp.cumsum(jnp.exp(logits - logits.max())))
  edges = cumulative[np.flatnonzero(np.diff(cumulative) != 0) + 1]
  aims = np.nextafter(edges, 0, dtype=np.float32) / cumulative[-1]
  aims = rng.permutation(aims)[:400]
  flat_spots = np.flatnonzero((np.diff(cumulative) > 0) & ~possible[1:])
  aims = np.concatenate([aims, cumulative[flat_spots[:100]] / cumulative[-1]])
  aims = np.concatenate([aims, [0.0, 1 - 2.0**-23]])
  aims = jnp.asarray(np.clip(aims, 0, 1 - 2.0**-23), jnp.float32)
  tokens = np.asarray(jax.lax.map(lambda u: draw(logits, u), aims))
  assert possible[tokens].all()


@pytest.mark.parametrize("size", [1, 2, 5, 12, 100, 512, 1000])
def test_a_draw_inverts_the_distribution_function(size):
  """Aims in the middle of each token's share hit that token."""
  rng = np.random.default_rng(size)
  logits = (rng.normal(size=size) * 2).astype(np.float32)
  logits[rng.random(size) < 0.2] = -np.inf
  logits[rng.integers(size)] = 0.0
  probs = np.exp(logits.astype(np.float64))
  ends = np.cumsum(probs) / probs.sum()
  middles = ends - probs / probs.sum() / 2
  wanted = np.flatnonzero(probs / probs.sum() > 1e-5)
  tokens = draw(
    jnp.broadcast_to(jnp.asarray(logits), (len(wanted), size)),
    jnp.asarray(middles[wanted], jnp.float32),
  )
  np.testing.assert_array_equal(tokens, wanted)


@pytest.mark.parametrize("size", [1, 5, 16, 100, 1000])
def test_greedy_takes_the_first_of_the_largest(size):
  rng = np.random.default_rng(size)
  logits = rng.integers(-3, 4, (50, size)).astype(np.float32)  # ties
  logits[0] = -np.inf
  np.testing.assert_array_equal(greedy(jnp.asarray(logits)), logits.argmax(-1))


@pytest.mark.parametrize("size", [1, 5, 16, 100, 1000])
def test_log_probs_equal_a_log_softmax(size):
  rng = np.random.default_rng(size)
  logits = (rng.normal(size=(3, 7, size)) * 30).astype(np.float32)
  logits[rng.random(logits.shape) < 0.3] = -1e30  # banned
  logits[..., -1] = rng.normal(size=(3, 7))
  tokens = logits.argmax(-1)
  wide = logits.astype(np.float64)
  peak = wide.max(-1)
  total = peak + np.log(np.exp(wide - peak[..., None]).sum(-1))
  got = log_prob(jnp.asarray(logits), jnp.asarray(tokens))
  np.testing.assert_allclose(got, peak - total, atol=1e-5)


def brute_restrict(logits, top_p, top_k):
  """The surviving ids of one row."""
  order = sorted(range(len(logits)), key=lambda i: -logits[i])
  if top_k > 0:
    border = logits[order[min(top_k, len(order)) - 1]]
    order = [i for i in order if logits[i] >= border]
  weights = np.exp(logits[order] - logits[order[0]])
  probs = weights / weights.sum()
  total, size = 0.0, 0
  while size < len(order) and (size == 0 or total < top_p or top_p == 1):
    total += probs[size]
    size += 1
  border = logits[order[size - 1]]
  return {i for i in order if logits[i] >= border}


@pytest.mark.parametrize("top_k", [1, 7, 20, 64])
def test_top_k_finds_any_border(top_k):
  """Of every sign and size, at zeros of both signs, and where few are left."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(40, 64)).astype(np.float32)
  logits *= 10.0 ** rng.integers(-30, 30, (40, 64))
  logits[5:10] = np.abs(logits[5:10])
  logits[10:15] = -np.abs(logits[10:15])
  logits[15:25] = np.where(rng.random((10, 64)) < 0.5, -0.0, 0.0)
  logits[20:25, ::3] = -1.0
  logits[25:30, 5:] = -np.inf
  got = np.asarray(restrict(jnp.asarray(logits), 1.0, top_k)) > -np.inf
  border = -np.sort(-logits, axis=-1)[:, top_k - 1 : top_k]
  np.testing.assert_array_equal(got, (logits >= border) & (logits > -np.inf))


@pytest.mark.parametrize(
  ("top_p", "top_k"),
  [(p, k) for p in (0.01, 0.5, 0.9, 1.0) for k in (0, 1, 5, 99)],
)
def test_top_p_and_top_k_equal_brute_force(top_p, top_k):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(40, 16)).astype(np.float32) * 2
  logits[20:] = np.round(logits[20:])  # ties
  logits[:, 3] = -1e30  # banned
  got = np.asarray(restrict(jnp.asarray(logits), top_p, top_k))
  for row, out in zip(logits, got, strict=True):
    want = brute_restrict(row.astype(np.float64), top_p, top_k)
    # A banned token may stay, at probability zero.
    assert set(np.flatnonzero(out > -np.inf)) - {3} == want - {3}
    for i in want:
      assert out[i] == row[i]


def test_a_restricted_stage_stays_inside_and_reports_whole_logprobs():
  stage = dataclasses.replace(DESCRIBE, top_p=0.6, top_k=8)
  params = tiny.random_params(CONFIG, 2)
  prompts = tiny.random_prompts(CONFIG, 2)

  @jax.jit
  def run(keys):
    frontier = start(prefill(params, CONFIG, prompts))
    return sample_stage(
      params, CONFIG, stage, STOP, frontier, keys, has_children=True
    )[0]

  outside = 0
  for seed in range(3):
    level = run(question_keys(prompts, seed))
    (raw,) = flat_node_logits(params, CONFIG, prompts, nodes((level,)))
    logits = np.asarray(
      shape_logits(jnp.asarray(raw), 1.0, CONFIG.banned_tokens)
    )
    sampled = np.asarray(flat(level.sampled))
    tokens = np.asarray(flat(level.tokens))[sampled]
    for token, row in zip(tokens, logits[sampled], strict=True):
      # Float32 of the sampler may round a border either way.
      wider = brute_restrict(row.astype(np.float64), 0.6 + 1e-4, 8)
      assert token in wider
      outside += len(row) - len(wider)
    want = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))[sampled]
    got = np.asarray(flat(level.logprobs))[sampled]
    np.testing.assert_allclose(
      got, want[np.arange(len(tokens)), tokens], atol=1e-5
    )
  assert outside > 0
