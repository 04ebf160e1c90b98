"""Descriptions decoded under a policy that an MI reward has tilted.

A description is drawn token by token from

    (1 + β) log p(· | v, q, prefix) - βλ log p(· | v0, q, prefix)

by two frontiers in lock-step, the image's and the view's, which share their
tokens. The reasoning is an ordinary one under the image.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mirl_jax.build import Policy
from mirl_jax.policy.attention import Segment
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.decode import (
  Cache,
  decode_step,
  decode_weights,
  next_logits,
)
from mirl_jax.policy.forward import prefill
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.logprobs import shape_logits
from mirl_jax.rollout.draw import choose, log_prob, random_numbers
from mirl_jax.rollout.loop import (
  Inputs,
  Loop,
  first_loop,
  follow,
  noted,
  unfinished,
  written_token,
)
from mirl_jax.rollout.program import Sample
from mirl_jax.rollout.sampler import Frontier, sample_stage, start
from mirl_jax.rollout.stop import Stop
from mirl_jax.rollout.tree import Level


class Tilt(NamedTuple):
  """How far decoding leaves the policy; traced, so that all share a program.

  Attributes:
    beta: β, the weight of the reward over that of the KL.
    prior_weight: λ.
    plausible: a token whose probability under the image is below this share of
      the most probable one is never chosen; 0 = off.
  """

  beta: float | Array
  prior_weight: float | Array
  plausible: float | Array


# Parameters, prompts, views [1, B, …], key and tilt to both levels.
Respond = Callable[[Any, Prompts, Prompts, Array, Tilt], tuple[Level, Level]]


class _Walk(NamedTuple):
  """The image's loop, and the view's state and cache after the same tokens."""

  loop: Loop
  hidden: Array
  cache: Cache


def guided_logits(
  logits: Float[Array, "*n v"], prior: Float[Array, "*n v"], tilt: Tilt
) -> Float[Array, "*n v"]:
  """The tilted logits, not normalised.

  Neither are the two inputs: that would change each row by a constant only,
  and β = 0 has to leave the bits of the policy's logits as they are.

  Args:
    logits: under the image, of `shape_logits`.
    prior: under the view; banned tokens need not be masked.
    tilt: how far.
  """
  guided = (1 + tilt.beta) * logits - tilt.beta * tilt.prior_weight * prior
  peak = jnp.max(logits, axis=-1, keepdims=True)
  implausible = logits < peak + jnp.log(tilt.plausible)
  return jnp.where(implausible, -jnp.inf, guided)


def _fed(
  inputs: Inputs, token: Int[Array, "b r"], step: Int[Array, ""], cache: Cache
) -> tuple[Array, Cache]:
  return decode_step(
    inputs.params,
    inputs.config,
    token,
    inputs.begin + step,
    step,
    inputs.ancestors,
    cache,
    inputs.weights,
  )


def _guided_token(
  image: Inputs, view: Inputs, tilt: Tilt, walk: _Walk
) -> _Walk:
  """`loop.one_token` with guided logits; both frontiers are fed the token."""
  loop, status = walk.loop, walk.loop.status
  logits = guided_logits(
    shape_logits(
      next_logits(image.weights, loop.hidden),
      image.stage.temperature,
      image.config.banned_tokens,
    ),
    next_logits(view.weights, walk.hidden),
    tilt,
  )
  uniform = random_numbers(image.keys, loop.step, image.nodes)
  choice = choose(image.stage, logits, uniform)
  token, live = written_token(image, status, choice)
  hidden, cache = _fed(image, token, loop.step, loop.cache)
  view_hidden, view_cache = _fed(view, token, loop.step, walk.cache)
  own = Loop(
    step=loop.step + 1,
    record=noted(
      loop.record,
      loop.step,
      token,
      live,
      status.sampling,
      log_prob(logits, token),
    ),
    status=follow(image, status, token, loop.step),
    hidden=jnp.where(live[..., None], hidden, loop.hidden),
    cache=cache,
  )
  return _Walk(own, view_hidden, view_cache)


def describe(
  params: Any,
  config: VLMConfig,
  stage: Sample,
  stop: Stop,
  image: Frontier,
  view: Frontier,
  keys: Key[Array, " b"],
  tilt: Tilt,
) -> tuple[Level, Frontier]:
  """As `sample_stage` on the image's prompts, tilted away from the view's.

  Args:
    params: the policy's parameters.
    config: sizes.
    stage: what to sample; temperature 1, or 0 for the most probable token of
      the tilted distribution.
    stop: the stage's compiled stop.
    image: the prompts with the image.
    view: the prompts without it.
    keys: one random key per question.
    tilt: how far.

  Returns:
    The descriptions, their log-probs under the tilted distribution, and the
    image's frontier after them.
  """
  weights = decode_weights(params, config)

  def inputs(frontier: Frontier) -> Inputs:
    begin = jnp.repeat(frontier.position, stage.fanout, axis=1)
    node = jnp.arange(stage.fanout, dtype=jnp.int32)
    return Inputs(
      params=params,
      config=config,
      stage=stage,
      stop=stop,
      close=stop.close,
      keys=keys,
      ancestors=frontier.ancestors,
      begin=begin,
      node=jnp.broadcast_to(node, begin.shape),
      nodes=stage.fanout,
      weights=weights,
    )

  seen, unseen = inputs(image), inputs(view)
  loop = first_loop(seen, image.hidden)
  # Both caches begin empty and have one shape.
  walk = _Walk(loop, jnp.repeat(view.hidden, stage.fanout, axis=1), loop.cache)
  loop = jax.lax.while_loop(
    lambda walk: unfinished(walk.loop),
    lambda walk: _guided_token(seen, unseen, tilt, walk),
    walk,
  ).loop
  return _grown(seen, image, loop)


def _grown(
  inputs: Inputs, parents: Frontier, loop: Loop
) -> tuple[Level, Frontier]:
  """The finished loop as the prompt's children, unscored."""
  record = loop.record
  shape = record.tokens.shape[:2]
  own = [
    Segment(k, v, record.mask)
    for k, v in zip(loop.cache.keys, loop.cache.values, strict=True)
  ]
  level = Level(
    tokens=record.tokens[:, None],
    mask=record.mask[:, None],
    sampled=record.sampled[:, None],
    logprobs=record.logprobs[:, None],
    parent=parents.index,
    finished=(loop.status.stop_state == inputs.stop.accept)[:, None],
    kept=jnp.ones(shape, bool)[:, None],
    scores={},
  )
  return level, Frontier(
    ancestors=tuple(
      (*above, segment)
      for above, segment in zip(inputs.ancestors, own, strict=True)
    ),
    hidden=loop.hidden,
    position=inputs.begin + jnp.sum(record.mask, axis=-1),
    index=inputs.node,
  )


