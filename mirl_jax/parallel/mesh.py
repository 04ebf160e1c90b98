"""The device mesh and the rules that place arrays on it."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
DATA_AXES = ("data", "fsdp")
BATCH = P(DATA_AXES)  # questions: over both

# Logical axis of a parameter -> mesh axis, each parameter's by its own names.
# A mesh axis that does not divide the dimension leaves it whole.
RULES: dict[str | None, str | None] = {
  "embed": "fsdp",
  "heads": "tensor",
  "kv_heads": "tensor",
  "mlp": "tensor",
  "vocab": "tensor",
  "layers": None,
  None: None,
}


def parse_mesh(text: str, devices: int) -> dict[str, int]:
  """Reads `data:2,fsdp:4,tensor:1`; -1 takes the devices that are left.

  Raises:
    ValueError: for an unknown or repeated axis, or sizes that do not give
      `devices`.
  """
  sizes = dict.fromkeys(AXES, 1)
  seen: set[str] = set()
  for part in text.split(","):
    name, _, size = (x.strip() for x in part.partition(":"))
    if name not in AXES or not size.removeprefix("-").isdecimal():
      raise ValueError(f"mesh: {part!r} should read axis:size, axes {AXES}")
    if name in seen:
      raise ValueError(f"mesh {text!r}: the axis {name!r} stands twice")
    seen.add(name)
    sizes[name] = int(size)
  fixed = math.prod(n for n in sizes.values() if n != -1)
  wild = [name for name, n in sizes.items() if n == -1]
  if len(wild) == 1 and fixed > 0 and devices % fixed == 0:
    sizes[wild[0]] = devices // fixed
  if math.prod(sizes.values()) != devices or min(sizes.values()) < 1:
    raise ValueError(
      f"mesh {text!r} does not fit {devices} devices; the sizes must multiply"
      " to that (one may be -1)"
    )
  return sizes


def make_mesh(text: str = "data:-1", devices: Any = None) -> Mesh:
  """The mesh of a run; its axes are Auto-typed, as Linen needs.

  An axis may take a part of a dimension of the slice's torus, such as tensor:4
  of 8x8x8; it does only where no whole dimensions would do.
  """
  devices = jax.devices() if devices is None else devices
  sizes = parse_mesh(text, len(devices))
  shape, types = tuple(sizes.values()), (AxisType.Auto,) * len(AXES)
  try:
    return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
  except NotImplementedError:
    # Only of v5e does it cut dimensions, and what jax.experimental offers for
    # others loses the factors of 28.
    return Mesh(_cut_torus(shape, devices), AXES, axis_types=types)


def _cut_torus(shape: tuple[int, ...], devices: Any) -> np.ndarray:
  """Devices of a slice on mesh axes that take factors of its dimensions.

  The last axis, which talks most, takes its factors first, and neighbours.
  """
  at = np.array([(*d.coords, d.core_on_chip) for d in devices])
  torus = np.empty(at.max(0) + 1, object)
  torus[tuple(at.T)] = devices
  left, taken = list(torus.shape), []
  for size in reversed(shape):
    own = []
    for number, dimension in enumerate(left):
      own.append(math.gcd(dimension, size))
      left[number] //= own[-1]
      size //= own[-1]
    taken.append(own)
  # Every dimension as its factors, the last axis's the inner ones.
  axes, rank = len(shape), len(left)
  factors = np.array(taken[::-1]).T.ravel()
  order = np.arange(rank * axes).reshape(rank, axes).T.ravel()
  return torus.reshape(factors).transpose(order).reshape(shape)


def spec(
  axes: tuple[str | None, ...],
  shape: tuple[int, ...],
  mesh: Mesh | AbstractMesh,
  units: Mapping[str, int] = MappingProxyType({}),
) -> P:
  """Where a parameter with these logical axes lies.

  Args:
    axes: a name or None for each dimension.
    shape: of the parameter.
    mesh: of the run.
    units: by logical axis, how many elements stay together, as those of a head
      do; 1 where it is missing.

  Raises:
    ValueError: for a logical axis without a rule, or not one for each
      dimension.
  """
  if len(axes) != len(shape):
    raise ValueError(f"logical axes {axes} do not fit the shape {shape}")
  placed: list[str | None] = []
  for name, size in zip(axes, shape, strict=True):
    if name not in RULES:
      raise ValueError(f"logical axis {name!r} has no rule; add it to RULES")
    axis = RULES[name]
    count = size // units.get(name or "", 1)
    fits = axis not in (None, *placed) and count % mesh.shape[axis] == 0
    placed.append(axis if fits else None)
  return P(*placed)


def check_heads(mesh: Mesh | AbstractMesh, heads: Mapping[str, int]) -> None:
  """Refuses a tensor axis that would cut a head in two.

  Args:
    mesh: of the run.
    heads: number of heads by the name of what has them.

  Raises:
    ValueError: naming the heads that the axis does not divide.
  """
  size = mesh.shape["tensor"]
  for name, count in heads.items():
    if count % size:
      raise ValueError(
        f"mesh: tensor:{size} does not divide the {count} {name} heads; choose"
        " a divisor"
      )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Questions over the data axes, everything else whole."""
  return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
  """The same on every device."""
  return NamedSharding(mesh, P())


def own_questions(count: int, mesh: AbstractMesh | None) -> int:
  """How many of a program's questions each device has.

  Inside of the sampler's `shard_map` that is all that the program sees; what
  does not divide is whole on every device.
  """
  if mesh is None or jax.sharding.get_abstract_mesh().manual_axes:
    return count
  shards = data_shards(mesh)
  return count if count % shards else count // shards


def whole_rows(x: jax.Array, mesh: AbstractMesh | None) -> jax.Array:
  """Gathers the rows of a table [V, D]; V stays over the tensor axis."""
  if mesh is None or mesh.size == 1:
    return x
  if jax.sharding.get_abstract_mesh().manual_axes:
    return x
  cut = "tensor" if len(x) % mesh.shape["tensor"] == 0 else None
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(cut)))


def spread(x: jax.Array, mesh: AbstractMesh | None) -> jax.Array:
  """Pins activations [B, …] to the data axes, whole on the others.

  A compiler that is left to itself may follow the parameters' cuts and move
  activations, of which there are more.
  """
  if mesh is None or own_questions(len(x), mesh) == len(x):
    return x
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, BATCH))


def data_shards(mesh: Mesh | AbstractMesh) -> int:
  """How many shards the question axis has."""
  return mesh.shape["data"] * mesh.shape["fsdp"]
