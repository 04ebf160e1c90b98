import math

import pytest

from mirl_jax.diagnostics import Start, tag_warning, warnings

START = Start(length={"see": 10.0, "think": 30.0}, exact=0.8)


def test_all_is_well():
  metrics = {
    "length/see": 12.9,
    "length/think": 60.0,  # reasonings follow the questions
    "mi/auc_correct": 0.7,
    "eval/greedy/exact": 0.78,
  }
  assert warnings(START, 50, metrics) == {}
  assert warnings(START, 50, {}) == {}


@pytest.mark.parametrize("now", [6.9, 13.1])
def test_description_length_moving_by_a_third(now):
  found = warnings(START, 0, {"length/see": now})
  assert list(found) == ["warn/length/see"]
  assert f"10.0 to {now}" in found["warn/length/see"]


@pytest.mark.parametrize(
  ("auc", "step", "warns"),
  [(0.49, 10, True), (0.49, 9, False), (0.51, 50, False)],
)
def test_auc_at_chance_after_some_steps(auc, step, warns):
  found = warnings(START, step, {"mi/auc_correct": auc})
  assert ("warn/auc" in found) == warns


@pytest.mark.parametrize(
  ("exact", "error", "warns"),
  [
    (0.78, 0.0, False),  # within .03
    (0.76, 0.0, True),
    (0.76, 0.03, False),  # within two standard errors
    (0.70, 0.03, True),
  ],
)
def test_greedy_exactness_falling(exact, error, warns):
  metrics = {"eval/greedy/exact": exact, "eval/greedy/exact_se": error}
  assert ("warn/exact" in warnings(START, 5, metrics)) == warns


@pytest.mark.parametrize(("share", "warns"), [(0.49, True), (0.5, False)])
def test_few_verdicts(share, warns):
  found = warnings(START, 1, {"reward/verified": share})
  assert ("warn/verified" in found) == warns


def test_without_a_checker_exactness_never_warns():
  start = Start({"see": 10.0}, math.nan)
  assert warnings(start, 5, {"eval/greedy/exact": 0.0}) == {}


def test_tag_rate():
  assert tag_warning(0.5) is None
  sentence = tag_warning(0.49)
  assert sentence is not None
  assert "49%" in sentence
  assert "--mode=sft" in sentence


def test_a_reward_that_no_node_has_pays_nothing():
  heard = {"heard/own/reason": 0.01, "heard/own/a/describe": 0.0}
  found = warnings(START, 0, heard)
  assert list(found) == ["warn/heard/own/a/describe"]
  (sentence,) = found.values()
  assert sentence.startswith("no node has a value of own/a/describe")
