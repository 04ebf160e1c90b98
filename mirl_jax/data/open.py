"""The one way from what a user names to a source of examples."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mirl_jax.data import files, mix
from mirl_jax.data.chat import is_chat
from mirl_jax.data.formats.lines import JsonLines, JsonList
from mirl_jax.data.formats.parquet import Parquet
from mirl_jax.data.formats.tfds import PREFIX, Tfds, open_builder
from mirl_jax.data.formats.tsv import Tsv
from mirl_jax.data.sniff import at, listed, read_columns, sniff
from mirl_jax.data.source import Source
from mirl_jax.data.table import Reading, Table, TableSource, sample

_FORMATS: dict[str, Callable[[Path], Table]] = {
  ".parquet": Parquet,
  ".jsonl": JsonLines,
  ".json": JsonList,
  ".tsv": Tsv,
}
_SNIFFED = 8  # files that columns are judged by


def open_source(
  path: str | Path,
  split: str = "all",
  *,
  columns: str = "",
  image_folder: str = "",
  test_share: float = 0.2,
  group: str = "image",
  group_pattern: str = "",
  show_options: bool = True,
  need_answer: bool = False,
  difficulty: str = "",
  weight_column: str = "",
) -> Source:
  """The examples of a file, a folder, a TFDS data set or a mix of these.

  Args:
    path: a .jsonl, .json, .parquet or .tsv file; a folder of these, where
      file names may say the split ("PATH@validation" takes one of them);
      `tfds:NAME/CONFIG`, with `:FOLDER` where it stands; or several of these
      with weights, "A*2,B*1".
    split: all, train or test. The test split of a mix has every row once.
    columns: what is not to be guessed: "question=problem,answer=solution".
      Of a mix, those parts follow it that have the column.
    image_folder: that image paths are relative to; empty: that of the file.
    test_share, group, group_pattern: the split where no file names say it;
      see `Reading`.
    show_options: append the options to the question.
    need_answer: a row without a reference answer is a bad one.
    difficulty: "LOW:HIGH", the rows that are taken.
    weight_column: rows are drawn in proportion to it.

  Returns:
    A source. Its attribute `told` says what was decided.

  Raises:
    FileNotFoundError: if there is nothing at the path.
    ValueError: for data that may be read in more than one way, or in none;
      with the fix.
  """
  reading = Reading(
    split=split,
    test_share=test_share,
    group=group,
    group_pattern=group_pattern,
    image_folder=image_folder,
    show_options=show_options,
    need_answer=need_answer,
    difficulty=difficulty,
    weight_column=weight_column,
  )
  given, text = read_columns(columns), str(path)
  plain = Path(text).exists() or not any(sign in text for sign in ",*")
  parts = [(text, None)] if plain else mix.parse_mix(text)
  opened = [_find(name, split) for name, _ in parts]
  for role, column in given.items():
    everywhere = len(parts) == 1 or not column
    if not everywhere and not any(_has(found, column) for found in opened):
      raise ValueError(
        f"data.columns: {role}={column}, but no part of {text!r} has such a"
        " column"
      )
  sources: list[Source] = []
  for found in opened:
    known = {
      role: column
      for role, column in given.items()
      if len(parts) == 1 or not column or _has(found, column)
    }
    sources.append(_source(found, reading, known))
  if len(sources) == 1:
    return sources[0]
  names = _distinct([found.name for found in opened])
  weights = [weight for _, weight in parts if weight is not None]
  return mix.Mixed(names, sources, None if split == "test" else weights or None)


@dataclass(frozen=True)
class _Found:
  """The tables behind a path, and how their rows are split."""

  name: str
  tables: tuple[Table, ...]
  split: str
  note: str


def _find(path: str, split: str) -> _Found:
  if path.startswith(PREFIX):
    return _find_tfds(path, split)
  found = files.find(path, split)
  tables = tuple(_FORMATS[file.suffix](file) for file in found.files)
  first = found.files[0]
  name = first.stem if len(found.files) == 1 else first.parent.name
  # Our own format, and the hub's: the folder has the name.
  if first.stem == "data" or first.parent.name == "data":
    folder = first.parent
    name = folder.parent.name if folder.name == "data" else folder.name
  return _Found(name or "data", tables, found.split, found.note)


def _find_tfds(path: str, split: str) -> _Found:
  """Where a builder has train and test (or validation), these are the splits;
  otherwise all that it has is split by groups."""
  name, _, folder = path.removeprefix(PREFIX).partition(":")
  name, _, only = name.partition("@")
  builder = open_builder(name, folder)
  there = [
    key for key, info in builder.info.splits.items() if info.num_examples
  ]
  held_out = [key for key in ("test", "validation") if key in there]
  note, taken, rest = "", there, split
  if only and only not in there:
    raise ValueError(f"{path}: no split {only!r}; there are {', '.join(there)}")
  if only:
    taken = [only]
  elif split != "all" and "train" in there and held_out:
    taken, rest = ["train" if split == "train" else held_out[0]], "all"
  if taken != there:
    note = f"split {taken[0]} of the builder"
  tables = tuple(Tfds(builder, key) for key in taken)
  return _Found(name.partition("/")[0], tables, rest, note)


def _has(found: _Found, column: str) -> bool:
  return any(
    column in table.columns or any(at(row, column) is not None for row in rows)
    for table in found.tables
    for rows in [sample(table)]
  )


def _source(
  found: _Found, reading: Reading, given: Mapping[str, str]
) -> Source:
  """One data set as a source."""
  rows = [row for table in found.tables[:_SNIFFED] for row in sample(table)]
  columns = dict.fromkeys(x for table in found.tables for x in table.columns)
  where = found.tables[0].path
  if not rows and not columns:
    raise ValueError(f"{where} has no readable row to judge its columns by")
  try:
    layout = sniff(list(columns), rows, given)
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from error
  question = layout.columns.get("question", "")
  if (
    reading.need_answer
    and not layout.stored
    and "answer" not in layout.columns
    and not any(is_chat(at(row, question)) for row in rows)
  ):
    raise ValueError(
      f"{where}: no column for the answer among {listed(columns, rows)}; say"
      ' which: data.columns="answer=COLUMN", or go without any:'
      " data.unanswered=True"
    )
  notes = dict.fromkeys((found.note, *(table.note for table in found.tables)))
  layout = dataclasses.replace(
    layout, notes=(*layout.notes, *filter(None, notes))
  )
  reading = dataclasses.replace(reading, split=found.split)
  source = TableSource(found.tables, layout, reading, found.name)
  if source.weights is None:
    return source
  return mix.Weighted(source, source.weights)


def _distinct(names: Sequence[str]) -> list[str]:
  """The names, numbered where one comes twice."""
  out: list[str] = []
  for name in names:
    again = sum(name == other.partition(" ")[0] for other in out)
    out.append(f"{name} {again + 1}" if again else name)
  return out
