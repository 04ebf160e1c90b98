"""Qwen2.5-VL and Qwen3-VL as published, against transformers' processors."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mirl_jax.data.example import Example
from mirl_jax.policy import processing as pc

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
GOLDENS = SHARED / "goldens" / "qwen25vl_processor.jsonl"
QWEN25 = SHARED / "qwen" / "qwen2.5-vl-7b-instruct"
QWEN3 = SHARED / "qwen" / "qwen3-vl-embedding-8b"
COLUMNS = {
  "set",
  "id",
  "image",
  "user_text",
  "rendered",
  "n_image_tokens",
  "ids_before_image",
  "ids_after_image",
  "n_ids",
  "grid_thw",
  "pixel_values_shape",
  "pv_mean",
  "pv_std",
  "pv_first_patch_head",
  "pv_last_patch_tail",
  "pv_row_means_every",
}
# Where the goldens (transformers 4.57.1) and transformers 5 differ, by how
# much: the mean of the largest picture, whose rows' means agree. A float32 sum
# of 38 million pixels.
DIFFERENT = {("mathv_2945", "pv_mean"): 5e-5}


def golden_rows():
  if not GOLDENS.is_file():
    pytest.skip(f"no {GOLDENS}")
  return [json.loads(line) for line in GOLDENS.read_text().splitlines()]


@pytest.fixture(scope="module")
def qwen25():
  if not QWEN25.is_dir():
    pytest.skip(f"no {QWEN25}")
  return QWEN25


@pytest.fixture(scope="module")
def qwen3(qwen25, tmp_path_factory):
  """Its published files, with the merges of Qwen2.5, which are the same."""
  if not QWEN3.is_dir():
    pytest.skip(f"no {QWEN3}")
  out = tmp_path_factory.mktemp("qwen3")
  for file in (*QWEN3.iterdir(), qwen25 / "vocab.json", qwen25 / "merges.txt"):
    if file.is_file():
      shutil.copyfile(file, out / file.name)
  return out


@pytest.fixture(scope="module")
def ours(qwen25, qwen3):
  return {
    "qwen2_5_vl": pc.load_processor(qwen25),
    "qwen3_vl": pc.load_processor(qwen3),
  }


@pytest.fixture(scope="module")
def theirs(qwen25, qwen3):
  """Whole processors of transformers, made without the one for video."""
  transformers = pytest.importorskip("transformers")
  pil = pytest.importorskip(
    "transformers.models.qwen2_vl.image_processing_pil_qwen2_vl"
  )
  legacy = json.loads((qwen25 / "chat_template.json").read_text("utf-8"))
  out = {}
  for name, folder, kind, template in (
    (
      "qwen2_5_vl",
      qwen25,
      transformers.Qwen2_5_VLProcessor,
      legacy["chat_template"],
    ),
    (
      "qwen3_vl",
      qwen3,
      transformers.Qwen3VLProcessor,
      (qwen3 / "chat_template.jinja").read_text("utf-8"),
    ),
  ):

    class StillsOnly(kind):
      def check_argument_for_proper_class(self, name, argument):
        return type(argument)  # video processors need torchvision

    out[name] = StillsOnly(
      pil.Qwen2VLImageProcessorPil.from_pretrained(folder),
      transformers.AutoTokenizer.from_pretrained(folder),
      None,
      chat_template=template,
    )
  return out


def assert_equals_theirs(ours, theirs, example):
  """The prompt as text, its ids, grids and pixels, through whole processors."""
  content = [{"type": "image"}] * len(example.images)
  content = [*content, {"type": "text", "text": example.question}]
  messages = [{"role": "user", "content": content}]
  if ours.system:
    messages.insert(0, {"role": "system", "content": ours.system})
  rendered = theirs.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=False
  )
  assert ours.render(example.question, len(example.images)) == rendered
  shown = [Image.open(io.BytesIO(x)).convert("RGB") for x in example.images]
  want = theirs(text=[rendered], images=shown or None, return_tensors="np")
  got = ours.encode(example)
  assert got.tokens.tolist() == want["input_ids"][0].tolist()
  if not shown:
    assert not got.slots
    return
  pixels = got.patches.reshape(-1, got.patches.shape[-1])
  np.testing.assert_allclose(pixels, want["pixel_values"], rtol=0, atol=1e-5)
  grids = [
    [1, *(got.patch_hw[got.patch_image == i].reshape(-1, 2).max(0) + 1)]
    for i in range(1, len(shown) + 1)
  ]
  np.testing.assert_array_equal(grids, want["image_grid_thw"])


def test_every_golden_row(ours):
  """Every column of the rows made with transformers 4.57.1."""
  qwen = ours["qwen2_5_vl"]
  rows = golden_rows()
  assert len(rows) == 100
  for row in rows:
    assert set(row) == COLUMNS
    image = (SHARED / row["image"]).read_bytes()
    e = Example(row["id"], (image,), row["user_text"], "")
    assert qwen.render(e.question, 1) == row["rendered"]
    encoded = qwen.encode(e)
    tokens = encoded.tokens.tolist()
    assert tokens == (
      row["ids_before_image"]
      + [qwen.config.image_token] * row["n_image_tokens"]
      + row["ids_after_image"]
    )
    assert len(tokens) == row["n_ids"]
    assert qwen.measure(e) == (row["n_ids"], encoded.slots)
    corner = encoded.patch_hw.reshape(-1, 2).max(0)
    assert [1, *(corner + 1)] == row["grid_thw"]
    pixels = encoded.patches.reshape(-1, encoded.patches.shape[-1])
    assert list(pixels.shape) == row["pixel_values_shape"]
    # The goldens are rounded to 6 digits, their means summed in float32.
    near = {"rtol": 0, "atol": 6e-7}
    np.testing.assert_allclose(
      pixels[0, :12], row["pv_first_patch_head"], **near
    )
    np.testing.assert_allclose(
      pixels[-1, -12:], row["pv_last_patch_tail"], **near
    )
    assert len(row["pv_row_means_every"]) >= 8
    for i, mean in row["pv_row_means_every"]:
      assert abs(pixels[i].mean(dtype=np.float64) - mean) < 1e-6
    for column, got in (
      ("pv_mean", pixels.mean(dtype=np.float64)),
      ("pv_std", pixels.std(dtype=np.float64)),
    ):
      atol = DIFFERENT.get((row["id"], column), 1e-5)
      assert abs(got - row[column]) < atol, (row["id"], column)


@pytest.mark.parametrize(
  "stride", [10, pytest.param(1, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_prompts_equal_the_installed_transformers(ours, theirs, family, stride):
  """With the goldens, this also says how transformers 5 differs from 4.57.1."""
  for row in golden_rows()[::stride]:
    image = (SHARED / row["image"]).read_bytes()
    e = Example(row["id"], (image,), row["user_text"], "")
    assert_equals_theirs(ours[family], theirs[family], e)


@pytest.mark.parametrize("system", ["", "Be terse."])
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_any_number_of_pictures(ours, theirs, family, count, system):
  rng = np.random.default_rng(count)
  shown = []
  for _ in range(count):
    size = (*rng.integers(20, 400, 2), 3)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(buffer, "PNG")
    shown.append(buffer.getvalue())
  told = dataclasses.replace(ours[family], system=system)
  e = Example("q", tuple(shown), "Wie viele? {{ '三' }}\n(A) 1", "")
  assert_equals_theirs(told, theirs[family], e)


def test_qwen3_opens_with_its_own_system_message(ours):
  assert ours["qwen3_vl"].render("Why?", 2) == (
    "<|im_start|>system\nRepresent the user's input.<|im_end|>\n"
    "<|im_start|>user\n"
    + "<|vision_start|><|image_pad|><|vision_end|>" * 2
    + "Why?<|im_end|>\n<|im_start|>assistant\n"
  )


INSTRUCT = {
  "size": {"longest_edge": 16777216, "shortest_edge": 65536},
  "patch_size": 16,
  "temporal_patch_size": 2,
  "merge_size": 2,
  "image_mean": [0.5, 0.5, 0.5],
  "image_std": [0.5, 0.5, 0.5],
  "processor_class": "Qwen3VLProcessor",
  "image_processor_type": "Qwen2VLImageProcessorFast",
}


def test_qwen3_settings_load_in_both_spellings(ours, qwen3, tmp_path):
  found = ours["qwen3_vl"].images
  assert (found.patch, found.merge, found.window_units) == (16, 2, 1)
  assert found.mean == found.std == (0.5, 0.5, 0.5)
  assert (found.min_pixels, found.max_pixels) == (4096, 1310720)
  shutil.copytree(qwen3, tmp_path, dirs_exist_ok=True)
  file = tmp_path / "preprocessor_config.json"
  file.write_text(json.dumps(INSTRUCT))
  instruct = pc.load_processor(tmp_path).images
  assert instruct == dataclasses.replace(
    found, min_pixels=65536, max_pixels=16777216
  )
  pc.write_pixel_limits(
    tmp_path, pc.load_processor(tmp_path, max_pixels=99999).images
  )
  written = json.loads(file.read_text())
  assert written["size"] == {"longest_edge": 99999, "shortest_edge": 65536}
  assert pc.load_processor(tmp_path).images.max_pixels == 99999


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_no_vision_placeholder_can_be_generated(ours, theirs, family):
  names = ["vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]
  tokenizer = theirs[family].tokenizer
  ids = tokenizer.convert_tokens_to_ids([f"<|{name}|>" for name in names])
  assert ours[family].config.banned_tokens == tuple(sorted(ids))
  assert None not in ids
