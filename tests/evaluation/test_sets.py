"""Which sets are meant, and which of their rows are usable."""

import json

import numpy as np
import pytest
from PIL import Image

from mirl_jax import batching, build
from mirl_jax import testing_runs as runs
from mirl_jax.data.example import Example
from mirl_jax.data.pipeline import Quarantine
from mirl_jax.evaluation import sets
from mirl_jax.evaluation.presets import PLAIN, PRESETS


def test_sets_are_named_by_their_path_or_by_the_user():
  text = " /d/shapes , /d/vqa.tsv,own=/d/shapes/data.jsonl,/x=y/nlvr/data.jsonl"
  found = sets.parse_sets(text)
  assert [(n.name, n.path) for n in found] == [
    ("shapes", "/d/shapes"),
    ("vqa", "/d/vqa.tsv"),
    ("own", "/d/shapes/data.jsonl"),
    ("nlvr", "/x=y/nlvr/data.jsonl"),
  ]
  assert all(n.preset is PLAIN for n in found)
  assert sets.parse_sets("") == sets.parse_sets(" , ") == []


def test_a_presets_name_asks_for_it():
  one, two, other = sets.parse_sets(
    "MathVerse=/d/a.tsv,mathverse:text only=/d/b.tsv,chart qa=/d/c.tsv"
  )
  assert one.preset is two.preset is PRESETS["mathverse"]
  assert (one.name, two.name) == ("MathVerse", "text_only")
  assert other.preset is PLAIN
  assert other.name == "chart_qa"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("/d/shapes,/e/shapes", "two sets are named 'shapes'; name them apart"),
    ("held_out=/d", "'held_out'"),
    ("a=", "'a=' has no path"),
    ("mathvrse:x=/d", "'mathvrse' in .* is no preset; there are mathvista"),
    ("..=/d", "name the set"),
  ],
)
def test_a_bad_list_of_sets_is_refused(text, message):
  with pytest.raises(ValueError, match=message):
    sets.parse_sets(text)


@pytest.fixture(scope="module")
def policy():
  return build.make_policy(runs.small_config())


@pytest.fixture
def folder(tmp_path):
  """Thirty rows; three of them cannot be used."""
  Image.new("RGB", (48, 48)).save(tmp_path / "a.png")
  rows = [
    {
      "id": f"r{i}",
      "image": "a.png",
      "question": "what " * (1 + i % 7),
      "answer": str(i),
      "split": "dev" if i % 10 == 9 else "test",
    }
    for i in range(30)
  ]
  rows[4]["image"] = "missing.png"
  rows[5]["question"] = ""
  rows[6]["question"] = "<|image_pad|> what?"  # the processor's own word
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "data.jsonl").write_text(text)
  return tmp_path


def read(folder, policy, limit=0, preset=PLAIN):
  bad = Quarantine(folder / "bad.jsonl")
  named = sets.Named("own", str(folder), preset)
  return sets.read_set(named, policy, limit, bad), bad


def test_bad_rows_are_counted_and_named(folder, policy):
  found, bad = read(folder, policy)
  assert len(found.examples) == 27
  assert found.bad == 3
  assert {row for row, _ in bad.seen} == {"r4", "r5", "r6"}


def test_the_first_rows_are_a_sample_and_more_only_add_to_it(folder, policy):
  whole, _ = read(folder, policy)
  ids = [e.id for e in whole.examples]
  assert ids != sorted(ids, key=lambda x: int(x[1:]))
  for limit in (1, 7, 26, 27, 99):
    some, _ = read(folder, policy, limit)
    assert [e.id for e in some.examples] == ids[:limit]


def test_a_split_that_is_not_scored_is_left_out(folder, policy):
  found, _ = read(folder, policy, preset=PRESETS["mmmu"])
  assert len(found.examples) == 24
  assert {e.extra["split"] for e in found.examples} == {"test"}


def test_a_set_without_usable_rows_is_refused(tmp_path, policy):
  row = {"id": "a", "image": "no.png", "question": "?", "answer": "1"}
  (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n")
  with pytest.raises(ValueError, match="none of the 1 rows .*bad.jsonl says"):
    read(tmp_path, policy)


def test_buckets_hold_every_question_of_the_set(folder, policy):
  found, _ = read(folder, policy)
  config = sets.with_buckets(runs.small_config(), policy, found.examples)
  batcher = batching.make_batcher(config, policy, None)
  lengths, slots = zip(
    *map(policy.processor.measure, found.examples), strict=True
  )
  assert max(batcher.prompt_buckets) >= max(lengths)
  assert max(batcher.patch_buckets) >= max(slots)
  batcher.batch(found.examples)  # fits


def test_a_long_question_with_a_large_picture_of_another_fits(tmp_path, policy):
  small = np.zeros((48, 48, 3), np.uint8)
  large = np.zeros((144, 144, 3), np.uint8)
  examples = [
    Example("a", (large,), "what?", "1"),
    Example("b", (small,), "what " * 90 + "?", "1"),
  ]
  given = runs.small_config("--config.mi.view=other_same_question")
  config = sets.with_buckets(given, policy, examples)
  mi = build.make_mi(config)
  batching.make_batcher(config, policy, mi).batch(examples)  # fits
