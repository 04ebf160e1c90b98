"""What device and host did when, read from a trace of JAX's profiler."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.profiler import ProfileData

from benchmarks.speed.intervals import Interval, clip, gaps, length, union

# Marks that whoever traces puts around the phases of the host.
MARK = "host: "


@dataclass(frozen=True)
class Program:
  """One run of a device program.

  Attributes:
    module: name of its HLO module.
    span: milliseconds from its first operation's begin to its last one's end.
  """

  module: str
  span: Interval


@dataclass(frozen=True)
class Event:
  """Something that the host's main thread did, in milliseconds."""

  name: str
  span: Interval


@dataclass(frozen=True)
class Timeline:
  """A trace.

  Attributes:
    programs: of the device, by begin.
    host: the main thread's events, by begin; they nest.
  """

  programs: list[Program]
  host: list[Event]

  def phases(self, name: str) -> list[Interval]:
    """When the host was in a phase that is marked with this name."""
    return [event.span for event in self.host if event.name == MARK + name]


def find_trace(workdir: str | Path) -> Path:
  """The newest raw trace below the folder `profile` of a run.

  Raises:
    FileNotFoundError: if there is none.
  """
  found = list(Path(workdir).glob("profile/**/*.xplane.pb"))
  if not found:
    raise FileNotFoundError(f"{workdir} has no trace; was a step traced?")
  return max(found, key=lambda file: file.stat().st_mtime)


def read_timeline(file: Path) -> Timeline:
  """Reads a trace of a CPU or an accelerator.

  Operations of a device say which run of which program they belong to, on
  whatever thread or stream they run: a program lasts from the first to the
  last of its run. The host's main thread is the one that has marks.
  """
  spans: dict[Any, list[Interval]] = defaultdict(list)
  modules: dict[Any, str] = {}
  host: list[Event] = []
  for plane in ProfileData.from_file(str(file)).planes:
    for line in plane.lines:
      events = []
      for event in line.events:
        begin = event.start_ns / 1e6
        span = (begin, begin + event.duration_ns / 1e6)
        stats = dict(event.stats)
        if "run_id" in stats or "hlo_module" in stats:
          run = (plane.name, stats.get("run_id", span))
          spans[run].append(span)
          if "hlo_module" in stats:
            modules[run] = str(stats["hlo_module"])
        else:
          events.append(Event(event.name, span))
      if any(event.name.startswith(MARK) for event in events):
        host += events
  programs = [
    Program(modules[run], (min(a for a, _ in each), max(b for _, b in each)))
    for run, each in spans.items()
    if run in modules
  ]
  return Timeline(
    sorted(programs, key=lambda program: program.span),
    sorted(host, key=lambda event: event.span),
  )


def steps_of(timeline: Timeline, mark: str) -> list[Interval]:
  """Whole steps: from one begin of the marked phase to the next.

  Raises:
    ValueError: for a trace with less than one whole step.
  """
  begins = [begin for begin, _ in timeline.phases(mark)]
  if len(begins) < 2:
    raise ValueError(
      f"the trace has {len(begins)} begins of {mark!r}; trace two steps or more"
    )
  return list(itertools.pairwise(begins))


def busy_share(timeline: Timeline, spans: Sequence[Interval]) -> float:
  """The share of some disjoint intervals during which a device program ran."""
  programs = [program.span for program in timeline.programs]
  idle = sum(length(gaps(programs, span)) for span in spans)
  return round(1 - idle / length(spans), 5)


def busiest(
  events: Sequence[Event], within: Interval, count: int
) -> list[tuple[str, float]]:
  """The names that cover most of an interval, and how much each covers.

  Args:
    events: may nest and repeat; those of one name are counted once.
    within: the interval.
    count: of names, at most.
  """
  spans: dict[str, list[Interval]] = defaultdict(list)
  for event in events:
    spans[event.name].append(event.span)
  covered = {
    name: length(union(clip(each, within))) for name, each in spans.items()
  }
  ranked = sorted(covered.items(), key=lambda item: (-item[1], item[0]))
  return [(name, ms) for name, ms in ranked[:count] if ms > 0]


def idle_row(timeline: Timeline, step: Interval, count: int) -> dict[str, Any]:
  """How long no device program ran in a step, and what the host did then.

  Args:
    timeline: the trace.
    step: one of its steps.
    count: of the host's events that are named for the longest gap.
  """
  spans = [program.span for program in timeline.programs]
  idle = gaps(spans, step)
  longest = max(idle, key=lambda gap: gap[1] - gap[0], default=(0.0, 0.0))
  modules: dict[str, list[Interval]] = defaultdict(list)
  for program in timeline.programs:
    modules[program.module] += clip([program.span], step)
  wall = step[1] - step[0]
  return {
    "wall_ms": round(wall, 3),
    "idle_ms": round(length(idle), 3),
    "idle_share": round(length(idle) / wall, 5),
    "program_ms": {
      name: round(length(union(each)), 3)
      for name, each in modules.items()
      if length(each) > 0.01 * wall
    },
    "longest_gap": {
      "ms": round(longest[1] - longest[0], 3),
      "after_ms": round(longest[0] - step[0], 3) if idle else None,
      "host_ms": {
        name: round(ms, 3)
        for name, ms in busiest(timeline.host, longest, count)
      },
    },
  }
