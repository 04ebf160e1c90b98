"""Verifiers of a count, an exact span of text, and JSON by key."""

import json
import re
from collections import Counter
from fractions import Fraction
from typing import Any

from mirl_jax.data.example import Example
from mirl_jax.rewards.numbers import read_number
from mirl_jax.rewards.sets import same_member
from mirl_jax.rewards.verdict import Verdict

_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)
MAX_DEPTH = 50


def count_verifier(prediction: str, example: Example) -> Verdict:
  """The same whole number; the score falls with the relative error."""
  expected, given = read_number(example.answer), read_number(prediction)
  if expected is None or expected.value.denominator != 1 or expected.value < 0:
    return Verdict(False, "the reference is no count")
  if given is None:
    return Verdict(False, "does not give one number", 0.0)
  error = abs(given.value - expected.value)
  if error == 0:
    return Verdict(True, "same count", 1.0)
  relative = error / (expected.value or Fraction(1))
  return Verdict(False, "another count", float(max(1 - relative, Fraction(0))))


def span_verifier(prediction: str, example: Example) -> Verdict:
  """The same characters, white space apart; the score is the F1 of words.

  The F1 is SQuAD's (arXiv 1606.05250), case and punctuation kept.
  """
  given, expected = prediction.split(), example.answer.split()
  if given == expected:
    return Verdict(True, "same span", 1.0)
  shared = (Counter(given) & Counter(expected)).total()
  score = 2 * shared / (len(given) + len(expected))
  return Verdict(False, "another span", score)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  keys = [key for key, _ in pairs]
  if len(set(keys)) < len(keys):
    raise ValueError("a key is given twice")
  return dict(pairs)


def _no_constant(name: str) -> None:
  raise ValueError(f"{name} is no JSON")


def read_json(text: str) -> Any:
  """The one JSON value in a text, with or without a code fence around it.

  Raises:
    ValueError: where it is none, gives a key twice, has NaN or infinity, or
      nests too deep; in one line.
  """
  fenced = _FENCE.fullmatch(text)
  text = fenced[1] if fenced else text
  depth = deepest = 0
  for char in text:
    depth += (char in "[{") - (char in "]}")
    deepest = max(deepest, depth)
  if deepest > MAX_DEPTH:
    raise ValueError(f"nests deeper than {MAX_DEPTH}")
  return json.loads(
    text, object_pairs_hook=_unique, parse_constant=_no_constant
  )


def _leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple, Any]:
  """Every leaf by its path; an empty list or object is a leaf."""
  if isinstance(value, dict) and value:
    pairs = list(value.items())
  elif isinstance(value, list) and value:
    pairs = [(f"[{i}]", one) for i, one in enumerate(value)]
  else:
    return {path: value}
  found: dict[tuple, Any] = {}
  for key, inside in pairs:
    found |= _leaves(inside, (*path, key))
  return found


def _same_leaf(given: Any, expected: Any) -> bool:
  if isinstance(given, bool) or isinstance(expected, bool):
    return given is expected
  simple = (str, int, float)
  if isinstance(given, simple) and isinstance(expected, simple):
    return same_member(str(given), str(expected))
  return given == expected


def json_verifier(prediction: str, example: Example) -> Verdict:
  """The same keys with the same values; the score is the share of leaves.

  Values are compared as numbers or as normalised texts; leaves that only one
  side has count as wrong.
  """
  try:
    expected = _leaves(read_json(example.answer))
  except ValueError as error:
    return Verdict(False, f"the reference is no JSON: {error}")
  try:
    given = _leaves(read_json(prediction))
  except ValueError as error:
    return Verdict(False, f"no JSON: {error}", 0.0)
  wrong = [
    path
    for path in expected.keys() | given.keys()
    if path not in expected
    or path not in given
    or not _same_leaf(given[path], expected[path])
  ]
  if not wrong:
    return Verdict(True, "same JSON", 1.0)
  score = 1 - len(wrong) / len(expected.keys() | given.keys())
  where = ".".join(map(str, min(wrong))) or "the whole"
  return Verdict(False, f"{len(wrong)} differ, as {where[:80]}", score)
