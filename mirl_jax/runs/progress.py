"""Progress of a run: a bar on a terminal, now and then a line elsewhere."""

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, SupportsFloat

from tqdm import tqdm


def format_figures(figures: Mapping[str, SupportsFloat]) -> str:
  """Names and values in one line, three significant digits."""
  shown = []
  for name, value in figures.items():
    number = float(value)
    whole = number.is_integer() and abs(number) < 1e6
    shown.append(f"{name} {number:.0f}" if whole else f"{name} {number:.3g}")
  return "  ".join(shown)


class Progress:
  """Reports where a run of a known number of steps stands.

  On a terminal it is a bar with rate, time left and figures. Elsewhere (a file,
  a pipe) it is a plain line for the first and the last step and at most one per
  `interval` in between. Rates count from the first update, so that they leave
  out what compiles before it.

  Args:
    total: steps at the end of the run.
    initial: steps done before, on a resume.
    primary: the reporter of any other process is silent.
    label: what is counted, before the bar.
    stream: where to report, standard error unless told.
    interval: least seconds between two plain lines.
    clock: seconds, monotonic.
  """

  def __init__(
    self,
    total: int,
    initial: int = 0,
    primary: bool = True,
    label: str = "step",
    stream: Any = None,
    interval: float | int = 5.0,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._total, self._label = total, label
    self._primary, self._interval, self._clock = primary, interval, clock
    self._stream = sys.stderr if stream is None else stream
    self._began: tuple[int, float] | None = None
    self._printed = float("-inf")
    self._step = initial
    self._bar: tqdm | None = None
    if primary and self._stream.isatty():
      self._bar = tqdm(
        total=total,
        initial=initial,
        desc=label,
        file=self._stream,
        dynamic_ncols=True,
        mininterval=0.1,
        smoothing=0.1,
      )

  def update(self, step: int, figures: Mapping[str, SupportsFloat]) -> None:
    """Says that `step` steps are done, with a few key figures."""
    advance, self._step = step - self._step, step
    if not self._primary:
      return
    if self._bar is not None:
      self._bar.set_postfix_str(format_figures(figures), refresh=False)
      self._bar.update(advance)
      return
    now = self._clock()
    if self._began is None:
      self._began = step, now
    if now - self._printed < self._interval and step < self._total:
      return
    self._printed = now
    parts = [f"{self._label} {step}/{self._total}", *self._pace(step, now)]
    print(
      "  ".join([*parts, format_figures(figures)]).rstrip(),
      file=self._stream,
      flush=True,
    )

  def _pace(self, step: int, now: float) -> list[str]:
    if self._began is None or step <= self._began[0] or now <= self._began[1]:
      return []
    rate = (step - self._began[0]) / (now - self._began[1])
    pace = f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"
    left = max(self._total - step, 0) / rate
    return [pace, f"{tqdm.format_interval(left)} left"]

  def note(self, text: str) -> None:
    """Prints a line of its own, above the bar where there is one."""
    if self._bar is not None:
      self._bar.write(text, file=self._stream)
    elif self._primary:
      print(text, file=self._stream, flush=True)

  def close(self) -> None:
    """Leaves the bar as it stands; a second call does nothing."""
    if self._bar is not None:
      self._bar.close()

  def __enter__(self) -> "Progress":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()
