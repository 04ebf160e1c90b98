"""Every preset on a TSV with the columns of the benchmark's own file."""

import base64
import csv
import io

import numpy as np
import pytest
from PIL import Image

from mirl_jax import build
from mirl_jax import testing_runs as runs
from mirl_jax.data.pipeline import Quarantine
from mirl_jax.evaluation import presets as ps
from mirl_jax.evaluation import sets
from mirl_jax.evaluation.predictions import read_tsv

ROWS = {
  "mathvista": [
    {
      "question": "Hint: Please answer with the option letter.\nQuestion: What"
      " fraction is blue?\nChoices:\n(A) 3/11\n(B) 8/11",
      "answer": "8/11",
      "question_type": "multi_choice",
      "answer_type": "text",
      "choices": "['3/11', '8/11']",
      "answer_option": "B",
      "task": "math word problem",
      "skills": "['arithmetic reasoning']",
      "query": "What fraction is blue, in other words?",
    },
    {
      "question": "How many dots are there?",
      "answer": "14",
      "question_type": "free_form",
      "answer_type": "integer",
      "choices": "",
      "answer_option": "",
      "task": "figure question answering",
      "skills": "['numeric commonsense']",
      "query": "Dots?",
    },
    {
      "question": "Between which years?",
      "answer": "[2007, 2008]",
      "question_type": "free_form",
      "answer_type": "list",
      "choices": "",
      "answer_option": "",
      "task": "figure question answering",
      "skills": "['statistical reasoning']",
      "query": "Years?",
    },
  ],
  "mathverse": [
    {
      "question": "Find BC.\nChoices:\nA:2\nB:3",
      "answer": "B",
      "question_for_eval": "Find BC, given all.",
      "question_type": "multi-choice",
      "problem_index": "7",
      "problem_version": "Text Lite",
      "metadata": "{'split': 'testmini', 'problem_version': 'Text Lite'}",
    },
    {
      "question": "Find the distance.",
      "answer": "22.3",
      "question_for_eval": "Find the distance, given all.",
      "question_type": "free-form",
      "problem_index": "8",
      "problem_version": "Text Lite",
      "metadata": "{'split': 'testmini', 'problem_version': 'Text Lite'}",
    },
  ],
  "mathvision": [
    {
      "question": "Which weekday was that?",
      "answer": "A",
      "choices": "['Wednesday', 'Friday']",
      "category": "arithmetic",
      "level": "2",
    },
    {
      "question": "How long is AB?",
      "answer": "$\\frac{1}{2}$",
      "choices": "[]",
      "category": "metric geometry - length",
      "level": "5",
    },
  ],
  "mmmu": [
    {
      "id": "validation_Art_1",
      "question": "What does <image 1> show?",
      "A": "a dome",
      "B": "an arch",
      "C": "",
      "answer": "B",
      "category": "Art",
      "l2-category": "Art & Design",
      "split": "validation",
      "question_type": "multiple-choice",
    },
    {
      "id": "validation_Art_2",
      "question": "What is the sum in <image 1>?",
      "A": "",
      "B": "",
      "C": "",
      "answer": "['two', '2 units']",
      "category": "Art",
      "l2-category": "Art & Design",
      "split": "validation",
      "question_type": "open",
    },
    {
      "id": "dev_Art_1",
      "question": "An example?",
      "A": "x",
      "B": "y",
      "C": "",
      "answer": "A",
      "category": "Art",
      "l2-category": "Art & Design",
      "split": "dev",
      "question_type": "multiple-choice",
    },
  ],
  "chartqa": [
    {"question": "How many?", "answer": "14", "split": "test_human"},
    {"question": "Where?", "answer": "New Zealand", "split": "test_augmented"},
  ],
  "hallusionbench": [
    {
      "question": "Is it red?",
      "answer": "Yes",
      "category": "VD",
      "l2-category": "chart",
      "set_id": "0",
      "figure_id": "1",
      "question_id": "0",
    },
    {
      "question": "Is it blue?",
      "answer": "No",
      "category": "VD",
      "l2-category": "chart",
      "set_id": "0",
      "figure_id": "1",
      "question_id": "1",
    },
    {
      "question": "Is it red?",
      "answer": "No",
      "category": "VD",
      "l2-category": "chart",
      "set_id": "0",
      "figure_id": "2",
      "question_id": "0",
    },
  ],
}
# By question: the type, the category, a right answer.
WANTED = {
  "mathvista": [
    ("choice_letter", "math word problem", "B"),
    ("number", "figure question answering", "14.0"),
    ("list", "figure question answering", "[2007, 2008]"),
  ],
  "mathverse": [
    ("choice_letter", "Text Lite", "3"),
    ("math", "Text Lite", "22.3"),
  ],
  "mathvision": [
    ("choice_letter", "arithmetic", "Wednesday"),
    ("math", "metric geometry - length", "0.5"),
  ],
  "mmmu": [("choice_letter", "Art", "an arch"), ("free_form", "Art", "2")],
  "chartqa": [
    ("number", "test_human", "14.5"),
    ("text", "test_augmented", "new zealand"),
  ],
  "hallusionbench": [
    ("yes_no", "VD", "yes"),
    ("yes_no", "VD", "no"),
    ("yes_no", "VD", "No."),
  ],
}


