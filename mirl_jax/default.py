"""The embedded default configuration: MIRL on the procedural world."""

from ml_collections import ConfigDict

from mirl_jax.config import get_config as method_config


def get_config() -> ConfigDict:
  """MIRL from the shipped warm start."""
  return method_config("mirl")
