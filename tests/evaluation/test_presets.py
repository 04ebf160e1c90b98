"""Rows of public benchmarks, as their files have them, become questions."""

import pytest

from mirl_jax.data.example import Example
from mirl_jax.evaluation import presets as ps
from mirl_jax.rewards.extract import extract_answer
from mirl_jax.rewards.verify import VERIFIERS


def row(question="What is x?", answer="4", **columns):
  known = {
    name: columns.pop(name)
    for name in ("id", "options", "category", "answer_type", "group")
    if name in columns
  }
  return Example(
    **{"id": "1", **known},
    images=(),
    question=question,
    answer=answer,
    extra=columns,
  )


def asked(name, example):
  return ps.PRESETS[name].read(example)


def judged(name, example, response):
  preset = ps.PRESETS[name]
  answer = extract_answer(response, preset.extract)
  (verdict,) = preset.judge([(answer, example)])
  return verdict.correct


@pytest.mark.parametrize("name", ps.PRESETS)
def test_every_preset_is_written_down(name):
  preset = ps.PRESETS[name]
  assert preset.name == name == name.lower()
  assert "arXiv" in preset.source
  assert len(preset.note) > 40


CHOICES = "['3/11', '8/11', '6/11']"


@pytest.mark.parametrize(
  ("name", "example", "right", "wrong", "category"),
  [
    (
      "mathvista",
      row(
        answer="8/11",
        question_type="multi_choice",
        choices=CHOICES,
        answer_option="B",
        task="geometry",
      ),
      ["Answer: B", "<answer> 8/11</answer>", "\\boxed{B}"],
      ["Answer: A", "Answer: 6/11", "\\boxed{A} or \\boxed{B}"],
      "geometry",
    ),
    (
      "mathvista",
      row(answer="1.45", question_type="free_form", answer_type="float"),
      ["Answer: 1.45", "It is clear.\nThe answer is 1.45."],
      ["Answer: 1.5", "Answer: 1.45 or 1.5"],
      "",
    ),
    (
      "mathverse",
      row(
        question="Find BC.\nChoices:\nA:2\nB:2√3\nC:√3",
        answer="C",
        question_type="multi-choice",
        metadata="{'problem_version': 'Vision Only', 'subject': 'Plane'}",
      ),
      ["Answer: C", "Answer: √3"],
      ["Answer: A", "Answer: 2"],
      "Vision Only",
    ),
    (
      "mathverse",
      row(
        answer="22.3", question_type="free-form", problem_version="Text Lite"
      ),
      ["Answer: 22.3"],
      ["Answer: 22"],
      "Text Lite",
    ),
    (
      "mathvision",
      row(answer="A", choices="['Wednesday', 'Friday']", category="arithmetic"),
      ["Answer: A", "Answer: Wednesday"],
      ["Answer: B"],
      "arithmetic",
    ),
    (
      "mathvision",
      row(answer="60", choices="[]", category="arithmetic"),
      ["\\boxed{60}"],
      ["\\boxed{61}"],
      "arithmetic",
    ),
    (
      "mmmu",
      row(
        answer="B",
        options=("$6", "$7", "<image 2>"),
        category="Accounting",
        question_type="multiple-choice",
      ),
      ["Answer: (B)", "Answer: $7"],
      ["Answer: C"],
      "Accounting",
    ),
    (
      "mmmu",
      row(answer="['two', '2 units']", question_type="open", category="Art"),
      ["Answer: 2", "Answer: 2 units"],
      ["Answer: 3", "no idea"],
      "Art",
    ),
    (
      "chartqa",
      row(answer="['14']", split="human"),
      ["Answer: 14", "Answer: 14.7", "Answer: 13.3"],
      ["Answer: 14.8", "Answer: 13.2", "Answer: fourteen or 15"],
      "human",
    ),
    (
      "chartqa",
      row(answer="New Zealand", type="augmented"),
      ["Answer: New Zealand", "Answer: new zealand."],
      ["Answer: Zealand"],
      "augmented",
    ),
    (
      "hallusionbench",
      row(answer="1", set_id="0", figure_id="1", question_id="2"),
      ["Answer: yes", "<answer> Yes, it is.</answer>"],
      ["Answer: no", "Answer: yes and no"],
      "",
    ),
  ],
)
def test_rows_are_asked_and_judged(name, example, right, wrong, category):
  question = asked(name, example)
  assert question.category == category
  assert question.answer_type in VERIFIERS
  assert example.question in question.question
  for response in right:
    assert judged(name, question, response), response
  for response in wrong:
    assert not judged(name, question, response), response


def test_options_are_shown_once():
  inside = row(
    question="Which?\n(A) red\n(B) blue", answer="A", choices="['red', 'blue']"
  )
  assert asked("mathvision", inside).question.count("blue") == 1
  outside = row(question="Which?", answer="A", choices="['red', 'blue']")
  assert asked("mathvision", outside).question == (
    f"Which?\n(A) red\n(B) blue\n{ps.LETTER}"
  )


def test_a_question_with_a_hint_of_its_own_stands_as_it_is():
  text = "Hint: Please answer with an integer.\nQuestion: How many?"
  example = row(question=text, question_type="free_form", answer_type="integer")
  found = asked("mathvista", example)
  assert found.question == text
  assert found.answer_type == "number"


@pytest.mark.parametrize("text", ["nan", "", None, "[" * 10_000, "['a'", "7"])
def test_a_column_that_is_no_list_has_no_choices(text):
  assert asked("mathvision", row(choices=text)).options == ()


def test_versions_of_a_problem_are_one_group():
  versions = [
    asked("mathverse", row(id=str(i), problem_index="7", question_type="free"))
    for i in range(2)
  ]
  assert {x.group for x in versions} == {"7"}


def test_hallusionbench_names_figures_and_questions():
  columns = asked(
    "hallusionbench",
    row(
      answer="Yes", set_id="0", figure_id="1", question_id="2", category="VD"
    ),
  )
  index = asked(
    "hallusionbench", row(id="VD_chart_x_0_1_2", answer="Yes", category="VD")
  )
  for found in (columns, index):
    assert found.extra[ps.JOINT] == {
      "figures": "VD_0_1",
      "questions": "VD_0_2",
    }
    assert found.group == "VD_0"
    assert found.answer_type == "yes_no"
  with pytest.raises(ValueError, match="set_id"):
    asked("hallusionbench", row(id="17"))


@pytest.mark.parametrize(
  ("gold", "given", "right"),
  [
    ("100", "105", True),
    ("100", "95", True),
    ("100", "105.1", False),
    ("-10", "-10.5", True),
    ("-10", "10", False),
    ("0", "0.01", False),
    ("0", "0", True),
    ("28%", "28", True),  # a unit on one side only
    ("28%", "29", True),
    ("28 cm", "28 m", False),
    ("2012", "2010", True),  # years too, as officially
    ("28", None, False),
    ("28", "", False),
  ],
)
def test_relaxed_accuracy_is_within_five_percent(gold, given, right):
  example = asked("chartqa", row(answer=gold))
  (verdict,) = ps.relaxed([(given, example)])
  assert verdict.correct == right
