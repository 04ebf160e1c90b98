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
from mirl_jax.data.table import in_test_split

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
