"""Attention over the segments of a tree.

A query reads several segments: its ancestors' (shared by every node of a
group, never copied) and its own node's. Each segment is attended to by
itself and the parts are joined by their log-sum-exp, so no key is moved and
no joint array is built. Differentiable in queries, keys and values; the
backward pass keeps no logits.

Who attends to one segment is the back end's choice (`backends.py`): plain
XLA, cuDNN on NVIDIA GPUs or Splash on TPUs. The backward pass is ours for all
of them, so all of them train.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jaxtyping import Array, Float

from mirl_jax.policy.attention.backends import attend_one, readable
from mirl_jax.policy.attention.plain import backward_one, causal_mask, merged
from mirl_jax.policy.remat import keep

__all__ = ["Segment", "attend", "causal_mask", "segment"]


class Segment(NamedTuple):
  """Keys and values that G groups of nodes read.

  Heads come before positions, as matrix products want them: with positions
  first, XLA's CPU back end transposes a whole cache for every token decoded.

  Attributes:
    keys: [B, G, kv_heads, S, head_dim]; of a stack of layers, which only
      decoding reads, [B, G, L, kv_heads, S, head_dim].
    values: likewise.
    mask: [B, G, S] keys that exist, a prefix for every back end but `xla`;
      with `xla` also [B, G, Q, S], keys that each of the Q queries of a group
      may read.
  """

  keys: Array
  values: Array
  mask: Array


Arrays = tuple[Array, ...]


def _causal(count: int, causal: bool) -> list[bool]:
  """Which of the segments is read causally: at most the last."""
  return [causal and i == count - 1 for i in range(count)]


def _forward(
  causal: bool,
  backend: str,
  mesh: AbstractMesh | None,
  query: Array,
  keys: Arrays,
  values: Arrays,
  masks: Arrays,
) -> tuple[Array, Array]:
  """Output, and the log-sum-exp of all logits of each query."""
  order = _causal(len(keys), causal)
  out, top, total = merged(
    [
      attend_one(backend, mesh, query, *part)
      for part in zip(keys, values, masks, order, strict=True)
    ]
  )
  out = (out / total[..., None]).astype(query.dtype)
  return out, top + jnp.log(total)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(
  causal: bool,
  backend: str,
  mesh: AbstractMesh | None,
  query: Array,
  keys: Arrays,
  values: Arrays,
  masks: Arrays,
) -> Array:
  return _forward(causal, backend, mesh, query, keys, values, masks)[0]


def _attend_forward(
  causal: bool,
  backend: str,
  mesh: AbstractMesh | None,
  query: Array,
  keys: Arrays,
  values: Arrays,
  masks: Arrays,
) -> tuple[Array, Any]:
  out, lse = _forward(causal, backend, mesh, query, keys, values, masks)
  out, lse = keep(out), keep(lse)
  return out, (query, keys, values, masks, out, lse)


def _attend_backward(
  causal: bool,
  backend: str,
  mesh: AbstractMesh | None,
  saved: Any,
  d_out: Array,
) -> Any:
  """Gradients from the log-sum-exp; the logits are computed again.

  Source: FlashAttention (arXiv 2205.14135), algorithm 4, here over segments.
  What is contracted over queries has them leading in the smaller operand,
  because XLA's CPU back end copies the first one transposed.
  """
  del backend
  query, keys, values, masks, out, lse = saved
  inner = jnp.sum(d_out.astype(jnp.float32) * out, axis=-1, dtype=jnp.float32)
  order = _causal(len(keys), causal)
  made = [
    backward_one(query, k, v, readable(mask, own), lse, d_out, inner, mesh)
    for k, v, mask, own in zip(keys, values, masks, order, strict=True)
  ]
  d_query = jnp.zeros(query.shape, jnp.float32)
  for d_q, _, _ in made:
    d_query += d_q
  d_keys = tuple(d_key for _, d_key, _ in made)
  d_values = tuple(d_value for _, _, d_value in made)
  return d_query.astype(query.dtype), d_keys, d_values, None


_attend.defvjp(_attend_forward, _attend_backward)


def segment(
  keys: Float[Array, "b g s h d"],
  values: Float[Array, "b g s h d"],
  mask: Array,
) -> Segment:
  """A segment from keys and values as a layer makes them, positions first."""
  return Segment(jnp.swapaxes(keys, 2, 3), jnp.swapaxes(values, 2, 3), mask)


def attend(
  query: Float[Array, "b r t h d"],
  segments: tuple[Segment, ...],
  causal: bool = False,
  backend: str = "xla",
  mesh: AbstractMesh | None = None,
) -> Float[Array, "b r t h d"]:
  """Softmax attention of every query over the union of its segments.

  Args:
    query: T tokens of R nodes for each of B questions. The R nodes lie in
      groups: a segment with G groups is read by R / G consecutive nodes.
    segments: what the queries read; at least one key must be readable.
    causal: whether the last segment holds the queries' own tokens, G = R and
      S = T, of which each reads itself and earlier ones.
    backend: one of `backends.BACKENDS`.
    mesh: that the compiler cuts the questions over: a kernel has to be told,
      and what fits in memory is counted for a device.

  Returns:
    As one softmax over the concatenation of all readable keys.

  Raises:
    ValueError: where the back end cannot take these arrays.
  """
  keys, values, masks = zip(*segments, strict=True)
  return _attend(causal, backend, mesh, query, keys, values, masks)
