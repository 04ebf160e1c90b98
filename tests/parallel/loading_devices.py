"""Run by test_loading_devices.py: loads and saves on 8 devices.

    python loading_devices.py FOLDER [ADDRESS PROCESSES NUMBER]

FOLDER has the checkpoints by name. Prints one JSON object: what was
found in each case (leaves made on the host, or filled in pieces).
"""

import hashlib
import json
import sys
from pathlib import Path

import jax
import numpy as np

from mirl_jax import testing as tiny
from mirl_jax.parallel.mesh import make_mesh
from mirl_jax.policy import loading, saving
from mirl_jax.policy.placement import param_shardings

CONFIGS = {"qwen2.5": tiny.tiny_config(False), "qwen3": tiny.tiny_qwen3(True)}
WAYS = {"host": 16 << 20, "pieces": 3000}
CUBE = "data:2,fsdp:2,tensor:2"
# Model, mesh and way of each number of processes.
CASES = {
  1: (
    ("qwen2.5", "data:8", "host"),
    ("qwen2.5", "fsdp:8", "host"),
    ("qwen2.5", "fsdp:8", "pieces"),
    ("qwen2.5", CUBE, "pieces"),
    ("qwen3", CUBE, "host"),
    ("qwen3", CUBE, "pieces"),
  ),
  2: (
    ("qwen2.5", "fsdp:8", "host"),
    ("qwen3", CUBE, "pieces"),
  ),
}


def digests(folder: Path) -> dict[str, str]:
  return {
    file.name: hashlib.sha256(file.read_bytes()).hexdigest()
    for file in folder.iterdir()
  }


def case(folder: Path, name: str, mesh: str, way: str) -> dict:
  config = CONFIGS[name]
  places = param_shardings(config, make_mesh(mesh))
  loading._PIECE_BYTES = saving._PIECE_BYTES = WAYS[way]
  saving._SMALL_BYTES = WAYS[way] - 1000
  rows, read = loading.Tensor.rows, []

  def counted(self, start, stop, columns):
    got = rows(self, start, stop, columns)
    read.append(got.nbytes)
    return got

  loading.Tensor.rows = counted
  params = loading.load_params_onto(folder / name, config, places)
  loading.Tensor.rows = rows
  want = loading.load_params(folder / name, config)
  same = jax.tree.map(
    lambda x, place, y: (
      x.sharding == place
      and all(
        np.array_equal(shard.data, y[shard.index])
        for shard in x.addressable_shards
      )
    ),
    params,
    places,
    want,
  )
  spread = sum(
    not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(params)
  )
  primary = jax.process_index() == 0
  out = folder / f"{name} {mesh} {way} {jax.process_count()}"
  saving.save_params(out, params, config, 70_000, primary=primary)
  return {
    "same": all(jax.tree.leaves(same)),
    "spread": spread,
    "read": sum(read),
    "stored": sum(x.nbytes for x in jax.tree.leaves(want)),
    "files": digests(out) if primary else None,
  }


def main() -> None:
  folder = Path(sys.argv[1])
  if len(sys.argv) > 2:
    address, processes, number = sys.argv[2:]
    jax.distributed.initialize(address, int(processes), int(number))
  cases = CASES[jax.process_count()]
  report = [case(folder, *which) for which in cases]
  print(json.dumps({"devices": jax.device_count(), "cases": report}))


if __name__ == "__main__":
  main()
