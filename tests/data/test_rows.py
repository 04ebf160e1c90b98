"""Rows of any shape: examples, or bad rows by name."""

import json
from pathlib import Path

import numpy as np
import pytest

from mirl_jax.data.example import Example
from mirl_jax.data.rows import read_list, to_example, with_options
from mirl_jax.data.sniff import sniff
from mirl_jax.data.source import BadRow
from mirl_jax.testing_data import picture


def read(row, **options):
  return to_example(row, sniff(list(row), [row]), Path(), "r", **options)


def test_options_are_shown_once():
  listed = "which?\n(A) red\n(B) blue"
  assert with_options("which?", ("red", "blue")) == listed
  assert with_options(listed, ("red", "blue")) == listed
  other = "which? A. red B. blue"
  assert with_options(other, ("red", "blue")) == other
  assert with_options(other, ("red", "green")) != other


@pytest.mark.parametrize(
  ("text", "found"),
  [
    ("['a', \"b\"]", ["a", "b"]),
    ('["a", null]', ["a", None]),
    ("[1", "[1"),
    ("a, b", "a, b"),
    ("[" * 10_000, "[" * 10_000),
    (3, 3),
    (["a"], ["a"]),
  ],
)
def test_lists_as_text_are_read(text, found):
  assert read_list(text) == found


def test_other_spellings_of_options():
  for options in (["x", "y"], "['x', 'y']", {"A": "x", "B": "y"}):
    row = {"question": "?", "choices": options, "answer": "B"}
    assert read(row).options == ("x", "y")
  assert read({"question": "?", "A": "x", "B": "y", "answer": "y"}).options


@pytest.mark.parametrize(
  ("name", "kind"),
  [
    ("integer", "number"),
    ("float", "number"),
    ("multi_choice", "choice_letter"),
  ],
)
def test_types_of_other_data_sets_have_our_names(name, kind):
  row = {"question": "?", "answer": "3", "answer_type": name}
  assert read(row).answer_type == kind


def test_a_hint_and_messages_as_text_belong_to_the_question():
  row = {"index": 1, "question": "why?", "hint": "Think.", "image": ""}
  assert read(row).question == "Think.\nwhy?"
  said = json.dumps([{"role": "user", "content": "why?"}])
  assert read({"prompt": said, "label": "so"}).question == "why?"


FAULTS = [
  ({"question": "?", "videos": ["a.mp4"]}, "'videos': only pictures"),
  ({"question": "?", "choices": 3}, "column 'choices' is no list"),
  ({"question": "?", "answer": ["3"]}, "'answer' is a list, not text"),
  ({"question": "<image>", "images": [picture(0)]}, "empty question"),
  ({"question": "?", "options": ["x"] * 27}, "27 options; at most 26"),
  (
    {
      "messages": [
        {"role": "user", "content": [{"type": "image", "image": "x"}]}
      ],
      "images": [picture(0)],
    },
    "both in the messages and in a column",
  ),
]


@pytest.mark.parametrize(("row", "reason"), FAULTS)
def test_each_fault_is_named(row, reason):
  with pytest.raises(BadRow, match=reason):
    read(row)


def test_a_response_in_tags_is_a_demonstration():
  said = "<description>a cell</description><think>so</think><answer>3</answer>"
  messages = [{"from": "human", "value": "?"}, {"from": "gpt", "value": said}]
  found = read({"conversations": messages})
  assert (found.description, found.reasoning, found.answer) == (
    "a cell",
    "so",
    "3",
  )
  given = read({"conversations": messages, "description": "a red cell"})
  assert given.description == "a red cell"


def test_options_in_columns_follow_each_other():
  row = {"question": "?", "A": "x", "B": "y", "C": "z", "answer": "A"}
  layout = sniff(list(row), [row])
  short = to_example({**row, "C": ""}, layout, Path(), "r")
  assert short.options == ("x", "y")
  with pytest.raises(BadRow, match="an option between others is empty"):
    to_example({**row, "B": ""}, layout, Path(), "r")


def test_whatever_stands_in_a_row_it_is_an_example_or_a_bad_row():
  """Random values in every column: nothing else is ever raised."""
  rng = np.random.default_rng(0)
  values = [
    None,
    "",
    "why? <image>",
    "[['",
    -3,
    2.5,
    float("nan"),
    True,
    [],
    ["a", None],
    [[1]],
    {},
    {"bytes": picture(0), "path": None},
    {"path": "../x"},
    [{"role": "user", "content": "why?"}],
    [{"role": "user", "content": [{"type": "image", "image": picture(1)}]}],
    [{"from": 3}],
    b"\xff\x00",
    picture(2),
    "data:image/png;base64,AAAA",
    "<answer>2</answer>",
    "\ud800",
  ]
  known = {"question": "?", "images": [picture(0)], "answer": "3"}
  names = ["options", "answer_type", "min_pixels", "category", "system", "hint"]
  layout = sniff([*known, *names], [known | dict.fromkeys(names, "x")])
  examples = 0
  for _ in range(600):
    row = dict(known)
    for name in rng.choice([*known, *names], rng.integers(1, 4)):
      row[str(name)] = values[rng.integers(len(values))]
    try:
      found = to_example(row, layout, Path("/nowhere"), "r")
    except BadRow:
      continue
    examples += isinstance(found, Example)
    json.dumps(dict(found.extra))
  assert 60 < examples < 540
