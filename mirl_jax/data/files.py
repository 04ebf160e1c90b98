"""Which files a path of a user means, and which split each belongs to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".parquet", ".jsonl", ".json", ".tsv")
_SPLITS = {
  "train": "train",
  "training": "train",
  "test": "test",
  "testing": "test",
  "validation": "validation",
  "valid": "validation",
  "val": "validation",
  "dev": "validation",
}
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})$")
_LISTED = 8  # files that a message names


@dataclass(frozen=True)
class Found:
  """Files to read.

  Attributes:
    files: in order, all of one kind.
    split: what is taken of their rows: all, train or test, the last two by a
      hash of groups.
    note: how the split was chosen, where file names say it.
  """

  files: tuple[Path, ...]
  split: str
  note: str = ""


def split_of(file: Path) -> str:
  """The split that a file's name says, "" if none."""
  words = re.split(r"[-_.]", file.stem.lower())
  found = {_SPLITS[word] for word in words if word in _SPLITS}
  return found.pop() if len(found) == 1 else ""


def _folder(path: Path) -> list[Path]:
  """The files of a folder, or of its `data` folder, as the hub has it.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if there are several kinds.
  """
  own = path / "data.jsonl"
  if own.is_file():
    return [own]
  for folder in (path, path / "data"):
    found = sorted(
      file
      for file in (folder.iterdir() if folder.is_dir() else ())
      if file.suffix in SUFFIXES and file.is_file()
    )
    # What a hub's snapshot holds beside the data.
    found = [
      file
      for file in found
      if file.name not in ("dataset_infos.json", "dataset_info.json")
    ]
    kinds = sorted({file.suffix for file in found})
    if len(kinds) > 1:
      names = ", ".join(file.name for file in found[:_LISTED])
      raise ValueError(
        f"{folder} holds files of several kinds: {names}; name the file"
      )
    if found:
      return found
  raise FileNotFoundError(
    f"no jsonl file at {own}, and no {', '.join(SUFFIXES)} file in {path};"
    " nothing is downloaded"
  )


def _check_shards(files: Sequence[Path]) -> None:
  """Refuses a folder in which a shard is missing."""
  sets: dict[tuple[str, int], set[int]] = {}
  for file in files:
    if shard := _SHARD.match(file.stem):
      numbers = sets.setdefault((shard[1], int(shard[3])), set())
      numbers.add(int(shard[2]))
  for (stem, count), numbers in sets.items():
    missing = [i for i in range(count) if i not in numbers]
    if missing:
      raise ValueError(
        f"{files[0].parent}: {len(missing)} of {count} shards of {stem} are"
        f" missing, the first is number {missing[0]}; download them"
      )


def find(path: str, split: str) -> Found:
  """The files behind a path, and how their rows are split.

  Where a folder's file names tell a train split from a test or validation
  split, these are the splits. Otherwise rows are split by groups.
  "PATH@validation" takes the files of that split alone.

  Args:
    path: a file or folder.
    split: all, train or test.

  Raises:
    FileNotFoundError: if there is nothing at the path.
    ValueError: where it is unclear which files are meant.
  """
  place, sign, only = path.rpartition("@")
  if Path(path).exists() or not sign:
    place, only = path, ""
  given = Path(place)
  if given.is_file():
    if given.suffix not in SUFFIXES:
      raise ValueError(f"{given}: a file must end in {', '.join(SUFFIXES)}")
    return Found((given,), split)
  files = _folder(given)
  _check_shards(files)
  named = {file: split_of(file) for file in files}
  splits = sorted({name for name in named.values() if name})
  if only:
    wanted = _SPLITS.get(only.lower(), only)
    chosen = tuple(file for file in files if named[file] == wanted)
    if not chosen:
      raise ValueError(
        f"{path}: no file of split {only!r}; file names say {splits or 'none'}"
      )
    return Found(chosen, split, f"split {wanted} by file names")
  held_out = [name for name in ("test", "validation") if name in splits]
  if "train" not in splits or not held_out:
    return Found(tuple(files), split)
  if nameless := [file.name for file in files if not named[file]]:
    raise ValueError(
      f"{given}: which split is {', '.join(nameless[:_LISTED])}? Others say"
      f" {', '.join(splits)}; rename it or name the file"
    )
  if split == "all":
    return Found(tuple(files), "all", f"splits {', '.join(splits)} together")
  wanted = "train" if split == "train" else held_out[0]
  chosen = tuple(file for file in files if named[file] == wanted)
  return Found(chosen, "all", f"split {wanted} by file names")
