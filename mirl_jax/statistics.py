"""Statistics that a score is reported with: errors, intervals, comparisons.

Values are per sample; groups (a question, or a picture that several questions
share) are what is independent. Runs on numpy alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Values = Float[np.ndarray, " n"] | Int[np.ndarray, "n"] | Bool[np.ndarray, "n"]
Grid = (
  Float[np.ndarray, "q n"] | Int[np.ndarray, "q n"] | Bool[np.ndarray, "q n"]
)


# The other side of a pair: its length is checked by us, with a clear message.
Others = Float[np.ndarray, " m"] | Int[np.ndarray, "m"] | Bool[np.ndarray, "m"]


@dataclass(frozen=True)
class Estimate:
  """A mean with its standard error.

  Attributes:
    mean: nan where there is nothing to average.
    error: standard error of the mean; nan with fewer than two groups.
    count: how many independent groups it rests on.
  """

  mean: float
  error: float
  count: int

  def interval(self, confidence: float = 0.95) -> tuple[float, float]:
    """The normal interval around the mean."""
    reach = _quantile(confidence) * self.error
    return self.mean - reach, self.mean + reach


def _quantile(confidence: float) -> float:
  if not 0 < confidence < 1:
    raise ValueError(f"confidence={confidence}: give a share inside of 0..1")
  return NormalDist().inv_cdf(0.5 + confidence / 2)


def _codes(groups: Shaped[np.ndarray, " n"]) -> tuple[np.ndarray, int]:
  names, codes = np.unique(groups, return_inverse=True)
  return codes.reshape(-1), len(names)


def mean_and_error(
  values: Values, groups: Shaped[np.ndarray, " n"] | None = None
) -> Estimate:
  """The mean of values and its standard error, clustered where asked.

  Without groups the error is s / sqrt(n), s with n - 1. With groups it is the
  cluster-robust one, sqrt(G / (G - 1) * sum_g (sum_{i in g} residual)^2) / n,
  which equals it where every group has one value.

  Args:
    values: one number per sample.
    groups: any label per sample; equal labels are dependent.
  """
  values = np.asarray(values, np.float64)
  n = len(values)
  codes, count = (np.arange(n), n) if groups is None else _codes(groups)
  if n == 0:
    return Estimate(float("nan"), float("nan"), 0)
  mean = values.mean()
  if count < 2:
    return Estimate(float(mean), float("nan"), count)
  sums = np.bincount(codes, weights=values - mean, minlength=count)
  error = np.sqrt(count / (count - 1) * (sums**2).sum()) / n
  return Estimate(float(mean), float(error), count)


def avg_at_n(
  correct: Grid, groups: Shaped[np.ndarray, " q"] | None = None
) -> Estimate:
  """Mean correctness of n samples per question; questions are independent.

  Args:
    correct: right or wrong, or a score.
    groups: a label per question, where questions share a picture.
  """
  return mean_and_error(np.asarray(correct, np.float64).mean(1), groups)


def pass_at_k(
  correct: Grid, k: int, groups: Shaped[np.ndarray, " q"] | None = None
) -> Estimate:
  """Chance that at least one of k of the n samples is right, unbiased.

  1 - C(n - c, k) / C(n, k) per question with c right samples (Chen et al.,
  arXiv 2107.03374, eq. 1).

  Raises:
    ValueError: unless 1 <= k <= n.
  """
  n = correct.shape[1]
  if not 1 <= k <= n:
    raise ValueError(f"k={k}: need 1 <= k <= {n} samples per question")
  right = (np.asarray(correct) > 0).sum(1)
  # C(n - c, k) / C(n, k) as a product of k factors in 0..1: no big numbers.
  drawn = np.arange(k)
  factors = np.clip((n - right)[:, None] - drawn, 0, None) / (n - drawn)
  return mean_and_error(1 - factors.prod(1), groups)


def majority_at_k(
  answers: Sequence[Sequence[str | None]],
  correct: Grid,
  k: int,
  groups: Shaped[np.ndarray, " q"] | None = None,
) -> Estimate:
  """Correctness of the answer that most of the first k samples give.

  Args:
    answers: of each sample a normalised answer; None (no answer) has no vote.
      Questions without votes count as wrong.
    correct: of each sample; an answer's credit is its samples' mean.
    k: how many samples of each question vote. Ties share the credit.

  Raises:
    ValueError: unless 1 <= k <= n and both inputs have the same shape.
  """
  questions, n = correct.shape
  if len(answers) != questions or any(len(row) != n for row in answers):
    raise ValueError(
      f"answers and correct differ in shape from {correct.shape}"
    )
  if not 1 <= k <= n:
    raise ValueError(f"k={k}: need 1 <= k <= {n} samples per question")
  scores = np.zeros(questions)
  for q, row in enumerate(answers):
    votes = Counter(answer for answer in row[:k] if answer is not None)
    if not votes:
      continue
    most = max(votes.values())
    winners = [answer for answer, count in votes.items() if count == most]
    scores[q] = np.mean(
      [
        np.mean([correct[q, i] for i in range(k) if row[i] == answer])
        for answer in winners
      ]
    )
  return mean_and_error(scores, groups)


def wilson_interval(
  successes: int, n: int, confidence: float = 0.95
) -> tuple[float, float]:
  """Wilson's score interval of a share; within 0..1 and fit for few trials.

  Raises:
    ValueError: unless 0 <= successes <= n and n >= 1.
  """
  if n < 1 or not 0 <= successes <= n:
    raise ValueError(f"{successes} successes of {n}: no share")
  z = _quantile(confidence)
  share = successes / n
  centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
  reach = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
  reach /= 1 + z**2 / n
  # At 0 and n successes an end is exact; rounding must not pass it.
  low = 0.0 if successes == 0 else float(centre - reach)
  high = 1.0 if successes == n else float(centre + reach)
  return low, high


def paired_difference(
  first: Values,
  second: Others,
  groups: Shaped[np.ndarray, " n"] | None = None,
) -> Estimate:
  """The mean of first - second on the same items, with its standard error.

  `.interval()` of the result is the interval of the difference.

  Raises:
    ValueError: if the two have different lengths.
  """
  if len(first) != len(second):
    raise ValueError(f"{len(first)} and {len(second)} items are not paired")
  difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
  return mean_and_error(difference, groups)


@dataclass(frozen=True)
class McNemar:
  """Two raters' disagreements on the same items, and what chance gives.

  Attributes:
    first_only: items that only the first has right.
    second_only: items that only the second has right.
    p: chance of a split as uneven as this, or more, if both were equally good.
  """

  first_only: int
  second_only: int
  p: float


def mcnemar(first: Values, second: Others) -> McNemar:
  """McNemar's test of paired outcomes, exact and two-sided.

  The items on which the two differ are a fair coin's throws if both are
  equally good: p = 2 P(X <= min(b, c)) with X ~ Binomial(b + c, 1/2), at most
  1. It takes items for independent; for clusters see `bootstrap_interval`.

  Args:
    first: right (1) or wrong (0) by item.
    second: likewise, of the other.

  Raises:
    ValueError: if the two differ in length, or a value is neither 0 nor 1.
  """
  if len(first) != len(second):
    raise ValueError(f"{len(first)} and {len(second)} items are not paired")
  for values in (first, second):
    if not np.isin(values, (0, 1)).all():
      raise ValueError("mcnemar needs outcomes of 0 or 1, right or wrong")
  one, other = np.asarray(first) > 0, np.asarray(second) > 0
  b, c = int((one & ~other).sum()), int((other & ~one).sum())
  ways = term = 1
  for k in range(min(b, c)):
    term = term * (b + c - k) // (k + 1)  # the next binomial coefficient
    ways += term
  # Whole numbers up to the one division: no rounding, no overflow.
  return McNemar(b, c, min(1.0, 2 * ways / 2 ** (b + c)))


def bootstrap_interval(
  values: Values,
  groups: Shaped[np.ndarray, " n"] | None = None,
  confidence: float = 0.95,
  resamples: int = 10_000,
  seed: int = 0,
) -> tuple[float, float]:
  """The percentile bootstrap's interval of the mean, whole groups resampled.

  Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13. The
  same seed gives the same interval; nan with fewer than two groups.

  Args:
    values: one number per sample.
    groups: any label per sample; equal labels are drawn together.
    confidence: share of the resamples inside of the interval.
    resamples: how many.
    seed: of the draws.
  """
  values = np.asarray(values, np.float64)
  codes, count = _codes(np.arange(len(values)) if groups is None else groups)
  _quantile(confidence)  # refuses what is no share
  if count < 2:
    return float("nan"), float("nan")
  sums = np.bincount(codes, weights=values, minlength=count)
  sizes = np.bincount(codes, minlength=count)
  rng = np.random.default_rng(seed)
  means = np.empty(resamples)
  for i in range(resamples):  # one at a time: memory of one resample
    drawn = rng.integers(count, size=count)
    means[i] = sums[drawn].sum() / sizes[drawn].sum()
  tail = 50 * (1 - confidence)
  low, high = np.percentile(means, (tail, 100 - tail))
  return float(low), float(high)


def _ranks(values: np.ndarray) -> np.ndarray:
  """Ranks from 1, ties sharing their mean rank."""
  _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
  last = np.cumsum(counts)
  return (last - (counts - 1) / 2)[codes.reshape(-1)]


def within_group_auc(
  scores: Values,
  positive: Values,
  groups: Shaped[np.ndarray, " n"],
  weight: str = "groups",
) -> Estimate:
  """How often a positive outranks a negative of the same question, ties half.

  Questions without both kinds say nothing and are dropped; `count` is how
  many are left. A nan score ranks last, as a selection by score ranks it.

  Args:
    scores: higher should mean positive.
    positive: true or 1 for positives.
    groups: the question of each sample.
    weight: "groups" averages the AUCs of questions, each counting the same;
      "pairs" counts every pair the same (error of a ratio, linearised).

  Raises:
    ValueError: for an unknown weight.
  """
  if weight not in ("groups", "pairs"):
    raise ValueError(f"weight={weight!r}: give 'groups' or 'pairs'")
  scores = np.nan_to_num(
    np.asarray(scores, np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf
  )
  label = np.asarray(positive) > 0
  codes, _ = _codes(groups)
  order = np.argsort(codes, kind="stable")
  borders = np.flatnonzero(np.diff(codes[order])) + 1
  wins, pairs = [], []
  for members in np.split(order, borders):
    right = int(label[members].sum())
    wrong = len(members) - right
    if right == 0 or wrong == 0:
      continue
    # Mann-Whitney: positives' ranks beyond those among themselves.
    ranks = _ranks(scores[members])[label[members]]
    wins.append(ranks.sum() - right * (right + 1) / 2)
    pairs.append(right * wrong)
  won, drawn = np.array(wins, np.float64), np.array(pairs, np.float64)
  if weight == "groups" or not pairs:
    return mean_and_error(won / drawn)
  value = won.sum() / drawn.sum()
  count = len(won)
  if count < 2:
    return Estimate(float(value), float("nan"), count)
  residuals = won - value * drawn
  error = np.sqrt(count / (count - 1) * (residuals**2).sum()) / drawn.sum()
  return Estimate(float(value), float(error), count)


def pearson(first: Values, second: Others) -> float:
  """The linear correlation; nan where either is constant or holds a nan.

  Raises:
    ValueError: if the two have different lengths.
  """
  if len(first) != len(second):
    raise ValueError(f"{len(first)} and {len(second)} items are not paired")
  x, y = (np.asarray(v, np.float64) for v in (first, second))
  if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
    return float("nan")
  x, y = x - x.mean(), y - y.mean()
  return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def spearman(first: Values, second: Others) -> float:
  """The correlation of ranks, ties at their mean rank; nan as Pearson's."""
  x, y = (np.asarray(v, np.float64) for v in (first, second))
  if np.isnan(x).any() or np.isnan(y).any():
    return float("nan")
  return pearson(_ranks(x), _ranks(y))
