"""Accuracy, cost and differences at equal tokens, as JSON holds them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.testtime.pool import Pool
from benchmarks.testtime.strategies import (
  BESTS,
  KEEPS,
  Name,
  Outcome,
  Shape,
  at_tokens,
  curve,
)
from mirl_jax.statistics import Estimate, mean_and_error, paired_difference

_DIGITS = 4


def shape_name(shape: Shape) -> str:
  """As a table shows it: `8/2x1`."""
  n, k, forks = shape
  return f"{n}/{k}x{forks}"


def cell(found: Estimate) -> dict[str, float]:
  """A mean over questions with its standard error."""
  return {
    "mean": round(found.mean, _DIGITS),
    "se": round(found.error, _DIGITS),
  }


def row(outcome: Outcome) -> dict[str, Any]:
  """Of one strategy; tokens per question."""
  return {
    "accuracy": cell(mean_and_error(outcome.accuracy)),
    "exact": cell(mean_and_error(outcome.exact)),
    "tokens": round(float(outcome.tokens.mean()), 2),
    "scored_tokens": round(float(outcome.scored.mean()), 2),
  }


def against(
  outcome: Outcome, points: Sequence[Outcome], extra: float = 0.0
) -> dict[str, float] | None:
  """Accuracy less a curve's at equal tokens, paired by question.

  Args:
    outcome: of a strategy.
    points: of the curve.
    extra: tokens that the strategy cost beside the generated ones.
  """
  other = at_tokens(float(outcome.tokens.mean()) + extra, points)
  if other is None:
    return None
  return cell(paired_difference(outcome.accuracy, other))


def strategies_report(
  pool: Pool,
  found: Mapping[Name, Outcome],
  shapes: Sequence[Shape],
  view_prompt: float,
) -> dict[str, Any]:
  """Of every strategy but the greedy one.

  Args:
    pool: that they were drawn from; one sample is its mean.
    found: from `mean_outcomes`.
    shapes: of screening, in the order of the report.
    view_prompt: tokens of the prompt under which MI scores.
  """
  votes, bests = curve(found, "majority", ""), curve(found, "best", BESTS[0])

  def screened(shape: Shape, by: str) -> dict[str, Any]:
    outcome = found["screen", by, shape]
    random = found["screen", "random", shape].accuracy
    scored = float(outcome.scored.mean())
    extra = scored + view_prompt if scored else 0.0
    return {
      **row(outcome),
      "over_majority": against(outcome, votes),
      "over_majority_scored": against(outcome, votes, extra),
      "over_best": against(outcome, bests),
      "over_random": cell(paired_difference(outcome.accuracy, random)),
    }

  one = Outcome(
    accuracy=pool.correct.mean((1, 2)),
    tokens=pool.described.mean(1) + pool.reasoned.mean((1, 2)),
    scored=np.zeros(len(pool.exact)),
    exact=pool.exact.mean(1),
  )
  return {
    "sample": row(one),
    "majority": {str(n): row(point) for n, point in enumerate(votes, 1)},
    "best_of_n": {
      by: {
        str(n): {**row(point), "over_majority": against(point, votes)}
        for n, point in enumerate(curve(found, "best", by), 1)
      }
      for by in BESTS
    },
    "screen": {
      shape_name(shape): {by: screened(shape, by) for by in KEEPS}
      for shape in shapes
    },
  }
