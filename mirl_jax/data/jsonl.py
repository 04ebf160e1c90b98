"""Our own format: a jsonl file beside a folder of pictures.

A row has `id, image, question, answer` and may have `options, answer_type,
category, description, reasoning, min_pixels, max_pixels`; everything else
becomes `Example.extra`. `image` is a path, or a list of paths, relative to the
folder of the jsonl file. The pixel limits are this row's, in place of the
policy's.
"""

import dataclasses
import hashlib
import io
import json
import operator
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from PIL import Image as pil

from mirl_jax.data.example import Example
from mirl_jax.data.source import BadRow
from mirl_jax.rewards.verify import (
  LETTERS,
  VERIFIERS,
  match_letter,
  match_option,
  read_letters,
)

REQUIRED = ("id", "image", "question", "answer")
MAX_PIXELS = 50_000_000  # larger pictures are taken for decompression bombs
SPLITS = ("all", "train", "test")
# Columns that say what other columns say.
_USED = (
  *REQUIRED,
  "options",
  "answer_type",
  "category",
  "description",
  "reasoning",
  "min_pixels",
  "max_pixels",
)


def with_options(question: str, options: tuple[str, ...]) -> str:
  """The question as it is shown: each option on a line of its own.

  "(A) first", "(B) second", … below the question. Options that are nothing but
  their own letters (they stand in the picture) are not repeated.
  """
  if options == tuple(LETTERS[: len(options)]):
    return question
  lines = [f"({LETTERS[i]}) {text}" for i, text in enumerate(options)]
  return "\n".join([question, *lines])


def in_test_split(group: str, share: float, salt: str = "") -> bool:
  """Whether a group of rows is held out, from a hash of its name alone."""
  digest = hashlib.sha256(f"{salt}\0{group}".encode()).digest()
  return int.from_bytes(digest[:8], "big") < share * 2.0**64


def read_image(root: Path, name: str, row: str) -> bytes:
  """The encoded bytes of a picture inside of a folder.

  Decodes it once, so that nothing later in a run can fail on it.

  Raises:
    BadRow: if it leaves the folder, is missing, is empty or is no picture.
  """
  try:
    path = (root / name).resolve()
    inside = path.is_relative_to(root.resolve())
  except (OSError, ValueError, RuntimeError) as error:
    raise BadRow(row, f"image path {name!r} cannot be read: {error}") from error
  if not inside:
    raise BadRow(row, f"image path {name!r} leaves the data folder")
  try:
    data = path.read_bytes()
  except FileNotFoundError:
    raise BadRow(row, f"image {name!r} is missing") from None
  except (OSError, ValueError) as error:
    raise BadRow(row, f"image {name!r} cannot be read: {error}") from error
  if not data:
    raise BadRow(row, f"image {name!r} is empty")
  try:
    with pil.open(io.BytesIO(data)) as image:
      pixels = image.width * image.height
      if pixels <= MAX_PIXELS:
        image.load()
  # Decoders raise nearly anything on hostile bytes: SyntaxError, struct.error…
  except Exception as error:
    raise BadRow(
      row, f"image {name!r} is no readable picture: {error}"
    ) from error
  if pixels > MAX_PIXELS:
    raise BadRow(
      row, f"image {name!r} has {pixels} pixels; at most {MAX_PIXELS}"
    )
  return data


def _text(row: Mapping[str, Any], column: str, name: str) -> str:
  value = row.get(column)
  if value is None:
    return ""
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, str | int | float):
    return str(value)
  raise BadRow(name, f"column {column!r} is a {type(value).__name__}, not text")


def _pixels(row: Mapping[str, Any], name: str) -> tuple[int | None, int | None]:
  """The row's own pixel limits, None where it has none."""
  limits = []
  for column in ("min_pixels", "max_pixels"):
    value = row.get(column)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and 0 < value <= sys.maxsize):
      raise BadRow(
        name, f"{column}={value!r} is no whole number of pixels above 0"
      )
    limits.append(value)
  low, high = limits
  if low is not None and high is not None and low > high:
    raise BadRow(name, f"min_pixels {low} is more than max_pixels {high}")
  return low, high


def _check_answer(
  row: str, answer: str, answer_type: str, options: tuple[str, ...]
) -> None:
  """Refuses an answer that no prediction could match."""
  if answer_type not in VERIFIERS:
    known = ", ".join(VERIFIERS)
    raise BadRow(row, f"answer_type {answer_type!r} is none of {known}")
  if len(options) > len(LETTERS):
    raise BadRow(row, f"{len(options)} options; at most {len(LETTERS)}")
  if not answer.strip() or not options:
    return
  if answer_type == "choice_letter":
    letters = read_letters(answer)
    if letters is None or max(letters) >= len(options):
      raise BadRow(
        row, f"answer {answer!r} is no letter of {len(options)} options"
      )
  if answer_type == "choice_text":
    found = match_option(answer, options)
    if found is None and match_letter(answer, options) is None:
      raise BadRow(row, f"answer {answer!r} is not one of the options")


