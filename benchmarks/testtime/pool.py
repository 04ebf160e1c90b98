"""A pool of answers: many descriptions of a question, reasonings of each."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from flax import struct

from mirl_jax import batching, build
from mirl_jax.data.example import Example
from mirl_jax.evaluate import Strategy, draw
from mirl_jax.information.estimators import MI
from mirl_jax.parallel.mesh import data_shards
from mirl_jax.rewards.assess import Assessed
from mirl_jax.rewards.verify import normalise
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import Keep, Program, samples
from mirl_jax.rollout.tree import Tree
from mirl_jax.runs.progress import Progress

LAMBDAS = (0.4, 0.8)
VIEW = MI(view="blank")
# Stands for no answer.
NONE = -1


@struct.dataclass
class Pool:
  """D descriptions of each of Q questions, and F reasonings of each.

  Attributes:
    answers: [Q, D, F] equal numbers for equal answers to a question, NONE
      where there is no answer.
    correct: [Q, D, F] 1 for a right answer, else 0.
    ended: [Q, D, F] whether description and reasoning ended with their stops.
    likelihood: [Q, D, F] mean log-prob of a whole response, nats per token.
    reasoned: [Q, D, F] tokens of a reasoning.
    described: [Q, D] tokens of a description.
    finished: [Q, D] whether a description ended with its stop.
    exact: [Q, D] 1 for an exact description, else 0.
    scores: of descriptions by name, [Q, D] each; more is better.
  """

  answers: np.ndarray
  correct: np.ndarray
  ended: np.ndarray
  likelihood: np.ndarray
  reasoned: np.ndarray
  described: np.ndarray
  finished: np.ndarray
  exact: np.ndarray
  scores: dict[str, np.ndarray]


def mi_name(weight: float) -> str:
  """The name of the MI score with a weight of the prior."""
  return f"mi, lambda={weight:g}"


def numbered(answers: Iterable[Sequence[str | None]]) -> np.ndarray:
  """Answers [Q][n] as numbers [Q, n]: equal where the texts of a row are."""
  rows = []
  for row in answers:
    codes: dict[str | None, int] = {None: NONE}
    rows.append([codes.setdefault(text, len(codes) - 1) for text in row])
  return np.array(rows)


def pool_program(
  program: Program, descriptions: int, reasonings: int
) -> Program:
  """Every description kept, and each reasoned from several times."""
  describe, reason = samples(program)
  return (
    dataclasses.replace(describe, fanout=descriptions),
    Keep(descriptions, "all"),
    dataclasses.replace(reason, fanout=reasonings),
  )


def read_pool(tree: Tree, read: Sequence[Assessed]) -> Pool:
  """The pool that a batch of trees is, both on the host."""
  first, last = tree.levels
  forks = np.asarray(last.finished)  # [Q, D, F]
  flat = forks.shape[:2]
  described = np.asarray(first.sampled).sum(-1).reshape(flat)
  reasoned = np.asarray(last.sampled).sum(-1)
  clean, prior = (
    np.asarray(first.scores[name], np.float64).reshape(flat)
    for name in ("clean", "prior")
  )
  length = np.maximum(described, 1)
  logprobs = np.asarray(last.logprobs, np.float64) * last.sampled
  finished = np.asarray(first.finished).reshape(flat)
  exact = np.asarray(read[0].rewards["exact"]).reshape(flat)
  texts = [
    [None if p.answer is None else normalise(p.answer) for p in row]
    for row in read[1].parsed
  ]
  whole = clean[..., None] + logprobs.sum(-1)
  return Pool(
    answers=numbered(texts).reshape(forks.shape),
    correct=np.asarray(read[1].rewards["correct"]),
    ended=forks & finished[..., None],
    likelihood=whole / np.maximum(described[..., None] + reasoned, 1),
    reasoned=reasoned,
    described=described,
    finished=finished,
    exact=exact,
    scores={
      **{mi_name(x): (clean - x * prior) / length for x in LAMBDAS},
      "likelihood": clean / length,
      # All equal: the order of the draw decides, and that is random.
      "random": np.zeros(flat),
      "oracle": exact,
    },
  )


def first_questions(pool: Pool, count: int) -> Pool:
  """The pool of the first questions alone."""
  return jax.tree.map(lambda x: x[:count], pool)


def sample_pool(
  policy: build.Policy,
  roles: dict[str, Any],
  batcher: batching.Batcher,
  program: Program,
  examples: Sequence[Example],
  batch: int,
  seed: int,
) -> Pool:
  """Samples a pool for every question; the last batch is filled up and cut.

  Args:
    policy: that samples and scores.
    roles: its parameters by role.
    batcher: builds prompts, and views of VIEW.
    program: from `pool_program`.
    examples: the Q questions.
    batch: questions per device batch.
    seed: of the draws.
  """
  shards = data_shards(policy.mesh)
  batch = -(-min(batch, len(examples)) // shards) * shards
  stops = build.make_stops(program, policy.processor)
  strategy = Strategy(
    "pool",
    Rollout(policy.config, program, stops, policy.mesh, VIEW, policy.dtype),
    True,
  )
  key = build.place_key(seed, policy)
  parts: list[Pool] = []
  with Progress(len(examples), label="question") as progress:
    for begin in range(0, len(examples), batch):
      chunk = list(examples[begin : begin + batch])
      filled = [chunk[i % len(chunk)] for i in range(batch)]
      pool = read_pool(*draw(strategy, roles, batcher, filled, key))
      parts.append(first_questions(pool, len(chunk)))
      done = begin + len(chunk)
      progress.update(done, {"accuracy": parts[-1].correct.mean()})
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)
