"""Lists, sets and intervals, against Python's own and random points."""

import itertools
import random
from fractions import Fraction

import pytest

from mirl_jax.data.example import Example
from mirl_jax.rewards.sets import Interval, members, read_intervals
from mirl_jax.rewards.verify import verify


def judge(kind, answer, prediction):
  return verify(prediction, Example("x", (), "?", answer, kind))


@pytest.mark.parametrize(
  ("kind", "answer", "prediction", "right"),
  [
    ("list", "1, 2, 3", "[1, 2, 3]", True),
    ("list", "1, 2, 3", "1; 2; 3", True),
    ("list", "1, 2, 3", "3, 2, 1", False),
    ("list", "1, 2, 3", "1, 2, 3, 4", False),
    ("list", '["red", "blue"]', "Red and blue", True),
    ("list", "(1,2), (3,4)", "(1,2), (3,4)", True),
    ("list", "1/2, 1", "0.5, 1.0", True),
    ("list", "1, 2", "", False),
    ("list", "1, 2", "(1, 2", False),
    ("list", "\\sqrt{4}, 1", "2, 1", True),
    ("set", "1, 2, 3", "{3, 1, 2}", True),
    ("set", "1, 2, 3", "\\{3, 1, 2, 2\\}", True),
    ("set", "1, 2, 3", "1, 2", False),
    ("set", "1, 2", "1, 2, 3, 4, 5", False),
    ("set", "red, blue", "the blue and the red", True),
    ("set", "1, 2", "x = 1 or x = 2", True),
    ("set", "\\frac{1+\\sqrt{5}}{2}, 0", "0, (1+\\sqrt{5})/2", True),
    ("interval", "[0, 1)", "$[0,1)$", True),
    ("interval", "[0, 1)", "[0, 1]", False),
    ("interval", "(-\\infty, 2]", "x \\leq 2", True),
    ("interval", "(1, 2]", "1 < x <= 2", True),
    ("interval", "(1, 2]", "2 \\geq x > 1", True),
    ("interval", "x > 5", "(5, ∞)", True),
    ("interval", "(0, 3)", "(0, 1] \u222a (1, 3)", True),
    ("interval", "(0, 3)", "(0, 1) \u222a (1, 3)", False),
    ("interval", "[1, 2]", "[2, 1]", False),
    ("interval", "[0, \\sqrt{2})", "$[0, \\frac{2}{\\sqrt{2}})$", True),
    ("interval", "[0, 1)", "everything", False),
  ],
)
def test_verdicts(kind, answer, prediction, right):
  verdict = judge(kind, answer, prediction)
  assert verdict.correct is right, verdict.reason


def test_scores_are_shares():
  assert judge("list", "1, 2, 3, 4", "1, 2, 4, 3").score == 0.5
  # Three of the union's four.
  assert judge("set", "1, 2, 3", "1, 2, 3, 4").score == 0.75
  # Listing all that may be does not pay.
  every = ", ".join(map(str, range(100)))
  assert judge("set", "1, 2, 3", every).score == pytest.approx(0.03)


def test_sets_agree_with_pythons():
  rng = random.Random(0)
  for _ in range(100):
    left = [rng.randint(0, 5) for _ in range(rng.randint(1, 5))]
    right = [rng.randint(0, 5) for _ in range(rng.randint(1, 5))]
    texts = [", ".join(map(str, x)) for x in (left, right)]
    assert judge("set", *texts).correct is (set(left) == set(right))
    assert judge("list", *texts).correct is (left == right)
    union, shared = set(left) | set(right), set(left) & set(right)
    score = judge("set", *texts).score
    assert score == pytest.approx(len(shared) / len(union))


def _inside(intervals, point):
  return any(
    (one.low < point or (one.low == point and not one.low_open))
    and (point < one.high or (point == one.high and not one.high_open))
    for one in intervals
  )


def test_unions_of_intervals_hold_the_same_points_and_have_one_form():
  rng = random.Random(0)
  for _ in range(400):
    parts = []
    for _ in range(rng.randint(1, 4)):
      low = Fraction(rng.randint(0, 8))
      high = low + rng.randint(1, 4)
      parts.append(Interval(low, rng.random() < 0.5, high, rng.random() < 0.5))
    text = " \u222a ".join(
      f"{'[('[x.low_open]}{x.low}, {x.high}{'])'[x.high_open]}" for x in parts
    )
    found = read_intervals(text)
    for twice in range(0, 28):
      point = Fraction(twice, 2)
      assert _inside(found, point) == _inside(parts, point), text
    for one, other in itertools.pairwise(found):
      gap = one.high < other.low
      assert gap or (one.high == other.low and one.high_open and other.low_open)
    rng.shuffle(parts)
    again = " \\cup ".join(
      f"{'[('[x.low_open]}{x.low}, {x.high}{'])'[x.high_open]}" for x in parts
    )
    assert read_intervals(again) == found


def test_members_keep_brackets_together():
  assert members("(1,2), [3, 4]") == ["(1,2)", "[3, 4]"]
  assert members("{a, b, and c}") == ["a", "b", "c"]
  assert members("x = {1, 2}") == ["1", "2"]
  for broken in ("(1", "1)", "[1)", "," + "1," * 300):
    assert members(broken) is None
