"""A warm start that sees worse: the tiny model, shown more false descriptions.

    python -m mirl_jax.main --mode=sft --config=configs/mislead_tiny.py \\
      --workdir=runs/misled

The result is runs/misled/model. Four of five demonstrations that could name a
usual colour instead of the true one now do, so that the most probable
description is often wrong: the failure that MIRL is about, and the second start
of `python -m benchmarks.headline --start=runs/misled/model`.

Other starts are its argument, `configs/mislead_tiny.py:hallucinate=.4,slip=0`:

    hallucinate  probability of naming the usual colour (default .8)
    slip         probability that a reasoning makes a mistake (default .25)
    reasoning    long (default) or short
"""

import dataclasses

from ml_collections import ConfigDict

from mirl_jax.config import get_config as method_config
from mirl_jax.config import parse_argument, world_section
from mirl_jax.worlds.dials import WARM

_FIELDS = {"hallucinate": "0.8", "slip": "0.25", "reasoning": "long"}


def get_config(argument: str = "") -> ConfigDict:
  """The tiny model's warm start, gone on with.

  Raises:
    ValueError: for an unknown field, or a dial out of range.
  """
  given = parse_argument(argument, _FIELDS)
  c = method_config("mirl")
  with c.unlocked():
    c.world = world_section(
      dataclasses.replace(
        WARM,
        hallucinate=float(given["hallucinate"]),
        slip=float(given["slip"]),
        reasoning=given["reasoning"],
      )
    )
  c.sft.steps = 150
  c.optimizer.lr = 1e-3
  c.optimizer.schedule = "cosine"
  c.optimizer.warmup = 50
  c.optimizer.end = 0.02
  c.optimizer.weight_decay = 0.01
  c.optimizer.factor.embedding = 3.0
  return c
