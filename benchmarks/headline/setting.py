"""What compared runs share: start, world, budget and fresh questions."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from absl.app import UsageError
from ml_collections import ConfigDict

from benchmarks.headline.arms import arm, change
from mirl_jax import batching, build
from mirl_jax.data.example import Example
from mirl_jax.evaluate import Strategy, make_strategies, run_strategy
from mirl_jax.start import load_roles

# Questions of world seeds that no other command uses.
TRAIN_SEED, TEST_SEED, TUNE_SEED = 10_000, 20_000, 20_001
_SAMPLES, _BATCH = 4, 64
_MEASURED = 256  # prompts


def world_fields(flag: Sequence[str]) -> tuple[tuple[str, str], ...]:
  """Names and values of a flag `--world=NAME=VALUE,…`.

  Raises:
    UsageError: for a field without a value.
  """
  if bare := [field for field in flag if "=" not in field]:
    raise UsageError(
      f"--world: {bare[0]!r} is no NAME=VALUE; quote a field that holds a"
      " comma, as in --world='\"noise=(0.1, 0.2)\",prior=0.6'"
    )
  halves = (field.partition("=") for field in flag)
  return tuple((name, value) for name, _, value in halves)


@dataclass(frozen=True)
class Setting:
  """What a run shares with those that it is compared with.

  Attributes:
    start: directory of the model, "" = the embedded one.
    world: fields of `world`, values as Python writes them.
    tokens: budget of generated tokens.
    questions: fresh ones that it is measured on.
    test: whether these are the ones of testing, or those of tuning.
  """

  start: str = ""
  world: tuple[tuple[str, str], ...] = ()
  tokens: int = 160_000
  questions: int = 512
  test: bool = True

  def config(self, name: str) -> ConfigDict:
    """Of an arm."""
    c = arm(name)
    c.policy.path = self.start
    return change(c, {f"world.{k}": v for k, v in self.world})


@dataclass(frozen=True)
class Ruler:
  """Fresh questions, and greedy and sampled whole responses to them.

  The same for every arm: one stage, nothing screened.
  """

  policy: build.Policy
  batcher: batching.Batcher
  examples: Sequence[Example]
  strategies: Sequence[Strategy]


@functools.cache
def ruler(setting: Setting) -> Ruler:
  """Made once for a setting, so that it is compiled once."""
  config = setting.config("grpo-8")
  config.data.seed = TEST_SEED if setting.test else TUNE_SEED
  policy = build.make_policy(config)
  source = build.make_source(config, "test")
  return Ruler(
    policy,
    batching.make_batcher(config, policy, None),
    list(build.first_examples(source, setting.questions)),
    make_strategies(
      policy, build.make_program(config, True), None, _SAMPLES, screen=False
    ),
  )


def measure(setting: Setting, params: Any) -> dict[str, float]:
  """Sampled and greedy: accuracy, exact descriptions, tokens of a response."""
  own = ruler(setting)
  found = {}
  for strategy in own.strategies:
    outcome = run_strategy(
      strategy,
      {"policy": params},
      own.batcher,
      own.examples,
      _BATCH,
      build.place_key(TEST_SEED, own.policy),
    )
    found[f"{strategy.name}_accuracy"] = float(outcome.correct.mean())
    found[f"{strategy.name}_exact"] = float(outcome.exact.mean())
    responses = outcome.correct.shape[1]
    found[f"{strategy.name}_tokens"] = float(outcome.tokens.mean() / responses)
  return found


def start_figures(setting: Setting) -> dict[str, float]:
  """`measure` of the model before training."""
  config = setting.config("grpo-8")
  roles, _ = load_roles(config, "", ruler(setting).policy)
  return measure(setting, roles["policy"])


@functools.cache
def start_lengths(setting: Setting) -> tuple[float, float]:
  """Mean tokens of a description and of a reasoning before training."""
  own = ruler(setting)
  config = setting.config("mirl-8-8-1")
  program = build.make_program(config, True)
  _, sampled = make_strategies(own.policy, program, None, 8, screen=False)
  roles, _ = load_roles(config, "", own.policy)
  prompts, _ = own.batcher.batch(own.examples[:_BATCH], False)
  tree = jax.device_get(
    sampled.rollout(
      roles, prompts, None, build.place_key(TEST_SEED, own.policy)
    )
  )
  describe, reason = (
    float(level.sampled.sum(-1).mean()) for level in tree.levels
  )
  return describe, reason


@functools.cache
def prompt_size(setting: Setting) -> tuple[int, int]:
  """Mean patches and tokens of the prompts that a run trains on."""
  policy = ruler(setting).policy
  config = setting.config("grpo-8")
  config.data.seed = TRAIN_SEED
  source = build.make_source(config, "train", policy)
  sizes = [
    policy.processor.measure(example)
    for example in build.first_examples(source, _MEASURED)
  ]
  tokens, patches = np.mean(sizes, axis=0)
  return round(patches), round(tokens)
