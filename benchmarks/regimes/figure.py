"""MIRL's lead over the best GRPO by the start's faults."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plotting import plt
from benchmarks.regimes.cells import Cell


def draw(
  cells: Sequence[Cell], results: Sequence[Mapping[str, Any]], path: Path
) -> None:
  """Lead in points, sampled and greedy, with 95 % intervals over seeds; a
  panel per way of reasoning, as a PNG."""
  panels = sorted({(c.reasoning, c.slip) for c in cells})
  fig, axes = plt.subplots(
    2,
    len(panels),
    figsize=(2.4 * len(panels) + 1, 4.6),
    sharex=True,
    sharey="row",
    squeeze=False,
  )
  for column, panel in enumerate(panels):
    own = sorted(
      (cell.hallucinate, result)
      for cell, result in zip(cells, results, strict=True)
      if (cell.reasoning, cell.slip) == panel
    )
    for row, metric in enumerate(("sampled_accuracy", "greedy_accuracy")):
      axis = axes[row][column]
      closest = [
        result["against"][metric][result["lead"][metric]["closest"]]
        for _, result in own
      ]
      axis.errorbar(
        [x for x, _ in own],
        [100 * gap["mean"] for gap in closest],
        yerr=[100 * (gap["half_width"] or 0) for gap in closest],
        fmt="o-",
        markersize=4,
        capsize=3,
        color="#2a6f97" if row == 0 else "#d17b0f",
      )
      axis.axhline(0, color="#888", linewidth=0.8)
      axis.grid(axis="y", color="#ddd", linewidth=0.6)
      axis.spines[["top", "right"]].set_visible(False)
      if row == 0:
        axis.set_title(f"{panel[0]} reasonings\nslip {panel[1]:g}", fontsize=9)
      else:
        axis.set_xlabel("hallucinated share", fontsize=9)
  axes[0][0].set_ylabel("lead, sampled (points)", fontsize=9)
  axes[1][0].set_ylabel("lead, greedy (points)", fontsize=9)
  fig.tight_layout()
  fig.savefig(path, dpi=160)
  plt.close(fig)
