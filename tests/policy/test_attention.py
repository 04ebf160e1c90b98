import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax.policy.attention import (
  Segment,
  attend,
  causal_mask,
  plain,
  segment,
)

# (groups G, keys S, whether the mask is per query) of each segment read by
# R = 6 nodes of T = 3 tokens.
CASES = {
  "one shared segment": [(1, 7, False)],
  "own tokens": [(6, 3, True)],
  "prompt and own": [(1, 5, False), (6, 3, True)],
  "prompt, parents, own": [(1, 5, False), (3, 4, False), (6, 3, True)],
  "per-query mask of a group": [(2, 4, True), (1, 3, False)],
}
B, R, T, HEADS, KV, DIM = 2, 6, 3, 4, 2, 8


def naive(query, segments):
  """One float64 softmax over all readable keys, node by node."""
  query = np.asarray(query, np.float64)
  out = np.zeros(query.shape)
  for b, r, t, h in np.ndindex(*query.shape[:4]):
    keys, values = [], []
    for s in segments:
      groups, kv_heads = s.keys.shape[1:3]
      fanout = query.shape[1] // groups
      group = r // fanout
      mask = np.asarray(s.mask[b, group])
      if mask.ndim == 2:  # a query per (node of the group, token)
        mask = mask[(r % fanout) * query.shape[2] + t]
      head = h // (query.shape[3] // kv_heads)
      keys.append(np.asarray(s.keys[b, group, head, mask], np.float64))
      values.append(np.asarray(s.values[b, group, head, mask], np.float64))
    keys, values = np.concatenate(keys), np.concatenate(values)
    logits = keys @ query[b, r, t, h] / np.sqrt(query.shape[-1])
    weights = np.exp(logits - logits.max())
    out[b, r, t, h] = weights @ values / weights.sum()
  return out


def random_case(shape, seed, scale=1.0):
  rng = np.random.default_rng(seed)
  query = jnp.asarray(rng.normal(size=(B, R, T, HEADS, DIM)) * scale)
  segments = []
  for groups, size, per_query in shape:
    keys, values = rng.normal(size=(2, B, groups, KV, size, DIM))
    queries = (R // groups * T,) if per_query else ()
    mask = rng.random((B, groups, *queries, size)) < 0.6
    mask[..., 0] = True  # at least one key is readable
    segments.append(
      Segment(
        jnp.asarray(keys, jnp.float32),
        jnp.asarray(values, jnp.float32),
        jnp.asarray(mask),
      )
    )
  return query.astype(jnp.float32), tuple(segments)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_equals_one_softmax_over_all_segments(name, seed):
  query, segments = random_case(CASES[name], seed)
  np.testing.assert_allclose(
    attend(query, segments), naive(query, segments), atol=2e-6
  )


def test_large_logits_do_not_overflow():
  query, segments = random_case(CASES["prompt, parents, own"], 0, 1000.0)
  np.testing.assert_allclose(
    attend(query, segments), naive(query, segments), atol=1e-4
  )


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_fully_masked_segment_is_as_if_absent(order):
  query, segments = random_case(CASES["prompt and own"], 1)
  prompt, own = segments
  hidden = prompt._replace(mask=jnp.zeros_like(prompt.mask))
  both = (hidden, own)
  got = attend(query, tuple(both[i] for i in order))
  np.testing.assert_array_equal(got, attend(query, (own,)))
  grads = jax.grad(
    lambda k: jnp.sum(attend(query, (hidden._replace(keys=k), own)) ** 2)
  )(hidden.keys)
  np.testing.assert_array_equal(grads, np.zeros_like(grads))


def test_what_a_masked_key_holds_changes_no_bit():
  query, segments = random_case(CASES["prompt, parents, own"], 2)
  noisy = []
  for s in segments:
    read = s.mask if s.mask.ndim == 3 else s.mask.any(axis=2)
    junk = ~read[:, :, None, :, None]
    noisy.append(
      s._replace(
        keys=jnp.where(junk, 1e4, s.keys),
        values=jnp.where(junk, -1e4, s.values),
      )
    )
  np.testing.assert_array_equal(
    attend(query, segments), attend(query, tuple(noisy))
  )


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_those_of_a_dense_softmax(name):
  query, segments = random_case(CASES[name], 3)
  rng = np.random.default_rng(0)
  pay = jnp.asarray(rng.normal(size=query.shape), jnp.float32)

  def dense(query, segments):
    """The same by repeating every segment for every node."""
    keys, values, masks = [], [], []
    for s in segments:
      fanout = R // s.keys.shape[1]
      repeat = lambda x, f=fanout: jnp.repeat(x, f, axis=1)  # noqa: E731
      heads = lambda x: jnp.repeat(x, HEADS // KV, axis=2)  # noqa: E731
      keys.append(heads(repeat(s.keys)))
      values.append(heads(repeat(s.values)))
      size = s.keys.shape[3]
      if s.mask.ndim == 3:
        mask = jnp.broadcast_to(repeat(s.mask)[:, :, None], (B, R, T, size))
      else:
        mask = s.mask.reshape(B, R, T, size)
      masks.append(mask)
    keys, values = jnp.concatenate(keys, 3), jnp.concatenate(values, 3)
    mask = jnp.concatenate(masks, 3)[:, :, :, None]
    logits = jnp.einsum("brthd,brhsd->brths", query, keys) * DIM**-0.5
    weights = jax.nn.softmax(jnp.where(mask, logits, -1e30))
    return jnp.einsum("brths,brhsd->brthd", weights, values)

  def loss(function, query, floats):
    parts = tuple(
      Segment(k, v, s.mask) for (k, v), s in zip(floats, segments, strict=True)
    )
    return jnp.sum(function(query, parts) * pay)

  floats = [(s.keys, s.values) for s in segments]
  got, want = (
    jax.grad(lambda q, f, fn=fn: loss(fn, q, f), argnums=(0, 1))(query, floats)
    for fn in (attend, dense)
  )
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, atol=5e-6), got, want
  )
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want)) > 0.1


