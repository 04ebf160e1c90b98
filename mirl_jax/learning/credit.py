"""Credit: from rewards and scores of nodes to one advantage per node.

Each stage sums the terms routed to it. A term is a node value less its
baseline, optionally divided by its spread, times a weight; normalising comes
before summing, so that no term drowns another.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from mirl_jax.learning import regression
from mirl_jax.rollout.tree import Level, flat

BASELINES = ("question", "siblings", "batch", "none", "regression")
_EPS = 1e-6
# Spreads below this are rounding, not contrast: such a group teaches nothing.
_NO_SPREAD = 1e-5

Values = dict[str, dict[str, Array]]  # stage -> source -> [B, K, F]


@dataclass(frozen=True)
class Term:
  """One summand of a stage's advantage.

  Attributes:
    stage: whose tokens it pays.
    source: a score (`mi`, `likelihood`) or reward (`correct`, `format`) of
      the stage's nodes, or `children:NAME`, the mean of reward NAME over a
      kept node's children, standardised over the kept nodes and 0 elsewhere.
    weight: multiplies the term.
    baseline: mean over the `question`'s nodes, over `siblings`, the `batch`,
      `none`, or `regression`: the question's mean plus what a running
      regression on the parent description's scores predicts.
    std: divide by the standard deviation over the baseline's group (the
      question for `none` and `regression`).
  """

  stage: str
  source: str
  weight: float = 1.0
  baseline: str = "question"
  std: bool = True


@dataclass(frozen=True)
class Guards:
  """Limits on the MI term; they change the advantage.

  Attributes:
    length_cap: a node with more tokens gets the question's lowest MI; 0 off.
    trust: scale the MI term by how well the score's running AUC for child
      correctness exceeds chance: 0 at .5, 1 at .6 and above.
  """

  length_cap: int = 0
  trust: bool = False


@struct.dataclass
class Memory:
  """What credit remembers between steps; part of the checkpoint.

  Attributes:
    regression: of child correctness on description scores.
    auc: running within-question AUC of MI for child correctness.
    auc_weight: how much evidence `auc` rests on.
  """

  regression: regression.Regression
  auc: Any  # [] float32
  auc_weight: Any  # [] float32


def empty_memory() -> Memory:
  """Memory before the first step: no prediction, AUC at chance."""
  return Memory(
    regression=regression.empty(len(FEATURES)),
    auc=jnp.asarray(0.5, jnp.float32),
    auc_weight=jnp.asarray(0.0, jnp.float32),
  )


FEATURES = ("mi", "likelihood", "length")


def terms_from_config(stages: Mapping[str, Mapping[str, Any]]) -> list[Term]:
  """Reads `{stage: {source: {weight, baseline, std}}}`.

  A weight of 0 drops the term. `children_NAME` stands for `children:NAME`.

  Raises:
    ValueError: for an unknown field or baseline, naming the nearest.
  """
  known = [f.name for f in fields(Term)][2:]
  terms = []
  for stage, sources in stages.items():
    for source, values in sources.items():
      for name in values:
        if name not in known:
          near = difflib.get_close_matches(name, known, 1, 0)[0]
          raise ValueError(
            f"credit.{stage}.{source}.{name} is unknown; did you mean {near!r}?"
          )
      name = source.replace("children_", "children:", 1)
      term = Term(stage, name, **dict(values))
      if term.baseline not in BASELINES:
        near = difflib.get_close_matches(term.baseline, BASELINES, 1, 0)[0]
        raise ValueError(
          f"credit.{stage}.{source}.baseline={term.baseline!r}; did you mean"
          f" {near!r}?"
        )
      if term.weight != 0:
        terms.append(term)
  return terms


def centre(
  values: Float[Array, "b k f"],
  valid: Bool[Array, "b k f"],
  group: str,
  std: bool,
) -> Float[Array, "b k f"]:
  """Values less their group's mean, over its spread where asked.

  Invalid nodes neither count nor get anything. A group without spread gets 0.
  """
  axes = {"siblings": (2,), "question": (1, 2), "batch": (0, 1, 2)}.get(group)
  values = jnp.where(valid, values, 0.0)
  if axes is None:
    return values
  count = jnp.maximum(jnp.sum(valid, axes, keepdims=True), 1)
  mean = jnp.sum(values, axes, keepdims=True) / count
  off = jnp.where(valid, values - mean, 0.0)
  return _scale(off, valid, axes, std)


def _scale(off: Array, valid: Array, axes: tuple[int, ...], std: bool) -> Array:
  if not std:
    return off
  count = jnp.maximum(jnp.sum(valid, axes, keepdims=True), 1)
  mean = jnp.sum(jnp.where(valid, off, 0.0), axes, keepdims=True) / count
  spread = jnp.sqrt(
    jnp.sum(jnp.where(valid, jnp.square(off - mean), 0.0), axes, keepdims=True)
    / count
  )
  return jnp.where(spread > _NO_SPREAD, off / (spread + _EPS), 0.0)


def children_mean(
  parent_kept: Bool[Array, "b k f"],
  parent: Array,
  values: Float[Array, "b k2 f2"],
) -> Float[Array, "b k f"]:
  """Mean of a reward over each kept node's children; NaN for the others.

  Children that abstain (NaN) are left out.
  """
  b, k, f = parent_kept.shape
  heard = ~jnp.isnan(values)
  total = jnp.sum(jnp.where(heard, values, 0.0), axis=2)
  count = jnp.sum(heard, axis=2)
  mean = jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)
  rows = jnp.arange(b)[:, None]
  spread = jnp.full((b, k * f), jnp.nan).at[rows, parent].set(mean)
  return spread.reshape(b, k, f)


def features(level: Level) -> Float[Array, "b r d"]:
  """Within-question z-scores of a description level's scores."""
  length = jnp.sum(level.sampled, axis=-1).astype(jnp.float32)
  columns = []
  for name in FEATURES:
    raw = length if name == "length" else level.scores.get(name)
    raw = jnp.zeros_like(length) if raw is None else raw
    columns.append(flat(centre(raw, jnp.isfinite(raw), "question", True)))
  return jnp.stack(columns, axis=-1)


