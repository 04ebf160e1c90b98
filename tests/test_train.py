import numpy as np
import pytest

from mirl_jax.train import reward_metrics


def array(values):
  return np.array(values, np.float32)[None]


def test_reward_metrics_leave_out_what_abstains():
  nan = float("nan")
  rewards = {
    "describe": {
      "exact": array([[1.0, 0.0, nan, 0.0]]),
      "own": array([[0.5, nan, nan, 1.5]]),
      "own_failed": array([[0.0, 1.0, 1.0, 0.0]]),
    },
    "reason": {
      "correct": array([[1.0], [nan]]),
      "exact": array([[nan], [nan]]),
      "own/a": array([[2.0], [nan]]),
      "own_failed": array([[0.0], [1.0]]),
    },
  }
  assert reward_metrics(("describe", "reason"), rewards) == {
    "reward/correct": 1.0,
    "reward/verified": 0.5,
    "reward/exact/describe": pytest.approx(1 / 3),
    "reward/own/describe": 1.0,
    "reward/own/a": 2.0,
  }
