"""What a decode step reads: ancestors, and its node's own tokens so far.

A node's buffer holds as many tokens as it may ever write. Reading all of it for
every token would cost a short response what the longest may cost, so it is read
in blocks, and only those that hold a token.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mirl_jax.policy.attention import Segment
from mirl_jax.policy.attention.plain import MASKED, Part, attend_one, merged

# Buffers up to this long are read whole.
BLOCK = 128


class Buffer(NamedTuple):
  """The nodes' own keys and values.

  Attributes:
    keys: [B, R, kv_heads, T, D], or of all layers [B, R, L, kv_heads, T, D].
    values: likewise.
    layer: which of them is meant; None where there is one.
  """

  keys: Array
  values: Array
  layer: Array | None = None

  def cut(self, begin: Array | int, size: int) -> tuple[Array, Array]:
    """Keys and values of `size` tokens of the layer, straight from the buffer:
    a copy of the layer would be one per token."""

    def one(x: Array) -> Array:
      if self.layer is None:
        return jax.lax.dynamic_slice_in_dim(x, begin, size, axis=3)
      b, r, _, kv, _, d = x.shape
      at, shape = (0, 0, self.layer, 0, begin, 0), (b, r, 1, kv, size, d)
      return jax.lax.dynamic_slice(x, at, shape)[:, :, 0]

    return one(self.keys), one(self.values)

  def put(self, key: Array, value: Array, step: Array) -> "Buffer":
    """With token number `step` [B, R, kv_heads, D] of the layer in place."""

    def one(x: Array, new: Array) -> Array:
      new = new[:, :, :, None]
      if self.layer is None:
        return jax.lax.dynamic_update_slice(x, new, (0, 0, 0, step, 0))
      at = (0, 0, self.layer, 0, step, 0)
      return jax.lax.dynamic_update_slice(x, new[:, :, None], at)

    return self._replace(
      keys=one(self.keys, key), values=one(self.values, value)
    )


def attend_written(
  query: Float[Array, "b r h d"],
  ancestors: tuple[Segment, ...],
  own: Buffer,
  step: Int[Array, ""],
) -> Float[Array, "b r h d"]:
  """Attention of each node's last token; forward only, by plain XLA.

  One token a node leaves the blocks of a kernel all but empty, and reading keys
  and values is what it costs.

  Args:
    query: of token number `step` of every node.
    ancestors: segments above the nodes.
    own: the nodes' own keys and values, written up to `step`.
    step: number of the last written token, from 0.
  """
  wide = query[:, :, None]
  parts = [attend_one(wide, *segment) for segment in ancestors]
  out, _, total = merged([*parts, _own(wide, own, step)])
  return (out / total[..., None]).astype(query.dtype)[:, :, 0]


def _own(query: Array, own: Buffer, step: Array) -> Part:
  b, r = query.shape[:2]
  t = own.keys.shape[-2]

  def read(begin: Array | int, size: int, readable: Array) -> Part:
    mask = jnp.broadcast_to(readable, (b, r, size))
    return attend_one(query, *own.cut(begin, size), mask)

  if t <= BLOCK:
    return read(0, t, jnp.arange(t) <= step)

  blocks = -(-t // BLOCK)
  Carry = tuple[Array, Part]

  def more(carry: Carry) -> Array:
    # The constant is never what ends it: it tells a reader of the compiled
    # program the most that it may read (parallel/hlo.py).
    return (carry[0] < blocks) & (carry[0] * BLOCK <= step)

  def add(carry: Carry) -> Carry:
    number, part = carry
    # The last block begins early enough to be whole; what it shares with the
    # one before is masked.
    begin = jnp.minimum(number * BLOCK, t - BLOCK)
    at = begin + jnp.arange(BLOCK)
    new = read(begin, BLOCK, (at >= number * BLOCK) & (at <= step))
    return number + 1, merged([part, new])

  flat = query.shape[:-1]
  nothing = (
    jnp.zeros(query.shape, jnp.float32),
    jnp.full(flat, MASKED, jnp.float32),
    jnp.zeros(flat, jnp.float32),
  )
  return jax.lax.while_loop(more, add, (jnp.int32(0), nothing))[1]
