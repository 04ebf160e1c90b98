"""SIGTERM and SIGINT as a flag that the loop reads between steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
  """While entered, remembers a stop signal instead of dying from it.

  A first SIGTERM or SIGINT sets `received`, for the loop to save and leave. A
  SIGINT after that raises KeyboardInterrupt at once, for who cannot wait.
  Leaving restores the handlers that stood before.

  Raises:
    RuntimeError: when entered outside of the main thread, where Python cannot
      set handlers.
  """

  def __init__(self) -> None:
    self._received: int | None = None
    self._before: dict[int, Any] = {}

  @property
  def received(self) -> int | None:
    """The number of the first signal caught, None while there was none."""
    return self._received

  def _handle(self, number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and self._received is not None:
      raise KeyboardInterrupt
    if self._received is None:
      self._received = int(number)

  def __enter__(self) -> "StopSignals":
    if threading.current_thread() is not threading.main_thread():
      raise RuntimeError(
        "stop signals can only be caught in the main thread; run the loop there"
      )
    for number in (signal.SIGTERM, signal.SIGINT):
      self._before[number] = signal.signal(number, self._handle)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    for number, handler in self._before.items():
      # None: set by C code, which Python cannot put back.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    self._before = {}
