"""Pointwise conditional mutual information of a description and its image.

    mi(d; v | q) = log p(d | v, q) - λ log p(d | v0, q)

v0 is a view without the image's information: removed, blank, masked, or a
mixture of other images. λ = 1 is the pointwise MI, λ = 0 the likelihood. The
paper's abstract (arXiv 2605.01520) does not state its estimator: the choices
here are ours.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.forward import Nodes, tree_hidden
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.logprobs import Scored, token_logprobs

VIEWS = ("removed", "blank", "masked", "other", "other_same_question")
REDUCTIONS = ("mean", "sum")
SCORERS = ("policy", "reference", "ema")


@dataclass(frozen=True)
class MI:
  """How descriptions are scored.

  Attributes:
    stage: the Sample stage whose nodes are scored.
    view: what stands in for the image: `removed` (text-only prompt), `blank`
      (grey picture), `masked` (a share of visual tokens greyed), `other`
      (other items of the batch, each with its own question), or
      `other_same_question` (other pictures of the batch under this question).
    views: how many views are mixed (several masks or several other items).
    mask_rate: share of merge units greyed by `masked`.
    prior_weight: λ.
    reduction: `mean` over a node's tokens or `sum`.
    clip: bound on each token's term in nats, 0 = none.
    scorer: whose log-probs: the live `policy`, the frozen `reference`, `ema`.
    temperature: at which tokens are scored.
    plausible: guard: a token whose probability under the image is below this
      share of the most probable one earns no positive MI; 0 = off.
  """

  stage: str = "describe"
  view: str = "removed"
  views: int = 1
  mask_rate: float = 0.5
  prior_weight: float = 1.0
  reduction: str = "mean"
  clip: float = 0.0
  scorer: str = "policy"
  temperature: float = 1.0
  plausible: float = 0.0

  def __post_init__(self) -> None:
    for field, allowed in (
      ("view", VIEWS),
      ("reduction", REDUCTIONS),
      ("scorer", SCORERS),
    ):
      value = getattr(self, field)
      if value not in allowed:
        near = difflib.get_close_matches(value, allowed, 1, 0)[0]
        raise ValueError(f"mi.{field}={value!r}; did you mean {near!r}?")
    if self.views < 1 or (self.view in ("removed", "blank") and self.views > 1):
      raise ValueError(
        f"mi.views={self.views}: at least 1, and 1 for {self.view!r}, which"
        " has only one form"
      )

  def reuses_sampler(self, temperature: float) -> bool:
    """Whether log-probs sampled at this temperature are the first term."""
    return (
      self.scorer == "policy"
      and temperature in (0.0, 1.0)
      and self.temperature == 1.0
      and self.plausible == 0
    )


def from_config(values: Mapping[str, Any]) -> MI:
  """Builds MI from a config section; an unknown field names the nearest."""
  known = [f.name for f in fields(MI)]
  for name in values:
    if name not in known:
      near = difflib.get_close_matches(name, known, 1, 0)[0]
      raise ValueError(f"mi.{name} is unknown; did you mean {near!r}?")
  return MI(**dict(values))


def mixture_logprobs(
  logprobs: Float[Array, "m b r t"], mask: Bool[Array, "b r t"]
) -> Float[Array, "b r t"]:
  """Per-token log-prob under the uniform mixture of M sequence models.

  By the chain rule the terms sum to log mean_m p_m(d), and for M = 1 they
  are the input: with A_t = log mean_m p_m(d_1..d_t), the term is A_t - A_t-1.
  """
  count = logprobs.shape[0]
  if count == 1:
    return jnp.where(mask, logprobs[0], 0.0)
  prefix = jnp.cumsum(jnp.where(mask, logprobs, 0.0), axis=-1)
  joint = jax.nn.logsumexp(prefix, axis=0) - jnp.log(float(count))
  before = jnp.pad(joint[..., :-1], ((0, 0), (0, 0), (1, 0)))
  return jnp.where(mask, joint - before, 0.0)


def reduce_tokens(
  values: Float[Array, "b r t"], mask: Bool[Array, "b r t"], reduction: str
) -> Float[Array, "b r"]:
  """Sum over a node's tokens, or their mean; 0 for an empty node."""
  total = jnp.sum(jnp.where(mask, values, 0.0), axis=-1)
  if reduction == "sum":
    return total
  return total / jnp.maximum(jnp.sum(mask, axis=-1), 1)


def _token_terms(
  clean: Array, prior: Array, implausible: Array | None, mi: MI
) -> Array:
  terms = clean - mi.prior_weight * prior
  if implausible is not None:
    # An implausible token must not pay for itself by being rarer still
    # without the image.
    terms = jnp.where(implausible, jnp.minimum(terms, 0.0), terms)
  if mi.clip > 0:
    terms = jnp.clip(terms, -mi.clip, mi.clip)
  return terms


def score_nodes(
  params: Any,
  config: VLMConfig,
  mi: MI,
  prompts: Prompts,
  views: Prompts,
  levels: tuple[Nodes, ...],
  mask: Bool[Array, "b r t"],
  sampler_logprobs: Float[Array, "b r t"] | None,
  dtype: Any = jnp.float32,
) -> dict[str, Float[Array, "b r"]]:
  """Scores every node of the last level.

  Args:
    params: the scorer's parameters.
    config: sizes.
    mi: which estimator.
    prompts: with the image.
    views: with what stands in for it, stacked [M, B, …].
    levels: all levels so far; the last is scored.
    mask: tokens of the last level that count.
    sampler_logprobs: the first term, where the scorer itself sampled at the
      scoring temperature; None recomputes it.
    dtype: of the activations.

  Returns:
    `mi`, and for diagnostics `clean` and `prior`, the summed log-probs with
    and without the image, in nats.
  """
  tokens = levels[-1].tokens

  def scored(prompts: Prompts) -> Scored:
    hidden = tree_hidden(params, config, prompts, levels, dtype)[-1]
    return token_logprobs(
      params, hidden, tokens, mi.temperature, config.banned_tokens, config.mesh
    )

  implausible = None
  if sampler_logprobs is not None and mi.plausible == 0:
    clean = sampler_logprobs
  else:
    under_image = scored(prompts)
    clean = under_image.logprob
    if mi.plausible > 0:
      implausible = clean < under_image.peak + jnp.log(mi.plausible)
  prior = jax.lax.map(lambda view: scored(view).logprob, views)
  prior = mixture_logprobs(prior, mask)
  terms = _token_terms(clean, prior, implausible, mi)
  return {
    "mi": reduce_tokens(terms, mask, mi.reduction),
    "clean": reduce_tokens(clean, mask, "sum"),
    "prior": reduce_tokens(prior, mask, "sum"),
  }
