"""Log-probs of tokens from the states that predict them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jaxtyping import Array, Float, Int

from mirl_jax.parallel.mesh import own_questions
from mirl_jax.policy.text import head_logits

_MASKED = -1e30


def shape_logits(
  logits: Float[Array, "*n v"],
  temperature: float,
  banned: tuple[int, ...],
) -> Float[Array, "*n v"]:
  """The one place where temperature and banned tokens are applied.

  Temperature 0 (greedy) leaves the scale alone: log-probs are reported at 1.
  """
  if temperature not in (0.0, 1.0):
    logits = logits / temperature
  if banned:
    ids = jnp.arange(logits.shape[-1])
    ban = jnp.isin(ids, jnp.asarray(banned), assume_unique=True)
    logits = jnp.where(ban, _MASKED, logits)
  return logits


class Scored(NamedTuple):
  """What the policy says of tokens [B, R, T], in nats.

  Attributes:
    logprob: of each token.
    entropy: of the distribution that it is from.
    peak: log-prob of the most probable token there.
  """

  logprob: Array
  entropy: Array
  peak: Array


def token_logprobs(
  params: Any,
  hidden: Float[Array, "b r t d"],
  tokens: Int[Array, "b r t"],
  temperature: float = 1.0,
  banned: tuple[int, ...] = (),
  mesh: AbstractMesh | None = None,
  budget: int = 1 << 26,
) -> Scored:
  """Log-probs of tokens from the states that predict them.

  Args:
    params: the policy's parameters.
    hidden: normed states that predict the tokens.
    tokens: the tokens.
    temperature: of the sampler.
    banned: ids that the sampler may not emit.
    mesh: over which the questions are cut.
    budget: most logits alive at a time on a device; longer inputs are done in
      chunks of tokens, recomputed in the backward pass.
  """
  b, r, t, d = hidden.shape
  vocab = params["text"]["embed"]["embedding"].shape[0]
  fitting = max(1, budget // (own_questions(b, mesh) * vocab))

  def score(hidden: Array, tokens: Array) -> Scored:
    logits = head_logits(params["text"], hidden)
    logits = shape_logits(logits, temperature, banned)
    total = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    mean = jnp.sum(jnp.exp(logits - total[..., None]) * logits, axis=-1)
    peak = jnp.max(logits, axis=-1) - total
    return Scored(chosen - total, total - mean, peak)

  flat_hidden, flat_tokens = hidden.reshape(b, r * t, d), tokens.reshape(b, -1)
  if r * t <= fitting:
    made = score(flat_hidden, flat_tokens)
  else:
    pad = -(r * t) % fitting
    flat_hidden = jnp.pad(flat_hidden, ((0, 0), (0, pad), (0, 0)))
    flat_tokens = jnp.pad(flat_tokens, ((0, 0), (0, pad)))
    count = (r * t + pad) // fitting
    chunks = (
      jnp.moveaxis(flat_hidden.reshape(b, count, fitting, d), 1, 0),
      jnp.moveaxis(flat_tokens.reshape(b, count, fitting), 1, 0),
    )
    _, parts = jax.lax.scan(
      lambda carry, x: (carry, jax.checkpoint(score)(*x)), None, chunks
    )
    made = Scored(
      *(jnp.moveaxis(y, 0, 1).reshape(b, -1)[:, : r * t] for y in parts)
    )
  return Scored(*(x.reshape(b, r, t) for x in made))
