"""The decode loop of a stage: what it carries and what a turn of it does."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mirl_jax.policy.attention import Segment
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.decode import (
  Cache,
  Weights,
  decode_step,
  empty_cache,
  next_logits,
)
from mirl_jax.policy.logprobs import shape_logits
from mirl_jax.rollout.draw import choose, log_prob, random_numbers
from mirl_jax.rollout.program import Sample
from mirl_jax.rollout.stop import Stop


class Inputs(NamedTuple):
  """What the decode loop of a stage reads and never changes.

  Attributes:
    params: the policy's parameters.
    config: sizes.
    stage: what is sampled.
    stop: the stage's compiled stop.
    close: tokens forced on a node that ends without its stop; may be none.
    keys: [B] one random key per question.
    ancestors: per layer, the segments above the nodes.
    begin: [B, R] position of each node's first token.
    node: [B, R] which of the stage's nodes these are.
    nodes: how many the stage has per question.
    weights: the decoder's, laid out for decoding.
  """

  params: Any
  config: VLMConfig
  stage: Sample
  stop: Stop
  close: tuple[int, ...]
  keys: Array
  ancestors: tuple[tuple[Segment, ...], ...]
  begin: Array
  node: Array
  nodes: int
  weights: Weights


class Status(NamedTuple):
  """How far each of R nodes of each of B questions is.

  Attributes:
    stop_state: [B, R] of the stop's automaton.
    sampling: [B, R] still choosing tokens.
    closing: [B, R] index of the next forced closing token, or -1.
  """

  stop_state: Array
  sampling: Array
  closing: Array


class Record(NamedTuple):
  """What the nodes wrote so far; see `Level`, [B, R, T] each."""

  tokens: Array
  mask: Array
  sampled: Array
  logprobs: Array


class Loop(NamedTuple):
  """State of the decode loop over R nodes of each of B questions.

  Attributes:
    step: [] tokens written so far.
    record: those tokens.
    status: how far each node is.
    hidden: [B, R, D] state after each node's last token.
    cache: the nodes' own keys and values.
  """

  step: Array
  record: Record
  status: Status
  hidden: Array
  cache: Cache


def first_loop(inputs: Inputs, hidden: Float[Array, "b g d"]) -> Loop:
  """The loop before its first token, from the states of the G parents."""
  config, stage = inputs.config, inputs.stage
  b, r = inputs.begin.shape
  t = stage.max_tokens + len(inputs.close)
  dtype = inputs.ancestors[0][0].keys.dtype
  return Loop(
    step=jnp.zeros((), jnp.int32),
    record=Record(
      tokens=jnp.full((b, r, t), config.pad_token, jnp.int32),
      mask=jnp.zeros((b, r, t), bool),
      sampled=jnp.zeros((b, r, t), bool),
      logprobs=jnp.zeros((b, r, t), jnp.float32),
    ),
    status=Status(
      stop_state=jnp.zeros((b, r), inputs.stop.table.dtype),
      sampling=jnp.ones((b, r), bool),
      closing=jnp.full((b, r), -1, jnp.int32),
    ),
    hidden=jnp.repeat(hidden, stage.fanout, axis=1),
    cache=empty_cache(config, b, r, t, dtype),
  )


def written_token(
  inputs: Inputs, status: Status, choice: Int[Array, "b r"]
) -> tuple[Int[Array, "b r"], Bool[Array, "b r"]]:
  """The token that each node writes, and whether it still writes any.

  A node that is being closed writes the closing tag's token, not its choice;
  one that is done, padding.
  """
  forced = jnp.asarray(inputs.close or (inputs.config.pad_token,), jnp.int32)
  is_forced = status.closing >= 0
  live = writing(status)
  closing = forced[jnp.maximum(status.closing, 0)]
  token = jnp.where(is_forced, closing, choice)
  return jnp.where(live, token, inputs.config.pad_token), live


def follow(
  inputs: Inputs,
  status: Status,
  token: Int[Array, "b r"],
  step: Int[Array, ""],
) -> Status:
  """Moves the stop's automaton by a token and ends or closes what is done."""
  stage, stop, close = inputs.stage, inputs.stop, inputs.close
  state = jnp.where(
    status.sampling,
    jnp.asarray(stop.table)[status.stop_state, token],
    status.stop_state,
  )
  stopped = status.sampling & (state == stop.accept)
  is_eos = _is_any(token, inputs.config.eos_tokens)
  truncated = (
    status.sampling & ~stopped & (is_eos | (step + 1 >= stage.max_tokens))
  )
  closing = jnp.where(status.closing >= 0, status.closing + 1, -1)
  if close:
    closing = jnp.where(truncated, 0, closing)
    closing = jnp.where(closing >= len(close), -1, closing)
  else:
    closing = jnp.full_like(closing, -1)
  return Status(state, status.sampling & ~stopped & ~truncated, closing)


def noted(
  record: Record,
  step: Int[Array, ""],
  token: Int[Array, "b r"],
  live: Bool[Array, "b r"],
  sampled: Bool[Array, "b r"],
  logprob: Float[Array, "b r"],
) -> Record:
  """The record with token number `step` of every node written in place."""

  def put(buffer: Array, value: Array) -> Array:
    return jax.lax.dynamic_update_slice(
      buffer, value[..., None].astype(buffer.dtype), (0, 0, step)
    )

  return Record(
    tokens=put(record.tokens, token),
    mask=put(record.mask, live),
    sampled=put(record.sampled, sampled),
    logprobs=put(record.logprobs, jnp.where(live, logprob, 0.0)),
  )


def _is_any(tokens: Array, ids: tuple[int, ...]) -> Bool[Array, "b r"]:
  return jnp.isin(tokens, jnp.asarray(ids or (-1,), jnp.int32))


def one_token(inputs: Inputs, loop: Loop) -> Loop:
  """The body of the decode loop: every node chooses, writes and is fed one
  token."""
  config, stage, step = inputs.config, inputs.stage, loop.step
  logits = shape_logits(
    next_logits(inputs.weights, loop.hidden),
    stage.temperature,
    config.banned_tokens,
  )
  uniform = random_numbers(inputs.keys, step, inputs.nodes)
  uniform = jnp.take_along_axis(uniform, inputs.node, axis=1)
  choice = choose(stage, logits, uniform)
  token, live = written_token(inputs, loop.status, choice)
  hidden, cache = decode_step(
    inputs.params,
    config,
    token,
    inputs.begin + step,
    step,
    inputs.ancestors,
    loop.cache,
    inputs.weights,
  )
  return Loop(
    step=step + 1,
    record=noted(
      loop.record,
      step,
      token,
      live,
      loop.status.sampling,
      log_prob(logits, token),
    ),
    status=follow(inputs, loop.status, token, step),
    hidden=jnp.where(live[..., None], hidden, loop.hidden),
    cache=cache,
  )


def writing(status: Status) -> Bool[Array, "b r"]:
  """Which nodes have a token left to write, a forced one included."""
  return status.sampling | (status.closing >= 0)


def unfinished(loop: Loop) -> Bool[Array, ""]:
  """Whether a node has a token left to write, and a place for it."""
  more = loop.step < loop.record.tokens.shape[-1]
  return more & jnp.any(writing(loop.status))