@pytest.fixture(scope="module")
def policy():
  return build.make_policy(runs.small_config())


@pytest.fixture
def opened(tmp_path, policy):
  def run(name):
    file = tmp_path / f"{name}.tsv"
    rows = []
    for i, row in enumerate(ROWS[name]):
      buffer = io.BytesIO()
      pixels = np.full((48, 48, 3), 10 * i, np.uint8)
      Image.fromarray(pixels).save(buffer, "PNG")
      picture = base64.b64encode(buffer.getvalue()).decode()
      rows.append({"index": str(i), "image": picture, **row})
    with file.open("w", encoding="utf-8", newline="") as out:
      writer = csv.DictWriter(out, list(rows[0]), delimiter="\t")
      writer.writeheader()
      writer.writerows(rows)
    (named,) = sets.parse_sets(f"{name}={file}")
    bad = Quarantine(tmp_path / "bad.jsonl")
    return sets.read_set(named, policy, 0, bad), bad, file

  return run


@pytest.mark.parametrize("name", ROWS)
def test_a_benchmarks_own_columns_are_read(opened, name):
  found, bad, file = opened(name)
  assert bad.seen == set()
  examples = sorted(found.examples, key=lambda e: int(e.id))
  wanted = WANTED[name]
  assert len(examples) == len(wanted)
  for example, (kind, category, answer) in zip(examples, wanted, strict=True):
    assert (example.answer_type, example.category) == (kind, category)
    assert len(example.images) == 1
    (verdict,) = found.preset.judge([(answer, example)])
    assert verdict.correct, (example, verdict)
    (verdict,) = found.preset.judge([("nonsense", example)])
    assert not verdict.correct
  # Predictions are found by the file's index.
  assert {e.id for e in examples} <= {row["index"] for row in read_tsv(file)}


def test_a_question_with_its_choices_shows_them_once(opened):
  first, *_ = sorted(opened("mathvista")[0].examples, key=lambda e: e.id)
  assert first.question == ROWS["mathvista"][0]["question"]
  first, *_ = sorted(opened("mmmu")[0].examples, key=lambda e: e.id)
  assert first.question.endswith(f"(A) a dome\n(B) an arch\n{ps.LETTER}")


def test_figures_of_hallusionbench_have_two_questions(opened):
  found, *_ = opened("hallusionbench")
  figures = [e.extra[ps.JOINT]["figures"] for e in found.examples]
  assert sorted(figures) == ["chart_0_1", "chart_0_1", "chart_0_2"]
  questions = [e.extra[ps.JOINT]["questions"] for e in found.examples]
  assert sorted(questions) == ["chart_0_0", "chart_0_0", "chart_0_1"]
