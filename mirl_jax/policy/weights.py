"""Weights to and from Hugging Face's safetensors, by one table of names.

Our kernels are [in, out] and blocks are stacked on a leading layer axis;
torch's are [out, in], one tensor per layer. Shapes come from the abstract
parameters, so the table holds names only.
"""

import contextlib
import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mirl_jax.policy.abstract import abstract_params
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.directory import (
  PathLike,
  local_directory,
  read_json,
  write_json,
)
from mirl_jax.policy.families import family

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_HEAD = "lm_head.weight"
_NAMED = 8  # tensors named per kind of fault; the rest are counted
_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "embedding": "weight",
  "bias": "bias",
}


@dataclass(frozen=True)
class Row:
  """One leaf of our tree and the tensors that it is made of.

  Attributes:
    path: of the leaf, joined by "/".
    shape: of the leaf.
    names: the tensor, or one per layer.
    tensor_shape: of each tensor.
    stacked: whether the leaf's leading axis is the layer.
  """

  path: str
  shape: tuple[int, ...]
  names: tuple[str, ...]
  tensor_shape: tuple[int, ...]
  stacked: bool

  def to_ours(self, tensor: np.ndarray) -> np.ndarray:
    """One layer of the leaf from its tensor: kernels are transposed."""
    if self.path.endswith("kernel"):
      return tensor.reshape(tensor.shape[0], -1).T
    return tensor

  def to_theirs(self, layer: np.ndarray) -> np.ndarray:
    """The tensor from one layer of the leaf, contiguous."""
    if self.path.endswith("kernel"):
      layer = layer.T
    return np.ascontiguousarray(layer).reshape(self.tensor_shape)


def weight_table(config: VLMConfig) -> tuple[Row, ...]:
  """Every parameter beside its names on the hub."""
  vision, modules = config.vision, family(config).NAMES
  conv = (vision.channels, vision.temporal_patch, vision.patch, vision.patch)
  rows = []
  for path, leaf in flatten_dict(abstract_params(config), sep="/").items():
    module, _, kind = path.rpartition("/")
    name = f"{modules[module]}.{_LEAVES[kind]}"
    stacked = "{}" in name
    shape = tuple(leaf.shape)
    one = shape[1:] if stacked else shape
    if kind == "kernel":
      one = one[::-1]
    if path == "vision/patch_embed/kernel":
      one = (one[0], *conv)
    layers = range(shape[0]) if stacked else (0,)
    names = tuple(name.format(i) for i in layers)
    rows.append(Row(path, shape, names, one, stacked))
  return tuple(rows)


def expected_tensors(config: VLMConfig) -> dict[str, tuple[int, ...]]:
  """Names and shapes of a checkpoint of this config, hub layout."""
  return {
    name: row.tensor_shape for row in weight_table(config) for name in row.names
  }


def _embedding_name(config: VLMConfig) -> str:
  return f"{family(config).NAMES['text/embed']}.weight"


def _absent(kind: str, names: list[str], others: list[str], label: str) -> str:
  """A line on names that have no partner, a few with the nearest one."""
  parts = []
  for name in names[:_NAMED]:
    close = difflib.get_close_matches(name, others, 1)
    parts.append(f"{name} ({label} {close[0]})" if close else name)
  if len(names) > _NAMED:
    parts.append(f"… and {len(names) - _NAMED} more")
  return f"{len(names)} {kind}: " + ", ".join(parts)


