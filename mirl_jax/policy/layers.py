"""Layers shared by the vision tower and the decoder (Flax Linen).

Every parameter carries logical axis names; `parallel/` maps those to mesh
axes. Parameters are float32; activations take the caller's dtype.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class Dense(nn.Module):
  """`x @ kernel + bias` over the last axis.

  Attributes:
    features: output size.
    axes: logical names of the kernel's two axes.
    bias: whether a bias is added.
  """

  features: int
  axes: Sequence[str | None]
  bias: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(
        nn.initializers.normal(0.02), tuple(self.axes)
      ),
      (x.shape[-1], self.features),
    )
    y = jnp.dot(x, kernel.astype(x.dtype))
    if self.bias:
      bias = self.param(
        "bias",
        nn.with_logical_partitioning(
          nn.initializers.zeros_init(), (self.axes[1],)
        ),
        (self.features,),
      )
      y = y + bias.astype(x.dtype)
    return y


class RMSNorm(nn.Module):
  """Root-mean-square normalisation in float32 (Zhang & Sennrich 2019)."""

  eps: float

  @nn.compact
  def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    scale = self.param(
      "scale",
      nn.with_logical_partitioning(nn.initializers.ones_init(), ("embed",)),
      (x.shape[-1],),
    )
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(
      jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps
    )
    return x32.astype(x.dtype) * scale.astype(x.dtype)


class SwiGLU(nn.Module):
  """`down(silu(gate(x)) * up(x))` (Shazeer 2020)."""

  hidden: int
  bias: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    width = x.shape[-1]
    wide = ("embed", "mlp")
    gate = Dense(self.hidden, wide, self.bias, name="gate")(x)
    up = Dense(self.hidden, wide, self.bias, name="up")(x)
    down = Dense(width, ("mlp", "embed"), self.bias, name="down")
    return down(jax.nn.silu(gate) * up)
