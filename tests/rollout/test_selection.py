import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax.rollout.selection import rank, select

NAN, INF = float("nan"), float("inf")


def brute_rank(scores, finished):
  """Best first by sorting tuples: finished, score (NaN lowest), index."""
  value = [-INF if np.isnan(s) else s for s in scores]
  return sorted(
    range(len(scores)), key=lambda i: (not finished[i], -value[i], i)
  )


def random_scores(seed, b=4, r=7):
  rng = np.random.default_rng(seed)
  scores = rng.integers(-2, 3, (b, r)).astype(np.float32)  # many ties
  scores[rng.random((b, r)) < 0.2] = NAN
  scores[rng.random((b, r)) < 0.1] = INF
  scores[rng.random((b, r)) < 0.1] = -INF
  finished = rng.random((b, r)) < 0.7
  return scores, finished


def keys(b, seed=0):
  base = jax.random.key(seed)
  return jax.vmap(lambda i: jax.random.fold_in(base, i))(jnp.arange(b))


def choose(by, k, scores, finished, seed=0, **named):
  return np.asarray(
    select(
      by,
      k,
      {name: jnp.asarray(x) for name, x in named.items()}
      or {"mi": jnp.asarray(scores)},
      jnp.asarray(finished),
      keys(len(finished), seed),
    )
  )


@pytest.mark.parametrize("seed", range(20))
def test_rank_equals_a_sort_of_tuples(seed):
  scores, finished = random_scores(seed)
  got = rank(jnp.asarray(scores), jnp.asarray(finished))
  want = [brute_rank(s, f) for s, f in zip(scores, finished, strict=True)]
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("by", ["mi", "likelihood", "oracle"])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_score_rules_take_the_first_k_of_their_own_score(by, k):
  for seed in range(5):
    scores, finished = random_scores(seed)
    other = -scores
    named = {"mi": other, "likelihood": other, "oracle": other, by: scores}
    got = choose(by, k, None, finished, **named)
    for row in range(len(scores)):
      want = brute_rank(scores[row], finished[row])[:k]
      assert got[row].tolist() == want


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
def test_stratified_takes_evenly_spaced_ranks_from_best_to_worst(k):
  scores, finished = random_scores(3)
  got = choose("stratified", k, scores, finished)
  for row in range(len(scores)):
    order = brute_rank(scores[row], finished[row])
    places = [order.index(i) for i in got[row]]
    assert places[0] == 0
    assert k == 1 or places[-1] == len(order) - 1
    gaps = np.diff(places)
    assert k == 1 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_all_keeps_every_node_in_order():
  scores, finished = random_scores(0)
  got = choose("all", 0, scores, finished)
  np.testing.assert_array_equal(got, np.tile(np.arange(7), (4, 1)))


@pytest.mark.parametrize("by", ["mi", "random", "stratified"])
def test_truncated_nodes_are_kept_only_when_too_few_finished(by):
  rng = np.random.default_rng(0)
  for count in range(6):
    finished = np.zeros((8, 5), bool)
    for row in finished:
      row[rng.permutation(5)[:count]] = True
    scores = np.where(finished, -9.0, 9.0).astype(np.float32)
    if by == "stratified":  # its first is the best, so a finished one
      got = choose(by, 1, scores, finished)
      assert finished[np.arange(8), got[:, 0]].all() == (count > 0)
      continue
    got = choose(by, 3, scores, finished)
    taken = np.take_along_axis(finished, got, axis=1).sum(axis=1)
    np.testing.assert_array_equal(taken, min(count, 3))


def test_nan_never_beats_a_number_even_among_truncated_nodes():
  scores = np.array([[NAN, -5.0, NAN, -7.0]], np.float32)
  finished = np.array([[True, True, False, False]])
  assert choose("mi", 4, scores, finished).tolist() == [[1, 0, 3, 2]]


def test_random_depends_on_the_questions_key_only():
  scores, finished = random_scores(1, b=6)
  finished[:] = True
  whole = choose("random", 3, scores, finished)
  np.testing.assert_array_equal(whole, choose("random", 3, -scores, finished))
  # A question alone chooses as it does among others.
  for row in range(6):
    alone = select(
      "random", 3, {}, jnp.ones((1, 7), bool), keys(6)[row : row + 1]
    )
    np.testing.assert_array_equal(alone[0], whole[row])
  assert (whole != choose("random", 3, scores, finished, seed=1)).any()
  assert len({tuple(row) for row in whole}) > 1


def test_random_is_uniform_over_subsets():
  got = np.asarray(
    select("random", 2, {}, jnp.ones((3000, 4), bool), keys(3000))
  )
  assert (got[:, 0] != got[:, 1]).all()
  counts = np.bincount(got[:, 0] * 4 + got[:, 1], minlength=16)
  counts = counts[counts > 0]
  assert len(counts) == 12
  expected = 3000 / 12
  # 99.9 % quantile of chi-square with 11 degrees of freedom is 31.3.
  assert ((counts - expected) ** 2 / expected).sum() < 31.3


def test_a_missing_score_is_named():
  scores, finished = random_scores(0)
  with pytest.raises(ValueError, match=r"'mi'.*\['likelihood'\]"):
    choose("mi", 2, None, finished, likelihood=scores)
