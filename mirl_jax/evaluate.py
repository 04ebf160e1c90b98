"""Evaluation: strategies of drawing answers, scored with their errors.

greedy    one response by argmax
sampled   n whole responses: avg@n, pass@k, majority@n
screen    the training program at test time: N descriptions, keep k, F
          reasonings of each, majority over the answers
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mirl_jax import statistics
from mirl_jax.batching import Batcher
from mirl_jax.build import Policy, make_stops
from mirl_jax.data.example import Example
from mirl_jax.data.share import Rows
from mirl_jax.information.estimators import MI
from mirl_jax.parallel.mesh import batch_sharding, data_shards
from mirl_jax.parallel.processes import (
  on_host,
  own_part,
  own_rows,
  put_rows,
)
from mirl_jax.rewards.assess import Assessed, assess
from mirl_jax.rewards.verify import normalise
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import Keep, Program, samples
from mirl_jax.rollout.tree import Tree

FIRST = "first/"  # before the names of figures of the first questions


class Stopped(Exception):
  """An evaluation was left before its end; its figures are lost."""


def _never() -> bool:
  return False


@dataclass(frozen=True)
class Strategy:
  """A named way of drawing answers at test time."""

  name: str
  rollout: Rollout
  needs_views: bool


def greedy_program(program: Program) -> Program:
  """Every stage once, by argmax."""
  return tuple(
    dataclasses.replace(stage, fanout=1, temperature=0.0, top_p=1.0, top_k=0)
    for stage in samples(program)
  )


def sampled_program(program: Program, n: int) -> Program:
  """n independent whole responses: nothing kept, nothing forked."""
  first, *rest = samples(program)
  return (
    dataclasses.replace(first, fanout=n),
    *(dataclasses.replace(stage, fanout=1) for stage in rest),
  )


def make_strategies(
  policy: Policy, program: Program, mi: MI | None, n: int, screen: bool
) -> list[Strategy]:
  """Greedy and sampled, and the program itself where asked for and it keeps."""
  stops = make_stops(program, policy.processor)

  def rollout(stages: Program, mi: MI | None) -> Rollout:
    return Rollout(policy.config, stages, stops, policy.mesh, mi, policy.dtype)

  strategies = [
    Strategy("greedy", rollout(greedy_program(program), None), False),
    Strategy("sampled", rollout(sampled_program(program, n), None), False),
  ]
  if screen and any(isinstance(stage, Keep) for stage in program):
    strategies.append(Strategy("screen", rollout(program, mi), mi is not None))
  return strategies


def rank_names(strategies: Sequence[Strategy], n: int) -> list[str]:
  """Figures that checkpoints can be ranked by: more of them is better.

  Args:
    strategies: that are evaluated.
    n: samples per question of `sampled`.
  """
  metrics = ["accuracy", "exact", "tags"]
  several = [f"pass_at_{n}", f"majority_at_{n}"] if n > 1 else []
  return [
    f"eval/{strategy.name}/{metric}"
    for strategy in strategies
    for metric in metrics + (several if strategy.name == "sampled" else [])
  ]


@dataclass(frozen=True)
class Outcome:
  """What a strategy drew for some questions.

  Attributes:
    correct: [Q, n] verdicts of the leaves, NaN where no answer is known.
    exact: [Q, n] exact descriptions, NaN where no checker is known.
    answers: [Q][n] normalised answers, None where none was given.
    tokens: [Q] tokens generated for a question.
    tags: [Q, n] whether the format was kept.
    finished: [Q, n] whether the leaf ended with its stop.
  """

  correct: np.ndarray
  exact: np.ndarray
  answers: list[list[str | None]]
  tokens: np.ndarray
  tags: np.ndarray
  finished: np.ndarray


def host_oracle(examples: Rows, policy: Policy) -> Any:
  """Scores nodes of the last level by whether their description is exact; each
  process reads those of its own questions."""
  mesh, size = policy.mesh, len(examples)

  def score(levels: Any) -> jax.Array:
    own = [examples[i] for i in own_rows(mesh, size)]
    exact = assess(own, own_part(levels), policy.processor.decode)[-1]
    values = exact.rewards["exact"].reshape(len(own), -1)
    return put_rows(values, batch_sharding(mesh), size)

  return score


def draw(
  strategy: Strategy,
  roles: dict[str, Any],
  batcher: Batcher,
  examples: Sequence[Example],
  key: jax.Array,
) -> tuple[Tree, list[Assessed]]:
  """One batch of trees, on the host, read."""
  policy = batcher.policy
  tree = strategy.rollout(
    roles,
    *batcher.batch(examples, strategy.needs_views),
    key,
    host_oracle(examples, policy),
  )
  tree = on_host(tree)
  return tree, assess(examples, tree.levels, policy.processor.decode)


def filled(examples: Sequence[Example], multiple: int) -> list[Example]:
  """The examples, and again from the first up to a multiple of a number."""
  count = -(-len(examples) // multiple) * multiple
  return list(itertools.islice(itertools.cycle(examples), count))


def run_strategy(
  strategy: Strategy,
  roles: dict[str, Any],
  batcher: Batcher,
  examples: Sequence[Example],
  batch: int,
  key: jax.Array,
  stop: Callable[[], bool] = _never,
) -> Outcome:
  """Draws for every question; the last batch is filled up and cut.

  Raises:
    Stopped: where `stop` says so before a batch.
  """
  shards = data_shards(batcher.policy.mesh)
  batch = -(-min(batch, len(examples)) // shards) * shards
  parts: list[Outcome] = []
  for begin in range(0, len(examples), batch):
    if stop():
      raise Stopped
    chunk = list(examples[begin : begin + batch])
    real = len(chunk)
    chunk = filled(chunk, batch)
    tree, read = draw(strategy, roles, batcher, chunk, key)
    leaf = read[-1]
    tokens = sum(
      np.asarray(level.sampled).reshape(batch, -1).sum(1)
      for level in tree.levels
    )
    parts.append(
      Outcome(
        correct=leaf.rewards["correct"].reshape(batch, -1)[:real],
        exact=leaf.rewards["exact"].reshape(batch, -1)[:real],
        answers=[
          [None if p.answer is None else normalise(p.answer) for p in row]
          for row in leaf.parsed[:real]
        ],
        tokens=np.asarray(tokens)[:real],
        tags=np.array([[p.tags_ok for p in row] for row in leaf.parsed[:real]]),
        finished=np.asarray(tree.levels[-1].finished).reshape(batch, -1)[:real],
      )
    )
  return Outcome(
    correct=np.concatenate([p.correct for p in parts]),
    exact=np.concatenate([p.exact for p in parts]),
    answers=[row for p in parts for row in p.answers],
    tokens=np.concatenate([p.tokens for p in parts]),
    tags=np.concatenate([p.tags for p in parts]),
    finished=np.concatenate([p.finished for p in parts]),
  )


def first_of(outcome: Outcome, count: int) -> Outcome:
  """The outcome of the first `count` questions."""
  names = [field.name for field in dataclasses.fields(Outcome)]
  return Outcome(**{name: getattr(outcome, name)[:count] for name in names})


def groups_of(examples: Sequence[Example]) -> np.ndarray:
  """A label per question: its group, or one of its own where it has none."""
  return np.array(
    [f"g {e.group}" if e.group else f"q {i}" for i, e in enumerate(examples)]
  )


def figures(
  name: str, outcome: Outcome, groups: np.ndarray
) -> dict[str, float]:
  """Metrics of one strategy; standard errors are clustered by group."""
  out: dict[str, float] = {}

  def put(metric: str, estimate: statistics.Estimate) -> None:
    out[f"eval/{name}/{metric}"] = estimate.mean
    out[f"eval/{name}/{metric}_se"] = estimate.error

  known = np.isfinite(outcome.correct).all(axis=1)
  if known.any():
    put("accuracy", statistics.avg_at_n(outcome.correct[known], groups[known]))
  checked = np.isfinite(outcome.exact).all(axis=1)
  if checked.any():
    put("exact", statistics.avg_at_n(outcome.exact[checked], groups[checked]))
  put("tags", statistics.avg_at_n(outcome.tags.astype(np.float64), groups))
  put("truncated", statistics.avg_at_n(1.0 - outcome.finished, groups))
  put(
    "tokens",
    statistics.mean_and_error(outcome.tokens.astype(np.float64), groups),
  )
  n = outcome.correct.shape[1]
  if n > 1 and known.all():
    put(f"pass_at_{n}", statistics.pass_at_k(outcome.correct, n, groups))
    put(
      f"majority_at_{n}",
      statistics.majority_at_k(outcome.answers, outcome.correct, n, groups),
    )
  return out


def evaluate(
  strategies: Sequence[Strategy],
  roles: dict[str, Any],
  batcher: Batcher,
  examples: Sequence[Example],
  batch: int,
  key: jax.Array,
  stop: Callable[[], bool] = _never,
  first: int = 0,
) -> dict[str, float]:
  """All strategies on the same questions; no figures where there are none.

  Args:
    strategies: from `make_strategies`.
    roles: parameters by role.
    batcher: builds the prompts.
    examples: the questions.
    batch: questions per device batch.
    key: of the draws.
    stop: asked before each batch.
    first: where there are more questions, the figures of the first so many are
      added as `first/NAME`.

  Raises:
    Stopped: where `stop` said so.
  """
  out: dict[str, float] = {}
  if not examples:
    return out
  groups = groups_of(examples)
  for number, strategy in enumerate(strategies):
    outcome = run_strategy(
      strategy,
      roles,
      batcher,
      examples,
      batch,
      jax.random.fold_in(key, number),
      stop,
    )
    out.update(figures(strategy.name, outcome, groups))
    if 0 < first < len(examples):
      some = figures(strategy.name, first_of(outcome, first), groups[:first])
      out.update({FIRST + name: value for name, value in some.items()})
  return out
