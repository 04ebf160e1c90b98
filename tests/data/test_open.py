"""Every format that is read: round trips, order and position, and mixes."""

import base64
import copy
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from mirl_jax.data.open import open_source
from mirl_jax.data.pipeline import batches
from mirl_jax.data.records import records_builder
from mirl_jax.data.source import BadRow, told
from mirl_jax.testing_data import (
  SINGLE,
  WRITERS,
  Asked,
  picture,
  questions,
  write_jsonl,
  write_parquet,
  write_tsv,
)

DATA = Path(__file__).parents[2].parent / "shared" / "data"
# What the line about a file says first, where it is another name.
NAMED = {
  "R1-V": "TRL",
  "ViRL39K": "columns by name",
  "ms-swift": "OpenAI messages",
  "OpenAI": "OpenAI messages",
  "Anthropic": "OpenAI messages",
}


def read(path, **options):
  source = open_source(path, **options)
  return [source[i] for i in range(len(source))]


def same(examples, items):
  """Whether these are the questions that were written."""
  assert len(examples) == len(items)
  for example, item in zip(examples, items, strict=True):
    assert example.question == item.question
    assert example.answer == item.answer
    assert example.images == item.pictures


@pytest.mark.parametrize("form", WRITERS)
def test_each_format_comes_back(tmp_path, form):
  items = questions(9)
  if form not in SINGLE:
    items.append(Asked("two", "Alike?", "no", (picture(7), picture(8))))
  if form == "VLMEvalKit":
    items.append(Asked("again", "And now?", "yes", items[2].pictures))
  path = WRITERS[form](tmp_path, items)
  examples = read(path)
  same(examples, items)
  assert [e.answer_type for e in examples[:9]] == ["number"] * 9
  assert len({e.id for e in examples}) == len(items)
  assert f": {NAMED.get(form, form)}, question=" in told(open_source(path))
  for example in examples:
    json.dumps(dict(example.extra))


def test_rows_keep_what_else_is_known(tmp_path):
  verl = read(WRITERS["verl"](tmp_path, questions(2)))[1]
  assert verl.extra["extra_info"]["index"] == 1
  assert verl.extra["reward_model"]["style"] == "rule"
  assert verl.category == "sums"
  virl = read(WRITERS["ViRL39K"](tmp_path, questions(2)))[1]
  assert (virl.id, virl.category) == ("q1", "sums")
  assert virl.extra["PassRate_7B"] == 0.5
  for form in ("ShareGPT", "ms-swift"):
    example = read(WRITERS[form](tmp_path, questions(2)))[0]
    assert example.extra["system"] == "Be brief."


@pytest.mark.parametrize("form", WRITERS)
def test_third_party_questions_come_back(tmp_path, form):
  folder = DATA / "vqa" / "geometry3k_examples"
  if not folder.is_dir():
    pytest.skip("third-party data is not here")
  items = [
    Asked(
      example.id, example.question, str(example.extra["answer_value"]), images
    )
    for example in read(folder, show_options=False)
    for images in [example.images]
  ]
  assert len(items) == 10
  same(read(WRITERS[form](tmp_path, items)), items)


@pytest.mark.parametrize(
  ("stem", "name", "shared"),
  [("mcq_puzzlevqa", "puzzlevqa", 25), ("vqa_mathvision", "mathvision", 20)],
)
def test_third_party_tsv_agrees_with_its_jsonl(stem, name, shared):
  """Some items stand in both; options in another order."""
  if not DATA.is_dir():
    pytest.skip("third-party data is not here")

  def answers(path):
    found = {}
    for e in read(path, show_options=False):
      letter = e.answer_type == "choice_letter"
      meant = e.options["ABCDE".index(e.answer)] if letter else e.answer
      found[e.question, e.images] = (meant, e.category)
    return found

  rows = answers(DATA / "bench_tsv" / f"{stem}.tsv")
  known = answers(DATA / "vqa" / name)
  assert len(rows) == 40
  both = rows.keys() & known.keys()
  assert len(both) == shared
  assert all(rows[key] == known[key] for key in both)


