"""One segment by plain XLA: its forward part, and its part of the gradient."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jaxtyping import Array, Bool

from mirl_jax.parallel.mesh import own_questions
from mirl_jax.policy.products import smaller_second

# Most logits alive at a time, in one layer and on a device; more queries are
# taken in parts.
_BUDGET = 1 << 26
MASKED = -1e30  # finite, so that a fully masked segment cannot make NaN

# Unnormalised output [B, R, T, H, D]; maximum and weight sum, without D.
Part = tuple[Array, Array, Array]


def _group(x: Array, groups: int, kv_heads: int) -> Array:
  """[B, R, T, H, D] -> [B, G, h, Q·r, D]: queries that share keys as rows.

  Queries of all nodes of a group, and the r heads that share a key's head,
  form one matrix against the shared keys.
  """
  b, r, t, heads, dim = x.shape
  q, repeat = r // groups * t, heads // kv_heads
  x = x.reshape(b, groups, q, kv_heads, repeat, dim)
  return jnp.moveaxis(x, 2, 3).reshape(b, groups, kv_heads, q * repeat, dim)


def _ungroup(x: Array, shape: tuple[int, ...]) -> Array:
  """The inverse of `_group`; D may be absent in both."""
  b, r, t, heads = shape[:4]
  groups, kv_heads, rows = x.shape[1:4]
  repeat = heads // kv_heads
  x = x.reshape(b, groups, kv_heads, rows // repeat, repeat, *x.shape[4:])
  return jnp.moveaxis(x, 3, 2).reshape(b, r, t, heads, *x.shape[5:])


def _split(x: Array, axis: int, count: int) -> Array:
  """Cuts an axis into `count` equal parts, which come first."""
  size = x.shape[axis] // count
  x = x.reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :])
  return jnp.moveaxis(x, axis, 0)


def _joined(x: Array, axis: int) -> Array:
  """The inverse of `_split`."""
  x = jnp.moveaxis(x, 0, axis)
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _parts(rows: tuple[int, ...], queries: int, keys: int) -> int:
  """In how many parts the queries are taken, so that logits fit the budget."""
  logits = math.prod(rows) * keys
  enough = (n for n in range(1, queries + 1) if queries % n == 0)
  return next((n for n in enough if logits <= n * _BUDGET), queries)


def _by_parts(
  function: Callable[..., Any],
  mesh: AbstractMesh | None,
  mask: Array,
  *rows: Array,
) -> tuple[Any, bool]:
  """Maps over parts of grouped queries, one after the other.

  Args:
    function: of a part's mask and rows.
    mesh: over which the questions are cut.
    mask: [B, G, S], or [B, G, Q, S].
    rows: [B, G, h, Q·r, …] each.

  Returns:
    The function's results, and whether they have a leading axis of parts.
  """
  queries = mask.shape[2] if mask.ndim == 4 else rows[0].shape[3]
  b, *rest = rows[0].shape[:4]
  own = (own_questions(b, mesh), *rest)
  count = _parts(own, queries, mask.shape[-1])
  if count == 1:
    return function(mask, *rows), False
  split = [_split(x, 3, count) for x in rows]
  if mask.ndim == 3:
    return jax.lax.map(lambda x: function(mask, *x), split), True
  masks = _split(mask, 2, count)
  return jax.lax.map(lambda x: function(x[0], *x[1]), (masks, split)), True


def _logits(q: Array, keys: Array, mask: Array) -> Array:
  """Scaled and masked logits [B, G, h, Q·r, S] of grouped queries."""
  spec = "bghqd,bghsd->bghqs"
  if q.shape[3] < keys.shape[3]:
    logits = smaller_second(spec, q, keys, jnp.float32)
  else:
    logits = jnp.einsum(spec, q, keys, preferred_element_type=jnp.float32)
  logits = logits * q.shape[-1] ** -0.5
  if mask.ndim == 3:
    return jnp.where(mask[:, :, None, None, :], logits, MASKED)
  b, g, queries, s = mask.shape
  # Rows of one query stand together: a mask per query, not per row.
  by_query = logits.reshape(b, g, logits.shape[2], queries, -1, s)
  by_query = jnp.where(mask[:, :, None, :, None, :], by_query, MASKED)
  return by_query.reshape(logits.shape)


def attend_one(
  query: Array,
  keys: Array,
  values: Array,
  mask: Array,
  mesh: AbstractMesh | None = None,
) -> Part:
  """Unnormalised output, maximum and weight sum, as `backends.attend_one`."""

  def part(mask: Array, q: Array) -> Part:
    logits = _logits(q, keys, mask)
    top = jnp.max(logits, axis=-1)
    weights = jnp.exp(logits - top[..., None])
    out = jnp.einsum(
      "bghqs,bghsd->bghqd",
      weights.astype(values.dtype),
      values,
      preferred_element_type=jnp.float32,
    )
    return out, top, jnp.sum(weights, axis=-1)

  made, parted = _by_parts(part, mesh, mask, _group(query, *keys.shape[1:3]))
  if parted:
    made = tuple(_joined(x, 3) for x in made)
  out, top, total = (_ungroup(x, query.shape) for x in made)
  return out, top, total


def merged(parts: Sequence[Part]) -> Part:
  """The union of several segments' parts."""
  top = parts[0][1]
  for _, other, _ in parts[1:]:
    top = jnp.maximum(top, other)
  out = jnp.zeros(parts[0][0].shape, jnp.float32)
  total = jnp.zeros(top.shape, jnp.float32)
  for part, part_top, part_total in parts:
    scale = jnp.exp(part_top - top)
    out += part * scale[..., None]
    total += part_total * scale
  return out, top, total


