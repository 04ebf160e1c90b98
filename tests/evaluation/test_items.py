"""The file of one strategy: what it keeps, and when it is begun anew."""

import dataclasses
import json

import numpy as np
import pytest

from mirl_jax.data.example import Example
from mirl_jax.evaluation import items as it

PRINT = {"weights": "ab", "program": [{"name": "see", "fanout": 2}]}


def sample(answer="4", correct=1.0, **changes):
  values = {
    "text": f"<answer> {answer}</answer>",
    "answer": answer,
    "vote": answer,
    "correct": correct,
    "reason": "equal numbers",
    "exact": None,
    "tags": False,
    "finished": True,
    "tokens": 7,
  }
  return it.Sample(**{**values, **changes})


def item(name, *samples, **changes):
  values = {
    "id": name,
    "digest": "d",
    "category": "count",
    "group": "",
    "question": "How many?",
    "options": (),
    "answer": "4",
    "type": "number",
    "tokens": 14,
    "samples": samples or (sample(), sample("5", 0.0)),
  }
  return it.Item(**{**values, **changes})


def test_what_is_appended_is_read_back(tmp_path):
  path = tmp_path / "set" / "greedy.jsonl"
  assert it.start_items(path, PRINT) == ({}, [])
  odd = sample(text="\ud800 a\u2028b\n\x00", correct=float("nan"), vote=None)
  first = [item("a"), item("b", odd, options=("x", "y"), joint={"f": "1"})]
  it.append_items(path, first)
  it.append_items(path, [item("c")])
  found, items = it.read_items(path)
  assert found == PRINT
  assert list(items) == ["a", "b", "c"]
  assert items["a"] == first[0]
  # NaN is not equal to itself.
  assert repr(items["b"]) == repr(first[1])
  again, differing = it.start_items(path, PRINT)
  assert (list(again), differing) == (["a", "b", "c"], [])


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_kill_costs_the_line_that_it_tore(tmp_path, cut):
  path = tmp_path / "greedy.jsonl"
  it.start_items(path, PRINT)
  it.append_items(path, [item("a"), item("b")])
  path.write_bytes(path.read_bytes()[:-cut])
  items, _ = it.start_items(path, PRINT)
  assert list(items) == ["a"]
  it.append_items(path, [item("b")])
  assert it.read_items(path)[1] == {"a": item("a"), "b": item("b")}


def test_a_torn_first_line_is_a_new_file(tmp_path):
  path = tmp_path / "greedy.jsonl"
  path.write_text('{"fingerpr')
  assert it.start_items(path, PRINT) == ({}, [])
  assert it.read_items(path) == (PRINT, {})


def test_items_of_another_fingerprint_are_moved_aside_and_said(tmp_path):
  path = tmp_path / "greedy.jsonl"
  it.start_items(path, PRINT)
  it.append_items(path, [item("a")])
  items, differing = it.start_items(path, {**PRINT, "weights": "cd"})
  assert items == {}
  assert differing == ["weights: 'ab' -> 'cd'"]
  assert it.read_items(path)[1] == {}
  old = path.with_name("greedy.jsonl.old")
  assert list(it.read_items(old)[1]) == ["a"]


def test_the_last_item_of_an_id_counts(tmp_path):
  path = tmp_path / "greedy.jsonl"
  it.start_items(path, PRINT)
  it.append_items(path, [item("a"), item("a", digest="e")])
  assert it.read_items(path)[1]["a"].digest == "e"


def test_a_line_that_is_no_item_is_named(tmp_path):
  path = tmp_path / "greedy.jsonl"
  it.start_items(path, PRINT)
  with path.open("a") as file:
    file.write(json.dumps({"id": "a"}) + "\n")
  with pytest.raises(ValueError, match="no item .*remove the file"):
    it.read_items(path)


QUESTION = Example("a", (b"png",), "How many?", "4", "number", ("4", "5"))


@pytest.mark.parametrize(
  "changes",
  [
    {"question": "How many ?"},
    {"answer": "5"},
    {"answer_type": "text"},
    {"options": ("4", "6")},
    {"options": ("45",)},
    {"images": (b"pnh",)},
    {"images": (b"png", b"png")},
    {"images": ()},
    {"images": (np.zeros((2, 2, 3), np.uint8),)},
  ],
)
def test_a_digest_names_all_that_a_verdict_depends_on(changes):
  other = dataclasses.replace(QUESTION, **changes)
  assert it.digest_of(other) != it.digest_of(QUESTION)


def test_a_digest_leaves_out_what_no_answer_depends_on():
  same = dataclasses.replace(QUESTION, id="b", category="x", extra={"y": 1})
  assert it.digest_of(same) == it.digest_of(QUESTION)


CHOICE = Example("a", (), "?", "B", "choice_letter", ("7 cm", "9 cm", "true"))
TEXT = Example("a", (), "?", "4", "number")


@pytest.mark.parametrize(
  ("example", "same", "others"),
  [
    (CHOICE, ["B", "(b)", "9 cm", "B) 9 cm", "9cm", "The answer is B"], ["A"]),
    (CHOICE, ["C", "True"], ["B", "7 cm", "no option"]),
    (TEXT, ["4", "four", "4.0", " 4. ", "8/2"], ["5", "4 cm", "-4"]),
    (TEXT, ["the Red  circle", "red circle."], ["red square"]),
  ],
)
def test_equal_answers_have_equal_votes(example, same, others):
  votes = {it.vote_of(answer, example) for answer in same}
  assert len(votes) == 1
  assert votes.isdisjoint({it.vote_of(answer, example) for answer in others})


@pytest.mark.parametrize("answer", [None, "", " \n"])
def test_no_answer_has_no_vote(answer):
  assert it.vote_of(answer, TEXT) is None
  assert it.vote_of(answer, CHOICE) is None