@pytest.mark.parametrize("form", [*WRITERS, "records", "mix", "weights"])
@pytest.mark.parametrize("stop", [0, 1, 5])
def test_order_is_fixed_and_any_position_is_exact(tmp_path, form, stop):
  items = questions(11)
  options = {}
  if form == "records":
    rows = open_source(WRITERS["Geometry3K"](tmp_path, items))
    records_builder(tmp_path, "t", {"train": rows}).download_and_prepare()
    path = f"tfds:mirl_records/t:{tmp_path}"
  elif form == "mix":
    one = WRITERS["verl"](tmp_path, items)
    path = f"{one}*3,{WRITERS['LLaVA'](tmp_path, questions(4, 1))}*1"
  elif form == "weights":
    path = write_parquet(
      tmp_path / "w.parquet",
      [
        {"question": x.question, "answer": "1", "w": i}
        for i, x in enumerate(items)
      ],
    )
    options = {"weight_column": "w"}
  else:
    path = WRITERS[form](tmp_path, items)

  def stream():
    return batches(open_source(path, **options), 3, seed=5)

  def take(data, count):
    return [[e.id for e in next(data)] for _ in range(count)]

  first, second, third = stream(), stream(), stream()
  assert take(first, stop) == take(second, stop)
  state = json.loads(json.dumps(first.get_state()))
  rest = take(first, 9)
  third.set_state(state)
  assert take(third, 9) == rest
  assert take(second, 9) == rest
  for data in (first, second, third):
    data.close()


def test_a_position_does_not_fit_changed_data(tmp_path):
  path = WRITERS["TRL"](tmp_path, questions(8))
  data = batches(open_source(path), 2)
  state = data.get_state()
  data.close()
  WRITERS["TRL"](tmp_path, questions(8, seed=3))
  other = batches(open_source(path), 2)
  with pytest.raises(ValueError, match="saved with source"):
    other.set_state(state)
  other.close()


def test_option_columns_become_options(tmp_path):
  path = write_tsv(
    tmp_path / "b.tsv",
    [
      {"index": 3, "question": "which?", "A": "one", "B": "two", "answer": "B"},
      {"index": 4, "question": "what?", "A": "", "B": "", "answer": 2},
    ],
  )
  first, second = read(path)
  assert first.question == "which?\n(A) one\n(B) two"
  assert (first.options, first.answer_type) == (("one", "two"), "choice_letter")
  assert (second.options, second.answer_type) == ((), "number")
  assert [first.id, second.id] == ["3", "4"]


def test_rows_without_a_picture_may_stand_among_others(tmp_path):
  rows = [
    {"conversations": [{"from": "human", "value": "why?"}], "id": "a"},
    {
      "conversations": [{"from": "human", "value": "<image>\nwhy?"}],
      "id": "b",
      "image": "a.png",
    },
  ]
  (tmp_path / "a.png").write_bytes(picture(0))
  first, second = read(write_jsonl(tmp_path / "x.jsonl", rows))
  assert (first.images, second.images) == ((), (picture(0),))
  assert first.question == second.question == "why?"


def test_a_tsv_may_name_files_in_place_of_base64(tmp_path):
  (tmp_path / "a.png").write_bytes(picture(0))
  rows = [{"index": 1, "image_path": "a.png", "question": "?", "answer": "b"}]
  rows.append({**rows[0], "index": 2, "image_path": "['a.png', 'a.png']"})
  first, second = read(write_tsv(tmp_path / "x.tsv", rows))
  assert first.images * 2 == second.images == (picture(0),) * 2


def test_pictures_may_stand_in_columns_of_their_own(tmp_path):
  rows = [
    {
      "id": f"q{i}",
      "question": "<image 1> or <image 2>?",
      "options": "['red', 'blue']",
      "answer": "B",
      **{
        f"image_{k}": {"bytes": picture(k), "path": None} if k <= i else None
        for k in range(1, 12)
      },
    }
    for i in range(12)
  ]
  path = write_parquet(tmp_path / "mmmu.parquet", rows)
  examples = read(path)
  for i, example in enumerate(examples):
    assert example.images == tuple(picture(k) for k in range(1, i + 1))
    assert (example.options, example.extra) == (("red", "blue"), {})
  assert "images=image_1-image_11" in told(open_source(path))
  # All but the first, which shows none, are about one first picture.
  assert len({example.group for example in examples}) == 2
  assert not read(path, columns="images=")[-1].images


def test_geometry3k_of_the_hub_is_asked_openly_unless_told(tmp_path):
  rows = [
    {
      "id": 7,
      "images": [{"bytes": picture(0), "path": None}],
      "problem": "<image>Find x.",
      "answer": "48",
      "choices": ["12", "48", "50", "52"],
      "ground_truth": "B",
    }
  ]
  path = write_parquet(tmp_path / "hub.parquet", rows)
  open_ended = read(path)[0]
  assert (open_ended.answer, open_ended.options) == ("48", ())
  assert open_ended.extra["ground_truth"] == "B"
  assert "options=choices,answer=ground_truth" in told(open_source(path))
  chosen = read(path, columns="options=choices,answer=ground_truth")[0]
  assert (chosen.answer, chosen.answer_type) == ("B", "choice_letter")
  assert chosen.question == "Find x.\n(A) 12\n(B) 48\n(C) 50\n(D) 52"


