import numpy as np
import pytest

from mirl_jax.rewards.assess import Assessed
from mirl_jax.train import reward_metrics


def read(**rewards):
  values = {k: np.array(v, np.float32)[None] for k, v in rewards.items()}
  return Assessed(texts=[], paths=[], parsed=[], rewards=values)


def test_reward_metrics_leave_out_what_abstains():
  nan = float("nan")
  found = reward_metrics(
    ("describe", "reason"),
    [
      read(exact=[[1.0, 0.0, nan, 0.0]]),
      read(correct=[[1.0], [nan]], exact=[[nan], [nan]]),
    ],
  )
  assert found == {
    "reward/correct": 1.0,
    "reward/verified": 0.5,
    "reward/exact/describe": pytest.approx(1 / 3),
  }
