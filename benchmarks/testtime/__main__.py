"""What answers gain from test-time compute, at equal generated tokens.

    python -m benchmarks.testtime [--questions=1024] [--out=F] [--figure=F]
        [--start=DIR | --workdir=RUN] [--world=NAME=VALUE,…]

Strategies:

  greedy      one response by argmax;
  sample      one response, the mean over all (avg@n);
  majority    the vote of n independent responses, tied answers sharing it;
  best of n   of n independent responses the one with the highest mean
              log-prob per token, or with the highest MI of its description;
  screen      N/k×F: N descriptions, the best k, F reasonings of each, the vote.
              Best by MI, or, as controls, by mean log-prob, at random, or by
              being exact (oracle).

A pool of descriptions and reasonings of them is sampled once per question, and
each strategy is its mean over random sub-pools, which are the same for all.
MI is read from these same samples, under a blank picture. Best of n by MI would
give the same answers for fewer tokens if only its choice were reasoned from:
that is N/1×1.

Generated tokens count every sampled token, of dropped descriptions too.
`scored_tokens` are those that MI reads once more, without the image; a prompt
of `view_prompt_tokens` goes before them. `over_majority` is the difference to
the majority's accuracy at equal generated tokens, on a line in log tokens
between the two neighbouring n, paired by question; `over_majority_scored`
counts the scored tokens and their prompt as generated ones; `over_best` is the
difference to the best of n by log-prob, `over_random` that to keeping at
random. Errors are standard errors over questions. Prints one JSON object.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks.headline.arms import change
from benchmarks.headline.setting import world_fields
from benchmarks.output import tell
from benchmarks.testtime import figure
from benchmarks.testtime.pool import VIEW, pool_program, sample_pool
from benchmarks.testtime.report import cell, strategies_report
from benchmarks.testtime.strategies import Shape, mean_outcomes
from mirl_jax import batching, build
from mirl_jax.command_line import saved_config
from mirl_jax.config import get_config
from mirl_jax.evaluate import make_strategies, run_strategy
from mirl_jax.host_memory import tune_allocator
from mirl_jax.runs.config_files import CONFIG_FILE
from mirl_jax.start import load_roles
from mirl_jax.statistics import mean_and_error

# Questions of a world seed that no other command uses.
TEST_SEED = 20_002
SHAPES: tuple[Shape, ...] = (
  (4, 1, 1),
  (8, 1, 1),
  (8, 2, 1),
  (8, 4, 1),
  (8, 1, 4),
  (8, 2, 2),
  (10, 6, 1),
  (10, 6, 2),
  (16, 4, 1),
  (16, 4, 2),
  (16, 8, 1),
)
_BATCH, _GREEDY_BATCH = 16, 64

_QUESTIONS = flags.DEFINE_integer("questions", 1024, "Fresh questions.")
_START = flags.DEFINE_string("start", "", "Model; default: the embedded one.")
_WORKDIR = flags.DEFINE_string("workdir", "", "A run; its last checkpoint.")
_WORLD = flags.DEFINE_list("world", [], "Fields of `world`: NAME=VALUE, ….")
_OUT = flags.DEFINE_string("out", "", "File for the JSON, beside the output.")
_FIGURE = flags.DEFINE_string("figure", "", "PNG of accuracy over tokens.")
_DESCRIPTIONS = flags.DEFINE_integer("descriptions", 32, "Of a question.")
_REASONINGS = flags.DEFINE_integer("reasonings", 4, "Of a description.")
_SHUFFLES = flags.DEFINE_integer("shuffles", 64, "Sub-pools of a question.")


def of_world(config: ConfigDict) -> ConfigDict:
  """The config with the questions of this benchmark."""
  fields = world_fields(_WORLD.value)
  config = change(config, {f"world.{k}": v for k, v in fields})
  config.data.seed = TEST_SEED
  config.data.buckets = 1  # compiled once
  return config


def load() -> tuple[ConfigDict, build.Policy, dict[str, Any], int | None]:
  """Config, policy, its parameters by role, and the step that they are of."""
  config = get_config("mirl")
  config.policy.path = _START.value
  run = config
  if _WORKDIR.value:
    run = saved_config(Path(_WORKDIR.value) / CONFIG_FILE)
    config.policy, config.world = run.policy, run.world
  policy = build.make_policy(config)
  roles, step = load_roles(run, _WORKDIR.value, policy)
  return of_world(config), policy, roles, step


def measure(
  config: ConfigDict, policy: build.Policy, roles: dict[str, Any]
) -> dict[str, Any]:
  """Every strategy on the questions that the flags ask for.

  Shapes that need a larger pool are left out.
  """
  size = _DESCRIPTIONS.value, _REASONINGS.value
  shapes = [x for x in SHAPES if x[0] <= size[0] and x[2] <= size[1]]
  program = build.make_program(config, True)
  examples = list(
    build.first_examples(
      build.make_source(config, "test", policy), _QUESTIONS.value
    )
  )
  batcher = batching.make_batcher(config, policy, VIEW)
  greedy, _ = make_strategies(policy, program, None, 1, screen=False)
  key = build.place_key(TEST_SEED, policy)
  argmax = run_strategy(greedy, roles, batcher, examples, _GREEDY_BATCH, key)
  pool = sample_pool(
    policy,
    roles,
    batcher,
    pool_program(program, *size),
    examples,
    _BATCH,
    TEST_SEED,
  )
  found = mean_outcomes(pool, size[0], shapes, _SHUFFLES.value, TEST_SEED)
  prompts = [policy.processor.measure(e, VIEW.view)[0] for e in examples]
  view_prompt = float(np.mean(prompts))
  return {
    "questions": len(examples),
    "pool": list(size),
    "shuffles": _SHUFFLES.value,
    "view_prompt_tokens": round(view_prompt, 2),
    "greedy": {
      "accuracy": cell(mean_and_error(argmax.correct[:, 0])),
      "exact": cell(mean_and_error(argmax.exact[:, 0])),
      "tokens": round(float(argmax.tokens.mean()), 2),
    },
    **strategies_report(pool, found, shapes, view_prompt),
  }


def main(argv: list[str]) -> None:
  del argv
  if _START.value and _WORKDIR.value:
    raise app.UsageError("give --start or --workdir, not both")
  tune_allocator()
  config, policy, roles, step = load()
  result = {
    "benchmark": "testtime",
    "start": _START.value,
    "workdir": _WORKDIR.value,
    "step": step,
    "world": _WORLD.value,
    "device": jax.devices()[0].device_kind,
    **measure(config, policy, roles),
  }
  if _FIGURE.value:
    figure.draw(result, Path(_FIGURE.value))
  tell(result, _OUT.value)


if __name__ == "__main__":
  app.run(main)
