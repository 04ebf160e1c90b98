import dataclasses
import json
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats

from mirl_jax import statistics as st
from mirl_jax.screening import figures as fig
from mirl_jax.screening.observe import Observed

SEEDS = range(4)


def observed(scores, correct, exact=None, length=None, group=None, kind=None):
  """Everything finished, of one length and one kind unless told."""
  q, n = correct.shape
  return Observed(
    scores={"likelihood, mean": np.zeros((q, n)), **scores},
    length=np.full((q, n), 5.0) if length is None else length,
    finished=np.ones((q, n), bool),
    exact=np.full((q, n), np.nan) if exact is None else exact,
    correct=correct,
    category=np.array([""] * q if kind is None else kind),
    group=np.arange(q) if group is None else group,
  )


def labels(rng, q=40, n=6):
  return (rng.random((q, n)) < 0.5).astype(float)


@pytest.mark.parametrize("seed", SEEDS)
def test_with_one_outcome_of_each_it_is_the_usual_auc(seed):
  rng = np.random.default_rng(seed)
  share = labels(rng)
  scores = rng.integers(0, 4, share.shape).astype(float)  # many ties
  scores[rng.random(share.shape) < 0.1] = np.nan
  got = fig.figure(fig.pair_auc(scores, share), np.arange(len(share)))
  wanted = st.within_group_auc(
    scores.reshape(-1), share.reshape(-1), np.repeat(np.arange(40), 6)
  )
  assert got["mean"] == pytest.approx(wanted.mean)
  assert got["se"] == pytest.approx(wanted.error)
  assert got["questions"] == wanted.count


@pytest.mark.parametrize("seed", SEEDS)
def test_it_counts_pairs_of_outcomes_of_different_nodes(seed):
  rng = np.random.default_rng(seed)
  outcomes = rng.random((7, 4, 3)) < 0.5
  scores = rng.integers(0, 3, (7, 4)).astype(float)
  got = fig.pair_auc(scores, outcomes.mean(-1))
  for q in range(7):
    wins = [
      float(np.sign(scores[q, i] - scores[q, j]) + 1) / 2
      for i in range(4)
      for j in range(4)
      for a in outcomes[q, i]
      for b in outcomes[q, j]
      if i != j and a and not b
    ]
    assert got[q] == pytest.approx(np.mean(wins))


def test_more_outcomes_estimate_the_same():
  """Nodes that are right half of the time or always, told apart by a score."""
  rng = np.random.default_rng(0)
  good = rng.random((4000, 5)) < 0.5
  chance = np.where(good, 0.9, 0.3)
  score = good + rng.normal(size=good.shape)
  found = []
  for outcomes in (1, 6):
    share = rng.binomial(outcomes, chance) / outcomes
    auc = fig.pair_auc(score, share)
    found.append(fig.figure(auc, np.arange(len(auc))))
  one, many = found
  assert one["mean"] == pytest.approx(many["mean"], abs=4 * one["se"])
  assert many["se"] < one["se"]


def test_the_target_itself_its_opposite_and_chance():
  rng = np.random.default_rng(1)
  share = labels(rng, 500)
  groups = np.arange(500)
  assert fig.figure(fig.pair_auc(share, share), groups)["mean"] == 1
  assert fig.figure(fig.pair_auc(-share, share), groups)["mean"] == 0
  chance = fig.figure(fig.pair_auc(rng.random(share.shape), share), groups)
  assert abs(chance["mean"] - 0.5) < 4 * chance["se"]
  assert chance["se"] < 0.02


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_a_planted_separation_has_its_closed_form(shift):
  """Normal scores a shift apart: AUC = Φ(shift / √2)."""
  rng = np.random.default_rng(2)
  share = labels(rng, 3000)
  score = shift * share + rng.normal(size=share.shape)
  got = fig.figure(fig.pair_auc(score, share), np.arange(3000))
  wanted = NormalDist().cdf(shift / 2**0.5)
  assert got["mean"] == pytest.approx(wanted, abs=4 * got["se"])


def test_a_truncated_node_ranks_last_and_an_unscored_question_says_nothing():
  nan = np.nan
  scores = np.array([[nan, -9.0], [nan, nan], [1.0, 2.0]])
  share = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
  np.testing.assert_array_equal(fig.pair_auc(scores, share), [1, nan, nan])
  unknown = np.array([[nan, nan], [0.0, 1.0], [nan, nan]])
  assert np.isnan(fig.pair_auc(scores, unknown)).all()
  kept, rest = fig.selected(scores, share, 1)
  np.testing.assert_array_equal(kept, [1, nan, 1])
  np.testing.assert_array_equal(rest, [0, nan, 1])


def test_the_best_are_chosen_as_a_keep_chooses():
  scores = np.array([[1.0, 3.0, 3.0, 2.0]])
  share = np.array([[0.1, 0.2, 0.4, 0.8]])
  for k, wanted in ((1, 0.2), (2, 0.3), (3, 1.4 / 3)):
    kept, rest = fig.selected(scores, share, k)
    assert kept[0] == pytest.approx(wanted)
    assert rest[0] == pytest.approx((1.5 - k * wanted) / (4 - k))
  for k in (0, 4):
    with pytest.raises(ValueError, match="no rest"):
      fig.selected(scores, share, k)


def test_length_is_taken_out_of_a_score():
  rng = np.random.default_rng(3)
  share = labels(rng, 300)
  length = rng.integers(5, 40, share.shape).astype(float)
  offset = rng.normal(size=(300, 1))  # of a question: no ranking sees it
  score = share + 3 * length + 50 * offset
  score[:, 0] = np.nan
  before = np.nanmean(fig.pair_auc(score, share))
  after = np.nanmean(
    fig.pair_auc(fig.length_removed(score, length)[:, 1:], share[:, 1:])
  )
  assert before < 0.6
  assert after > 0.95
  # Nothing is left of what length alone says, but of a score beside it, all.
  assert np.isnan(fig.length_removed(7 - 0.3 * length, length)).all()
  flat = np.full_like(length, 9.0)
  left = fig.length_removed(share, flat)
  np.testing.assert_array_equal(
    fig.pair_auc(left, share), fig.pair_auc(share, share)
  )


