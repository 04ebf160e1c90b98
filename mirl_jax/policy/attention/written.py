"""What a decode step reads: ancestors, and its node's own tokens so far.

A node's buffer holds as many tokens as it may ever write. Reading all of it for
every token would cost a short response what the longest may cost, so it is read
in blocks, and only those that hold a token.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mirl_jax.policy.attention import Segment
from mirl_jax.policy.attention.plain import MASKED, Part, attend_one, merged

# Buffers up to this long are read whole.
BLOCK = 128


def attend_written(
  query: Float[Array, "b r h d"],
  ancestors: tuple[Segment, ...],
  keys: Float[Array, "b r kv t d"],
  values: Float[Array, "b r kv t d"],
  step: Int[Array, ""],
) -> Float[Array, "b r h d"]:
  """Attention of each node's last token; forward only, by plain XLA.

  One token a node leaves the blocks of a kernel all but empty, and reading keys
  and values is what it costs.

  Args:
    query: of token number `step` of every node.
    ancestors: segments above the nodes.
    keys: the nodes' own, written up to `step`.
    values: likewise.
    step: number of the last written token, from 0.
  """
  wide = query[:, :, None]
  parts = [attend_one(wide, *segment) for segment in ancestors]
  out, _, total = merged([*parts, _own(wide, keys, values, step)])
  return (out / total[..., None]).astype(query.dtype)[:, :, 0]


def _own(query: Array, keys: Array, values: Array, step: Array) -> Part:
  b, r, _, t, _ = keys.shape

  def read(keys: Array, values: Array, readable: Array) -> Part:
    mask = jnp.broadcast_to(readable, (b, r, readable.size))
    return attend_one(query, keys, values, mask)

  if t <= BLOCK:
    return read(keys, values, jnp.arange(t) <= step)

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
    new = read(
      jax.lax.dynamic_slice_in_dim(keys, begin, BLOCK, axis=3),
      jax.lax.dynamic_slice_in_dim(values, begin, BLOCK, axis=3),
      (at >= number * BLOCK) & (at <= step),
    )
    return number + 1, merged([part, new])

  flat = query.shape[:-1]
  nothing = (
    jnp.zeros(query.shape, jnp.float32),
    jnp.full(flat, MASKED, jnp.float32),
    jnp.zeros(flat, jnp.float32),
  )
  return jax.lax.while_loop(more, add, (jnp.int32(0), nothing))[1]
