"""Log-probs of tokens from the states that predict them."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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


def token_logprobs(
  params: Any,
  hidden: Float[Array, "b r t d"],
  tokens: Int[Array, "b r t"],
  temperature: float = 1.0,
  banned: tuple[int, ...] = (),
  budget: int = 1 << 26,
) -> tuple[Float[Array, "b r t"], Float[Array, "b r t"]]:
  """Log-prob of each token and the entropy of its distribution, in nats.

  Args:
    params: the policy's parameters.
    hidden: normed states that predict the tokens.
    tokens: the tokens.
    temperature: of the sampler.
    banned: ids that the sampler may not emit.
    budget: most logits alive at a time; longer inputs are done in chunks of
      tokens, recomputed in the backward pass.
  """
  b, r, t, d = hidden.shape
  vocab = params["text"]["embed"]["embedding"].shape[0]

  def score(hidden: Array, tokens: Array) -> tuple[Array, Array]:
    logits = head_logits(params["text"], hidden)
    logits = shape_logits(logits, temperature, banned)
    total = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    mean = jnp.sum(jnp.exp(logits - total[..., None]) * logits, axis=-1)
    return chosen - total, total - mean

  flat_hidden, flat_tokens = hidden.reshape(b, r * t, d), tokens.reshape(b, -1)
  if b * r * t * vocab <= budget:
    logprob, entropy = score(flat_hidden, flat_tokens)
  else:
    chunk = max(1, budget // (b * vocab))
    pad = -(r * t) % chunk
    flat_hidden = jnp.pad(flat_hidden, ((0, 0), (0, pad), (0, 0)))
    flat_tokens = jnp.pad(flat_tokens, ((0, 0), (0, pad)))
    count = (r * t + pad) // chunk
    chunks = (
      jnp.moveaxis(flat_hidden.reshape(b, count, chunk, d), 1, 0),
      jnp.moveaxis(flat_tokens.reshape(b, count, chunk), 1, 0),
    )
    _, (logprob, entropy) = jax.lax.scan(
      lambda carry, x: (carry, jax.checkpoint(score)(*x)), None, chunks
    )
    logprob, entropy = (
      jnp.moveaxis(y, 0, 1).reshape(b, -1)[:, : r * t]
      for y in (logprob, entropy)
    )
  return logprob.reshape(b, r, t), entropy.reshape(b, r, t)
