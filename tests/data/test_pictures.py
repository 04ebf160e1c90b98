"""Pictures in every way that data sets hold them, and each fault by name."""

import base64
import io
import os
import zlib

import numpy as np
import pytest
from PIL import Image as pil

from mirl_jax.data import pictures
from mirl_jax.data.pictures import check_picture, is_base64, read_picture
from mirl_jax.data.source import BadRow
from mirl_jax.policy.images import decode, image_size
from mirl_jax.testing_data import picture


def encoded(image: pil.Image, kind: str) -> bytes:
  file = io.BytesIO()
  image.save(file, kind)
  return file.getvalue()


def ramp(top: int) -> np.ndarray:
  return np.linspace(0, top, 64).reshape(8, 8)


def test_every_way_to_hold_a_picture_gives_the_same_bytes(tmp_path):
  data = picture(0)
  (tmp_path / "a.png").write_bytes(data)
  text = base64.b64encode(data).decode()
  ways = [
    data,
    bytearray(data),
    memoryview(data),
    "a.png",
    str(tmp_path / "a.png"),
    f"file://{tmp_path / 'a.png'}",
    text,
    f"data:image/png;base64,{text}",
    {"bytes": data, "path": None},
    {"bytes": None, "path": "a.png"},
    {"bytes": data, "path": "elsewhere.png"},
    {"url": f"data:image/png;base64,{text}"},
    {"type": "base64", "media_type": "image/png", "data": text},
    {"bytes": text},
  ]
  assert all(read_picture(way, tmp_path, "r") == data for way in ways)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_base64_is_told_from_paths(kind):
  text = base64.b64encode(picture(1, 30, kind)).decode()
  assert is_base64(text)
  assert not is_base64("images/some/deep/folder/" * 5 + "a.png")
  assert not is_base64("images/abcd")
  assert not is_base64("12")


@pytest.mark.parametrize(
  ("image", "kind"),
  [
    (pil.new("CMYK", (5, 4), (0, 255, 255, 0)), "JPEG"),
    (pil.new("P", (5, 4), 3), "PNG"),
    (pil.new("RGBA", (5, 4), (255, 0, 0, 128)), "PNG"),
    (pil.new("LA", (5, 4), (90, 200)), "PNG"),
    (pil.new("L", (5, 4), 90), "JPEG"),
    (pil.new("1", (5, 4), 1), "PNG"),
  ],
)
def test_modes_that_policies_convert_stay_as_they_are(image, kind):
  data = encoded(image, kind)
  assert check_picture(data, "image", "r") == data
  assert decode(data).shape == (4, 5, 3)


@pytest.mark.parametrize(("kind", "top"), [("PNG", 65535), ("TIFF", 65535)])
def test_sixteen_bits_become_eight_instead_of_white(kind, top):
  values = ramp(top).astype(np.uint16)
  data = encoded(pil.fromarray(values), kind)
  found = decode(check_picture(data, "image", "r"))
  assert np.array_equal(found[..., 0], values >> 8)
  assert np.ptp(found) == 255


def test_depths_without_eight_bits_are_named():
  for image in (
    pil.fromarray(ramp(1).astype(np.float32)),
    pil.fromarray(ramp(10**6).astype(np.int32)),
  ):
    with pytest.raises(BadRow, match="image has the mode '[FI]', not 8 bits"):
      check_picture(encoded(image, "TIFF"), "image", "r")


def test_torn_pictures_are_named_at_every_length():
  for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
    data = picture(2, 24, kind)
    for share in (0.0, 0.1, 0.3, 0.6, 0.9):
      cut = data[: int(share * len(data))]
      with pytest.raises(BadRow, match="is empty|no readable picture|zero-s"):
        check_picture(cut, "image", "r")


@pytest.mark.filterwarnings("ignore")
def test_random_bytes_are_never_more_than_a_bad_row():
  rng = np.random.default_rng(0)
  good = [picture(3, 12, kind) for kind in ("PNG", "JPEG", "GIF", "TIFF")]
  reasons: list[str] = []
  for i in range(1000):
    data = bytearray(good[i % len(good)])
    for place in rng.integers(0, len(data), 6):
      data[place] = rng.integers(256)
    try:
      whole = check_picture(bytes(data), "image", "r")
    except BadRow as bad:
      reasons.append(bad.reason)
      continue
    assert decode(whole).shape[:2] == image_size(whole)
  assert 100 < len(reasons) < 900
  # No address in them: they repeat exactly from run to run.
  assert not any("0x" in reason for reason in reasons)


def bomb() -> bytes:
  """A PNG that says 60,000 x 60,000 pixels."""
  data = bytearray(picture(4))
  data[16:24] = (60_000).to_bytes(4, "big") * 2
  data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
  return bytes(data)


def test_bombs_are_refused_by_their_header():
  with pytest.raises(BadRow, match="too many pixels"):
    check_picture(bomb(), "image", "r")
  wide = encoded(pil.new("1", (8000, 8000)), "PNG")
  with pytest.raises(BadRow, match="64000000 pixels; at most 50000000"):
    check_picture(wide, "image", "r")


def test_postscript_is_no_picture_and_runs_nothing():
  text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
  with pytest.raises(BadRow, match="no readable picture"):
    check_picture(text, "image", "r")


FAULTS = [
  ("https://example.org/a.png", "nothing is fetched"),
  ("s3://bucket/a.png", "nothing is fetched"),
  ({"url": "http://example.org/a.png"}, "nothing is fetched"),
  ({"bytes": None, "path": None}, "neither bytes nor a path"),
  (3, "but a int"),
  ("", "but a str"),
  (None, "but a NoneType"),
  ("data:image/png;base64,%%%", "no base64"),
  ("data:text/plain,hello", "no base64"),
  ("pipe", "cannot be read: it is no file"),
  ("loop.png", "cannot be read"),
  ("link.png", "leaves the data folder"),
  ("inside/../../out.png", "leaves the data folder"),
  ("gone.png", "missing"),
  ("text.png/a.png", "missing"),
  ("text.png", "no readable picture: it begins with b'no pictu'"),
  ("large.png", "bytes; at most"),
]


@pytest.mark.parametrize(("value", "reason"), FAULTS)
def test_each_fault_is_named(tmp_path, monkeypatch, value, reason):
  monkeypatch.setattr(pictures, "MAX_BYTES", 5000)
  folder = tmp_path / "set"
  (folder / "inside").mkdir(parents=True)
  (tmp_path / "out.png").write_bytes(picture(0))
  (folder / "link.png").symlink_to(tmp_path / "out.png")
  (folder / "loop.png").symlink_to(folder / "loop.png")
  (folder / "text.png").write_text("no picture", encoding="utf-8")
  (folder / "large.png").write_bytes(bytes(5001))
  os.mkfifo(folder / "pipe")
  with pytest.raises(BadRow, match=reason) as caught:
    read_picture(value, folder, "r")
  assert caught.value.row == "r"
