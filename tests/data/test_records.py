"""Any source as a TFDS data set and back."""

import dataclasses
import subprocess
import sys

import pytest

from mirl_jax.data.example import Example
from mirl_jax.data.open import open_source
from mirl_jax.data.records import main, records_builder
from mirl_jax.data.source import BadRow, told
from mirl_jax.testing_data import WRITERS, picture, questions, write_jsonl
from mirl_jax.worlds.builder import world_builder
from mirl_jax.worlds.dials import BROKEN
from mirl_jax.worlds.items import make_item


class Torn:
  """Examples of which the second is bad."""

  def __init__(self, rows):
    self.rows = rows

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, index):
    if index == 1:
      raise BadRow("b", "torn")
    return self.rows[index]


def examples():
  full = Example(
    id="a",
    images=(picture(0), picture(1, kind="JPEG"), picture(2, kind="GIF")),
    question="why?\n(A) x\n(B) y",
    answer="A",
    answer_type="choice_letter",
    options=("x", "y"),
    category="c",
    group="g",
    description="d",
    reasoning="r",
    regions=(("w", "v"), ()),
    min_pixels=4,
    max_pixels=400,
    extra={"k": [1, {"l": None}]},
  )
  plain = Example("c", (), "what?", "so")
  return [full, full, plain]


def test_all_of_an_example_comes_back_and_bad_rows_are_listed(tmp_path):
  rows = examples()
  builder = records_builder(tmp_path, "n", {"train": Torn(rows)})
  builder.download_and_prepare()
  assert [bad.row for bad in builder.builder_config.skipped] == ["b"]
  source = open_source(f"tfds:mirl_records/n:{tmp_path}")
  assert [source[i] for i in range(len(source))] == [rows[0], rows[2]]
  assert "stored examples" in told(source)


def test_splits_of_a_builder_are_the_splits(tmp_path):
  rows = [Example(str(i), (), "?", "a", group=f"g{i % 5}") for i in range(40)]
  parts = {"train": rows[:30], "validation": rows[30:]}
  records_builder(tmp_path, "n", parts).download_and_prepare()
  path = f"tfds:mirl_records/n:{tmp_path}"
  assert len(open_source(path)) == 40
  assert len(open_source(path, "train")) == 30
  assert len(open_source(path, "test")) == 10
  chosen = f"tfds:mirl_records/n@train:{tmp_path}"
  sides = [
    open_source(chosen, side, test_share=0.5) for side in ("train", "test")
  ]
  groups = [{side[i].group for i in range(len(side))} for side in sides]
  assert groups[0] | groups[1] == {f"g{i}" for i in range(5)}
  assert not groups[0] & groups[1]
  with pytest.raises(ValueError, match="no split 'dev'; there are train, val"):
    open_source(f"tfds:mirl_records/n@dev:{tmp_path}")


def test_the_world_reads_back_without_its_checker(tmp_path):
  builder = world_builder(tmp_path, lengths=(("train", 12), ("test", 3)))
  builder.download_and_prepare()
  name = f"{builder.name}/{builder.builder_config.name}"
  source = open_source(f"tfds:{name}:{tmp_path}", "train")
  found = {source[i].id: source[i] for i in range(len(source))}
  assert len(found) == 12
  for index in range(12):
    item = make_item(0, index, BROKEN, "train")
    other = found[item.id]
    same = dataclasses.replace(
      item, check=None, images=other.images, extra=other.extra
    )
    assert other == dataclasses.replace(same, group=other.group)


def test_what_is_no_prepared_data_set_is_named(tmp_path):
  with pytest.raises(
    ValueError, match="no prepared data set 'nope/x' in .*tfds:"
  ):
    open_source(f"tfds:nope/x:{tmp_path}")
  with pytest.raises(ValueError, match="give letters, digits"):
    records_builder(tmp_path, "a/b", {"train": examples()})
  with pytest.raises(ValueError, match="no source to write"):
    records_builder(tmp_path, "a", {})


@pytest.mark.parametrize("form", ["Geometry3K", "VLMEvalKit", "LLaVA"])
def test_the_command_writes_what_the_reader_reads(tmp_path, capsys, form):
  path = WRITERS[form](tmp_path, questions(30))
  out = tmp_path / "out"
  arguments = [f"--source={path}", f"--out={out}", "--name=n"]
  assert main(arguments) == 0
  line = capsys.readouterr().out.splitlines()[-1]
  assert f"read it with tfds:mirl_records/n:{out}" in line
  for split in ("train", "test"):
    given = open_source(path, split)
    written = open_source(f"tfds:mirl_records/n:{out}", split)
    rows = [given[i] for i in range(len(given))]
    assert rows == [written[i] for i in range(len(written))]
  assert main([f"--source={path}x", f"--out={out}", "--name=n"]) == 2


def test_neither_reading_nor_writing_imports_tensorflow(tmp_path):
  rows = [{"question": f"{i}?", "answer": "1"} for i in range(3)]
  path = write_jsonl(tmp_path / "x.jsonl", rows)
  code = (
    "import sys\n"
    "from mirl_jax.data.open import open_source\n"
    "from mirl_jax.data.records import main\n"
    f"code = main(['--source={path}', '--out={tmp_path}', '--name=n',"
    " '--test_share=0'])\n"
    f"rows = open_source('tfds:mirl_records/n:{tmp_path}')\n"
    "assert code == 0 and len(rows) == 3 and rows[2].question == '2?'\n"
    "bad = {'tensorflow', 'torch', 'jax'} & set(sys.modules)\n"
    "assert not bad, bad\n"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