def to_example(
  row: Mapping[str, Any], root: Path, show_options: bool = True
) -> Example:
  """One parsed row as an example, its pictures read.

  Args:
    row: columns by name.
    root: the folder that image paths are relative to.
    show_options: append the options to the question (see `with_options`).

  Raises:
    BadRow: for whatever is wrong with it.
  """
  missing = [column for column in REQUIRED if column not in row]
  name = _text(row, "id", "row without id") or "row without id"
  if missing:
    raise BadRow(name, f"missing columns: {', '.join(missing)}")
  names = row["image"] if isinstance(row["image"], list) else [row["image"]]
  if not all(isinstance(path, str) and path for path in names):
    raise BadRow(name, "column 'image' holds no path")
  question = _text(row, "question", name)
  if not question.strip():
    raise BadRow(name, "empty question")
  choices = row.get("options") or []
  if not isinstance(choices, list):
    raise BadRow(name, "column 'options' is no list")
  options = tuple(
    _text({"options": choice}, "options", name) for choice in choices
  )
  answer = _text(row, "answer", name)
  answer_type = _text(row, "answer_type", name) or "text"
  _check_answer(name, answer, answer_type, options)
  min_pixels, max_pixels = _pixels(row, name)
  return Example(
    id=name,
    images=tuple(read_image(root, path, name) for path in names),
    question=with_options(question, options) if show_options else question,
    answer=answer,
    answer_type=answer_type,
    options=options,
    category=_text(row, "category", name),
    description=_text(row, "description", name),
    reasoning=_text(row, "reasoning", name),
    min_pixels=min_pixels,
    max_pixels=max_pixels,
    extra={key: value for key, value in row.items() if key not in _USED},
  )


class JsonlSource:
  """Random access to the rows of a jsonl file, pictures read on access.

  The file is scanned once for the places, ids and groups of its rows; a row
  is parsed again, and its pictures read, whenever it is asked for. Rows of one
  group never stand on both sides of the train/test split.

  Args:
    path: the jsonl file, or a folder that holds `data.jsonl`.
    split: all, train or test.
    test_share: expected share of groups in the test split.
    group: the column that says which rows belong together.
    group_pattern: a regular expression; where its first group matches in that
      column, only that part counts ("^(.*)-" on nlvr's ids puts the rows
      `…_12-0` and `…_12-1`, one scene, together). Empty: the whole column.
    show_options: append the options to the question.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: for a bad split, share or pattern, or a split without rows.
    BadRow: on access, for a row that cannot be used.
  """

  def __init__(
    self,
    path: str | Path,
    split: str = "all",
    *,
    test_share: float = 0.2,
    group: str = "image",
    group_pattern: str = "",
    show_options: bool = True,
  ):
    path = Path(path)
    self.path = path / "data.jsonl" if path.is_dir() else path
    if not self.path.is_file():
      raise FileNotFoundError(f"no jsonl file at {self.path}")
    if split not in SPLITS:
      raise ValueError(f"split={split!r}: give one of {SPLITS}")
    if not 0 <= test_share <= 1:
      raise ValueError(f"test_share={test_share}: give a share in 0..1")
    try:
      pattern = re.compile(group_pattern)
    except re.error as error:
      raise ValueError(f"group_pattern={group_pattern!r}: {error}") from error
    if group_pattern and not pattern.groups:
      raise ValueError(f"group_pattern={group_pattern!r} has no (group)")
    self._show_options = show_options
    self._group, self._pattern = group, pattern
    self._duplicates: dict[int, int] = {}
    rows = []
    digest = hashlib.sha256()
    first: dict[str, int] = {}
    offset = 0
    with self.path.open("rb") as lines:
      for number, line in enumerate(lines, 1):
        start, offset = offset, offset + len(line)
        digest.update(line)
        if not line.strip():
          continue
        row = _parse(line)
        key = _group(row, group, pattern) if row else None
        if row and isinstance(row.get("id"), str | int):
          earlier = first.setdefault(str(row["id"]), number)
          if earlier != number:
            self._duplicates[number] = earlier
        held_out = in_test_split(key or f"line {number}", test_share)
        if split == "all" or held_out == (split == "test"):
          rows.append((start, offset, number))
    if not rows:
      raise ValueError(f"{self.path}: no rows in split {split!r}")
    self._rows = np.array(rows, np.int64)
    self._repr = (
      f"JsonlSource({self.path.name}, sha256={digest.hexdigest()[:16]}, "
      f"split={split!r}, test_share={test_share}, group={group!r}, "
      f"group_pattern={group_pattern!r}, show_options={show_options})"
    )

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: SupportsIndex) -> Example:
    number = operator.index(index)
    if not 0 <= number < len(self):
      raise IndexError(f"row {number}: this source holds {len(self)} rows")
    start, end, line = (int(value) for value in self._rows[number])
    with self.path.open("rb") as lines:
      lines.seek(start)
      row = _parse(lines.read(end - start))
    if row is None:
      raise BadRow(f"line {line}", "no readable JSON object")
    if line in self._duplicates:
      raise BadRow(
        str(row["id"]),
        f"line {line} repeats the id of line {self._duplicates[line]}",
      )
    example = to_example(row, self.path.parent, self._show_options)
    return dataclasses.replace(
      example, group=_group(row, self._group, self._pattern)
    )

  def __repr__(self) -> str:
    return self._repr


def _parse(line: bytes) -> dict[str, Any] | None:
  try:
    row = json.loads(line)
  # RecursionError: thousands of nested brackets.
  except (ValueError, RecursionError):
    return None
  return row if isinstance(row, dict) else None


def _group(row: dict[str, Any], column: str, pattern: re.Pattern[str]) -> str:
  value = row.get(column)
  text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
  match = pattern.search(text) if pattern.groups else None
  return match[1] or "" if match else text
