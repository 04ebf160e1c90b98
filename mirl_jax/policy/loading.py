"""Reads safetensors, each slice straight to the devices that hold it.

A leaf is allocated where it lies and filled in place, a few megabytes at a
time: beside what the devices own, the host holds one or two such pieces. A
process reads only what its own devices hold.
"""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors import SafetensorError, safe_open

from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.directory import PathLike, local_directory, read_json
from mirl_jax.policy.families import family
from mirl_jax.policy.weights import (
  HEAD,
  INDEX,
  SINGLE,
  Row,
  check_tensors,
  embedding_name,
  weight_table,
)

# A leaf of no more than this is made on the host, which compiles nothing;
# larger ones are filled in pieces of about this.
_PIECE_BYTES = 16 << 20
_FLOATS = {"F32": 4, "F16": 2, "BF16": 2}  # bytes of an element

Cut = tuple[slice, ...]  # part of an array, one slice per axis


@dataclass(frozen=True)
class Tensor:
  """A tensor in an open file, not read yet.

  Attributes:
    file: open safetensors file.
    name: in that file.
    where: path of the file, for messages.
  """

  file: Any
  name: str
  where: Path

  def shape(self) -> tuple[int, ...]:
    return tuple(self.file.get_slice(self.name).get_shape())

  def kind(self) -> str:
    """Its dtype as the file calls it."""
    return self.file.get_slice(self.name).get_dtype()

  def rows(self, start: int, stop: int, columns: slice) -> np.ndarray:
    """Part of it, taken as a matrix or a vector, in its own dtype.

    Args:
      start, stop: along its first axis.
      columns: of all other axes joined; unused for a vector.
    """
    cut = self.file.get_slice(self.name)
    shape = self.shape()
    if len(shape) == 1:
      return cut[start:stop]
    if len(shape) == 2:
      return cut[start:stop, columns.start : columns.stop]
    return cut[start:stop].reshape(stop - start, -1)[:, columns]


def _open_file(file: Path, stack: contextlib.ExitStack) -> Any:
  if not file.is_file():
    raise ValueError(f"{file} is missing; download it again")
  try:
    return stack.enter_context(safe_open(file, framework="numpy"))
  except SafetensorError as error:
    raise ValueError(
      f"{file} is not a whole safetensors file ({error}); download it again"
    ) from error


def _open_shards(folder: Path, stack: contextlib.ExitStack) -> list[Tensor]:
  """The tensors that the index lists, which must be those of its files."""
  shard_of = read_json(folder, INDEX).get("weight_map")
  if not isinstance(shard_of, dict) or not shard_of:
    raise ValueError(f"{folder / INDEX} has no weight_map; download it again")
  files = {
    shard: _open_file(folder / shard, stack)
    for shard in sorted(set(shard_of.values()))
  }
  names = {shard: set(opened.keys()) for shard, opened in files.items()}
  for name, shard in shard_of.items():
    if name not in names[shard]:
      raise ValueError(
        f"{folder / shard} lacks {name}, which {INDEX} lists; download both"
        " again"
      )
  for shard, inside in names.items():
    if inside - set(shard_of):
      raise ValueError(
        f"{folder / shard} holds {sorted(inside - set(shard_of))[0]}, which "
        f"{INDEX} does not list; download both again"
      )
  return [
    Tensor(files[shard], name, folder / shard)
    for name, shard in shard_of.items()
  ]


def _check_floats(tensors: list[Tensor]) -> None:
  """Refuses quantised weights before their names are found wanting."""
  others = [tensor for tensor in tensors if tensor.kind() not in _FLOATS]
  if others:
    first, more = others[0], len(others) - 1
    raise ValueError(
      f"{first.where}: {first.name} is {first.kind()}, not one of"
      f" {', '.join(_FLOATS)}{f' ({more} others too)' if more else ''};"
      " quantised checkpoints are not supported, use the one that this was"
      " made from"
    )


