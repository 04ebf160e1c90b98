import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from mirl_jax.data.example import Example
from mirl_jax.policy import images as im
from mirl_jax.policy import processing as pc
from mirl_jax.policy.prompts import question_hash
from mirl_jax.policy.tokenizer import write_tiny_directory

TEXTS = ("How many red circles are there?", "Is it left of the square?") * 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp("tiny")
  write_tiny_directory(out, TEXTS, 300)
  return out


@pytest.fixture(scope="module")
def tiny(folder):
  return pc.load_processor(folder)


def picture(seed, height=48, width=48):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def example(name="q", *images, question="How many circles are there?"):
  return Example(name, images, question, "2")


def wide(processor, side):
  """The same processor with windows of `side` merge units."""
  pixels = side * processor.images.factor
  vision = dataclasses.replace(processor.config.vision, window=pixels)
  return dataclasses.replace(
    processor,
    config=dataclasses.replace(processor.config, vision=vision),
    images=dataclasses.replace(processor.images, window_units=side),
  )


def test_a_48_pixel_picture_is_nine_tokens(tiny):
  e = example("q", picture(0))
  length, slots = tiny.measure(e)
  assert slots == 36
  batch = tiny.prompts([e], length, slots)
  image = batch.tokens[0] == tiny.config.image_token
  assert image.sum() == 9
  np.testing.assert_array_equal(batch.image_slot[0, image], np.arange(9))
  assert np.all(batch.image_slot[0, ~image] == -1)
  assert np.all(batch.mask)
  assert batch.question[0] == question_hash("q")
  first = int(np.argmax(image))
  corner = batch.positions[0, :, first + 8]
  assert corner.tolist() == [first, first + 2, first + 2]
  assert batch.next_position[0] == length - 9 + 3
  text = tiny.decode(batch.tokens[0])
  assert text == (
    "<|im_start|>user\n<|vision_start|>"
    + "<|image_pad|>" * 9
    + "<|vision_end|>"
    "How many circles are there?<|im_end|>\n<|im_start|>assistant\n"
  )


