"""Attention over the segments of a tree.

A query reads several segments: its ancestors' (shared by every node of a
group, never copied) and its own node's. Each segment is attended to by
itself and the parts are joined by their log-sum-exp, so no key is moved and
no joint array is built. Differentiable in queries, keys and values.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_MASKED = -1e30  # finite, so that a fully masked segment cannot make NaN


class Segment(NamedTuple):
  """Keys and values that G groups of nodes read.

  Heads come before positions, as matrix products want them: with positions
  first, XLA's CPU back end transposes a whole cache for every token decoded.

  Attributes:
    keys: [B, G, kv_heads, S, head_dim].
    values: [B, G, kv_heads, S, head_dim].
    mask: [B, G, S] keys that exist, or [B, G, Q, S] keys that each of the Q
      queries of a group may read (the causal mask of a node's own tokens).
  """

  keys: Array
  values: Array
  mask: Array


def _attend_one(query: Array, segment: Segment) -> tuple[Array, Array, Array]:
  """Unnormalised output, maximum and weight sum of one segment.

  Shapes [B, R, T, H, D], [B, R, T, H], [B, R, T, H], the latter two float32.
  """
  b, r, t, heads, dim = query.shape
  keys, values, mask = segment
  groups, kv_heads = keys.shape[1:3]
  # Queries of all nodes of a group form one matrix against the shared keys.
  q = query.reshape(b, groups, (r // groups) * t, kv_heads, -1, dim)
  logits = jnp.einsum(
    "bgqhrd,bghsd->bghqrs", q, keys, preferred_element_type=jnp.float32
  )
  logits = logits * dim**-0.5
  if mask.ndim == 3:
    mask = mask[:, :, None, None, None, :]
  else:
    mask = mask[:, :, None, :, None, :]
  logits = jnp.where(mask, logits, _MASKED)
  top = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
  weights = jnp.exp(logits - top[..., None])
  total = jnp.sum(weights, axis=-1)
  out = jnp.einsum(
    "bghqrs,bghsd->bghqrd",
    weights.astype(values.dtype),
    values,
    preferred_element_type=jnp.float32,
  )

  def by_node(x: Array) -> Array:  # [B, G, h, q, r, …] -> [B, R, T, H, …]
    x = jnp.moveaxis(x, 2, 3)
    return x.reshape(b, r, t, heads, *x.shape[5:])

  return by_node(out), by_node(top), by_node(total)


def segment(
  keys: Float[Array, "b g s h d"],
  values: Float[Array, "b g s h d"],
  mask: Array,
) -> Segment:
  """A segment from keys and values as a layer makes them, positions first."""
  return Segment(jnp.swapaxes(keys, 2, 3), jnp.swapaxes(values, 2, 3), mask)


def attend(
  query: Float[Array, "b r t h d"], segments: tuple[Segment, ...]
) -> Float[Array, "b r t h d"]:
  """Softmax attention of every query over the union of its segments.

  Args:
    query: T tokens of R nodes for each of B questions. The R nodes lie in
      groups: a segment with G groups is read by R / G consecutive nodes.
    segments: what the queries read; at least one key must be readable.

  Returns:
    As one softmax over the concatenation of all readable keys.
  """
  parts = [_attend_one(query, segment) for segment in segments]
  top = parts[0][1]
  for _, other, _ in parts[1:]:
    top = jnp.maximum(top, other)
  out = jnp.zeros(query.shape, jnp.float32)
  total = jnp.zeros(query.shape[:-1], jnp.float32)
  for part, part_top, part_total in parts:
    scale = jnp.exp(part_top - top)
    out += part * scale[..., None]
    total += part_total * scale
  return (out / total[..., None]).astype(query.dtype)


def causal_mask(mask: Bool[Array, "b r t"]) -> Bool[Array, "b r t t"]:
  """Readable keys inside one node: itself and earlier real tokens.

  t=3:  1 0 0
        1 1 0
        1 1 1
  """
  length = mask.shape[-1]
  return jnp.tril(jnp.ones((length, length), bool)) & mask[:, :, None, :]
