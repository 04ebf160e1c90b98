"""Accuracy of every arm, one panel per budget."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.headline.arms import label
from benchmarks.plotting import plt

_COLOURS = {"sampled": "#2a6f97", "greedy": "#d17b0f"}
_TITLES = {
  "tokens": "equal generated tokens",
  "flops": "equal forward FLOPs",
  "seconds": "equal wall time",
}


def draw(result: Mapping[str, Any], path: Path) -> None:
  """Sampled and greedy accuracy with 95 % intervals over seeds, as a PNG."""
  budgets = list(result["budgets"])
  names = list(result["tables"][budgets[0]])
  fig, axes = plt.subplots(
    1,
    len(budgets),
    figsize=(3.4 * len(budgets) + 1.6, 0.32 * len(names) + 1.3),
    sharey=True,
    squeeze=False,
  )
  for axis, budget in zip(axes[0], budgets, strict=True):
    rows = result["tables"][budget]
    for how, colour in _COLOURS.items():
      cells = [rows[name][f"{how}_accuracy"] for name in names]
      axis.errorbar(
        [100 * cell["mean"] for cell in cells],
        range(len(names)),
        xerr=[100 * (cell["half_width"] or 0) for cell in cells],
        fmt="o",
        markersize=5,
        capsize=3,
        color=colour,
        label=how,
      )
      start = 100 * result["start"][f"{how}_accuracy"]
      axis.axvline(start, color=colour, linestyle=":", linewidth=1.2)
    axis.set_title(_TITLES.get(budget, budget), fontsize=10)
    axis.grid(axis="x", color="#ddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set_xlabel("accuracy, %")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False)
  axes[0][0].set_yticks(range(len(names)), [label(name) for name in names])
  axes[0][0].invert_yaxis()
  fig.legend(
    *axes[0][0].get_legend_handles_labels(),
    frameon=False,
    loc="upper left",
    fontsize=9,
  )
  fig.tight_layout()
  fig.savefig(path, dpi=160)
  plt.close(fig)
