"""The best assignment, against scipy."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from mirl_jax.rewards.assignment import assign


@pytest.mark.parametrize("seed", range(5))
def test_the_total_is_the_largest(seed):
  rng = np.random.default_rng(seed)
  for _ in range(60):
    n, m = rng.integers(1, 9, 2)
    value = rng.normal(size=(n, m))
    if rng.random() < 0.5:
      value = np.round(value)  # ties
    pairs = assign(value)
    rows, columns = zip(*pairs, strict=True)
    assert len(set(rows)) == len(set(columns)) == len(pairs) == min(n, m)
    best = value[linear_sum_assignment(value, maximize=True)].sum()
    assert sum(value[i, j] for i, j in pairs) == pytest.approx(best)


def test_nothing_is_assigned_to_nothing():
  assert assign(np.zeros((0, 3))) == []
  assert assign(np.zeros((2, 0))) == []
