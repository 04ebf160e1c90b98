"""How the embedded tiny model is made: a supervised warm start from scratch.

    python -m mirl_jax.main --mode=sft --config=configs/pretrain_tiny.py \\
      --workdir=runs/tiny

The result is runs/tiny/model; mirl_jax/tiny is a copy of it. Demonstrations
carry the faults that reinforcement learning is to mend: colours that usually
go with a shape, descriptions that hallucinate the usual colour, and
reasonings that slip.
"""

from ml_collections import ConfigDict

from mirl_jax.config import get_config as method_config
from mirl_jax.config import world_section
from mirl_jax.worlds.dials import WARM


def get_config() -> ConfigDict:
  """The warm start of the tiny model."""
  c = method_config("mirl")
  with c.unlocked():
    c.world = world_section(WARM)
  c.sft.from_scratch = True
  c.sft.steps = 1500
  c.sft.batch = 64
  c.optimizer.lr = 3e-3
  c.optimizer.schedule = "cosine"
  c.optimizer.warmup = 50
  c.optimizer.end = 0.02
  c.optimizer.weight_decay = 0.01
  c.optimizer.factor.embedding = 3.0
  return c