@pytest.mark.parametrize("side", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_slots_hold_each_placeholders_pixels_in_its_window(tiny, side, seed):
  """Two unequal pictures; grids that the window does not divide."""
  processor = wide(tiny, side)
  rng = np.random.default_rng(seed)
  sizes = rng.integers(20, 150, (2, 2))
  shown = [picture(seed + i, *size) for i, size in enumerate(sizes)]
  e = example("two", *shown)
  length, slots = processor.measure(e)
  window = processor.config.vision.window_patches
  batch = processor.prompts([e], length + 3, slots + window)
  want, numbers, places, windows = [], [], [], []
  for number, image in enumerate(shown, 1):
    patches, (rows, columns) = im.patchify(image, processor.images)
    want.append(patches)
    for i in range(rows * columns):
      row, column = divmod(i, columns)
      numbers.append(number)
      windows.append((number, row // side, column // side))
      places.append(
        [[2 * row + a, 2 * column + b] for a in (0, 1) for b in (0, 1)]
      )
  at = batch.image_slot[0][batch.image_slot[0] >= 0]
  units = batch.patches[0].reshape(-1, 4, batch.patches.shape[-1])
  np.testing.assert_array_equal(units[at], np.concatenate(want))
  np.testing.assert_array_equal(batch.patch_hw[0].reshape(-1, 4, 2)[at], places)
  owner = batch.patch_image[0].reshape(-1, 4)
  np.testing.assert_array_equal(owner[at], np.repeat([numbers], 4, 0).T)
  # Slots of a window are consecutive: one window per span, one span per window.
  span = at // side**2
  pairs = set(zip(span.tolist(), windows, strict=True))
  assert len(pairs) == len(set(span.tolist())) == len(set(windows))
  # Everything else is padding.
  rest = np.setdiff1d(np.arange(len(units)), at)
  assert not owner[rest].any()
  assert not units[rest].any()


def test_measure_equals_encode_under_every_view(tiny):
  rng = np.random.default_rng(3)
  for seed in range(6):
    shown = [
      picture(seed, *rng.integers(20, 200, 2)) for _ in range(rng.integers(3))
    ]
    e = example("q", *shown)
    for view in ("clean", "blank", "removed", "masked:0.5"):
      encoded = tiny.encode(e, view)
      assert tiny.measure(e, view) == (len(encoded.tokens), encoded.slots)


def test_blank_view_is_a_grey_picture(tiny):
  e = example("q", picture(0, 50, 90))
  grey = example("q", np.full((50, 90, 3), 128, np.uint8))
  blank, want = tiny.encode(e, "blank"), tiny.encode(grey)
  np.testing.assert_array_equal(blank.patches, want.patches)
  np.testing.assert_array_equal(blank.tokens, tiny.encode(e).tokens)


def test_removed_view_is_a_text_only_prompt(tiny):
  e = example("q", picture(0), picture(1))
  removed = tiny.prompts([e], 40, 0, view="removed")
  plain = tiny.prompts([dataclasses.replace(e, images=())], 40, 0)
  for got, want in zip(
    vars(removed).values(), vars(plain).values(), strict=True
  ):
    np.testing.assert_array_equal(got, want)
  assert np.all(removed.image_slot == -1)
  assert removed.next_position[0] == removed.mask.sum()


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 1.0])
def test_masked_view_blanks_that_share_of_the_units(tiny, rate):
  e = example("q", picture(0), picture(1, 96, 48))
  clean, masked = tiny.encode(e), tiny.encode(e, f"masked:{rate}")
  grey = im.grey_patch(tiny.images)
  blanked = np.all(masked.patches == grey, axis=(1, 2))
  assert blanked.sum() == round(rate * 27)
  np.testing.assert_array_equal(
    masked.patches[~blanked], clean.patches[~blanked]
  )


@pytest.mark.parametrize(
  "view", ["clean", "blank", "removed", "masked:0.5", "masked:1"]
)
def test_pictures_decoded_before_give_the_same_prompt(tiny, view, monkeypatch):
  e = example("q", picture(0), picture(1, 96, 48))
  want = tiny.encode(e, view, 3)
  pictures = tiny.pictures(e)
  kept = [patches.copy() for patches in pictures.patches]
  monkeypatch.setattr(im, "decode", None)  # calling it would fail
  got = tiny.encode(e, view, 3, pictures)
  for a, b in zip(vars(got).values(), vars(want).values(), strict=True):
    np.testing.assert_array_equal(a, b)
  # One view does not spoil the next.
  got.patches[:] = 9
  for patches, before in zip(pictures.patches, kept, strict=True):
    np.testing.assert_array_equal(patches, before)


def test_mask_depends_on_question_and_seed_only(tiny):
  def blanked(name, seed, shown=1):
    units = tiny.encode(example(name, picture(shown)), "masked:0.5", seed)
    return np.all(units.patches == im.grey_patch(tiny.images), axis=(1, 2))

  np.testing.assert_array_equal(blanked("a", 0), blanked("a", 0, shown=2))
  others = [blanked("a", 0), blanked("b", 0), blanked("a", 1), blanked("b", 1)]
  assert len({mask.tobytes() for mask in others}) == 4


@pytest.mark.parametrize(
  "view", ["blurred", "masked", "masked:1.5", "masked:x", "clean:1", ""]
)
def test_unknown_views_are_named(tiny, view):
  with pytest.raises(ValueError, match=f"unknown view '{view}'; expected"):
    tiny.encode(example("q", picture(0)), view)


def test_other_pictures_can_be_shown_under_the_same_question(tiny):
  a = example("a", picture(0), question="Which one?")
  b = example("b", picture(1, 96, 48), picture(2), question="How many?")
  shown = [tiny.pictures(b), tiny.pictures(a)]
  swapped = tiny.prompts([a, b], 60, 120, pictures=shown)
  want = tiny.prompts(
    [
      dataclasses.replace(a, images=b.images),
      dataclasses.replace(b, images=a.images),
    ],
    60,
    120,
  )
  for got, expected in zip(
    vars(swapped).values(), vars(want).values(), strict=True
  ):
    np.testing.assert_array_equal(got, expected)
  with pytest.raises(ValueError, match="pictures has 1 entries for 2 example"):
    tiny.prompts([a, b], 60, 120, pictures=shown[:1])


def test_a_row_does_not_depend_on_its_batch(tiny):
  rows = [example(str(i), picture(i, 30 + 20 * i, 60)) for i in range(4)]
  batch = tiny.prompts(rows, 70, 200, "masked:0.3")
  for i, row in enumerate(rows):
    alone = tiny.prompts([row], 70, 200, "masked:0.3")
    for got, want in zip(
      vars(batch).values(), vars(alone).values(), strict=True
    ):
      np.testing.assert_array_equal(got[i], want[0])


def test_encoded_pictures_equal_their_arrays(tiny):
  pixels = picture(5, 70, 41)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, "PNG")
  a = tiny.encode(example("q", pixels))
  b = tiny.encode(example("q", buffer.getvalue()))
  np.testing.assert_array_equal(a.patches, b.patches)


