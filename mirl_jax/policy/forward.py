"""The policy as pure functions: prefill and the forward over a tree.

Both compute a token once. A child node attends to its ancestors'
segments where they lie; nothing is repeated per child.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mirl_jax.parallel.mesh import spread
from mirl_jax.policy.attention import Segment, attend, segment
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.families import family
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.remat import rematerialise
from mirl_jax.policy.rope import text_rotation
from mirl_jax.policy.text import (
  TextBlock,
  embed_tokens,
  final_norm,
)

# Up to this width a scan of layers costs more time than it saves memory.
_UNROLL_WIDTH = 128


class Nodes(NamedTuple):
  """The tokens of one level, R = K·F nodes of up to T tokens per question.

  Attributes:
    tokens: [B, R, T].
    mask: [B, R, T] real tokens, a prefix of each node.
    parent: [B, K] index of each group's parent among the R nodes of the level
      above; None at level 1, whose one parent is the prompt.
  """

  tokens: Array
  mask: Array
  parent: Array | None


class Prefilled(NamedTuple):
  """What a prompt leaves behind for its children.

  Attributes:
    segments: one per layer, G = 1; where decoding scans the layers, one for
      all of them, [B, 1, L, h, P, D].
    hidden: [B, 1, D] normed state of the last prompt token.
    position: [B, 1] position of the first token of a child.
  """

  segments: tuple[Segment, ...]
  hidden: Array
  position: Array


class Embedded(NamedTuple):
  """Prompts on their way into the decoder.

  Attributes:
    tokens: [B, P, D] embeddings, visual tokens at their placeholders.
    deep: [B, P, D] each, added to the prompt's states after the first layers,
      one by one; zero at text (DeepStack).
  """

  tokens: Array
  deep: tuple[Array, ...] = ()


def embed_prompts(
  params: Any,
  config: VLMConfig,
  prompts: Prompts,
  dtype: Any,
  remat: str = "none",
) -> Embedded:
  """Runs the vision tower and puts its features where they belong."""
  mesh = config.mesh
  x = embed_tokens(params["text"], prompts.tokens, dtype, mesh)
  x = spread(x, mesh)
  if prompts.patches.shape[1] == 0:
    return Embedded(x)
  features = family(config).encode_images(
    params["vision"], config.vision, prompts, dtype, remat, mesh
  )
  return Embedded(
    place_features(x, features.tokens, prompts.image_slot),
    tuple(
      place_features(jnp.zeros_like(x), deep, prompts.image_slot)
      for deep in features.deep
    ),
  )


def place_features(
  x: Float[Array, "b p d"],
  features: Float[Array, "b m d"],
  image_slot: Int[Array, "b p"],
) -> Float[Array, "b p d"]:
  """Replaces each placeholder's embedding by the feature of its slot."""
  seen = jnp.take_along_axis(
    features, jnp.maximum(image_slot, 0)[..., None], axis=1
  )
  return jnp.where((image_slot >= 0)[..., None], seen.astype(x.dtype), x)


def _run_blocks(
  params: Any,
  config: VLMConfig,
  x: Array,
  turn: Array,
  read: Callable[[Array, Array, Array], Array],
  deep: tuple[Array, ...] = (),
  remat: str = "none",
) -> tuple[Array, tuple[Array, Array]]:
  """All blocks; also every layer's keys and values, stacked [L, B, N, h, D].

  `deep` is added to the first tokens after the first layers.
  """
  block = TextBlock(config.text)
  count, layers = len(deep), config.text.layers
  if deep:  # the layers after the first add the zeros at the end
    added = jnp.stack([*deep, jnp.zeros_like(deep[0])])

  def apply(x: Array, layer: Any):
    made: list[tuple[Array, Array]] = []

    def read_and_keep(q: Array, k: Array, v: Array) -> Array:
      made.append((k, v))
      return read(q, k, v)

    x = block.apply({"params": layer}, x, turn, read_and_keep)
    return spread(x, config.mesh), made[0]

  one = rematerialise(apply, remat)

  def body(x: Array, layer: Any):
    weights, number = layer
    x, made = one(x, weights)
    if deep:
      x = x.at[:, : added.shape[2]].add(added[number])
    return x, made

  unroll = layers if config.text.width <= _UNROLL_WIDTH else 1
  numbers = jnp.minimum(jnp.arange(layers), count)
  blocks = (params["text"]["blocks"], numbers)
  return jax.lax.scan(body, x, blocks, unroll=unroll)


