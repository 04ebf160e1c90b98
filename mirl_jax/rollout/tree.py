"""The rollout tree: the one batch type between sampler, scorer, rewards,
credit and update."""

from typing import Any

import jax.numpy as jnp
from flax import struct

from mirl_jax.policy.forward import Nodes
from mirl_jax.policy.inputs import Prompts

Array = Any  # numpy, jax, or a spec while a program is built


@struct.dataclass
class Level:
  """Children of K parents, F each, of up to T tokens.

  Attributes:
    tokens: token ids.
    mask: real tokens, a prefix of each node; forced closing tags included.
    sampled: tokens that the policy chose, the ones that a loss may pay.
    logprobs: the sampler's log-prob of each token, at its temperature, nats.
    parent: index into the K·F nodes of the level above (0, the prompt, at
      level 1).
    finished: the node ended with its stop; otherwise it is truncated.
    kept: the node was forked by the next stage (all True at the last level).
    scores: per node, named: `mi`, `likelihood`, ….
  """

  tokens: Array  # [B, K, F, T] int32
  mask: Array  # [B, K, F, T] bool
  sampled: Array  # [B, K, F, T] bool
  logprobs: Array  # [B, K, F, T] float32
  parent: Array  # [B, K] int32
  finished: Array  # [B, K, F] bool
  kept: Array  # [B, K, F] bool
  scores: dict[str, Array]  # [B, K, F] float32 each


@struct.dataclass
class Tree:
  """A batch of questions and all that was sampled for them."""

  prompts: Prompts
  levels: tuple[Level, ...]


def flat(x: Array) -> Array:
  """[B, K, F, …] -> [B, K·F, …]."""
  return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])


def nodes(levels: tuple[Level, ...]) -> tuple[Nodes, ...]:
  """The levels as the policy's forward reads them."""
  return tuple(
    Nodes(flat(x.tokens), flat(x.mask), x.parent if i > 0 else None)
    for i, x in enumerate(levels)
  )


def token_counts(tree: Tree) -> dict[str, Array]:
  """Real token counts of a batch.

  Returns:
    `generated`: sampled tokens; `tree`: tokens of one forward over the tree;
    `flat`: tokens if every leaf and every unkept node were an independent
    sequence; `padded`: slots of the tree's arrays, padding included.
  """
  prompt = jnp.sum(tree.prompts.mask, axis=1)
  path = [prompt[:, None]]
  generated = jnp.zeros((), jnp.int32)
  total = jnp.sum(prompt)
  flat_tokens = jnp.zeros((), jnp.int32)
  padded = tree.prompts.mask.size
  for number, level in enumerate(tree.levels):
    length = jnp.sum(flat(level.mask), axis=-1)
    above = (
      path[-1]
      if number == 0
      else jnp.take_along_axis(path[-1], level.parent, axis=1)
    )
    path.append(length + jnp.repeat(above, level.tokens.shape[2], axis=1))
    generated += jnp.sum(level.sampled)
    total += jnp.sum(length)
    padded += level.mask.size
    leaf = jnp.ones_like(flat(level.kept))
    if number + 1 < len(tree.levels):
      leaf = ~flat(level.kept)
    flat_tokens += jnp.sum(jnp.where(leaf, path[-1], 0))
  return {
    "generated": generated,
    "tree": total,
    "flat": flat_tokens,
    "padded": jnp.asarray(padded),
  }
