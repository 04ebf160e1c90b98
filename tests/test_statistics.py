"""Statistics against scipy, closed forms and brute force."""

import itertools

import numpy as np
import pytest
import scipy.stats

from mirl_jax import statistics as st

SEEDS = range(4)


@pytest.mark.parametrize("seed", SEEDS)
def test_mean_and_error_is_scipys_without_groups(seed):
  values = np.random.default_rng(seed).normal(size=17)
  got = st.mean_and_error(values)
  assert got.mean == pytest.approx(values.mean())
  assert got.error == pytest.approx(scipy.stats.sem(values))
  assert got.count == 17
  # One value per group is no clustering.
  grouped = st.mean_and_error(values, np.arange(17))
  assert grouped.error == pytest.approx(got.error)


@pytest.mark.parametrize("seed", SEEDS)
def test_clustered_error_counts_groups_and_not_copies(seed):
  rng = np.random.default_rng(seed)
  values = rng.normal(size=9)
  names = np.array(list("abcdefghi"))
  copied = st.mean_and_error(np.repeat(values, 5), np.repeat(names, 5))
  # Equal-sized clusters of copies hold exactly what their nine values hold.
  assert copied.error == pytest.approx(scipy.stats.sem(values))
  assert copied.count == 9
  naive = st.mean_and_error(np.repeat(values, 5))
  assert naive.error < copied.error / 2


def test_clustered_error_matches_the_spread_of_repeated_studies():
  rng = np.random.default_rng(0)
  groups = np.repeat(np.arange(30), rng.integers(1, 6, 30))
  means, errors = [], []
  for _ in range(1500):
    values = rng.normal(size=30)[groups] + 0.5 * rng.normal(size=len(groups))
    estimate = st.mean_and_error(values, groups)
    means.append(estimate.mean)
    errors.append(estimate.error)
  # Of 1500 studies a standard deviation is known to 2 %; the sandwich error is
  # biased by a few per cent at 30 clusters.
  assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(
    np.std(means), rel=0.1
  )


def test_too_little_data_gives_nan():
  assert np.isnan(st.mean_and_error(np.array([])).mean)
  one = st.mean_and_error(np.array([1.0, 2.0]), np.array([3, 3]))
  assert one.mean == 1.5
  assert np.isnan(one.error)
  assert one.count == 1


def test_interval_covers_as_often_as_it_says():
  estimate = st.Estimate(1.0, 0.5, 10)
  low, high = estimate.interval(0.9)
  reach = scipy.stats.norm.ppf(0.95) * 0.5
  assert (low, high) == pytest.approx((1 - reach, 1 + reach))
  with pytest.raises(ValueError, match="confidence"):
    estimate.interval(1.0)


def test_avg_at_n_clusters_by_question():
  correct = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
  got = st.avg_at_n(correct)
  assert got.mean == pytest.approx(0.5)
  assert got.error == pytest.approx(scipy.stats.sem([0.5, 1, 0]))
  by_picture = st.avg_at_n(correct, np.array(["p", "p", "q"]))
  assert by_picture.count == 2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_pass_at_k_is_the_mean_over_all_subsets(seed, k):
  correct = np.random.default_rng(seed).random((5, 6)) < 0.3
  brute = [
    np.mean([any(row[list(c)]) for c in itertools.combinations(range(6), k)])
    for row in correct
  ]
  got = st.pass_at_k(correct, k)
  assert got.mean == pytest.approx(np.mean(brute))
  assert got.error == pytest.approx(scipy.stats.sem(brute))


def test_pass_at_k_takes_large_n_and_refuses_large_k():
  correct = np.zeros((1, 5000), bool)
  correct[0, 0] = True
  assert st.pass_at_k(correct, 2500).mean == pytest.approx(0.5)
  with pytest.raises(ValueError, match="k=7"):
    st.pass_at_k(np.ones((2, 6)), 7)


