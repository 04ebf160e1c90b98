"""Decoding goes on with fewer rows once most have ended.

A step of decoding costs all its rows, ended ones too, and one long response
keeps the others waiting. When at most half of every question's nodes still
write, those are gathered, with the segments they read, into a loop of half the
rows; at its end they return to their places.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from mirl_jax.policy.attention import Segment
from mirl_jax.policy.forward import gather_nodes
from mirl_jax.rollout.loop import Inputs, Loop, one_token, unfinished, writing


def decode(inputs: Inputs, loop: Loop, halvings: int) -> Loop:
  """Runs the loop to its end.

  Args:
    inputs: what it reads.
    loop: its state so far, R rows per question.
    halvings: how often the rows may be halved; each is a loop of its own to
      compile.
  """
  rows = inputs.node.shape[1]
  turn = functools.partial(one_token, inputs)
  if halvings == 0 or rows == 1:
    return jax.lax.while_loop(unfinished, turn, loop)
  half = -(-rows // 2)

  def crowded(loop: Loop) -> Array:
    live = jnp.sum(writing(loop.status), axis=1)
    return unfinished(loop) & (jnp.max(live) > half)

  loop = jax.lax.while_loop(crowded, turn, loop)
  # Stable: live nodes first, each kind in order.
  order = jnp.argsort(~writing(loop.status), axis=1, stable=True)
  index = order[:, :half].astype(jnp.int32)
  few = decode(_some(inputs, index), _taken(loop, index), halvings - 1)
  return _returned(loop, few, index)


def narrowed(
  ancestors: tuple[tuple[Segment, ...], ...],
  index: Int[Array, "b k"],
  rows: int,
) -> tuple[tuple[Segment, ...], ...]:
  """The segments that some of `rows` nodes read, each gathered once.

  The prompt's, shared by all, stay as they are.
  """

  def narrow(segment: Segment) -> Segment:
    groups = segment.keys.shape[1]
    if groups == 1:
      return segment
    group = index // (rows // groups)
    return Segment(*(gather_nodes(x, group) for x in segment))

  return tuple(tuple(narrow(x) for x in layer) for layer in ancestors)


def _some(inputs: Inputs, index: Int[Array, "b k"]) -> Inputs:
  """What the given nodes read; each becomes a group of its own."""
  return inputs._replace(
    ancestors=narrowed(inputs.ancestors, index, inputs.node.shape[1]),
    begin=gather_nodes(inputs.begin, index),
    node=gather_nodes(inputs.node, index),
  )


def _taken(loop: Loop, index: Int[Array, "b k"]) -> Loop:
  def take(x: Array) -> Array:
    return gather_nodes(x, index) if x.ndim else x

  return jax.tree.map(take, loop)


def _returned(loop: Loop, few: Loop, index: Int[Array, "b k"]) -> Loop:
  questions = jnp.arange(index.shape[0])[:, None]

  def put(x: Array, part: Array) -> Any:
    return x.at[questions, index].set(part) if x.ndim else part

  return jax.tree.map(put, loop, few)
