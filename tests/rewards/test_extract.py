"""The one final answer of a response, or none."""

import json
import random
import time
from pathlib import Path

import pytest

from mirl_jax.rewards.extract import (
  EXTRACTIONS,
  extract_answer,
  unbox,
)

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "verifier"

CASES = [
  ("tags", "<think>t</think>\n<answer> 5 </answer>", "5"),
  ("tags", "<answer>5</answer><answer>6</answer>", None),
  ("tags", "\\boxed{5}", None),
  ("boxed", "so \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
  ("boxed", "\\boxed{\\left\\{1, 2\\right\\}}", "\\left\\{1, 2\\right\\}"),
  ("boxed", "\\boxed{5} and again \\boxed{ 5 }", "5"),
  ("boxed", "\\boxed{5} or \\boxed{6}", None),
  ("boxed", "\\boxed{\\boxed{5}}", "5"),
  ("boxed", "\\boxed{\\textbf{(5) }}, that is \\boxed{5.}", "5."),
  ("boxed", "\\fbox{5} \\boxed{6", None),
  ("boxed", "5", None),
  ("last_line", "Because.\nAnswer: 12 cm.", "12 cm"),
  ("last_line", "**Final answer:** **B**", "B"),
  ("last_line", "The answer is: 7", "7"),
  ("last_line", "Final Answer: The final answer is 5. I hope so.", "5"),
  ("last_line", "Answer: A\nAnswer: B", None),
  ("last_line", "The answer is A or the answer is B", None),
  ("last_line", "Answer: A\nBut I am not sure.", None),
  ("last_line", "thinking\n\n42\n", "42"),
  ("last_line", " \n ", None),
  ("auto", "<answer>3</answer>", "3"),
  ("auto", "<answer>3 \\boxed{3}", None),
  ("auto", "<think>\\boxed{2}</think><answer>3</answer>", "3"),
  ("auto", "x\n\\boxed{3}\nAnswer: 4", "3"),
  ("auto", "Answer: 4", "4"),
]


@pytest.mark.parametrize(("how", "text", "answer"), CASES)
def test_one_final_answer_or_none(how, text, answer):
  assert extract_answer(text, how) == answer


def test_unboxing_takes_only_what_is_all_box():
  assert unbox("$\\boxed{\\boxed{5}}$.") == "5"
  for text in ("5", "\\boxed{5} cm", "\\boxed{1}\\boxed{2}", "\\boxed{5"):
    assert unbox(text) == text


def test_an_unknown_way_is_an_error_that_names_the_known():
  with pytest.raises(ValueError, match="'tag'.*tags, boxed, last_line, auto"):
    extract_answer("5", "tag")


def test_a_wrapped_answer_comes_back():
  """Whatever balanced text stands in the box or the tags is the answer."""
  rng = random.Random(0)
  for _ in range(200):
    inside = "".join(rng.choices("abc12+-^_ ", k=rng.randint(1, 12))).strip()
    for _ in range(rng.randint(0, 4)):
      inside = f"\\frac{{{inside}}}{{x}}"
    inside = inside or "0"
    assert extract_answer(f"So $\\boxed{{{inside}}}$.", "boxed") == inside
    assert extract_answer(f"<answer>{inside}</answer>", "auto") == inside


@pytest.mark.parametrize("how", EXTRACTIONS)
def test_hostile_responses_are_read_in_linear_time(how):
  pieces = [
    "\\boxed{" * 20_000,
    "\\boxed{1}" * 10_000,
    "\\boxed{" * 5_000 + "1" + "}" * 5_000,
    "{" * 100_000,
    "Answer: " * 10_000,
    "answer is is " * 9_000,
    "answer" + " " * 100_000,
    "answer**" + "*" * 100_000,
    "\n" * 100_000,
    "<answer>" * 10_000,
    "\0\ud800" * 10_000,
    "",
  ]
  for text in pieces:
    start = time.perf_counter()
    extract_answer(text, how)
    assert time.perf_counter() - start < 1


def test_published_solutions_have_the_answer_that_was_taken_from_them():
  """257 of 265 to the letter.

  Four end in bold face and one in a full stop; one has no box, and two say
  055 and (55), 023 and (23), which we take for two answers.
  """
  path = DATA / "boxed_solutions.jsonl"
  if not path.is_file():
    pytest.skip("third-party solutions are not here")
  rows = [json.loads(line) for line in path.open(encoding="utf-8")]
  found = [extract_answer(row["solution"], "boxed") for row in rows]
  answers = [row["answer"].strip() for row in rows]
  same = [answer == value for answer, value in zip(answers, found, strict=True)]
  assert sum(same) >= 0.96 * len(rows)
  assert found.count(None) <= 3
