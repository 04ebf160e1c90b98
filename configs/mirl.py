"""MIRL on the procedural world: the embedded default, as a file to copy."""

from ml_collections import ConfigDict

from mirl_jax.config import get_config as method_config


def get_config() -> ConfigDict:
  """The method `mirl` with its defaults."""
  return method_config("mirl")
