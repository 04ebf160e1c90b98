"""The GRPO update of a tree: credit, loss, gradient, optimiser step."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mirl_jax.learning import credit
from mirl_jax.learning.objectives import (
  KL_KINDS,
  REDUCTIONS,
  Clip,
  kl_penalty,
  policy_gradient,
  token_weights,
)
from mirl_jax.learning.state import TrainState, roles, step_params
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.forward import tree_hidden
from mirl_jax.policy.logprobs import token_logprobs
from mirl_jax.policy.parts import join
from mirl_jax.policy.remat import REMAT
from mirl_jax.rollout.program import Sample
from mirl_jax.rollout.tree import Tree, flat, nodes, token_counts

OLD = ("sampler", "recomputed")


@dataclass(frozen=True)
class Loss:
  """Settings of the loss.

  Attributes:
    clip: of the policy gradient.
    reduction: see `objectives.token_weights`.
    kl: weight of the KL to the reference, by stage; missing = 0.
    kl_kind: k1, k2 or k3.
    entropy: weight of an entropy bonus.
    old_logprob: `sampler` takes the sampler's log-probs as the old policy's,
      `recomputed` scores the tree once before the update.
    importance_cap: with `recomputed`, tokens are weighted by the truncated
      ratio old / sampler, at most this; 0 = off (arXiv 2505.24034).
    minibatches: optimiser steps per batch, each on a share of the questions.
    micro_batches: parts in which a gradient is accumulated; changes no value.
    remat: what the backward pass computes again: none, cheap or full, see
      policy/remat.py.
  """

  clip: Clip = field(default_factory=Clip)
  reduction: str = "token"
  kl: Mapping[str, float] = field(default_factory=dict)
  kl_kind: str = "k3"
  entropy: float = 0.0
  old_logprob: str = "sampler"
  importance_cap: float = 0.0
  minibatches: int = 1
  micro_batches: int = 1
  remat: str = "cheap"

  def __post_init__(self) -> None:
    for name, known in (
      ("old_logprob", OLD),
      ("reduction", REDUCTIONS),
      ("kl_kind", KL_KINDS),
      ("remat", REMAT),
    ):
      value = getattr(self, name)
      if value not in known:
        raise ValueError(f"loss.{name}={value!r} is not one of {known}")

  @property
  def needs_reference(self) -> bool:
    return any(weight != 0 for weight in self.kl.values())


Logprobs = list[jax.Array]


def score_tree(
  params: Any,
  config: VLMConfig,
  tree: Tree,
  stages: tuple[Sample, ...],
  remat: str = "none",
  dtype: Any = jnp.float32,
) -> tuple[Logprobs, Logprobs]:
  """Log-probs and entropies [B, R, T] of every level, one tree forward."""
  hidden = tree_hidden(
    params, config, tree.prompts, nodes(tree.levels), dtype, remat
  )
  scored = [
    token_logprobs(
      params,
      states,
      flat(level.tokens),
      stage.temperature,
      config.banned_tokens,
      config.mesh,
    )
    for states, level, stage in zip(hidden, tree.levels, stages, strict=True)
  ]
  return [s.logprob for s in scored], [s.entropy for s in scored]


@dataclass(frozen=True)
class Fixed:
  """Per-level constants of the loss: everything but the policy.

  The arrays may be JAX's or numpy's, or specs of them.
  """

  advantage: list[Any]  # [B, R]
  weight: list[Any]  # [B, R, T]
  old: list[Any]  # [B, R, T]
  importance: list[Any]  # [B, R, T]
  reference: list[Any] | None  # [B, R, T]


jax.tree_util.register_dataclass(
  Fixed,
  data_fields=["advantage", "weight", "old", "importance", "reference"],
  meta_fields=[],
)


def tree_loss(
  params: Any,
  config: VLMConfig,
  tree: Tree,
  stages: tuple[Sample, ...],
  fixed: Fixed,
  loss: Loss,
  dtype: Any = jnp.float32,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of a (micro-)batch; weights make micro-batches add up."""
  logprobs, entropies = score_tree(
    params, config, tree, stages, loss.remat, dtype
  )
  total = jnp.zeros((), jnp.float32)
  parts: dict[str, jax.Array] = {}
  for i, (stage, level) in enumerate(zip(stages, tree.levels, strict=True)):
    mask = flat(level.sampled)
    weight = fixed.weight[i]
    pg, clipped = policy_gradient(
      logprobs[i], fixed.old[i], fixed.advantage[i], mask, loss.clip
    )
    pg = jnp.sum(pg * fixed.importance[i] * weight)
    parts[f"loss/policy/{stage.name}"] = pg
    parts[f"loss/clipped/{stage.name}"] = jnp.sum(clipped * weight)
    entropy = jnp.sum(jnp.where(mask, entropies[i], 0.0) * weight)
    parts[f"loss/entropy/{stage.name}"] = entropy
    total = total + pg - loss.entropy * entropy
    drift = jnp.where(mask, fixed.old[i] - logprobs[i], 0.0)
    parts[f"loss/kl_old/{stage.name}"] = jnp.sum(drift * weight)
    if fixed.reference is not None:
      kl = kl_penalty(logprobs[i], fixed.reference[i], mask, loss.kl_kind)
      kl = jnp.sum(jnp.where(mask, kl, 0.0) * weight)
      parts[f"loss/kl/{stage.name}"] = kl
      total = total + loss.kl.get(stage.name, 0.0) * kl
  parts["loss/total"] = total
  return total, parts


