"""The tree's loss and gradient are those of independent full sequences.

The flat side shares no code with the package: every node's whole path is a
sequence of its own through a dense forward (conftest.py), and the loss is
written out here.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mirl_jax.learning import update
from mirl_jax.learning.objectives import REDUCTIONS, Clip, token_weights
from mirl_jax.learning.update import Fixed, Loss
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.rollout.program import Sample
from mirl_jax.rollout.tree import flat
from mirl_jax.testing import random_params, tiny_config

# (parents, children of each, buffer) per level; temperature per stage.
PROGRAMS = {
  "mirl": (((1, 5, 4), (3, 2, 6)), (1.0, 0.7)),
  "one child": (((1, 5, 4), (3, 1, 6)), (0.8, 1.0)),
  "grpo": (((1, 6, 7),), (1.3,)),
  "three levels": (((1, 3, 4), (2, 2, 3), (3, 2, 5)), (1.0, 1.5, 0.6)),
}
KL = {"s0": 0.3, "s1": 0.1}
ALL = Loss(Clip(0.15, 0.2, dual=1.5), kl=KL, entropy=0.05)
LOSSES = {
  "all": ALL,
  "plain": Loss(),
  "entropy": Loss(entropy=0.2),
  "dual, k2": Loss(Clip(0.2, 0.28, dual=1.1), kl={"s1": 0.2}, kl_kind="k2"),
  "sequence ratio, k1": Loss(
    Clip(0.04, 0.06, ratio="sequence"), kl=KL, kl_kind="k1"
  ),
  "sequence ratio, all": dataclasses.replace(
    ALL, clip=Clip(0.04, 0.06, 1.05, "sequence"), remat="full"
  ),
}
MICRO = {
  f"micro {parts}": dataclasses.replace(ALL, micro_batches=parts)
  for parts in (2, 4)
}


def make_stages(name: str) -> tuple[Sample, ...]:
  shape, temperatures = PROGRAMS[name]
  return tuple(
    Sample(f"s{i}", f, t, "</d>", temperature)
    for i, ((_, f, t), temperature) in enumerate(
      zip(shape, temperatures, strict=True)
    )
  )


def flat_loss(scores, tree, fixed, loss, stages, reduction):
  """The loss from the definitions, on real tokens only; differentiated by
  torch. Returns its value and its gradients by log-probs and entropies."""

  def tensors(arrays):
    return [torch.tensor(np.asarray(x)).requires_grad_() for x in arrays]

  fixed = jax.tree.map(np.asarray, fixed)

  logprobs, entropies = (tensors(x) for x in scores)
  total = torch.zeros(())
  tokens_of_batch = sum(int(level.sampled.sum()) for level in tree.levels)
  for i, (stage, level) in enumerate(zip(stages, tree.levels, strict=True)):
    sampled = np.asarray(flat(level.sampled))
    length = sampled.sum(-1)
    for b, r in np.argwhere(length > 0):
      n = int(length[b, r])
      new = logprobs[i][b, r, :n]
      old, importance = (
        torch.tensor(x[i][b, r, :n]) for x in (fixed.old, fixed.importance)
      )
      adv = float(fixed.advantage[i][b, r])
      ratio = torch.exp(new - old)
      if loss.clip.ratio == "sequence":
        ratio = torch.exp((new - old).mean()).expand(n)
      bounded = ratio.clamp(1 - loss.clip.low, 1 + loss.clip.high)
      gain = torch.minimum(adv * ratio, adv * bounded)
      if loss.clip.dual > 0 and adv < 0:
        gain = gain.clamp(min=loss.clip.dual * adv)
      value = -gain * importance - loss.entropy * entropies[i][b, r, :n]
      if stage.name in loss.kl:
        reference = torch.tensor(fixed.reference[i][b, r, :n])
        log_r = reference - new
        value = (
          value
          + loss.kl[stage.name]
          * {
            "k1": -log_r,
            "k2": log_r**2 / 2,
            "k3": torch.exp(log_r) - 1 - log_r,
          }[loss.kl_kind]
        )
      share = {
        "token": 1 / tokens_of_batch,
        "sequence": 1 / n / int((length > 0).sum()),
        "constant": 1 / sampled.size,
      }[reduction]
      total = total + value.sum() * share
  total.backward()

  def grads(leaves):
    return [
      jnp.zeros(x.shape) if x.grad is None else jnp.asarray(x.grad.numpy())
      for x in leaves
    ]

  return total.item(), (grads(logprobs), grads(entropies))


class FlatSide:
  """The log-probs of one program, and their pull-back, compiled once."""

  def __init__(self, config: VLMConfig, stages, flat_scores, jit):
    def score(p, tree, paths):
      return flat_scores(p, config, tree, paths, stages)

    self.score = jit(score)
    self.pull = jit(
      lambda p, tree, paths, ct: jax.vjp(lambda p: score(p, tree, paths), p)[1](
        ct
      )[0]
    )


class Case:
  """One program with one loss, both sides compiled once."""

  def __init__(
    self, config: VLMConfig, name: str, loss: Loss, flat_side: FlatSide, jit
  ):
    self.config, self.loss, self.stages = config, loss, make_stages(name)
    self.score, self.pull = flat_side.score, flat_side.pull
    self.tree_side = jit(
      jax.value_and_grad(
        lambda p, tree, fixed: update.tree_loss(
          p, config, tree, self.stages, fixed, loss
        ),
        has_aux=True,
      )
    )
    self.gradient = jit(
      lambda p, tree, fixed: update.gradient(
        p, config, tree, self.stages, fixed, loss
      )
    )

  def flat_side(self, params, tree, paths, fixed, reduction):
    scores = self.score(params, tree, paths)
    value, ct = flat_loss(
      scores, tree, fixed, self.loss, self.stages, reduction
    )
    return value, self.pull(params, tree, paths, ct)

  def fixed(self, params, tree, paths, seed, reduction):
    """Constants around the policy's own log-probs, so that the clip binds."""
    rng = np.random.default_rng([seed, 2])
    logprobs, _ = self.score(params, tree, paths)

    def near(x):
      return x + jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32)

    def importance(shape):
      # One value per node under a sequence ratio: whose gradient is the
      # ratio's own only where a node's tokens weigh the same.
      if self.loss.clip.ratio == "sequence":
        shape = (*shape[:2], 1)
      return jnp.asarray(rng.uniform(0.5, 2, shape), jnp.float32)

    masks = [flat(level.sampled) for level in tree.levels]
    return Fixed(
      advantage=[
        jnp.asarray(rng.normal(size=m.shape[:2]), jnp.float32) for m in masks
      ],
      weight=token_weights(masks, reduction),
      old=[near(x) for x in logprobs],
      importance=[
        jnp.broadcast_to(importance(m.shape), m.shape) for m in masks
      ],
      reference=(
        [near(x) for x in logprobs] if self.loss.needs_reference else None
      ),
    )


