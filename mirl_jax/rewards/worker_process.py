"""What runs in the worker processes of `workers.Workers`.

The nursery is one process without threads that imports what every worker needs
and then only forks and ends them: a fresh worker costs milliseconds, and the
process that trains is never forked. It leaves, and takes its workers with it,
when its pipe closes, so that no worker outlives the run. Standard library
only; neither JAX nor the run's main module is imported.
"""

import contextlib
import ctypes
import importlib
import os
import pickle
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A frame is a length and so many bytes.
HEADER = struct.Struct("!Q")
# The nursery's orders and answers: a letter, and a process or its status.
ORDER = struct.Struct("!cq")
FORK, END = b"f", b"e"
UNKNOWN = -1  # status of a process that is none of the nursery's
MAX_REPLY = 64 * 2**20  # bytes of a pickled value
_MAX_LINE = 300
_PR_SET_PDEATHSIG = 1
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Task:
  """What the workers of one pool do, see `workers.Workers`."""

  target: str
  setup: tuple
  preload: tuple[str, ...]
  memory_mb: int


def frame(data: bytes) -> bytes:
  """The bytes with their length before them."""
  return HEADER.pack(len(data)) + data


def read_exactly(channel: socket.socket, size: int) -> bytes | None:
  """So many bytes, or None where the other side is gone."""
  parts = bytearray()
  while len(parts) < size:
    part = channel.recv(min(size - len(parts), _MEGABYTE))
    if not part:
      return None
    parts += part
  return bytes(parts)


def read_frame(channel: socket.socket) -> bytes | None:
  """The next frame's bytes, or None where the other side is gone."""
  header = read_exactly(channel, HEADER.size)
  if header is None:
    return None
  return read_exactly(channel, HEADER.unpack(header)[0])


def described(error: BaseException) -> str:
  """An exception in one line of bounded length."""
  try:
    said = " ".join(str(error).split())
  except Exception:  # an exception's own __str__ may fail, too
    said = "no message"
  name = type(error).__name__
  return f"{name}: {said}"[:_MAX_LINE] if said else name


def resolve(target: str) -> Callable[..., Any]:
  """The function that "package.module:function" names.

  Raises:
    Exception: whatever importing it raises.
  """
  module, _, path = target.partition(":")
  found: Any = importlib.import_module(module)
  for name in path.split("."):
    found = getattr(found, name)
  return found


def serve(channel: socket.socket) -> None:
  """Runs a nursery until its channel closes.

  First reads a pickled Task and answers with "" or with what went wrong. Then
  each order has one answer: FORK, with a worker's end of its channel, gets
  the worker's process id, or minus the error number; END ends a process of
  that id and gets its status, as of os.waitpid, or UNKNOWN.
  """
  _redirect()
  task: Task = pickle.loads(read_frame(channel) or b"")
  try:
    for module in task.preload:
      importlib.import_module(module)
    said = ""
  except BaseException as error:
    said = described(error)
  channel.sendall(frame(said.encode()))
  alive: set[int] = set()
  try:
    while True:
      order, given, *_ = socket.recv_fds(channel, ORDER.size, 1)
      if not order:
        return
      kind, number = ORDER.unpack(order)
      if kind == FORK:
        number = _fork(channel, given[0], task)
        if number > 0:
          alive.add(number)
      elif number in alive:
        alive.remove(number)
        number = _end(number)
      else:  # of an earlier nursery; the number may be anyone's by now
        number = UNKNOWN
      channel.sendall(ORDER.pack(kind, number))
  finally:
    for worker in alive:
      _end(worker)


def _redirect() -> None:
  """What a worker prints is no output of the run's, but may be read."""
  try:
    os.dup2(2, 1)
  except OSError:  # the run has closed its own
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
      os.dup2(nowhere, stream)


def _fork(channel: socket.socket, given: int, task: Task) -> int:
  nursery = os.getpid()
  with contextlib.suppress(Exception):
    sys.stdout.flush()  # or what an import printed is printed by each worker
  try:
    worker = os.fork()
  except OSError as error:
    os.close(given)
    return -(error.errno or 1)
  if worker:
    os.close(given)
    with contextlib.suppress(OSError):
      os.setpgid(worker, worker)
    return worker
  code = 1
  try:
    channel.close()
    os.setpgid(0, 0)
    _leave_with(nursery)
    with socket.socket(fileno=given) as own:
      _work(own, task)
    code = 0
  finally:
    os._exit(code)


def _end(worker: int) -> int:
  """Ends a worker with its children, if it lives; returns its status."""
  for kill in (os.killpg, os.kill):
    with contextlib.suppress(OSError):
      kill(worker, signal.SIGKILL)
  try:
    return os.waitpid(worker, 0)[1]
  except ChildProcessError:
    return UNKNOWN


def _leave_with(nursery: int) -> None:
  """Dies when the nursery is killed; goes first when memory runs out."""
  if not sys.platform.startswith("linux"):
    return
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != nursery:
    os._exit(0)
  with contextlib.suppress(OSError):
    Path("/proc/self/oom_score_adj").write_text("1000")


def _limit(memory_mb: int) -> None:
  """Limits what a worker may take beyond what it starts with."""
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  if not memory_mb:
    return
  try:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
  except OSError:
    return  # no Linux: the system has no such limit to set
  wanted = pages * resource.getpagesize() + memory_mb * _MEGABYTE
  _, hard = resource.getrlimit(resource.RLIMIT_AS)
  if hard == resource.RLIM_INFINITY or wanted < hard:
    resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted))


def _work(channel: socket.socket, task: Task) -> None:
  """Says "" when it can start, or why not; then answers calls, each with a
  value and a failure, until the channel closes or memory runs out."""
  no_memory = f"memory limit of {task.memory_mb} MB"
  spare = frame(pickle.dumps((None, no_memory)))
  _limit(task.memory_mb)
  try:
    function = resolve(task.target)
    if task.setup:
      resolve(task.setup[0])(*task.setup[1:])
    said = ""
  except MemoryError:
    said = no_memory
  except BaseException as error:
    said = described(error)
  channel.sendall(frame(said.encode()))
  while not said:
    try:
      call = read_frame(channel)
      if call is None:
        return
      channel.sendall(frame(_answer(function, call)))
    except MemoryError:
      # Of the call, a part may be unread; and what is held is never given back.
      channel.sendall(spare)
      return
    with contextlib.suppress(Exception):
      sys.stdout.flush()


def _answer(function: Callable[..., Any], call: bytes) -> bytes:
  try:
    value = function(*pickle.loads(call))
  except MemoryError:
    raise
  except BaseException as error:
    return pickle.dumps((None, described(error)))
  try:
    reply = pickle.dumps((value, ""))
  except MemoryError:
    raise
  except BaseException as error:
    return pickle.dumps((None, f"cannot be returned: {described(error)}"))
  if len(reply) > MAX_REPLY:
    said = f"returned {len(reply)} bytes; at most {MAX_REPLY}"
    return pickle.dumps((None, said))
  return reply
