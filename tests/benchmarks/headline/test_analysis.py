import numpy as np
import pytest
from scipy import stats

from benchmarks.headline import analysis


def row(arm, seed, sampled, greedy=0.5, lr=1e-4, **more):
  at = {
    "sampled_accuracy": sampled,
    "greedy_accuracy": greedy,
    "sampled_exact": 0.0,
    "greedy_exact": 0.0,
    **dict.fromkeys(analysis.COSTS, 10.0),
  }
  return {
    "arm": arm,
    "seed": seed,
    "lr": lr,
    "trajectories_per_question": 6,
    "out_of_budget": [],
    "at": {"tokens": at},
    **more,
  }


@pytest.mark.parametrize("seed", range(3))
def test_intervals_are_students(seed):
  values = np.random.default_rng(seed).normal(size=5)
  found = analysis.interval(list(values))
  low, high = stats.t.interval(
    0.95, 4, loc=values.mean(), scale=stats.sem(values)
  )
  assert found["mean"] == pytest.approx(values.mean(), abs=1e-4)
  assert found["half_width"] == pytest.approx((high - low) / 2, abs=1e-4)
  assert analysis.interval([0.5]) == {"mean": 0.5, "half_width": None}


@pytest.mark.parametrize("seed", range(3))
def test_differences_are_paired(seed):
  one, two = np.random.default_rng(seed).normal(size=(2, 6))
  found = analysis.paired(one, two)
  assert found["p"] == pytest.approx(stats.ttest_rel(one, two).pvalue)
  # What seeds share cancels.
  shared = np.arange(6) * 10.0
  again = analysis.paired(one + shared, two + shared)
  assert again["p"] == pytest.approx(found["p"])
  assert analysis.paired([0.5, 0.5], [0.5, 0.5])["p"] == 1.0
  assert analysis.paired([0.5], [0.4])["p"] is None


def test_the_best_rival_is_beaten_only_where_all_are():
  good = {"mean": 0.1, "half_width": 0.01, "p": 0.001}
  close = {"mean": 0.02, "half_width": 0.01, "p": 0.04}
  lost = {"mean": -0.1, "half_width": 0.01, "p": 0.001}
  found = analysis.lead({"grpo-4": good, "grpo-8": close})
  assert found == {"closest": "grpo-8", "mean": 0.02, "p": 0.04}
  found = analysis.lead({"grpo-4": good, "grpo-8": lost})
  assert found["closest"] == "grpo-8"
  assert found["p"] == 1.0  # a significant loss is no lead


def test_a_rate_is_chosen_by_the_mean():
  rows = [
    row("a", 0, 0.9, lr=1e-4),
    row("a", 1, 0.5, lr=1e-4),
    row("a", 0, 0.8, lr=2e-4),
    row("a", 1, 0.7, lr=2e-4),
  ]
  assert analysis.best_rate(rows) == 2e-4
  # A gain of the sample that the single best answer pays for is none.
  sharp = [row("a", 0, 0.6, 0.9, lr=1e-4), row("a", 0, 0.65, 0.8, lr=2e-4)]
  assert analysis.best_rate(sharp) == 1e-4
  # Of equal ones the smaller.
  assert analysis.best_rate([row("a", 0, 0.5, lr=x) for x in (3, 1, 2)]) == 1


def test_tables_and_differences_go_by_seed():
  rows = [
    row("mirl-10-6-1", 1, 0.8),
    row("mirl-10-6-1", 0, 0.6),
    row("grpo-4", 0, 0.5),
    row("grpo-4", 1, 0.6),
    row("grpo-8", 0, 0.55),
    row("grpo-8", 1, 0.75),
  ]
  table = analysis.table(rows, "tokens")
  assert table["mirl-10-6-1"]["seeds"] == [0, 1]
  assert table["mirl-10-6-1"]["sampled_accuracy"]["mean"] == 0.7
  found = analysis.differences(rows, "tokens")
  assert set(found) == {"mirl-10-6-1"}
  sampled = found["mirl-10-6-1"]["sampled_accuracy"]
  assert sampled["against"]["grpo-4"]["mean"] == 0.15
  assert sampled["every"]["closest"] == "grpo-8"
  with pytest.raises(ValueError, match="finish the same ones"):
    analysis.differences(rows[:-1], "tokens")
