"""Any source as a TFDS data set of array_record files, without TensorFlow.

    python -m mirl_jax.data.records --source=PATH --out=FOLDER --name=NAME

writes it, and `tfds:mirl_records/NAME:FOLDER` reads it. Rows then lie in any
order at one seek each, where a parquet file reads a row group for a row.
"""

import argparse
import dataclasses
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image as pil

from mirl_jax.data.example import Example, Image
from mirl_jax.data.open import open_source
from mirl_jax.data.source import BadRow, Source, told

_TEXTS = (
  "id",
  "question",
  "answer",
  "answer_type",
  "category",
  "group",
  "description",
  "reasoning",
)
# Stored as JSON.
_REST = ("options", "regions", "min_pixels", "max_pixels", "extra")


@dataclasses.dataclass(kw_only=True)
class RecordsConfig(tfds.core.BuilderConfig):
  """What is written: a source for each split. (Mutable as TFDS's base is.)

  Attributes:
    skipped: bad rows that were left out, as they are found.
  """

  name: str = ""
  sources: Mapping[str, Source] = dataclasses.field(default_factory=dict)
  skipped: list[BadRow] = dataclasses.field(default_factory=list)

  def __post_init__(self) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", self.name):
      raise ValueError(
        f"name={self.name!r}: give letters, digits, '_', '-' and '.' only"
      )
    if not self.sources:
      raise ValueError("no source to write")


class MirlRecords(tfds.core.GeneratorBasedBuilder):
  """Questions about pictures, as `Example` has them; checkers are left out.

  Build with `records_builder`; read with `open_source`.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      description="Questions about pictures, from another data set.",
      features=tfds.features.FeaturesDict(
        {
          "images": tfds.features.Sequence(
            tfds.features.Image(shape=(None, None, None))
          ),
          **{name: tfds.features.Text() for name in _TEXTS},
          "rest": tfds.features.Text(doc=f"{', '.join(_REST)} as JSON"),
        }
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # nothing to download
    return {
      split: self._generate_examples(source)
      for split, source in self.builder_config.sources.items()
    }

  def _generate_examples(
    self, source: Source
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for index in range(len(source)):
      try:
        yield index, record_from_example(source[index])
      except BadRow as bad:
        self.builder_config.skipped.append(bad)


def encoded(image: Image) -> bytes:
  """A picture as bytes: its own, or a PNG of its pixels."""
  if isinstance(image, bytes):
    return image
  file = io.BytesIO()
  pil.fromarray(np.asarray(image)).save(file, "PNG")
  return file.getvalue()


def record_from_example(example: Example) -> dict[str, Any]:
  """The columns of an example, its pictures encoded."""
  rest = {name: getattr(example, name) for name in _REST}
  rest["extra"] = dict(example.extra)
  return {
    "images": [io.BytesIO(encoded(image)) for image in example.images],
    **{name: getattr(example, name) for name in _TEXTS},
    "rest": json.dumps(rest),
  }


def records_builder(
  folder: str | os.PathLike[str], name: str, sources: Mapping[str, Source]
) -> MirlRecords:
  """A builder that writes to `folder` on `download_and_prepare()`.

  Args:
    folder: where the data set comes to stand, as `mirl_records/NAME`.
    name: of the configuration.
    sources: rows by split. Bad ones are left out, and listed in
      `builder_config.skipped`.

  Raises:
    ValueError: for a name with other signs than TFDS allows, or no source.
  """
  config = RecordsConfig(name=name, sources=sources)
  return MirlRecords(
    data_dir=os.fspath(folder), config=config, file_format="array_record"
  )


def main(arguments: Sequence[str] | None = None) -> int:
  """Writes what the command line names; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--source", required=True, help="as --config.data.train")
  parser.add_argument("--out", required=True, help="folder of data sets")
  parser.add_argument("--name", required=True, help="of the configuration")
  parser.add_argument("--columns", default="", help="as --config.data.columns")
  parser.add_argument("--image_folder", default="", help="of image paths")
  parser.add_argument("--test_share", type=float, default=0.2, help="0: none")
  given = parser.parse_args(arguments)
  sources = {}
  try:
    for split in ("train", "test") if given.test_share else ("train",):
      source = open_source(
        given.source,
        split,
        columns=given.columns,
        image_folder=given.image_folder,
        test_share=given.test_share,
      )
      print(told(source), flush=True)
      sources[split] = source
    builder = records_builder(given.out, given.name, sources)
    builder.download_and_prepare()
  except (ValueError, FileNotFoundError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  for bad in builder.builder_config.skipped:
    print(f"left out {bad.row}: {bad.reason}")
  counts = {key: info.num_examples for key, info in builder.info.splits.items()}
  print(f"wrote {counts}; read it with tfds:{_name(builder)}:{given.out}")
  return 0


def _name(builder: tfds.core.DatasetBuilder) -> str:
  return f"{builder.name}/{builder.builder_config.name}"


if __name__ == "__main__":
  sys.exit(main())