@pytest.fixture(scope="module")
def case(config, flat_scores, quick_jit):
  @functools.cache
  def flat_side(name: str) -> FlatSide:
    return FlatSide(config, make_stages(name), flat_scores, quick_jit)

  @functools.cache
  def get(name: str, loss: str) -> Case:
    found = {**LOSSES, **MICRO}[loss]
    return Case(config, name, found, flat_side(name), quick_jit)

  return get


def compare(case, tree, paths, seed, reduction, close):
  params = random_params(case.config, seed)
  fixed = case.fixed(params, tree, paths, seed, reduction)
  (value, parts), grads = case.tree_side(params, tree, fixed)
  want, want_grads = case.flat_side(params, tree, paths, fixed, reduction)
  assert float(value) == pytest.approx(float(want), rel=1e-5, abs=1e-6)
  close(grads, want_grads)
  return params, fixed, parts, grads


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_every_program(case, name, seed, random_tree, paths_of, close):
  this = case(name, "all")
  tree = random_tree(this.config, PROGRAMS[name][0], seed)
  reduction = REDUCTIONS[seed]
  _, _, parts, grads = compare(
    this, tree, paths_of(tree), seed, reduction, close
  )
  for stage in this.stages:  # the hard parts of the loss are at work
    assert parts[f"loss/clipped/{stage.name}"] > 0
  assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", [x for x in LOSSES if x != "all"])
def test_every_loss(case, loss, reduction, random_tree, paths_of, close):
  this = case("mirl", loss)
  seed = 10 + list(LOSSES).index(loss)
  tree = random_tree(this.config, PROGRAMS["mirl"][0], seed)
  compare(this, tree, paths_of(tree), seed, reduction, close)


