"""Screens a policy on questions and writes what was found."""

import json
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from mirl_jax import batching, build
from mirl_jax.data.example import Example
from mirl_jax.information.estimators import MI
from mirl_jax.runs.files import PathLike, local_path, write_atomic
from mirl_jax.runs.report import SCREENING_FILE
from mirl_jax.screening.chart import screening_chart
from mirl_jax.screening.figures import screening_figures
from mirl_jax.screening.observe import (
  kept_count,
  make_observer,
  observe,
  scored_stage,
)
from mirl_jax.screening.table import screening_table


def screen(
  config: ConfigDict,
  policy: build.Policy,
  roles: dict[str, Any],
  questions: Sequence[Example],
  mi: MI | None,
) -> dict[str, Any]:
  """What `screening_figures` finds for a policy.

  Args:
    config: of the run: its program, and `eval` for batches and seed.
    policy: that describes.
    roles: parameters by role.
    questions: one at least.
    mi: the estimator; its scorer reads all variants.

  Raises:
    ValueError: for a program with one description of each question.
  """
  program = build.make_program(config, False)
  observer = make_observer(
    policy,
    batching.make_batcher(config, policy, mi),
    program,
    mi,
    min(config.eval.batch, len(questions)),
  )
  key = build.place_key(config.eval.seed, policy)
  data = observe(observer, roles, questions, key)
  k = kept_count(program, scored_stage(program, mi), data.length.shape[1])
  return screening_figures(data, k, config.eval.seed)


def write_screening(record: dict[str, Any], folder: PathLike) -> None:
  """Prints the table and writes screening.json and screening.svg."""
  chart = local_path(folder) / SCREENING_FILE
  text = json.dumps(record, indent=1, allow_nan=False)
  written = write_atomic(chart.with_suffix(".json"), text + "\n")
  drawn = write_atomic(chart, screening_chart(record))
  print(screening_table(record))
  print(f"written: {written}, {drawn}")


def run_screening(
  config: ConfigDict,
  policy: build.Policy,
  roles: dict[str, Any],
  questions: Sequence[Example],
  step: int | None,
  folder: PathLike,
) -> None:
  """Screens by the run's own estimator; the first process writes.

  Args:
    config: of the run.
    policy: that describes.
    roles: parameters by role.
    questions: one at least.
    step: that the parameters are of.
    folder: of the files.
  """
  record = screen(config, policy, roles, questions, build.make_mi(config))
  if jax.process_index() == 0:
    write_screening({"step": step, **record}, folder)
