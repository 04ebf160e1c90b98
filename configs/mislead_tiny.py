"""A warm start that sees worse: the tiny model, shown more false descriptions.

    python -m mirl_jax.main --mode=sft --config=configs/mislead_tiny.py \\
      --workdir=runs/misled

The result is runs/misled/model. Four of five demonstrations that could name a
usual colour instead of the true one now do, so that the most probable
description is often wrong: the failure that MIRL is about, and the second start
of `python -m benchmarks.headline --start=runs/misled/model`.
"""

import dataclasses

from ml_collections import ConfigDict

from mirl_jax.config import get_config as method_config
from mirl_jax.config import world_section
from mirl_jax.worlds.dials import WARM


def get_config() -> ConfigDict:
  """The tiny model's warm start, gone on with."""
  c = method_config("mirl")
  with c.unlocked():
    c.world = world_section(dataclasses.replace(WARM, hallucinate=0.8))
  c.sft.steps = 150
  c.optimizer.lr = 1e-3
  c.optimizer.schedule = "cosine"
  c.optimizer.warmup = 50
  c.optimizer.end = 0.02
  c.optimizer.weight_decay = 0.01
  c.optimizer.factor.embedding = 3.0
  return c