def check_tensors(
  found: Mapping[str, tuple[int, ...]], config: VLMConfig, where: str
) -> None:
  """Compares a checkpoint's names and shapes with the config's.

  Args:
    found: hub names and shapes.
    config: what they should fit.
    where: the checkpoint, for the message.

  Raises:
    ValueError: one message that lists missing, surplus and misshapen tensors,
      each absent name with the nearest one on the other side.
  """
  expected = expected_tensors(config)
  missing = [name for name in expected if name not in found]
  surplus = [name for name in found if name not in expected]
  if config.text.tied and _HEAD in surplus:
    surplus.remove(_HEAD)  # compared with the embedding on reading
  wrong = [
    f"{name} is {list(found[name])} instead of {list(shape)}"
    for name, shape in expected.items()
    if name in found and tuple(found[name]) != shape
  ]
  faults = []
  if missing:
    others = surplus or list(found)
    faults.append(_absent("missing", missing, others, "nearest there:"))
  if surplus:
    others = missing or list(expected)
    faults.append(_absent("surplus", surplus, others, "nearest expected:"))
  if wrong:
    more = [f"… and {len(wrong) - _NAMED} more"] * (len(wrong) > _NAMED)
    shown = ", ".join(wrong[:_NAMED] + more)
    faults.append(f"{len(wrong)} misshapen: {shown}")
  if faults:
    raise ValueError(f"{where} does not fit its config: " + "; ".join(faults))


@dataclass(frozen=True)
class _Tensor:
  """A tensor in an open file, not read yet."""

  file: Any
  name: str

  def shape(self) -> tuple[int, ...]:
    return tuple(self.file.get_slice(self.name).get_shape())

  def read(self) -> np.ndarray:
    return self.file.get_tensor(self.name)


def _open_file(file: Path, stack: contextlib.ExitStack) -> Any:
  if not file.is_file():
    raise ValueError(f"{file} is missing; download it again")
  try:
    return stack.enter_context(safe_open(file, framework="numpy"))
  except SafetensorError as error:
    raise ValueError(
      f"{file} is not a whole safetensors file ({error}); download it again"
    ) from error


def _open_tensors(
  folder: Path, config: VLMConfig, stack: contextlib.ExitStack
) -> dict[str, _Tensor]:
  """All tensors of a directory by hub name; nothing but headers is read."""
  if (folder / _SINGLE).is_file():
    opened = _open_file(folder / _SINGLE, stack)
    found = [_Tensor(opened, name) for name in sorted(opened.keys())]
  elif (folder / _INDEX).is_file():
    shard_of = read_json(folder, _INDEX)["weight_map"]
    files = {
      shard: _open_file(folder / shard, stack)
      for shard in sorted(set(shard_of.values()))
    }
    names = {shard: set(opened.keys()) for shard, opened in files.items()}
    for name, shard in shard_of.items():
      if name not in names[shard]:
        raise ValueError(f"{folder / shard} lacks {name}, which {_INDEX} lists")
    listed = set(shard_of)
    for shard, inside in names.items():
      if inside - listed:
        raise ValueError(
          f"{folder / shard} holds {sorted(inside - listed)[0]}, which "
          f"{_INDEX} does not list"
        )
    found = [_Tensor(files[shard], name) for name, shard in shard_of.items()]
  else:
    shards = sorted(folder.glob("*.safetensors"))
    raise ValueError(
      f"{folder} has {len(shards)} weight files but no {_INDEX}"
      if shards
      else f"{folder} has no weights: neither {_SINGLE} nor {_INDEX}"
    )
  tensors: dict[str, _Tensor] = {}
  hub_name = family(config).hub_name
  for tensor in found:
    if hub_name(tensor.name) in tensors:
      raise ValueError(
        f"{folder} holds {tensor.name} twice, under an old and a new name"
      )
    tensors[hub_name(tensor.name)] = tensor
  return tensors


def stream_params(
  path: PathLike, config: VLMConfig, dtype: Any
) -> Iterator[tuple[str, np.ndarray]]:
  """Reads one leaf of the parameter tree at a time, tensor by tensor.

  Args:
    path: directory with model.safetensors, or shards and their index.
    config: of that directory.
    dtype: of the leaves.

  Yields:
    Path ("text/norm/scale") and array.

  Raises:
    ValueError: names what is missing, surplus, misshapen or cut short.
  """
  with local_directory(path) as folder, contextlib.ExitStack() as stack:
    tensors = _open_tensors(folder, config, stack)
    shapes = {name: tensor.shape() for name, tensor in tensors.items()}
    check_tensors(shapes, config, str(folder))
    embed = _embedding_name(config)
    if (
      config.text.tied
      and _HEAD in tensors
      and not np.array_equal(tensors[_HEAD].read(), tensors[embed].read())
    ):
      raise ValueError(
        f"{folder}: config.json ties the embeddings, but {_HEAD} differs from "
        f"{embed}; set tie_word_embeddings to false or remove {_HEAD}"
      )
    for row in weight_table(config):
      leaf = np.empty(row.shape, dtype)
      layers = leaf if row.stacked else leaf[None]
      for layer, name in zip(layers, row.names, strict=True):
        layer[...] = row.to_ours(tensors[name].read())
      yield row.path, leaf


