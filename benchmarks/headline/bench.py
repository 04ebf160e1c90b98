"""Tunes, trains and measures every arm; finished runs are read back."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
from absl import logging

from benchmarks.headline import analysis
from benchmarks.headline.runs import pace, train_and_measure
from benchmarks.headline.setting import Setting, start_figures
from benchmarks.headline.table import Table, gather
from benchmarks.output import versions
from mirl_jax.host_memory import tune_allocator
from mirl_jax.runs.progress import Progress

ANCHOR = "grpo-8"  # whose cost in operations and seconds is the budget
TUNING_SEEDS = (100, 101)
# How far a run goes, in budgets of tokens: responses become shorter, and some
# arms need fewer operations and seconds for a token than the anchor.
SLACK_TOKENS, SLACK_ALL = 1.15, 1.35


def prepare(out: Path) -> None:
  """Sets the process up for many runs with results in a directory."""
  tune_allocator()
  logging.set_verbosity(logging.WARNING)  # orbax tells of every checkpoint
  out.mkdir(parents=True, exist_ok=True)
  # Runs of an arm differ in numbers only: each program is compiled once.
  jax.config.update("jax_compilation_cache_dir", str(out / "compiled"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


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
    limits = sorted(budgets.items())
    # With all of the config: a method that changed is run again.
    method = self.setting.config(name).to_json(sort_keys=True)
    key = (self.setting, name, method, lr, seed, limits, pace)
    row = self.table.get(
      key,
      lambda: train_and_measure(
        self.setting,
        name,
        lr,
        seed,
        budgets,
        slack,
        pace,
        self.out / f"training-{self.table.name(key)}",
      ),
    )
    self.progress(row)
    return row


def tune(
  bench: Bench, names: Sequence[str], rates: Sequence[float]
) -> dict[str, float]:
  """Every arm's learning rate, on seeds and questions of tuning."""
  if len(rates) == 1:
    return dict.fromkeys(names, rates[0])
  budget = {"tokens": bench.setting.tokens}
  rows = gather(
    [
      functools.partial(bench.row, name, lr, seed, budget)
      for seed in TUNING_SEEDS
      for lr in rates
      for name in names
    ]
  )
  return {
    name: analysis.best_rate([row for row in rows if row["arm"] == name])
    for name in names
  }


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
  names = sorted({*arms, ANCHOR} if anchored else set(arms))
  count = len(arms) * len(seeds) + bool(anchored)
  if len(rates) > 1:
    count += len(names) * len(rates) * len(TUNING_SEEDS)
  table = Table(out / "rows")
  done = 0
  with Progress(count, label="run") as progress:

    def tell(row: Mapping[str, Any]) -> None:
      nonlocal done
      done += 1
      (first, *_) = row["at"].values()
      progress.update(done, {"sampled": first["sampled_accuracy"]})

    def shared(key: Any, make: Callable[[], dict[str, Any]]) -> Any:
      return gather([functools.partial(table.get, key, make)])[0]

    tuning = Bench(out, table, replace(setting, test=False), tell)
    chosen = tune(tuning, names, rates)
    budgets: dict[str, float] = {"tokens": setting.tokens}
    paces: dict[str, float] = {}
    if anchored:
      paces = shared(("pace", setting, names), lambda: pace(setting, names))
      anchor = functools.partial(
        tuning.row, ANCHOR, chosen[ANCHOR], TUNING_SEEDS[0], dict(budgets)
      )
      spent = gather([anchor])[0]["at"]["tokens"]
      budgets["flops"] = spent["flops"]
      budgets["seconds"] = spent["steps"] * paces[ANCHOR]
    budgets = {name: budgets[name] for name in wanted}
    bench = Bench(out, table, setting, tell)
    rows = gather(
      [
        functools.partial(
          bench.row, name, chosen[name], seed, budgets, paces.get(name, 0.0)
        )
        for seed in seeds
        for name in arms
      ]
    )
    start = shared(("start", setting), lambda: start_figures(setting))
  return {
    "benchmark": "headline",
    "setting": asdict(setting),
    "start": start,
    "budgets": budgets,
    "pace_s": paces,
    "rates": {name: chosen[name] for name in arms},
    "tables": {b: analysis.table(rows, b) for b in budgets},
    "differences": {b: analysis.differences(rows, b) for b in budgets},
    "device": jax.devices()[0].device_kind,
    "versions": versions("jax", "jaxlib", "flax", "optax"),
  }
