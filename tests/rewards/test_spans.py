"""Counts, spans and JSON."""

import json
import random

import pytest

from mirl_jax.data.example import Example
from mirl_jax.rewards.spans import read_json
from mirl_jax.rewards.verify import verify


def judge(kind, answer, prediction):
  return verify(prediction, Example("x", (), "?", answer, kind))


@pytest.mark.parametrize(
  ("answer", "prediction", "right", "score"),
  [
    ("4", "four", True, 1.0),
    ("4", "4 circles", True, 1.0),
    ("4", "5", False, 0.75),
    ("4", "40", False, 0.0),
    ("0", "1", False, 0.0),
    ("4", "3 or 4", False, 0.0),
    ("4", "4.5", False, 0.875),
    ("4.5", "4.5", False, None),
  ],
)
def test_counts(answer, prediction, right, score):
  verdict = judge("count", answer, prediction)
  assert (verdict.correct, verdict.score) == (right, score)


@pytest.mark.parametrize(
  ("answer", "prediction", "right", "score"),
  [
    ("New York", "New  York", True, 1.0),
    ("New York", "new york", False, 0.0),
    ("New York", "New York City", False, 0.8),
    ("New York", "York New", False, 1.0),
    ("a a b", "a b b", False, pytest.approx(2 / 3)),
  ],
)
def test_spans_are_exact_and_scored_by_f1(answer, prediction, right, score):
  verdict = judge("span", answer, prediction)
  assert (verdict.correct, verdict.score) == (right, score)


@pytest.mark.parametrize(
  ("answer", "prediction", "right", "score"),
  [
    ('{"a": 1, "b": "x"}', '{"b": "X", "a": 1.0}', True, 1.0),
    ('{"a": 1, "b": 2}', '{"a": 1}', False, 0.5),
    ('{"a": 1}', '{"a": 1, "b": 2}', False, 0.5),
    ('{"a": {"b": [1, 2]}}', '{"a": {"b": [1, 3]}}', False, 0.5),
    ('{"a": true}', '{"a": 1}', False, 0.0),
    ('{"a": []}', '{"a": []}', True, 1.0),
    ('{"a": 1}', '```json\n{"a": 1}\n```', True, 1.0),
    ('{"a": 1}', '{"a": 2, "a": 1}', False, 0.0),
    ('{"a": 1}', '{"a": NaN}', False, 0.0),
    ('{"a": 1}', "[" * 3000, False, 0.0),
    ('{"a": 1}', '{"a": ' + "9" * 3900 + "}", False, 0.0),
    ("{", "{", False, None),
  ],
)
def test_json_by_key(answer, prediction, right, score):
  verdict = judge("json", answer, prediction)
  assert (verdict.correct, verdict.score) == (right, score), verdict.reason


def _value(rng, depth):
  kind = rng.randrange(5 if depth else 3)
  if kind == 0:
    return rng.choice(["red", "blue", "x y"])
  if kind == 1:
    return rng.randint(0, 99)
  if kind == 2:
    return rng.choice([True, False, None])
  inside = [_value(rng, depth - 1) for _ in range(rng.randint(0, 3))]
  return inside if kind == 3 else {f"k{i}": x for i, x in enumerate(inside)}


def test_any_json_equals_itself_and_nothing_with_a_leaf_changed():
  rng = random.Random(0)
  for _ in range(200):
    value = {"first": _value(rng, 3), "last": 1}
    text = json.dumps(value)
    assert judge("json", text, json.dumps(value, indent=2)).correct
    assert read_json(text) == value
    changed = judge("json", text, json.dumps(value | {"last": 2}))
    assert not changed.correct
    assert 0 <= changed.score < 1
    assert "last" in changed.reason
