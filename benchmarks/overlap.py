"""Does the device wait for the host between steps of training?

    python -m benchmarks.overlap [--train_steps=12] [--profile=3:7]
        [--questions=16] [--figure=PATH]

Trains the default tiny job several times, traces some of its steps and prints
one JSON object: for each step, the share of its wall time in which no device
program runs, the longest such gap, and what the host did in it. Cases:

  as it is:             the job, one part per batch;
  four parts:           an answer is judged while later ones are sampled;
  slow judging:         judging a batch takes longer by a share of a step
                        (--delay), as a reward model would;
  slow judging, four parts;
  slow writing:         so does writing the metrics of a step.

A delay is hidden where the device has something to do meanwhile. An update
needs every verdict and the next answers need the update, so that with one part
nothing can hide a slow judge; with P parts, all but the last part's judging may
be hidden. What follows an update may be hidden as long as the next answers are
being sampled. `hidden_share` is the share of the delay during which a device
program ran: 1 is hidden, 0 costs what it takes.
"""

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from absl import app, flags

from benchmarks.output import tell
from benchmarks.speed.compare import QUESTIONS, versions
from benchmarks.speed.intervals import clip
from benchmarks.speed.timeline import (
  MARK,
  Timeline,
  busy_share,
  find_trace,
  idle_row,
  read_timeline,
  steps_of,
)
from benchmarks.speed.timeline_figure import draw_timelines
from benchmarks.speed.workers import cores
from mirl_jax import sampling, train
from mirl_jax.command_line import parse_steps
from mirl_jax.config import get_config
from mirl_jax.host_memory import tune_allocator
from mirl_jax.runs.metrics import MetricsWriter, read_metrics
from mirl_jax.runs.progress import Progress

_STEPS = flags.DEFINE_integer("train_steps", 12, "Steps of training.")
_PROFILE = flags.DEFINE_string("profile", "3:7", "START:STOP of the trace.")
_DELAY = flags.DEFINE_float("delay", 0.5, "Delay, in steps of `as it is`.")
_FIGURE = flags.DEFINE_string("figure", "", "PNG of three steps of each case.")
_EVENTS = 6  # named per gap
_PARTS = 4
_DELAYED = "delay"
_STEP = "collect"  # the phase that a step begins with


@dataclass(frozen=True)
class Case:
  """One run.

  Attributes:
    parts: in which a batch is sampled and judged.
    slow: the phase that is delayed, or "".
  """

  parts: int = 1
  slow: str = ""


CASES = {
  "as it is": Case(),
  "four parts": Case(parts=_PARTS),
  "slow judging": Case(slow="judge"),
  "slow judging, four parts": Case(_PARTS, "judge"),
  "slow writing": Case(slow="write"),
}

# Host phases by the function that is one, innermost last.
PHASES: dict[str, tuple[Any, str]] = {
  _STEP: (train, "collect"),
  "read tokens": (jax, "device_get"),
  "judge": (sampling, "assess"),
  "launch": (train, "launch"),
  "write": (MetricsWriter, "write"),
  "dump": (train, "dump_rollouts"),
}


def marked(
  function: Callable[..., Any], name: str, delay: float
) -> Callable[..., Any]:
  """The function, marked in the trace, and longer by `delay` seconds."""

  def call(*args: Any, **kwargs: Any) -> Any:
    with jax.profiler.TraceAnnotation(MARK + name):
      if delay:
        with jax.profiler.TraceAnnotation(MARK + _DELAYED):
          time.sleep(delay)
      return function(*args, **kwargs)

  return call


@contextlib.contextmanager
def watched(case: Case, delay: float) -> Iterator[None]:
  """Marks the host's phases, one of them delayed; undone at the end.

  Args:
    case: what is delayed.
    delay: seconds per step; judging is delayed in every part.
  """
  with contextlib.ExitStack() as stack:
    for name, (owner, attribute) in PHASES.items():
      own = 0.0
      if name == case.slow:
        own = delay / case.parts if name == "judge" else delay
      function = marked(getattr(owner, attribute), name, own)
      stack.enter_context(mock.patch.object(owner, attribute, function))
    yield


