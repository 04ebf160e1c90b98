"""Calls of one function in worker processes, each with a deadline.

A crash, an endless loop or a hunger for memory in the function ends a worker,
not the run, and fails that one call. This isolates from faults; it is no
sandbox: a worker may read, write and connect as the run itself may.
"""

import contextlib
import json
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from mirl_jax.rewards.worker_process import (
  END,
  FORK,
  HEADER,
  MAX_REPLY,
  ORDER,
  UNKNOWN,
  Task,
  described,
  frame,
  read_exactly,
  read_frame,
)

START_S = 120.0  # for the imports and the setup of a worker, and the nursery's
_ORDER_S = 60.0  # for the nursery to fork or end a worker
_CHUNK = 2**20
_NO_START = "no worker could start: "
_ORPHAN = "worker died (its parent process is gone)"
# Its own module path first, so that it imports what this process would.
_PROGRAM = """
import json, socket, sys
sys.path[:] = json.loads(sys.argv[1])
from mirl_jax.rewards.worker_process import serve
serve(socket.socket(fileno=int(sys.argv[2])))
"""


@dataclass(frozen=True)
class Outcome:
  """What came of a call.

  Attributes:
    value: what the function returned; None on failure.
    failure: "" or what went wrong, in one line.
  """

  value: Any
  failure: str = ""


class _Nursery:
  """The process that forks the workers; see `worker_process.serve`.

  Raises:
    OSError: where it does not start, or is gone.
  """

  def __init__(self, task: Task):
    self._channel, theirs = socket.socketpair()
    self._channel.settimeout(START_S)
    with theirs:
      self._process = subprocess.Popen(
        [
          sys.executable,
          "-c",
          _PROGRAM,
          json.dumps([path for path in sys.path if isinstance(path, str)]),
          str(theirs.fileno()),
        ],
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        # A session of its own: a stop signal for the run's process group must
        # not end workers while the run finishes its step.
        start_new_session=True,
        # Many threads per worker would only compete with the run's.
        env={"OMP_NUM_THREADS": "1", **os.environ},
      )
    try:
      self._channel.sendall(frame(pickle.dumps(task)))
      said = read_frame(self._channel)
      if said is None:
        raise OSError("its process ended at once")
      if said:
        raise OSError(said.decode())
    except BaseException:
      self.close()
      raise
    self._channel.settimeout(_ORDER_S)

  @property
  def pid(self) -> int:
    return self._process.pid

  def fork(self, channel: socket.socket) -> int:
    """Starts a worker on its end of a channel; returns its process id."""
    number = self._order(FORK, 0, channel)
    if number < 0:
      raise OSError(-number, os.strerror(-number))
    return number

  def end(self, worker: int) -> int:
    """Ends a worker; returns its status, as of os.waitpid."""
    return self._order(END, worker)

  def _order(
    self, kind: bytes, number: int, channel: socket.socket | None = None
  ) -> int:
    given = [] if channel is None else [channel.fileno()]
    try:
      socket.send_fds(self._channel, [ORDER.pack(kind, number)], given)
      answer = read_exactly(self._channel, ORDER.size)
    except OSError as error:
      raise ConnectionError(str(error)) from error
    if answer is None:
      raise ConnectionError("the workers' parent process is gone")
    return ORDER.unpack(answer)[1]

  def close(self, patience: float = _ORDER_S) -> None:
    """Ends it and its workers; kills it after so many seconds."""
    self._channel.close()
    try:
      self._process.wait(patience)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


@dataclass
class _Worker:
  """A worker process and what stands on its way to it and from it."""

  pid: int
  nursery: _Nursery
  channel: socket.socket
  until: float  # of what it does now
  ready: bool = False
  call: int = -1
  outgoing: memoryview | bytes = b""
  incoming: bytearray = field(default_factory=bytearray)


