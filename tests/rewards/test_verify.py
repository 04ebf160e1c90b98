"""Verdicts by answer type; agreement with others' is a benchmark's test."""

import random
import time

import pytest

from mirl_jax.data.example import Example
from mirl_jax.rewards.texts import MAX_CHARS, normalise
from mirl_jax.rewards.verdict import Ask, Verdict
from mirl_jax.rewards.verify import (
  VERIFIERS,
  read_letters,
  read_polarity,
  reference_fault,
  verify,
  verify_all,
)


def example(answer: str, answer_type: str, options: tuple[str, ...] = ()):
  return Example("x", (), "?", answer, answer_type, options)


ABC = ("red", "green", "blue")
SIZES = ("10 cm", "12 cm", "1.5 m")

CASES = [
  ("number", "4", (), "four", True),
  ("number", "4", (), "the answer is 4.", True),
  ("number", "4", (), "5", False),
  ("number", "4", (), "4 or 5", False),
  ("number", "140°", (), "140", True),
  ("yes_no", "yes", (), "Yes.", True),
  ("yes_no", "yes", (), "true", True),
  ("yes_no", "false", (), "No, it is not red.", True),
  ("yes_no", "no", (), "yes", False),
  ("yes_no", "no", (), "yes and no", False),
  ("yes_no", "no", (), "it is not true", False),
  ("yes_no", "yes", (), "perhaps", False),
  ("choice_letter", "B", ABC, "B", True),
  ("choice_letter", "B", ABC, "(b)", True),
  ("choice_letter", "B", ABC, "B. green", True),
  ("choice_letter", "B", ABC, "Green", True),
  ("choice_letter", "B", ABC, "The answer is B.", True),
  ("choice_letter", "B", ABC, "option (B)", True),
  ("choice_letter", "B", ABC, "A", False),
  ("choice_letter", "B", ABC, "B. red", False),
  ("choice_letter", "B", ABC, "A or B", False),
  ("choice_letter", "B", ABC, "A, B", False),
  ("choice_letter", "B", ABC, "A B C", False),
  ("choice_letter", "B", ABC, "A) red B) green", False),
  ("choice_letter", "B", ABC, "is it a or B", False),
  ("choice_letter", "B", SIZES, "12cm", True),
  ("choice_letter", "B", SIZES, "12 centimetres", True),
  ("choice_letter", "B", SIZES, "12 m", False),
  ("choice_letter", "B", (), "B", True),
  ("choice_letter", "B", ABC, "D", False),
  ("choice_letter", "B", ABC, "\\boxed{\\text{(B)}}", True),
  ("choice_letter", "a,c", ABC, "C and A", True),
  ("choice_letter", "a,c", ABC, "(A), (C)", True),
  ("choice_letter", "a,c", ABC, "A", False),
  ("choice_letter", "a,c", ABC, "a, b, c", False),
  ("choice_text", "green", ABC, "the green.", True),
  ("choice_text", "green", ABC, "B", True),
  ("choice_text", "green", ABC, "(B) green", True),
  ("choice_text", "green", ABC, "red", False),
  ("choice_text", "green", ABC, "red green", False),
  ("choice_text", "green", (), "green", True),
  ("choice_text", "4", ("6", "4"), "four", True),
  ("choice_text", "4", ("6", "4"), "6", False),
  ("choice_text", "b", ("b", "a"), "a", False),
  ("choice_text", "b", ("b", "a"), "b", True),
  ("choice_text", "true", ("true", "false"), "yes", True),
  ("choice_text", "true", ("true", "false"), "no", False),
  ("choice_text", "No", ("Yes", "No"), "False", True),
  ("text", "The Two  circles", (), "2 circles.", True),
  ("text", "CE", (), "ce", True),
  ("text", "CE", (), "EC", False),
  ("text", "275", (), "275.0", False),
  ("free_form", "60", (), "$60$", True),
  ("free_form", "6.5", (), "13/2", True),
  ("free_form", "1+\\sqrt{3}", (), "$1 + \\sqrt{3}$", True),
  ("free_form", "1+\\sqrt{3}", (), "1", False),
  ("free_form", "22", (), "22+4\\sqrt{3}", False),
]