def step_seconds(rows: list[dict[str, Any]], after: int) -> list[float]:
  """Wall time of every step after a given one, but for the last.

  The last step is followed by no sampling, and by the final evaluation.

  Args:
    rows: of metrics.jsonl, in order.
    after: step number.

  Raises:
    ValueError: if no step is left.
  """
  walls = {row["step"]: row["wall_s"] for row in rows}
  found = [
    walls[step] - walls[step - 1]
    for step in sorted(walls)
    if after < step < max(walls)
  ]
  if not found:
    raise ValueError(
      f"no step lies between {after} and {max(walls)}, the last;"
      " give more --train_steps, or an earlier --profile"
    )
  return found


def run(
  case: Case, steps: int, trace: tuple[int, int], delay: float, questions: int
) -> tuple[dict[str, Any], Timeline]:
  """Trains once; what is reported of it, and its trace."""
  config = get_config("mirl")
  config.train.steps = steps
  config.train.questions = questions
  config.train.sample_parts = case.parts
  config.train.save_every = 0
  config.eval.every = 0
  config.eval.final_questions = 4
  config.eval.batch = 4
  # One size each: nothing is compiled after the first step.
  config.data.buckets = 1
  with tempfile.TemporaryDirectory() as workdir:
    # Its tables are no part of the JSON.
    with watched(case, delay), contextlib.redirect_stdout(sys.stderr):
      code = train.train(config, workdir, trace)
    if code:
      raise RuntimeError(f"the run ended with exit code {code}")
    rows = read_metrics(workdir)
    timeline = read_timeline(find_trace(workdir))
  # The first step after the trace writes it.
  seconds = step_seconds(rows, trace[1])
  compiles = {row["step"]: row["compiles"] for row in rows if row["step"]}
  steps_traced = steps_of(timeline, _STEP)
  traced = [idle_row(timeline, step, _EVENTS) for step in steps_traced]
  window = (steps_traced[0][0], steps_traced[-1][1])
  naps = clip(timeline.phases(_DELAYED), window)
  hidden = {"hidden_share": busy_share(timeline, naps)} if naps else {}
  return {
    "parts": case.parts,
    "delay_s": round(delay, 4),
    "step_s": round(statistics.median(seconds), 5),
    "idle_share": statistics.median(row["idle_share"] for row in traced),
    "compiled_while_measured": compiles[steps] - compiles[trace[0]],
    **hidden,
    "traced_steps": traced,
  }, timeline


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
  """Programs that several cases share are compiled by the first of them."""
  with tempfile.TemporaryDirectory() as folder:
    jax.config.update("jax_compilation_cache_dir", folder)
    try:
      yield
    finally:
      jax.config.update("jax_compilation_cache_dir", None)


def measure(
  steps: int, trace: tuple[int, int], delay: float, questions: int
) -> tuple[dict[str, Any], dict[str, Timeline]]:
  """Every case in turn.

  Args:
    steps: of training.
    trace: the first step to trace and the one to stop before.
    delay: in steps of the first case.
    questions: per step.

  Raises:
    ValueError: for arguments that leave nothing to measure.
  """
  if delay <= 0:
    raise ValueError(f"--delay={delay} must be above 0")
  if questions % _PARTS:
    raise ValueError(f"--questions={questions} must be a multiple of {_PARTS}")
  if trace[1] - trace[0] < 2 or trace[1] + 2 > steps:
    raise ValueError(
      f"--profile={trace[0]}:{trace[1]} must hold two steps and leave two of"
      f" the {steps} after it"
    )
  found: dict[str, Any] = {}
  timelines = {}
  with compiled_once(), Progress(len(CASES), label="case") as progress:
    for name, case in CASES.items():
      late = delay * found["as it is"]["step_s"] if case.slow else 0.0
      found[name], timelines[name] = run(case, steps, trace, late, questions)
      shown = {k: found[name][k] for k in ("step_s", "idle_share")}
      progress.update(len(found), shown)
  return found, timelines


def main(argv: list[str]) -> None:
  del argv
  tune_allocator()
  trace = parse_steps(_PROFILE.value)
  questions = QUESTIONS.value or get_config("mirl").train.questions
  found, timelines = measure(_STEPS.value, trace, _DELAY.value, questions)
  if _FIGURE.value:
    draw_timelines(timelines, _STEP, [*PHASES, _DELAYED], Path(_FIGURE.value))
  report = {
    "benchmark": "overlap",
    "steps": _STEPS.value,
    "trace": list(trace),
    "questions": questions,
    "device": jax.devices()[0].device_kind,
    "cores": cores(),
    "cases": found,
    "versions": versions("jax", "jaxlib"),
  }
  tell(report)


if __name__ == "__main__":
  app.run(main)
