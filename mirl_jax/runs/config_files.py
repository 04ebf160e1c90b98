"""The resolved config of a run, as config.json, and what a resume changed."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mirl_jax.runs.files import (
  PathLike,
  from_json,
  local_path,
  plain,
  to_json,
  write_atomic,
)

CONFIG_FILE = "config.json"

Config = ConfigDict | Mapping[str, Any]


def _resolve(value: Any) -> Any:
  """Config values as plain containers; a dataclass names its type."""
  if isinstance(value, ConfigDict):
    value = value.to_dict()  # resolves field references
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    names = [f.name for f in dataclasses.fields(value)]
    return {
      "type": type(value).__name__,
      **{name: _resolve(getattr(value, name)) for name in names},
    }
  if isinstance(value, Mapping):
    return {str(key): _resolve(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_resolve(item) for item in value]
  if callable(value):
    return f"{value.__module__}.{value.__qualname__}"
  return value


def resolved(config: Config) -> dict[str, Any]:
  """A config as JSON can hold it: tuples are lists, functions are names.

  Raises:
    TypeError: naming a field that JSON cannot hold.
  """
  return plain(_resolve(config), "config")


def write_config(
  workdir: PathLike, config: Config, primary: bool = True
) -> Path | None:
  """Writes config.json whole; any other process than the primary writes none.

  Raises:
    TypeError: naming a field that JSON cannot hold.
  """
  if not primary:
    return None
  path = local_path(workdir) / CONFIG_FILE
  return write_atomic(path, to_json(resolved(config), indent=2) + "\n")


def load_config(workdir: PathLike) -> dict[str, Any]:
  """The config that a run was started with.

  Raises:
    FileNotFoundError: where the directory holds no run.
    ValueError: where the file is damaged.
  """
  path = local_path(workdir) / CONFIG_FILE
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist: no run was started there")
  try:
    return from_json(path.read_bytes())
  except ValueError as error:
    raise ValueError(f"{path} is damaged: {error}") from error


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Leaves by dotted name, list items by index; empty containers are leaves."""
  leaves: dict[str, Any] = {}
  for key, value in config.items():
    name = f"{prefix}{key}"
    if isinstance(value, list) and value:
      value = {str(index): item for index, item in enumerate(value)}
    if isinstance(value, Mapping) and value:
      leaves.update(flatten(value, f"{name}."))
    else:
      leaves[name] = value
  return leaves


def differing_fields(saved: Config, current: Config) -> list[str]:
  """Fields in which two configs differ, as "name: saved -> current".

  Empty where they are the same; JSON's forms are compared, so that a config
  equals the one read back.
  """
  absent = object()
  old, new = flatten(resolved(saved)), flatten(resolved(current))
  lines = []
  for name in sorted(old.keys() | new.keys()):
    before, after = old.get(name, absent), new.get(name, absent)
    # repr, as NaN is not equal to itself and 1 equals True.
    if repr(before) != repr(after):
      left = "absent" if before is absent else repr(before)
      right = "absent" if after is absent else repr(after)
      lines.append(f"{name}: {left} -> {right}")
  return lines
