"""Answers out of their wrapping, and how they are compared."""

import json
from pathlib import Path

import numpy as np
import pytest

from mirl_jax.data.answer_types import (
  last_boxed,
  read_answer,
  sniff_answer_type,
)
from mirl_jax.data.example import Example
from mirl_jax.rewards.verify import VERIFIERS, verify

BOXED = (
  Path(__file__).parents[2].parent
  / "shared/data/verifier/boxed_solutions.jsonl"
)
LISTED = "Which?\n(A) red\n(B) blue\n(C) green"


@pytest.mark.parametrize(
  ("text", "answer"),
  [
    ("<answer> 3 </answer>", "3"),
    ("<think>1 or 2</think><answer>\n2\n</answer>", "2"),
    ("<answer>1</answer> no, <answer>2</answer>", "2"),
    ("\\boxed{A}", "A"),
    ("<answer>\\boxed{\\frac{1}{2}}</answer>", "\\frac{1}{2}"),
    ("so \\boxed{1}, or rather \\boxed{{2}}", "{2}"),
    ("\\boxed{1", "\\boxed{1"),
    ("  48 ", "48"),
    ("<answer></answer>", ""),
    ("</answer> 3 <answer>", "</answer> 3 <answer>"),
    ("", ""),
  ],
)
def test_wrapping_is_taken_off(text, answer):
  assert read_answer(text) == answer


def test_third_party_solutions_end_in_their_answers():
  if not BOXED.is_file():
    pytest.skip("third-party data is not here")
  rows = [json.loads(line) for line in BOXED.open(encoding="utf-8")]
  rows = [row for row in rows if last_boxed(row["solution"]) is not None]
  same = [
    "".join(read_answer(row["solution"]).split())
    == "".join(str(row["answer"]).split())
    for row in rows
  ]
  assert len(rows) > 100
  assert np.mean(same) > 0.95


@pytest.mark.parametrize(
  ("answer", "options", "question", "kind"),
  [
    ("48", (), "", "number"),
    ("-3.5 cm", (), "", "number"),
    ("50%", (), "", "number"),
    ("1/2", (), "", "number"),
    ("Yes", (), "", "yes_no"),
    ("false", (), "", "yes_no"),
    ("red", (), "", "text"),
    ("two", (), "", "text"),
    ("\\frac{1}{2}", (), "", "free_form"),
    ("x = 5", (), "", "free_form"),
    ("(1, 2)", (), "", "free_form"),
    ("May 5", (), "", "free_form"),
    ("A", (), "", "text"),
    ("A", (), LISTED, "choice_letter"),
    ("A,C", (), LISTED, "choice_letter"),
    ("D", (), LISTED, "text"),
    ("red", (), LISTED, "text"),
    ("B", ("red", "blue"), "", "choice_letter"),
    ("blue", ("red", "blue"), "", "choice_text"),
    ("C", ("red", "blue"), "", "choice_text"),
    ("yes", ("yes", "no"), "", "choice_text"),
    ("", (), "", "text"),
  ],
)
def test_types_by_looks(answer, options, question, kind):
  assert sniff_answer_type(answer, options, question) == kind


def test_whatever_the_type_the_reference_itself_is_right():
  rng = np.random.default_rng(0)
  pieces = ["3", "x", "-", ".", " ", "\\pi", "yes", "A", "$", "(", ")", "km"]
  for _ in range(500):
    answer = "".join(rng.choice(pieces, rng.integers(1, 6))).strip()
    kind = sniff_answer_type(answer)
    assert kind in VERIFIERS
    if kind == "number":
      assert verify(answer, Example("r", (), "?", answer, kind)).correct


def test_long_answers_are_judged_in_no_time():
  for text in (
    "1" * 10**6,
    "1e" * 10**6,
    "\\boxed{" * 10**5,
    "<answer>" * 10**5,
  ):
    assert sniff_answer_type(read_answer(text)) == "free_form"
