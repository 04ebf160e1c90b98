"""Loading onto and saving from eight devices, of one process and of two."""

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.saving import save_params

WORKER = Path(__file__).with_name("loading_devices.py")
ROOT = Path(__file__).parents[2]
CASE = runpy.run_path(str(WORKER))


def spawn(devices, *arguments):
  return subprocess.Popen(
    [sys.executable, str(WORKER), *arguments],
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": str(devices),
      "PYTHONPATH": os.pathsep.join(
        [str(ROOT), os.environ.get("PYTHONPATH", "")]
      ),
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def free_port():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return probe.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The checkpoints, and what one device writes of them."""
  out = tmp_path_factory.mktemp("devices")
  for seed, (name, config) in enumerate(CASE["CONFIGS"].items()):
    save_params(out / name, tiny.random_params(config, seed), config, 70_000)
  return out


@pytest.fixture(scope="module", params=CASE["CASES"])
def reports(request, folder):
  """By model, mesh and way: what each process found."""
  count = request.param
  address = f"localhost:{free_port()}"
  workers = [
    spawn(8 // count, str(folder), address, str(count), str(number))
    for number in range(count)
  ]
  found = []
  try:
    for worker in workers:
      out, err = worker.communicate(timeout=300)
      assert worker.returncode == 0, err[-4000:]
      found.append(json.loads(out.splitlines()[-1]))
  finally:
    for worker in workers:
      worker.kill()
  assert {report["devices"] for report in found} == {8}
  each = zip(*(report["cases"] for report in found), strict=True)
  return dict(zip(CASE["CASES"][count], each, strict=True))


def test_every_mesh_holds_and_writes_the_same(reports, folder):
  for (name, mesh, _), cases in reports.items():
    for case in cases:
      assert case["same"]
      assert (case["spread"] > 10) == (mesh != "data:8")
    # Byte for byte what one device writes.
    assert cases[0]["files"] == CASE["digests"](folder / name)
    assert len(cases[0]["files"]) > 3


def test_only_what_a_process_holds_is_read(reports):
  """Once, however many of its devices hold it."""
  for (_, mesh, way), cases in reports.items():
    for case in cases:
      share = case["read"] / case["stored"]
      if way == "host":
        # With two processes a few leaves of odd sizes lie in both.
        assert share == 1 or (len(cases) == 2 and 0.5 <= share < 0.6)
      else:  # pieces overlap where they do not divide a leaf
        assert share < 1.5
      if mesh == "data:8":
        assert share == 1