def split(tree: Any, parts: int) -> Any:
  """[B, …] -> [parts, B / parts, …], every part with rows of every shard."""

  def one(x: jax.Array) -> jax.Array:
    if x.shape[0] % parts:
      raise ValueError(
        f"{x.shape[0]} questions do not split into {parts} parts; choose a"
        " divisor for loss.micro_batches and loss.minibatches"
      )
    return jnp.swapaxes(
      x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1
    )

  return jax.tree.map(one, tree)


def gradient(
  params: Any,
  config: VLMConfig,
  tree: Tree,
  stages: tuple[Sample, ...],
  fixed: Fixed,
  loss: Loss,
  dtype: Any = jnp.float32,
  frozen: Any = None,
) -> tuple[Any, dict[str, jax.Array]]:
  """Gradient of the whole batch's loss, accumulated over micro-batches.

  It is taken in `params`; `frozen` completes them.
  """

  def one(tree: Tree, fixed: Fixed) -> tuple[Any, dict[str, jax.Array]]:
    def whole(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
      return tree_loss(
        join(params, frozen), config, tree, stages, fixed, loss, dtype
      )

    return jax.grad(whole, has_aux=True)(params)

  if loss.micro_batches == 1:
    return one(tree, fixed)
  parts = split((tree, fixed), loss.micro_batches)
  first = jax.tree.map(lambda x: x[0], parts)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, *first)
  )

  def add(total: Any, part: Any) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, total, one(*part)), None

  return jax.lax.scan(add, zeros, parts)[0]


def build_update(
  config: VLMConfig,
  stages: tuple[Sample, ...],
  terms: tuple[credit.Term, ...],
  guards: credit.Guards,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  ema_decay: float = 0.99,
  dtype: Any = jnp.float32,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array], list[jax.Array]]]:
  """A pure update: (state, tree, rewards, frozen) -> (state, metrics,
  advantages). `frozen` are the parameters that are not trained."""
  names = tuple(stage.name for stage in stages)

  def update(
    state: TrainState, tree: Tree, rewards: credit.Values, frozen: Any = None
  ):
    advantages, memory, metrics = credit.compute(
      tree.levels, names, rewards, terms, guards, state.memory
    )
    state = dataclasses.replace(state, memory=memory)
    sampled = [flat(level.sampled) for level in tree.levels]
    sampler = [flat(level.logprobs) for level in tree.levels]
    old, importance = sampler, [jnp.ones_like(x) for x in sampler]
    if loss.old_logprob == "recomputed":
      policy = roles(state, frozen)["policy"]
      old, _ = score_tree(policy, config, tree, stages, dtype=dtype)
      gaps = [
        jnp.where(m, o - s, 0.0)
        for m, o, s in zip(sampled, old, sampler, strict=True)
      ]
      # KL(sampler || recomputed): what bfloat16 or a kernel costs.
      metrics["mismatch/kl"] = sum(jnp.sum(-g) for g in gaps) / jnp.maximum(
        sum(jnp.sum(m) for m in sampled), 1
      )
      if loss.importance_cap > 0:
        importance = [
          jnp.minimum(jnp.exp(g), loss.importance_cap) for g in gaps
        ]
    reference = None
    if loss.needs_reference:
      start = roles(state, frozen)["reference"]
      reference, _ = score_tree(start, config, tree, stages, dtype=dtype)
    fixed = Fixed(
      advantage=[flat(a) for a in advantages],
      weight=token_weights(sampled, loss.reduction),
      old=old,
      importance=importance,
      reference=reference,
    )

    def one_step(state: TrainState, part: Any):
      tree, fixed = part
      if loss.minibatches > 1:
        masks = [flat(level.sampled) for level in tree.levels]
        weight = token_weights(masks, loss.reduction)
        fixed = Fixed(
          fixed.advantage, weight, fixed.old, fixed.importance, fixed.reference
        )
      grads, parts = gradient(
        state.params, config, tree, stages, fixed, loss, dtype, frozen
      )
      state, norm = step_params(state, grads, optimizer, ema_decay)
      return state, {**parts, "grad_norm": norm}

    if loss.minibatches == 1:
      state, parts = one_step(state, (tree, fixed))
    else:
      state, parts = jax.lax.scan(
        one_step, state, split((tree, fixed), loss.minibatches)
      )
      parts = jax.tree.map(jnp.mean, parts)
    metrics.update(parts)
    metrics["skipped/nonfinite"] = state.skipped
    metrics.update(_tree_metrics(tree, names))
    state = dataclasses.replace(
      state,
      step=state.step + 1,
      generated=state.generated + metrics["tokens/step"],
    )
    for name, a in zip(names, advantages, strict=True):
      metrics[f"advantage/abs/{name}"] = jnp.mean(jnp.abs(a))
    return state, metrics, advantages

  return update


def _tree_metrics(tree: Tree, names: tuple[str, ...]) -> dict[str, jax.Array]:
  counts = token_counts(tree)
  metrics = {
    "tokens/step": counts["generated"].astype(jnp.float32),
    "tree_token_ratio": counts["flat"] / counts["tree"],
    "padding_fraction": 1.0 - counts["tree"] / counts["padded"],
  }
  for name, level in zip(names, tree.levels, strict=True):
    length = jnp.sum(level.sampled, axis=-1)
    metrics[f"length/{name}"] = jnp.mean(length.astype(jnp.float32))
    metrics[f"truncated/{name}"] = jnp.mean(~level.finished)
    if "mi" in level.scores:
      metrics["mi/mean"] = jnp.mean(level.scores["mi"])
      metrics["mi/std"] = jnp.mean(jnp.std(level.scores["mi"], axis=(1, 2)))
      kept = level.kept
      metrics["mi/kept"] = jnp.sum(
        jnp.where(kept, level.scores["mi"], 0.0)
      ) / jnp.maximum(jnp.sum(kept), 1)
  return metrics
