"""Curves of a report, drawn as inline SVG from the rows of metrics.jsonl."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mirl_jax.runs.report_page import esc, number
from mirl_jax.runs.summary import SE, is_share

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 22
COLOURS = 6
POINTS = 240  # more steps than this are averaged in bins of equal count

# Title and the names it takes; "*" becomes the legend. First match takes all.
PANELS = (
  ("Accuracy", "eval/*/accuracy"),
  ("Exact descriptions", "eval/*/exact"),
  ("Scores of the reward file that failed", "reward/own_failed"),
  ("Reward", "reward/*"),
  ("Mutual information, nats", "mi/mean"),
  ("Loss", "loss/total"),
  ("Gradient norm", "grad_norm"),
  ("Length, tokens", "length/*"),
  ("Tokens per second", "tokens_per_s"),
  ("Seconds", "time/*"),
)


@dataclass(frozen=True)
class Series:
  """One curve: points (step, value, standard error or 0), NaN not included."""

  label: str
  points: tuple[tuple[float, float, float], ...]
  share: bool


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and math.isfinite(value)


def series(rows: Sequence[dict[str, Any]], name: str, label: str) -> Series:
  """The finite points of one metric, averaged in bins where there are many."""
  points = [
    (
      float(row["step"]),
      float(row[name]),
      float(row[name + SE]) if _is_number(row.get(name + SE)) else 0.0,
    )
    for row in rows
    if _is_number(row.get(name)) and _is_number(row.get("step"))
  ]
  size = math.ceil(len(points) / POINTS)
  if size > 1:
    bins = [points[i : i + size] for i in range(0, len(points), size)]
    points = [
      tuple(sum(p[axis] for p in b) / len(b) for axis in range(3))  # type: ignore[misc]
      for b in bins
    ]
  return Series(label, tuple(points), is_share(name))


def ticks(
  low: float | int, high: float | int, count: int = 6
) -> list[float | int]:
  """Round numbers (1, 2, 5 times a power of ten) from low to high."""
  raw = (high - low) / count
  if not raw > 0 or not math.isfinite(raw):
    return [low]
  power = 10.0 ** math.floor(math.log10(raw))
  step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [index * step for index in range(first, last + 1)]


def _range(curves: Sequence[Series]) -> tuple[float, float]:
  values = [v + s * e for c in curves for _, v, e in c.points for s in (-1, 1)]
  low, high = min(values), max(values)
  if all(c.share for c in curves):
    low, high = max(0.0, low), min(1.0, high)
  pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
  padded = low - pad, high + pad
  # A curve that is nowhere negative does not need room below zero.
  return (max(0.0, padded[0]) if low >= 0 else padded[0]), padded[1]


def _tick_label(value: float | int, share: bool, step: float | int) -> str:
  if share:
    return f"{100 * value:.{1 if step < 0.0099 else 0}f} %"
  if value and abs(value) < step * 1e-6:
    value = 0.0
  return number(value)


def _svg(curves: Sequence[Series], title: str) -> str:
  low, high = _range(curves)
  steps = [x for c in curves for x, _, _ in c.points]
  first, last = min(steps), max(steps)
  span = (last - first) or 1.0

  def x(step: float | int) -> float:
    place = 0.5 if first == last else (step - first) / span
    return round(LEFT + place * (WIDTH - LEFT - RIGHT), 1)

  def y(value: float | int) -> float:
    value = min(max(value, low), high)
    place = (high - value) / (high - low)
    return round(TOP + place * (HEIGHT - TOP - BOTTOM), 1)

  parts = []
  marks = ticks(low, high)
  gap = marks[1] - marks[0] if len(marks) > 1 else high - low
  share = all(c.share for c in curves)
  for mark in marks:
    parts.append(
      f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(mark)}" '
      f'y2="{y(mark)}"/><text x="{LEFT - 6}" y="{y(mark) + 4}" '
      f'text-anchor="end">{_tick_label(mark, share, gap)}</text>'
    )
  for mark in [t for t in ticks(first, last, 5) if t == int(t)]:
    anchor = "end" if x(mark) > WIDTH - 30 else "middle"
    parts.append(
      f'<text x="{x(mark)}" y="{HEIGHT - 5}" text-anchor="{anchor}">'
      f"{number(mark)}</text>"
    )
  for index, curve in enumerate(curves):
    colour = f"var(--s{index % COLOURS})"
    if any(error for _, _, error in curve.points):
      upper = [f"{x(s)},{y(v + e)}" for s, v, e in curve.points]
      lower = [f"{x(s)},{y(v - e)}" for s, v, e in curve.points]
      outline = " ".join([*upper, *reversed(lower)])
      parts.append(
        f'<polygon class="band" points="{outline}" fill="{colour}"/>'
      )
    line = " ".join(f"{x(s)},{y(v)}" for s, v, _ in curve.points)
    parts.append(f'<polyline class="curve" points="{line}" stroke="{colour}"/>')
    if len(curve.points) <= 40:
      for step, value, error in curve.points:
        spread = f" ± {number(error)}" if error else ""
        parts.append(
          f'<circle cx="{x(step)}" cy="{y(value)}" r="2.6" fill="{colour}">'
          f"<title>{esc(curve.label)}, step {number(step)}: {number(value)}"
          f"{spread}</title></circle>"
        )
  return (
    f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
    f'aria-label="{esc(title)} by step">{"".join(parts)}</svg>'
  )


def panel(title: str, curves: Sequence[Series]) -> str:
  """One card: title, legend with last values, curves; empty ones are left out.

  Where a series has no finite point, nothing is drawn of it.
  """
  curves = [c for c in curves if c.points]
  if not curves:
    return ""
  legend = []
  for index, curve in enumerate(curves):
    last = curve.points[-1][1]
    shown = f"{100 * last:.1f} %" if curve.share else number(last)
    legend.append(
      f'<span><span class="key" style="background:var(--s{index % COLOURS})">'
      f'</span>{esc(curve.label)} <b class="num">{shown}</b></span>'
    )
  return (
    f'<div class="card plot"><h3>{esc(title)}</h3>'
    f'<div class="legend">{"".join(legend)}</div>{_svg(curves, title)}</div>'
  )


def _star(pattern: str, name: str) -> str:
  """The part of a name that a pattern's star stands for."""
  head, _, tail = pattern.partition("*")
  middle = name[len(head) : len(name) - len(tail)] if "*" in pattern else ""
  return middle.replace("_", " ") or "last"


def plots(rows: Sequence[dict[str, Any]]) -> str:
  """Panels of the known metrics, and the others folded away beneath."""
  names = sorted(
    {
      name
      for row in rows
      for name, value in row.items()
      if _is_number(value) and name != "step" and not name.endswith(SE)
    }
  )
  shown: set[str] = set()
  main = []
  for title, pattern in PANELS:
    taken = [n for n in names if fnmatchcase(n, pattern)][:COLOURS]
    shown.update(taken)
    main.append(
      panel(title, [series(rows, n, _star(pattern, n)) for n in taken])
    )
  rest = [panel(n, [series(rows, n, "last")]) for n in names if n not in shown]
  body = f'<div class="plots">{"".join(main)}</div>'
  if rest:
    body += (
      f"<details><summary>{len(rest)} more curves</summary>"
      f'<div class="plots" style="margin-top:12px">{"".join(rest)}</div>'
      "</details>"
    )
  return body
