"""Several processes that run one program on all of their devices.

Of a batch of training, a process reads, prepares and judges the questions that
lie on its devices; which rows a batch has does not depend on the number of
processes.
"""

import functools
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from mirl_jax.parallel.mesh import DATA_AXES, batch_sharding, replicated

# The others learn within this time of a process that died.
HEARTBEAT_S = 30
# One that fails waits so long for the others to leave with it.
SHUTDOWN_S = 20


def join(text: str) -> None:
  """Joins the other processes of a run; call it once, before JAX is used.

  Args:
    text: `auto` where JAX can tell (SLURM, Cloud TPU, Kubernetes, Open MPI);
      otherwise `HOST:PORT,COUNT,INDEX`: where the first process listens, how
      many there are and which this is.

  Raises:
    ValueError: for anything else.
  """
  if text == "auto":
    jax.distributed.initialize(
      heartbeat_timeout_seconds=HEARTBEAT_S, shutdown_timeout_seconds=SHUTDOWN_S
    )
    return
  address, *numbers = text.split(",")
  if ":" not in address or not all(n.isdecimal() for n in numbers):
    numbers = []
  if len(numbers) != 2 or not int(numbers[1]) < int(numbers[0]):
    raise ValueError(
      f"--processes={text!r} is neither auto nor HOST:PORT,COUNT,INDEX with"
      " INDEX below COUNT"
    )
  jax.distributed.initialize(
    address,
    int(numbers[0]),
    int(numbers[1]),
    heartbeat_timeout_seconds=HEARTBEAT_S,
    shutdown_timeout_seconds=SHUTDOWN_S,
  )


def own_name() -> str:
  """ "process 1 of 2: " where there are several."""
  count = jax.process_count()
  return f"process {jax.process_index()} of {count}: " if count > 1 else ""


def own_rows(mesh: Mesh, count: int) -> list[int]:
  """Which rows of a batch of `count` questions lie on this process's devices,
  in order."""
  if jax.process_count() == 1:
    return list(range(count))
  cuts = batch_sharding(mesh).addressable_devices_indices_map((count,))
  rows = np.arange(count)
  return sorted({int(row) for cut in cuts.values() for row in rows[cut]})


def put(tree: Any, shardings: Any) -> Any:
  """Places arrays that every process has whole; a tree or one sharding."""

  def one(x: Any, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable or isinstance(x, jax.Array):
      return jax.device_put(x, sharding)
    return jax.make_array_from_callback(
      np.shape(x), sharding, lambda cut: np.asarray(x)[cut]
    )

  if isinstance(shardings, NamedSharding):
    return jax.tree.map(lambda x: one(x, shardings), tree)
  return jax.tree.map(one, tree, shardings)


def put_rows(tree: Any, sharding: NamedSharding, count: int) -> Any:
  """Places batches of which every process has its `own_rows`.

  Args:
    tree: arrays of the own rows, on the axis that the sharding cuts over the
      data axes.
    sharding: of the whole batch.
    count: of its questions.
  """
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)
  axis = list(sharding.spec).index(DATA_AXES)

  def one(x: np.ndarray) -> jax.Array:
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    return jax.make_array_from_process_local_data(sharding, x, shape)

  return jax.tree.map(one, tree)


def on_host(tree: Any) -> Any:
  """Arrays of a mesh as numpy, whole on every process."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  (mesh,) = {x.sharding.mesh for x in jax.tree.leaves(tree)}
  whole = _replicate(mesh)(tree)
  return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), whole)


@functools.cache  # one jitted function, not one per call
def _replicate(mesh: Mesh) -> Any:
  return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


def own_part(tree: Any) -> Any:
  """The `own_rows` of arrays cut by their leading axis, as numpy; asks no other
  process."""

  def one(x: jax.Array) -> np.ndarray:
    shards = {s.index[0].start or 0: s.data for s in x.addressable_shards}
    return np.concatenate([np.asarray(shards[at]) for at in sorted(shards)])

  return jax.tree.map(one, tree)


def agreed(values: Any) -> np.ndarray:
  """The largest of the whole numbers that the processes call this with, one by
  one for an array."""
  own = np.asarray(values, np.int32)
  if jax.process_count() == 1:
    return own
  return multihost_utils.process_allgather(own).max(axis=0)


def gathered(data: bytes) -> list[bytes]:
  """What the processes call this with, in their order."""
  if jax.process_count() == 1:
    return [data]
  size = int(agreed(len(data)))
  own = np.zeros(4 + size, np.uint8)
  own[:4] = np.frombuffer(np.uint32(len(data)).tobytes(), np.uint8)
  own[4 : 4 + len(data)] = np.frombuffer(data, np.uint8)
  rows = multihost_utils.process_allgather(own)
  lengths = rows[:, :4].copy().view(np.uint32)[:, 0]
  return [
    row[4 : 4 + n].tobytes() for row, n in zip(rows, lengths, strict=True)
  ]
