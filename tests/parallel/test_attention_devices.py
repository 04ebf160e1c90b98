"""A kernel runs on every device's own questions and heads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("attention_devices.py")
ROOT = Path(__file__).parents[2]
# [B, G, key heads, heads that share one, queries, D] on each device.
SEEN = {
  "data:2,fsdp:4": [1, 1, 2, 4, 24, 16],
  "data:4,tensor:2": [2, 1, 1, 4, 24, 16],
  "data:2,tensor:4": [4, 1, 2, 1, 24, 16],
  "data:8,odd": [6, 1, 2, 4, 24, 16],
}


@pytest.fixture(scope="module")
def report():
  done = subprocess.run(
    [sys.executable, str(WORKER)],
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": "8",
      "PYTHONPATH": os.pathsep.join(
        [str(ROOT), os.environ.get("PYTHONPATH", "")]
      ),
    },
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-4000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", SEEN)
def test_outputs_and_gradients_are_those_of_one_device(report, mesh):
  assert report[mesh]["worst"] < 2e-5
  assert report[mesh]["inside"] < 2e-5


@pytest.mark.parametrize("mesh", SEEN)
def test_each_device_attends_to_its_own_share(report, mesh):
  assert report[mesh]["query"] == SEEN[mesh]
