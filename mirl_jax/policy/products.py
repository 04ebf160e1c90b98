"""Matrix products in the order of operands that a platform is fast at."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def smaller_second(spec: str, x: Array, y: Array, dtype: Any = None) -> Array:
  """`einsum` of a small x and a large y, fast on a CPU too.

  XLA's CPU back end packs the second operand of every product anew, hence
  multiplies y by x there and transposes the small result.

  Args:
    spec: as einsum's; the result's last two axes are one of each operand.
    x: the smaller operand.
    y: the larger one.
    dtype: of the result.
  """
  inputs, out = spec.split("->")
  first, second = inputs.split(",")
  swapped = f"{second},{first}->{out[:-2]}{out[-1]}{out[-2]}"

  def on_cpu(x: Array, y: Array) -> Array:
    z = jnp.einsum(swapped, y, x, preferred_element_type=dtype)
    # Else XLA folds the transposition and swaps the operands back.
    return jnp.swapaxes(jax.lax.optimization_barrier(z), -1, -2)

  def elsewhere(x: Array, y: Array) -> Array:
    return jnp.einsum(spec, x, y, preferred_element_type=dtype)

  return jax.lax.platform_dependent(x, y, cpu=on_cpu, default=elsewhere)
