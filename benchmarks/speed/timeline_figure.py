"""A picture of some steps: device programs above, the host's phases below."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plotting import plt
from benchmarks.speed.intervals import Interval, clip, length, union
from benchmarks.speed.timeline import Timeline, steps_of

_STEPS = 3
_OTHER = "other"
# A phase inside of another one is drawn over it.
_COLORS = {
  "device": ("#2c6fbb", "#7fb069", "#b8b8b8"),
  "host": (
    *("#d9d9d9", "#f3d27a", "#d1495b", "#8e6bbf", "#66a182", "#2a9d8f"),
    "#222222",
  ),
}


def shown_programs(
  timeline: Timeline, window: Interval, count: int
) -> dict[str, list[Interval]]:
  """Device programs by name, the longest in all first; few names, and a rest.

  Args:
    timeline: the trace.
    window: the part of it that is shown.
    count: of names that are kept apart.
  """
  found: dict[str, list[Interval]] = {}
  for program in timeline.programs:
    cut = clip([program.span], window)
    found.setdefault(program.module, []).extend(cut)
  ranked = sorted(found, key=lambda name: -length(found[name]))
  out = {name: union(found[name]) for name in ranked[:count]}
  rest = [span for name in ranked[count:] for span in found[name]]
  return {**out, _OTHER: union(rest)} if rest else out


def draw_timelines(
  timelines: Mapping[str, Timeline],
  mark: str,
  phases: Sequence[str],
  path: Path,
) -> None:
  """Writes a PNG: a panel per trace, of its first three whole steps.

  Args:
    timelines: traces by title.
    mark: the phase that a step begins with.
    phases: of the host, an inner one after the one that holds it.
    path: of the picture.

  Raises:
    ValueError: for a trace without a whole step.
  """
  fig, axes = plt.subplots(
    len(timelines),
    1,
    figsize=(10, 0.6 + 1.5 * len(timelines)),
    squeeze=False,
    layout="constrained",
  )
  legend: dict[str, Any] = {}
  modules: list[str] = []
  for axis, (title, timeline) in zip(
    axes[:, 0], timelines.items(), strict=True
  ):
    steps = steps_of(timeline, mark)[:_STEPS]
    window = (steps[0][0], steps[-1][1])

    def bars(
      spans: Sequence[Interval],
      row: float,
      color: str,
      axis: Any = axis,
      start: float = window[0],
    ) -> Any:
      return axis.broken_barh(
        [(a - start, b - a) for a, b in spans], (row, 0.8), facecolors=color
      )

    programs = shown_programs(timeline, window, 2)
    for name, spans in programs.items():
      if name != _OTHER and name not in modules:
        modules.append(name)
      place = -1 if name == _OTHER else min(modules.index(name), 1)
      legend[f"device: {name}"] = bars(spans, 1, _COLORS["device"][place])
    for name, color in zip(phases, _COLORS["host"], strict=False):
      spans = clip(timeline.phases(name), window)
      if spans:
        legend[f"host: {name}"] = bars(spans, 0, color)
    for begin, _ in steps:
      axis.axvline(begin - window[0], color="black", linewidth=0.8)
    axis.set_xlim(0, window[1] - window[0])
    axis.set_ylim(-0.1, 1.9)
    axis.set_yticks([0.4, 1.4], ["host", "device"])
    axis.set_title(title, loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
  axes[-1, 0].set_xlabel("milliseconds; a line where a step begins")
  fig.legend(
    legend.values(),
    legend.keys(),
    loc="outside lower center",
    ncols=4,
    frameon=False,
    fontsize=9,
  )
  path.parent.mkdir(parents=True, exist_ok=True)
  fig.savefig(path, dpi=140)
  plt.close(fig)