def responder(
  policy: Policy, stages: tuple[Sample, Sample], stops: Mapping[str, Stop]
) -> Respond:
  """A compiled function that samples guided descriptions and reasons on them.

  Its draws depend on (key, question, stage, node, token) as a `Rollout`'s do.

  Args:
    policy: who describes and reasons.
    stages: of the description, and of the ordinary reasoning under the image.
    stops: the stages' compiled stops, by name.
  """
  config, dtype = policy.config, policy.dtype
  first, second = stages

  def respond(
    params: Any, prompts: Prompts, views: Prompts, key: Array, tilt: Tilt
  ) -> tuple[Level, Level]:
    keys = jax.vmap(lambda q: jax.random.fold_in(key, q))(prompts.question)
    own = [
      jax.vmap(lambda k, n=n: jax.random.fold_in(k, n))(keys) for n in (0, 1)
    ]
    image, view = (
      start(prefill(params, config, x, dtype))
      for x in (prompts, jax.tree.map(lambda x: x[0], views))
    )
    described, frontier = describe(
      params, config, first, stops[first.name], image, view, own[0], tilt
    )
    reasoned, _ = sample_stage(
      params,
      config,
      second,
      stops[second.name],
      frontier,
      own[1],
      has_children=False,
    )
    return described, reasoned

  return jax.jit(respond)
