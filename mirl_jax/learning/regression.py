"""A running ridge regression: sufficient statistics with forgetting."""

from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float


@struct.dataclass
class Regression:
  """Decayed sums of x xᵀ and x y."""

  gram: Any  # [D, D] float32
  moment: Any  # [D] float32


def empty(features: int) -> Regression:
  """Predicts 0 until it has seen something."""
  return Regression(
    jnp.zeros((features, features), jnp.float32),
    jnp.zeros((features,), jnp.float32),
  )


def predict(
  fit: Regression, x: Float[Array, "*n d"], ridge: float = 10.0
) -> Float[Array, "*n"]:
  """Ridge prediction from earlier updates; no intercept."""
  size = fit.gram.shape[0]
  weights = jnp.linalg.solve(fit.gram + ridge * jnp.eye(size), fit.moment)
  return x @ weights


def update(
  fit: Regression,
  x: Float[Array, "*n d"],
  y: Float[Array, "*n"],
  valid: Bool[Array, "*n"],
  decay: float = 0.9,
) -> Regression:
  """Adds a step's rows; older steps fade by `decay` each step."""
  x = jnp.where(valid[..., None], x, 0.0).reshape(-1, x.shape[-1])
  y = jnp.where(valid, y, 0.0).reshape(-1)
  return Regression(decay * fit.gram + x.T @ x, decay * fit.moment + x.T @ y)
