import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mirl_jax.policy import images as im
from mirl_jax.policy.families.qwen2_5_vl import Vision

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "vqa"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def tiny(low=576, high=9216):
  return im.ImageSettings(8, 2, 2, 1, low, high, (0.5,) * 3, (0.25,) * 3)


def full(low=3136, high=200_704):
  return im.ImageSettings(14, 2, 2, 4, low, high, CLIP_MEAN, CLIP_STD)


def qwen25():
  """As published with the 7B."""
  return full(high=12_845_056)


def qwen3():
  """As published with Qwen3-VL-8B-Instruct."""
  half = (0.5,) * 3
  return im.ImageSettings(16, 2, 2, 1, 65_536, 16_777_216, half, half)


def reference(settings):
  """transformers' own processor, PIL backend."""
  module = pytest.importorskip(
    "transformers.models.qwen2_vl.image_processing_pil_qwen2_vl"
  )
  return module.Qwen2VLImageProcessorPil(
    patch_size=settings.patch,
    temporal_patch_size=settings.temporal_patch,
    merge_size=settings.merge,
    min_pixels=settings.min_pixels,
    max_pixels=settings.max_pixels,
    image_mean=list(settings.mean),
    image_std=list(settings.std),
  )


KINDS = ("tiny", "full", "qwen25", "qwen3")
SETTINGS = (tiny(), full(), qwen25(), qwen3())


