"""The world as a TFDS data set on disk, written and read without TensorFlow."""

import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from mirl_jax.data.example import Example
from mirl_jax.worlds.describe import check_description
from mirl_jax.worlds.dials import BROKEN, Dials
from mirl_jax.worlds.items import SPLITS, item_from_extra, make_item
from mirl_jax.worlds.scene import SIDE

LENGTHS = (("train", 10_000), ("tune", 1_000), ("test", 1_000))

_TEXTS = (
  "id",
  "question",
  "answer",
  "answer_type",
  "category",
  "description",
  "reasoning",
)


@dataclasses.dataclass(kw_only=True)
class WorldConfig(tfds.core.BuilderConfig):
  """What is written: dials, seed, and the number of items of each split.

  The configuration's name holds a digest of these, so that another world
  never answers from this one's folder. (Mutable because TFDS's base is.)
  """

  name: str = ""
  dials: Dials = BROKEN
  seed: int = 0
  lengths: tuple[tuple[str, int], ...] = LENGTHS

  def __post_init__(self) -> None:
    unknown = sorted({split for split, _ in self.lengths} - set(SPLITS))
    if unknown:
      raise ValueError(f"lengths name {unknown}: give some of {tuple(SPLITS)}")
    content = repr((self.dials, self.seed, self.lengths)).encode()
    digest = hashlib.blake2b(content, digest_size=6).hexdigest()
    self.name = self.name or f"world_{digest}"


class MirlWorld(tfds.core.GeneratorBasedBuilder):
  """Procedural pictures with questions, descriptions and scene graphs.

  Build with `world_builder`; read with `WorldRecords`.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    return self.dataset_info_from_configs(
      description="Procedural scenes with questions of graded difficulty.",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(
            shape=(SIDE, SIDE, 3), encoding_format="png"
          ),
          **{name: tfds.features.Text() for name in _TEXTS},
          "rest": tfds.features.Text(doc="regions and extra, as JSON"),
        }
      ),
      metadata=tfds.core.MetadataDict(
        dials=dataclasses.asdict(config.dials),
        seed=config.seed,
      ),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # nothing to download
    return {
      split: self._generate_examples(split, length)
      for split, length in self.builder_config.lengths
    }

  def _generate_examples(
    self, split: str, length: int
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    config = self.builder_config
    for index in range(length):
      yield (
        index,
        record_from_example(make_item(config.seed, index, config.dials, split)),
      )


def encode_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
  """PNG bytes of an image; lossless."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format="PNG")
  return buffer.getvalue()


def record_from_example(example: Example) -> dict[str, Any]:
  """The columns of an example, its picture encoded."""
  (image,) = example.images
  png = image if isinstance(image, bytes) else encode_png(image)
  rest = {"regions": example.regions, "extra": dict(example.extra)}
  return {
    "image": io.BytesIO(png),
    **{name: getattr(example, name) for name in _TEXTS},
    "rest": json.dumps(rest),
  }


def example_from_record(record: dict[str, Any]) -> Example:
  """The example of a stored row, with a working check and a PNG picture."""
  texts = {name: record[name].decode() for name in _TEXTS}
  rest = json.loads(record["rest"])
  item = item_from_extra(rest["extra"])
  return Example(
    images=(record["image"],),
    regions=tuple(tuple(words) for words in rest["regions"]),
    check=functools.partial(check_description, item=item),
    extra=rest["extra"],
    **texts,
  )


def world_builder(
  folder: str | os.PathLike[str],
  dials: Dials = BROKEN,
  seed: int = 0,
  lengths: tuple[tuple[str, int], ...] = LENGTHS,
) -> MirlWorld:
  """A builder that writes to `folder` on `download_and_prepare()`.

  Raises:
    ValueError: for an unknown split.
  """
  config = WorldConfig(dials=dials, seed=seed, lengths=lengths)
  return MirlWorld(
    data_dir=os.fspath(folder), config=config, file_format="array_record"
  )


class WorldRecords:
  """A `grain.sources.RandomAccessDataSource` over a prepared builder.

  Pictures stay encoded; the order is that of the files, which is shuffled.
  """

  def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
    self._builder = builder
    self._split = split
    self._rows = builder.as_data_source(
      split, decoders={"image": tfds.decode.SkipDecoding()}
    )

  def __repr__(self) -> str:
    return f"WorldRecords({self._builder.info.full_name}, {self._split!r})"

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: Any) -> Example:
    return example_from_record(self._rows[index])