def test_errors_name_the_example(tiny):
  with pytest.raises(ValueError, match="example 'bad', image 2: cannot read"):
    tiny.encode(example("bad", picture(0), b"nonsense"))
  with pytest.raises(ValueError, match="example 'bad', image 1: cannot read"):
    tiny.measure(example("bad", b"nonsense"))
  sneaky = example("bad", picture(0), question="Is <|image_pad|> red?")
  with pytest.raises(ValueError, match=r"'bad'.*2 image placeholders for 1"):
    tiny.encode(sneaky)
  film = example("bad", question="Is <|video_pad|> red?")
  with pytest.raises(ValueError, match=r"'bad'.*video is not supported"):
    tiny.encode(film)
  with pytest.raises(ValueError, match="example 'big' needs 36 patch slots"):
    tiny.prompts([example("big", picture(0))], 60, 32)


def test_system_and_instruction_are_put_into_the_prompt(folder):
  told = pc.load_processor(folder, system="Be terse.", instruction="Use tags.")
  assert told.render("Why?", 1) == (
    "<|im_start|>system\nBe terse.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
    "Why?\nUse tags.<|im_end|>\n<|im_start|>assistant\n"
  )


def test_pixel_limits_can_be_replaced(folder, tiny):
  e = example("q", picture(0, 200, 200))
  assert tiny.measure(e)[1] == 144
  small = pc.load_processor(folder, max_pixels=48 * 48)
  assert small.measure(e)[1] == 36
  large = pc.load_processor(folder, min_pixels=96 * 96)
  assert large.measure(example("q", picture(0)))[1] == 144


@pytest.mark.parametrize(
  ("limits", "slots"),
  [
    ({}, 144),
    ({"max_pixels": 48 * 48}, 36),
    ({"min_pixels": 192 * 192, "max_pixels": 192 * 192}, 576),
  ],
)
def test_a_questions_own_pixel_limits_go_first(tiny, limits, slots):
  """Its neighbour keeps the directory's, and so does the question itself
  where it shows the neighbour's picture."""
  e = example("q", picture(0, 200, 200))
  own = dataclasses.replace(e, **limits)
  length, found = tiny.measure(own)
  assert found == slots
  batch = tiny.prompts([own, e], length + 108, 576)
  assert (batch.patch_image[0] > 0).sum() == slots
  assert (batch.patch_image[1] > 0).sum() == 144
  settings = dataclasses.replace(tiny.images, **limits)
  want, _ = im.patchify(e.images[0], settings)
  np.testing.assert_array_equal(tiny.encode(own).patches, want)
  assert tiny.encode(own, pictures=tiny.pictures(e)).slots == 144


