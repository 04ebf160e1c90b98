"""How much of the language prior MI should subtract: λ, with three seeds."""

from typing import Any

from ml_collections import ConfigDict

from mirl_jax.config import get_config as method_config


def get_config() -> ConfigDict:
  """What every point starts from."""
  return method_config("mirl")


def get_hyper(hyper: Any) -> Any:
  """Twelve points: λ = 0 ranks by likelihood, λ = 1 by mutual information."""
  return hyper.product(
    hyper.sweep("mi.prior_weight", (0.0, 0.4, 0.7, 1.0)),
    hyper.sweep("seed", range(3)),
  )
