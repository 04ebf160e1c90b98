"""The cuDNN back end: what it asks of the kernel, and on a GPU the kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as fused

from mirl_jax.policy.attention import attend, cudnn

CASES = {
  "own": (((4, 5),), 5, True),
  "a shared prompt": (((1, 30),), 7, False),
  "prompt, parents, own": (((1, 14), (2, 9), (4, 6)), 6, True),
}


def by_definition(
  query,
  key,
  value,
  *,
  q_seqlen,
  kv_seqlen,
  scale,
  mask_type,
  qkv_layout,
  return_residual,
):
  """Attention by its definition; undefined rows are NaN, as they may be."""
  assert qkv_layout == "BNTH"
  assert return_residual
  repeat = query.shape[1] // key.shape[1]
  key, value = (jnp.repeat(x, repeat, axis=1) for x in (key, value))
  logits = scale * jnp.einsum("bhqd,bhsd->bhqs", query, key)
  rows, columns = (jnp.arange(n) for n in logits.shape[2:])
  mask = columns < kv_seqlen[:, None, None, None]
  if mask_type is fused.MaskType.PADDING_CAUSAL:
    mask &= columns <= rows[:, None]
  else:
    assert mask_type is fused.MaskType.PADDING
  logits = jnp.where(mask, logits, -jnp.inf)
  weights = jax.nn.softmax(logits)
  out = jnp.einsum("bhqs,bhsd->bhqd", weights, value)
  real = (rows < q_seqlen[:, None])[:, None]
  lse = jnp.where(real, jax.nn.logsumexp(logits, axis=-1), jnp.nan)
  return jnp.where(real[..., None], out, jnp.nan).astype(query.dtype), lse


@pytest.fixture
def kernel(monkeypatch):
  """The definition in place of the kernel, also in float32; counts calls."""
  calls = []

  def count(*arrays, **options):
    calls.append(options["mask_type"])
    return by_definition(*arrays, **options)

  monkeypatch.setattr(cudnn, "_kernel", count)
  monkeypatch.setattr(cudnn, "available", lambda: True)
  monkeypatch.setattr(cudnn, "DTYPES", ("float32", "bfloat16"))
  return calls


def run(case, causal, backend):
  query, segments = case
  pay = np.random.default_rng(0).normal(size=query.shape)

  def loss(query, floats):
    parts = tuple(
      s._replace(keys=k, values=v)
      for s, (k, v) in zip(segments, floats, strict=True)
    )
    out = attend(query, parts, causal, backend).astype(jnp.float32)
    return jnp.sum(out * pay), out

  floats = [(s.keys, s.values) for s in segments]
  both = jax.grad(loss, argnums=(0, 1), has_aux=True)
  return jax.jit(both)(query, floats)


def assert_near(got, want, atol):
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(
      g.astype(jnp.float32), w.astype(jnp.float32), atol=atol
    ),
    got,
    want,
  )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_what_it_asks_for_is_attention(prefix_case, kernel, name, seed):
  shape, t, causal = CASES[name]
  case = prefix_case(shape, t, seed)
  want = run(case, causal, "xla")
  assert kernel == []
  assert_near(run(case, causal, "cudnn"), want, 1e-5)
  own = [fused.MaskType.PADDING_CAUSAL] if causal else [fused.MaskType.PADDING]
  above = [fused.MaskType.PADDING] * (len(shape) - 1)
  assert set(kernel) == set(above + own)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want)) > 0.1


def test_a_group_without_any_key_reads_the_other_segments(prefix_case, kernel):
  case = prefix_case(((2, 9), (4, 6)), 6, 3, empty=True)
  assert_near(run(case, True, "cudnn"), run(case, True, "xla"), 1e-5)
  assert kernel


def test_the_log_sum_exp_keeps_float32(monkeypatch):
  """Half-precision arrays, but a log-sum-exp that joins segments exactly."""
  monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91100)
  query = jax.ShapeDtypeStruct((2, 3, 2, 2, 24, 16), jnp.bfloat16)
  keys = jax.ShapeDtypeStruct((2, 3, 2, 9, 16), jnp.bfloat16)
  mask = jax.ShapeDtypeStruct((2, 3, 9), bool)
  out, lse = jax.eval_shape(
    lambda *x: cudnn.attend(*x, causal=False), query, keys, keys, mask
  )
  assert (out.shape, out.dtype) == (query.shape, jnp.bfloat16)
  assert (lse.shape, lse.dtype) == (query.shape[:-1], jnp.float32)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_the_kernel_agrees_with_plain_xla(prefix_case, name, seed):
  """Run with JAX_PLATFORMS=cuda; bfloat16 keeps 8 bits."""
  shape, t, causal = CASES[name]
  query, segments = prefix_case(shape, t, seed, empty=len(shape) > 1)
  half = jnp.bfloat16
  case = (
    query.astype(half),
    tuple(
      s._replace(keys=s.keys.astype(half), values=s.values.astype(half))
      for s in segments
    ),
  )
  want = run(case, causal, "xla")
  got = run(case, causal, "cudnn")
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(
      g.astype(jnp.float32), w.astype(jnp.float32), atol=0.06, rtol=0.03
    ),
    got,
    want,
  )