@pytest.mark.parametrize(
  ("limits", "message"),
  [
    ({"min_pixels": 0}, "min_pixels 0: give a number of pixels above 0"),
    ({"max_pixels": -4}, "max_pixels -4: give a number of pixels above 0"),
    ({"min_pixels": 9217}, "min_pixels 9217 is more than max_pixels 9216"),
    ({"max_pixels": 9}, "min_pixels 576 is more than max_pixels 9"),
  ],
)
def test_contradictory_limits_name_the_question(tiny, limits, message):
  e = dataclasses.replace(example("odd", picture(0)), **limits)
  for use in (tiny.measure, tiny.encode, tiny.pictures):
    with pytest.raises(ValueError, match=f"example 'odd': {message}"):
      use(e)


def test_a_row_that_asks_for_too_much_is_measured_all_the_same(tiny):
  huge = {"min_pixels": 2**62, "max_pixels": 2**63 - 1}
  length, slots = tiny.measure(
    dataclasses.replace(example("q", picture(0)), **huge)
  )
  assert length > 2**50
  assert slots > 2**52


def test_pixel_limits_can_be_written_down(tmp_path):
  write_tiny_directory(tmp_path, TEXTS, 300)
  file = tmp_path / "preprocessor_config.json"
  content = json.loads(file.read_text())
  content["size"] = {"shortest_edge": 1, "longest_edge": 2}
  file.write_text(json.dumps(content))
  used = pc.load_processor(tmp_path, min_pixels=2304, max_pixels=4608).images
  pc.write_pixel_limits(tmp_path, used)
  assert pc.load_processor(tmp_path).images == used
  size = json.loads(file.read_text())["size"]
  assert size == {"shortest_edge": 2304, "longest_edge": 4608}


def test_decode_and_encode_text_are_inverse(tiny):
  text = "<description>a Überbild, 三角</description>\n<think>1 + 2</think>"
  ids = tiny.encode_text(text)
  assert tiny.decode(ids) == text
  assert tiny.decode(ids.tolist()) == text
  assert tiny.decode(tiny.encode_text("三")[:-1]) == "\ufffd"
  assert tiny.decode([]) == ""


def copy(folder, out):
  for file in folder.iterdir():
    (out / file.name).write_bytes(file.read_bytes())


def test_a_template_of_its_own_goes_before_the_tokenizers(folder, tmp_path):
  copy(folder, tmp_path)
  (tmp_path / "chat_template.json").write_text(
    json.dumps({"chat_template": "legacy"})
  )
  assert pc.load_processor(tmp_path).render("Why?", 0) == "legacy"
  (tmp_path / "chat_template.jinja").write_text("newest")
  assert pc.load_processor(tmp_path).render("Why?", 0) == "newest"


@pytest.mark.parametrize(
  "name", ["config.json", "preprocessor_config.json", "tokenizer.json"]
)
def test_missing_files_are_named(folder, tmp_path, name):
  copy(folder, tmp_path)
  (tmp_path / name).unlink()
  with pytest.raises(ValueError, match=f"has no .*{name}"):
    pc.load_processor(tmp_path)


def test_a_vision_pad_that_config_json_leaves_out_is_banned(
  folder, tmp_path, tiny
):
  copy(folder, tmp_path)
  file = tmp_path / "config.json"
  content = json.loads(file.read_text())
  pad = content.pop("vision_token_id")
  assert pad in tiny.config.banned_tokens
  file.write_text(json.dumps(content))
  assert pc.load_processor(tmp_path).config == tiny.config


def test_a_directory_without_template_is_named(folder, tmp_path):
  copy(folder, tmp_path)
  file = tmp_path / "tokenizer_config.json"
  config = json.loads(file.read_text())
  del config["chat_template"]
  file.write_text(json.dumps(config))
  with pytest.raises(ValueError, match="has no single chat template"):
    pc.load_processor(tmp_path)
