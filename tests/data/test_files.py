"""Which files a path means, and what their names say of splits."""

from pathlib import Path

import pytest

from mirl_jax.data.files import find, split_of


def touch(folder: Path, *names: str) -> Path:
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("", encoding="utf-8")
  return folder


def names(found):
  return [file.name for file in found.files]


@pytest.mark.parametrize(
  ("name", "split"),
  [
    ("train-00000-of-00002.parquet", "train"),
    ("geometry3k_validation.jsonl", "validation"),
    ("val.tsv", "validation"),
    ("Test.parquet", "test"),
    ("dev-test.parquet", ""),
    ("trainer.parquet", ""),
    ("questions.jsonl", ""),
  ],
)
def test_names_say_the_split_in_a_word_of_their_own(name, split):
  assert split_of(Path(name)) == split


def test_a_file_is_itself_whatever_its_name(tmp_path):
  touch(tmp_path, "test.parquet", "train.parquet")
  found = find(str(tmp_path / "test.parquet"), "train")
  assert (names(found), found.split) == (["test.parquet"], "train")


def test_our_own_format_goes_before_other_files(tmp_path):
  touch(tmp_path, "data.jsonl", "more.parquet")
  assert names(find(str(tmp_path), "all")) == ["data.jsonl"]


def test_names_are_the_splits_only_if_both_are_there(tmp_path):
  touch(tmp_path / "a", "train-0.parquet", "train-1.parquet")
  found = find(str(tmp_path / "a"), "test")
  assert (len(found.files), found.split) == (2, "test")
  touch(tmp_path / "a", "val.parquet")
  for split, count in (("train", 2), ("test", 1), ("all", 3)):
    found = find(str(tmp_path / "a"), split)
    assert (len(found.files), found.split) == (count, "all")
  touch(tmp_path / "a", "test.parquet")  # goes before validation
  assert names(find(str(tmp_path / "a"), "test")) == ["test.parquet"]
  found = find(f"{tmp_path / 'a'}@val", "train")
  assert (names(found), found.split) == (["val.parquet"], "train")


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path):
  touch(tmp_path / "a@test", "x.jsonl")
  assert names(find(str(tmp_path / "a@test"), "all")) == ["x.jsonl"]


def test_what_is_unclear_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match="no jsonl file at .*nowhere"):
    find(str(tmp_path / "nowhere"), "all")
  touch(tmp_path / "kinds", "a.jsonl", "b.parquet")
  with pytest.raises(ValueError, match="several kinds: a.jsonl, b.parquet"):
    find(str(tmp_path / "kinds"), "all")
  touch(tmp_path / "half", "train-00000-of-00003.parquet")
  with pytest.raises(ValueError, match="2 of 3 shards of train .* number 1"):
    find(str(tmp_path / "half"), "all")
  touch(tmp_path / "some", "train.jsonl", "test.jsonl", "more.jsonl")
  with pytest.raises(ValueError, match="which split is more.jsonl"):
    find(str(tmp_path / "some"), "train")
  with pytest.raises(ValueError, match="no file of split 'dev'"):
    find(f"{tmp_path / 'some'}@dev", "all")
  touch(tmp_path, "a.csv")
  with pytest.raises(ValueError, match="a file must end in .parquet"):
    find(str(tmp_path / "a.csv"), "all")
