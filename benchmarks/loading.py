"""Host memory and speed of loading and saving a checkpoint.

    python -m benchmarks.loading [--gigabytes=2] [--out=FILE]

Writes a bfloat16 checkpoint of that size, with Qwen2.5-VL's shapes, in several
files, to a temporary directory. For each dtype and mesh a process of its own
loads it and saves it again, while a thread reads the process's anonymous
memory (RssAnon: pages of no file) every two milliseconds. `excess` is the peak
over what there was before and over the bytes that the devices own of the
parameters, which on a CPU are such memory too. Prints one JSON object.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from absl import app, flags

from benchmarks.output import tell
from mirl_jax.parallel.mesh import make_mesh
from mirl_jax.policy.abstract import (
  abstract_params,
  count_params,
)
from mirl_jax.policy.configs import TextConfig, VLMConfig
from mirl_jax.policy.families import qwen2_5_vl
from mirl_jax.policy.loading import load_params, load_params_onto
from mirl_jax.policy.placement import param_shardings
from mirl_jax.policy.saving import save_params

_GIGABYTES = flags.DEFINE_float("gigabytes", 2.0, "Of the checkpoint.")
_OUT = flags.DEFINE_string("out", "", "File for the JSON, beside the output.")

_CASE = flags.DEFINE_string("case", "", "One case, as JSON; see measure.")

ACTS = ("load", "save")
DTYPES = ("float32", "bfloat16")
MESHES = ("data:1", "fsdp:8")
_ROOT = Path(__file__).parents[1]


def model(
  gigabytes: float, vocab: int = 151_936, width: int = 2048
) -> VLMConfig:
  """A Qwen2.5-VL of about this size in bfloat16, by its number of layers."""

  def sized(layers: int) -> VLMConfig:
    return VLMConfig(
      family=qwen2_5_vl.MODEL_TYPE,
      vision=qwen2_5_vl.Vision(
        depth=4,
        width=width * 5 // 8,
        heads=width // 128,
        mlp=width * 5 // 3,
        out_width=width,
        patch=14,
        temporal_patch=2,
        merge=2,
        window=112,
        full_blocks=(3,),
      ),
      text=TextConfig(
        vocab=vocab,
        width=width,
        layers=layers,
        heads=width // 128,
        kv_heads=2,
        head_dim=128,
        mlp=width * 43 // 8,
        rope_theta=1e6,
        mrope_section=(16, 24, 24),
        rms_eps=1e-6,
        tied=True,
      ),
      image_token=0,
      video_token=1,
      vision_start_token=2,
      vision_end_token=3,
      eos_tokens=(4,),
      pad_token=5,
    )

  one, two = (2 * count_params(abstract_params(sized(n))) for n in (1, 2))
  return sized(max(1, 1 + round((gigabytes * 1e9 - one) / (two - one))))


def write_checkpoint(folder: Path, config: VLMConfig) -> None:
  """Writes it in about five files; every row of a leaf is the same one."""
  rng = np.random.default_rng(0)

  def leaf(x: Any) -> np.ndarray:
    row = rng.normal(size=x.shape[-1]).astype(ml_dtypes.bfloat16)
    return np.broadcast_to(row, x.shape)

  params = jax.tree.map(leaf, abstract_params(config))
  size = 2 * count_params(params)
  save_params(folder, params, config, shard_bytes=size // 5 + 1)


def anonymous() -> int:
  """Bytes of this process's memory that belong to no file."""
  status = Path("/proc/self/status").read_text()
  return 1024 * int(status.split("RssAnon:")[1].split()[0])


def watched(work: Callable[[], Any]) -> tuple[Any, int, float]:
  """The result, the peak of anonymous memory over that before, seconds."""
  before, ended = anonymous(), threading.Event()
  peak = [before]

  def watch() -> None:
    while not ended.wait(0.002):
      peak[0] = max(peak[0], anonymous())

  thread = threading.Thread(target=watch)
  thread.start()
  began = time.monotonic()
  try:
    result = work()
  finally:
    seconds = time.monotonic() - began
    ended.set()
    thread.join()
  return result, max(peak[0], anonymous()) - before, seconds


def figures(peak: int, own: int, stored: int, seconds: float) -> dict[str, Any]:
  return {
    "peak_bytes": peak,
    "excess_mb": round((peak - own) / 1e6, 1),
    "seconds": round(seconds, 2),
    "gb_per_s": round(stored / 1e9 / seconds, 2),
  }


def measure_here(
  folder: Path, config: VLMConfig, dtype: str, mesh: str, way: str
) -> dict[str, Any]:
  """Loads and saves in this process; see `measure`."""
  placed = param_shardings(config, make_mesh(mesh))
  jax.jit(jnp.zeros_like)(jnp.ones(8)).block_until_ready()  # start the backend

  def load() -> Any:
    if way == "whole":
      leaves = load_params(folder, config, jnp.dtype(dtype))
      return jax.block_until_ready(jax.device_put(leaves, placed))
    return load_params_onto(folder, config, placed, jnp.dtype(dtype))

  params, peak, seconds = watched(load)
  own = sum(
    shard.data.nbytes
    for leaf in jax.tree.leaves(params)
    for shard in leaf.addressable_shards
  )
  stored = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
  found = {
    "dtype": dtype,
    "mesh": mesh,
    "parameter_bytes": own,
    "load": figures(peak, own, stored, seconds),
  }
  with tempfile.TemporaryDirectory(dir=folder) as out:
    _, peak, seconds = watched(
      lambda: save_params(out, params, config, dtype=ml_dtypes.bfloat16)
    )
    found["save"] = figures(peak, 0, stored, seconds)
  return found


def measure(
  gigabytes: float,
  dtype: str,
  mesh: str,
  folder: str,
  way: str = "stream",
  sizes: Sequence[int] = (),
) -> dict[str, Any]:
  """Loads and saves a checkpoint in a process of its own.

  Args:
    gigabytes: of the checkpoint.
    dtype: of the parameters in memory; they are saved as bfloat16.
    mesh: of as many simulated devices as it has.
    folder: with the checkpoint.
    way: `stream`, or `whole`: all leaves made on the host before they move.
    sizes: vocabulary and width; none are those of the 3B.
  """
  devices = math.prod(int(part.split(":")[1]) for part in mesh.split(","))
  given = [gigabytes, dtype, mesh, way, sizes, folder]
  done = subprocess.run(
    [sys.executable, "-m", "benchmarks.loading", "--case", json.dumps(given)],
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": str(devices),
    },
    stdout=subprocess.PIPE,
    text=True,
    cwd=_ROOT,
    check=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str]) -> None:
  del argv
  if _CASE.value:
    gigabytes, dtype, mesh, way, sizes, folder = json.loads(_CASE.value)
    config = model(gigabytes, *sizes)
    print(json.dumps(measure_here(Path(folder), config, dtype, mesh, way)))
    return
  with tempfile.TemporaryDirectory() as folder:
    write_checkpoint(Path(folder), model(_GIGABYTES.value))
    size = sum(f.stat().st_size for f in Path(folder).glob("*.safetensors"))
    cases = [
      measure(_GIGABYTES.value, dtype, mesh, folder)
      for dtype in DTYPES
      for mesh in MESHES
    ]
  worst = max(case[act]["excess_mb"] for case in cases for act in ACTS)
  report = {
    "checkpoint_bytes": size,
    "worst_excess_mb": worst,
    "within_600_mb": worst <= 600,
    "cases": cases,
  }
  tell(report, _OUT.value)


if __name__ == "__main__":
  app.run(main)