def open_tensors(
  folder: Path, config: VLMConfig, stack: contextlib.ExitStack
) -> dict[str, Tensor]:
  """All tensors of a directory by hub name; nothing but headers is read.

  Raises:
    ValueError: names what is missing, surplus, misshapen, cut short or of a
      dtype that is not supported.
  """
  if (folder / SINGLE).is_file():
    opened = _open_file(folder / SINGLE, stack)
    found = [
      Tensor(opened, name, folder / SINGLE) for name in sorted(opened.keys())
    ]
  elif (folder / INDEX).is_file():
    found = _open_shards(folder, stack)
  else:
    shards = sorted(folder.glob("*.safetensors"))
    raise ValueError(
      f"{folder} has {len(shards)} weight files but no {INDEX}; download that"
      " too"
      if shards
      else f"{folder} has no weights: neither {SINGLE} nor {INDEX}; download"
      " them"
    )
  _check_floats(found)
  tensors: dict[str, Tensor] = {}
  hub_name = family(config).hub_name
  for tensor in found:
    if hub_name(tensor.name) in tensors:
      raise ValueError(
        f"{folder} holds {tensor.name} twice, under an old and a new name;"
        " remove one of the two"
      )
    tensors[hub_name(tensor.name)] = tensor
  shapes = {name: tensor.shape() for name, tensor in tensors.items()}
  check_tensors(shapes, config, str(folder))
  _check_head(tensors, config, folder)
  return tensors


