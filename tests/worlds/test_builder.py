import dataclasses
import io
import sys

import grain
import numpy as np
import pytest
from PIL import Image

from mirl_jax.worlds.builder import WorldRecords, world_builder
from mirl_jax.worlds.dials import BROKEN, WARM
from mirl_jax.worlds.items import make_item

LENGTHS = (("train", 30), ("test", 6))


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("world")
  builder = world_builder(folder, WARM, seed=5, lengths=LENGTHS)
  builder.download_and_prepare()
  return builder


@pytest.mark.parametrize(("split", "number"), LENGTHS)
def test_round_trip(builder, split, number):
  records = WorldRecords(builder, split)
  assert len(records) == number
  items = sorted(
    (records[i] for i in range(number)), key=lambda e: int(e.id.split("/")[-1])
  )
  for index, item in enumerate(items):
    made = make_item(5, index, WARM, split)
    (png,) = item.images
    assert (np.asarray(Image.open(io.BytesIO(png))) == made.images[0]).all()
    for field in dataclasses.fields(made):
      if field.name not in ("images", "check"):
        one, two = getattr(item, field.name), getattr(made, field.name)
        assert one == two, field.name
    for text in (item.description, "a red circle, e nothing", ""):
      assert item.check(text) == made.check(text)


def test_files_are_array_records(builder):
  names = [path.name for path in builder.data_path.iterdir()]
  assert any("array_record" in name for name in names)


def test_other_worlds_get_other_folders(builder, tmp_path):
  paths = {
    world_builder(tmp_path, dials, seed, lengths).data_path
    for dials, seed, lengths in (
      (WARM, 5, LENGTHS),
      (BROKEN, 5, LENGTHS),
      (WARM, 6, LENGTHS),
      (WARM, 5, (("train", 31),)),
    )
  }
  assert len(paths) == 4


def test_grain_reads_the_records(builder):
  records = WorldRecords(builder, "test")
  ids = {item.id for item in grain.MapDataset.source(records)}
  assert len(ids) == 6
  assert "test" in repr(records)
  assert repr(records) != repr(WorldRecords(builder, "train"))


def test_unknown_splits_are_named(tmp_path):
  with pytest.raises(ValueError, match="dev"):
    world_builder(tmp_path, lengths=(("dev", 3),))


def test_tensorflow_is_not_imported(builder):
  assert "tensorflow" not in sys.modules
