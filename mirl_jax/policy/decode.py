"""One step of decoding: every node of a level is fed one token.

A step reads the segments above its nodes where they lie and extends the nodes'
own keys and values in place.

Its layers are unrolled, each with weights laid out for it and arrays of its
own: fastest where XLA would copy a layer out of stacked ones, as on CPUs. Or
they are scanned (`VLMConfig.scan_decode`): weights lie as they are, arrays of
all layers are one, and a program is as large as one layer, which is what a
TPU's compiler and memory want of 28 or 80 of them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int

from mirl_jax.policy.attention import Segment
from mirl_jax.policy.attention.written import Buffer, attend_written
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.forward import text_positions, text_turn
from mirl_jax.policy.layers import TRANSPOSED, project_rows
from mirl_jax.policy.text import TextBlock, embed_tokens, final_norm


class Weights(NamedTuple):
  """The decoder's weights as a step reads them fastest.

  Attributes:
    blocks: one by one, their kernels [out, in]; where layers are scanned, one
      stack of all as they are.
    head: [V, D].
  """

  blocks: tuple[Any, ...]
  head: Array


def decode_weights(params: Any, config: VLMConfig) -> Weights:
  """Lays the weights out, to be done once, before the loop over tokens.

  A slice of stacked weights inside of the loop would copy them per token.
  """
  text = params["text"]
  tied = "head" not in text
  head = text["embed"]["embedding"] if tied else text["head"]["kernel"].T
  if config.scan_decode:
    return Weights((text["blocks"],), head)
  blocks = {}
  for path, x in flatten_dict(text["blocks"]).items():
    if path[-1] == "kernel":
      path, x = (*path[:-1], TRANSPOSED), jnp.swapaxes(x, -1, -2)
    blocks[path] = x
  return Weights(
    tuple(
      unflatten_dict({path: x[i] for path, x in blocks.items()})
      for i in range(config.text.layers)
    ),
    head,
  )


def next_logits(
  weights: Weights, hidden: Float[Array, "b r d"]
) -> Float[Array, "b r v"]:
  """Float32 logits of the next tokens, from normed states."""
  head = weights.head.astype(hidden.dtype)
  return project_rows(hidden, head, jnp.float32)


class Cache(NamedTuple):
  """Keys and values of the nodes being decoded, per layer [B, R, h, T, D].

  A tuple of arrays rather than one stacked array: each is written in place.
  Where layers are scanned, one array [B, R, L, h, T, D].
  """

  keys: tuple[Array, ...]
  values: tuple[Array, ...]


def empty_cache(
  config: VLMConfig, b: int, r: int, t: int, dtype: Any = jnp.float32
) -> Cache:
  """Zeroed cache for R nodes of T tokens for each of B questions."""
  text = config.text
  shape: tuple[int, ...] = (text.kv_heads, t, text.head_dim)
  count = text.layers
  if config.scan_decode:
    shape, count = (text.layers, *shape), 1
  return Cache(
    tuple(jnp.zeros((b, r, *shape), dtype) for _ in range(count)),
    tuple(jnp.zeros((b, r, *shape), dtype) for _ in range(count)),
  )


def decode_step(
  params: Any,
  config: VLMConfig,
  tokens: Int[Array, "b r"],
  positions: Int[Array, "b r"],
  step: Int[Array, ""],
  ancestors: tuple[tuple[Segment, ...], ...],
  cache: Cache,
  weights: Weights | None = None,
) -> tuple[Float[Array, "b r d"], Cache]:
  """Feeds token number `step` of every node and extends the cache by it.

  Args:
    params: the policy's parameters.
    config: sizes.
    tokens: the token of each node.
    positions: its position.
    step: index inside the nodes, equal for all.
    ancestors: per layer, the segments above these nodes; only read. One entry
      for all layers where they are scanned, [B, G, L, h, S, D].
    cache: the nodes' own keys and values.
    weights: of `decode_weights`, where a loop has them ready.

  Returns:
    The normed hidden state after the token, and the cache.
  """
  text = config.text
  dtype = cache.keys[0].dtype
  x = embed_tokens(params["text"], tokens, dtype)
  turn = text_turn(config, text_positions(positions))
  block = TextBlock(text)
  if weights is None:
    weights = decode_weights(params, config)

  def one(
    x: Array, layer: Any, above: tuple[Segment, ...], own: Buffer
  ) -> tuple[Array, Buffer]:
    written: list[Buffer] = []

    def read(q: Array, k: Array, v: Array) -> Array:
      written.append(own.put(k, v, step))
      return attend_written(q, above, written[0], step)

    return block.apply({"params": layer}, x, turn, read), written[0]

  def scanned(carry: Any, layer: Any) -> tuple[Any, None]:
    x, keys, values = carry
    number, block = layer
    above = tuple(_of_layer(segment, number) for segment in ancestors[0])
    x, own = one(x, block, above, Buffer(keys, values, number))
    return (x, own.keys, own.values), None

  if config.scan_decode:
    (keys,), (values,), (stack,) = cache.keys, cache.values, weights.blocks
    layers = (jnp.arange(text.layers), stack)
    (x, keys, values), _ = jax.lax.scan(scanned, (x, keys, values), layers)
    written = [Buffer(keys, values)]
  else:
    written = []
    for layer, above, k, v in zip(
      weights.blocks, ancestors, cache.keys, cache.values, strict=True
    ):
      x, own = one(x, layer, above, Buffer(k, v))
      written.append(own)
  return (
    final_norm(params["text"], text, x),
    Cache(tuple(b.keys for b in written), tuple(b.values for b in written)),
  )


def _of_layer(segment: Segment, layer: Array) -> Segment:
  """One layer of a segment [B, G, L, h, S, D] of all."""
  keys, values = (
    jax.lax.dynamic_index_in_dim(x, layer, axis=2, keepdims=False)
    for x in (segment.keys, segment.values)
  )
  return Segment(keys, values, segment.mask)
