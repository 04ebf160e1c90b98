"""How well scores tell right from wrong, within questions.

A figure is {"mean", "se", "questions"}: its standard error is over groups of
questions that depend on each other, and `questions` is how many say anything.
Where none does, mean and se are None.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from mirl_jax import statistics
from mirl_jax.screening.observe import Observed

Figure = dict[str, float | int | None]
PerQuestion = Float[np.ndarray, " q"]
Grid = Float[np.ndarray, "q n"]

# What a score is held against; the name is the field of `Observed`.
TARGETS = ("exact", "correct")
AGAINST = "likelihood, mean"
_SPREAD = 1e-9  # of a score: less is rounding


def figure(values: PerQuestion, groups: Shaped[np.ndarray, " q"]) -> Figure:
  """The mean over the questions that have a value, NaN being none."""
  heard = np.isfinite(values)
  found = statistics.mean_and_error(values[heard], groups[heard])
  return {
    "mean": None if np.isnan(found.mean) else found.mean,
    "se": None if np.isnan(found.error) else found.error,
    "questions": int(heard.sum()),
  }


def _ranked(scores: Grid) -> Grid:
  """With NaN last, as a selection ranks it."""
  return np.where(np.isnan(scores), -np.inf, scores)


def _unscored(scores: Grid) -> Bool[np.ndarray, " q"]:
  return np.isnan(scores).all(axis=1)


def pair_auc(scores: Grid, share: Grid) -> PerQuestion:
  """How often the score prefers what came out right; ties count half.

  Over the pairs of a right and a wrong outcome of two different nodes of one
  question: with p_i the share of node i's outcomes that are right,
  sum_{i≠j} p_i (1 - p_j) [s_i > s_j] / sum_{i≠j} p_i (1 - p_j). With one
  outcome of each it is the usual AUC; with more it estimates the same.

  Args:
    scores: of each node; NaN ranks last.
    share: of a node's outcomes that are right, in 0..1; NaN where unknown.

  Returns:
    Of each question; NaN where it has no such pair or no score.
  """
  ranked = _ranked(scores)
  first, second = ranked[:, :, None], ranked[:, None, :]
  wins = (first > second) + 0.5 * (first == second)
  weight = share[:, :, None] * (1 - share[:, None, :])
  weight = weight * (1 - np.eye(scores.shape[1]))
  total = weight.sum((1, 2))
  heard = (total > 0) & ~_unscored(scores)
  won = (wins * weight).sum((1, 2))
  return np.where(heard, won / np.where(heard, total, 1.0), np.nan)


def selected(
  scores: Grid, share: Grid, k: int
) -> tuple[PerQuestion, PerQuestion]:
  """Mean outcome of the k best nodes by score and of the rest, per question.

  Ties go to the lower index, as a Keep's do.

  Args:
    scores: of each node; NaN ranks last.
    share: of a node's outcomes that are right.
    k: below the number of nodes.

  Raises:
    ValueError: unless 1 <= k < n.
  """
  n = scores.shape[1]
  if not 1 <= k < n:
    raise ValueError(f"k={k}: need 1 <= k < {n} nodes, or there is no rest")
  order = np.argsort(-_ranked(scores), axis=1, kind="stable")
  outcome = np.take_along_axis(share, order, 1)
  outcome = np.where(_unscored(scores)[:, None], np.nan, outcome)
  return outcome[:, :k].mean(1), outcome[:, k:].mean(1)


def length_correlation(scores: Grid, length: Grid) -> PerQuestion:
  """Spearman's correlation with length over a question's scored nodes; NaN
  where either has no spread."""
  out = np.full(len(scores), np.nan)
  for q, (score, tokens) in enumerate(zip(scores, length, strict=True)):
    heard = ~np.isnan(score)
    out[q] = statistics.spearman(score[heard], tokens[heard])
  return out


def _centred(values: Grid) -> Grid:
  heard = ~np.isnan(values)
  count = np.maximum(heard.sum(1, keepdims=True), 1)
  mean = np.where(heard, values, 0.0).sum(1, keepdims=True) / count
  return values - mean


def length_removed(scores: Grid, length: Grid) -> Grid:
  """What length does not predict of a score, one slope for all questions.

  Least squares on both less their means over a question. All NaN where the
  score follows from length alone.
  """
  score = _centred(scores)
  tokens = _centred(np.where(np.isnan(scores), np.nan, length))
  spread = np.nansum(tokens**2)
  slope = np.nansum(score * tokens) / spread if spread > 0 else 0.0
  left = score - slope * tokens
  if not np.nansum(left**2) > _SPREAD * np.nansum(score**2):
    return np.full_like(scores, np.nan)
  return left


def _varies(values: Grid) -> bool:
  """Whether two nodes of one question differ."""
  return bool((values.max(axis=1) > values.min(axis=1)).any())


def _target(
  scores: Grid, share: Grid, data: Observed, k: int, likelihood: PerQuestion
) -> dict[str, Any]:
  """A score's figures against one target; no figure where either is constant
  within every question."""
  auc = pair_auc(scores, share)
  ranked = _ranked(scores)

  def compared(values: PerQuestion, at: Any = slice(None)) -> Figure:
    varies = _varies(ranked[at]) and _varies(share[at])
    heard = values[at] if varies else np.full_like(values[at], np.nan)
    return figure(heard, data.group[at])

  out: dict[str, Any] = {
    "auc": compared(auc),
    "auc_over_likelihood": compared(auc - likelihood),
    "auc_length_removed": figure(
      pair_auc(length_removed(scores, data.length), share), data.group
    ),
  }
  for name, count in (("kept", k), ("first", 1)):
    kept, rest = selected(scores, share, count)
    out[name] = {
      "selected": compared(kept),
      "rest": compared(rest),
      "difference": compared(kept - rest),
    }
  kinds = np.unique(data.category)
  if len(kinds) > 1:
    out["by_category"] = {
      str(kind): compared(auc, data.category == kind) for kind in kinds
    }
  return out


def with_bounds(data: Observed, seed: int) -> dict[str, Grid]:
  """The scores, `random`, and `oracle` where exactness is known: no score of
  a method, but what the others lie between.

  Args:
    data: what was observed.
    seed: of `random`.
  """
  shape = data.length.shape
  random = np.random.default_rng([seed, 1]).random(shape)
  made = {**data.scores, "random": np.where(data.finished, random, np.nan)}
  if np.isfinite(data.exact).any():
    made["oracle"] = np.where(data.finished, data.exact, np.nan)
  return made


def screening_figures(data: Observed, k: int, seed: int = 0) -> dict[str, Any]:
  """Everything that is measured of an observation, as JSON-able values.

  Args:
    data: what was observed.
    k: how many of N the program keeps.
    seed: of the random score.

  Returns:
    `questions`, `groups`, `descriptions`, `kept`, `truncated`; `targets`, those
    that are known, with their mean and how many questions have contrast;
    `scores`, by name: `length_correlation`, and by target `auc`,
    `auc_over_likelihood` (paired by question), `auc_length_removed`, `kept`
    and `first` (the k best, and the best, against the rest: `selected`,
    `rest` and their paired `difference`), and the AUC `by_category`.

  Raises:
    ValueError: for fewer than two descriptions of a question.
  """
  questions, n = data.length.shape
  if n < 2:
    raise ValueError(
      f"{n} description of each question: a screening compares several; raise"
      " the fanout of the program's stage"
    )
  shares = {name: getattr(data, name) for name in TARGETS}
  known = {
    name: share for name, share in shares.items() if np.isfinite(share).any()
  }
  scores = with_bounds(data, seed)
  likelihood = {
    name: pair_auc(scores[AGAINST], share) for name, share in known.items()
  }
  return {
    "questions": questions,
    "groups": len(np.unique(data.group)),
    "descriptions": n,
    "kept": k,
    "truncated": figure(1.0 - data.finished.mean(1), data.group),
    "targets": {
      name: {
        **figure(share.mean(1), data.group),
        "contrast": int((np.ptp(share, axis=1) > 0).sum()),
      }
      for name, share in known.items()
    },
    "scores": {
      name: {
        "length_correlation": figure(
          length_correlation(score, data.length), data.group
        ),
        **{
          target: _target(score, share, data, k, likelihood[target])
          for target, share in known.items()
        },
      }
      for name, score in scores.items()
    },
  }
