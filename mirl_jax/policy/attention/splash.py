"""One segment by Splash attention, JAX's Pallas kernel for TPUs."""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jaxtyping import Array

PLATFORM, DEVICE, DEVICES = "tpu", "tpu", "TPUs"
DTYPES = ("bfloat16", "float32")
_LANES = 128  # keys of a block come in multiples of this
_SUBLANES = 16  # and queries of this, for either dtype
_BLOCKS = (512, 256, 128)
_INTERPRET = False  # the tests run the kernel on a CPU


def refusal(head_dim: int) -> str:
  """It takes heads of any size."""
  del head_dim
  return ""


def pays(queries: int, keys: int) -> bool:
  """Whether padding is not most of the work."""
  return queries >= _SUBLANES and keys >= _LANES


def _padded(size: int, step: int) -> int:
  return -(-size // step) * step


def _block(size: int) -> int:
  return next((n for n in _BLOCKS if size % n == 0), size)


def attend(
  query: Array, keys: Array, values: Array, mask: Array, causal: bool
) -> tuple[Array, Array]:
  """Output and log-sum-exp, as `backends` says."""
  b, g, kv_heads, repeat, rows, dim = query.shape
  heads, size = kv_heads * repeat, keys.shape[3]
  q_size = _padded(rows, _SUBLANES if rows < _LANES else _LANES)
  kv_size = _padded(size, _LANES)
  shape = (q_size, kv_size)
  kind = splash.CausalMask(shape) if causal else splash.FullMask(shape)
  block = _block(kv_size)
  kernel = splash.make_splash_mha_single_device(
    splash.MultiHeadMask([kind] * heads),
    block_sizes=splash.BlockSizes(_block(q_size), block, block),
    save_residuals=True,
    interpret=_INTERPRET,
  )

  def pad(x: Array, axis: int, to: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, to - x.shape[axis])
    return jnp.pad(x, widths)

  query = query.reshape(b * g, heads, rows, dim)
  # The kernel applies no scale.
  query = pad((query * dim**-0.5).astype(query.dtype), 2, q_size)
  keys, values = (
    pad(x.reshape(b * g, kv_heads, size, dim), 2, kv_size)
    for x in (keys, values)
  )
  # A query reads the keys of its own kind: 1 is what exists.
  kv_kind = pad(mask.reshape(b * g, size).astype(jnp.int32), 1, kv_size)
  q_kind = jnp.ones((b * g, q_size), jnp.int32)

  def one(q: Array, k: Array, v: Array, q_kind: Array, kv_kind: Array):
    return kernel(q, k, v, splash.SegmentIds(q_kind, kv_kind))

  out, (lse,) = jax.vmap(one)(query, keys, values, q_kind, kv_kind)
  out, lse = out[:, :, :rows], lse[:, :, :rows]
  grouped = (b, g, kv_heads, repeat, rows)
  return out.reshape(*grouped, dim), lse.reshape(grouped)
