"""MIRL against GRPO at equal generated tokens, from one warm start.

    python -m benchmarks.headline --seeds=3 --quick [--out=DIR]

Every run draws the same number of tokens (in whole steps). Runs are trained
and measured on questions that no training or tuning saw; finished runs in
--out are not repeated. Prints one JSON object: per method the mean over seeds
with a 95 % interval (Student's t over seeds), and differences to each GRPO,
paired by seed and, over questions, paired by question. Draws a figure beside
it. `difference_questions` holds the trained policies fixed; only
`difference_seeds` speaks of the method.
"""

import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from mirl_jax import build, statistics
from mirl_jax.config import get_config
from mirl_jax.evaluate import make_strategies, run_strategy
from mirl_jax.rollout.program import complete_trajectories
from mirl_jax.runs.metrics import read_metrics
from mirl_jax.runs.summary import read_summary
from mirl_jax.start import load_roles
from mirl_jax.train import train

_SEEDS = flags.DEFINE_integer("seeds", 3, "Training seeds per method.")
_QUICK = flags.DEFINE_bool("quick", False, "160 k tokens and 512 questions.")
_TOKENS = flags.DEFINE_integer("tokens", 0, "Generated tokens per run.")
_OUT = flags.DEFINE_string("out", "runs/headline", "Directory of the runs.")
_METHODS = flags.DEFINE_list("methods", [], "Only these; default: all.")
_LR = flags.DEFINE_float("lr", 0.0, "One learning rate for all; 0 = theirs.")

# Questions of world seeds that no other command uses.
_TRAIN_SEED, _TEST_SEED = 10_000, 20_000
BASELINES = ("grpo_6", "grpo_8", "grpo_16")


def method(name: str) -> ConfigDict:
  """The config of a compared method."""
  if name.startswith("grpo_"):
    c = get_config("grpo")
    c.program.response.fanout = int(name.split("_")[1])
    return c
  c = get_config("mirl_paper" if name == "mirl_paper" else "mirl")
  if name == "random_keep":
    c.program.keep.by = "random"
  if name == "oracle_keep":
    c.program.keep.by = "oracle"
  return c


METHODS = (
  "mirl",
  "mirl_paper",
  "random_keep",
  "oracle_keep",
  *BASELINES,
)

LABELS = {
  "mirl": "MIRL 10/6x1 (default)",
  "mirl_paper": "MIRL 10/6x2 (paper's shape)",
  "random_keep": "default, random keep",
  "oracle_keep": "default, oracle keep",
  "grpo_6": "GRPO, groups of 6",
  "grpo_8": "GRPO, groups of 8",
  "grpo_16": "GRPO, groups of 16",
}


def tokens_per_step(config: ConfigDict, folder: Path) -> float:
  """Generated tokens of one step at the start, from a run of two steps."""
  with config.unlocked():
    config.train.steps = 2
  train(config, str(folder))
  rows = [r for r in read_metrics(folder) if "tokens/step" in r]
  return float(np.mean([r["tokens/step"] for r in rows]))


def measure(config: ConfigDict, folder: Path, questions: int) -> dict[str, Any]:
  """Per-question figures of a finished run on fresh questions."""
  test = config.copy_and_resolve_references()
  test.data.seed = _TEST_SEED
  policy = build.make_policy(test)
  roles, _ = load_roles(config, str(folder), policy)
  program, mi = build.make_program(test, True), build.make_mi(test)
  batcher = build.make_batcher(test, policy, mi)
  examples = list(
    build.first_examples(build.make_source(test, "test"), questions)
  )
  out: dict[str, Any] = {}
  for strategy in make_strategies(policy, program, mi, 4, screen=False):
    key = build.place_key(_TEST_SEED, policy)
    outcome = run_strategy(strategy, roles, batcher, examples, 64, key)
    out[strategy.name] = {
      "accuracy": outcome.correct.mean(1).tolist(),
      "exact": outcome.exact.mean(1).tolist(),
      "tokens": float(outcome.tokens.mean() / outcome.correct.shape[1]),
    }
  return out


def run(name: str, seed: int, tokens: int, questions: int) -> dict[str, Any]:
  """One row of the run table; read back where it is finished."""
  out = Path(_OUT.value)
  row_file = out / f"{name}-{seed}-{tokens}.json"
  if row_file.is_file():
    return json.loads(row_file.read_text())
  config = method(name)
  config.seed = seed
  config.data.seed = _TRAIN_SEED + seed
  if _LR.value:
    config.optimizer.lr = _LR.value
  config.eval.every = 0
  config.eval.final_questions = 64
  config.train.save_every = 0
  probe = out / f"{name}-{seed}-probe"
  per_step = tokens_per_step(config.copy_and_resolve_references(), probe)
  config.train.steps = max(1, round(tokens / per_step))
  folder = out / f"{name}-{seed}"
  began = time.monotonic()
  train(config, str(folder))
  summary = read_summary(folder)
  steps = [r for r in read_metrics(folder) if "time/step_s" in r]
  row = {
    "method": name,
    "seed": seed,
    "steps": config.train.steps,
    "generated_tokens": summary["generated_tokens"],
    "scored_tokens": summary["scored_tokens"],
    "complete_trajectories": summary["complete_trajectories"],
    "trajectories_per_question": complete_trajectories(
      build.make_program(config, True)
    ),
    # The first step compiles.
    "train_seconds": float(sum(r["time/step_s"] for r in steps[1:]))
    * len(steps)
    / max(len(steps) - 1, 1),
    "wall_seconds": time.monotonic() - began,
    **measure(config, folder, questions),
  }
  row_file.write_text(json.dumps(row))
  return row


