"""GRPO, the baseline: `configs/grpo.py` or `configs/grpo.py:8` for G = 8."""

from ml_collections import ConfigDict

from mirl_jax.config import get_config as method_config


def get_config(arg: str = "16") -> ConfigDict:
  """GRPO on the world with groups of `arg` responses."""
  c = method_config("grpo")
  c.program.response.fanout = int(arg)
  return c