def load_params(
  path: PathLike, config: VLMConfig, dtype: Any = np.float32
) -> dict[str, Any]:
  """The parameter tree of a Hugging Face directory, on the host.

  Args:
    path: directory with model.safetensors, or shards and their index, in the
      hub's layout or in transformers' newer one.
    config: of that directory.
    dtype: of the parameters.

  Returns:
    Nested dict of numpy arrays.

  Raises:
    ValueError: as `stream_params`.
  """
  leaves = dict(stream_params(path, config, dtype))
  return unflatten_dict(leaves, sep="/")


def _shards(
  sizes: Mapping[str, int], limit: int
) -> list[tuple[str, list[str]]]:
  """Fills files in order up to `limit` bytes; names them as the hub does."""
  groups: list[list[str]] = [[]]
  used = 0
  for name, size in sizes.items():
    if groups[-1] and used + size > limit:
      groups.append([])
      used = 0
    groups[-1].append(name)
    used += size
  if len(groups) == 1:
    return [(_SINGLE, groups[0])]
  total = len(groups)
  return [
    (f"model-{i:05d}-of-{total:05d}.safetensors", group)
    for i, group in enumerate(groups, 1)
  ]


def save_params(
  path: str | os.PathLike,
  params: Mapping[str, Any],
  config: VLMConfig,
  shard_bytes: int = 5_000_000_000,
) -> None:
  """Writes the weights as transformers reads them, hub layout.

  Weight files that were there before are replaced; one file's tensors are in
  memory at a time.

  Args:
    path: directory, made where absent.
    params: parameter tree; its dtypes are kept.
    config: of the parameters.
    shard_bytes: most bytes of a file.

  Raises:
    ValueError: where the tree does not fit the config.
  """
  folder = Path(path)
  folder.mkdir(parents=True, exist_ok=True)
  leaves = flatten_dict(dict(params), sep="/")
  table = weight_table(config)
  expected = {row.path: row.shape for row in table}
  got = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
  if got != expected:
    wrong = sorted(dict(got.items() ^ expected.items()))
    raise ValueError(
      f"the parameter tree does not fit its config at {', '.join(wrong[:8])}"
    )
  layer_of, sizes = {}, {}
  for row in table:
    size = int(np.prod(row.tensor_shape)) * leaves[row.path].dtype.itemsize
    for i, name in enumerate(row.names):
      layer_of[name], sizes[name] = (row, i), size
  stale = {*folder.glob("model-*-of-*.safetensors"), folder / _SINGLE}
  shard_of: dict[str, str] = {}
  for shard, names in _shards(sizes, shard_bytes):
    tensors = {}
    for name in names:
      row, i = layer_of[name]
      leaf = leaves[row.path]
      layer = np.asarray(leaf[i] if row.stacked else leaf)
      tensors[name] = row.to_theirs(layer)
      shard_of[name] = shard
    # Written aside first: a reader never meets half a file.
    half = folder / f"{shard}.part"
    save_file(tensors, half, metadata={"format": "pt"})
    os.replace(half, folder / shard)
    stale.discard(folder / shard)
  for file in stale:
    file.unlink(missing_ok=True)
  (folder / _INDEX).unlink(missing_ok=True)
  if len(set(shard_of.values())) > 1:
    content = {
      "metadata": {"total_size": sum(sizes.values())},
      "weight_map": dict(sorted(shard_of.items())),
    }
    write_json(folder / _INDEX, content)