def test_bfloat16_queries_get_bfloat16_outputs_near_the_exact_ones():
  query, segments = random_case(CASES["prompt and own"], 4)
  half = attend(
    query.astype(jnp.bfloat16),
    tuple(
      Segment(
        s.keys.astype(jnp.bfloat16), s.values.astype(jnp.bfloat16), s.mask
      )
      for s in segments
    ),
  )
  assert half.dtype == jnp.bfloat16
  # bfloat16 keeps 8 bits; a weighted mean of values near 1 loses some 1 %.
  np.testing.assert_allclose(
    half.astype(jnp.float32), naive(query, segments), atol=0.04
  )


def test_causal_mask_reads_itself_and_earlier_real_tokens():
  mask = jnp.asarray([[[True, True, False], [True, True, True]]])
  got = causal_mask(mask)
  want = [
    [[1, 0, 0], [1, 1, 0], [1, 1, 0]],
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]],
  ]
  np.testing.assert_array_equal(got[0], np.array(want, bool))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("budget", [1, 150, 400])
def test_queries_taken_in_parts_change_nothing(name, budget, monkeypatch):
  query, segments = random_case(CASES[name], 5)
  pay = jnp.asarray(np.random.default_rng(1).normal(size=query.shape))

  def run(query, floats):
    parts = tuple(
      Segment(k, v, s.mask) for (k, v), s in zip(floats, segments, strict=True)
    )
    return jnp.sum(attend(query, parts) * pay)

  floats = [(s.keys, s.values) for s in segments]
  both = jax.value_and_grad(run, argnums=(0, 1))
  want = both(query, floats)
  monkeypatch.setattr(plain, "_BUDGET", budget)
  assert "scan" in str(jax.make_jaxpr(both)(query, floats))
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-5, atol=5e-6),
    both(query, floats),
    want,
  )


def test_parts_bound_the_memory_of_long_prompts(monkeypatch):
  """Forward and backward over 1,024 tokens hold a part of the logits only."""
  x = jax.ShapeDtypeStruct((1, 1, 1024, 4, 8), jnp.float32)
  mask = causal_mask(jnp.ones((1, 1, 1024), bool))

  def loss(q, k, v):
    return jnp.sum(attend(q, (segment(k, v, mask),)) ** 2)

  def temporary():
    made = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
    return made.memory_analysis().temp_size_in_bytes

  logits = 4 * 1024 * 1024 * 4  # bytes
  assert temporary() > logits
  monkeypatch.setattr(plain, "_BUDGET", 1 << 18)
  assert temporary() < logits / 2
