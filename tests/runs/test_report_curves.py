import math
import re

import numpy as np
import pytest

from mirl_jax.runs import report_curves as curves


def _rows(values, name="x"):
  return [{"step": i, name: v} for i, v in enumerate(values)]


@pytest.mark.parametrize("seed", range(20))
def test_ticks_are_round_inside_and_neither_few_nor_many(seed):
  rng = np.random.default_rng(seed)
  low = float(rng.normal() * 10.0 ** rng.integers(-4, 5))
  high = low + float(rng.uniform(0.1, 1)) * 10.0 ** int(rng.integers(-3, 5))
  marks = curves.ticks(low, high)
  assert 2 <= len(marks) <= 7
  slack = 1e-6 * (high - low)
  assert all(low - slack <= mark <= high + slack for mark in marks)
  gaps = np.diff(marks)
  np.testing.assert_allclose(gaps, gaps[0], rtol=1e-6)
  digit = gaps[0] / 10 ** math.floor(math.log10(gaps[0]) + 1e-9)
  assert min(abs(digit - d) for d in (1, 2, 5)) < 1e-6


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [0.0, 0.0], [-1e9, 1e9]])
def test_flat_and_single_points_are_drawn_inside_the_frame(values):
  drawn = curves.panel("t", [curves.series(_rows(values), "x", "x")])
  line = re.search(r'class="curve" points="([^"]*)"', drawn)[1]
  points = [point.split(",") for point in line.split()]
  assert len(points) == len(values)
  for x, y in points:
    assert curves.LEFT <= float(x) <= curves.WIDTH - curves.RIGHT
    assert curves.TOP <= float(y) <= curves.HEIGHT - curves.BOTTOM
  assert "nan" not in drawn


def test_higher_values_are_drawn_higher_and_later_steps_further_right():
  values = [0.1, 0.5, 0.3]
  drawn = curves.panel("t", [curves.series(_rows(values), "x", "x")])
  line = re.search(r'class="curve" points="([^"]*)"', drawn)[1].split()
  x, y = zip(*(map(float, point.split(",")) for point in line), strict=True)
  assert list(x) == sorted(set(x))
  assert np.argsort(y).tolist() == np.argsort([-v for v in values]).tolist()


def test_non_finite_and_absent_points_are_left_out():
  values = [1.0, float("nan"), 2.0, float("inf"), None, 3.0]
  kept = curves.series(_rows(values), "x", "x")
  assert [(s, v) for s, v, _ in kept.points] == [(0, 1.0), (2, 2.0), (5, 3.0)]
  assert curves.panel("t", [curves.series(_rows([None]), "x", "x")]) == ""


def test_long_runs_are_averaged_and_keep_their_mean():
  values = np.random.default_rng(0).normal(size=48_000)
  points = curves.series(_rows(values.tolist()), "x", "x").points
  assert len(points) <= curves.POINTS
  mean = np.mean([value for _, value, _ in points])
  assert mean == pytest.approx(values.mean(), abs=1e-9)  # bins of equal count


def test_panels_take_what_exists_and_the_rest_is_folded():
  rows = [
    {
      "step": s,
      "eval/greedy/accuracy": 0.5,
      "eval/greedy/accuracy_se": 0.1,
      "eval/sampled/accuracy": 0.25,
      "custom/figure": 1.0,
    }
    for s in range(3)
  ]
  html = curves.plots(rows)
  main, _, folded = html.partition("<details>")
  assert "Accuracy" in main
  assert "greedy" in main
  assert "50.0 %" in main
  assert main.count("<polygon") == 1  # only greedy has a standard error
  assert "Loss" not in html
  assert "custom/figure" in folded
  assert "custom/figure" not in main
  assert "accuracy_se" not in html
