"""A folder of pictures, from the argument to a trained policy."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mirl_jax import build
from mirl_jax.command_line import load_config, override
from mirl_jax.runs.metrics import read_metrics
from mirl_jax.sft import optimizer_values, sft
from mirl_jax.train import train

FILE = Path(__file__).parents[2] / "configs" / "mirl_jsonl.py"
VQA = Path(__file__).parents[2].parent / "shared" / "data" / "vqa"
COLORS = {"red": (255, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 255)}


def config(argument, *overrides):
  given = [f"--config.{text}" for text in overrides]
  return override(load_config(f"{FILE}:{argument}"), given)


@pytest.mark.parametrize(
  ("argument", "complaint"),
  [
    ("", "say where the data is"),
    ("describe=shapes", "say where the data is"),
    ("path", "'path' in the argument .* is no field=value"),
    ("pth=a", "no field 'pth'; did you mean 'path'"),
    ("path=a,path=b", "gives path twice"),
    ("path=a,describe=shape", "describe=shape is none of shapes, nlvr"),
    ("path=a,test_share=few", "test_share=few"),
    ("path=a,method=gpro", "no method 'gpro'; did you mean 'grpo'"),
  ],
)
def test_bad_arguments_are_named(argument, complaint):
  with pytest.raises(ValueError, match=complaint):
    config(argument)


def test_fields_reach_the_config():
  c = config("path=a b/c=d, test=e,test_share=.3,group=id,group_pattern=^(.)")
  assert c.data.train == "a b/c=d"
  assert c.data.test == "e"
  assert c.data.test_share == 0.3
  assert (c.data.group, c.data.group_pattern) == ("id", "^(.)")
  assert c.method == "mirl"
  one_stage = config("path=a,describe=shapes,method=grpo")
  both = one_stage.program.response.max_tokens
  mirl = config("path=a,describe=shapes")
  parts = mirl.program.describe.max_tokens + mirl.program.reason.max_tokens
  assert parts * 0.9 < both <= parts


def test_a_reward_file_pays_the_last_stage():
  c = config("path=a")
  assert build.own_names(c) == {}
  c = config("path=a,reward=mine.py", "credit.reason.own.weight=0.5")
  assert c.reward.file == "mine.py"
  (term,) = [x for x in build.make_terms(c) if x.source == "own"]
  assert (term.stage, term.weight) == ("reason", 0.5)
  c = config("path=a,reward=mine.py,method=grpo")
  assert build.own_names(c) == {"response": ("own", "own_failed")}


def test_a_data_set_brings_its_groups_unless_others_are_given():
  nlvr = config("path=a,describe=nlvr").data
  assert (nlvr.group, nlvr.group_pattern) == ("id", "^(.*)-")
  other = config("path=a,describe=nlvr,group=image").data
  assert (other.group, other.group_pattern) == ("image", "")
  assert config("path=a").data.group == "image"


def test_adaptation_has_a_learning_rate_of_its_own():
  values = optimizer_values(config("path=a"))
  assert (values["lr"], values["schedule"]) == (1e-3, "cosine")
  same = optimizer_values(config("path=a", "sft.lr=0", "optimizer.lr=2e-5"))
  assert (same["lr"], same["schedule"]) == (2e-5, "constant")


@pytest.mark.parametrize(("name", "tokens"), [("shapes", 9), ("nlvr", 36)])
def test_real_pictures_fill_their_visual_tokens(name, tokens):
  folder = VQA / name
  if not folder.is_dir():
    pytest.skip(f"{name} is not here")
  c = config(f"path={folder},describe={name}")
  policy = build.make_policy(c)
  train_rows = build.make_source(c, "train", policy)
  test_rows = build.make_source(c, "test", policy)
  rng = np.random.default_rng(0)
  groups = []
  for rows in (train_rows, test_rows):
    some = [rows[int(i)] for i in rng.choice(len(rows), 40, replace=False)]
    groups.append({example.group for example in some})
    for example in some:
      ids = policy.processor.encode(example).tokens
      assert (ids == policy.config.image_token).sum() == tokens
      # A SHAPES cell and a visual token are the same square.
      assert not example.regions or len(example.regions) == tokens
      assert example.description
      assert example.answer in ("true", "false")
  assert not groups[0] & groups[1]
  # The file is sorted by question; its held-out rows may not be.
  assert len({test_rows[i].question for i in range(10)}) > 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Twelve rows about one-coloured squares; one of them without its picture,
  one without a description."""
  out = tmp_path_factory.mktemp("squares")
  (out / "images").mkdir()
  rows = []
  for i in range(12):
    color = list(COLORS)[i % 3]
    name = f"images/{i}.png"
    Image.new("RGB", (30, 30), COLORS[color]).save(out / name)
    rows.append(
      {
        "id": f"square {i}",
        "image": name,
        "question": "which color?",
        "answer": color,
        "answer_type": "text",
        "description": f"e {color} square",
        "reasoning": color,
        "source": "a column that nothing reads",
      }
    )
  rows[3]["image"] = "images/gone.png"
  del rows[5]["description"]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (out / "data.jsonl").write_text(lines, encoding="utf-8")
  return out


def quarantined(workdir):
  lines = (workdir / "quarantine.jsonl").read_text("utf-8").splitlines()
  return {row["row"]: row["reason"] for row in map(json.loads, lines)}


def test_a_folder_is_adapted_to_and_trained_on(folder, tmp_path):
  """Two steps of each mode, every row drawn; the second starts where the first
  ended."""
  short = (
    "policy.min_pixels=2304",
    "program.describe.max_tokens=6",
    "program.describe.fanout=4",
    "program.keep.k=2",
    "program.reason.max_tokens=6",
    "sft.response_length=48",
    "sft.steps=2",
    "sft.batch=6",
    "train.steps=2",
    "train.questions=6",
    "eval.batch=4",
    "eval.samples=1",
    "eval.every=0",
    "eval.final_questions=4",
  )
  argument = f"path={folder},test={folder}"
  first, second = tmp_path / "sft", tmp_path / "rl"

  assert sft(config(argument, *short), str(first)) == 0
  bad = quarantined(first)
  assert "gone.png" in bad["square 3"]
  assert "no description" in bad["square 5"]

  model = f"policy.path={first / 'model'}"
  c = config(argument, *short, model)
  assert train(c, str(second)) == 0
  # Without demonstrations there is no need for a description.
  assert set(quarantined(second)) == {"square 3"}
  assert read_metrics(second)[-1]["step"] == 2
  assert (second / "summary.json").is_file()
  assert (second / "report.html").is_file()

  # The adapted directory remembers how large its pictures were.
  plain = config(argument, model)
  assert plain.policy.min_pixels == 0
  assert build.make_policy(plain).processor.images.min_pixels == 2304
  start = build.make_policy(config(argument)).processor.images
  assert start.min_pixels != 2304