def test_the_correlation_with_length_is_within_questions():
  rng = np.random.default_rng(4)
  length = rng.integers(1, 9, (5, 7)).astype(float)
  score = length + rng.normal(size=length.shape) - 100 * length.mean(1)[:, None]
  score[0, 2] = np.nan
  length[4] = 3  # no spread
  got = fig.length_correlation(score, length)
  heard = ~np.isnan(score[0])
  wanted = scipy.stats.spearmanr(score[0][heard], length[0][heard]).statistic
  assert got[0] == pytest.approx(wanted)
  assert np.isnan(got[4])
  assert (got[:4] > 0).all()


def test_errors_are_clustered_by_group():
  rng = np.random.default_rng(5)
  share = labels(rng, 60)
  score = share + rng.normal(size=share.shape)
  once = fig.screening_figures(observed({"s": score}, share), 2)
  twice = {"s": np.repeat(score, 2, 0)}, np.repeat(share, 2, 0)
  grouped = fig.screening_figures(
    observed(*twice, group=np.repeat(np.arange(60), 2)), 2
  )
  alone = fig.screening_figures(observed(*twice), 2)
  for path in (("auc",), ("kept", "difference"), ("first", "selected")):
    found = []
    for record in (once, grouped, alone):
      part = record["scores"]["s"]["correct"]
      for name in path:
        part = part[name]
      found.append(part)
    assert len({round(part["mean"], 9) for part in found}) == 1
    assert found[1]["se"] == pytest.approx(found[0]["se"])
    assert found[2]["se"] == pytest.approx(found[0]["se"] / 2**0.5, rel=0.02)
  assert (grouped["questions"], grouped["groups"]) == (120, 60)


def test_a_paired_difference_knows_that_two_scores_agree():
  rng = np.random.default_rng(6)
  share = labels(rng, 200)
  likelihood = share + rng.normal(size=share.shape)
  better = likelihood + 0.5 * share
  record = fig.screening_figures(
    observed({"likelihood, mean": likelihood, "better": better}, share), 2
  )
  of = record["scores"]["better"]["correct"]
  gain = of["auc_over_likelihood"]
  base = record["scores"]["likelihood, mean"]["correct"]["auc"]
  assert gain["mean"] == pytest.approx(of["auc"]["mean"] - base["mean"])
  assert gain["se"] < 0.6 * base["se"]


def test_kinds_of_question_are_told_apart():
  rng = np.random.default_rng(7)
  share = labels(rng, 80)
  kind = np.array(["up", "down"] * 40)
  score = np.where(kind[:, None] == "up", share, -share)
  record = fig.screening_figures(observed({"s": score}, share, kind=kind), 2)
  found = record["scores"]["s"]["correct"]["by_category"]
  assert (found["up"]["mean"], found["down"]["mean"]) == (1, 0)
  whole = record["scores"]["s"]["correct"]["auc"]["questions"]
  assert found["up"]["questions"] + found["down"]["questions"] == whole


def test_no_figure_without_contrast():
  """A constant score, a target without both kinds, or one that is unknown."""
  rng = np.random.default_rng(8)
  share = labels(rng)
  nothing = {"mean": None, "se": None, "questions": 0}
  record = fig.screening_figures(
    observed({"flat": np.ones_like(share)}, share, np.ones_like(share)), 2
  )
  for target in ("exact", "correct"):
    flat = record["scores"]["flat"][target]
    assert flat["auc"] == flat["first"]["difference"] == nothing
  chance = record["scores"]["random"]
  assert chance["exact"]["auc"] == chance["exact"]["kept"]["rest"] == nothing
  assert chance["correct"]["auc"]["questions"] > 30
  assert chance["length_correlation"] == nothing  # of one length
  assert record["targets"]["exact"]["contrast"] == 0
  unknown = fig.screening_figures(observed({}, share), 2)
  assert list(unknown["targets"]) == ["correct"]
  assert "exact" not in unknown["scores"]["random"]
  assert "oracle" not in unknown["scores"]
  json.dumps(unknown, allow_nan=False)


def test_questions_without_an_answer_are_left_out_of_that_target_alone():
  rng = np.random.default_rng(9)
  share, exact = labels(rng), labels(rng)
  share[:30] = np.nan
  data = observed({"s": exact}, share, exact)
  record = fig.screening_figures(data, 2)
  assert record["targets"]["correct"]["questions"] == 10
  assert record["targets"]["exact"]["questions"] == 40
  of = record["scores"]["s"]
  assert of["exact"]["auc"]["mean"] == 1
  assert of["exact"]["auc"]["questions"] > of["correct"]["auc"]["questions"] > 0


def test_bounds_rank_what_is_truncated_last_too():
  rng = np.random.default_rng(10)
  share = labels(rng, 50)
  data = observed({}, share, share)
  data = dataclasses.replace(data, finished=rng.random(share.shape) < 0.5)
  made = fig.with_bounds(data, 0)
  for name in ("random", "oracle"):
    np.testing.assert_array_equal(np.isnan(made[name]), ~data.finished)
  assert (made["random"] != fig.with_bounds(data, 1)["random"]).any()


def test_one_description_is_no_screening():
  with pytest.raises(ValueError, match="raise the fanout"):
    fig.screening_figures(observed({}, np.ones((5, 1))), 1)
