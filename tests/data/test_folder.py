"""Sources of a folder: splits, descriptions, and rows that do not fit."""

import io
import json

import pytest
from ml_collections import ConfigDict
from PIL import Image

from mirl_jax.data.example import Example
from mirl_jax.data.folder import demonstrated, fitting, folder_source
from mirl_jax.data.source import BadRow, Mapped
from mirl_jax.testing_data import write_jsonl


def png(side: int) -> bytes:
  file = io.BytesIO()
  Image.new("RGB", (side, side), (255, 0, 0)).save(file, "PNG")
  return file.getvalue()


def write(folder, names):
  folder.mkdir()
  (folder / "a.png").write_bytes(png(6))
  rows = [
    {
      "id": name,
      "image": "a.png",
      "question": "why?",
      "answer": "true",
      "logic_form": "(is red red)",
    }
    for name in names
  ]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "data.jsonl").write_text(lines, encoding="utf-8")
  return str(folder)


def section(**values):
  return ConfigDict(
    {
      "test": "",
      "test_share": 0.3,
      "describe": "",
      "columns": "",
      "image_folder": "",
      "difficulty": "",
      "weight_column": "",
      "unanswered": False,
      "group": "id",
      "group_pattern": "",
      **values,
    }
  )


def ids(source):
  return [source[i].id for i in range(len(source))]


def test_splits_share_no_row_and_the_test_split_is_shuffled(tmp_path):
  names = [f"{i:03d}" for i in range(200)]
  data = section(train=write(tmp_path / "d", names))
  first, second = folder_source(data, "train"), folder_source(data, "test")
  assert sorted(ids(first) + ids(second)) == names
  assert ids(first) == sorted(ids(first))
  assert ids(second) != sorted(ids(second))
  assert ids(second) == ids(folder_source(data, "test"))
  assert 30 < len(second) < 90
  assert first[0].group == first[0].id


def test_a_test_folder_of_its_own_leaves_all_rows_to_train_on(tmp_path):
  data = section(
    train=write(tmp_path / "d", ["1", "2", "3"]),
    test=write(tmp_path / "t", ["4", "5"]),
  )
  assert ids(folder_source(data, "train")) == ["1", "2", "3"]
  assert sorted(ids(folder_source(data, "test"))) == ["4", "5"]


def test_descriptions_are_derived_by_name(tmp_path):
  path = write(tmp_path / "d", ["1"])
  plain = folder_source(section(train=path, test=path), "train")[0]
  assert plain.description == ""
  told = folder_source(
    section(train=path, test=path, describe="shapes"), "test"
  )
  assert told[0].description.startswith("a red square, b red square")
  with pytest.raises(ValueError, match=r"'shape' is none of .* 'shapes'"):
    folder_source(section(train=path, describe="shape"), "train")


def test_a_row_without_demonstration_is_bad():
  rows = [
    Example("whole", (), "why?", "so", description="that"),
    Example("no answer", (), "why?", "", description="that"),
    Example("no sight", (), "why?", "so"),
  ]
  source = Mapped(rows, demonstrated)
  assert source[0] is rows[0]
  with pytest.raises(BadRow, match="no answer: no answer"):
    source[1]
  with pytest.raises(BadRow, match="no sight: no description"):
    source[2]


def test_a_row_that_no_bucket_holds_is_bad():
  sizes = {"fits": (64, 36), "long": (65, 36), "large": (64, 40)}
  rows = [Example(name, (), "why?", "so") for name in sizes]
  source = Mapped(rows, fitting(lambda e: sizes[e.id], 64, 36))
  assert source[0] is rows[0]
  with pytest.raises(BadRow, match=r"65 prompt tokens.*data\.prompt_buckets"):
    source[1]
  with pytest.raises(BadRow, match=r"40 patch slots.*data\.patch_buckets"):
    source[2]


def test_an_answer_is_needed_unless_told_and_windows_are_of_training(tmp_path):
  rows = [
    {"problem": f"{i}?", "answer": str(i) if i % 2 else "", "difficulty": i}
    for i in range(10)
  ]
  path = str(write_jsonl(tmp_path / "x.jsonl", rows))
  first = section(train=path, test=path)
  with pytest.raises(BadRow, match="line 1: no reference answer"):
    folder_source(first, "train")[0]
  free = section(train=path, test=path, unanswered=True, difficulty="5:")
  assert folder_source(free, "train")[1].answer == ""
  assert len(folder_source(free, "train")) == 5
  assert len(folder_source(free, "test")) == 10
  heavy = section(train=path, test=path, weight_column="difficulty")
  assert len(folder_source(heavy, "train")) == 45
  assert len(folder_source(heavy, "test")) == 10