def interval(values: list[float]) -> dict[str, Any]:
  """Mean over seeds with a 95 % Student interval."""
  from scipy import stats

  mean = float(np.mean(values))
  if len(values) < 2:
    return {"mean": round(mean, 4), "half_width": None}
  error = float(np.std(values, ddof=1) / np.sqrt(len(values)))
  reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
  return {"mean": round(mean, 4), "half_width": round(reach, 4)}


def compare(
  ours: list[dict[str, Any]], theirs: list[dict[str, Any]]
) -> dict[str, Any]:
  """Sampled and greedy accuracy, paired by seed and by question."""
  out: dict[str, Any] = {}
  for how in ("sampled", "greedy"):
    a = np.array([r[how]["accuracy"] for r in ours])
    b = np.array([r[how]["accuracy"] for r in theirs])
    by_question = statistics.paired_difference(a.mean(0), b.mean(0))
    out[how] = {
      "difference_seeds": interval(list(a.mean(1) - b.mean(1))),
      "difference_questions": {
        "mean": round(by_question.mean, 4),
        "half_width": round(1.96 * by_question.error, 4),
      },
    }
  return out


def summarise(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
  """The table and the differences to the baselines."""
  table = {}
  for name, runs in rows.items():
    table[name] = {
      f"{how}_{metric}": interval([np.mean(r[how][metric]) for r in runs])
      for how in ("sampled", "greedy")
      for metric in ("accuracy", "exact")
    } | {
      field: round(float(np.mean([r[field] for r in runs])), 1)
      for field in (
        "steps",
        "generated_tokens",
        "scored_tokens",
        "complete_trajectories",
        "trajectories_per_question",
        "train_seconds",
      )
    }
  differences = {
    f"{name} - {other}": compare(rows[name], rows[other])
    for other in BASELINES
    if other in rows
    for name in rows
    if not name.startswith("grpo")
  }
  return {"methods": table, "differences": differences}


def figure(result: dict[str, Any], path: Path) -> None:
  """Sampled and greedy accuracy per method, with intervals over seeds."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  table = result["methods"]
  names = list(table)
  fig, axis = plt.subplots(figsize=(8, 3.4))
  for how, colour in (("sampled", "#2a6f97"), ("greedy", "#d17b0f")):
    cells = [table[n][f"{how}_accuracy"] for n in names]
    axis.errorbar(
      [100 * c["mean"] for c in cells],
      range(len(names)),
      xerr=[100 * (c["half_width"] or 0) for c in cells],
      fmt="o",
      markersize=6,
      capsize=3,
      color=colour,
      label=how,
    )
    start = 100 * result["start"][how]["accuracy"]
    axis.axvline(start, color=colour, linestyle=":", linewidth=1.2)
    axis.annotate(
      f"start, {how}",
      (start, -0.75),
      color=colour,
      fontsize=8,
      ha="center",
      annotation_clip=False,
    )
  axis.set_yticks(range(len(names)), [LABELS.get(n, n) for n in names])
  axis.invert_yaxis()
  axis.grid(axis="x", color="#ddd", linewidth=0.6)
  axis.set_axisbelow(True)
  axis.set_xlabel(
    f"accuracy in % after {result['tokens']:,} generated tokens"
    f" ({result['seeds']} seeds, 95 % intervals over seeds)"
  )
  axis.legend(
    frameon=False, loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1.0)
  )
  axis.spines[["top", "right", "left"]].set_visible(False)
  axis.tick_params(left=False)
  fig.tight_layout()
  fig.savefig(path, dpi=160)


def main(argv: list[str]) -> None:
  del argv
  out = Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  tokens = _TOKENS.value or (160_000 if _QUICK.value else 320_000)
  questions = 512 if _QUICK.value else 1024
  names = tuple(_METHODS.value) or METHODS
  rows: dict[str, list[dict[str, Any]]] = {}
  for seed in range(_SEEDS.value):
    for name in names:
      rows.setdefault(name, []).append(run(name, seed, tokens, questions))
  start = measure(method("mirl"), out / "nothing", questions)
  result = {
    "tokens": tokens,
    "seeds": _SEEDS.value,
    "questions": questions,
    "device": jax.devices()[0].device_kind,
    "start": {
      how: {
        metric: round(float(np.mean(start[how][metric])), 4)
        for metric in ("accuracy", "exact")
      }
      for how in start
    },
    **summarise(rows),
  }
  figure(result, out / "headline.png")
  text = json.dumps(result, indent=1)
  (out / "headline.json").write_text(text + "\n")
  print(text)


if __name__ == "__main__":
  app.run(main)
