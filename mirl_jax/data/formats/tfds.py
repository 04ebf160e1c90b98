"""Rows of a TFDS data set of array_record files, read without TensorFlow."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mirl_jax.data.source import BadRow

PREFIX = "tfds:"


class Encoded(tfds.decode.SkipDecoding):
  """Leaves pictures encoded, within sequences, too."""

  def decode_batch_example_np(self, serialized_example: Any) -> Any:
    return serialized_example


def open_builder(name: str, folder: str = "") -> tfds.core.DatasetBuilder:
  """The prepared data set `NAME/CONFIG` below a folder.

  Args:
    name: as TFDS has it; a configuration and a version may follow.
    folder: where data sets stand; empty: TFDS's own (~/tensorflow_datasets).

  Raises:
    ValueError: if it is not there, or not stored as array_record.
  """
  try:
    builder = tfds.core.read_only_builder.builder_from_files(
      name, data_dir=folder or None
    )
  # TFDS's errors list every data set that it knows.
  except Exception as error:
    where = folder or "TFDS's folder"
    raise ValueError(
      f"no prepared data set {name!r} in {where}; is the configuration right?"
      f" Give {PREFIX}NAME/CONFIG:FOLDER ({type(error).__name__})"
    ) from None
  kind = builder.info.file_format
  if kind != tfds.core.FileFormat.ARRAY_RECORD:
    stored = kind.value if kind else "nothing"
    raise ValueError(
      f"{PREFIX}{name} is stored as {stored}; prepare it with"
      " file_format='array_record'"
    )
  return builder


class Tfds:
  """Random access to the rows of one split of a builder.

  Pictures stay encoded; the order is that of the files.
  """

  note = ""

  def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
    features = builder.info.features
    self.path = Path(str(builder.data_dir))
    self.columns = tuple(features)
    self._names = {
      name: list(feature.names)
      for name, feature in features.items()
      if isinstance(feature, tfds.features.ClassLabel)
    }
    self._pictures = {
      name
      for name, feature in features.items()
      if isinstance(_inner(feature), tfds.features.Image)
    }
    decoders = {name: Encoded() for name in self._pictures}
    self._rows = builder.as_data_source(split, decoders=decoders or None)
    self._split = split
    info = builder.info.splits[split]
    named = f"{builder.info.full_name} {split} {info.num_bytes}"
    self.digest = hashlib.sha256(
      f"{named} {info.shard_lengths}".encode()
    ).hexdigest()

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    try:
      row = self._rows[index]
    except Exception as error:
      raise BadRow(self.label(index), f"no readable record: {error}") from error
    named = {
      key: _pictures(value) if key in self._pictures else _plain(value)
      for key, value in row.items()
    }
    for key, names in self._names.items():
      label = named[key]
      named[key] = names[label] if 0 <= label < len(names) else None
    return named

  def scan(self, columns: Sequence[str]) -> Iterator[dict[str, Any] | None]:
    """Every row in order, None for an unreadable one."""
    del columns  # a record is read whole
    for index in range(len(self)):
      try:
        yield self[index]
      except BadRow:
        yield None

  def label(self, index: int) -> str:
    return f"{self._split} {index + 1}"


def _inner(feature: Any) -> Any:
  return getattr(feature, "feature", feature)


def _pictures(value: Any) -> Any:
  return value if isinstance(value, bytes) else list(value)


def _plain(value: Any) -> Any:
  """A value of TFDS as parquet would have it: text is str, numbers Python's."""
  if isinstance(value, bytes):
    return value.decode("utf-8", errors="replace")
  if isinstance(value, np.generic):
    return _plain(value.item())
  if isinstance(value, np.ndarray):
    return [_plain(item) for item in value]
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  return value
