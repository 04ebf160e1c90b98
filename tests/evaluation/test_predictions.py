"""Predictions are the set's own TSV and one column more."""

import csv
import dataclasses
import sys
from pathlib import Path

import pytest

from mirl_jax.evaluation import predictions as pr
from mirl_jax.evaluation.items import Item, Sample

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "bench_tsv"
csv.field_size_limit(sys.maxsize)


def make_item(name, votes, options=(), question='How\tmany\n"x"?'):
  samples = tuple(
    Sample(f"text {r}", v and f"said {v}", v, None, "", None, True, True, 3)
    for r, v in enumerate(votes)
  )
  return Item(name, "d", "cat", "", question, options, "B", "text", 9, samples)


@pytest.mark.parametrize(
  ("votes", "options", "prediction"),
  [
    (["4"], (), "said 4"),
    (["4", "5", "5"], (), "said 5"),
    (["5", "4", None], (), "said 5"),  # the first of equal ones
    ([None, None], (), "text 0"),
    (["B", "A", "B"], ("x", "y"), "B"),
    (["B"], (), "said B"),  # no option
    (["a word"], ("x", "y"), "said a word"),
  ],
)
def test_a_prediction_is_what_most_samples_say(votes, options, prediction):
  assert pr.prediction_of(make_item("a", votes, options)) == prediction


def read(path):
  with path.open(encoding="utf-8", newline="") as file:
    return list(csv.DictReader(file, delimiter="\t"))


def test_a_set_in_another_format_gets_the_columns_that_are_read(tmp_path):
  items = [
    make_item("a", ["A"], ("x", "y")),
    make_item("b", ["C"], ("u", "v", "w"), "\ud800 half"),
  ]
  path = tmp_path / "run_set.tsv"
  pr.write_predictions(path, pr.prediction_rows(items, None, []))
  first, second = read(path)
  assert list(first) == [
    "index",
    "question",
    "A",
    "B",
    "answer",
    "category",
    "C",
    "prediction",
  ]
  assert first["question"] == 'How\tmany\n"x"?'
  assert (first["C"], first["prediction"]) == ("", "A")
  assert (second["C"], second["prediction"]) == ("w", "C")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize("name", ["mcq_puzzlevqa", "vqa_mathvision"])
def test_the_tsv_comes_back_with_its_predictions(tmp_path, name):
  source = SHARED / f"{name}.tsv"
  rows = read(source)
  items = [make_item(row["index"], ["B"], ("x", "y")) for row in rows[:30]]
  items = items[::-1]  # the evaluation's order is another
  bad = [rows[33]["index"]]
  path = tmp_path / f"run_{name}.tsv"
  pr.write_predictions(path, pr.prediction_rows(items, source, bad))
  found = read(path)
  assert [x["index"] for x in found] == [x["index"] for x in rows[:30]] + bad
  assert list(found[0]) == [
    *(column for column in rows[0] if column != "image"),
    "prediction",
  ]
  for ours, theirs in zip(found, [*rows[:30], rows[33]], strict=True):
    prediction = ours.pop("prediction")
    assert prediction == (pr.FAILED if theirs is rows[33] else "B")
    theirs = {k: v for k, v in theirs.items() if k != "image"}
    assert ours == theirs


def test_reading_leaves_the_field_limit_as_it_was(tmp_path):
  path = tmp_path / "a.tsv"
  path.write_text("index\timage\n1\t" + "x" * 200_000 + "\n")
  before = csv.field_size_limit(131_072)
  try:
    (row,) = pr.prediction_rows([make_item("1", ["4"])], path, [])
    assert row == {"index": "1", "prediction": "said 4"}
    assert csv.field_size_limit() == 131_072
  finally:
    csv.field_size_limit(before)


def test_an_item_keeps_its_letters_only_up_to_its_options():
  many = dataclasses.replace(make_item("a", ["B"]), options=tuple("xyz"))
  (row,) = pr.prediction_rows([many], None, [])
  assert {k: row[k] for k in "ABC"} == {"A": "x", "B": "y", "C": "z"}
