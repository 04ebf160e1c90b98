"""Small whole runs for tests, and what must be equal between two of them."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from mirl_jax import evaluate, inspection, train
from mirl_jax.command_line import parse
from mirl_jax.main import MODES
from mirl_jax.rollout.engine import Rollout
from mirl_jax.runs.checkpoints import Checkpoints
from mirl_jax.runs.metrics import read_metrics

# One set of shapes for all tests: each device program is compiled once.
SMALL = (
  "--config.train.steps=6",
  "--config.train.questions=4",
  "--config.train.save_every=2",
  "--config.train.dump_every=2",
  "--config.train.dump_questions=2",
  "--config.eval.every=3",
  "--config.eval.questions=8",
  "--config.eval.final_questions=8",
  "--config.eval.batch=8",
  "--config.eval.samples=2",
  "--config.program.describe.fanout=4",
  "--config.program.keep.k=2",
  # As they would be chosen, from 512 questions that need not be drawn so.
  "--config.data.prompt_buckets=(48,96)",
  "--config.data.patch_buckets=(36,72)",
)
OPEN = ("--config.data.prompt_buckets=()", "--config.data.patch_buckets=()")
# For a run whose evaluation is not what is tested: two programs less.
UNMEASURED = ("--config.eval.every=0", "--config.eval.final_questions=0")
_TIMED = ("time/", "wall_s", "compiles", "tokens_per_s", "memory/")


def small_config(*overrides: str) -> ConfigDict:
  """The default config, made small, with `--config.name=value` overrides."""
  return parse([*SMALL, *overrides], tuple(MODES)).config


@contextlib.contextmanager
def traced_once() -> Iterator[None]:
  """Equal rollouts of this process are one, traced by the first run.

  Most of a small run is tracing. A run that goes on in a process of its own
  traces anew.
  """
  made: dict[str, Any] = {}

  class Shared(Rollout):
    def __new__(cls, *args: Any) -> "Shared":
      config, program, stops, *rest = args
      key = repr((config, program, sorted(stops), rest))
      return made.setdefault(key, super().__new__(cls))

    def __init__(self, *args: Any):
      if not hasattr(self, "program"):
        super().__init__(*args)

  with contextlib.ExitStack() as stack:
    for module in (evaluate, inspection, train):
      stack.enter_context(mock.patch.object(module, "Rollout", Shared))
    yield


def spawn(workdir: Path, *flags: str) -> subprocess.Popen[str]:
  """Starts the command line in a process of its own."""
  return subprocess.Popen(
    [sys.executable, "-m", "mirl_jax.main", f"--workdir={workdir}", *flags],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=Path(__file__).parents[1],
  )


def wait_for(
  process: subprocess.Popen[str],
  happened: Callable[[], bool],
  timeout: float = 600.0,
) -> bool:
  """Waits until something is so; False if the process ended before.

  Raises:
    TimeoutError: if neither comes in time.
  """
  end = time.monotonic() + timeout
  while time.monotonic() < end:
    if happened():
      return True
    if process.poll() is not None:
      return False
    time.sleep(0.0005)
  process.kill()
  process.communicate()
  raise TimeoutError("the run neither came so far nor ended")


def saved_arrays(
  workdir: Path, step: int | None = None
) -> dict[str, np.ndarray]:
  """Every array of a committed checkpoint by path, the last one's by default.

  Params, optimiser, memory and counters: all that a run carries on.
  """
  step = Checkpoints(workdir, 1).latest() if step is None else step
  path = (workdir / "checkpoints" / str(step) / "state").absolute()
  with ocp.StandardCheckpointer() as reader:
    tree = reader.restore(path)
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(p): np.asarray(x) for p, x in leaves}


def different_arrays(one: Path, other: Path) -> list[str]:
  """Paths whose bits differ between the last checkpoints of two runs."""
  a, b = saved_arrays(one), saved_arrays(other)
  assert a.keys() == b.keys()
  return [
    path
    for path in a
    if a[path].dtype != b[path].dtype or a[path].tobytes() != b[path].tobytes()
  ]


def untimed_metrics(workdir: Path) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl without what a clock or a restart changes.

  NaN is spelled out, as it is not equal to itself.
  """
  return [
    {
      name: "nan" if value != value else value
      for name, value in row.items()
      if not name.startswith(_TIMED)
    }
    for row in read_metrics(workdir)
  ]


def dumps(workdir: Path) -> dict[str, bytes]:
  """The rollout dumps by file name."""
  files = (workdir / "rollouts").glob("*.jsonl")
  return {file.name: file.read_bytes() for file in files}
