"""Reads an ordinary Hugging Face model directory."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.families import from_hf

PathLike = str | os.PathLike | Traversable

_DTYPE_FIELDS = ("dtype", "torch_dtype")  # the newer spelling first
# Weights of any framework, and the lists of their files.
_WEIGHTS = re.compile(
  r".*\.(safetensors|bin|pt|pth|gguf|h5|msgpack|onnx)(\.index\.json)?"
)


@contextlib.contextmanager
def local_directory(path: PathLike) -> Iterator[Path]:
  """The directory as a real path; a packaged one in a zip is unpacked.

  Raises:
    ValueError: where there is no such directory.
  """
  if isinstance(path, (str, os.PathLike)):
    folder = Path(path)
    if not folder.is_dir():
      raise ValueError(f"no such model directory: {folder}")
    yield folder
    return
  if not path.is_dir():
    raise ValueError(f"no such model directory: {path}")
  with tempfile.TemporaryDirectory() as temporary:
    for item in path.iterdir():
      if item.is_file():
        (Path(temporary) / item.name).write_bytes(item.read_bytes())
    yield Path(temporary)


def read_json(folder: Path, name: str, required: bool = True) -> dict[str, Any]:
  """A parsed JSON file of the directory; {} where optional and absent.

  Raises:
    ValueError: names the file that is missing or broken.
  """
  file = folder / name
  if not file.is_file():
    if required:
      raise ValueError(
        f"{folder} has no {name}; expected a Hugging Face model directory"
      )
    return {}
  try:
    content = json.loads(file.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(
      f"{file} is not valid JSON: {error}; download it again"
    ) from error
  if not isinstance(content, dict):
    raise ValueError(f"{file} holds no JSON object; download it again")
  return content


def write_json(file: Path, content: dict[str, Any]) -> None:
  """Writes one of the directory's JSON files, replacing it whole."""
  file.write_text(
    json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
  )


def load_config(path: PathLike) -> VLMConfig:
  """Sizes and special ids from config.json and generation_config.json.

  Raises:
    ValueError: names the file or field that is missing or not supported.
  """
  with local_directory(path) as folder:
    content = read_json(folder, "config.json")
    generation = read_json(folder, "generation_config.json", required=False)
    try:
      return from_hf(content, generation)
    except ValueError as error:
      raise ValueError(f"{folder / 'config.json'}: {error}") from error


def stored_dtype(path: PathLike) -> str | None:
  """The dtype that config.json gives its weights, None where it does not."""
  with local_directory(path) as folder:
    content = read_json(folder, "config.json")
  found = [content.get(name) for name in _DTYPE_FIELDS]
  return next((str(name) for name in found if name), None)


def write_dtype(folder: Path, dtype: str) -> None:
  """Puts a dtype wherever config.json names one, at the top at least."""
  content = read_json(folder, "config.json")
  sections = [part for part in content.values() if isinstance(part, dict)]
  for part in (content, *sections):
    part.update({name: dtype for name in _DTYPE_FIELDS if name in part})
  if not any(name in content for name in _DTYPE_FIELDS):
    content["torch_dtype"] = dtype
  write_json(folder / "config.json", content)


def copy_directory(path: PathLike, out: Path) -> None:
  """Copies all files of a model's directory but its weights."""
  out.mkdir(parents=True, exist_ok=True)
  with local_directory(path) as folder:
    for file in sorted(folder.iterdir()):
      if file.is_file() and not _WEIGHTS.fullmatch(file.name):
        shutil.copyfile(file, out / file.name)
