"""Agreement with third-party verdicts, and a hostile corpus."""

import collections
from pathlib import Path

import pytest

from benchmarks.verifiers.agreement import compare, load_cases
from benchmarks.verifiers.hostile import measure
from mirl_jax.rewards.judges import Judges
from mirl_jax.testing_hostile import hostile_answers

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "verifier"

# By file and column, the share that must agree; see `agreement.RULES` for why
# the rest does not.
LEAST = {
  "math_verify_cases": 0.95,
  "math_verify_cases, other settings": 0.9,
  "r1v_rollouts, extracted": 0.97,
  "r1v_rollouts, response": 0.97,
  "mathv_responses, extracted": 0.98,
  "mathv_responses, response": 0.98,
}


def test_agreement_and_every_difference_explained():
  if not DATA.is_dir():
    pytest.skip("third-party verdicts are not here")
  with Judges() as judges:
    for name, cases in load_cases(DATA).items():
      found = compare(cases, judges)
      assert found["agreement"] >= LEAST[name], (name, found)
      assert "unexplained" not in found["differences"], (name, found)


def test_hostile_answers_are_many_different_and_the_same_each_time():
  texts = hostile_answers(1200)
  assert texts == hostile_answers(1200)
  assert texts != hostile_answers(1200, seed=1)
  assert len(set(texts)) > 1000
  kinds = collections.Counter(len(text) > 4000 for text in texts)
  assert kinds[True] > 20


def test_hostile_answers_end_in_time_and_touch_nothing():
  found = measure(count=150, seed=5)
  assert found["correct"] == 0
  assert found["reached_deadline"] <= 1
  assert found["refused_before_sympy"] > 50
  assert found["asked"] > 100
  assert found["longest_answer_s"] < 8
  assert found["worker_answers_after"]
  assert found["tried_and_refused"] == []
  assert found["files_made"] == 0
