"""Eight devices do what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("eight_devices.py")
ROOT = Path(__file__).parents[2]
CUT = {  # by mesh: the size of its tensor axis
  "data:8": 1,
  "data:2,fsdp:4": 1,
  "fsdp:8": 1,
  "data:2,fsdp:2,tensor:2": 2,
  "fsdp:4,tensor:2": 2,
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
    timeout=900,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-4000:]
  return json.loads(done.stdout.splitlines()[-1])


def test_the_case_is_worth_comparing(report):
  assert report["sampled"] > 100
  assert len(report["lengths"]) > 2  # shards stop at different steps
  assert report["moved"] > 1e-3


@pytest.mark.parametrize("mesh", CUT)
def test_the_same_tokens_are_drawn(report, mesh):
  # Sums over a tensor axis round otherwise, so that a draw may differ there;
  # none of these does.
  assert set(report[mesh]["same"].values()) == {1.0}, report[mesh]["same"]
  assert report[mesh]["logprobs"] < 1e-5


@pytest.mark.parametrize("mesh", CUT)
def test_gradients_and_three_steps_agree(report, mesh):
  assert report[mesh]["gradient"] < 1e-5
  assert report[mesh]["params"] < 1e-5


@pytest.mark.parametrize("mesh", CUT)
def test_decode_loops_wait_for_no_other_question(report, mesh):
  """No collective, or such as join the devices of a tensor axis."""
  assert report[mesh]["loops"] >= 2  # one per Sample stage
  assert report[mesh]["inside"] == ([] if CUT[mesh] == 1 else [CUT[mesh]])
  assert report["control"] > 0  # the check sees one where there is one


def test_parameters_are_gathered_once_where_they_are_cut(report):
  """The collectives that the check above looks for exist elsewhere."""
  assert report["data:8"]["outside"] == 0
  assert report["data:8"]["cut"] == 0
  for mesh in CUT.keys() - {"data:8"}:
    assert report[mesh]["outside"] > 0
    assert report[mesh]["cut"] > 5


def test_the_factor_of_the_number_of_shards(report):
  trap = report["trap"]
  assert trap["mapped"] == pytest.approx(8 * trap["true"])
  assert trap["jitted"] == pytest.approx(trap["true"])
