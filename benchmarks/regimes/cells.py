"""Warm starts with faults of set strength, and MIRL against GRPO from each."""

import contextlib
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.headline.bench import compare
from benchmarks.headline.setting import Setting
from configs import mislead_tiny
from mirl_jax.sft import sft


@dataclass(frozen=True)
class Cell:
  """A warm start's faults.

  Attributes:
    hallucinate: probability that a demonstrated description which could name
      a usual colour instead of the true one does so.
    reasoning: `short` or `long` demonstrated reasonings.
    slip: probability that a demonstrated reasoning makes a mistake.
  """

  hallucinate: float
  reasoning: str
  slip: float

  @property
  def argument(self) -> str:
    """As the config of the warm start takes it."""
    return (
      f"hallucinate={self.hallucinate:g},reasoning={self.reasoning},"
      f"slip={self.slip:g}"
    )


def grid(
  hallucinate: Sequence[float],
  reasonings: Sequence[str],
  slips: Sequence[float],
) -> list[Cell]:
  """Every combination."""
  return [
    Cell(*values)
    for values in itertools.product(hallucinate, reasonings, slips)
  ]


def warm_start(cell: Cell, folder: Path) -> str:
  """The model's directory; made where it is missing.

  Raises:
    RuntimeError: where the warm start did not end.
  """
  model = folder / cell.argument / "model"
  if not (model / "config.json").is_file():
    with contextlib.redirect_stdout(sys.stderr):
      code = sft(mislead_tiny.get_config(cell.argument), str(model.parent))
    if code:
      raise RuntimeError(f"the warm start ended with exit code {code}")
  return str(model)


def measure(
  cell: Cell,
  out: Path,
  arms: Sequence[str],
  seeds: Sequence[int],
  rates: Sequence[float],
  tokens: int,
  questions: int,
) -> dict[str, Any]:
  """The cell's start, what every arm reaches, and the first one's lead.

  Args:
    cell: which start.
    out: of starts and rows; what is there is not made again.
    arms: of `benchmarks.headline`; the first is compared with the others,
      which must be GRPO.
    seeds: of the runs.
    rates: learning rates; more than one is tuned per arm.
    tokens: budget of a run.
    questions: fresh ones to be measured on.
  """
  start = warm_start(cell, out / "starts")
  setting = Setting(start, (), tokens, questions)
  found = compare(out, setting, arms, seeds, rates, ["tokens"])
  lead = found["differences"]["tokens"][arms[0]]
  return {
    "cell": cell.argument,
    "start": found["start"],
    "rates": found["rates"],
    "table": found["tables"]["tokens"],
    "lead": {metric: value["every"] for metric, value in lead.items()},
    "against": {metric: value["against"] for metric, value in lead.items()},
  }
