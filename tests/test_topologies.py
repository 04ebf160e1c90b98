"""Whole programs compiled for TPUs that are not here; needs libtpu.

    python -m pytest -m aot tests/test_topologies.py

compiles every named slice of the published models.
"""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from mirl_jax import aot
from mirl_jax.parallel import topology
from mirl_jax.parallel.mesh import AXES, make_mesh
from mirl_jax.programs import DeviceProgram

ROOT = Path(__file__).parents[1]
SLICES = [
  (file.name, name)
  for file in sorted(ROOT.glob("configs/qwen*.py"))
  for name in runpy.run_path(str(file))["SLICES"]
]


def compiled(topology, *flags):
  pytest.importorskip("libtpu")
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "mirl_jax.main",
      "--mode=compile",
      f"--topology={topology}",
      "--json",
      *flags,
    ],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
  ("name", "sizes"),
  [("v5p:8x8x8", (2, 64, 4)), ("v5p:16x20x28", (35, 64, 4))],
)
def test_an_axis_may_take_a_part_of_a_dimension_of_the_torus(name, sizes):
  """Here tensor:4 is a line in one dimension."""
  pytest.importorskip("libtpu")
  devices = topology.devices(name)
  mesh = make_mesh("data:{},fsdp:{},tensor:{}".format(*sizes), devices)
  assert mesh.axis_names == AXES
  assert mesh.devices.shape == sizes
  assert {d.id for d in mesh.devices.flat} == {d.id for d in devices}
  at = np.array([d.coords for d in mesh.devices.flat]).reshape(*sizes, 3)
  assert (np.abs(np.diff(at, axis=2)).sum(-1) == 1).all()


@pytest.mark.parametrize(
  "name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"]
)
def test_a_chips_memory_is_what_the_compiler_says(name):
  """Asked by a program that needs more."""
  pytest.importorskip("libtpu")
  device, *_ = topology.devices(name)
  x = jax.ShapeDtypeStruct(
    (120, 2**28), jnp.float32, sharding=SingleDeviceSharding(device)
  )
  program = DeviceProgram("update", jax.jit(lambda x: -x + x[0]), (x,), 1, 0)
  said = aot.compile_program(program, 1).refused
  limit = re.fullmatch(r"needs .* of ([\d.]+)G HBM", said)
  kind, _ = topology.parse(name)
  assert float(limit[1]) * 2**30 == topology.CHIPS[kind].memory


def test_the_default_job_fits_a_small_slice():
  code, out, err = compiled(
    "v5e:2x2",
    "--config.mesh=data:2,fsdp:2",
    "--config.data.prompt_buckets=(48,)",
    "--config.data.patch_buckets=(36,)",
  )
  assert code == 0, err
  report = json.loads(out)
  assert [row["fits"] for row in report["programs"]] == [True] * 4
  assert report["step"]["bound"] in ("compute", "hbm", "interconnect")


@pytest.mark.aot
@pytest.mark.parametrize(("file", "name"), SLICES)
def test_a_published_model_fits_its_slice(file, name):
  kind, _, sizes = name.partition("-")
  code, out, err = compiled(
    f"{kind}:{sizes}", f"--config=configs/{file}:{name}"
  )
  assert code == 0, err[-4000:]
  report = json.loads(out)
  assert all(row["fits"] for row in report["programs"])
