"""MIRL in the shape that the paper's abstract states (arXiv 2605.01520).

10 pre-samples, top 6, two forks, MI the only reward of descriptions and
correctness the only one of reasonings; the guards are ours.
"""

from ml_collections import ConfigDict

from mirl_jax.config import get_config as method_config


def get_config() -> ConfigDict:
  """The method `mirl_paper` on the procedural world."""
  return method_config("mirl_paper")
