"""`--mode=eval`: draws what is missing, then makes figures of the files."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mirl_jax import batching, build
from mirl_jax.data.pipeline import Quarantine
from mirl_jax.evaluate import make_strategies
from mirl_jax.evaluation.draw import common_print, draw_missing, fingerprint
from mirl_jax.evaluation.figures import (
  STRATEGIES,
  Evaluated,
  SetRecord,
  set_folder,
  write_figures,
  write_set,
)
from mirl_jax.evaluation.items import digest_of
from mirl_jax.evaluation.predictions import prediction_rows, write_predictions
from mirl_jax.evaluation.presets import PLAIN
from mirl_jax.evaluation.sets import (
  HELD_OUT,
  QuestionSet,
  parse_sets,
  read_set,
  with_buckets,
)
from mirl_jax.runs.files import local_path

_SAY_EVERY_S = 20.0


def _quarantine(workdir: str, name: str) -> Quarantine:
  """Bad rows of a set, listed anew by every evaluation."""
  path = set_folder(workdir, name) / "quarantine.jsonl"
  if jax.process_index():
    return Quarantine(None)
  path.unlink(missing_ok=True)
  return Quarantine(path)


def _held_out(
  config: ConfigDict, policy: build.Policy, bad: Quarantine
) -> QuestionSet:
  source = build.make_source(config, "test", policy)
  count = config.eval.final_questions
  found = tuple(build.first_examples(source, count, bad))
  if not found:
    raise ValueError(
      f"none of the first {count} of {len(source)} rows held out for evaluation"
      f" can be used; {bad.path} says why, or raise eval.final_questions"
    )
  path = config.data.test or config.data.train
  return QuestionSet(HELD_OUT, path, PLAIN, found, len(bad.seen))


def sets_of(
  config: ConfigDict, policy: build.Policy, workdir: str
) -> list[tuple[QuestionSet, Quarantine]]:
  """The sets of `eval.sets`, or the questions that training holds out, and
  their bad rows.

  Raises:
    FileNotFoundError, ValueError: naming the set and what is wrong with it.
  """
  if config.eval.limit < 0:
    raise ValueError(f"eval.limit={config.eval.limit}: give 0 or more")
  found = []
  for named in parse_sets(config.eval.sets):
    bad = _quarantine(workdir, named.name)
    found.append((read_set(named, policy, config.eval.limit, bad), bad))
  if not found:
    bad = _quarantine(workdir, HELD_OUT)
    found.append((_held_out(config, policy, bad), bad))
  return found


def own_config(
  config: ConfigDict, policy: build.Policy, questions: QuestionSet
) -> ConfigDict:
  """The config with the buckets of a set; held-out questions have those of
  training."""
  if questions.name == HELD_OUT:
    return config
  return with_buckets(config, policy, questions.examples)


def _announcer(label: str, questions: int) -> Callable[[str], None]:
  """Prints what is said, progress not more often than _SAY_EVERY_S."""
  last = time.monotonic()

  def say(text: str) -> None:
    nonlocal last
    progress = text.endswith(f"of {questions}")
    if progress and time.monotonic() - last < _SAY_EVERY_S:
      return
    last = time.monotonic()
    print(f"{label}: {text}", flush=True)

  return say


def draw_set(
  config: ConfigDict,
  policy: build.Policy,
  roles: dict[str, Any],
  questions: QuestionSet,
  workdir: str,
) -> None:
  """Draws every strategy's missing items of a set into its files.

  Args:
    config: from `own_config`.
    policy: to evaluate.
    roles: parameters by role.
    questions: the set.
    workdir: of the run.
  """
  program, mi = build.make_program(config, False), build.make_mi(config)
  folder = set_folder(local_path(workdir), questions.name)
  primary = jax.process_index() == 0
  batcher = batching.make_batcher(config, policy, mi)
  common = common_print(config, questions.preset, roles, batcher)
  if primary:
    record = SetRecord(
      questions.name,
      questions.path,
      questions.preset.name,
      questions.preset.note,
      questions.bad,
      common,
      {example.id: digest_of(example) for example in questions.examples},
    )
    write_set(folder, record)
  key = build.place_key(config.eval.seed, policy)
  for strategy in make_strategies(
    policy, program, mi, config.eval.samples, config.eval.screen
  ):
    made = fingerprint(config, strategy, common, mi, roles, batcher)
    label = f"{questions.name} {strategy.name}"
    say = _announcer(label, len(questions.examples))
    # As `evaluate` draws: a strategy has a key of its own.
    own = jax.random.fold_in(key, STRATEGIES.index(strategy.name))
    there = draw_missing(
      questions,
      strategy,
      folder / f"{strategy.name}.jsonl",
      made,
      roles,
      batcher,
      config.eval.batch,
      own,
      say,
    )
    if there and primary:
      print(f"{label}: {there} questions were drawn before", flush=True)


def write_outputs(
  questions: QuestionSet, bad: Quarantine, workdir: str
) -> Evaluated:
  """Figures and predictions of a set, from its files."""
  folder = set_folder(local_path(workdir), questions.name)
  evaluated = write_figures(folder)
  source = Path(questions.path)
  own = source if source.suffix.lower() == ".tsv" else None
  dataset = questions.name if own is None else own.stem
  unusable = sorted({row for row, _ in bad.seen})
  model = Path(workdir).resolve().name
  for strategy, items in evaluated.items.items():
    rows = prediction_rows(items, own, unusable)
    write_predictions(folder / f"{model}-{strategy}_{dataset}.tsv", rows)
  return evaluated
