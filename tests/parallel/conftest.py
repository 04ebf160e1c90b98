"""A folder of questions, of some of which the picture is lost."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mirl_jax.worlds.dials import BROKEN
from mirl_jax.worlds.source import WorldSource


@pytest.fixture(scope="session")
def lossy_folder(tmp_path_factory) -> Callable[..., Path]:
  """Makes it of 60 rows, every tenth without its picture, with these columns
  beside id and image."""

  def make(*columns: str) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    rows = []
    for n, example in enumerate(WorldSource(0, BROKEN, "train", 60)):
      row = {"id": f"row {n}", "image": f"images/{n}.png"}
      rows.append(row | {name: getattr(example, name) for name in columns})
      if n % 10 != 3:
        Image.fromarray(example.images[0]).save(folder / row["image"])
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data.jsonl").write_text(lines)
    return folder

  return make