def encoded(image, kind="PNG", **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def assert_equals_reference(data, settings, shown=None):
  shown = Image.open(io.BytesIO(data)) if shown is None else shown
  want = reference(settings)(images=shown, return_tensors="np")
  patches, (rows, columns) = im.patchify(data, settings)
  grid = [1, rows * settings.merge, columns * settings.merge]
  assert want["image_grid_thw"].tolist() == [grid]
  assert im.unit_grid(data, settings) == (rows, columns)
  assert patches.dtype == np.float32
  got = patches.reshape(-1, patches.shape[-1])
  # Equal roundings, so equal but for the last bit.
  np.testing.assert_allclose(got, want["pixel_values"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS, ids=KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_patches_equal_transformers_on_random_pictures(settings, seed):
  rng = np.random.default_rng(seed)
  height, width = rng.integers(5, 700, 2)
  pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
  picture = Image.fromarray(pixels)
  kind = ("PNG", "JPEG")[seed % 2]
  assert_equals_reference(encoded(picture, kind), settings)
  np.testing.assert_array_equal(
    im.patchify(pixels, settings)[0],
    im.patchify(encoded(picture), settings)[0],
  )


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
def test_every_mode_becomes_rgb_as_in_transformers(mode):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (40, 50, 4), np.uint8)
  if mode == "I;16":
    wide = rng.integers(0, 65536, (40, 50)).astype(np.uint16)
    picture = Image.fromarray(wide)
  else:
    picture = Image.fromarray(pixels).convert(mode)
  options = {"transparency": 3} if mode == "P" else {}
  kind = "TIFF" if mode == "CMYK" else "PNG"
  assert_equals_reference(encoded(picture, kind, **options), full())


def test_transparency_is_laid_over_white():
  clear = np.zeros((32, 32, 4), np.uint8)
  assert np.all(im.decode(clear) == 255)
  assert np.all(im.decode(np.zeros((32, 32), np.uint8)) == 0)
  assert im.decode(np.zeros((32, 32, 1), np.uint8)).shape == (32, 32, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture(orientation):
  from PIL import ImageOps

  pixels = np.random.default_rng(1).integers(0, 256, (30, 90, 3), np.uint8)
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = encoded(Image.fromarray(pixels), "JPEG", exif=exif)
  upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
  assert im.image_size(data) == upright.size[::-1]
  assert_equals_reference(data, tiny(), upright)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_exif_that_cannot_be_read_turns_nothing(kind):
  pixels = np.random.default_rng(1).integers(0, 256, (30, 90, 3), np.uint8)
  picture = Image.fromarray(pixels)
  plain = encoded(picture, kind)
  broken = encoded(picture, kind, exif=b"Exif\0\0garbage")
  assert broken != plain
  assert im.image_size(broken) == (30, 90)
  np.testing.assert_array_equal(im.decode(broken), im.decode(plain))


@pytest.mark.parametrize(
  "name", ["mathvision", "algopuzzlevqa", "dynamath", "nlvr", "shapes"]
)
@pytest.mark.parametrize(
  "count", [3, pytest.param(None, marks=pytest.mark.slow)]
)
def test_patches_equal_transformers_on_real_pictures(name, count):
  """Three pictures of each set; all of them with `-m slow`."""
  files = sorted((DATA / name / "images").glob("*"))
  if not files:
    pytest.skip(f"no {DATA / name}")
  for file in files[:: len(files) // count if count else 1]:
    for settings in SETTINGS:
      assert_equals_reference(file.read_bytes(), settings)


@pytest.mark.parametrize(
  "limits", [(1, 3136), (784, 50_000), (90_000, 90_000), (10**6, 10**7)]
)
@pytest.mark.parametrize("settings", [qwen25(), qwen3()], ids=KINDS[2:])
def test_limits_of_one_picture_equal_those_of_a_call(settings, limits):
  """transformers' processor called with limits, ours cut with them."""
  low, high = limits
  rng = np.random.default_rng(low)
  pixels = rng.integers(0, 256, (300, 401, 3), np.uint8)
  want = reference(settings)(
    images=Image.fromarray(pixels),
    size={"shortest_edge": low, "longest_edge": high},
    return_tensors="np",
  )
  patches, _ = im.patchify(pixels, im.with_limits(settings, low, high))
  got = patches.reshape(-1, patches.shape[-1])
  np.testing.assert_allclose(got, want["pixel_values"], rtol=0, atol=1e-6)
  plain, _ = im.patchify(pixels, settings)
  assert plain.shape != patches.shape


def test_resized_sizes_are_within_the_limits():
  rng = np.random.default_rng(0)
  for _ in range(500):
    settings = (tiny(), full())[rng.integers(2)]
    height, width = (int(x) for x in np.exp(rng.uniform(1, 7.5, 2)))
    if max(height, width) > 200 * min(height, width):
      continue
    tall, wide = im.smart_resize(height, width, settings)
    assert tall % settings.factor == wide % settings.factor == 0
    assert tall * wide >= settings.min_pixels
    # One side may not shrink below a merge unit.
    if min(tall, wide) > settings.factor:
      assert tall * wide <= settings.max_pixels


def test_pixel_limits_change_the_size():
  assert im.smart_resize(48, 48, tiny()) == (48, 48)
  assert im.smart_resize(480, 480, tiny()) == (96, 96)
  assert im.smart_resize(480, 480, tiny(high=2304)) == (48, 48)
  assert im.smart_resize(8, 8, tiny()) == (32, 32)


@pytest.mark.parametrize(
  ("image", "message"),
  [
    (b"not a picture", "cannot read an image of 13 bytes"),
    (np.zeros((4, 4, 3)), r"must be uint8 .* float64 \[4, 4, 3\]"),
    (np.zeros((4, 4, 2), np.uint8), r"must be uint8 .* \[4, 4, 2\]"),
    (np.zeros((0, 4, 3), np.uint8), r"empty: \[0, 4, 3\]"),
    (np.zeros((1, 201, 3), np.uint8), "1x201 pixels is too narrow"),
  ],
)
def test_bad_pictures_are_named(image, message):
  with pytest.raises(ValueError, match=message):
    im.patchify(image, tiny())


def test_a_truncated_picture_is_named():
  pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  data = encoded(Image.fromarray(pixels), "JPEG")
  with pytest.raises(ValueError, match="cannot decode a JPEG image of 64x64"):
    im.patchify(data[: len(data) // 2], tiny())


@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (3, 7), (9, 2), (5, 11)])
def test_window_order_equals_transformers(grid, side):
  torch = pytest.importorskip("torch")
  utils = pytest.importorskip("transformers.vision_utils")
  rows, columns = grid
  settings = im.ImageSettings(14, 2, 2, side, 1, 2, CLIP_MEAN, CLIP_STD)
  slots = im.unit_slots(rows, columns, settings)
  thw = torch.tensor([[1, 2 * rows, 2 * columns]])
  order, borders = utils.get_vision_window_index(thw, 2, 28 * side, 14)
  np.testing.assert_array_equal(np.argsort(slots), order.numpy())
  used = np.bincount(slots // side**2) * 4
  np.testing.assert_array_equal(np.cumsum(used), borders.numpy()[1:])
  windows = im.window_count(rows, columns, settings)
  assert len(used) == windows
  assert slots.max() < windows * side**2
  places = utils.get_vision_position_ids(thw, 2).numpy()
  ours = im.patch_places(rows, columns, 2)
  np.testing.assert_array_equal(ours.reshape(-1, 2), places)


def test_grey_patch_is_the_patch_of_a_grey_picture():
  for settings in (tiny(), full()):
    grey = np.full((56, 84, 3), 128, np.uint8)
    patches, _ = im.patchify(grey, settings)
    want = np.broadcast_to(im.grey_patch(settings), patches.shape)
    np.testing.assert_array_equal(patches, want)


def vision(**changes):
  sizes = {
    "depth": 3,
    "width": 64,
    "heads": 4,
    "mlp": 128,
    "out_width": 96,
    "patch": 8,
    "temporal_patch": 2,
    "merge": 2,
    "window": 16,
    "full_blocks": (2,),
  }
  return Vision(**{**sizes, **changes})


FILE = {
  "patch_size": 8,
  "temporal_patch_size": 2,
  "merge_size": 2,
  "min_pixels": 576,
  "max_pixels": 9216,
  "image_mean": [0.5] * 3,
  "image_std": [0.25] * 3,
}


def test_settings_are_read_in_both_spellings_of_the_limits():
  assert im.read_settings(FILE, vision()) == tiny()
  sized = {k: v for k, v in FILE.items() if "pixels" not in k}
  sized["size"] = {"shortest_edge": 576, "longest_edge": 9216}
  assert im.read_settings(sized, vision()) == tiny()
  wide = im.read_settings(FILE, vision(window=112))
  assert wide.window_units == 7


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"patch_size": 14}, "patch_size=14, but .* has 8"),
    ({"merge_size": 1}, "merge_size=1, but .* has 2"),
    ({"do_resize": False}, "do_resize=false, which is not supported"),
    ({"image_mean": None}, "lacks image_mean"),
    ({"max_pixels": None}, "lacks max_pixels"),
    ({"max_pixels": 100}, "min_pixels 576 is more than max_pixels 100"),
    ({"min_pixels": -5}, "min_pixels -5: give a number of pixels above 0"),
  ],
)
def test_contradictory_settings_are_named(change, message):
  with pytest.raises(ValueError, match=message):
    im.read_settings({**FILE, **change}, vision())