def test_majority_votes_share_ties_and_skip_silence():
  answers = [
    ["a", "b", "b", "a"],
    ["a", "a", "b", "b"],
    [None, None, "b", None],
    [None, None, None, None],
  ]
  correct = np.array([[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
  assert st.majority_at_k(answers, correct, 3).mean == pytest.approx(3 / 4)
  assert st.majority_at_k(answers, correct, 4).mean == pytest.approx(2 / 4)
  assert st.majority_at_k(answers, correct, 1).mean == pytest.approx(1 / 4)
  with pytest.raises(ValueError, match="shape"):
    st.majority_at_k(answers[:2], correct, 1)
  with pytest.raises(ValueError, match="k=5"):
    st.majority_at_k(answers, correct, 5)


@pytest.mark.parametrize(
  ("successes", "n"), [(0, 5), (5, 5), (3, 10), (870, 1000)]
)
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_wilson_interval_is_scipys(successes, n, confidence):
  expected = scipy.stats.binomtest(successes, n).proportion_ci(
    confidence, method="wilson"
  )
  got = st.wilson_interval(successes, n, confidence)
  assert got == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_interval_refuses_what_is_no_share(successes, n):
  with pytest.raises(ValueError, match="no share"):
    st.wilson_interval(successes, n)


@pytest.mark.parametrize("seed", SEEDS)
def test_paired_difference_is_the_paired_t_test(seed):
  rng = np.random.default_rng(seed)
  first = rng.normal(size=20)
  second = first + rng.normal(size=20) * 0.1 + 0.3
  got = st.paired_difference(first, second)
  assert got.mean / got.error == pytest.approx(
    scipy.stats.ttest_rel(first, second).statistic
  )
  assert abs(got.mean + 0.3) < 4 * got.error
  with pytest.raises(ValueError, match="not paired"):
    st.paired_difference(first, second[:-1])


def _brute_auc(scores, positive, groups):
  values, pairs = [], []
  for name in set(groups.tolist()):
    inside = groups == name
    right, wrong = scores[inside & positive], scores[inside & ~positive]
    wins = [(a > b) + (a == b) / 2 for a in right for b in wrong]
    if wins:
      values.append(np.mean(wins))
      pairs.append(len(wins))
  return np.array(values), np.array(pairs)


@pytest.mark.parametrize("seed", SEEDS)
def test_within_group_auc_is_the_count_of_ordered_pairs(seed):
  rng = np.random.default_rng(seed)
  groups = rng.integers(0, 12, 80)
  scores = rng.integers(0, 5, 80).astype(float)  # many ties
  positive = rng.random(80) < 0.4
  values, pairs = _brute_auc(scores, positive, groups)
  got = st.within_group_auc(scores, positive, groups)
  assert got.mean == pytest.approx(values.mean())
  assert got.error == pytest.approx(scipy.stats.sem(values))
  assert got.count == len(values)
  pooled = st.within_group_auc(scores, positive, groups, weight="pairs")
  assert pooled.mean == pytest.approx(np.average(values, weights=pairs))
  assert pooled.mean != pytest.approx(got.mean, abs=1e-6)


def test_within_group_auc_ignores_offsets_between_questions():
  rng = np.random.default_rng(0)
  groups = np.repeat(np.arange(50), 6)
  positive = rng.random(300) < 0.5
  scores = positive + 0.5 * rng.normal(size=300)
  shifted = scores + 100 * rng.normal(size=50)[groups]
  got = st.within_group_auc(shifted, positive, groups)
  assert got.mean == pytest.approx(
    st.within_group_auc(scores, positive, groups).mean
  )
  assert got.mean > 0.85
  shuffled = st.within_group_auc(rng.permutation(scores), positive, groups)
  assert abs(shuffled.mean - 0.5) < 4 * shuffled.error


def test_pair_weighted_error_matches_a_cluster_bootstrap():
  rng = np.random.default_rng(1)
  groups = np.repeat(np.arange(80), rng.integers(2, 9, 80))
  positive = rng.random(len(groups)) < 0.5
  scores = positive + rng.normal(size=len(groups))
  values, pairs = _brute_auc(scores, positive, groups)
  draws = rng.integers(0, len(values), (4000, len(values)))
  boots = (values * pairs)[draws].sum(1) / pairs[draws].sum(1)
  got = st.within_group_auc(scores, positive, groups, weight="pairs")
  # Linearising a ratio of 70 clusters is right to a few per cent.
  assert got.error == pytest.approx(boots.std(), rel=0.1)


def test_within_group_auc_ranks_nan_last_and_drops_questions_without_contrast():
  scores = np.array([np.nan, 0.0, -9.0, 1.0, 2.0])
  positive = np.array([False, True, True, True, True])
  groups = np.array([0, 0, 0, 1, 1])
  got = st.within_group_auc(scores, positive, groups)
  assert (got.mean, got.count) == (1.0, 1)
  none = st.within_group_auc(scores[3:], positive[3:], groups[3:])
  assert np.isnan(none.mean)
  assert none.count == 0
  with pytest.raises(ValueError, match="weight"):
    st.within_group_auc(scores, positive, groups, weight="samples")


@pytest.mark.parametrize("seed", SEEDS)
def test_correlations_are_scipys(seed):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=30)
  y = (x + rng.normal(size=30)).round()  # ties
  assert st.pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic)
  assert st.spearman(x, y) == pytest.approx(
    scipy.stats.spearmanr(x, y).statistic
  )


def test_correlations_without_spread_are_nan():
  x = np.array([0.1, 0.1, 0.1])
  y = np.arange(3.0)
  assert np.isnan(st.pearson(x, y))
  assert np.isnan(st.spearman(x, y))
  assert np.isnan(st.spearman(np.array([1.0, np.nan, 2.0]), y))
  with pytest.raises(ValueError, match="not paired"):
    st.pearson(x, y[:2])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [1, 2, 7, 40, 300])