def test_untied_head_and_text_only(
  flat_scores, quick_jit, random_tree, paths_of, close
):
  """Without a picture the tower's gradient is nothing, and nothing breaks."""
  config = tiny_config(tied=False)
  side = FlatSide(config, make_stages("grpo"), flat_scores, quick_jit)
  this = Case(config, "grpo", LOSSES["plain"], side, quick_jit)
  tree = random_tree(config, PROGRAMS["grpo"][0], 3, grids=((), (), ()))
  _, _, _, grads = compare(this, tree, paths_of(tree), 3, "token", close)
  assert all(not jnp.any(g) for g in jax.tree.leaves(grads["vision"]))
  assert jnp.any(grads["text"]["head"]["kernel"])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("micro", list(MICRO))
def test_micro_batches_change_nothing(
  config, case, micro, reduction, random_tree, paths_of, close
):
  whole = case("mirl", "all")
  tree = random_tree(config, PROGRAMS["mirl"][0], 4)
  paths = paths_of(tree)
  params = random_params(config, 4)
  fixed = whole.fixed(params, tree, paths, 4, reduction)
  (_, parts), grads = whole.tree_side(params, tree, fixed)
  got, got_parts = case("mirl", micro).gradient(params, tree, fixed)
  close(got, grads)
  for name, value in parts.items():
    assert float(got_parts[name]) == pytest.approx(
      float(value), rel=1e-5, abs=1e-6
    )


def test_masked_garbage_changes_nothing(case, random_tree, paths_of):
  """Bitwise: whatever stands in padding, buffers' ends and unused slots."""
  this = case("mirl", "all")
  tree = random_tree(this.config, PROGRAMS["mirl"][0], 5)
  params = random_params(this.config, 5)
  fixed = this.fixed(params, tree, paths_of(tree), 5, "sequence")
  rng = np.random.default_rng(0)
  vocab = this.config.text.vocab

  def dirty(x, keep):
    if jnp.issubdtype(x.dtype, jnp.integer):
      noise = jnp.asarray(rng.integers(0, vocab, x.shape), x.dtype)
    else:
      noise = jnp.asarray(rng.normal(0, 50, x.shape), x.dtype)
    return jnp.where(
      keep.reshape(*keep.shape, *[1] * (x.ndim - keep.ndim)), x, noise
    )

  p = tree.prompts
  prompts = p.replace(
    tokens=dirty(p.tokens, p.mask),
    positions=jnp.where(p.mask[:, None], p.positions, 77),
    patches=dirty(p.patches, p.patch_image > 0),
  )
  levels = tuple(
    level.replace(
      tokens=dirty(level.tokens, level.mask),
      logprobs=dirty(level.logprobs, level.sampled),
    )
    for level in tree.levels
  )
  masks = [flat(level.sampled) for level in tree.levels]
  other = dataclasses.replace(
    fixed,
    old=[dirty(x, m) for x, m in zip(fixed.old, masks, strict=True)],
    reference=[
      dirty(x, m) for x, m in zip(fixed.reference, masks, strict=True)
    ],
    importance=[
      dirty(x, m) for x, m in zip(fixed.importance, masks, strict=True)
    ],
  )
  clean = this.tree_side(params, tree, fixed)
  soiled = this.tree_side(
    params, tree.replace(prompts=prompts, levels=levels), other
  )
  jax.tree.map(np.testing.assert_array_equal, clean, soiled)


def test_forced_tokens_are_read_but_not_paid(case, random_tree, paths_of):
  """A forced closing tag moves its children's loss and has none itself."""
  this = case("mirl", "plain")
  tree = random_tree(this.config, PROGRAMS["mirl"][0], 6)
  params = random_params(this.config, 6)
  fixed = this.fixed(params, tree, paths_of(tree), 6, "token")
  level = tree.levels[0]
  forced = np.argwhere(
    np.asarray(level.mask & ~level.sampled & level.kept[..., None])
  )
  assert len(forced), "choose a seed with a truncated parent"
  at = tuple(forced[0])
  other = level.replace(
    tokens=level.tokens.at[at].set((level.tokens[at] + 1) % 50)
  )
  (_, before), _ = this.tree_side(params, tree, fixed)
  (_, after), _ = this.tree_side(
    params, tree.replace(levels=(other, tree.levels[1])), fixed
  )
  assert before["loss/policy/s0"] == after["loss/policy/s0"]
  assert abs(before["loss/policy/s1"] - after["loss/policy/s1"]) > 1e-6


def test_unequal_split_is_an_error(random_tree, config):
  tree = random_tree(config, PROGRAMS["grpo"][0], 0)
  with pytest.raises(ValueError, match="4 questions do not split into 3 parts"):
    update.split(tree, 3)
