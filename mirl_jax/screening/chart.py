"""A screening's figures as one picture: a self-contained SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mirl_jax.runs.report_curves import ticks
from mirl_jax.runs.report_page import esc
from mirl_jax.screening.figures import TARGETS
from mirl_jax.screening.table import TITLES, label, shown

LABELS, PANEL, GAP, EDGE = 148, 176, 20, 12
HEAD, ROW, BREAK, FOOT = 52, 17, 7, 62

# Written out: few programs beside browsers know CSS variables.
STYLE = """
text { fill: #1d1e20; font-size: 11.5px;
  font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
.page { fill: #fff; }
.stripe { fill: #f5f5f1; }
.soft { fill: #62666d; }
.head { font-weight: 600; font-size: 12.5px; }
.own { font-weight: 600; }
.grid { stroke: #e2e2dc; }
.chance { stroke: #62666d; stroke-dasharray: 3 3; }
.bar, circle { stroke-width: 1.6; }
.score { fill: #1f5fbf; stroke: #1f5fbf; }
.bound { fill: #7a7e85; stroke: #7a7e85; }
.control { fill: #fff; stroke: #c2570c; }
@media (prefers-color-scheme: dark) {
  text { fill: #e8e8e4; }
  .page { fill: #1c1e21; }
  .stripe { fill: #232629; }
  .soft { fill: #9da2aa; }
  .grid { stroke: #34373c; }
  .chance { stroke: #9da2aa; }
  .score { fill: #7fb0ff; stroke: #7fb0ff; }
  .bound { fill: #9da2aa; stroke: #9da2aa; }
  .control { fill: #1c1e21; stroke: #ff9f5c; }
}
"""

_BOUNDS = ("likelihood", "length", "random", "oracle")


@dataclass(frozen=True)
class Panel:
  """One column of the picture.

  Attributes:
    title: in two lines.
    figures: by score.
    middle: where a score without information lies.
    scale: of the numbers, 1 or 100.
  """

  title: tuple[str, str]
  figures: Mapping[str, Mapping[str, Any]]
  middle: float
  scale: int

  def span(self) -> tuple[float, float]:
    """What the axis holds: all error bars, and the middle."""
    low = high = self.middle
    for figure in self.figures.values():
      if figure["mean"] is not None:
        mean, error = figure["mean"], figure["se"] or 0.0
        low, high = min(low, mean - error), max(high, mean + error)
    pad = 0.06 * (high - low) or 0.1
    return low - pad, high + pad


def panels(record: Mapping[str, Any]) -> list[Panel]:
  """AUC, and what a selection gains, for each target that has both kinds."""
  made, scores, k = [], record["scores"], record["kept"]
  for target in TARGETS:
    if not record["targets"].get(target, {"contrast": 0})["contrast"]:
      continue
    title = TITLES[target].capitalize()
    made += [
      Panel(
        (title, "AUC within questions"),
        {name: score[target]["auc"] for name, score in scores.items()},
        0.5,
        1,
      ),
      Panel(
        (title, f"best {k} less other {record['descriptions'] - k}, points"),
        {
          name: score[target]["kept"]["difference"]
          for name, score in scores.items()
        },
        0.0,
        100,
      ),
    ]
  return made


def _kind(name: str) -> str:
  if name == "shuffled":
    return "control"
  return "bound" if name.split(",")[0] in _BOUNDS else "score"


def _rows(names: Sequence[str]) -> dict[str, float]:
  """Height of each score; a gap parts one family of them from the next."""
  heights, at, before = {}, HEAD + ROW / 2, ""
  for name in names:
    family = name.split(",")[0]
    single = family in ("length", "random", "oracle")
    if before and family != before and not single:
      at += BREAK
    heights[name], before = at, family
    at += ROW
  return heights


def _axis(panel: Panel, left: float | int, bottom: float | int) -> list[str]:
  low, high = panel.span()
  parts = [
    f'<text class="head" x="{left}" y="18">{esc(panel.title[0])}</text>'
    f'<text class="soft" x="{left}" y="34">{esc(panel.title[1])}</text>'
  ]
  for mark in ticks(low, high, 4):
    x = _place(mark, panel, left)
    value = f"{panel.scale * mark:.{0 if panel.scale == 100 else 2}f}"
    parts.append(
      f'<line class="grid" x1="{x}" x2="{x}" y1="{HEAD - 8}" y2="{bottom}"/>'
      f'<text class="soft" x="{x}" y="{bottom + 15}" text-anchor="middle">'
      f"{value.replace('-', chr(0x2212))}</text>"
    )
  x = _place(panel.middle, panel, left)
  parts.append(
    f'<line class="chance" x1="{x}" x2="{x}" y1="{HEAD - 8}" y2="{bottom}"/>'
  )
  return parts


def _place(value: float | int, panel: Panel, left: float | int) -> float:
  low, high = panel.span()
  return round(left + (value - low) / (high - low) * PANEL, 1)


def _marks(
  panel: Panel, left: float | int, heights: Mapping[str, float]
) -> list[str]:
  parts = []
  for name, y in heights.items():
    figure, kind = panel.figures[name], _kind(name)
    text = shown(figure, panel.scale)
    if figure["mean"] is None:
      parts.append(
        f'<text class="soft" x="{left}" y="{y + 4}">{esc(text)}</text>'
      )
      continue
    x = _place(figure["mean"], panel, left)
    if figure["se"]:
      ends = [
        _place(figure["mean"] + sign * figure["se"], panel, left)
        for sign in (-1, 1)
      ]
      parts.append(
        f'<line class="bar {kind}" x1="{ends[0]}" x2="{ends[1]}" y1="{y}" '
        f'y2="{y}"/>'
      )
    parts.append(
      f'<circle class="{kind}" cx="{x}" cy="{y}" r="3.4">'
      f"<title>{esc(label(name))}: {esc(text)}, {figure['questions']} "
      "questions</title></circle>"
    )
  return parts


def screening_chart(record: Mapping[str, Any]) -> str:
  """A row per score and a column per figure, with error bars.

  Args:
    record: of `screening_figures`.
  """
  columns = panels(record)
  heights = _rows(list(record["scores"]))
  bottom = max(heights.values()) + ROW / 2 + 4
  width = EDGE + LABELS + len(columns) * (PANEL + GAP)
  height = bottom + FOOT
  parts = [f'<rect width="{width}" height="{height}" class="page"/>']
  for number, (name, y) in enumerate(heights.items()):
    if number % 2 == 0:
      parts.append(
        f'<rect x="{EDGE - 6}" y="{y - ROW / 2}" '
        f'width="{width - 2 * (EDGE - 6)}" height="{ROW}" class="stripe"/>'
      )
    own = ' class="own"' if name == "mi" else ""
    parts.append(f'<text{own} x="{EDGE}" y="{y + 4}">{esc(label(name))}</text>')
  for number, panel in enumerate(columns):
    left = EDGE + LABELS + number * (PANEL + GAP)
    parts += _axis(panel, left, bottom)
    parts += _marks(panel, left, heights)
  notes = (
    f"{record['questions']} questions, {record['descriptions']} descriptions "
    "each",
    "bars: ± one standard error; dashed: no information; open mark: control",
  )
  for line, note in enumerate(notes):
    y = height - 26 + 16 * line
    parts.append(f'<text class="soft" x="{EDGE}" y="{y}">{esc(note)}</text>')
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
    f'width="{width}" height="{height}" role="img" '
    'aria-label="How well each score screens">'
    f"<style>{STYLE}</style>{''.join(parts)}</svg>\n"
  )
