"""Contenders as processes of their own, told over a pipe what to run.

A parent holds `Worker`s and asks one at a time; all others block on a read
and use no core. A child calls `serve`. Messages are JSON, one per line.
"""

import contextlib
import ctypes
import gc
import importlib
import importlib.machinery
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from mirl_jax.host_memory import computes_on_host, tune_allocator

ALLOCATOR = "BENCHMARK_ALLOCATOR"  # tuned or default, of our workers
_ROOT = Path(__file__).parents[2]
_REFERENCES = Path("/proc/self/clear_refs")
_PDEATHSIG = 1  # prctl's PR_SET_PDEATHSIG
_PAUSE = 0.3  # seconds in which the threads of the one before fall asleep


class Contender(Protocol):
  """What a child runs again and again.

  Attributes:
    note: what the report should say of it.
  """

  note: dict[str, Any]

  def once(self) -> None:
    """One repetition, finished when it returns."""

  def check(self) -> dict[str, Any]:
    """Results that all contenders must agree on; compiles everything."""


class Worker:
  """A child process that runs one contender."""

  def __init__(self, name: str, module: str, log: Path, env: dict[str, str]):
    self.name = name
    self._log = log
    with log.open("w") as errors:
      self._process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.speed.workers", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        cwd=_ROOT,
        env={**os.environ, **env},
        text=True,
      )

  def ask(self, do: str, **values: Any) -> dict[str, Any]:
    """Sends a request and waits for its answer.

    Raises:
      RuntimeError: with the end of its log, where the worker failed.
    """
    assert self._process.stdin is not None
    assert self._process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
      self._process.stdin.flush()
    line = self._process.stdout.readline()
    if not line:
      code = self._process.wait()
      tail = self._log.read_text(errors="replace")[-3000:]
      raise RuntimeError(f"{self.name}: {do} ended with code {code}\n{tail}")
    return json.loads(line)

  def run(self) -> dict[str, float]:
    """One repetition: `wall_s`, `cpu_s` and `peak_mb`."""
    time.sleep(_PAUSE)
    return self.ask("run")  # type: ignore[return-value]

  def close(self) -> None:
    self._process.kill()
    self._process.wait()
    for pipe in (self._process.stdin, self._process.stdout):
      if pipe is not None:
        with contextlib.suppress(BrokenPipeError):
          pipe.close()


@contextlib.contextmanager
def started(
  modules: dict[str, str], env: dict[str, str] | None = None
) -> Iterator[dict[str, Worker]]:
  """One worker per name, all ended at the end.

  Args:
    modules: name -> module with a function `contender(**values)`.
    env: added to the environment.
  """
  with tempfile.TemporaryDirectory() as logs, contextlib.ExitStack() as stack:
    workers = {}
    for name, module in modules.items():
      log = Path(logs) / f"{name}.log"
      workers[name] = Worker(name, module, log, env or {})
      stack.callback(workers[name].close)
    yield workers


def status(field: str) -> float:
  """A figure of this process's memory, in megabytes."""
  text = Path("/proc/self/status").read_text()
  return int(text.split(f"{field}:")[1].split()[0]) / 1024


def trim() -> None:
  """Gives freed memory back, so that a peak is not the compiler's."""
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def reset_peak() -> None:
  """Forgets the high-water mark, where the kernel lets us."""
  with contextlib.suppress(OSError):
    _REFERENCES.write_text("5")


def _cpu_seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


def measured(work: Callable[[], Any]) -> dict[str, float]:
  """Wall seconds, user and system seconds of all threads, peak memory.

  Where the high-water mark cannot be reset, it is the process's.
  """
  reset_peak()
  wall, cpu = time.perf_counter(), _cpu_seconds()
  work()
  return {
    "wall_s": time.perf_counter() - wall,
    "cpu_s": _cpu_seconds() - cpu,
    "peak_mb": status("VmHWM"),
  }


class _Others(importlib.machinery.PathFinder):
  """Finds all packages but torch."""

  @classmethod
  def find_spec(
    cls, fullname: str, path: Any = None, target: Any = None
  ) -> Any:
    if fullname.partition(".")[0] == "torch":
      return None
    return super().find_spec(fullname, path, target)


def hide_torch() -> None:
  """Makes torch look not installed: our package does without it, but
  transformers' tokenizers would load it into our process."""
  finder = importlib.machinery.PathFinder
  sys.meta_path[sys.meta_path.index(finder)] = _Others


def set_allocator() -> None:
  """Sets glibc's allocator as `mirl_jax.main` does, unless told otherwise."""
  if os.environ.get(ALLOCATOR) != "default" and computes_on_host():
    tune_allocator()


def cores() -> int:
  """Cores that this process may use."""
  return len(os.sched_getaffinity(0))


def _end_with_parent() -> None:
  """Dies with a killed parent, even in the middle of a repetition."""
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL("libc.so.6").prctl(_PDEATHSIG, signal.SIGKILL)


def serve(make: Callable[..., Contender]) -> None:
  """Answers requests until the parent goes.

  Whatever libraries print goes to the log.
  """
  _end_with_parent()
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  contender: Contender | None = None
  for line in sys.stdin:
    request = json.loads(line)
    do = request.pop("do")
    if do == "setup":
      contender = make(**request)
      # A collection walks all that libraries have imported: not their speed.
      gc.collect()
      gc.freeze()
      trim()
      answer: dict[str, Any] = {"loaded_mb": status("VmRSS")}
    elif contender is None:
      raise RuntimeError(f"{do} was asked for before setup")
    elif do == "check":
      answer = contender.check()
      trim()
    elif do == "run":
      answer = dict(measured(contender.once))
    elif do == "note":
      answer = contender.note
    else:
      raise ValueError(f"unknown request {do!r}")
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
  serve(importlib.import_module(sys.argv[1]).contender)
