"""One step of decoding: every node of a level is fed one token.

A step reads the segments above its nodes where they lie and extends the nodes'
own keys and values in place.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int

from mirl_jax.policy.attention import Segment
from mirl_jax.policy.attention.written import attend_written
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.forward import text_positions, text_turn
from mirl_jax.policy.layers import TRANSPOSED, project_rows
from mirl_jax.policy.text import TextBlock, embed_tokens, final_norm


class Weights(NamedTuple):
  """The decoder's weights as a step reads them fastest.

  Attributes:
    blocks: one by one, their kernels [out, in].
    head: [V, D].
  """

  blocks: tuple[Any, ...]
  head: Array


def decode_weights(params: Any, config: VLMConfig) -> Weights:
  """Lays the weights out, to be done once, before the loop over tokens.

  A slice of stacked weights inside of the loop would copy them per token.
  """
  blocks = {}
  for path, x in flatten_dict(params["text"]["blocks"]).items():
    if path[-1] == "kernel":
      path, x = (*path[:-1], TRANSPOSED), jnp.swapaxes(x, -1, -2)
    blocks[path] = x
  text = params["text"]
  tied = "head" not in text
  return Weights(
    tuple(
      unflatten_dict({path: x[i] for path, x in blocks.items()})
      for i in range(config.text.layers)
    ),
    text["embed"]["embedding"] if tied else text["head"]["kernel"].T,
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
  """

  keys: tuple[Array, ...]
  values: tuple[Array, ...]


def empty_cache(
  config: VLMConfig, b: int, r: int, t: int, dtype: Any = jnp.float32
) -> Cache:
  """Zeroed cache for R nodes of T tokens for each of B questions."""
  text = config.text
  shape = (b, r, text.kv_heads, t, text.head_dim)
  layers = range(text.layers)
  return Cache(
    tuple(jnp.zeros(shape, dtype) for _ in layers),
    tuple(jnp.zeros(shape, dtype) for _ in layers),
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
    ancestors: per layer, the segments above these nodes; only read.
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
  keys, values = list(cache.keys), list(cache.values)
  if weights is None:
    weights = decode_weights(params, config)
  for i, layer in enumerate(weights.blocks):

    def read(q: Array, k: Array, v: Array, i: int = i) -> Array:
      keys[i] = jax.lax.dynamic_update_slice(
        keys[i], k[:, :, :, None], (0, 0, 0, step, 0)
      )
      values[i] = jax.lax.dynamic_update_slice(
        values[i], v[:, :, :, None], (0, 0, 0, step, 0)
      )
      return attend_written(q, ancestors[i], keys[i], values[i], step)

    x = block.apply({"params": layer}, x, turn, read)
  return (
    final_norm(params["text"], text, x),
    Cache(tuple(keys), tuple(values)),
  )
