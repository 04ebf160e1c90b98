"""Real pictures end to end: start, short supervised adaptation, MIRL.

    python -m benchmarks.real_pictures --data=DIR --set=shapes \\
      [--sft_steps=300] [--rl_steps=60] [--workdir=runs/shapes] [--out=FILE]

DIR holds data.jsonl and images of SHAPES (--set=shapes) or NLVR (--set=nlvr).
Four arms answer the same held-out questions: the training split's majority
class; the majority answer that it gives to the very same question (what can be
had without seeing); the policy as it starts; after supervised adaptation on
descriptions derived from the data; and after MIRL from there. Errors are
standard errors clustered by the group that the split keeps together;
differences are paired. Existing stages in --workdir are taken as they are.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks.output import tell
from mirl_jax import batching, build, statistics
from mirl_jax.command_line import load_config
from mirl_jax.data.example import Example
from mirl_jax.evaluate import (
  Outcome,
  figures,
  groups_of,
  make_strategies,
  run_strategy,
)
from mirl_jax.sft import sft
from mirl_jax.start import load_roles
from mirl_jax.train import train

_DATA = flags.DEFINE_string("data", None, "Folder of the set.", required=True)
_SET = flags.DEFINE_enum("set", "shapes", ["shapes", "nlvr"], "Which set.")
_METHOD = flags.DEFINE_string("method", "mirl", "Method of the last arm.")
_SFT_STEPS = flags.DEFINE_integer("sft_steps", 300, "Of the adaptation.")
_SFT_BATCH = flags.DEFINE_integer("sft_batch", 64, "Of the adaptation.")
_RL_STEPS = flags.DEFINE_integer("rl_steps", 60, "Of the method.")
_LR = flags.DEFINE_float("lr", 1e-4, "Learning rate of the method.")
_QUESTIONS = flags.DEFINE_integer("questions", 512, "Held-out ones, at most.")
_SAMPLES = flags.DEFINE_integer("samples", 4, "Answers per question.")
_SEED = flags.DEFINE_integer("seed", 0, "Of training.")
_START = flags.DEFINE_string("policy", "", "Start; the tiny model without.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/real_pictures", "Of all runs.")
_OUT = flags.DEFINE_string("out", "", "File for the JSON, beside the output.")

_CONFIG = Path(__file__).parents[1] / "configs" / "mirl_jsonl.py"


def make_config(policy: str) -> ConfigDict:
  """The config of every arm, from one policy."""
  c = load_config(
    f"{_CONFIG}:path={_DATA.value},describe={_SET.value},method={_METHOD.value}"
  )
  c.policy.path = policy
  c.seed = c.data.seed = _SEED.value
  c.sft.steps, c.sft.batch = _SFT_STEPS.value, _SFT_BATCH.value
  c.train.steps = _RL_STEPS.value
  c.optimizer.lr = _LR.value
  c.eval.samples = _SAMPLES.value
  c.eval.final_questions = _QUESTIONS.value
  return c


def majority(config: ConfigDict, questions: Sequence[Example]) -> np.ndarray:
  """[2, Q] whether the most common answer of the training split is right:
  over all questions, and over those with the same words."""
  source = build.make_source(config, "train")
  counts: dict[str, Counter[str]] = defaultdict(Counter)
  for example in build.first_examples(source, len(source)):
    for key in ("", example.question):
      counts[key][example.answer] += 1

  def right(key: str, answer: str) -> bool:
    known = counts.get(key) or counts[""]
    return known.most_common(1)[0][0] == answer

  return np.array(
    [
      [right("", e.answer) for e in questions],
      [right(e.question, e.answer) for e in questions],
    ]
  )


def measure(
  config: ConfigDict, workdir: Path
) -> tuple[dict[str, Outcome], list[Example]]:
  """Greedy and sampled outcomes of a run's last checkpoint, or its start."""
  policy = build.make_policy(config)
  program, mi = build.make_program(config, True), build.make_mi(config)
  questions = build.held_out(
    config, policy, config.eval.final_questions, str(workdir)
  )
  roles, _ = load_roles(config, str(workdir), policy)
  outcomes = {
    strategy.name: run_strategy(
      strategy,
      roles,
      batching.make_batcher(config, policy, mi),
      questions,
      config.eval.batch,
      build.place_key(config.eval.seed, policy),
    )
    for strategy in make_strategies(
      policy, program, mi, config.eval.samples, False
    )
  }
  return outcomes, questions


def shown(estimate: statistics.Estimate) -> dict[str, float]:
  """An estimate as JSON."""
  return {"mean": round(estimate.mean, 4), "se": round(estimate.error, 4)}


def arm(outcomes: dict[str, Outcome], groups: np.ndarray) -> dict[str, Any]:
  """All figures of an arm, the strategy's name in front."""
  return {
    key.removeprefix("eval/"): round(value, 4)
    for name, outcome in outcomes.items()
    for key, value in figures(name, outcome, groups).items()
  }


def main(_: Sequence[str]) -> None:
  """Runs the stages that are missing, and prints the comparison."""
  workdir = Path(_WORKDIR.value)
  seconds: dict[str, float] = {}
  began = time.monotonic()

  def lap(name: str) -> None:
    nonlocal began
    seconds[name] = round(time.monotonic() - began, 1)
    began = time.monotonic()

  config = make_config(_START.value)
  start, questions = measure(config, workdir / "start")
  lap("evaluate start")
  model = workdir / "sft" / "model"
  if not model.is_dir():
    sft(config, str(workdir / "sft"))
  lap("sft")
  adapted = make_config(str(model))
  train(adapted, str(workdir / "rl"))
  lap("rl with its evaluations")
  arms = {
    "start": start,
    "sft": measure(adapted, workdir / "sft" / "none")[0],
    _METHOD.value: measure(adapted, workdir / "rl")[0],
  }
  lap("evaluate sft and rl")

  groups = groups_of(questions)
  by_class, by_question = majority(config, questions).astype(np.float64)
  right = {"majority": by_class, "majority by question": by_question}
  for name, outcomes in arms.items():
    right[name] = outcomes["greedy"].correct[:, 0]
  pairs = [
    ("sft", "start"),
    (_METHOD.value, "sft"),
    (_METHOD.value, "majority"),
    (_METHOD.value, "majority by question"),
  ]
  record = {
    "set": _SET.value,
    "held_out": {
      "questions": len(questions),
      "groups": len(set(groups)),
    },
    "settings": {
      "sft_steps": _SFT_STEPS.value,
      "sft_batch": _SFT_BATCH.value,
      "sft_lr": config.sft.lr,
      "rl_steps": _RL_STEPS.value,
      "rl_lr": _LR.value,
      "method": _METHOD.value,
      "seed": _SEED.value,
    },
    "accuracy_greedy": {
      name: shown(statistics.mean_and_error(values, groups))
      for name, values in right.items()
    },
    "accuracy_sampled": {
      name: shown(statistics.avg_at_n(outcomes["sampled"].correct, groups))
      for name, outcomes in arms.items()
    },
    "greedy_difference": {
      f"{a} - {b}": shown(
        statistics.paired_difference(right[a], right[b], groups)
      )
      for a, b in pairs
    },
    "sampled_difference": {
      f"{a} - {b}": shown(
        statistics.paired_difference(
          arms[a]["sampled"].correct.mean(1),
          arms[b]["sampled"].correct.mean(1),
          groups,
        )
      )
      for a, b in pairs[:2]
    },
    "arms": {name: arm(outcomes, groups) for name, outcomes in arms.items()},
    "seconds": seconds,
  }
  tell(record, _OUT.value)


if __name__ == "__main__":
  app.run(main)