def pair_auc(
  scores: Float[Array, "b n"],
  labels: Float[Array, "b n"],
  valid: Bool[Array, "b n"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Wins and pairs of a within-question AUC; ties of the score count half."""
  above = labels[:, :, None] > labels[:, None, :]
  pair = above & valid[:, :, None] & valid[:, None, :]
  gap = scores[:, :, None] - scores[:, None, :]
  win = jnp.where(gap > 0, 1.0, jnp.where(gap == 0, 0.5, 0.0))
  return jnp.sum(jnp.where(pair, win, 0.0)), jnp.sum(pair).astype(jnp.float32)


def compute(
  levels: tuple[Level, ...],
  names: tuple[str, ...],
  rewards: Values,
  terms: tuple[Term, ...],
  guards: Guards,
  memory: Memory,
  auc_decay: float = 0.9,
) -> tuple[list[Float[Array, "b k f"]], Memory, dict[str, Array]]:
  """Advantages of every node of every level.

  Args:
    levels: the tree's.
    names: the Sample stage behind each level.
    rewards: [B, K, F] per stage and reward name; NaN abstains.
    terms: what pays which stage.
    guards: limits on MI.
    memory: from earlier steps only; this step is learned after it is used.
    auc_decay: forgetting rate of the running AUC, per step.

  Returns:
    One array per level, the memory for the next step, and metrics.

  Raises:
    ValueError: for a term whose stage or source does not exist.
  """
  metrics: dict[str, Array] = {}
  advantages = [jnp.zeros(x.finished.shape, jnp.float32) for x in levels]
  trust = jnp.clip((memory.auc - 0.5) * 10.0, 0.0, 1.0)
  for term in terms:
    if term.stage not in names:
      raise ValueError(f"credit: no stage {term.stage!r}; stages are {names}")
    number = names.index(term.stage)
    level = levels[number]
    if term.source.startswith("children:"):
      if number + 1 >= len(levels):
        raise ValueError(f"credit: stage {term.stage!r} has no children")
      child = term.source.split(":", 1)[1]
      value = children_mean(
        level.kept,
        levels[number + 1].parent,
        _value(child, levels[number + 1], rewards.get(names[number + 1], {})),
      )
    else:
      value = _value(term.source, level, rewards.get(term.stage, {}))
    valid = jnp.isfinite(value)
    weight: Any = term.weight
    if term.source == "mi":
      value = _cap(value, level, guards)
      weight = weight * trust if guards.trust else weight
    if term.baseline == "regression":
      part = _regressed(value, valid, levels, number, memory, term.std)
    else:
      group = term.baseline
      part = centre(value, valid, group, term.std and group != "none")
      if group == "none":
        part = _scale(part, valid, (1, 2), term.std)
    advantages[number] = advantages[number] + weight * part
    if term.source == "correct":
      # Questions whose nodes all agree: nothing to learn from this term.
      off = centre(value, valid, "question", False)
      flat_rows = jnp.max(jnp.abs(off), axis=(1, 2)) <= _NO_SPREAD
      metrics[f"no_contrast/{term.stage}"] = jnp.mean(flat_rows)
  memory, learned = _learn(levels, names, rewards, memory, auc_decay)
  return advantages, memory, {**metrics, **learned}


def _value(source: str, level: Level, rewards: dict[str, Array]) -> Array:
  if source in rewards:
    return rewards[source]
  if source in level.scores:
    return level.scores[source]
  raise ValueError(
    f"credit: no score or reward {source!r}; there are"
    f" {sorted(rewards) + sorted(level.scores)}"
  )


def _cap(value: Array, level: Level, guards: Guards) -> Array:
  """Truncated and overlong nodes get the question's lowest MI."""
  bad = ~level.finished
  if guards.length_cap > 0:
    bad |= jnp.sum(level.sampled, axis=-1) > guards.length_cap
  heard = jnp.isfinite(value)
  low = jnp.min(jnp.where(heard, value, jnp.inf), axis=(1, 2), keepdims=True)
  return jnp.where(bad & heard, low, value)


def _regressed(
  value: Array,
  valid: Array,
  levels: tuple[Level, ...],
  number: int,
  memory: Memory,
  std: bool,
) -> Array:
  if number == 0:
    raise ValueError("credit: a regression baseline needs a parent stage")
  off = centre(value, valid, "question", False)
  guess = regression.predict(
    memory.regression, _parent_features(levels, number)
  )
  residual = jnp.where(valid, off - guess[..., None], 0.0)
  spread = jnp.max(jnp.abs(off), axis=(1, 2), keepdims=True)
  residual = jnp.where(spread > _NO_SPREAD, residual, 0.0)
  return _scale(residual, valid, (1, 2), std)


def _parent_features(levels: tuple[Level, ...], number: int) -> Array:
  index = levels[number].parent
  return jnp.take_along_axis(
    features(levels[number - 1]), index[..., None], axis=1
  )


def _learn(
  levels: tuple[Level, ...],
  names: tuple[str, ...],
  rewards: Values,
  memory: Memory,
  decay: float,
) -> tuple[Memory, dict[str, Array]]:
  """Fits the regression and the running AUC on this step."""
  last = len(levels) - 1
  correct = rewards.get(names[last], {}).get("correct")
  if last == 0 or correct is None:
    return memory, {}
  heard = jnp.isfinite(correct)
  label = jnp.sum(jnp.where(heard, correct, 0.0), axis=2)
  label = label / jnp.maximum(jnp.sum(heard, axis=2), 1)  # [B, K]
  valid = jnp.any(heard, axis=2)
  off = centre(label[..., None], valid[..., None], "question", False)[..., 0]
  x = _parent_features(levels, last)
  guess = regression.predict(memory.regression, x)
  error = jnp.sum(jnp.where(valid, jnp.square(off - guess), 0.0))
  total = jnp.sum(jnp.where(valid, jnp.square(off), 0.0))
  fitted = regression.update(memory.regression, x, off, valid)
  metrics = {"baseline/r2": 1.0 - error / jnp.maximum(total, _EPS)}
  auc, weight = memory.auc, memory.auc_weight
  scores = levels[last - 1].scores
  if "mi" in scores:
    mi = jnp.take_along_axis(flat(scores["mi"]), levels[last].parent, axis=1)
    wins, pairs = pair_auc(mi, label, valid)
    seen = decay * weight + pairs
    # As a step from the old value: without pairs it must not move at all.
    share = wins - pairs * auc
    auc = auc + jnp.where(pairs > 0, share / jnp.maximum(seen, _EPS), 0.0)
    weight = seen
    metrics["mi/auc_correct"] = auc
  return Memory(fitted, auc, weight), metrics
