"""Exact descriptions and their length over β, a row of panels per mode."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plotting import plt

_COLOURS = ("#999999", "#2a6f97", "#6a994e", "#d17b0f")
_PANELS = {
  "exact": ("exact descriptions, %", 100),
  "tokens": ("tokens of a description", 1),
}
_APART = 0.05  # lines that would hide each other


def _line(
  rows: Sequence[Mapping[str, Any]], weight: float, plausible: float
) -> list[Mapping[str, Any]]:
  """One λ by β; all share the cell of β = 0."""
  return sorted(
    (
      row
      for row in rows
      if row["plausible"] == plausible
      and (row["lambda"] == weight or row["beta"] == 0)
    ),
    key=lambda row: row["beta"],
  )


def draw(result: Mapping[str, Any], path: Path) -> None:
  """Writes a PNG; bars are one standard error, dashed is with the cut."""
  rows = result["cells"]
  modes = list(dict.fromkeys(row["mode"] for row in rows))
  weights = sorted({row["lambda"] for row in rows if row["beta"]})
  cuts = sorted({row["plausible"] for row in rows})
  betas = sorted({row["beta"] for row in rows})
  fig, axes = plt.subplots(
    len(modes),
    len(_PANELS),
    figsize=(7.6, 2.5 * len(modes) + 0.6),
    sharex=True,
    sharey="col",
    squeeze=False,
  )
  for mode, line in zip(modes, axes, strict=True):
    own = [row for row in rows if row["mode"] == mode]
    for (name, (title, scale)), axis in zip(_PANELS.items(), line, strict=True):
      for number, weight in enumerate(weights):
        shift = _APART * (number - (len(weights) - 1) / 2)
        colour = _COLOURS[number % len(_COLOURS)]
        for cut in cuts:
          cells = _line(own, weight, cut)
          axis.errorbar(
            [betas.index(cell["beta"]) + shift for cell in cells],
            [scale * cell[name]["mean"] for cell in cells],
            yerr=[scale * cell[name]["se"] for cell in cells],
            fmt="o--" if cut else "o-",
            color=colour,
            markersize=3.5,
            linewidth=1.3,
            capsize=2,
            mfc="white" if cut else colour,
            label=f"λ = {weight:g}" + (f", cut at {cut:g}" if cut else ""),
          )
      axis.set_title(f"{title}, {mode}", fontsize=10)
      axis.grid(axis="y", color="#ddd", linewidth=0.6)
      axis.set_axisbelow(True)
      axis.spines[["top", "right"]].set_visible(False)
      axis.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
    line[0].set_ylim(bottom=0)
  for axis in axes[-1]:
    axis.set_xlabel("β (not to scale)")
  fig.legend(
    *axes[0][0].get_legend_handles_labels(),
    frameon=False,
    loc="lower center",
    ncol=len(weights),
    fontsize=9,
  )
  fig.tight_layout(rect=(0, 0.09, 1, 1))
  fig.savefig(path, dpi=160)
  plt.close(fig)
