"""Pictures on the host: decode, resize, cut into patches, lay out windows."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image as pil

from mirl_jax.data.example import Image
from mirl_jax.policy.configs import VisionConfig

_GREY = 128  # the pixel value of a blanked patch
_MAX_ASPECT = 200
_ORIENTATION = 0x0112  # EXIF tag
# What brings a picture of each orientation upright; 5 to 8 swap the sides.
_TURNS = {
  2: pil.Transpose.FLIP_LEFT_RIGHT,
  3: pil.Transpose.ROTATE_180,
  4: pil.Transpose.FLIP_TOP_BOTTOM,
  5: pil.Transpose.TRANSPOSE,
  6: pil.Transpose.ROTATE_270,
  7: pil.Transpose.TRANSVERSE,
  8: pil.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageSettings:
  """How a picture becomes patches, from `preprocessor_config.json`.

  Attributes:
    min_pixels, max_pixels: limits on height x width after resizing.
    mean, std: per channel, on pixels rescaled to 0..1.
    rescale: factor on the uint8 pixels.
    resample: PIL's number of the filter (3 is bicubic).
  """

  patch: int
  temporal_patch: int
  merge: int
  window_units: int
  min_pixels: int
  max_pixels: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  rescale: float = 1 / 255
  resample: int = 3

  @property
  def factor(self) -> int:
    """Pixels along a side of a merge unit."""
    return self.patch * self.merge


def _check_limits(low: int, high: int) -> None:
  for field, value in (("min_pixels", low), ("max_pixels", high)):
    if value <= 0:
      raise ValueError(f"{field} {value}: give a number of pixels above 0")
  if low > high:
    raise ValueError(
      f"min_pixels {low} is more than max_pixels {high}; change both"
    )


def with_limits(
  settings: ImageSettings,
  min_pixels: int | None = None,
  max_pixels: int | None = None,
) -> ImageSettings:
  """The settings with other pixel limits; None keeps a limit.

  Raises:
    ValueError: for limits that are not positive or contradict each other.
  """
  low = settings.min_pixels if min_pixels is None else min_pixels
  high = settings.max_pixels if max_pixels is None else max_pixels
  _check_limits(low, high)
  return replace(settings, min_pixels=low, max_pixels=high)


def read_settings(
  config: Mapping[str, Any], vision: VisionConfig
) -> ImageSettings:
  """Reads a parsed `preprocessor_config.json` of the Qwen2-VL kind.

  Raises:
    ValueError: where it contradicts the vision tower or switches off a step
      that the tower's patches need.
  """
  for step in ("do_convert_rgb", "do_resize", "do_rescale", "do_normalize"):
    if config.get(step, True) is False:
      raise ValueError(
        f"preprocessor_config.json has {step}=false, which is not supported"
      )
  for field, value in (
    ("patch_size", vision.patch),
    ("temporal_patch_size", vision.temporal_patch),
    ("merge_size", vision.merge),
  ):
    if config.get(field, value) != value:
      raise ValueError(
        f"preprocessor_config.json has {field}={config[field]}, but "
        f"config.json's vision tower has {value}"
      )
  size = config.get("size") or {}
  needed: dict[str, Any] = {
    "min_pixels": config.get("min_pixels") or size.get("shortest_edge"),
    "max_pixels": config.get("max_pixels") or size.get("longest_edge"),
    "image_mean": config.get("image_mean"),
    "image_std": config.get("image_std"),
  }
  missing = [name for name, value in needed.items() if not value]
  if missing:
    raise ValueError(f"preprocessor_config.json lacks {', '.join(missing)}")
  low, high = int(needed["min_pixels"]), int(needed["max_pixels"])
  _check_limits(low, high)
  return ImageSettings(
    patch=vision.patch,
    temporal_patch=vision.temporal_patch,
    merge=vision.merge,
    window_units=vision.window_units,
    min_pixels=low,
    max_pixels=high,
    mean=tuple(map(float, needed["image_mean"])),
    std=tuple(map(float, needed["image_std"])),
    rescale=float(config.get("rescale_factor", 1 / 255)),
    resample=config.get("resample", 3),
  )


def _open(image: Image) -> pil.Image:
  """A lazy PIL image: of encoded bytes only the header is read."""
  if isinstance(image, bytes):
    try:
      return pil.open(io.BytesIO(image))
    except Exception as error:
      raise ValueError(
        f"cannot read an image of {len(image)} bytes "
        f"(starting {image[:8]!r}): {error}"
      ) from error
  flat = image.ndim == 2
  if image.dtype != np.uint8 or not (
    flat or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
  ):
    raise ValueError(
      "an image array must be uint8 [height, width, 1, 3 or 4]; got "
      f"{image.dtype} {list(image.shape)}"
    )
  if not image.size:
    raise ValueError(f"an image is empty: {list(image.shape)}")
  if not flat and image.shape[2] == 1:
    image = image[..., 0]
  return pil.fromarray(np.ascontiguousarray(image))


def _orientation(opened: pil.Image) -> int:
  """EXIF orientation; 1, upright, where there is none to be read."""
  try:
    found = opened.getexif().get(_ORIENTATION)
  except Exception:  # many a camera writes EXIF that no reader takes
    return 1
  return found if isinstance(found, int) else 1


def image_size(image: Image) -> tuple[int, int]:
  """Height and width as shown (EXIF turned), without decoding pixels.

  Raises:
    ValueError: for bytes that are not a picture.
  """
  opened = _open(image)
  width, height = opened.size
  if _orientation(opened) in (5, 6, 7, 8):
    return width, height
  return height, width


def decode(image: Image) -> UInt8[np.ndarray, "h w 3"]:
  """RGB pixels, upright, with transparency laid over white.

  Raises:
    ValueError: for bytes that are not a picture or end early.
  """
  opened = _open(image)
  try:
    turn = _TURNS.get(_orientation(opened))
    upright = opened if turn is None else opened.transpose(turn)
    if (
      "A" in upright.getbands() or upright.info.get("transparency") is not None
    ):
      upright = upright.convert("RGBA")
      white = pil.new("RGBA", upright.size, (255, 255, 255, 255))
      upright = pil.alpha_composite(white, upright)
    return np.array(upright.convert("RGB"))
  except Exception as error:
    raise ValueError(
      f"cannot decode a {opened.format} image of {opened.size[0]}x"
      f"{opened.size[1]} pixels: {error}"
    ) from error


def smart_resize(
  height: int, width: int, settings: ImageSettings
) -> tuple[int, int]:
  """The size that a picture is resized to before it is cut into patches.

  Both sides become multiples of the merge unit and their product lies within
  the pixel limits, at about the same aspect ratio (Qwen2-VL, arXiv
  2409.12191, section 2.1).

  Raises:
    ValueError: where one side is more than 200 times the other.
  """
  if max(height, width) > _MAX_ASPECT * min(height, width):
    raise ValueError(
      f"an image of {height}x{width} pixels is too narrow: one side may be at "
      f"most {_MAX_ASPECT} times the other; crop or pad it"
    )
  factor = settings.factor
  area = height * width
  # Python's round (half to even), as the reference does.
  tall, wide = (round(side / factor) * factor for side in (height, width))
  if tall * wide > settings.max_pixels:
    shrink = math.sqrt(area / settings.max_pixels)
    tall, wide = (
      max(factor, math.floor(side / shrink / factor) * factor)
      for side in (height, width)
    )
  elif tall * wide < settings.min_pixels:
    grow = math.sqrt(settings.min_pixels / area)
    tall, wide = (
      math.ceil(side * grow / factor) * factor for side in (height, width)
    )
  return tall, wide


def unit_grid(image: Image, settings: ImageSettings) -> tuple[int, int]:
  """Rows and columns of merge units of a picture, from its size alone.

  Raises:
    ValueError: for an unreadable or too narrow picture.
  """
  tall, wide = smart_resize(*image_size(image), settings)
  return tall // settings.factor, wide // settings.factor


def _normalised(
  settings: ImageSettings,
) -> Float[np.ndarray, "c 256"]:
  """What each uint8 value of each channel becomes.

  Computed in the reference's order of roundings: float64 rescaling, then
  float32 normalisation.
  """
  values = (np.arange(256) * np.float64(settings.rescale)).astype(np.float32)
  mean = np.array(settings.mean, np.float32)[:, None]
  std = np.array(settings.std, np.float32)[:, None]
  return (values - mean) / std


def patchify(
  image: Image, settings: ImageSettings
) -> tuple[Float[np.ndarray, "units slots dim"], tuple[int, int]]:
  """Normalised patches of one picture, merge units in row-major order.

  Returns:
    [units, merge**2, channels * temporal * patch**2] float32, each patch
    flattened (channel, time, row, column), the still repeated in time: it is
    `pixel_values` of transformers with the merge units on an axis of their
    own. And the rows and columns of merge units.

  Raises:
    ValueError: for an unreadable or too narrow picture.
  """
  pixels = decode(image)
  height, width = pixels.shape[:2]
  tall, wide = smart_resize(height, width, settings)
  if (height, width) != (tall, wide):
    resized = pil.fromarray(pixels).resize((wide, tall), settings.resample)
    pixels = np.array(resized)
  table = _normalised(settings)
  planes = np.stack([table[c][pixels[..., c]] for c in range(len(table))])
  m, p, t = settings.merge, settings.patch, settings.temporal_patch
  rows, columns = tall // settings.factor, wide // settings.factor
  cut = planes.reshape(-1, rows, m, p, columns, m, p)
  cut = cut.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
  still = np.broadcast_to(cut, (*cut.shape[:5], t, p, p))
  return still.reshape(rows * columns, m * m, -1), (rows, columns)


def grey_patch(settings: ImageSettings) -> Float[np.ndarray, " dim"]:
  """The patch of a constant mid-grey picture: what a blanked patch holds."""
  per_channel = _normalised(settings)[:, _GREY]
  return np.repeat(per_channel, settings.temporal_patch * settings.patch**2)


def window_count(rows: int, columns: int, settings: ImageSettings) -> int:
  """Attention windows of a grid of merge units, partial ones included."""
  side = settings.window_units
  return -(-rows // side) * -(-columns // side)


def unit_slots(
  rows: int, columns: int, settings: ImageSettings
) -> Int[np.ndarray, " units"]:
  """The merged slot of each merge unit in window-padded order.

  Windows follow each other in row-major order, and units inside of a window
  too; a partial window keeps its full number of slots, the absent units' being
  padding.

  Args:
    rows, columns: grid of merge units, row-major.
    settings: for the window's side.
  """
  side = settings.window_units
  row, column = np.divmod(np.arange(rows * columns), columns)
  window = (row // side) * -(-columns // side) + column // side
  inside = (row % side) * side + column % side
  return window * side**2 + inside


def patch_places(
  rows: int, columns: int, merge: int
) -> Int[np.ndarray, "units slots 2"]:
  """Row and column of every patch of a grid of merge units."""
  unit = np.stack(np.divmod(np.arange(rows * columns), columns), axis=-1)
  inside = np.stack(np.divmod(np.arange(merge**2), merge), axis=-1)
  return unit[:, None] * merge + inside
