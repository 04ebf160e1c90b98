"""A TFDS data set that is not ours, read without decoding its pictures."""

import io
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mirl_jax.data.formats.tfds import Tfds, open_builder
from mirl_jax.data.open import open_source
from mirl_jax.testing_data import picture


class Labelled(tfds.core.GeneratorBasedBuilder):
  """Pictures with a question whose answer is a class."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
  pkg_dir_path = Path(__file__).parent

  def _info(self):
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(None, None, 3)),
          "question": tfds.features.Text(),
          "answer": tfds.features.ClassLabel(names=["no", "yes"]),
          "sizes": tfds.features.Sequence(np.int64),
        }
      )
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for i in range(6):
      yield (
        i,
        {
          "image": io.BytesIO(picture(i, kind="JPEG")),
          "question": f"{i}é?",
          "answer": i % 2,
          "sizes": [i] * i,
        },
      )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp("tfds")
  builder = Labelled(data_dir=str(out), file_format="array_record")
  builder.download_and_prepare()
  return out


def test_rows_are_plain_and_pictures_encoded(folder):
  table = Tfds(open_builder("labelled", str(folder)), "train")
  rows = {table[i]["question"]: table[i] for i in range(len(table))}
  assert len(rows) == 6
  for i in range(6):
    assert rows[f"{i}é?"] == {
      "image": picture(i, kind="JPEG"),
      "question": f"{i}é?",
      "answer": ("no", "yes")[i % 2],
      "sizes": [i] * i,
    }
  assert list(table.scan([])) == [table[i] for i in range(6)]


def test_its_columns_are_sniffed_as_any_others(folder):
  source = open_source(f"tfds:labelled:{folder}")
  example = next(
    x for x in map(source.__getitem__, range(6)) if "3" in x.question
  )
  assert (example.answer, example.answer_type) == ("yes", "yes_no")
  assert example.images == (picture(3, kind="JPEG"),)
  assert example.extra == {"sizes": [3, 3, 3]}


def test_other_file_formats_are_refused_with_the_fix(folder, monkeypatch):
  monkeypatch.setattr(
    tfds.core.DatasetInfo,
    "file_format",
    property(lambda self: tfds.core.FileFormat.TFRECORD),
  )
  with pytest.raises(ValueError, match="stored as tfrecord; prepare it with"):
    open_builder("labelled", str(folder))
