import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from mirl_jax.data.example import Example
from mirl_jax.rewards.own_file import MAX_SIZE, judge, read_score

QUESTIONS = [Example(name, (), "?", "") for name in ("p", "q")]


@pytest.mark.parametrize(
  ("score", "values"),
  [
    (None, {}),
    (0.5, {"": 0.5}),
    (True, {"": 1.0}),
    (-3, {"": -3.0}),
    (np.float32(0.25), {"": 0.25}),
    (np.array(2), {"": 2.0}),
    (Fraction(1, 4), {"": 0.25}),
    (Decimal("0.5"), {"": 0.5}),
    (MAX_SIZE, {"": MAX_SIZE}),
    ({}, {}),
    ({"clear": 1, "short": None}, {"clear": 1.0}),
  ],
)
def test_numbers_and_dicts_of_them_are_scores(score, values):
  assert read_score(score) == (values, "")


@pytest.mark.parametrize(
  ("score", "fault"),
  [
    (math.nan, "returned nan"),
    (math.inf, "returned inf"),
    (-math.inf, "returned -inf"),
    (10**400, "returned inf"),
    (1.1e6, "returned 1.1e\\+06; give .* at most 1e\\+06"),
    ("1", "returned a str; give a number"),
    ([1.0], "returned a list"),
    ((1.0, 2.0), "returned a tuple"),
    (np.array([1.0, 2.0]), "returned a ndarray"),
    (1j, "returned a complex"),
    (object(), "returned a object"),
  ],
)
def test_anything_else_is_a_fault(score, fault):
  values, said = read_score(score)
  assert values == {}
  assert re.match(fault, said)
  # In a dict it costs its own value only, and is named.
  values, said = read_score({"good": 1.0, "bad": score})
  assert values == {"good": 1.0}
  assert said.startswith("bad: returned ")


def test_names_must_be_text():
  values, said = read_score({3: 1.0, "good": 1.0})
  assert values == {"good": 1.0}
  assert said.startswith("3: ")


def test_nodes_are_judged_one_by_one_or_together():
  nodes = (QUESTIONS, ["a", "bb"], [["x"], []])

  def score(example, text, siblings):
    return {"length": len(text), "others": len(siblings), example.id: 1}

  expected = [
    ({"length": 1.0, "others": 1.0, "p": 1.0}, ""),
    ({"length": 2.0, "others": 0.0, "q": 1.0}, ""),
  ]
  assert judge("f.py", score, "score", *nodes) == expected

  def score_batch(examples, texts, siblings):
    return [score(*x) for x in zip(examples, texts, siblings, strict=True)]

  assert judge("f.py", score_batch, "score_batch", *nodes) == expected


@pytest.mark.parametrize("scores", [[1.0], None, 1.0, {"a": 1, "b": 2}, "ab"])
def test_a_batch_needs_a_score_for_each_node(scores):
  nodes = (QUESTIONS, ["a", "bb"], [["x"], []])
  found = judge("f.py", lambda *_: scores, "score_batch", *nodes)
  assert [values for values, _ in found] == [{}, {}]
  assert all(fault for _, fault in found)


def test_memory_is_the_worker_processes_to_judge():
  def score(example, text, siblings):
    raise MemoryError

  with pytest.raises(MemoryError):
    judge("f.py", score, "score", QUESTIONS[:1], ["a"], [[]])