class Workers:
  """A pool of processes that call one function; a context manager.

  Any thread may call `map`; one call of it runs at a time. What the function
  prints goes to the standard error stream.

  Args:
    target: "package.module:function", called as function(*args).
    count: of processes; they start when first needed.
    deadline_s: seconds that a call may last.
    memory_mb: most megabytes that a worker may take beyond what it starts
      with, imports of `preload` included; 0 = no limit, nor is there one on
      another system than Linux.
    preload: modules that are imported once for all workers.
    setup: ("package.module:function", *args), called once in each worker
      before its first call.

  Attributes:
    restarts: workers that were lost, each of which is replaced at need.

  Raises:
    ValueError: for a number out of range, and where a first worker cannot
      start, with the reason.
  """

  def __init__(
    self,
    target: str,
    *,
    count: int = 2,
    deadline_s: float = 5.0,
    memory_mb: int = 1024,
    preload: Sequence[str] = (),
    setup: tuple = (),
  ):
    if count < 1:
      raise ValueError(f"workers: count={count}: give at least 1")
    if not 0 < deadline_s < float("inf"):
      raise ValueError(f"workers: deadline_s={deadline_s}: give more than 0")
    if memory_mb < 0:
      raise ValueError(
        f"workers: memory_mb={memory_mb}: give at least 1, or 0 for no limit"
      )
    self.restarts = 0
    self._task = Task(target, setup, tuple(preload), memory_mb)
    self._count = count
    self._deadline_s = deadline_s
    self._lock = threading.Lock()
    self._nursery: _Nursery | None = None
    self._workers: list[_Worker] = []
    self._closed = False
    try:
      self._start_first()
    except OSError as error:
      self.close()
      raise ValueError(f"workers of {target} cannot start: {error}") from error
    except BaseException:
      self.close()
      raise

  def _start_first(self) -> None:
    first = self._fork()
    while not first.ready:
      for _, outcome in self._wait([first]):
        raise OSError(outcome.failure.removeprefix(_NO_START))

  def map(self, calls: Sequence[tuple]) -> list[Outcome]:
    """Calls the function with each of the arguments.

    Args:
      calls: arguments of each call; they are pickled.

    Returns:
      One outcome per call, in order.

    Raises:
      ValueError: on a closed pool.
    """
    with self._lock:
      if self._closed:
        raise ValueError("workers: this pool is closed")
      try:
        return self._map(calls)
      except BaseException:
        # Answers under way would be taken for those of the next calls.
        self._drop()
        raise

  def close(self) -> None:
    """Ends the workers."""
    with self._lock:
      self._closed = True
      self._drop()

  def __enter__(self) -> "Workers":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()

  def _map(self, calls: Sequence[tuple]) -> list[Outcome]:
    done: dict[int, Outcome] = {}
    waiting = deque(range(len(calls)))
    idle, busy = list(self._workers), list[_Worker]()
    while waiting or busy:
      idle = [worker for worker in idle if self._alive(worker)]
      while waiting and len(busy) < self._count:
        number = waiting.popleft()
        try:
          data = frame(pickle.dumps(calls[number]))
        except Exception as error:
          said = f"arguments cannot be pickled: {described(error)}"
          done[number] = Outcome(None, said)
          continue
        try:
          worker = idle.pop() if idle else self._fork()
        except OSError as error:
          done[number] = Outcome(None, f"{_NO_START}{error}")
          continue
        worker.call, worker.outgoing = number, memoryview(data)
        if worker.ready:
          worker.until = time.monotonic() + self._deadline_s
        busy.append(worker)
      for worker, outcome in self._wait(busy):
        done[worker.call] = outcome
        busy.remove(worker)
        if worker in self._workers:
          idle.append(worker)
    return [done[number] for number in range(len(calls))]

  def _alive(self, worker: _Worker) -> bool:
    """Whether an idle worker still waits; one that does not is buried."""
    if worker.nursery is self._nursery:
      poll = select.poll()
      poll.register(worker.channel, select.POLLIN)
      if not poll.poll(0):
        return True
    self._bury(worker)
    return False

  def _fork(self) -> _Worker:
    """A new worker, on its way.

    Raises:
      OSError: where there can be none now.
    """
    ours, theirs = socket.socketpair()
    try:
      with theirs:
        try:
          pid = self._tended().fork(theirs)
        except ConnectionError:  # it was lost between two calls
          self._lose_nursery()
          pid = self._tended().fork(theirs)
    except BaseException:
      ours.close()
      raise
    ours.setblocking(False)
    worker = _Worker(pid, self._tended(), ours, time.monotonic() + START_S)
    self._workers.append(worker)
    return worker

  def _tended(self) -> _Nursery:
    if self._nursery is None:
      self._nursery = _Nursery(self._task)
    return self._nursery

  def _lose_nursery(self) -> None:
    """Its workers end with it, and are buried one by one."""
    if self._nursery is not None:
      self._nursery.close(patience=0.0)
    self._nursery = None

  def _wait(self, busy: Sequence[_Worker]) -> list[tuple[_Worker, Outcome]]:
    """Waits until something happens; the workers whose call has an outcome."""
    if not busy:
      return []
    poll = select.poll()
    for worker in busy:
      wanted = select.POLLIN | (select.POLLOUT if worker.outgoing else 0)
      poll.register(worker.channel, wanted)
    left = min(worker.until for worker in busy) - time.monotonic()
    ready = dict(poll.poll(max(left, 0.0) * 1000 + 1))
    found = []
    for worker in list(busy):
      outcome = None
      if worker.channel.fileno() in ready:
        outcome = self._exchange(worker)
      if outcome is None and worker.until <= time.monotonic():
        outcome = Outcome(None, self._late(worker))
        self._bury(worker)
      if outcome is not None:
        found.append((worker, outcome))
    return found

  def _late(self, worker: _Worker) -> str:
    if worker.ready:
      return f"deadline of {self._deadline_s:g} s"
    return f"{_NO_START}not within {START_S:g} s"

  def _exchange(self, worker: _Worker) -> Outcome | None:
    """Writes and reads what can be; the outcome of its call, if it is here."""
    with contextlib.suppress(BlockingIOError, ConnectionError):
      if worker.outgoing:
        sent = worker.channel.send(worker.outgoing[:_CHUNK])
        worker.outgoing = worker.outgoing[sent:]
    try:
      part = worker.channel.recv(_CHUNK)
    except BlockingIOError:
      return None
    except ConnectionError:
      part = b""
    if not part:
      died = self._bury(worker)
      if worker.ready:
        return Outcome(None, died)
      return Outcome(None, f"{_NO_START}{died}")
    worker.incoming += part
    return self._read(worker)

  def _read(self, worker: _Worker) -> Outcome | None:
    """The outcome in what has come from a worker, if it is whole."""
    data = self._frame(worker)
    if data is not None and not worker.ready:
      if data:
        self._bury(worker)
        return Outcome(None, f"{_NO_START}{data.decode(errors='replace')}")
      worker.ready = True
      worker.until = time.monotonic() + self._deadline_s
      data = self._frame(worker)  # a quick worker may have answered already
    if data is None:
      return None
    try:
      if len(data) > MAX_REPLY:
        raise ValueError(f"more than {MAX_REPLY} bytes")
      value, failure = pickle.loads(data)
      outcome = Outcome(value, str(failure))
    except Exception as error:
      self._bury(worker)
      return Outcome(None, f"answer cannot be read: {described(error)}")
    if outcome.failure == f"memory limit of {self._task.memory_mb} MB":
      self._bury(worker)  # it ends by itself then
    return outcome

  def _frame(self, worker: _Worker) -> bytes | None:
    """Takes the next whole frame out of what has come from a worker."""
    got = worker.incoming
    if len(got) < HEADER.size:
      return None
    end = HEADER.size + min(HEADER.unpack_from(got)[0], MAX_REPLY + 1)
    if len(got) < end:
      return None
    data = bytes(got[HEADER.size : end])
    del got[:end]
    return data

  def _bury(self, worker: _Worker) -> str:
    """Ends a worker; returns how it died."""
    self.restarts += 1
    self._workers.remove(worker)
    worker.channel.close()
    if self._nursery is None or worker.nursery is not self._nursery:
      return _ORPHAN
    try:
      status = self._nursery.end(worker.pid)
    except ConnectionError:
      self._lose_nursery()
      return _ORPHAN
    if status == UNKNOWN:
      return _ORPHAN
    if os.WIFSIGNALED(status):
      return f"worker died (signal {os.WTERMSIG(status)})"
    return f"worker died (exit code {os.waitstatus_to_exitcode(status)})"

  def _drop(self) -> None:
    """Ends all workers and their nursery."""
    for worker in self._workers:
      worker.channel.close()
    self._workers = []
    if self._nursery is not None:
      self._nursery.close()
      self._nursery = None
