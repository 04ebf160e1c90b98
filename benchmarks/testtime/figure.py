"""Accuracy over generated tokens, a line or a point per strategy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from benchmarks.plotting import plt

_MAJORITY, _GREEDY, _LIKELIHOOD = "#2a6f97", "#444444", "#6b8f3c"
_TIMES = "\N{MULTIPLICATION SIGN}"
# A label's size: a ratio of tokens, and a share of the axis.
_LABEL = 1.35, 0.03
# Colour, and whether its points are filled: two weights often agree.
_MI = (("#d17b0f", True), ("#a4243b", False))


def _shown(name: str) -> str:
  return name.replace("mi, lambda=", "MI \N{GREEK SMALL LETTER LAMDA} = ")


def _crowded(
  place: tuple[float, float],
  others: Sequence[tuple[float, float]],
  height: float,
) -> bool:
  """Whether a label on the right would cover another point."""
  return any(
    1.02 < other[0] / place[0] < _LABEL[0] and abs(other[1] - place[1]) < height
    for other in others
  )


def draw(result: Mapping[str, Any], path: Path) -> None:
  """All strategies, two with a band of one standard error, as a PNG.

  Dots on a line stand at n = 1, 2, 4, ….
  """
  fig, axis = plt.subplots(figsize=(8.4, 5.4))

  def line(rows: Mapping[str, Any], band: bool, **style: Any) -> None:
    cells = [row["accuracy"] for row in rows.values()]
    tokens = [row["tokens"] for row in rows.values()]
    mean = [100 * cell["mean"] for cell in cells]
    twos = [i for i in range(len(mean)) if (i + 1).bit_count() == 1]
    axis.plot(tokens, mean, marker=".", markevery=twos, linewidth=1.4, **style)
    if band:
      low = [100 * (cell["mean"] - cell["se"]) for cell in cells]
      high = [100 * (cell["mean"] + cell["se"]) for cell in cells]
      colour = style["color"]
      axis.fill_between(tokens, low, high, color=colour, alpha=0.15, lw=0)

  bests = result["best_of_n"]
  names = [name for name in bests if name != "likelihood"]
  line(result["majority"], True, color=_MAJORITY, label="majority of n")
  line(
    bests["likelihood"], True, color=_LIKELIHOOD, label="best of n, likelihood"
  )
  for name, (colour, filled) in zip(names, _MI, strict=True):
    shown = _shown(name)
    line(
      bests[name],
      False,
      color=colour,
      linestyle="--",
      label=f"best of n, {shown}",
    )
    rows = [found[name] for found in result["screen"].values()]
    axis.plot(
      [row["tokens"] for row in rows],
      [100 * row["accuracy"]["mean"] for row in rows],
      "o",
      color=colour,
      markersize=5 if filled else 8,
      markerfacecolor=colour if filled else "none",
      label=f"N/k{_TIMES}F, {shown}",
    )
  places = {
    shape.replace("x", _TIMES): (
      found[names[0]]["tokens"],
      100 * found[names[0]]["accuracy"]["mean"],
    )
    for shape, found in result["screen"].items()
  }
  low, high = axis.get_ylim()
  for text, place in places.items():
    left = _crowded(place, list(places.values()), _LABEL[1] * (high - low))
    axis.annotate(
      text,
      place,
      xytext=(-7 if left else 7, -3),
      textcoords="offset points",
      ha="right" if left else "left",
      fontsize=7.5,
      path_effects=[withStroke(linewidth=2, foreground="white")],
    )
  greedy = 100 * result["greedy"]["accuracy"]["mean"]
  axis.axhline(
    greedy, color=_GREEDY, linestyle=":", linewidth=1.2, label="greedy"
  )
  axis.set_xscale("log", base=2)
  axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
  axis.yaxis.set_major_locator(MaxNLocator(integer=True))
  axis.set_xlabel("generated tokens per question")
  axis.set_ylabel("accuracy, %")
  axis.grid(color="#ddd", linewidth=0.6)
  axis.set_axisbelow(True)
  axis.spines[["top", "right"]].set_visible(False)
  axis.legend(edgecolor="none", framealpha=1, fontsize=8, loc="lower right")
  fig.tight_layout()
  fig.savefig(path, dpi=160)
  plt.close(fig)
