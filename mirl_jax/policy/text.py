"""The decoder of all families: its block, embedding and head.

How a token attends (inside of a tree, or one step of decoding) is the
caller's: a block takes a function from queries, keys and values to outputs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import AbstractMesh
from jaxtyping import Array, Float

from mirl_jax.parallel.mesh import whole_rows
from mirl_jax.policy.configs import TextConfig
from mirl_jax.policy.layers import (
  Dense,
  RMSNorm,
  SwiGLU,
  init_module,
  init_stack,
)
from mirl_jax.policy.remat import keep
from mirl_jax.policy.rope import rotate

# (query [B, N, H, D], key [B, N, h, D], value [B, N, h, D]) -> [B, N, H, D]
Attend = Callable[[Array, Array, Array], Array]


class TextAttention(nn.Module):
  config: TextConfig

  @nn.compact
  def __call__(self, x: Array, turn: Array, attend: Attend) -> Array:
    c = self.config
    b, n, _ = x.shape

    def project(name: str, heads: int) -> Array:
      axes = ("embed", "heads" if name == "q" else "kv_heads")
      out = Dense(heads * c.head_dim, axes, c.qkv_bias, name=name)(x)
      return out.reshape(b, n, heads, c.head_dim)

    def normed(name: str, x: Array) -> Array:
      return RMSNorm(c.rms_eps, None, name=name)(x) if c.qk_norm else x

    q = keep(rotate(normed("q_norm", project("q", c.heads)), turn))
    k = keep(rotate(normed("k_norm", project("k", c.kv_heads)), turn))
    v = keep(project("v", c.kv_heads))
    out = attend(q, k, v).reshape(b, n, -1)
    return Dense(c.width, ("heads", "embed"), bias=False, name="o")(out)


class TextBlock(nn.Module):
  """One pre-norm block over N tokens of each of B questions."""

  config: TextConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b n d"],
    turn: Float[Array, "b n 2 half"],
    attend: Attend,
  ) -> Float[Array, "b n d"]:
    c = self.config
    attention = TextAttention(c, name="attn")
    x = x + attention(RMSNorm(c.rms_eps, name="norm1")(x), turn, attend)
    x = keep(x)
    mlp = SwiGLU(c.mlp, name="mlp")
    return x + mlp(RMSNorm(c.rms_eps, name="norm2")(x))


def embed_tokens(
  params: dict, tokens: Array, dtype: Any, mesh: AbstractMesh | None = None
) -> Array:
  """Token embeddings [..., D].

  Over a mesh the table's rows are gathered whole first: read from rows that are
  cut, the embeddings would be moved instead, and so would their gradients.
  """
  table = params["embed"]["embedding"].astype(dtype)
  return whole_rows(table, mesh)[tokens]


def final_norm(params: dict, config: TextConfig, x: Array) -> Array:
  """The norm before the head."""
  return RMSNorm(config.rms_eps).apply({"params": params["norm"]}, x)


def head_logits(params: dict, hidden: Array) -> Array:
  """Float32 logits [..., V] of normed hidden states [..., D]."""
  if "head" in params:
    kernel = params["head"]["kernel"].astype(hidden.dtype)
  else:
    kernel = params["embed"]["embedding"].astype(hidden.dtype).T
  return _logits(hidden, kernel)


@jax.custom_vjp
def _logits(hidden: Array, kernel: Array) -> Array:
  return jnp.dot(hidden, kernel, preferred_element_type=jnp.float32)


def _logits_forward(hidden: Array, kernel: Array) -> tuple[Array, Any]:
  return _logits(hidden, kernel), (hidden, kernel)


def _logits_backward(saved: Any, d_logits: Array) -> tuple[Array, Array]:
  """As of `layers.project`; gradients sum in float32 and are stored as used."""
  hidden, kernel = saved
  width, vocab = kernel.shape
  d = d_logits.astype(hidden.dtype)
  d_kernel = jnp.einsum(
    "ni,no->io", hidden.reshape(-1, width), d.reshape(-1, vocab)
  )
  return jnp.dot(d, kernel.T), d_kernel


_logits.defvjp(_logits_forward, _logits_backward)


def init_decoder(config: TextConfig, keys: jax.Array) -> dict[str, Any]:
  """Random parameters with logical axes, from four keys."""
  normal = nn.initializers.normal(0.02)
  x = jnp.zeros((1, 1, config.width))
  turn = jnp.zeros((1, 1, 2, config.head_dim // 2))
  block, norm = TextBlock(config), RMSNorm(config.rms_eps)
  table = normal(keys[1], (config.vocab, config.width))
  decoder = {
    "embed": {"embedding": nn.Partitioned(table, ("vocab", "embed"))},
    "blocks": init_stack(
      block, config.layers, keys[0], x, turn, lambda q, k, v: q
    ),
    "norm": init_module(norm, keys[2], x),
  }
  if not config.tied:
    head = normal(keys[3], (config.width, config.vocab))
    decoder["head"] = {"kernel": nn.Partitioned(head, ("embed", "vocab"))}
  return decoder


def decoder_names(prefix: str) -> dict[str, str]:
  """Our modules -> Hugging Face's, whose decoder lies under `prefix`."""
  layer = f"{prefix}.layers.{{}}"
  attention = {
    name: f"{layer}.self_attn.{name}_proj" for name in ("q", "k", "v", "o")
  }
  attention |= {
    name: f"{layer}.self_attn.{name}" for name in ("q_norm", "k_norm")
  }
  mlp = {name: f"{layer}.mlp.{name}_proj" for name in ("gate", "up", "down")}
  return {
    "text/embed": f"{prefix}.embed_tokens",
    "text/norm": f"{prefix}.norm",
    "text/head": "lm_head",
    "text/blocks/norm1": f"{layer}.input_layernorm",
    "text/blocks/norm2": f"{layer}.post_attention_layernorm",
    **{f"text/blocks/attn/{ours}": name for ours, name in attention.items()},
    **{f"text/blocks/mlp/{ours}": name for ours, name in mlp.items()},
  }
