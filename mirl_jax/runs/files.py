"""Files of a work directory: atomic writes and strict JSON.

JSON has no NaN and no infinity. A record with such a value is written with
`null` in its place and an extra key `nonfinite` that mirrors the record down to
the values concerned, as "nan", "inf" or "-inf": nothing is lost, and any JSON
reader can read the file.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

NONFINITE = "nonfinite"

PathLike = str | os.PathLike[str]


def local_path(path: PathLike) -> Path:
  """The path of a work directory, which must be on a mounted file system.

  Raises:
    ValueError: for a URL such as gs://bucket/run, where a rename is not atomic.
  """
  if "://" in str(path):
    raise ValueError(
      f"{path} is a URL; a work directory needs a file system with atomic "
      "renames: mount the bucket and give its local path"
    )
  return Path(path)


def write_atomic(path: PathLike, content: bytes | str) -> Path:
  """Writes a whole file so that a kill leaves the old one or the new one."""
  path = local_path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  if isinstance(content, str):
    content = content.encode("utf-8")
  draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  with open(draft, "wb") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  os.replace(draft, path)
  return path


def plain(value: Any, name: str) -> Any:
  """The JSON value of a number, text, container, scalar array or path.

  Raises:
    TypeError: naming the entry that JSON cannot hold.
  """
  if value is None or isinstance(value, bool | int | float | str):
    return value
  if isinstance(value, Mapping):
    return {str(k): plain(v, f"{name}.{k}") for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [plain(v, f"{name}[{i}]") for i, v in enumerate(value)]
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
    array = np.asarray(value)
    if array.ndim:
      return plain(array.tolist(), name)
    item = array.item()
    # ml_dtypes scalars (bfloat16) come out of item() as Python floats already.
    return item if isinstance(item, bool | int | float | str) else float(item)
  raise TypeError(f"{name} = {value!r} ({type(value).__name__}) is no JSON")


def _split(value: Any) -> tuple[Any, Any]:
  """A value without its non-finite leaves, and the tree of those leaves."""
  if isinstance(value, float) and not math.isfinite(value):
    return None, str(value)
  if isinstance(value, dict | list):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    halves = {key: _split(item) for key, item in items}
    clean = {key: half[0] for key, half in halves.items()}
    bad = {str(k): half[1] for k, half in halves.items() if half[1] is not None}
    return clean if isinstance(value, dict) else [*clean.values()], bad or None
  return value, None


def _merge(value: Any, bad: Any) -> Any:
  """Puts the leaves that `_split` took out back into place."""
  if isinstance(bad, str):
    return float(bad)
  for key, leaf in bad.items():
    place = int(key) if isinstance(value, list) else key
    value[place] = _merge(value[place], leaf)
  return value


def to_json(record: Mapping[str, Any], indent: int | None = None) -> str:
  """Strict JSON of a record; see the module docstring for NaN and infinity.

  Raises:
    TypeError: naming an entry that JSON cannot hold.
    ValueError: where the record uses the reserved key `nonfinite`.
  """
  if NONFINITE in record:
    raise ValueError(f"the key {NONFINITE!r} is reserved; rename it")
  clean, bad = _split(plain(record, "record"))
  if bad is not None:
    clean[NONFINITE] = bad
  text = json.dumps(clean, ensure_ascii=False, allow_nan=False, indent=indent)
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:  # half of a surrogate pair, from a cut-off token
    text = json.dumps(clean, allow_nan=False, indent=indent)
  return text


def from_json(text: str | bytes) -> dict[str, Any]:
  """The record that `to_json` wrote, non-finite values included.

  Raises:
    ValueError: where the text is no JSON object.
  """
  record = json.loads(text)
  if not isinstance(record, dict):
    raise ValueError(f"a JSON object was expected, not {record!r:.80}")
  bad = record.pop(NONFINITE, None)
  return record if bad is None else _merge(record, bad)


def read_jsonl(path: PathLike) -> list[dict[str, Any]]:
  """The records of a file with one JSON object per line.

  A last line that a kill tore is dropped; an absent file has no records.

  Raises:
    ValueError: naming the first other line that is no JSON object.
  """
  path = local_path(path)
  if not path.exists():
    return []
  # Not splitlines(): text may hold U+2028 and its like, which JSON leaves be.
  lines = path.read_bytes().split(b"\n")
  last = max((i for i, line in enumerate(lines) if line.strip()), default=-1)
  records = []
  for index, line in enumerate(lines):
    if not line.strip():
      continue
    try:
      records.append(from_json(line))
    except ValueError as error:
      torn = index == last and index == len(lines) - 1  # it has no newline
      if torn:
        break
      raise ValueError(
        f"{path}, line {index + 1}: {error}; mend or remove that line"
      ) from error
  return records
