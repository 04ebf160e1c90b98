"""What a run counts over its steps, on the host and exactly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mirl_jax.information.estimators import MI
from mirl_jax.learning.update import Loss
from mirl_jax.rollout.program import Sample

# A run that learns nothing for so many steps in a row says so.
PATIENCE = 5

Counts = dict[str, int]


@dataclass(frozen=True)
class Slots:
  """Which slots of some questions hold something, as numpy.

  Attributes:
    prompt: [b, P] tokens of the prompts.
    patches: [b, V] patches of their pictures.
    views: [M, b, P] tokens of the prompts of MI's views, None without.
  """

  prompt: np.ndarray
  patches: np.ndarray
  views: np.ndarray | None


def new_counts() -> Counts:
  """Counts before the first step; part of the checkpoint."""
  return {
    "generated_tokens": 0,
    "scored_tokens": 0,
    "complete_trajectories": 0,
    "no_contrast_steps": 0,
    "no_contrast_running": 0,
  }


def scored_tokens(
  slots: Sequence[Slots],
  levels: Sequence[Any],
  stages: Sequence[Sample],
  mi: MI | None,
  loss: Loss,
) -> int:
  """Real tokens through forwards beside sampling in one step.

  Counts each pass over a token: MI under every view and, where the sampler's
  log-probs do not serve, under the image; the recomputed old policy; the
  reference; the update (its forward, once).

  Args:
    slots: of the batch's parts.
    levels: of the tree, as numpy.
    stages: behind the levels.
    mi: the estimator, or None.
    loss: which passes it needs.
  """
  prompt = sum(int(part.prompt.sum()) for part in slots)
  sizes = [int(level.mask.sum()) for level in levels]
  passes = 1 + (loss.old_logprob == "recomputed") + loss.needs_reference
  total = passes * (prompt + sum(sizes))
  views = [part.views for part in slots if part.views is not None]
  if mi is not None and views:
    number = [stage.name for stage in stages].index(mi.stage)
    above = sum(sizes[: number + 1])
    total += sum(int(mask.sum()) for mask in views) + mi.views * above
    if not mi.reuses_sampler(stages[number].temperature):
      total += prompt + above
  return total


def padding(
  slots: Sequence[Slots], levels: Sequence[Any], names: Sequence[str]
) -> dict[str, float]:
  """Shares of slots of the batch that hold nothing, by where they lie.

  `padding/prompt` and `padding/patches` are of the questions (views of them
  not counted), slots that only complete a window of patches included;
  `padding/STAGE` of the nodes of a stage. Without pictures, patches are left
  out.

  Args:
    slots: of the batch's parts.
    levels: of the tree, as numpy.
    names: stage of each level.
  """

  def empty(masks: Sequence[Any]) -> float:
    return 1.0 - sum(int(m.sum()) for m in masks) / sum(m.size for m in masks)

  out = {"padding/prompt": empty([part.prompt for part in slots])}
  patches = [part.patches for part in slots]
  if patches[0].size:
    out["padding/patches"] = empty(patches)
  for name, level in zip(names, levels, strict=True):
    out[f"padding/{name}"] = empty([level.mask])
  return out


def idle(
  levels: Sequence[Any], names: Sequence[str], loops: int
) -> dict[str, float]:
  """Shares of row-steps of the decode loops in which a row had ended.

  A loop feeds one token to each of its rows until the last of them ends, so
  it takes as many steps as its longest row has tokens: `idle/STAGE`.

  Args:
    levels: of the tree, as numpy.
    names: stage of each level.
    loops: that shared out the questions in order: parts times data shards.
  """
  out = {}
  for name, level in zip(names, levels, strict=True):
    lengths = level.mask.sum(-1).reshape(loops, -1)
    steps = lengths.shape[1] * lengths.max(1).sum()
    out[f"idle/{name}"] = 1.0 - float(lengths.sum() / steps)
  return out


def no_contrast(row: Mapping[str, float]) -> bool:
  """Whether no question of a step taught anything about correctness.

  So where the nodes of every question had the same correctness, or where all
  advantages are zero.
  """
  flat = [v for k, v in row.items() if k.startswith("no_contrast/")]
  size = [v for k, v in row.items() if k.startswith("advantage/abs/")]
  return any(share >= 1.0 for share in flat) or not any(size)


def count(
  counts: Counts, row: Mapping[str, float], scored: int, complete: int
) -> Counts:
  """The counts after a step.

  Args:
    counts: before it.
    row: its metrics.
    scored: its scored tokens.
    complete: its complete trajectories.
  """
  flat = int(no_contrast(row))
  return {
    "generated_tokens": counts["generated_tokens"] + int(row["tokens/step"]),
    "scored_tokens": counts["scored_tokens"] + scored,
    "complete_trajectories": counts["complete_trajectories"] + complete,
    "no_contrast_steps": counts["no_contrast_steps"] + flat,
    "no_contrast_running": (counts["no_contrast_running"] + 1) * flat,
  }


def counted(counts: Counts) -> Counts:
  """The counts as metrics."""
  return {
    "generated_tokens": counts["generated_tokens"],
    "scored_tokens": counts["scored_tokens"],
    "complete_trajectories": counts["complete_trajectories"],
    "skipped/no_contrast_steps": counts["no_contrast_steps"],
  }


def idle_note(counts: Counts) -> str | None:
  """A sentence where nothing has been learned for PATIENCE steps, else None.

  Said once for each such stretch.
  """
  if counts["no_contrast_running"] != PATIENCE:
    return None
  return (
    f"for {PATIENCE} steps no question had both right and wrong answers:"
    " correctness teaches nothing; use easier or harder questions, more"
    " samples of each, or a higher temperature"
  )
