"""Says where a step is stuck."""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

_POLLS = 10  # of the patience, per report
_SHOWN = 8


class Watchdog:
  """A thread that reports a phase which lasts longer than it should.

  Each report names the process, the phase, how long it has lasted, and the
  questions it works on, and shows where every thread stands; the next one
  comes after as long again. It ends nothing: only the user knows whether a
  phase is slow or stuck.

  Args:
    patience: seconds that a phase may last; 0 reports nothing.
    name: of this process.
    report: gets a line of text.
    clock: seconds, monotonic.
  """

  def __init__(
    self,
    patience: float,
    name: str = "",
    report: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._patience, self._name, self._clock = patience, name, clock
    self._report = report or self._print
    self._lock = threading.Lock()
    self._end = threading.Event()
    self._phase = "start"
    self._questions: tuple[str, ...] = ()
    self._began = self._told = clock()
    self._thread: threading.Thread | None = None

  def phase(self, name: str, questions: Sequence[str] = ()) -> None:
    """Another phase begins.

    Args:
      name: of it.
      questions: ids that it works on.
    """
    with self._lock:
      self._phase, self._questions = name, tuple(questions)
      self._began = self._told = self._clock()

  def look(self) -> None:
    """Reports where it is time to."""
    with self._lock:
      now = self._clock()
      if now - self._told < self._patience:
        return
      self._told = now
      shown = ", ".join(self._questions[:_SHOWN])
      more = len(self._questions) - _SHOWN
      text = f"{self._name}{self._phase} has lasted {now - self._began:.0f} s"
      if shown:
        text += f"; questions {shown}{f' and {more} more' if more > 0 else ''}"
    self._report(text)

  def _print(self, text: str) -> None:
    print(f"stuck? {text}", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(all_threads=True)

  def _watch(self) -> None:
    while not self._end.wait(self._patience / _POLLS):
      self.look()

  def __enter__(self) -> "Watchdog":
    if self._patience > 0:
      self._thread = threading.Thread(target=self._watch, daemon=True)
      self._thread.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self._end.set()
    if self._thread is not None:
      self._thread.join()
