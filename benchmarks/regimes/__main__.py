"""Where MIRL wins, ties and loses: a map over the faults of the warm start.

    python -m benchmarks.regimes --seeds=2 [--out=DIR]

For every combination of how often descriptions hallucinate, how long reasonings
are and how often they slip, the tiny model gets a warm start of its own
(`configs/mislead_tiny.py`). From there MIRL and GRPO of several group sizes are
trained for one budget of generated tokens and measured on fresh questions.
What is finished is a file in --out and is not repeated. Prints one JSON object,
writes it beside a figure of MIRL's lead over the best GRPO.
"""

import dataclasses
from pathlib import Path

import jax
from absl import app, flags

from benchmarks.headline.bench import prepare
from benchmarks.output import tell, versions
from benchmarks.regimes import figure
from benchmarks.regimes.cells import grid, measure

_SEEDS = flags.DEFINE_integer("seeds", 2, "Training seeds per arm and cell.")
_TOKENS = flags.DEFINE_integer("tokens", 80_000, "Generated tokens per run.")
_QUESTIONS = flags.DEFINE_integer("questions", 512, "Fresh ones per run.")
_OUT = flags.DEFINE_string("out", "runs/regimes", "Directory of the rows.")
_ARMS = flags.DEFINE_list(
  "arms", ["mirl-10-6-1", "grpo-4", "grpo-8"], "MIRL's, then GRPO's."
)
_RATES = flags.DEFINE_list("rates", ["3e-4"], "Learning rates; one: not tuned.")
_HALLUCINATE = flags.DEFINE_list("hallucinate", ["0", "0.4", "0.8"], "Shares.")
_REASONINGS = flags.DEFINE_list("reasonings", ["short", "long"], "Which.")
_SLIPS = flags.DEFINE_list("slips", ["0", "0.5"], "Shares.")


def main(argv: list[str]) -> None:
  del argv
  out = Path(_OUT.value)
  prepare(out)
  cells = grid(
    [float(x) for x in _HALLUCINATE.value],
    _REASONINGS.value,
    [float(x) for x in _SLIPS.value],
  )
  results = [
    measure(
      cell,
      out,
      _ARMS.value,
      range(_SEEDS.value),
      [float(rate) for rate in _RATES.value],
      _TOKENS.value,
      _QUESTIONS.value,
    )
    for cell in cells
  ]
  figure.draw(cells, results, out / "regimes.png")
  tell(
    {
      "benchmark": "regimes",
      "tokens": _TOKENS.value,
      "questions": _QUESTIONS.value,
      "cells": [
        {**dataclasses.asdict(cell), **result}
        for cell, result in zip(cells, results, strict=True)
      ],
      "device": jax.devices()[0].device_kind,
      "versions": versions("jax", "jaxlib", "flax", "optax"),
    },
    out / "regimes.json",
  )


if __name__ == "__main__":
  app.run(main)