AMBIGUOUS = [
  (
    {"problem": "1?", "solution": "Add them: 3.", "answer": "3"},
    ["'answer'", "'solution'", 'data.columns="answer=solution"'],
  ),
  (
    {"question": "1?", "answer": "3", "image": "a.png", "images": ["a.png"]},
    ["'images'", "'image'", 'data.columns="images=image"'],
  ),
  (
    {"question": "1?", "problem": "2?", "answer": "3"},
    ["the question", 'data.columns="question=problem"'],
  ),
  (
    {"question": "1?", "answer": "3", "options": ["3", "4"], "choices": ["3"]},
    ["the options", 'data.columns="options=choices"'],
  ),
  (
    {"text": "1?", "answer": "3"},
    ["no column for the question", "answer, text"],
  ),
]


@pytest.mark.parametrize(("row", "said"), AMBIGUOUS)
def test_what_may_be_read_in_two_ways_is_refused_with_the_fix(
  tmp_path, row, said
):
  path = write_jsonl(tmp_path / "x.jsonl", [row])
  with pytest.raises(ValueError) as caught:  # noqa: PT011 - parts are below
    open_source(path)
  assert all(part in str(caught.value) for part in [str(path), *said])


def test_pictures_are_never_lost_in_silence(tmp_path):
  row = {"question": "1?", "answer": "3", "shown": [{"bytes": picture(0)}]}
  path = write_parquet(tmp_path / "x.parquet", [row])
  with pytest.raises(ValueError, match='data.columns="images=shown"'):
    open_source(path)
  assert read(path, columns="images=shown")[0].images == (picture(0),)
  assert read(path, columns="images=")[0].images == ()


def test_the_fix_that_is_named_works(tmp_path):
  path = write_jsonl(tmp_path / "x.jsonl", [AMBIGUOUS[0][0]])
  assert read(path, columns="answer=answer")[0].answer == "3"
  assert read(path, columns="answer=solution")[0].answer == "Add them: 3."
  # Two columns that say the same are one.
  agreeing = {
    "problem": "1?",
    "solution": "<answer> 3 </answer>",
    "answer": "3",
  }
  path = write_jsonl(tmp_path / "y.jsonl", [agreeing])
  assert read(path)[0].answer == "3"


@pytest.mark.parametrize(
  ("columns", "said"),
  [
    ("question", "no ROLE=COLUMN"),
    ("questoin=problem", "did you mean 'question'"),
    ("question=a,question=b", "gives question twice"),
    ("question=probelm", "did you mean 'problem'"),
  ],
)
def test_bad_column_settings_are_named(tmp_path, columns, said):
  path = write_jsonl(tmp_path / "x.jsonl", [{"problem": "1?", "answer": "3"}])
  with pytest.raises(ValueError, match=said):
    open_source(path, columns=columns)


def bomb():
  """A PNG whose header says 60,000 x 60,000 pixels."""
  data = bytearray(picture(4))
  data[16:24] = (60_000).to_bytes(4, "big") * 2
  data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
  return bytes(data)


# Changes of a good row of hub form, and what quarantine says.
FAULTS = {
  "not a picture": (
    {"images": [{"bytes": b"%PDF" * 30}]},
    "no readable picture",
  ),
  "cut": ({"images": [{"bytes": picture(1, 30)[:-99]}]}, "no readable picture"),
  "empty": (
    {"images": [{"bytes": b"", "path": "gone.png"}]},
    "is missing from",
  ),
  "nothing": ({"images": [{"bytes": None}]}, "neither bytes nor a path"),
  "bomb": ({"images": [{"bytes": bomb()}]}, "too many pixels"),
  "leaves": ({"images": [{"path": "../../etc/x"}]}, "leaves the data folder"),
  "url": ({"images": [{"path": "http://x/a.png"}]}, "nothing is fetched"),
  "asked for none": ({"problem": " "}, "empty question"),
  "no answer": ({"answer": None}, "no reference answer"),
  "two markers": ({"problem": "<image><image>?"}, "2 <image> in the question"),
  "clip": ({"videos": ["a.mp4"]}, "only pictures are supported"),
  "type": ({"answer_type": "smell"}, "answer_type 'smell' is none of"),
}


