"""The tree sampler: one stage after another on the device.

A stage reads what its ancestors left in their segments; the prompt is
prefilled once per question and no key is copied per child.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mirl_jax.policy.attention import Segment
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.decode import (
  Cache,
  decode_step,
  decode_weights,
  empty_cache,
  next_logits,
)
from mirl_jax.policy.forward import Prefilled, gather_nodes
from mirl_jax.policy.logprobs import shape_logits
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

  def narrow(segment: Segment) -> Segment:
    groups = segment.keys.shape[1]
    if groups == 1:  # the prompt: shared by all
      return segment
    group = index // (alive // groups)
    return Segment(*(gather_nodes(x, group) for x in segment))

  return Frontier(
    ancestors=tuple(
      tuple(narrow(s) for s in layer) for layer in frontier.ancestors
    ),
    hidden=gather_nodes(frontier.hidden, index),
    position=jnp.take_along_axis(frontier.position, index, axis=1),
    index=jnp.take_along_axis(frontier.index, index, axis=1),
  )


def restrict(
  logits: Float[Array, "*n v"], top_p: float, top_k: int
) -> Float[Array, "*n v"]:
  """Removes tokens outside of the top-k and of the nucleus (Holtzman 2020).

  The nucleus is the smallest set of most probable tokens that together reach
  top_p; ties at its border stay in.
  """
  if top_k > 0:
    border = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
    logits = jnp.where(logits < border, -jnp.inf, logits)
  if top_p < 1:
    ordered = -jnp.sort(-logits, axis=-1)
    probs = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs
    count = jnp.sum(before < top_p, axis=-1, keepdims=True)
    border = jnp.take_along_axis(ordered, count - 1, axis=-1)
    logits = jnp.where(logits < border, -jnp.inf, logits)
  return logits


def draw(
  logits: Float[Array, "*n v"], uniform: Float[Array, "*n"]
) -> Int[Array, "*n"]:
  """One categorical draw per row by inversion of its distribution function.

  One random number per row instead of one per logit; a token of probability
  zero is never drawn.

  Args:
    logits: unnormalised log-probs, some possibly -inf or very low.
    uniform: numbers in [0, 1).
  """
  probs = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
  cumulative = jnp.cumsum(probs, axis=-1)
  # A parallel sum rounds each prefix in its own way, so it may rise at a token
  # of probability zero or fall: look at possible tokens only.
  possible = probs > 0
  total = jnp.max(jnp.where(possible, cumulative, 0), axis=-1, keepdims=True)
  reached = possible & (cumulative > uniform[..., None] * total)
  return jnp.argmax(reached, axis=-1).astype(jnp.int32)


class _Loop(NamedTuple):
  """State of the decode loop over R nodes of each of B questions."""

  step: Array  # []
  tokens: Array  # [B, R, T]
  mask: Array  # [B, R, T]
  sampled: Array  # [B, R, T]
  logprobs: Array  # [B, R, T]
  stop_state: Array  # [B, R]
  sampling: Array  # [B, R] still choosing tokens
  closing: Array  # [B, R] index of the next forced closing token, or -1
  hidden: Array  # [B, R, D]
  cache: Cache


def _is_any(tokens: Array, ids: tuple[int, ...]) -> Bool[Array, "b r"]:
  return jnp.isin(tokens, jnp.asarray(ids or (-1,), jnp.int32))


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
  b, groups, _ = frontier.hidden.shape
  r = groups * stage.fanout
  close = stop.close if has_children else ()
  t = stage.max_tokens + len(close)
  begin = jnp.repeat(frontier.position, stage.fanout, axis=1)
  table = jnp.asarray(stop.table)
  forced = jnp.asarray(close or (config.pad_token,), jnp.int32)
  dtype = frontier.ancestors[0][0].keys.dtype
  weights = decode_weights(params, config)

  def unfinished(loop: _Loop) -> Array:
    return (loop.step < t) & jnp.any(loop.sampling | (loop.closing >= 0))

  def one_token(loop: _Loop) -> _Loop:
    step = loop.step
    logits = shape_logits(
      next_logits(weights, loop.hidden),
      stage.temperature,
      config.banned_tokens,
    )
    if stage.temperature == 0:
      choice = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    else:
      uniform = jax.vmap(
        lambda key: jax.random.uniform(jax.random.fold_in(key, step), (r,))
      )(keys)
      choice = draw(restrict(logits, stage.top_p, stage.top_k), uniform)
    is_forced = loop.closing >= 0
    live = loop.sampling | is_forced
    token = jnp.where(is_forced, forced[jnp.maximum(loop.closing, 0)], choice)
    token = jnp.where(live, token, config.pad_token)
    chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
    logprob = chosen - jax.nn.logsumexp(logits, axis=-1)

    state = jnp.where(
      loop.sampling, table[loop.stop_state, token], loop.stop_state
    )
    stopped = loop.sampling & (state == stop.accept)
    truncated = (
      loop.sampling
      & ~stopped
      & (_is_any(token, config.eos_tokens) | (step + 1 >= stage.max_tokens))
    )
    closing = jnp.where(is_forced, loop.closing + 1, -1)
    if close:
      closing = jnp.where(truncated, 0, closing)
      closing = jnp.where(closing >= len(close), -1, closing)
    else:
      closing = jnp.full_like(closing, -1)

    hidden, cache = decode_step(
      params,
      config,
      token,
      begin + step,
      step,
      frontier.ancestors,
      loop.cache,
      weights,
    )

    def put(buffer: Array, value: Array) -> Array:
      return jax.lax.dynamic_update_slice(
        buffer, value[..., None].astype(buffer.dtype), (0, 0, step)
      )

    return _Loop(
      step=step + 1,
      tokens=put(loop.tokens, token),
      mask=put(loop.mask, live),
      sampled=put(loop.sampled, loop.sampling),
      logprobs=put(loop.logprobs, jnp.where(live, logprob, 0.0)),
      stop_state=state,
      sampling=loop.sampling & ~stopped & ~truncated,
      closing=closing,
      hidden=jnp.where(live[..., None], hidden, loop.hidden),
      cache=cache,
    )

  loop = jax.lax.while_loop(
    unfinished,
    one_token,
    _Loop(
      step=jnp.zeros((), jnp.int32),
      tokens=jnp.full((b, r, t), config.pad_token, jnp.int32),
      mask=jnp.zeros((b, r, t), bool),
      sampled=jnp.zeros((b, r, t), bool),
      logprobs=jnp.zeros((b, r, t), jnp.float32),
      stop_state=jnp.zeros((b, r), stop.table.dtype),
      sampling=jnp.ones((b, r), bool),
      closing=jnp.full((b, r), -1, jnp.int32),
      hidden=jnp.repeat(frontier.hidden, stage.fanout, axis=1),
      cache=empty_cache(config, b, r, t, dtype),
    ),
  )

  def by_parent(x: Array) -> Array:
    return x.reshape(b, groups, stage.fanout, *x.shape[2:])

  finished = loop.stop_state == stop.accept
  length = jnp.sum(loop.mask, axis=-1)
  level = Level(
    tokens=by_parent(loop.tokens),
    mask=by_parent(loop.mask),
    sampled=by_parent(loop.sampled),
    logprobs=by_parent(loop.logprobs),
    parent=frontier.index,
    finished=by_parent(finished),
    kept=by_parent(jnp.ones((b, r), bool)),
    scores={
      "likelihood": by_parent(
        jnp.sum(loop.logprobs * loop.sampled, axis=-1)
        / jnp.maximum(jnp.sum(loop.sampled, axis=-1), 1)
      )
    },
  )
  own = tuple(
    Segment(k, v, loop.mask)
    for k, v in zip(loop.cache.keys, loop.cache.values, strict=True)
  )
  return level, Frontier(
    ancestors=tuple(
      (*above, segment)
      for above, segment in zip(frontier.ancestors, own, strict=True)
    ),
    hidden=loop.hidden,
    position=begin + length,
    index=jnp.broadcast_to(jnp.arange(r, dtype=jnp.int32), (b, r)),
  )
