"""What each strategy makes of a pool: pure functions of arrays.

The first N descriptions of a pool, and the first F reasonings of each, are what
a strategy that samples no more would have drawn. `shuffled` brings others to
the front; a strategy's value is its mean over shuffles.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from benchmarks.testtime.pool import LAMBDAS, NONE, Pool, mi_name

# Descriptions, kept ones, reasonings of each.
Shape = tuple[int, int, int]
# Kind of strategy, what it ranks by, its size.
Name = tuple[str, str, Shape]

MI_NAMES = tuple(mi_name(weight) for weight in LAMBDAS)
KEEPS = (*MI_NAMES, "likelihood", "random", "oracle")
BESTS = ("likelihood", *MI_NAMES)


@dataclass(frozen=True)
class Outcome:
  """What a strategy reaches and costs, for each of Q questions.

  Attributes:
    accuracy: [Q] value of its answer, in 0..1.
    tokens: [Q] generated, those of dropped descriptions included.
    scored: [Q] description tokens that MI reads again without the image.
    exact: [Q] share of exact descriptions among those reasoned from.
  """

  accuracy: np.ndarray
  tokens: np.ndarray
  scored: np.ndarray
  exact: np.ndarray


def shuffled(pool: Pool, rng: np.random.Generator) -> Pool:
  """The pool with descriptions in random order, and the reasonings of each."""
  order = rng.permuted(
    np.broadcast_to(np.arange(pool.exact.shape[1]), pool.exact.shape), axis=1
  )
  forks = rng.permuted(
    np.broadcast_to(np.arange(pool.correct.shape[2]), pool.correct.shape),
    axis=2,
  )

  def move(x: np.ndarray) -> np.ndarray:
    if x.ndim == 2:
      return np.take_along_axis(x, order, 1)
    return np.take_along_axis(
      np.take_along_axis(x, order[..., None], 1), forks, 2
    )

  return jax.tree.map(move, pool)


def vote(answers: np.ndarray, correct: np.ndarray) -> np.ndarray:
  """The value [Q] of the answer that most of n samples [Q, n] give.

  NONE has no vote; tied answers share the credit; no votes, no credit. As
  `statistics.majority_at_k`.
  """
  heard = answers != NONE
  votes = ((answers[:, :, None] == answers[:, None, :]) & heard[:, None]).sum(2)
  votes = np.where(heard, votes, 0)
  # Tied answers have equally many samples: the mean over these is theirs.
  wins = heard & (votes == votes.max(1, keepdims=True))
  return (wins * correct).sum(1) / np.maximum(wins.sum(1), 1)


def ranked(scores: np.ndarray, finished: np.ndarray) -> np.ndarray:
  """Indices [Q, n] from best to worst, as `rollout.selection.rank`.

  Truncated nodes come last, NaN counts as -inf, ties go to the lowest index.
  """
  clean = np.where(np.isnan(scores), -np.inf, scores)
  return np.lexsort((-clean, ~finished), axis=-1)


def independent_tokens(pool: Pool, n: int) -> np.ndarray:
  """Generated tokens [Q] of n independent responses."""
  return (pool.described[:, :n] + pool.reasoned[:, :n, 0]).sum(1)


def scored_tokens(pool: Pool, n: int, by: str) -> np.ndarray:
  """Tokens [Q] of n descriptions that the score `by` reads once more."""
  tokens = pool.described[:, :n].sum(1)
  return tokens if by in MI_NAMES else np.zeros_like(tokens)


def majority(pool: Pool, n: int) -> Outcome:
  """The vote of n independent responses."""
  tokens = independent_tokens(pool, n)
  return Outcome(
    accuracy=vote(pool.answers[:, :n, 0], pool.correct[:, :n, 0]),
    tokens=tokens,
    scored=np.zeros_like(tokens),
    exact=pool.exact[:, :n].mean(1),
  )


def best(pool: Pool, n: int, by: str) -> Outcome:
  """The best of n independent responses.

  Args:
    pool: of the questions.
    n: how many.
    by: `likelihood`, of the whole response, or a score of its description.
  """
  if by == "likelihood":
    scores, ended = pool.likelihood[:, :n, 0], pool.ended[:, :n, 0]
  else:
    scores, ended = pool.scores[by][:, :n], pool.finished[:, :n]
  top = ranked(scores, ended)[:, :1]
  return Outcome(
    accuracy=np.take_along_axis(pool.correct[:, :n, 0], top, 1)[:, 0],
    tokens=independent_tokens(pool, n),
    scored=scored_tokens(pool, n, by),
    exact=np.take_along_axis(pool.exact, top, 1)[:, 0],
  )


def screen(pool: Pool, shape: Shape, by: str) -> Outcome:
  """The vote of F reasonings from each of the best k of N descriptions."""
  n, k, forks = shape
  kept = ranked(pool.scores[by][:, :n], pool.finished[:, :n])[:, :k]

  def reasonings(x: np.ndarray) -> np.ndarray:
    chosen = np.take_along_axis(x, kept[..., None], 1)[..., :forks]
    return chosen.reshape(len(x), k * forks)

  described = pool.described[:, :n].sum(1)
  return Outcome(
    accuracy=vote(reasonings(pool.answers), reasonings(pool.correct)),
    tokens=described + reasonings(pool.reasoned).sum(1),
    scored=scored_tokens(pool, n, by),
    exact=np.take_along_axis(pool.exact, kept, 1).mean(1),
  )


def outcomes(
  pool: Pool, most: int, shapes: Sequence[Shape]
) -> Iterator[tuple[Name, Outcome]]:
  """Every strategy on one shuffle of a pool.

  Args:
    pool: at least as large as the largest strategy.
    most: independent responses; every smaller count as well.
    shapes: of screening.
  """
  for n in range(1, most + 1):
    yield ("majority", "", (n, n, 1)), majority(pool, n)
  for by in BESTS:
    for n in range(1, most + 1):
      yield ("best", by, (n, 1, 1)), best(pool, n, by)
  for shape in shapes:
    for by in KEEPS:
      yield ("screen", by, shape), screen(pool, shape, by)


def mean_outcomes(
  pool: Pool, most: int, shapes: Sequence[Shape], shuffles: int, seed: int
) -> dict[Name, Outcome]:
  """Every strategy's mean over shuffles; the same ones for all strategies."""
  rng = np.random.default_rng(seed)
  fields = [field.name for field in dataclasses.fields(Outcome)]
  sums: dict[Name, np.ndarray] = {}
  for _ in range(shuffles):
    for name, found in outcomes(shuffled(pool, rng), most, shapes):
      values = np.stack([getattr(found, field) for field in fields])
      sums[name] = sums.get(name, 0) + values.astype(np.float64)
  return {
    name: Outcome(**dict(zip(fields, total / shuffles, strict=True)))
    for name, total in sums.items()
  }


def curve(found: Mapping[Name, Outcome], kind: str, by: str) -> list[Outcome]:
  """A kind's outcomes in the order of their counts of responses."""
  return [found[name] for name in sorted(found) if name[:2] == (kind, by)]


def at_tokens(tokens: float, points: Sequence[Outcome]) -> np.ndarray | None:
  """Accuracy [Q] of a curve where it costs a number of tokens per question.

  On a line in log tokens between the two neighbours, with one weight for all
  questions, so that a difference can be paired; None outside of the curve.

  Args:
    tokens: mean over questions.
    points: of the curve, in growing order of cost, two at least.
  """
  places = np.log([point.tokens.mean() for point in points])
  at = np.log(tokens)
  if not places[0] <= at <= places[-1]:
    return None
  right = int(np.clip(np.searchsorted(places, at), 1, len(places) - 1))
  share = (at - places[right - 1]) / (places[right] - places[right - 1])
  below, above = points[right - 1].accuracy, points[right].accuracy
  return (1 - share) * below + share * above
