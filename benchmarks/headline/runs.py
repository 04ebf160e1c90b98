"""One run: trained with a checkpoint for each step, measured where it counts.

A run is measured at the last step within each budget: of generated tokens, of
forward operations, of seconds. The learning rate is constant, so that an early
checkpoint is what a shorter run would have ended with.
"""

import contextlib
import dataclasses
import math
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from benchmarks.headline.setting import (
  TRAIN_SEED,
  Setting,
  measure,
  prompt_size,
  ruler,
  start_lengths,
)
from benchmarks.speed.cost import Branch, question_flops
from mirl_jax import build
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.rollout.program import Sample, complete_trajectories, samples
from mirl_jax.runs.metrics import read_metrics
from mirl_jax.start import load_roles
from mirl_jax.train import train

# Of the world's prompts: one size for all, so that nothing is compiled twice.
PROMPT, PATCHES = 48, 36
# A run that ends this far below a budget is said to be out of it.
_NEAR = 0.9
_PACE_ROUNDS, _PACE_STEPS, _PACE_FROM = 2, 8, 3


def run_config(setting: Setting, name: str, lr: float, seed: int) -> ConfigDict:
  """Of a run with a checkpoint for every step and no evaluation."""
  config = setting.config(name)
  config.seed = seed
  config.data.seed = TRAIN_SEED + seed
  config.data.prompt_buckets = (PROMPT,)
  config.data.patch_buckets = (PATCHES,)
  config.optimizer.lr = lr
  config.eval.every = 0
  config.eval.final_questions = 0
  config.train.dump_every = 0
  config.train.save_every = 1
  config.train.keep = 100_000
  return config


def step_tokens(setting: Setting, name: str) -> float:
  """Generated tokens of an arm's step, from the lengths at the start."""
  config = setting.config(name)
  program = build.make_program(config, True)
  lengths: Sequence[float] = start_lengths(setting)
  if len(samples(program)) == 1:
    lengths = [sum(lengths)]
  alive, tokens, left = 1, 0.0, list(lengths)
  for stage in program:
    if isinstance(stage, Sample):
      alive *= stage.fanout
      tokens += alive * left.pop(0)
    elif stage.by != "all":
      alive = stage.k
  return config.train.questions * tokens


def step_flops(
  config: ConfigDict,
  policy: VLMConfig,
  patches: int,
  prompt: int,
  lengths: Mapping[str, float],
) -> float:
  """Forward operations of a step: sampling, MI's views and the update's.

  Args:
    config: of the run.
    policy: sizes.
    patches: of a picture.
    prompt: tokens of a prompt.
    lengths: mean tokens of each stage's nodes, which stand for all of them.
  """
  mi, alive, above, total = build.make_mi(config), 1, 0, 0.0
  branches: list[Branch] = []
  for stage in build.make_program(config, True):
    if not isinstance(stage, Sample):
      alive = alive if stage.by == "all" else stage.k
      continue
    alive *= stage.fanout
    length = round(lengths[stage.name])
    branches.append(Branch(alive, length, above))
    above += length
    if mi is not None and mi.stage == stage.name:
      passes = mi.views + (not mi.reuses_sampler(stage.temperature))
      total += passes * question_flops(policy, patches, prompt, branches)
  loss = build.make_loss(config)
  passes = 2 + loss.needs_reference + (loss.old_logprob == "recomputed")
  total += passes * question_flops(policy, patches, prompt, branches)
  return config.train.questions * total


def pace(setting: Setting, names: Sequence[str]) -> dict[str, float]:
  """Seconds of a step of each arm, from short runs of all in turn."""
  seconds: dict[str, list[float]] = {name: [] for name in names}
  for _ in range(_PACE_ROUNDS):
    for name, found in seconds.items():
      config = run_config(setting, name, 1e-5, 0)
      config.train.save_every = 0
      config.train.steps = _PACE_STEPS
      with tempfile.TemporaryDirectory() as folder:
        rows = _trained(config, Path(folder))
      # The first steps compile, and the last has no sampling beside it.
      found += [r["time/step_s"] for r in rows[_PACE_FROM:-1]]
  return {name: statistics.median(found) for name, found in seconds.items()}


def _trained(config: ConfigDict, folder: Path) -> list[dict[str, Any]]:
  """Trains; the metrics of every step."""
  # Standard output is for the benchmark's JSON.
  with contextlib.redirect_stdout(sys.stderr):
    code = train(config, str(folder))
  if code:
    raise RuntimeError(f"the run ended with exit code {code}")
  return [row for row in read_metrics(folder) if row["step"]]


def within(costs: Sequence[float], limit: float) -> int:
  """The last step whose cost so far is within a limit; at least the first.

  Args:
    costs: cumulated, by step from 1.
    limit: of the budget.
  """
  return max(1, int(np.searchsorted(costs, limit, "right")))


def train_and_measure(
  setting: Setting,
  name: str,
  lr: float,
  seed: int,
  budgets: Mapping[str, float],
  slack: float,
  pace: float,
  folder: Path,
) -> dict[str, Any]:
  """One row of the run table.

  Args:
    setting: of the run.
    name: of the arm.
    lr: constant learning rate.
    seed: of training and its questions.
    budgets: some of `tokens`, `flops` and `seconds`.
    slack: how many times the budget of tokens is trained for, so that every
      budget ends within the run.
    pace: seconds of a step; for the budget of seconds.
    folder: of the run; removed at the end.
  """
  shutil.rmtree(folder, ignore_errors=True)  # of a run that was broken off
  config = run_config(setting, name, lr, seed)
  each = step_tokens(setting, name)
  config.train.steps = math.ceil(slack * setting.tokens / each)
  rows = _trained(config, folder)
  policy = ruler(setting).policy
  stages = [stage.name for stage in samples(build.make_program(config, True))]
  flops = [
    step_flops(
      config,
      policy.config,
      *prompt_size(setting),
      {stage: row[f"length/{stage}"] for stage in stages},
    )
    for row in rows
  ]
  costs: dict[str, list[float]] = {
    "tokens": [row["generated_tokens"] for row in rows],
    "flops": np.cumsum(flops).tolist(),
    "seconds": [pace * row["step"] for row in rows],
  }
  ends = {name: within(costs[name], limit) for name, limit in budgets.items()}
  found = {}
  for end in sorted(set(ends.values())):
    roles, _ = load_roles(config, str(folder), policy, end)
    found[end] = measure(setting, roles["policy"])
  shutil.rmtree(folder)
  return {
    "arm": name,
    "lr": lr,
    "seed": seed,
    "setting": dataclasses.asdict(setting),
    "trajectories_per_question": complete_trajectories(
      build.make_program(config, True)
    ),
    "out_of_budget": [
      name
      for name, end in ends.items()
      if costs[name][end - 1] < _NEAR * budgets[name]
    ],
    "at": {
      name: {
        "steps": end,
        "generated_tokens": costs["tokens"][end - 1],
        "flops": costs["flops"][end - 1],
        "seconds": costs["seconds"][end - 1],
        "trajectories": rows[end - 1]["complete_trajectories"],
        **found[end],
      }
      for name, end in ends.items()
    },
  }