def backward_one(
  query: Array,
  keys: Array,
  values: Array,
  mask: Array,
  lse: Array,
  d_out: Array,
  inner: Array,
  mesh: AbstractMesh | None = None,
) -> tuple[Array, Array, Array]:
  """What one segment adds to the gradients of queries, keys and values."""
  dtype, sizes = query.dtype, keys.shape[1:3]

  def part(mask: Array, q: Array, d: Array, lse: Array, inner: Array):
    weights = jnp.exp(_logits(q, keys, mask) - lse[..., None])
    d_weights = jnp.einsum(
      "bghqd,bghsd->bghqs", d, values, preferred_element_type=jnp.float32
    )
    d_logits = weights * (d_weights - inner[..., None]) * q.shape[-1] ** -0.5
    d_logits = d_logits.astype(dtype)
    d_value = jnp.einsum("bghqd,bghqs->bghds", d, weights.astype(dtype))
    d_key = jnp.einsum("bghqd,bghqs->bghds", q, d_logits)
    d_q = jnp.einsum(
      "bghqs,bghsd->bghqd", d_logits, keys, preferred_element_type=jnp.float32
    )
    return d_q, d_key, d_value

  rows = [_group(x, *sizes) for x in (query, d_out)]
  rows += [_group(x[..., None], *sizes)[..., 0] for x in (lse, inner)]
  (d_q, d_key, d_value), parted = _by_parts(part, mesh, mask, *rows)
  if parted:
    d_q = _joined(d_q, 3)
    d_key, d_value = (
      jnp.sum(x, axis=0, dtype=jnp.float32) for x in (d_key, d_value)
    )
  d_key, d_value = (
    jnp.swapaxes(x, 3, 4).astype(dtype) for x in (d_key, d_value)
  )
  return _ungroup(d_q, query.shape), d_key, d_value


def causal_mask(mask: Bool[Array, "b r t"]) -> Bool[Array, "b r t t"]:
  """Readable keys inside one node: itself and earlier real tokens.

  t=3:  1 0 0
        1 1 0
        1 1 1
  """
  length = mask.shape[-1]
  return jnp.tril(jnp.ones((length, length), bool)) & mask[:, :, None, :]