def _row_steps(count: int, row_bytes: int) -> tuple[int, list[int]]:
  """Rows of a piece, and where each starts; the last overlaps the one before,
  so that all are of one size."""
  step = max(1, min(count, _PIECE_BYTES // max(row_bytes, 1)))
  return step, [min(start, count - step) for start in range(0, count, step)]


def _check_head(
  tensors: dict[str, Tensor], config: VLMConfig, folder: Path
) -> None:
  """A head beside tied embeddings must equal them."""
  if not config.text.tied or HEAD not in tensors:
    return
  name = embedding_name(config)
  head, embedding = tensors[HEAD], tensors[name]
  rows, width = config.text.vocab, config.text.width
  same = head.shape() == embedding.shape()
  step, starts = _row_steps(rows, 4 * width)
  for start in starts if same else ():
    cut = (start, start + step, slice(0, width))
    same = same and np.array_equal(head.rows(*cut), embedding.rows(*cut))
  if not same:
    raise ValueError(
      f"{folder}: config.json ties the embeddings, but {HEAD} differs from "
      f"{name}; set tie_word_embeddings to false or remove {HEAD}"
    )


def _whole(cut: Cut | None, shape: tuple[int, ...]) -> list[slice]:
  """The same part with every bound spelled out; None is all."""
  cut = cut or tuple(slice(None) for _ in shape)
  return [slice(*part.indices(n)) for part, n in zip(cut, shape, strict=True)]


def read_leaf(
  row: Row, tensors: dict[str, Tensor], cut: Cut | None, dtype: Any
) -> np.ndarray:
  """A part of a leaf on the host; only that part is read.

  Args:
    row: of the table.
    tensors: by hub name.
    cut: the part, in the leaf's own axes; None is all.
    dtype: of the result.
  """
  parts = _whole(cut, row.shape)
  out = np.empty([part.stop - part.start for part in parts], dtype)
  layers = parts.pop(0) if row.stacked else slice(0, 1)
  if row.transposed:
    parts = parts[::-1]
  first, columns = parts[0], parts[-1]
  filled = out if row.stacked else out[None]
  for layer, name in zip(filled, row.names[layers], strict=True):
    piece = tensors[name].rows(first.start, first.stop, columns)
    layer[...] = piece.T if row.transposed else piece
  return out


def _from_host(
  row: Row, tensors: dict[str, Tensor], sharding: NamedSharding, dtype: Any
) -> jax.Array:
  """A small leaf: each part is made on the host and handed over."""
  made: dict[Any, np.ndarray] = {}

  def part(cut: Cut | None) -> np.ndarray:
    parts = tuple(_whole(cut, row.shape))
    key = str(parts)
    if key not in made:  # replicas share what was read
      made[key] = read_leaf(row, tensors, parts, dtype)
    return made[key]

  return jax.make_array_from_callback(row.shape, sharding, part)


@functools.cache
def _allocate(
  shape: tuple[int, ...], dtype: Any, sharding: NamedSharding
) -> Callable[[], jax.Array]:
  return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)


@functools.cache
def _writer(
  sharding: NamedSharding, piece_spec: P, transposed: bool, stacked: bool
) -> Callable[..., jax.Array]:
  """Writes a piece into a layer of a leaf, in place, on every device alone.

  Each device puts its rows [r, c] of the tensor at `start` of its own rows:
  nothing is sent between devices, and all pieces share one program.
  """

  def write(leaf: Any, piece: Any, layer: Any, start: Any) -> Any:
    piece = (piece.T if transposed else piece).astype(leaf.dtype)
    rows = (0, start) if transposed else (start, *[0] * (piece.ndim - 1))
    if stacked:
      piece, rows = piece[None], (layer, *rows)
    return jax.lax.dynamic_update_slice(leaf, piece, rows)

  mapped = jax.shard_map(
    write,
    mesh=sharding.mesh,
    in_specs=(sharding.spec, piece_spec, P(), P()),
    out_specs=sharding.spec,
  )
  return jax.jit(mapped, donate_argnums=0, out_shardings=sharding)


def _piece(
  tensor: Tensor,
  placed: NamedSharding,
  shape: tuple[int, ...],
  start: int,
  rows: int,
) -> jax.Array:
  """Some rows of every shard of a tensor, one below the other.

  Args:
    tensor: as a matrix or a vector.
    placed: where its shards are.
    shape: of the result.
    start: first row, counted from that of each shard.
    rows: of one shard.
  """
  step = placed.shard_shape(shape)[0]
  read: dict[tuple[int, int], np.ndarray] = {}

  def part(cut: Cut | None) -> np.ndarray:
    first, *rest = _whole(cut, shape)
    columns = rest[0] if rest else slice(0, 1)
    key = (first.start // step, columns.start)
    if key not in read:  # replicas share what was read
      at = key[0] * rows + start
      read[key] = tensor.rows(at, at + step, columns)
    return read[key]

  return jax.make_array_from_callback(shape, placed, part)


def _onto_devices(
  row: Row, tensors: dict[str, Tensor], sharding: NamedSharding, dtype: Any
) -> jax.Array:
  """A large leaf: allocated where it lies, then filled piece by piece."""
  axes = len(row.shape)
  spec = [*sharding.spec, *[None] * (axes - len(sharding.spec))]
  local = [*sharding.shard_shape(row.shape)]
  if row.stacked:
    spec, local = spec[1:], local[1:]
  if row.transposed:
    spec, local = spec[::-1], local[::-1]
  whole = [row.tensor_shape[0], int(np.prod(row.tensor_shape[1:]))][: len(spec)]
  shards = [n // part for n, part in zip(whole, local, strict=True)]
  item = max(_FLOATS[tensors[name].kind()] for name in row.names)
  # A piece is that of all shards together.
  step, starts = _row_steps(
    local[0], item * shards[0] * int(np.prod(whole[1:]))
  )
  placed = NamedSharding(sharding.mesh, P(*spec))
  write = _writer(sharding, placed.spec, row.transposed, row.stacked)
  leaf = _allocate(row.shape, jnp.dtype(dtype), sharding)()
  shape = (step * shards[0], *whole[1:])
  for layer, name in enumerate(row.names):
    for start in starts:
      piece = _piece(tensors[name], placed, shape, start, local[0])
      # The next piece is read while the last is written, but no further ahead.
      leaf = write(leaf.block_until_ready(), piece, layer, start)
  return leaf.block_until_ready()


def load_params_onto(
  path: PathLike, config: VLMConfig, shardings: Any, dtype: Any = jnp.float32
) -> dict[str, Any]:
  """The parameters of a Hugging Face directory, on the devices.

  Args:
    path: directory with model.safetensors, or shards and their index, in the
      hub's layout or in transformers' newer one; float32, float16 or bfloat16.
    config: of that directory.
    shardings: where each leaf goes, a tree of NamedShardings.
    dtype: of the parameters.

  Returns:
    Nested dict of arrays.

  Raises:
    ValueError: as `open_tensors`.
  """
  places = flatten_dict(shardings, sep="/")
  leaves = {}
  with local_directory(path) as folder, contextlib.ExitStack() as stack:
    tensors = open_tensors(folder, config, stack)
    for row in weight_table(config):
      sharding = places[row.path]
      size = int(np.prod(row.shape)) * jnp.dtype(dtype).itemsize
      # One program fills all layers, so that each must lie on every device.
      layers = sharding.shard_shape(row.shape)[0] if row.stacked else 1
      small = size <= _PIECE_BYTES or layers < len(row.names)
      make = _from_host if small else _onto_devices
      leaves[row.path] = make(row, tensors, sharding, dtype)
  return unflatten_dict(leaves, sep="/")


def load_params(
  path: PathLike, config: VLMConfig, dtype: Any = np.float32
) -> dict[str, Any]:
  """The same on the host, as numpy arrays; see `load_params_onto`."""
  leaves = {}
  with local_directory(path) as folder, contextlib.ExitStack() as stack:
    tensors = open_tensors(folder, config, stack)
    for row in weight_table(config):
      leaves[row.path] = read_leaf(row, tensors, None, dtype)
  return unflatten_dict(leaves, sep="/")