def text_turn(config: VLMConfig, positions: Array) -> Array:
  text = config.text
  return text_rotation(
    positions,
    text.mrope_section,
    text.head_dim,
    text.rope_theta,
    text.mrope_interleaved,
  )


def text_positions(positions: Array) -> Array:
  """Text advances all three axes alike: [B, N] -> [B, 3, N]."""
  return jnp.broadcast_to(
    positions[:, None], (positions.shape[0], 3, positions.shape[1])
  )


def _last(mask: Bool[Array, "*n t"]) -> Int[Array, "*n"]:
  return jnp.maximum(jnp.sum(mask, axis=-1) - 1, 0)


def _attend(
  config: VLMConfig, query: Array, segments: tuple[Segment, ...]
) -> Array:
  """Attention to ancestors and, causally, to the last segment, one's own."""
  return attend(query, segments, True, config.attention, config.mesh)


def prefill(
  params: Any, config: VLMConfig, prompts: Prompts, dtype: Any = jnp.float32
) -> Prefilled:
  """Runs B prompts once and keeps their keys and values."""
  embedded = embed_prompts(params, config, prompts, dtype)

  def read(q: Array, k: Array, v: Array) -> Array:
    own = segment(k[:, None], v[:, None], prompts.mask[:, None])
    return _attend(config, q[:, None], (own,))[:, 0]

  x, (keys, values) = _run_blocks(
    params,
    config,
    embedded.tokens,
    text_turn(config, prompts.positions),
    read,
    embedded.deep,
  )
  last = jnp.take_along_axis(x, _last(prompts.mask)[:, None, None], axis=1)
  mask = prompts.mask[:, None]
  if config.scan_decode:
    # [L, B, P, h, D] -> [B, 1, L, h, P, D]
    keys, values = (x.transpose(1, 0, 3, 2, 4)[:, None] for x in (keys, values))
    segments: tuple[Segment, ...] = (Segment(keys, values, mask),)
  else:
    segments = tuple(
      segment(k[:, None], v[:, None], mask)
      for k, v in zip(keys, values, strict=True)
    )
  return Prefilled(
    segments=segments,
    hidden=final_norm(params["text"], config.text, last),
    position=prompts.next_position[:, None],
  )


def gather_nodes(x: Array, index: Int[Array, "b k"]) -> Array:
  """Picks nodes per question: [B, R, …] -> [B, K, …], no collectives."""
  index = index.reshape(*index.shape, *([1] * (x.ndim - 2)))
  return jnp.take_along_axis(x, index, axis=1)


def ancestor_indices(
  levels: tuple[Nodes, ...],
) -> list[list[Int[Array, "b k"]]]:
  """For each level, its groups' ancestor node in every earlier level.

  Entry [l][j] is [B, K_l] into the R_j nodes of level j < l.
  """
  chains: list[list[Array]] = []
  for number, level in enumerate(levels):
    chain: list[Array] = []
    if number > 0:
      parent = level.parent
      if parent is None:
        raise ValueError(f"level {number + 1} needs the index of its parents")
      above = levels[number - 1]
      chain = [parent]
      if chains[-1]:  # a parent's own group has its chain already
        fanout = above.tokens.shape[1] // chains[-1][0].shape[1]
        group = parent // fanout
        chain = [
          jnp.take_along_axis(index, group, axis=1) for index in chains[-1]
        ] + chain
    chains.append(chain)
  return chains


