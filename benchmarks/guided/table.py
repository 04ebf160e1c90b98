"""Every cell of the table: descriptions, answers and their standard errors."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.guided.decode import Respond, Tilt, responder
from mirl_jax import batching, build, statistics
from mirl_jax.data.example import Example
from mirl_jax.evaluate import greedy_program, groups_of, sampled_program
from mirl_jax.information.estimators import MI
from mirl_jax.rewards.assess import assess
from mirl_jax.rollout.program import samples
from mirl_jax.rollout.tree import flat
from mirl_jax.runs.progress import Progress
from mirl_jax.start import load_roles

BETAS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
# Under λ = 0 decoding is only sharpened: what the view adds is beyond that.
LAMBDAS = (0.0, 0.4, 0.8, 1.0)
CUTS = (0.0, 0.1)
MODES = ("sampled", "greedy")
FIGURES = ("exact", "accuracy", "tokens", "truncated", "unclosed")
_SAMPLES, _SEED = 4, 7
# [Q, n] of each figure.
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Cell:
  """One way of decoding; at β = 0 every λ is the same, and 0 here."""

  mode: str
  tilt: Tilt


def cells() -> list[Cell]:
  """All of them; of each mode the first is ordinary decoding."""
  tilts = []
  for beta, prior_weight, cut in itertools.product(BETAS, LAMBDAS, CUTS):
    tilt = Tilt(beta, prior_weight if beta else 0.0, cut)
    if tilt not in tilts:
      tilts.append(tilt)
  return [Cell(mode, tilt) for mode in MODES for tilt in tilts]


def responders(config: ConfigDict, policy: build.Policy) -> dict[str, Respond]:
  """By mode; the program's descriptions and reasonings, nothing screened.

  Raises:
    ValueError: for a program of other than two Sample stages.
  """
  program = build.make_program(config, True)
  stops = build.make_stops(program, policy.processor)
  found = {}
  for mode, stages in zip(
    MODES,
    (sampled_program(program, _SAMPLES), greedy_program(program)),
    strict=True,
  ):
    first, second = samples(stages)
    found[mode] = responder(policy, (first, second), stops)
  return found


def read(
  examples: Sequence[Example],
  policy: build.Policy,
  levels: Sequence[Any],
  max_tokens: int,
) -> Values:
  """The figures [B, n] of a batch of descriptions and their reasonings.

  Args:
    examples: the B questions.
    policy: who wrote.
    levels: what it wrote, as numpy.
    max_tokens: most tokens of a description.
  """
  described, reasoned = assess(examples, levels, policy.processor.decode)
  sampled, finished = flat(levels[0].sampled), flat(levels[0].finished)
  length, shape = sampled.sum(-1), finished.shape
  return {
    "exact": described.rewards["exact"].reshape(shape),
    "accuracy": reasoned.rewards["correct"].reshape(shape),
    "tokens": length,
    "truncated": ~finished & (length == max_tokens),
    "unclosed": ~finished,
  }


def measure_cells(
  config: ConfigDict, questions: int, view: str, wanted: Sequence[Cell]
) -> tuple[dict[Cell, Values], list[Example]]:
  """The figures [Q, n] of each cell, on the same held-out questions and keys.

  Args:
    config: of a program with two Sample stages, and the start.
    questions: how many.
    view: what stands in for the image.
    wanted: the cells.
  """
  policy = build.make_policy(config)
  params = load_roles(config, "", policy)[0]["policy"]
  batcher = batching.make_batcher(config, policy, MI(view=view))
  source = build.make_source(config, "test", policy)
  examples = list(build.first_examples(source, questions))
  describe, _ = samples(build.make_program(config, True))
  respond, key = responders(config, policy), build.place_key(_SEED, policy)
  size = config.eval.batch
  parts: dict[Cell, list[Values]] = {cell: [] for cell in wanted}
  total = -(-len(examples) // size) * len(wanted)
  with Progress(total, label="batch") as progress:
    for begin in range(0, len(examples), size):
      chunk = examples[begin : begin + size]
      prompts, views = batcher.batch(chunk)
      assert views is not None
      for cell in wanted:
        levels = respond[cell.mode](params, prompts, views, key, cell.tilt)
        levels = jax.device_get(levels)
        values = read(chunk, policy, levels, describe.max_tokens)
        parts[cell].append(values)
        done = sum(map(len, parts.values()))
        progress.update(done, {"exact": values["exact"].mean()})
  joined: dict[Cell, Values] = {
    cell: {name: np.concatenate([p[name] for p in found]) for name in FIGURES}
    for cell, found in parts.items()
  }
  return joined, examples


def _shown(estimate: statistics.Estimate) -> dict[str, float]:
  return {"mean": round(estimate.mean, 4), "se": round(estimate.error, 4)}


def rows(
  found: Mapping[Cell, Values], groups: np.ndarray
) -> Iterator[dict[str, Any]]:
  """A row per cell: figures, and changes against ordinary decoding, paired."""
  for cell, values in found.items():
    ordinary = found[Cell(cell.mode, Tilt(0.0, 0.0, 0.0))]
    row: dict[str, Any] = {
      "mode": cell.mode,
      "beta": cell.tilt.beta,
      "lambda": cell.tilt.prior_weight,
      "plausible": cell.tilt.plausible,
    }
    for name in FIGURES:
      row[name] = _shown(statistics.avg_at_n(values[name], groups))
    for name in ("exact", "accuracy"):
      change = values[name] - ordinary[name]
      row[f"{name}_change"] = _shown(statistics.avg_at_n(change, groups))
    yield row


def measure(config: ConfigDict, questions: int, view: str) -> list[dict]:
  """The whole table, one row per cell."""
  found, examples = measure_cells(config, questions, view, cells())
  return list(rows(found, groups_of(examples)))
