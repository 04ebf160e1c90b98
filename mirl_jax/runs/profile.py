"""A trace of some steps, for a browser: `--profile=START:STOP`."""

from pathlib import Path

import jax

from mirl_jax.runs.files import PathLike, local_path


class Profile:
  """Traces the steps START to STOP - 1 of a run into its directory.

  Args:
    workdir: of the run; the trace goes to its folder `profile`.
    steps: START and STOP, or None to trace nothing.
    primary: whether this process traces.
  """

  def __init__(
    self,
    workdir: PathLike,
    steps: tuple[int, int] | None,
    primary: bool = True,
  ):
    self._folder = local_path(workdir) / "profile"
    self._steps = steps if primary else None
    self._running = False

  def at(self, step: int) -> Path | None:
    """To be called before step number `step` (1 is the first) begins.

    Returns:
      The file that a browser opens (ui.perfetto.dev), once it is written.
    """
    if self._steps is None:
      return None
    first, last = self._steps
    if self._running and step >= last:
      return self.stop()
    if not self._running and first <= step < last:
      jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
      self._running = True
    return None

  def close(self) -> None:
    """Writes what a run that ends early has traced."""
    self.stop()

  def stop(self) -> Path | None:
    """Writes the trace, where one is being made."""
    if not self._running:
      return None
    jax.profiler.stop_trace()
    self._running, self._steps = False, None
    made = self._folder.glob("**/perfetto_trace.json.gz")
    return max(made, key=lambda file: file.stat().st_mtime)
