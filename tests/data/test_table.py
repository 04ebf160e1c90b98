"""Rows of our own format: examples, faults by name, and splits by group."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pil

from mirl_jax.data import pictures
from mirl_jax.data.open import open_source
from mirl_jax.data.rows import with_options
from mirl_jax.data.source import BadRow
from mirl_jax.data.table import in_test_split, window
from mirl_jax.testing_data import (
  WRITERS,
  Asked,
  picture,
  write_jsonl,
  write_parquet,
)

VQA = Path(__file__).parents[2].parent / "shared" / "data" / "vqa"


def png(side: int = 4, color=(255, 0, 0)) -> bytes:
  file = io.BytesIO()
  pil.new("RGB", (side, side), color).save(file, "PNG")
  return file.getvalue()


def row(**changes):
  base = {
    "id": "r0",
    "image": "images/a.png",
    "question": "which colour?",
    "options": ["red", "blue"],
    "answer": "red",
    "answer_type": "choice_text",
    "category": "colour",
  }
  return {k: v for k, v in {**base, **changes}.items() if v is not ...}


def write(folder: Path, *rows) -> Path:
  (folder / "images").mkdir(exist_ok=True)
  (folder / "images" / "a.png").write_bytes(png())
  lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
  (folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
  return folder


def test_a_row_becomes_an_example(tmp_path):
  write(tmp_path, row(description="a red cell", seed_id=3))
  source = open_source(tmp_path)
  assert len(source) == 1
  example = source[np.int64(0)]
  assert example.id == "r0"
  assert example.images == (png(),)
  assert example.question == "which colour?\n(A) red\n(B) blue"
  assert (example.answer, example.answer_type) == ("red", "choice_text")
  assert example.options == ("red", "blue")
  assert example.description == "a red cell"
  assert example.extra == {"seed_id": 3}
  assert example.min_pixels is example.max_pixels is None
  with pytest.raises(IndexError):
    source[1]


def test_options_are_shown_only_if_asked_for_and_not_if_they_are_letters(
  tmp_path,
):
  write(tmp_path, row())
  hidden = open_source(tmp_path, show_options=False)[0]
  assert hidden.question == "which colour?"
  assert hidden.options == ("red", "blue")
  assert with_options("which?", ("A", "B")) == "which?"
  assert with_options("which?", ("B", "A")) == "which?\n(A) B\n(B) A"
  assert with_options("which?", ()) == "which?"


def test_values_and_defaults(tmp_path):
  write(
    tmp_path,
    row(id=7, answer=4, options=None, answer_type=...),
    row(id="b", answer=True, options=...),
    row(id="n", answer=None),
    row(id="m", image=["images/a.png", "images/a.png"]),
  )
  source = open_source(tmp_path)
  assert (source[0].id, source[0].answer) == ("7", "4")
  assert source[0].answer_type == "number"
  assert source[1].answer == "true"
  assert source[2].answer == ""
  assert source[3].images == (png(), png())


def test_a_row_may_have_pixel_limits_of_its_own(tmp_path):
  write(
    tmp_path,
    row(min_pixels=3136, max_pixels=50176),
    row(id="one", max_pixels=64),
    row(id="none", min_pixels=None),
  )
  source = open_source(tmp_path)
  limits = [(source[i].min_pixels, source[i].max_pixels) for i in range(3)]
  assert limits == [(3136, 50176), (None, 64), (None, None)]
  assert not source[0].extra


FAULTS = [
  ("{broken", "line 1", "JSON"),
  ("[1, 2]", "line 1", "JSON"),
  ("[" * 100_000, "line 1", "JSON"),
  (row(question=...), "r0", "missing columns: question"),
  (row(id=...), "row without id", "missing columns: id"),
  (row(question=" "), "r0", "empty question"),
  (row(question=["x"]), "r0", "'question' is a list"),
  (row(image=3), "r0", "no path"),
  (row(options="red"), "r0", "no list"),
  (row(options=[["red"]]), "r0", "not text"),
  (row(answer="green"), "r0", "not one of the options"),
  (row(answer="C", answer_type="choice_letter"), "r0", "no letter"),
  (row(answer_type="colour"), "r0", "answer_type 'colour'"),
  (row(answer="left", answer_type="box"), "r0", "of box: the reference"),
  (row(answer="many", answer_type="count"), "r0", "is no count"),
  (row(min_pixels=0), "r0", "min_pixels=0 is no whole number of pixels"),
  (row(max_pixels=-3), "r0", "max_pixels=-3 is no whole number"),
  (row(max_pixels=2.5), "r0", "max_pixels=2.5 is no whole number"),
  (row(max_pixels="64"), "r0", "max_pixels='64' is no whole number"),
  (row(max_pixels=True), "r0", "max_pixels=True is no whole number"),
  (row(max_pixels=10**30), "r0", "max_pixels=10* is no whole number"),
  (row(min_pixels=9, max_pixels=4), "r0", "min_pixels 9 is more than max_pix"),
  (row(image="images/none.png"), "r0", "missing"),
  (row(image="images"), "r0", "cannot be read"),
  (row(image="../out.png"), "r0", "leaves the data folder"),
  (row(image="/etc/hostname"), "r0", "leaves the data folder"),
  (row(image="images/link.png"), "r0", "leaves the data folder"),
  (row(image="images/a\0.png"), "r0", "cannot be read"),
  (row(image="images/empty.png"), "r0", "is empty"),
  (row(image="images/text.png"), "r0", "no readable picture"),
  (row(image="images/cut.png"), "r0", "no readable picture"),
  (row(image="images/huge.png"), "r0", "pixels"),
]


@pytest.mark.parametrize(("bad", "name", "reason"), FAULTS)
def test_each_fault_is_named_and_spares_the_other_rows(
  tmp_path, monkeypatch, bad, name, reason
):
  monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
  folder = tmp_path / "set"
  folder.mkdir()
  write(folder, bad, row(id="good"))
  (tmp_path / "out.png").write_bytes(png())
  images = folder / "images"
  (images / "link.png").symlink_to(tmp_path / "out.png")
  (images / "empty.png").write_bytes(b"")
  (images / "text.png").write_text("no picture")
  noise = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
  file = io.BytesIO()
  pil.fromarray(noise).save(file, "PNG")
  (images / "cut.png").write_bytes(file.getvalue()[:-900])
  (images / "huge.png").write_bytes(png(40))
  source = open_source(folder)
  with pytest.raises(BadRow, match=reason) as caught:
    source[0]
  assert caught.value.row == name
  assert source[1].id == "good"


def test_a_repeated_id_is_bad_and_blank_lines_are_none(tmp_path):
  write(tmp_path, row(), "", row(answer="blue"), row(id="other"))
  source = open_source(tmp_path)
  assert len(source) == 3
  assert source[0].answer == "red"
  with pytest.raises(BadRow, match="line 3 repeats the id of line 1"):
    source[1]
  assert source[2].id == "other"


def _ids(source):
  return {source[i].id for i in range(len(source))}


def test_splits_are_disjoint_stable_and_keep_groups_whole(tmp_path):
  rows = [
    row(id=f"s{scene}-{i}", scene=f"s{scene}", options=[], answer_type="text")
    for scene in range(60)
    for i in range(3)
  ]
  write(tmp_path, *rows)
  train = _ids(open_source(tmp_path, "train", group="scene"))
  test = _ids(open_source(tmp_path, "test", group="scene"))
  assert train | test == _ids(open_source(tmp_path))
  assert not train & test
  scenes = {name.split("-")[0] for name in test}
  assert len(test) == 3 * len(scenes)
  assert 3 <= len(scenes) <= 24  # 12 expected of 60
  # A pattern on ids names the same scenes; whole ids cut through them.
  options = {"group": "id", "group_pattern": "^(.*)-"}
  assert _ids(open_source(tmp_path, "test", **options)) == test
  alone = _ids(open_source(tmp_path, "test", group="id"))
  assert len({name.split("-")[0] for name in alone}) * 3 > len(alone)
  # Order and company do not matter.
  write(tmp_path, *rows[::-2])
  assert _ids(open_source(tmp_path, "test", group="scene")) <= test
  larger = open_source(tmp_path, "test", group="scene", test_share=0.9)
  assert len(larger) > len(rows) / 4


def test_the_hash_split_has_its_share():
  hits = sum(in_test_split(f"g{i}", 0.3) for i in range(4000))
  assert abs(hits / 4000 - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5
  assert not any(in_test_split(str(i), 0.0) for i in range(100))
  assert all(in_test_split(str(i), 1.0) for i in range(100))
  salted = [in_test_split(str(i), 0.5, "b") for i in range(64)]
  assert salted != [in_test_split(str(i), 0.5) for i in range(64)]


@pytest.mark.parametrize(
  ("options", "error", "message"),
  [
    ({"split": "dev"}, ValueError, "split='dev'"),
    ({"test_share": 1.5}, ValueError, "test_share=1.5"),
    ({"group_pattern": "("}, ValueError, "group_pattern"),
    ({"group_pattern": "x"}, ValueError, "no \\(group\\)"),
    ({"split": "test", "test_share": 0.0}, ValueError, "no rows in split"),
    ({"path": "nowhere"}, FileNotFoundError, "nowhere"),
  ],
)
def test_bad_arguments_are_named(tmp_path, options, error, message):
  write(tmp_path, row())
  with pytest.raises(error, match=message):
    open_source(**{"path": tmp_path, **options})


def test_the_repr_follows_what_the_rows_depend_on(tmp_path):
  write(tmp_path, row())
  one, other = open_source(tmp_path), open_source(tmp_path, show_options=False)
  assert repr(one) == repr(open_source(tmp_path / "data.jsonl"))
  assert repr(one) != repr(other)
  write(tmp_path, row(answer="blue"))
  assert repr(one) != repr(open_source(tmp_path))


@pytest.mark.parametrize(
  "name", ["shapes", "nlvr", "puzzlevqa", "mathvision", "dynamath"]
)
def test_third_party_rows_are_all_good(name):
  if not (VQA / name).is_dir():
    pytest.skip("third-party data is not here")
  source = open_source(VQA / name)
  # Every picture of the larger sets would take seconds; every 5th row will do.
  for index in range(0, len(source), 5):
    assert source[index].images


def test_where_pictures_lie_does_not_change_what_a_source_is(tmp_path):
  write(tmp_path, row())
  one = open_source(tmp_path)
  moved = open_source(tmp_path, image_folder=str(tmp_path))
  assert repr(one) == repr(moved)
  for options in (
    {"columns": "answer=category"},
    {"need_answer": True},
    {"group": "id"},
  ):
    assert repr(open_source(tmp_path, **options)) != repr(one)


def test_a_window_takes_rows_by_difficulty(tmp_path):
  values = [0, 0.2, 0.5, "0.8", 1, None, "hard"]
  rows = [{"question": f"{i}?", "difficulty": v} for i, v in enumerate(values)]
  path = write_jsonl(tmp_path / "x.jsonl", rows)
  source = open_source(path, difficulty="0.2:0.8")
  assert [source[i].question for i in range(3)] == ["1?", "2?", "3?"]
  assert source[1].extra["difficulty"] == 0.5
  assert len(source) == 5  # those without a number are bad, not passed over
  for index in (3, 4):
    with pytest.raises(BadRow, match="column 'difficulty' holds no number"):
      source[index]
  assert len(open_source(path, difficulty=":0.3")) == 4
  with pytest.raises(ValueError, match="no rows in split 'all', difficulty"):
    open_source(write_jsonl(path, rows[:5]), difficulty="2:3")


def test_difficulties_and_weights_name_their_columns(tmp_path):
  rows = [
    {"question": f"{i}?", "PassRate_7B": i / 10, "w": i} for i in range(9)
  ]
  path = write_jsonl(tmp_path / "x.jsonl", rows)
  with pytest.raises(ValueError, match='data.columns="difficulty=COLUMN"'):
    open_source(path, difficulty="0.2:0.8")
  source = open_source(
    path, difficulty="0.2:0.8", columns="difficulty=PassRate_7B"
  )
  assert len(source) == 7
  with pytest.raises(ValueError, match="weight_column='v': there is no such"):
    open_source(path, weight_column="v")
  drawn = open_source(path, weight_column="w")
  found = [drawn[i].question for i in range(len(drawn))]
  assert [found.count(f"{i}?") for i in range(9)] == list(range(9))
  rows[2]["w"] = -1
  drawn = open_source(write_jsonl(path, rows), weight_column="w")
  with pytest.raises(BadRow, match="column 'w' holds no weight of 0 or more"):
    [drawn[i] for i in range(len(drawn))]


@pytest.mark.parametrize("text", ["0.5", "a:b", "1:0", ":nan"])
def test_bad_windows_are_named(text):
  with pytest.raises(ValueError, match="give LOW:HIGH"):
    window(text)


def test_rows_about_one_picture_stay_together_however_it_is_held(tmp_path):
  """The same pictures as paths, bytes and base64: one picture, one side."""
  items = [
    Asked(f"q{i}", f"{i}?", str(i), (picture(i % 20),)) for i in range(80)
  ]
  for form in ("Geometry3K", "R1-V", "VLMEvalKit"):
    path = WRITERS[form](tmp_path, items)
    sides = []
    for split in ("train", "test"):
      source = open_source(path, split, test_share=0.4)
      rows = [source[i] for i in range(len(source))]
      sides.append({row.images for row in rows})
      assert len({row.group for row in rows}) == len(sides[-1])
      assert len(rows) == 4 * len(sides[-1])
    assert len(sides[0]) + len(sides[1]) == 20
    assert not sides[0] & sides[1]


def test_rows_without_ids_are_named_by_their_place(tmp_path):
  rows = [{"problem": f"{i}?", "answer": "1"} for i in range(3)]
  one = open_source(write_parquet(tmp_path / "a.parquet", rows))
  assert [one[i].id for i in range(3)] == ["row 1", "row 2", "row 3"]
  write_parquet(tmp_path / "two/b.parquet", rows)
  write_parquet(tmp_path / "two/c.parquet", rows)
  both = open_source(tmp_path / "two")
  assert [both[i].id for i in (0, 3)] == ["b row 1", "c row 1"]
  assert len({both[i].group for i in range(6)}) == 6


def test_an_id_that_another_file_has_is_told_apart(tmp_path):
  rows = [{"id": i, "problem": f"{i}?", "answer": "1"} for i in range(3)]
  write_parquet(tmp_path / "b.parquet", rows)
  write_parquet(tmp_path / "c.parquet", [*rows, rows[0]])
  source = open_source(tmp_path)
  assert [source[i].id for i in range(6)] == ["0", "1", "2"] + [
    f"c/{i}" for i in range(3)
  ]


def test_deep_nesting_and_broken_unicode_are_bad_rows(tmp_path):
  deep = '{"question": "1?", "more": ' + "[" * 900 + "]" * 900 + "}"
  rows = [{"question": "2?", "id": "\ud800"}, {"question": "\udc00?"}]
  path = tmp_path / "x.jsonl"
  lines = [deep, *map(json.dumps, rows), json.dumps({"question": "3?"})]
  path.write_text("\n".join(lines), encoding="utf-8")
  source = open_source(path)
  with pytest.raises(BadRow, match="nested too deeply|no readable JSON"):
    source[0]
  for index in (1, 2):
    with pytest.raises(BadRow, match="broken Unicode"):
      source[index]
  assert source[3].question == "3?"
  for group in ("id", "more"):
    halves = [open_source(path, s, group=group) for s in ("train", "test")]
    assert sum(map(len, halves)) == 4


def test_an_unknown_group_is_named(tmp_path):
  path = write_jsonl(tmp_path / "x.jsonl", [{"question": "?", "scene": 1}])
  with pytest.raises(ValueError, match="data.group='scnee': .* there are ques"):
    open_source(path, group="scnee")
  assert open_source(path, group="scene")[0].group == "1"
  assert open_source(path)[0].group == "line 1"


def test_pictures_may_lie_elsewhere(tmp_path):
  (tmp_path / "shown").mkdir()
  (tmp_path / "shown" / "a.png").write_bytes(png())
  path = write_jsonl(
    tmp_path / "rows" / "x.jsonl", [{"query": "?", "image": "a.png"}]
  )
  with pytest.raises(BadRow, match="'a.png' is missing"):
    open_source(path)[0]
  folder = str(tmp_path / "shown")
  assert open_source(path, image_folder=folder)[0].images == (png(),)
  with pytest.raises(FileNotFoundError, match="image_folder='none'"):
    open_source(path, image_folder="none")
