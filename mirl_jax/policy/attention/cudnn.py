"""One segment by cuDNN's fused attention, on NVIDIA GPUs.

Keys are read up to a length per node, so a mask has to be a prefix.
"""

from typing import Any

import jax.numpy as jnp

# Not `jax.nn.dot_product_attention`: that rounds the log-sum-exp to the
# queries' dtype, and three digits of it are too few to join segments by.
from jax._src.cudnn import fused_attention_stablehlo as fused
from jaxtyping import Array

PLATFORM, DEVICE, DEVICES = "cuda", "gpu", "NVIDIA GPUs"
DTYPES = ("bfloat16", "float16")
_MOST_DIM = 128  # 256 from Hopper on only


def available() -> bool:
  """Whether cuDNN and a GPU that its fused attention runs on are here."""
  return fused.cuda_versions is not None and fused.check_compute_capability(
    "8.0"
  )


def refusal(head_dim: int) -> str:
  """Why it cannot take heads of this size, or ""."""
  if not available():
    return "needs cuDNN and an NVIDIA GPU of the Ampere generation or later"
  if head_dim % 8 or head_dim > _MOST_DIM:
    return (
      f"takes heads of a multiple of 8 and at most {_MOST_DIM}, not {head_dim}"
    )
  return ""


def pays(queries: int, keys: int) -> bool:
  """It pads to nothing."""
  del queries, keys
  return True


def attend(
  query: Array, keys: Array, values: Array, mask: Array, causal: bool
) -> tuple[Array, Array]:
  """Output and log-sum-exp, as `backends` says."""
  b, g, kv_heads, repeat, rows, dim = query.shape
  lengths = jnp.sum(mask, axis=-1, dtype=jnp.int32).reshape(b * g)
  kind = fused.MaskType.PADDING_CAUSAL if causal else fused.MaskType.PADDING
  out, lse = _kernel(
    query.reshape(b * g, kv_heads * repeat, rows, dim),
    keys.reshape(b * g, *keys.shape[2:]),
    values.reshape(b * g, *values.shape[2:]),
    q_seqlen=jnp.full_like(lengths, rows),
    # A row without any key is not defined; the caller discards it.
    kv_seqlen=jnp.maximum(lengths, 1),
    scale=dim**-0.5,
    mask_type=kind,
    qkv_layout="BNTH",
    return_residual=True,
  )
  return out.reshape(query.shape), lse.reshape(query.shape[:-1])


def _kernel(
  query: Array, keys: Array, values: Array, **options: Any
) -> tuple[Array, Array]:
  return fused.dot_product_attention(query, keys, values, **options)
