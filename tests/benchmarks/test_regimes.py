from pathlib import Path

import pytest

from benchmarks.headline import analysis
from benchmarks.regimes import cells, figure
from configs import mislead_tiny

CELL = cells.Cell(0.4, "short", 0.5)


def row(arm: str, seed: int, sampled: float) -> dict:
  costs = dict.fromkeys(analysis.COSTS, 1.0)
  figures = dict.fromkeys(analysis.METRICS, sampled)
  return {
    "arm": arm,
    "lr": 3e-4,
    "seed": seed,
    "trajectories_per_question": 6,
    "out_of_budget": [],
    "at": {"tokens": {**costs, **figures}},
  }


def compared(out, setting, arms, seeds, rates, budgets) -> dict:
  rows = [
    row(arm, seed, 0.7 - 0.1 * number + 0.01 * seed * (number + 1))
    for number, arm in enumerate(arms)
    for seed in seeds
  ]
  return {
    "start": {"sampled_accuracy": 0.5},
    "rates": dict.fromkeys(arms, rates[0]),
    "tables": {"tokens": analysis.table(rows, "tokens")},
    "differences": {"tokens": analysis.differences(rows, "tokens")},
  }


def test_a_cell_is_a_config_of_the_warm_start():
  world = mislead_tiny.get_config(CELL.argument).world
  assert (world.hallucinate, world.reasoning, world.slip) == (0.4, "short", 0.5)


def test_the_grid_is_every_combination():
  found = cells.grid([0.0, 0.8], ["short", "long"], [0.0, 0.5])
  assert len(set(found)) == 8


def test_a_warm_start_is_made_once(tmp_path, monkeypatch):
  made = []

  def sft(config, workdir):
    made.append(config.world.slip)
    (Path(workdir) / "model").mkdir(parents=True)
    (Path(workdir) / "model" / "config.json").write_text("{}")
    return 0

  monkeypatch.setattr(cells, "sft", sft)
  first = cells.warm_start(CELL, tmp_path)
  assert cells.warm_start(CELL, tmp_path) == first
  assert made == [0.5]


def test_a_warm_start_that_failed_is_said(tmp_path, monkeypatch):
  monkeypatch.setattr(cells, "sft", lambda config, workdir: 4)
  with pytest.raises(RuntimeError, match="exit code 4"):
    cells.warm_start(CELL, tmp_path)


def test_the_lead_is_over_the_best_rival(tmp_path, monkeypatch):
  monkeypatch.setattr(cells, "warm_start", lambda cell, folder: "start")
  monkeypatch.setattr(cells, "compare", compared)
  arms = ["mirl-10-6-1", "grpo-8", "grpo-4"]
  found = cells.measure(CELL, tmp_path, arms, [0, 1], [3e-4], 100, 8)
  lead = found["lead"]["sampled_accuracy"]
  assert lead["closest"] == "grpo-8"
  assert lead["mean"] == pytest.approx(0.1 - 0.005)
  figure.draw([CELL], [found], tmp_path / "map.png")
  assert (tmp_path / "map.png").stat().st_size > 1000
