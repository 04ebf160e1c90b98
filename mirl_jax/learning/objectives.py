"""Loss terms as pure functions of log-probs; no model inside."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

RATIOS = ("token", "sequence")
REDUCTIONS = ("token", "sequence", "constant")
KL_KINDS = ("k1", "k2", "k3")


@dataclass(frozen=True)
class Clip:
  """The clipped policy gradient's settings.

  Attributes:
    low: the ratio is clipped below at 1 - low.
    high: and above at 1 + high (asymmetric: DAPO, arXiv 2503.14476).
    dual: for negative advantages the objective is bounded below by
      dual · advantage (arXiv 1912.09729); 0 = off.
    ratio: `token`, or `sequence`, the geometric mean over a node (GSPO,
      arXiv 2507.18071).
  """

  low: float = 0.2
  high: float = 0.28
  dual: float = 0.0
  ratio: str = "token"

  def __post_init__(self) -> None:
    if self.ratio not in RATIOS:
      raise ValueError(f"loss.ratio={self.ratio!r} is not one of {RATIOS}")


def policy_gradient(
  logprob: Float[Array, "b r t"],
  old_logprob: Float[Array, "b r t"],
  advantage: Float[Array, "b r"],
  mask: Bool[Array, "b r t"],
  clip: Clip,
) -> tuple[Float[Array, "b r t"], Bool[Array, "b r t"]]:
  """Loss per token (to be minimised) and where the clip bound.

  Source: PPO (arXiv 1707.06347) eq. 7 with GRPO's group advantage.
  """
  gap = jnp.where(mask, logprob - old_logprob, 0.0)
  if clip.ratio == "sequence":
    count = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
    mean = jnp.sum(gap, axis=-1, keepdims=True) / count
    # Value of the node's mean ratio, gradient through each token.
    gap = jax.lax.stop_gradient(mean) + gap - jax.lax.stop_gradient(gap)
  ratio = jnp.exp(gap)
  signed = advantage[..., None]
  plain = ratio * signed
  bounded = jnp.clip(ratio, 1 - clip.low, 1 + clip.high) * signed
  objective = jnp.minimum(plain, bounded)
  if clip.dual > 0:
    objective = jnp.where(
      signed < 0, jnp.maximum(objective, clip.dual * signed), objective
    )
  return jnp.where(mask, -objective, 0.0), mask & (bounded < plain)


def kl_penalty(
  logprob: Float[Array, "b r t"],
  reference: Float[Array, "b r t"],
  mask: Bool[Array, "b r t"],
  kind: str = "k3",
) -> Float[Array, "b r t"]:
  """KL(policy || reference) estimated per sampled token, in nats.

  Source: Schulman, "Approximating KL divergence" (2020): k1 = -log r,
  k2 = log² r / 2, k3 = r - 1 - log r, with r = reference / policy.

  Raises:
    ValueError: for an unknown kind.
  """
  log_r = jnp.where(mask, reference - logprob, 0.0)
  if kind == "k1":
    return -log_r
  if kind == "k2":
    return 0.5 * jnp.square(log_r)
  if kind == "k3":
    return jnp.exp(log_r) - 1.0 - log_r
  raise ValueError(f"loss.kl_kind={kind!r} is not one of {KL_KINDS}")


def token_weights(
  masks: list[Bool[Array, "b _ _"]], reduction: str
) -> list[Float[Array, "b _ _"]]:
  """Weights with which per-token losses are summed into the batch's loss.

  `token`: every token of the batch counts the same, over all levels.
  `sequence`: every node of a level counts the same, levels are added.
  `constant`: tokens over the number of node slots times their buffer length
    (Dr. GRPO, arXiv 2503.20783), levels are added.

  Computed on the whole batch, so micro-batching changes no gradient.

  Raises:
    ValueError: for an unknown reduction.
  """
  if reduction == "token":
    total = jnp.maximum(sum(jnp.sum(mask) for mask in masks), 1)
    return [mask / total for mask in masks]
  if reduction == "sequence":
    weights = []
    for mask in masks:
      length = jnp.sum(mask, axis=-1, keepdims=True)
      count = jnp.maximum(jnp.sum(length > 0), 1)
      weights.append(mask / jnp.maximum(length, 1) / count)
    return weights
  if reduction == "constant":
    return [mask / float(mask.size) for mask in masks]
  raise ValueError(f"loss.reduction={reduction!r} is not one of {REDUCTIONS}")