def start_positions(
  next_position: Int[Array, " b"], levels: tuple[Nodes, ...]
) -> list[Int[Array, "b r"]]:
  """Position of the first token of every node: a child continues at its
  parent's real length, not at the padded one."""
  starts: list[Array] = []
  for number, level in enumerate(levels):
    r = level.tokens.shape[1]
    if number == 0:
      start = jnp.broadcast_to(next_position[:, None], (len(next_position), r))
    else:
      above = levels[number - 1]
      assert level.parent is not None
      end = starts[-1] + jnp.sum(above.mask, axis=-1)
      begin = jnp.take_along_axis(end, level.parent, axis=1)
      start = jnp.repeat(begin, r // begin.shape[1], axis=1)
    starts.append(start)
  return starts


def tree_hidden(
  params: Any,
  config: VLMConfig,
  prompts: Prompts,
  levels: tuple[Nodes, ...],
  dtype: Any = jnp.float32,
  remat: str = "none",
  embedded: Embedded | None = None,
) -> tuple[Float[Array, "b r t d"], ...]:
  """Normed states that predict every token of every level.

  One forward over P + ΣR·T tokens per question. The state that predicts a
  node's first token is its parent's at the parent's last real token.

  Args:
    params: the policy's parameters.
    config: sizes.
    prompts: level 0.
    levels: the levels below it.
    dtype: of the activations.
    remat: what the backward pass computes again, the vision tower's too; see
      remat.py.
    embedded: prompt embeddings, where the caller has them already.
  """
  if embedded is None:
    embedded = embed_prompts(params, config, prompts, dtype, remat)
  b, length, _ = embedded.tokens.shape
  chains = ancestor_indices(levels)
  starts = start_positions(prompts.next_position, levels)
  xs, positions, sizes = [embedded.tokens], [prompts.positions], [length]
  for level, start in zip(levels, starts, strict=True):
    _, r, t = level.tokens.shape
    tokens = level.tokens.reshape(b, r * t)
    xs.append(embed_tokens(params["text"], tokens, dtype, config.mesh))
    position = (start[..., None] + jnp.arange(t)).reshape(b, r * t)
    positions.append(text_positions(position))
    sizes.append(r * t)
  x = spread(jnp.concatenate(xs, axis=1), config.mesh)
  turn = text_turn(config, jnp.concatenate(positions, axis=2))
  borders = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
  prompt_mask = prompts.mask[:, None]

  def split(x: Array) -> list[Array]:
    """Flat tokens to one [B, R, T, …] array per level, prompt first."""
    parts = jnp.split(x, borders, axis=1)
    shapes = [(1, sizes[0])] + [level.tokens.shape[1:] for level in levels]
    return [
      part.reshape(b, *shape, *part.shape[2:])
      for part, shape in zip(parts, shapes, strict=True)
    ]

  def read(q: Array, k: Array, v: Array) -> Array:
    qs, ks, vs = split(q), split(k), split(v)
    prompt = segment(ks[0], vs[0], prompt_mask)
    outs = [_attend(config, qs[0], (prompt,))]
    for number, level in enumerate(levels):
      above = [prompt]
      for j, index in enumerate(chains[number]):
        above.append(
          segment(
            gather_nodes(ks[j + 1], index),
            gather_nodes(vs[j + 1], index),
            gather_nodes(levels[j].mask, index),
          )
        )
      own = segment(ks[number + 1], vs[number + 1], level.mask)
      outs.append(_attend(config, qs[number + 1], (*above, own)))
    return jnp.concatenate([o.reshape(b, -1, *o.shape[3:]) for o in outs], 1)

  x, _ = _run_blocks(params, config, x, turn, read, embedded.deep, remat)
  hidden = split(final_norm(params["text"], config.text, x))
  masks = [prompt_mask] + [level.mask for level in levels]
  predictions = []
  for number, level in enumerate(levels):
    above, own = hidden[number], hidden[number + 1]
    last = _last(masks[number])[..., None, None]
    ends = jnp.take_along_axis(above, last, axis=2)[:, :, 0]
    if level.parent is not None:
      ends = gather_nodes(ends, level.parent)
    first = jnp.repeat(ends, own.shape[1] // ends.shape[1], axis=1)
    predictions.append(
      jnp.concatenate([first[:, :, None], own[:, :, :-1]], axis=2)
    )
  return tuple(predictions)
