"""Only blocks that hold a token are read, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax.policy.attention import Segment, attend
from mirl_jax.policy.attention.written import BLOCK, Buffer, attend_written

B, R, HEADS, KV, DIM = 2, 4, 4, 2, 8
SIZES = (5, BLOCK, BLOCK + 1, BLOCK + 72, 3 * BLOCK, 3 * BLOCK + 5)


def random_case(size, seed):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  def above(groups, length):
    mask = rng.random((B, groups, length)) < 0.6
    mask[..., 0] = True
    shape = (B, groups, KV, length, DIM)
    return Segment(normal(*shape), normal(*shape), jnp.asarray(mask))

  own = (B, R, KV, size, DIM)
  return (
    normal(B, R, HEADS, DIM),
    (above(1, 7), above(2, 3)),
    normal(*own),
    normal(*own),
  )


def among_others(x):
  """As the second of three layers, [B, R, L, kv, T, D]."""
  return jnp.stack([jnp.full_like(x, jnp.nan), x, jnp.full_like(x, 7.0)], 2)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(2))
def test_equals_attention_over_a_masked_buffer(size, seed, stacked):
  query, ancestors, keys, values = random_case(size, seed)
  edges = {0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, size - 1}
  step_of = jax.jit(attend_written)
  own = Buffer(keys, values)
  if stacked:
    own = Buffer(among_others(keys), among_others(values), jnp.asarray(1))
  for step in sorted(s for s in edges if s < size):
    mask = jnp.broadcast_to(jnp.arange(size) <= step, (B, R, size))
    want = attend(query[:, :, None], (*ancestors, Segment(keys, values, mask)))[
      :, :, 0
    ]
    got = step_of(query, ancestors, own, jnp.asarray(step))
    # Sums in another order.
    np.testing.assert_allclose(got, want, atol=2e-6, err_msg=str(step))


@pytest.mark.parametrize("step", [0, BLOCK - 1, BLOCK, 2 * BLOCK - 1])
def test_blocks_without_a_token_are_not_read(step):
  """A masked key that were read would give 0 · NaN."""
  query, ancestors, keys, values = random_case(4 * BLOCK, 0)
  begin = (step // BLOCK + 1) * BLOCK
  got = attend_written(
    query,
    ancestors,
    Buffer(
      keys.at[:, :, :, begin:].set(jnp.nan),
      values.at[:, :, :, begin:].set(jnp.nan),
    ),
    jnp.asarray(step),
  )
  own = Buffer(keys, values)
  want = attend_written(query, ancestors, own, jnp.asarray(step))
  np.testing.assert_array_equal(got, want)
  assert np.isfinite(got).all()


def test_a_token_is_put_into_its_layer_only():
  _, _, keys, values = random_case(5, 0)
  step, layer = jnp.asarray(3), jnp.asarray(1)
  alone = Buffer(keys, values).put(values[..., 0, :], keys[..., 1, :], step)
  before = Buffer(among_others(keys), among_others(values), layer)
  after = before.put(values[..., 0, :], keys[..., 1, :], step)
  for one, old, new in zip(alone[:2], before[:2], after[:2], strict=True):
    np.testing.assert_array_equal(new[:, :, 1], one)
    np.testing.assert_array_equal(new[:, :, ::2], old[:, :, ::2])