@pytest.mark.parametrize(
  ("answer_type", "answer", "options", "prediction", "right"), CASES
)
def test_verdicts(answer_type, answer, options, prediction, right):
  verdict = verify(prediction, example(answer, answer_type, options))
  assert verdict.correct is right, verdict.reason
  assert verdict.reason


@pytest.mark.parametrize("answer_type", VERIFIERS)
def test_silence_is_wrong_and_the_reference_is_right(answer_type):
  known = {"yes_no": "yes", "choice_letter": "A", "choice_text": "red"}
  known |= dict.fromkeys(("box", "detection"), "[[1, 2, 30, 40]]")
  known |= {"point": "[[1, 2], [30, 40]]", "interval": "[0, 1)"}
  item = example(known.get(answer_type, "7"), answer_type, ABC)
  assert verify(item.answer, item).correct
  for silence in (None, "", " \n"):
    assert not verify(silence, item).correct
  assert not verify(item.answer, example("", answer_type)).correct


def test_unknown_types_and_overlong_answers_are_wrong_with_a_reason():
  verdict = verify("7", example("7", "numbr"))
  assert not verdict.correct
  assert "numbr" in verdict.reason
  assert "longer" in verify("7" * (MAX_CHARS + 1), example("7", "text")).reason


def test_normalise_and_small_readers():
  assert normalise(" The  TWO circles! ") == "2 circles"
  assert normalise("\uff15") == "5"
  assert read_polarity("No, it is not") is False
  assert read_polarity("true or false") is None
  assert read_letters("A,c") == {0, 2}
  assert read_letters("A and cat") is None
  assert read_letters("") is None


HOSTILE = [
  "9**9**9**9",
  "((((" * 900,
  "A, " * 1300,
  "1 " * 1900,
  "-" * 3900,
  "=" * 3900,
  "$" * 3900,
  "1,000" * 700,
  "\\frac{1}{0}",
  "\ud800",
  "\0",
  "answer" * 600,
  "option is is is " * 200,
  "nan",
  "1e99",
  "٣",
  "Ⅷ",
  "not " * 900,
]


@pytest.mark.parametrize("answer_type", VERIFIERS)
def test_hostile_answers_get_a_quick_verdict(answer_type):
  rng = random.Random(0)
  pieces = [*"aAbc019.,/-+$%()[]{}\\^=* \n", "and", "answer is ", "B)", "two"]
  texts = HOSTILE + [
    "".join(rng.choices(pieces, k=rng.randint(1, 30))) for _ in range(300)
  ]
  for answer, options in [("A", ABC), ("12", SIZES), ("red", ABC)]:
    item = example(answer, answer_type, options)
    for text in texts:
      start = time.process_time()
      said = VERIFIERS[answer_type](text, item)
      # A backtracking pattern would take seconds on these lengths.
      assert time.process_time() - start < 0.5
      assert isinstance(said, Ask | Verdict)


def test_listing_every_option_never_scores():
  for answer in "ABC":
    item = example(answer, "choice_letter", ABC)
    for text in ("A B C", "A, B, C", "A/B/C", "red green blue", "any of them"):
      assert not verify(text, item).correct


def test_a_batch_is_what_each_is_alone():
  pairs = [
    (prediction, example(answer, kind, options))
    for kind, answer, options, prediction, _ in CASES
  ]
  assert verify_all(pairs) == [verify(*pair) for pair in pairs]
  assert verify_all([]) == []


@pytest.mark.parametrize(
  ("answer_type", "good", "bad"),
  [
    ("box", "[1, 2, 30, 40]", "the left one"),
    ("detection", '[{"bbox": [1, 2, 3, 4], "label": "cat"}]', "[1, 2, 3]"),
    ("point", "[[1, 2, 30, 40]]", "[1]"),
    ("point", "(1, 2)", "there"),
    ("list", "1, 2", "(1, 2"),
    ("set", "{1}", "]"),
    ("count", "4", "many"),
    ("json", '{"a": 1}', "{a: 1}"),
    ("text", "anything", None),
    ("interval", "anything", None),
  ],
)
def test_a_reference_of_another_form_is_a_fault(answer_type, good, bad):
  assert reference_fault(good, answer_type) == ""
  if bad is not None:
    assert reference_fault(bad, answer_type).startswith("the reference")
