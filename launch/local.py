"""Runs several processes of one run on this machine.

    python -m launch.local --processes=2 [--devices=4] [flags of mirl_jax.main]

Each process has `--devices` of its own: simulated ones on CPUs, one after the
other on GPUs. Lines are printed behind their process's number. A process that
dies is named and ends the others; SIGTERM and Ctrl-C are passed on, so that the
run saves and leaves. Exits with the code of the first process that failed.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

from absl import flags

from mirl_jax.host_memory import computes_on_host

BAD_ARGUMENT = 2
_STOPPED = 128
# The others fail by themselves when they wait for a process that is gone.
GRACE_S = 60.0
_POLL_S = 0.1


def free_port() -> int:
  """A port of this machine that nobody listens to."""
  with socket.socket() as found:
    found.bind(("localhost", 0))
    return found.getsockname()[1]


def environment(
  base: Mapping[str, str], index: int, devices: int
) -> dict[str, str]:
  """Of a process: the base's, with devices of its own.

  Args:
    base: of all.
    index: which process.
    devices: how many each has; 0 leaves them as they are.
  """
  if not devices:
    return dict(base)
  if computes_on_host(base):
    return {**base, "JAX_NUM_CPU_DEVICES": str(devices)}
  known = base.get("CUDA_VISIBLE_DEVICES", "").split(",")
  first = index * devices
  own = [
    known[i] if i < len(known) and known[i] else str(i)
    for i in range(first, first + devices)
  ]
  return {**base, "CUDA_VISIBLE_DEVICES": ",".join(own)}


def ending(code: int) -> str:
  """How a process ended, in words."""
  if code < 0:
    return f"was killed by {signal.Signals(-code).name}"
  return f"ended with exit code {code}"


def start(
  argv: Sequence[str], count: int, devices: int
) -> list[subprocess.Popen[str]]:
  """Starts the processes, each in a group of its own: a Ctrl-C would else reach
  them twice."""
  address = f"localhost:{free_port()}"
  return [
    subprocess.Popen(
      [*argv, f"--processes={address},{count},{index}"],
      env=environment(os.environ, index, devices),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      process_group=0,
    )
    for index in range(count)
  ]


def echo(children: Sequence[subprocess.Popen[str]]) -> list[threading.Thread]:
  """Prints what the processes write, each line behind its process's number, in
  threads that end with them."""

  def follow(index: int, stream: IO[str]) -> None:
    for line in stream:
      print(f"[{index}] {line}", end="", flush=True)

  threads = [
    threading.Thread(target=follow, args=(index, child.stdout), daemon=True)
    for index, child in enumerate(children)
  ]
  for thread in threads:
    thread.start()
  return threads


def watch(children: Sequence[subprocess.Popen[str]], grace: float) -> int:
  """Waits for all; the code of the first that failed, 0 where none did.

  Args:
    children: started processes.
    grace: seconds that the others have after a failure, before they are killed.
  """
  failed: int | None = None
  deadline = float("inf")
  running = dict(enumerate(children))
  while running:
    for index, child in list(running.items()):
      code = child.poll()
      if code is None:
        continue
      del running[index]
      if code and failed is None:
        failed = code if code > 0 else _STOPPED - code
        deadline = time.monotonic() + grace
        print(
          f"process {index} of {len(children)} {ending(code)}",
          file=sys.stderr,
          flush=True,
        )
    if running and time.monotonic() > deadline:
      left = ", ".join(map(str, running))
      print(f"processes {left} did not follow: killed", file=sys.stderr)
      for child in running.values():
        child.kill()
      deadline = float("inf")
    time.sleep(_POLL_S)
  return failed or 0


def run(argv: Sequence[str]) -> int:
  """The command, without the program's name; returns the exit code."""
  values = flags.FlagValues()
  count = flags.DEFINE_integer(
    "processes", 2, "How many.", 1, flag_values=values
  )
  devices = flags.DEFINE_integer(
    "devices", 0, "Of each; 0: all.", 0, flag_values=values
  )
  try:
    rest = values(["", *argv], known_only=True)[1:]
  except flags.Error as error:
    print(f"error: {error}", file=sys.stderr)
    return BAD_ARGUMENT
  command = [sys.executable, "-m", "mirl_jax.main", *rest]
  children = start(command, count.value, devices.value)
  before = {
    number: signal.signal(
      number, lambda n, _: [child.send_signal(n) for child in children]
    )
    for number in (signal.SIGTERM, signal.SIGINT)
  }
  threads = echo(children)
  try:
    return watch(children, GRACE_S)
  finally:
    for thread in threads:
      thread.join()
    for number, handler in before.items():
      signal.signal(number, handler)


if __name__ == "__main__":
  sys.exit(run(sys.argv[1:]))
