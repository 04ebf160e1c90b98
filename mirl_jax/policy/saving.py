"""Writes parameters as safetensors, from any mesh, a few megabytes at a time.

The library's writer wants all tensors of a file at once, five gigabytes; the
format itself is a header of names, dtypes, shapes and offsets, and the bytes.
"""

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.directory import write_json
from mirl_jax.policy.weights import INDEX, SINGLE, Row, weight_table

_PIECE_BYTES = 16 << 20  # of a tensor, on the host at once
_SMALL_BYTES = 1 << 20  # no more than this is cast there: nothing is compiled
_KINDS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@functools.cache
def _taker(sharding: Any) -> Callable[[jax.Array, int], jax.Array]:
  """Takes one layer of a stacked leaf; one program for all of them."""
  return jax.jit(
    lambda leaf, layer: jax.lax.dynamic_index_in_dim(
      leaf, layer, keepdims=False
    ),
    out_shardings=sharding,
  )


@functools.cache
def _replicate(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
  return jax.jit(lambda leaf: leaf, out_shardings=sharding)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _cut(
  block: jax.Array, start: Any, size: int, transposed: bool, dtype: Any
) -> jax.Array:
  axis = block.ndim - 1 if transposed else 0
  piece = jax.lax.dynamic_slice_in_dim(block, start, size, axis)
  return (piece.T if transposed else piece).astype(dtype)


def _layer(leaf: Any, layer: int, stacked: bool) -> Any:
  """One tensor of a leaf, where this process can read all of it.

  Every process of a run must call this, as shards of others are sent over.
  """
  if not isinstance(leaf, jax.Array):
    return leaf[layer] if stacked else leaf
  sharding: Any = leaf.sharding
  if not leaf.is_fully_addressable:
    sharding = NamedSharding(sharding.mesh, P())
    return (
      _taker(sharding)(leaf, layer) if stacked else _replicate(sharding)(leaf)
    )
  if not stacked:
    return leaf
  if isinstance(sharding, NamedSharding):
    sharding = NamedSharding(sharding.mesh, P(*sharding.spec[1:]))
  return _taker(sharding)(leaf, layer)


def _blocks(layer: Any, axis: int) -> list[list[Any]]:
  """The shards of a tensor: those side by side within those along `axis`."""
  if not isinstance(layer, jax.Array):
    return [[layer]]
  found: dict[int, dict[int, Any]] = {}
  for shard in layer.addressable_shards:  # replicas fall together
    starts = [part.start or 0 for part in shard.index]
    first = starts.pop(axis)
    found.setdefault(first, {})[sum(starts)] = shard.data
  return [[side[c] for c in sorted(side)] for _, side in sorted(found.items())]


def tensor_pieces(
  row: Row, leaf: Any, layer: int, dtype: Any
) -> Iterator[np.ndarray]:
  """One tensor as torch stores it, some rows at a time.

  Args:
    row: of the table.
    leaf: the parameter, a numpy array or a device array on any mesh.
    layer: which, where the leaf is stacked.
    dtype: a numpy dtype to cast to.

  Yields:
    Contiguous rows of the tensor, other axes joined.
  """
  whole = _layer(leaf, layer, row.stacked)
  on_host = not isinstance(whole, jax.Array) or whole.nbytes <= _SMALL_BYTES
  axis = whole.ndim - 1 if row.transposed else 0
  limit = max(1, _PIECE_BYTES * whole.shape[axis] // whole.nbytes)

  def cut(block: Any, start: int, size: int) -> np.ndarray:
    if not on_host:
      return np.asarray(_cut(block, start, size, row.transposed, dtype))
    block = np.asarray(block).T if row.transposed else np.asarray(block)
    return block[start : start + size].astype(dtype)

  for side in _blocks(whole, axis):
    count = side[0].shape[axis]
    step = min(count, limit)
    for start in range(0, count, step):
      at = min(start, count - step)  # one size, one program
      parts = [cut(block, at, step) for block in side]
      piece = parts[0] if len(parts) == 1 else np.concatenate(parts, -1)
      yield np.ascontiguousarray(piece[start - at :])


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
    return [(SINGLE, groups[0])]
  total = len(groups)
  return [
    (f"model-{i:05d}-of-{total:05d}.safetensors", group)
    for i, group in enumerate(groups, 1)
  ]


def _header(entries: Mapping[str, tuple[Any, tuple[int, ...]]]) -> bytes:
  """The head of a safetensors file whose tensors follow in this order."""
  head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  end = 0
  for name, (dtype, shape) in entries.items():
    begin, end = end, end + int(np.prod(shape)) * dtype.itemsize
    head[name] = {
      "dtype": _KINDS[dtype.name],
      "shape": shape,
      "data_offsets": [begin, end],
    }
  text = json.dumps(head, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)  # the data begin aligned
  return len(text).to_bytes(8, "little") + text


def _check_tree(leaves: Mapping[str, Any], table: tuple[Row, ...]) -> None:
  expected = {row.path: row.shape for row in table}
  got = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
  if got != expected:
    wrong = sorted(dict(got.items() ^ expected.items()))
    raise ValueError(
      f"the parameter tree does not fit its config at {', '.join(wrong[:8])}"
    )


def save_params(
  path: str | os.PathLike,
  params: Mapping[str, Any],
  config: VLMConfig,
  shard_bytes: int = 5_000_000_000,
  dtype: Any = None,
  say: Callable[[str], None] | None = None,
  primary: bool = True,
) -> None:
  """Writes the weights as transformers reads them, hub layout.

  Weight files that were there before are replaced. Every process of a run
  calls this; the primary one writes.

  Args:
    path: directory, made where absent.
    params: parameter tree, on the host or on any mesh.
    config: of the parameters.
    shard_bytes: most bytes of a file's tensors, unless it holds only one.
    dtype: of the tensors; None keeps each parameter's own.
    say: told each file that is written.
    primary: whether this process writes.

  Raises:
    ValueError: where the tree does not fit the config.
  """
  folder = Path(path)
  leaves = flatten_dict(dict(params), sep="/")
  table = weight_table(config)
  _check_tree(leaves, table)
  layer_of, entries = {}, {}
  for row in table:
    kind = np.dtype(leaves[row.path].dtype if dtype is None else dtype)
    for i, name in enumerate(row.names):
      layer_of[name] = (row, i)
      entries[name] = (kind, row.tensor_shape)
  sizes = {
    name: int(np.prod(shape)) * kind.itemsize
    for name, (kind, shape) in entries.items()
  }
  stale = {*folder.glob("model-*-of-*.safetensors"), folder / SINGLE}
  shards = _shards(sizes, shard_bytes)
  for number, (shard, names) in enumerate(shards, 1):
    # Wide elements first, so that all of them lie aligned.
    names.sort(key=lambda name: -entries[name][0].itemsize)
    pieces = (
      piece
      for row, i in map(layer_of.__getitem__, names)
      for piece in tensor_pieces(
        row, leaves[row.path], i, entries[row.names[i]][0]
      )
    )
    if primary:
      folder.mkdir(parents=True, exist_ok=True)
      header = _header({name: entries[name] for name in names})
      _write_file(folder / shard, header, pieces)
      stale.discard(folder / shard)
    else:
      for _ in pieces:
        pass
    if say is not None:
      size = sum(sizes[name] for name in names)
      say(f"{shard}: {size / 1e6:,.0f} MB ({number} of {len(shards)})")
  if primary:
    for file in stale:
      file.unlink(missing_ok=True)
    _write_index(folder, shards, sum(sizes.values()))


def _write_file(
  file: Path, header: bytes, pieces: Iterator[np.ndarray]
) -> None:
  """Written aside first: a reader never meets half a file."""
  half = file.with_name(f"{file.name}.part")
  with open(half, "wb") as out:
    out.write(header)
    for piece in pieces:
      out.write(piece.reshape(-1).view(np.uint8).data)
    out.flush()
    os.fsync(out.fileno())
  os.replace(half, file)


def _write_index(
  folder: Path, shards: list[tuple[str, list[str]]], total: int
) -> None:
  (folder / INDEX).unlink(missing_ok=True)
  if len(shards) > 1:
    shard_of = {name: shard for shard, names in shards for name in names}
    content = {
      "metadata": {"total_size": total},
      "weight_map": dict(sorted(shard_of.items())),
    }
    write_json(folder / INDEX, content)
