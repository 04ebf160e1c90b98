"""The decoder of Qwen2.5-VL as one block and the head.

How a token attends (inside of a tree, or one step of decoding) is the
caller's: a block takes a function from queries, keys and values to outputs.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mirl_jax.policy.configs import TextConfig
from mirl_jax.policy.layers import Dense, RMSNorm, SwiGLU
from mirl_jax.policy.rope import rotate

# (query [B, N, H, D], key [B, N, h, D], value [B, N, h, D]) -> [B, N, H, D]
Attend = Callable[[Array, Array, Array], Array]


class TextAttention(nn.Module):
  config: TextConfig

  @nn.compact
  def __call__(self, x: Array, angles: Array, attend: Attend) -> Array:
    c = self.config
    b, n, _ = x.shape

    def project(name: str, heads: int) -> Array:
      axes = ("embed", "heads" if name == "q" else "kv_heads")
      out = Dense(heads * c.head_dim, axes, name=name)(x)
      return out.reshape(b, n, heads, c.head_dim)

    q = rotate(project("q", c.heads), angles)
    k = rotate(project("k", c.kv_heads), angles)
    v = project("v", c.kv_heads)
    out = attend(q, k, v).reshape(b, n, -1)
    return Dense(c.width, ("heads", "embed"), bias=False, name="o")(out)


class TextBlock(nn.Module):
  """One pre-norm block over N tokens of each of B questions."""

  config: TextConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b n d"],
    angles: Float[Array, "b n half"],
    attend: Attend,
  ) -> Float[Array, "b n d"]:
    c = self.config
    attention = TextAttention(c, name="attn")
    x = x + attention(RMSNorm(c.rms_eps, name="norm1")(x), angles, attend)
    mlp = SwiGLU(c.mlp, name="mlp")
    return x + mlp(RMSNorm(c.rms_eps, name="norm2")(x))


def embed_tokens(params: dict, tokens: Array, dtype: Any) -> Array:
  """Token embeddings [..., D]."""
  return params["embed"]["embedding"].astype(dtype)[tokens]


def final_norm(params: dict, config: TextConfig, x: Array) -> Array:
  """The norm before the head."""
  return RMSNorm(config.rms_eps).apply({"params": params["norm"]}, x)


def head_logits(params: dict, hidden: Array) -> Array:
  """Float32 logits [..., V] of normed hidden states [..., D]."""
  if "head" in params:
    kernel = params["head"]["kernel"].astype(hidden.dtype)
  else:
    kernel = params["embed"]["embedding"].astype(hidden.dtype).T
  return jnp.dot(hidden, kernel, preferred_element_type=jnp.float32)
