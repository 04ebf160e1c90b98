"""A row's pictures, as encoded bytes on which nothing later can fail.

Each picture is decoded once where it is read: whatever is wrong with it makes
its row a bad one, by name. Depths that an 8-bit conversion would cut off are
encoded anew; everything else stays as it was stored.
"""

import base64
import binascii
import io
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pil
from PIL import ImageOps, UnidentifiedImageError

from mirl_jax.data.source import BadRow

MAX_PIXELS = 50_000_000  # larger pictures are taken for decompression bombs
MAX_BYTES = 4 * MAX_PIXELS  # of a file or a value
# No format whose decoder runs another program (EPS) or opens further files.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
pil.init()  # with a list of formats, PIL itself loads only some of them
# Modes that become 8-bit RGB without loss of what one sees.
_PLAIN = frozenset(
  ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
)
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,", re.I)
_URL = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://", re.I)
# How PNG, JPEG, GIF, WebP and TIFF begin in base64.
_MAGIC = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkqA", "TU0AK")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_SHORT = 64  # characters; no picture is so small, but a path or an index is


def check_picture(data: bytes, name: str, row: str) -> bytes:
  """The bytes of a picture that decodes; 16 bits per pixel become 8.

  Args:
    data: as stored.
    name: of the picture, for the reason.
    row: id of its row.

  Raises:
    BadRow: if it is empty, no picture, torn, zero-sized, too large, or of a
      mode that no 8-bit picture stands for.
  """
  if not data:
    raise BadRow(row, f"{name} is empty")
  try:
    with pil.open(io.BytesIO(data), formats=FORMATS) as image:
      pixels = image.width * image.height
      if 0 < pixels <= MAX_PIXELS:
        image.load()
        if image.mode in _PLAIN:
          return data
        mode, deep = image.mode, _eight_bits(image)
  except UnidentifiedImageError:
    # PIL's own message holds an address, which differs between runs.
    raise BadRow(
      row, f"{name} is no readable picture: it begins with {data[:8]!r}"
    ) from None
  except pil.DecompressionBombError as error:
    raise BadRow(row, f"{name} has too many pixels: {error}") from error
  # Decoders raise nearly anything on hostile bytes: SyntaxError, struct.error…
  except Exception as error:
    raise BadRow(row, f"{name} is no readable picture: {error}") from error
  if not pixels:
    raise BadRow(row, f"{name} is zero-sized")
  if pixels > MAX_PIXELS:
    raise BadRow(row, f"{name} has {pixels} pixels; at most {MAX_PIXELS}")
  if deep is None:
    raise BadRow(
      row, f"{name} has the mode {mode!r}, not 8 bits; save it as RGB"
    )
  return deep


def _eight_bits(image: pil.Image) -> bytes | None:
  """A 16-bit grey picture as an 8-bit PNG; None for any other mode.

  PIL clips 16 bits to 255 instead, which leaves a white picture.
  """
  if image.mode != "I" and not image.mode.startswith("I;16"):
    return None
  values = np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)
  if values.min() < 0 or values.max() >= 2**16:
    return None
  file = io.BytesIO()
  pil.fromarray((values >> 8).astype(np.uint8)).save(file, "PNG")
  return file.getvalue()


def read_file(root: Path, name: str, row: str) -> bytes:
  """The bytes of a picture inside of a folder, checked.

  Raises:
    BadRow: if it leaves the folder (also by a link), is missing or no plain
      file; and as `check_picture`.
  """
  try:
    path = (root / name).resolve()
    inside = path.is_relative_to(root.resolve())
  except (OSError, ValueError, RuntimeError) as error:
    raise BadRow(row, f"image path {name!r} cannot be read: {error}") from error
  if not inside:
    raise BadRow(row, f"image path {name!r} leaves the data folder {root}")
  try:
    found = path.stat()
    # Opening a pipe would wait for its other end.
    if not stat.S_ISREG(found.st_mode):
      raise BadRow(row, f"image {name!r} cannot be read: it is no file")
    if found.st_size > MAX_BYTES:
      raise BadRow(
        row, f"image {name!r} has {found.st_size} bytes; at most {MAX_BYTES}"
      )
    data = path.read_bytes()
  except (FileNotFoundError, NotADirectoryError):
    raise BadRow(row, f"image {name!r} is missing from {root}") from None
  except (OSError, ValueError) as error:
    raise BadRow(row, f"image {name!r} cannot be read: {error}") from error
  return check_picture(data, f"image {name!r}", row)


def read_base64(text: str, name: str, row: str) -> bytes:
  """The bytes behind base64 text, with or without a data-URI's head.

  Raises:
    BadRow: if it is none; and as `check_picture`.
  """
  head = _DATA_URI.match(text)
  try:
    data = base64.b64decode(
      "".join(text[head.end() if head else 0 :].split()), validate=True
    )
  except (binascii.Error, ValueError) as error:
    raise BadRow(row, f"{name} is no base64: {error}") from error
  return check_picture(data, name, row)


def is_base64(text: str) -> bool:
  """Whether a text is a picture in base64 and not a path."""
  if text.startswith(_MAGIC):
    return True
  return len(text) > _SHORT and _BASE64.fullmatch(text) is not None


def read_picture(value: Any, root: Path, row: str, number: int = 1) -> bytes:
  """The encoded bytes of whatever a data set puts for a picture.

  Args:
    value: bytes, a path, base64, a data-URI, or a mapping with one of these
      as `bytes`, `path`, `url`, `image`, `data` or `base64`.
    root: the folder that paths are relative to.
    row: id of the row.
    number: of the picture in its row, for the reason.

  Raises:
    BadRow: for a URL or anything else; and as `check_picture`.
  """
  name = f"image {number}"
  if isinstance(value, bytes | bytearray | memoryview):
    return check_picture(bytes(value), name, row)
  if isinstance(value, Mapping):
    for key in ("bytes", "data", "base64", "path", "url", "image"):
      held = value.get(key)
      if isinstance(held, str) and held and key in ("bytes", "data", "base64"):
        return read_base64(held, name, row)
      if held:
        return read_picture(held, root, row, number)
    raise BadRow(row, f"{name} has neither bytes nor a path")
  if not isinstance(value, str) or not value:
    kind = type(value).__name__
    raise BadRow(row, f"{name} holds no path and no picture, but a {kind}")
  if value[:5].lower() == "data:" or is_base64(value):
    return read_base64(value, name, row)
  if _URL.match(value):
    raise BadRow(
      row,
      f"{name} is at {value[:80]!r}; nothing is fetched: download it and give"
      " its path",
    )
  return read_file(root, value.removeprefix("file://"), row)
