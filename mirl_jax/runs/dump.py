"""From a batch of trees to the lines of a rollout dump."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mirl_jax.data.example import Example
from mirl_jax.rewards.assess import Assessed
from mirl_jax.rewards.verify import verify
from mirl_jax.runs.rollouts import Node, prompt_node, write_rollouts


def _known(values: dict[str, np.ndarray], i: int, r: int) -> dict[str, float]:
  """Values of one node by name; those that abstain (NaN) are left out."""
  found = {name: float(x[i].reshape(-1)[r]) for name, x in values.items()}
  return {name: x for name, x in found.items() if np.isfinite(x)}


def dump_rollouts(
  workdir: str,
  step: int,
  names: Sequence[str],
  examples: Sequence[Example],
  levels: Sequence[Any],
  read: Sequence[Assessed],
  advantages: Sequence[np.ndarray] | None,
  primary: bool = True,
) -> None:
  """Writes rollouts/STEP.jsonl for the first questions of a batch.

  Args:
    workdir: the run's.
    step: of training.
    names: stage of each level.
    examples: the questions to dump, the first rows of the batch.
    levels: of the tree, as numpy.
    read: texts and rewards of each level.
    advantages: [B, K, F] of each level, None where there are none.
    primary: any other process writes nothing.
  """
  if not primary:
    return
  nodes = []
  for i, example in enumerate(examples):
    nodes.append(prompt_node(example.id, example.question, example.answer))
    for number, (name, level) in enumerate(zip(names, levels, strict=True)):
      last = number + 1 == len(levels)
      fanout = level.tokens.shape[2]
      for r in range(level.tokens.shape[1] * fanout):
        rewards = _known(read[number].rewards, i, r)
        extra: dict[str, Any] = {}
        exact = rewards.pop("exact", None)
        if exact is not None and number == 0:
          extra["exact"] = exact > 0
        if last:
          verdict = verify(read[number].parsed[i][r].answer, example)
          extra.update(verdict=verdict.correct, reason=verdict.reason)
        parent = int(level.parent[i, r // fanout]) if number > 0 else -1
        nodes.append(
          Node(
            question_id=example.id,
            stage=name,
            node=r,
            parent=parent,
            text=read[number].texts[i][r],
            tokens=int(
              level.mask[i].reshape(-1, level.mask.shape[-1])[r].sum()
            ),
            scores=_known(level.scores, i, r),
            rewards=rewards,
            advantage=None
            if advantages is None
            else float(advantages[number][i].reshape(-1)[r]),
            kept=None if last else bool(level.kept[i].reshape(-1)[r]),
            truncated=not bool(level.finished[i].reshape(-1)[r]),
            extra=extra,
          )
        )
  images = {example.id: example.images for example in examples}
  write_rollouts(workdir, step, nodes, images)
