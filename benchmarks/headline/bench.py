"""Tunes, trains and measures every arm; finished runs are read back."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax

from benchmarks.headline import analysis
from benchmarks.headline.runs import pace, train_and_measure
from benchmarks.headline.setting import Setting, start_figures
from benchmarks.speed.compare import versions
from mirl_jax.runs.progress import Progress

ANCHOR = "grpo-8"  # whose cost in operations and seconds is the budget
TUNING_SEEDS = (100, 101)
# How far a run goes, in budgets of tokens: responses become shorter, and some
# arms need fewer operations and seconds for a token than the anchor.
SLACK_TOKENS, SLACK_ALL = 1.15, 1.35


class Table:
  """Rows of finished runs, a file each.

  Args:
    folder: of the files; made where it is missing.
  """

  def __init__(self, folder: Path):
    self._folder = folder
    folder.mkdir(parents=True, exist_ok=True)

  def get(self, key: Any, make: Callable[[], dict[str, Any]]) -> Any:
    """The row of a key; made and written where there is none."""
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    file = self._folder / f"{name}.json"
    if not file.is_file():
      row = make()
      unfinished = file.with_suffix(".part")
      unfinished.write_text(json.dumps(row, indent=1))
      unfinished.rename(file)
    return json.loads(file.read_text())


@dataclass(frozen=True)
class Bench:
  """Makes rows, or reads those of runs that were finished before."""

  out: Path
  table: Table
  setting: Setting
  progress: Callable[[dict[str, Any]], None]

  def row(
    self,
    name: str,
    lr: float,
    seed: int,
    budgets: Mapping[str, float],
    pace: float = 0.0,
  ) -> dict[str, Any]:
    slack = SLACK_TOKENS if list(budgets) == ["tokens"] else SLACK_ALL
    row = self.table.get(
      (self.setting, name, lr, seed, sorted(budgets.items()), pace),
      lambda: train_and_measure(
        self.setting,
        name,
        lr,
        seed,
        budgets,
        slack,
        pace,
        self.out / f"training-{name.split()[0]}-{seed}",
      ),
    )
    self.progress(row)
    return row


def tune(bench: Bench, name: str, rates: Sequence[float]) -> float:
  """The arm's learning rate, on seeds and questions of tuning."""
  if len(rates) == 1:
    return rates[0]
  budget = {"tokens": bench.setting.tokens}
  return analysis.best_rate(
    [bench.row(name, lr, seed, budget) for seed in TUNING_SEEDS for lr in rates]
  )


def compare(
  out: Path,
  setting: Setting,
  arms: Sequence[str],
  seeds: Sequence[int],
  rates: Sequence[float],
  wanted: Sequence[str],
) -> dict[str, Any]:
  """Tunes, trains and measures; what the benchmark prints.

  Args:
    out: of rows and of runs that are under way.
    setting: of all runs.
    arms: which.
    seeds: of the tested runs.
    rates: learning rates to choose from; a single one is taken as it is.
    wanted: budgets.
  """
  anchored = [name for name in wanted if name != "tokens"]
  count = len(arms) * len(seeds) + bool(anchored)
  if len(rates) > 1:
    count += len(set(arms) | ({ANCHOR} if anchored else set())) * (
      len(rates) * len(TUNING_SEEDS)
    )
  table = Table(out / "rows")
  done = 0
  with Progress(count, label="run") as progress:

    def tell(row: Mapping[str, Any]) -> None:
      nonlocal done
      done += 1
      (first, *_) = row["at"].values()
      progress.update(done, {"sampled": first["sampled_accuracy"]})

    tuning = Bench(out, table, replace(setting, test=False), tell)
    chosen = {name: tune(tuning, name, rates) for name in arms}
    budgets: dict[str, float] = {"tokens": setting.tokens}
    paces: dict[str, float] = {}
    if anchored:
      names = sorted({*arms, ANCHOR})
      paces = table.get(("pace", setting, names), lambda: pace(setting, names))
      rate = chosen.get(ANCHOR) or tune(tuning, ANCHOR, rates)
      spent = tuning.row(ANCHOR, rate, TUNING_SEEDS[0], dict(budgets))["at"]
      budgets["flops"] = spent["tokens"]["flops"]
      budgets["seconds"] = spent["tokens"]["steps"] * paces[ANCHOR]
    budgets = {name: budgets[name] for name in wanted}
    bench = Bench(out, table, setting, tell)
    rows = [
      bench.row(name, chosen[name], seed, budgets, paces.get(name, 0.0))
      for seed in seeds
      for name in arms
    ]
  return {
    "benchmark": "headline",
    "setting": asdict(setting),
    "start": table.get(("start", setting), lambda: start_figures(setting)),
    "budgets": budgets,
    "pace_s": paces,
    "rates": chosen,
    "tables": {b: analysis.table(rows, b) for b in budgets},
    "differences": {b: analysis.differences(rows, b) for b in budgets},
    "device": jax.devices()[0].device_kind,
    "versions": versions("jax", "jaxlib", "flax", "optax"),
  }
