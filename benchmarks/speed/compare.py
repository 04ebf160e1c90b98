"""Contenders in turn on the same cores, and the report on them."""

import itertools
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from benchmarks.output import versions
from benchmarks.speed.cost import group_cost
from benchmarks.speed.model import (
  SIZES,
  Sizes,
  described,
  vlm_config,
  write_case,
  write_model,
)
from benchmarks.speed.workers import ALLOCATOR, Worker, cores, started

CONFIG = flags.DEFINE_enum("config", "small", sorted(SIZES), "Sizes.")
PAIRS = flags.DEFINE_integer("pairs", 3, "Timed rounds of all contenders.")
WARMUPS = flags.DEFINE_integer("warmups", 1, "Rounds before them.")
QUESTIONS = flags.DEFINE_integer("questions", 0, "0 = as the config has it.")
SAMPLES = flags.DEFINE_integer("samples", 0, "0 = as the config has it.")
DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "Of activations."
)
_CONTENDERS = flags.DEFINE_list(
  "contenders",
  ["torch", "flat", "tree"],
  "Which to run; all of them at once may not fit into memory.",
)
_ALLOCATOR = flags.DEFINE_enum(
  "allocator", "tuned", ["tuned", "default"], "glibc's, of our processes."
)
_BACKWARD = {"rollout": 1, "score": 1, "update": 3}
Times = dict[str, list[dict[str, float]]]


def rounded(value: float) -> float:
  """Five significant digits."""
  return float(f"{value:.5g}")


def alternate(workers: Mapping[str, Worker], warmups: int, pairs: int) -> Times:
  """Repetitions A, B, C, A, B, C, …; the warm-up ones are not returned."""
  times: Times = {name: [] for name in workers}
  for number in range(warmups + pairs):
    for name, worker in workers.items():
      found = worker.run()
      if number >= warmups:
        times[name].append(found)
  return times


def ratio(times: Times, slow: str, fast: str) -> dict[str, float]:
  """Seconds of `slow` over those of `fast` in the same round."""
  each = [
    a["wall_s"] / b["wall_s"]
    for a, b in zip(times[slow], times[fast], strict=True)
  ]
  return {
    "median": rounded(statistics.median(each)),
    "min": rounded(min(each)),
    "max": rounded(max(each)),
  }


def entry(
  times: Sequence[Mapping[str, float]],
  tokens: int,
  loaded: float,
  note: Mapping[str, Any],
) -> dict[str, Any]:
  """What is reported of one contender.

  Args:
    times: its repetitions.
    tokens: of one of them.
    loaded: megabytes of the process with model and data, before the first.
    note: whatever else it says.
  """
  peak = max(x["peak_mb"] for x in times)
  walls = [x["wall_s"] for x in times]
  return {
    "tokens_per_s": rounded(tokens / statistics.median(walls)),
    "wall_s": [rounded(x) for x in walls],
    "cpu_s": [rounded(x["cpu_s"]) for x in times],
    "peak_mb": rounded(peak),
    "loaded_mb": rounded(loaded),
    "above_loaded_mb": rounded(peak - loaded),
    **note,
  }


def chosen_sizes(task: str) -> tuple[Sizes, int, int]:
  """The config's sizes, questions and samples, flags before its own."""
  sizes = SIZES[CONFIG.value]
  questions = sizes.update_questions if task == "update" else sizes.questions
  return sizes, QUESTIONS.value or questions, SAMPLES.value or sizes.samples


def use_cpu() -> None:
  """Keeps this process, which only prepares, off any accelerator."""
  jax.config.update("jax_platforms", "cpu")


def against_transformers(
  task: str,
  tokens: Callable[[Sizes], int],
  agree: Callable[[dict[str, dict[str, Any]], bool], dict[str, float]],
) -> dict[str, Any]:
  """Torch, our own flat code and our own tree on one task.

  Args:
    task: rollout, score or update.
    tokens: of a response.
    agree: compares what the contenders computed, raises where they differ
      (told whether all computed in float32), and returns how far they do.
  """
  sizes, questions, samples = chosen_sizes(task)
  use_cpu()
  known = {
    "torch": "benchmarks.speed.peer",
    "flat": "benchmarks.speed.ours",
    "tree": "benchmarks.speed.ours",
  }
  modules = {n: known[n] for n in known if n in _CONTENDERS.value}
  # Otherwise the first JAX process takes most of a GPU for itself.
  env = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    ALLOCATOR: _ALLOCATOR.value,
  }
  with tempfile.TemporaryDirectory() as folder:
    write_model(Path(folder), sizes)
    write_case(Path(folder), sizes, questions, samples)
    with started(modules, env) as workers:
      common = {"task": task, "folder": folder, "dtype": DTYPE.value}
      loaded = {}
      for name, worker in workers.items():
        own = (
          {"tokens": tokens(sizes)}
          if name == "torch"
          else {"way": name, "config": CONFIG.value}
        )
        loaded[name] = worker.ask("setup", **common, **own)["loaded_mb"]
      checks = {name: worker.ask("check") for name, worker in workers.items()}
      agreement = agree(checks, DTYPE.value == "float32")
      times = alternate(workers, WARMUPS.value, PAIRS.value)
      notes = {name: worker.ask("note") for name, worker in workers.items()}
  length = tokens(sizes)
  cost = group_cost(
    vlm_config(sizes),
    sizes.image_tokens * vlm_config(sizes).vision.merge_unit,
    sizes.prompt,
    samples,
    length,
  )
  for name in ("tree", "flat"):
    cost[name] *= questions * _BACKWARD[task]
    cost[f"{name}_tokens"] *= questions
  count = questions * samples * length
  entries = {
    name: entry(times[name], count, loaded[name], notes[name])
    for name in modules
  }
  for name in ("tree", "flat"):
    if name not in entries:
      continue
    seconds = statistics.median(entries[name]["wall_s"])
    entries[name]["gflop_per_s"] = rounded(cost[name] / seconds / 1e9)
  pairs = list(itertools.combinations(entries, 2))
  report = {
    "benchmark": task,
    "against": "transformers",
    "config": CONFIG.value,
    "questions": questions,
    "samples": samples,
    "response_tokens": length,
    "dtype": DTYPE.value,
    "allocator": _ALLOCATOR.value,
    "cores": cores(),
    "ratio": {f"{a}/{b}": ratio(times, a, b) for a, b in pairs},
    "peak_memory_ratio": {
      f"{b}/{a}": rounded(entries[b]["peak_mb"] / entries[a]["peak_mb"])
      for a, b in pairs
    },
    "flops": cost,
    "contenders": entries,
    "agreement": agreement,
    "sizes": described(sizes),
    "versions": versions("jax", "jaxlib", "flax", "torch", "transformers"),
  }
  if "flat/tree" in report["ratio"]:
    # 1 = all that sharing can save by tokens.
    share = report["ratio"]["flat/tree"]["median"] / cost["ideal_token_ratio"]
    report["share_of_ideal_token_ratio"] = rounded(share)
  return report


def relative_gaps(
  checks: Mapping[str, Mapping[str, float]], field: str, limit: float
) -> dict[str, float]:
  """Relative differences of one number between all contenders.

  Raises:
    ValueError: where one is above the limit.
  """
  out = {}
  for a, b in itertools.combinations(checks, 2):
    x, y = checks[a][field], checks[b][field]
    gap = abs(x - y) / max(abs(x), abs(y), 1e-12)
    if not math.isfinite(gap) or gap > limit:
      raise ValueError(f"{field}: {a} has {x}, {b} has {y}; not the same task")
    out[f"{field} {a}-{b}"] = rounded(gap)
  return out
