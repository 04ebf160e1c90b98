"""A user's own reward: a python file whose function scores nodes.

    def score(example, text, siblings):
      return 1.0 if "therefore" in text else 0.0

`example` is the question (data/example.py), with its pictures and without its
`check`; `text` is what was sampled for it up to the end of the node, its
ancestors' texts before it; `siblings` are the texts of the question's other
nodes of the same stage. A number is the reward `own`, a dict of numbers the
rewards `own/NAME`, None abstains. A file may define instead

    def score_batch(examples, texts, siblings):
      return [...]

which is called once for all nodes of a stage in a part of a batch, with a list
of each and in order. Credit names the stages to score: `own`, `own/NAME`,
`children_own` and `children_own/NAME` are sources of its terms. Values that no
stage names are dropped.

The file runs in worker processes (see `workers.Workers`, which also says what
this isolates from and that it is no sandbox). A score that is raised, late or
no finite number is counted as `own_failed` and abstains. The same question and
text should get the same score, or a resumed run will not equal one that was
not stopped.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mirl_jax.data.example import Example
from mirl_jax.rewards.assess import Assessed
from mirl_jax.rewards.own_file import Judged
from mirl_jax.rewards.workers import Outcome, Workers

OWN, FAILED = "own", "own_failed"
_CHILDREN = "children_"


def is_own(name: str) -> bool:
  """Whether a reward's name is `own` or `own/NAME`."""
  return name == OWN or name.startswith(f"{OWN}/")


def own_names(
  credit: Mapping[str, Mapping[str, Any]], stages: Sequence[str]
) -> dict[str, tuple[str, ...]]:
  """The own rewards that each stage's nodes need, with FAILED behind them.

  Args:
    credit: terms by stage and source, as in a config; a weight of 0 asks for
      the reward, too: it is a metric then.
    stages: that sample, in order; others' terms are left to who reads credit.

  Returns:
    By stage, for those that need any.
  """
  wanted: dict[str, set[str]] = {}
  for stage, sources in credit.items():
    for source in sources:
      name = source.removeprefix(_CHILDREN)
      if not is_own(name) or stage not in stages:
        continue
      place = stages.index(stage) + (name != source)
      if place < len(stages):  # credit itself refuses the last one's children
        wanted.setdefault(stages[place], set()).add(name)
  return {stage: (*sorted(names), FAILED) for stage, names in wanted.items()}


class OwnReward:
  """A reward file at work; a context manager.

  Args:
    file: path of the python file.
    names: own rewards of each level of a tree, FAILED last; () for none.
    workers: processes that score.
    deadline_s: seconds that a call may last.
    memory_mb: megabytes that a worker may take beyond its start; 0 = no limit.

  Raises:
    ValueError: for a file that is missing, fails when it is run or defines no
      function to call; and as `Workers`.
  """

  def __init__(
    self,
    file: str,
    names: Sequence[tuple[str, ...]],
    workers: int,
    deadline_s: float,
    memory_mb: int,
  ):
    path = Path(file).absolute()
    if not path.is_file():
      raise ValueError(f"reward.file={file}: there is no such file")
    self._names = tuple(names)
    self._path = str(path)
    try:
      self._workers = Workers(
        "mirl_jax.rewards.own_file:ask",
        count=workers,
        deadline_s=deadline_s,
        memory_mb=memory_mb,
        preload=("mirl_jax.rewards.own_file",),
        setup=("mirl_jax.rewards.own_file:load", self._path),
      )
    except ValueError as error:
      raise ValueError(
        f"reward.file={file}: {error.__cause__ or error}"
      ) from error
    (kind,) = self._workers.map([(self._path, "kind")])
    self._batch = kind.value == "score_batch"

  def add(
    self, examples: Sequence[Example], levels: Sequence[Assessed]
  ) -> tuple[list[Assessed], str]:
    """Levels with their own rewards among the others.

    Args:
      examples: the B questions.
      levels: from `assess`.

    Returns:
      The levels, and what went wrong with the first score that failed ("" if
      none did).
    """
    done, fault = [], ""
    # A check may hold on to a whole world, and need not be picklable.
    plain = [dataclasses.replace(example, check=None) for example in examples]
    for names, level in zip(self._names, levels, strict=True):
      if names:
        rewards, first = self._score(plain, level, names)
        level = dataclasses.replace(level, rewards=level.rewards | rewards)
        fault = fault or first
      done.append(level)
    return done, fault

  def _score(
    self, examples: Sequence[Example], level: Assessed, names: tuple[str, ...]
  ) -> tuple[dict[str, np.ndarray], str]:
    nodes = [
      (example, text, paths[:i] + paths[i + 1 :])
      for example, paths in zip(examples, level.paths, strict=True)
      for i, text in enumerate(paths)
    ]
    size = len(nodes) if self._batch else 1
    groups = [nodes[at : at + size] for at in range(0, len(nodes), size)]
    outcomes = self._workers.map(
      [
        (self._path, "judge", *map(list, zip(*group, strict=True)))
        for group in groups
      ]
    )
    judged = [
      one
      for group, outcome in zip(groups, outcomes, strict=True)
      for one in _judged(outcome, len(group))
    ]
    flat = {name: np.full(len(nodes), np.nan, np.float32) for name in names}
    flat[FAILED][:] = [fault != "" for _, fault in judged]
    for number, (values, _) in enumerate(judged):
      for part, value in values.items():
        name = f"{OWN}/{part}" if part else OWN
        if name in flat:
          flat[name][number] = value
    shape = level.rewards["exact"].shape
    rewards = {name: values.reshape(shape) for name, values in flat.items()}
    return rewards, next((fault for _, fault in judged if fault), "")

  def close(self) -> None:
    """Ends the workers."""
    self._workers.close()

  def __enter__(self) -> "OwnReward":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()


def _judged(outcome: Outcome, count: int) -> list[Judged]:
  if outcome.failure:
    return [({}, outcome.failure)] * count
  return outcome.value


def own_metrics(
  rewards: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, float]:
  """How many scores failed, and the share of nodes that have each own reward.

  Args:
    rewards: by stage and name, NaN abstains.
  """
  out: dict[str, float] = {}
  for stage, values in rewards.items():
    for name, x in values.items():
      if is_own(name):
        out[f"heard/{name}/{stage}"] = float(np.isfinite(x).mean())
      elif name == FAILED:
        key = f"reward/{FAILED}"
        out[key] = out.get(key, 0.0) + float(np.nansum(x))
  return out


def own_fault(metrics: Mapping[str, float | int], fault: str) -> str | None:
  """A sentence where scores of a step failed, else None.

  Args:
    metrics: of the step.
    fault: of this process's first, "" if all that failed are others'.
  """
  failed = metrics.get(f"reward/{FAILED}", 0)
  if not failed:
    return None
  first = f", the first: {fault}" if fault else ""
  return (
    f"{failed:.0f} scores of the reward file failed{first}; they abstain, and"
    f" reward/{FAILED} counts them at every step"
  )