def test_mcnemar_is_scipys_exact_binomial_test(seed, n):
  rng = np.random.default_rng([seed, n])
  first, second = rng.random(n) < 0.6, rng.random(n) < 0.5
  got = st.mcnemar(first, second)
  b, c = int((first & ~second).sum()), int((second & ~first).sum())
  assert (got.first_only, got.second_only) == (b, c)
  want = scipy.stats.binomtest(b, b + c).pvalue if b + c else 1.0
  assert got.p == pytest.approx(want)
  assert st.mcnemar(second, first).p == got.p


def test_mcnemar_of_many_items_neither_rounds_nor_overflows():
  first = np.zeros(3000)
  second = np.arange(3000) < 2000
  assert st.mcnemar(first, second).p == pytest.approx(0, abs=1e-300)
  halves = np.arange(3000) < 1500
  assert st.mcnemar(halves, ~halves).p == 1.0
  assert st.mcnemar(first, first) == st.McNemar(0, 0, 1.0)


@pytest.mark.parametrize(
  ("first", "second", "message"),
  [
    (np.zeros(2), np.zeros(3), "2 and 3 items"),
    (np.array([0.5, 1]), np.zeros(2), "0 or 1"),
    (np.zeros(2), np.array([np.nan, 1]), "0 or 1"),
  ],
)
def test_mcnemar_refuses_what_is_no_pair_of_verdicts(first, second, message):
  with pytest.raises(ValueError, match=message):
    st.mcnemar(first, second)


@pytest.mark.parametrize("clustered", [False, True])
def test_bootstrap_agrees_with_the_clustered_error(clustered):
  rng = np.random.default_rng(1)
  groups = np.repeat(np.arange(60), rng.integers(1, 5, 60))
  values = rng.normal(size=60)[groups] + 0.3 * rng.normal(size=len(groups))
  labels = groups if clustered else None
  low, high = st.bootstrap_interval(values, labels, seed=3)
  # The normal interval differs from it by the skew and by G / (G - 1) alone.
  want = st.mean_and_error(values, labels).interval()
  width = want[1] - want[0]
  assert (low, high) == pytest.approx(want, abs=0.06 * width)
  assert st.bootstrap_interval(values, labels, seed=3) == (low, high)
  assert st.bootstrap_interval(values, labels, seed=4) != (low, high)


def test_bootstrap_of_two_groups_is_what_can_be_counted():
  """Resamples are aa, ab, ba, bb: their means 0, 1/3, 1/3 and 1."""
  values, groups = np.array([0.0, 0.0, 1.0]), np.array(["a", "a", "b"])
  assert st.bootstrap_interval(values, groups) == (0.0, 1.0)
  low, high = st.bootstrap_interval(values, groups, confidence=0.4)
  assert (low, high) == pytest.approx((1 / 3, 1 / 3))
  one = st.bootstrap_interval(values, np.zeros(3))
  assert np.isnan(one).all()