@pytest.mark.parametrize("write", ["parquet", "json", "tsv"])
def test_bad_rows_are_quarantined_by_id_and_replaced(tmp_path, write):
  rows = [
    {"id": f"good {i}", "images": [{"bytes": picture(i)}], "problem": f"{i}?"}
    for i in range(30)
  ]
  rows += [
    {"id": name, "images": [{"bytes": picture(0)}], "problem": "?", **change}
    for name, (change, _) in copy.deepcopy(FAULTS).items()
  ]
  for row in rows:
    row.setdefault("answer", "1")
    row.setdefault("videos", [])
    row.setdefault("answer_type", "number")
    for image in row["images"]:
      image.setdefault("bytes", None)
      image.setdefault("path", None)
  if write == "parquet":
    path = write_parquet(tmp_path / "x.parquet", rows)
  elif write == "json":  # bytes are base64 there
    for image in [image for row in rows for image in row["images"]]:
      if image["bytes"] is not None:
        image["bytes"] = base64.b64encode(image["bytes"]).decode()
    path = write_jsonl(tmp_path / "x.jsonl", rows)
  else:
    for row in rows:
      image = row.pop("images")[0]
      data = image["bytes"]
      row["image"] = base64.b64encode(data).decode() if data else image["path"]
      row["videos"] = "".join(row["videos"])
    path = write_tsv(tmp_path / "x.tsv", rows)
  skipped = {"nothing", "empty"} if write == "tsv" else set()
  quarantine = tmp_path / "quarantine.jsonl"
  data = batches(
    open_source(path, need_answer=True),
    5,
    epochs=1,
    quarantine=quarantine,
    max_bad_share=0.5,
  )
  found = [example.id for batch in data for example in batch]
  assert set(found) - skipped == {f"good {i}" for i in range(30)}
  lines = quarantine.read_text("utf-8").splitlines()
  said = {entry["row"]: entry["reason"] for entry in map(json.loads, lines)}
  for name, (_, reason) in FAULTS.items():
    if name not in skipped:
      assert reason in said[name], (name, said[name])
  assert data.bad >= len(said)  # a replacement may be bad in its turn


def test_a_row_without_an_answer_is_bad_where_one_is_needed(tmp_path):
  rows = [{"question": "1?", "answer": None}, {"question": "2?", "answer": "2"}]
  path = write_jsonl(tmp_path / "x.jsonl", rows)
  assert read(path)[0].answer == ""
  source = open_source(path, need_answer=True)
  with pytest.raises(BadRow, match="no reference answer"):
    source[0]
  assert source[1].answer == "2"


def test_data_without_answers_is_refused_where_they_are_needed(tmp_path):
  rows = [{"question": "1?", "text": "one"}]
  path = write_jsonl(tmp_path / "x.jsonl", rows)
  assert read(path)[0].answer == ""
  with pytest.raises(ValueError, match="no column for the answer among quest"):
    open_source(path, need_answer=True)
  found = read(path, need_answer=True, columns="answer=text")
  assert found[0].answer == "one"
  for form in ("OpenAI", "Geometry3K", "verl"):
    open_source(WRITERS[form](tmp_path, questions(2)), need_answer=True)


def test_a_mix_has_its_shares_and_its_parts_follow_what_they_have(tmp_path):
  one = WRITERS["verl"](tmp_path, questions(30))
  other = write_jsonl(
    tmp_path / "other.jsonl",
    [{"text": f"{i}?", "answer": str(i)} for i in range(10)],
  )
  source = open_source(f"{one}*2,{other}*1", columns="question=text")
  ids = [source[i].id.partition("/")[0] for i in range(len(source))]
  assert len(source) == 45
  # In any stretch, to within one row of each.
  for start, end in np.random.default_rng(0).integers(0, 46, (50, 2)):
    part = ids[min(start, end) : max(start, end)]
    assert abs(part.count("verl") - 2 / 3 * len(part)) <= 2
  assert len({source[i].id for i in range(45)}) == 40
  plain = open_source(f"{one},{other}", columns="question=text")
  assert len({plain[i].id for i in range(len(plain))}) == len(plain) == 40
  tested = open_source(
    f"{one}*2,{other}*1", "test", columns="question=text", test_share=0.5
  )
  assert len({tested[i].id for i in range(len(tested))}) == len(tested)
  open_source(f"{one},{other}", columns="question=text,options=")
  with pytest.raises(ValueError, match="no part of .* has such a column"):
    open_source(f"{one},{other}", columns="question=nothing")


def test_hub_folders_split_by_file_names(tmp_path):
  items = questions(12)
  rows = [{"problem": x.question, "answer": x.answer} for x in items]
  names = [
    ("data/train-00000-of-00002", rows[:5]),
    ("data/train-00001-of-00002", rows[5:9]),
    ("data/validation-00000-of-00001", rows[9:]),
  ]
  for name, part in names:
    write_parquet(tmp_path / "set" / f"{name}.parquet", part)
  folder = tmp_path / "set"

  def asked(*arguments):
    return [e.question for e in read(*arguments)]

  want = [item.question for item in items]
  source = open_source(folder, "train")
  assert [source[i].question for i in range(len(source))] == want[:9]
  source = open_source(folder, "test")
  assert [source[i].question for i in range(len(source))] == want[9:]
  assert asked(folder) == want
  assert asked(f"{folder}@validation") == want[9:]
  assert len({e.id for e in read(folder)}) == 12
