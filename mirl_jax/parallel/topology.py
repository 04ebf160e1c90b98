"""Devices that are not here: what to compile for, and what a chip can do."""

import contextlib
import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

_GIB = 2.0**30


@dataclass(frozen=True)
class Chip:
  """What one device of a kind can do at most.

  Attributes:
    memory: bytes of HBM that a program may use.
    flops: operations per second, bfloat16 with float32 sums.
    bandwidth: bytes per second from and to HBM.
    links: bytes per second that it sends to its neighbours, all links together.
  """

  memory: float
  flops: float
  bandwidth: float
  links: float


# From https://cloud.google.com/tpu/docs/system-architecture-tpu-vm, per device
# as libtpu describes it: a chip of v4 and of tpu7x is two. Memory is what the
# compiler says that a program may use (tests/test_topologies.py asks it).
CHIPS = {
  "v4": Chip(15.25 * _GIB, 137.5e12, 0.614e12, 150e9),
  "v5e": Chip(15.75 * _GIB, 197e12, 0.819e12, 200e9),
  "v5p": Chip(95.74 * _GIB, 459e12, 2.765e12, 600e9),
  "v6e": Chip(31.25 * _GIB, 918e12, 1.640e12, 448e9),
  "tpu7x": Chip(94.75 * _GIB, 1153.5e12, 3.690e12, 600e9),
}


def parse(name: str) -> tuple[str, tuple[int, ...]]:
  """`v5e:4x4` or `cpu:8` as a kind and its sizes.

  Raises:
    ValueError: for anything else.
  """
  kind, _, sizes = name.partition(":")
  parts = sizes.split("x")
  good = all(part.isdecimal() and int(part) > 0 for part in parts)
  if kind not in (*CHIPS, "cpu") or not good:
    raise ValueError(
      f"--topology={name!r}: give KIND:SIZES such as v5e:4x4, v5p:4x4x4 or"
      f" cpu:8; kinds are {', '.join((*CHIPS, 'cpu'))}"
    )
  return kind, tuple(int(part) for part in parts)


def devices(name: str) -> list[Any]:
  """The devices of a topology; nothing can run on a TPU's.

  Raises:
    ValueError: for a bad name, for a TPU without libtpu, and for more CPU
      devices than this process has.
  """
  kind, sizes = parse(name)
  if kind == "cpu":
    return _cpu_devices(sizes[0])
  # It would ask Cloud's metadata server which TPU this machine is.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  # Compiling alone, several processes may load it at a time.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  options: dict[str, Any] = {}
  if set(sizes) == {1}:
    options["chips_per_host_bounds"] = (1, 1, 1)
  try:
    found = topologies.get_topology_desc(name, platform="tpu", **options)
  except Exception as error:
    text = " ".join(str(error).split())
    if importlib.util.find_spec("libtpu") is None:
      raise ValueError(
        f"--topology={name} needs libtpu, which is not installed: pip install"
        " 'mirl-jax[tpu]'"
      ) from error
    raise ValueError(f"--topology={name}: {text[:300]}") from error
  return list(found.devices)


def _cpu_devices(count: int) -> list[Any]:
  with contextlib.suppress(RuntimeError):  # started already
    jax.config.update("jax_num_cpu_devices", count)
  found = jax.devices("cpu")
  if len(found) < count:
    raise ValueError(
      f"--topology=cpu:{count}: this process has {len(found)} CPU devices"
    )
  return found[:count]
