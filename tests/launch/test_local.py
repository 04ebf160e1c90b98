"""Processes of one machine, with programs that stand in for a run."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from launch import local

ROOT = Path(__file__).parents[2]


def children(program, count=3):
  code = textwrap.dedent(program)
  return [
    subprocess.Popen([sys.executable, "-c", code, str(i)]) for i in range(count)
  ]


def test_the_first_that_fails_is_named_and_its_code_returned(capfd):
  code = local.watch(
    children(
      """
      import sys, time
      index = int(sys.argv[1])
      time.sleep(0.2 if index == 1 else 1.0)
      sys.exit((0, 7, 5)[index])
      """
    ),
    grace=30.0,
  )
  assert code == 7
  assert capfd.readouterr().err == ("process 1 of 3 ended with exit code 7\n")


def test_one_that_is_killed_ends_the_others(capfd):
  began = time.monotonic()
  code = local.watch(
    children(
      """
      import os, signal, sys, time
      if sys.argv[1] == "2":
        os.kill(os.getpid(), signal.SIGKILL)
      time.sleep(100)
      """
    ),
    grace=0.5,
  )
  assert time.monotonic() - began < 30
  assert code == 128 + signal.SIGKILL
  told = capfd.readouterr().err.splitlines()
  assert told == [
    "process 2 of 3 was killed by SIGKILL",
    "processes 0, 1 did not follow: killed",
  ]


def test_all_that_end_well_are_a_success():
  assert local.watch(children("pass"), grace=1.0) == 0


@pytest.mark.parametrize(
  ("base", "devices", "own"),
  [
    ({}, 0, {}),
    ({"JAX_PLATFORMS": "cpu"}, 4, {"JAX_NUM_CPU_DEVICES": "4"}),
    ({"JAX_PLATFORMS": "cuda"}, 2, {"CUDA_VISIBLE_DEVICES": "2,3"}),
    (
      {"JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": "4,5,6,7"},
      2,
      {"CUDA_VISIBLE_DEVICES": "6,7"},
    ),
  ],
)
def test_each_process_has_devices_of_its_own(base, devices, own):
  assert local.environment(base, 1, devices) == {**base, **own}


def test_a_bad_flag_is_answered(capsys):
  assert local.run(["--processes=none"]) == 2
  assert "processes" in capsys.readouterr().err


def test_lines_stand_behind_their_process_and_codes_come_back():
  """A bad flag of the run itself, told by each of its processes."""
  done = subprocess.run(
    [sys.executable, "-m", "launch.local", "--processes=2", "--mode=none"],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 2
  for index in (0, 1):
    assert f"[{index}] error: " in done.stdout
