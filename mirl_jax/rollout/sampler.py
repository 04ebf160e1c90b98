"""The tree sampler: one stage after another on the device.

A stage reads what its ancestors left in their segments; the prompt is
prefilled once per question and no key is copied per child.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from mirl_jax.policy.attention import Segment
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.decode import decode_weights
from mirl_jax.policy.forward import Prefilled, gather_nodes
from mirl_jax.rollout.compact import decode, narrowed
from mirl_jax.rollout.loop import Inputs, first_loop
from mirl_jax.rollout.program import Sample
from mirl_jax.rollout.stop import Stop
from mirl_jax.rollout.tree import Level


class Frontier(NamedTuple):
  """The nodes alive: what the next stage's children continue from.

  Attributes:
    ancestors: per layer, the segments that children read.
    hidden: [B, G, D] normed state after each node's last token.
    position: [B, G] position of a child's first token.
    index: [B, G] which nodes of the level above these are.
  """

  ancestors: tuple[tuple[Segment, ...], ...]
  hidden: Array
  position: Array
  index: Array  # type: ignore[assignment] # hides tuple.index, unused


def start(prefilled: Prefilled) -> Frontier:
  """The prompt as the only node alive."""
  return Frontier(
    ancestors=tuple((segment,) for segment in prefilled.segments),
    hidden=prefilled.hidden,
    position=prefilled.position,
    index=jnp.zeros(prefilled.position.shape, jnp.int32),
  )


def keep(frontier: Frontier, index: Int[Array, "b k"]) -> Frontier:
  """Narrows the frontier to the given nodes, gathering each segment once."""
  alive = frontier.hidden.shape[1]
  return Frontier(
    ancestors=narrowed(frontier.ancestors, index, alive),
    hidden=gather_nodes(frontier.hidden, index),
    position=jnp.take_along_axis(frontier.position, index, axis=1),
    index=jnp.take_along_axis(frontier.index, index, axis=1),
  )


def sample_stage(
  params: Any,
  config: VLMConfig,
  stage: Sample,
  stop: Stop,
  frontier: Frontier,
  keys: Key[Array, " b"],
  has_children: bool,
) -> tuple[Level, Frontier]:
  """Samples `stage.fanout` children of every node of the frontier.

  Every token, the stop included, is fed before the loop ends, so that
  children read all of it and continue from the state after it. A node that
  ends without its stop gets the closing tag forced if it may have children.

  Args:
    params: the policy's parameters.
    config: sizes.
    stage: what to sample.
    stop: the stage's compiled stop.
    frontier: the parents.
    keys: one random key per question; a draw depends on (key, step, node).
    has_children: whether another stage follows.

  Returns:
    The new level, and a frontier of all its nodes.
  """
  begin = jnp.repeat(frontier.position, stage.fanout, axis=1)
  b, r = begin.shape
  inputs = Inputs(
    params=params,
    config=config,
    stage=stage,
    stop=stop,
    close=stop.close if has_children else (),
    keys=keys,
    ancestors=frontier.ancestors,
    begin=begin,
    node=jnp.broadcast_to(jnp.arange(r, dtype=jnp.int32), (b, r)),
    nodes=r,
    weights=decode_weights(params, config),
  )
  loop = decode(inputs, first_loop(inputs, frontier.hidden), stage.halvings)
  groups, record = r // stage.fanout, loop.record

  def by_parent(x: Array) -> Array:
    return x.reshape(b, groups, stage.fanout, *x.shape[2:])

  finished = loop.status.stop_state == stop.accept
  length = jnp.sum(record.mask, axis=-1)
  level = Level(
    tokens=by_parent(record.tokens),
    mask=by_parent(record.mask),
    sampled=by_parent(record.sampled),
    logprobs=by_parent(record.logprobs),
    parent=frontier.index,
    finished=by_parent(finished),
    kept=by_parent(jnp.ones((b, r), bool)),
    scores={
      "likelihood": by_parent(
        jnp.sum(record.logprobs * record.sampled, axis=-1)
        / jnp.maximum(jnp.sum(record.sampled, axis=-1), 1)
      )
    },
  )
  own = tuple(
    Segment(k, v, record.mask)
    for k, v in zip(loop.cache.keys, loop.cache.values, strict=True)
  )
  return level, Frontier(
    ancestors=tuple(
      (*above, segment)
      for above, segment in zip(frontier.ancestors, own, strict=True)
    ),
    hidden=loop.hidden,
    position=begin + length,
    index=inputs.node,
  )
