"""Layers shared by the vision tower and the decoder (Flax Linen).

Every parameter carries logical axis names; `parallel/` maps those to mesh
axes. Parameters are float32; activations take the caller's dtype.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from mirl_jax.policy.products import smaller_second
from mirl_jax.policy.remat import keep

# The name of a kernel that lies [o, i], where one stands for a `kernel`.
TRANSPOSED = "kernel_t"


@jax.custom_vjp
def project(
  x: Float[Array, "*n i"], kernel: Float[Array, "i o"]
) -> Float[Array, "*n o"]:
  """`x @ kernel`, whose kernel gradient transposes the smaller of two arrays.

  XLA's CPU back end copies a transposed first operand, and the gradient
  contracts over tokens: left to itself it copies the wider activations.
  """
  return jnp.dot(x, kernel)


def _project_forward(x: Array, kernel: Array) -> tuple[Array, Any]:
  return jnp.dot(x, kernel), (x, kernel)


def _project_backward(saved: Any, d_y: Array) -> tuple[Array, Array]:
  x, kernel = saved
  rows, columns = kernel.shape
  flat_x, flat_y = x.reshape(-1, rows), d_y.reshape(-1, columns)
  if rows <= columns:
    d_kernel = jnp.einsum("ni,no->io", flat_x, flat_y)
  else:
    d_kernel = jnp.einsum("no,ni->oi", flat_y, flat_x).T
  return jnp.dot(d_y, kernel.T), d_kernel


project.defvjp(_project_forward, _project_backward)


def project_rows(
  x: Float[Array, "*n i"], kernel_t: Float[Array, "o i"], dtype: Any = None
) -> Float[Array, "*n o"]:
  """`x @ kernel_t.T` for few rows of x, as in decoding; of the given dtype."""
  rows = x.reshape(-1, x.shape[-1])
  y = smaller_second("ni,oi->no", rows, kernel_t, dtype)
  return y.reshape(*x.shape[:-1], -1)


class Dense(nn.Module):
  """`x @ kernel + bias` over the last axis, and a LoRA adapter's part where
  the parameters hold one (see lora.py).

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
    if self.has_variable("params", TRANSPOSED):
      kernel_t = self.get_variable("params", TRANSPOSED)
      y = project_rows(x, kernel_t.astype(x.dtype))
    else:
      kernel = self.param(
        "kernel",
        nn.with_logical_partitioning(
          nn.initializers.normal(0.02), tuple(self.axes)
        ),
        (x.shape[-1], self.features),
      )
      y = project(x, kernel.astype(x.dtype))
    if self.has_variable("params", "lora_a"):
      a, b, scale = (
        self.get_variable("params", f"lora_{name}").astype(x.dtype)
        for name in ("a", "b", "scale")
      )
      y = y + jnp.dot(jnp.dot(x, a), b) * scale
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
  """Root-mean-square normalisation in float32 (Zhang & Sennrich 2019).

  Attributes:
    eps: added to the mean square.
    axis: logical name of the axis.
  """

  eps: float
  axis: str | None = "embed"

  @nn.compact
  def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    scale = self.param(
      "scale",
      nn.with_logical_partitioning(nn.initializers.ones_init(), (self.axis,)),
      (x.shape[-1],),
    )
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(
      jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps
    )
    return x32.astype(x.dtype) * scale.astype(x.dtype)


class LayerNorm(nn.Module):
  """Layer normalisation in float32 (arXiv 1607.06450)."""

  eps: float = 1e-6

  @nn.compact
  def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    def vector(name: str, init: Any) -> Array:
      init = nn.with_logical_partitioning(init, ("embed",))
      return self.param(name, init, (x.shape[-1],))

    scale = vector("scale", nn.initializers.ones_init())
    bias = vector("bias", nn.initializers.zeros_init())
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    x32 = x32 * jax.lax.rsqrt(
      jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps
    )
    return (x32 * scale + bias).astype(x.dtype)


class SwiGLU(nn.Module):
  """`down(silu(gate(x)) * up(x))` (Shazeer 2020)."""

  hidden: int
  bias: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    width = x.shape[-1]
    wide = ("embed", "mlp")
    gate = keep(Dense(self.hidden, wide, self.bias, name="gate")(x))
    up = keep(Dense(self.hidden, wide, self.bias, name="up")(x))
    down = Dense(width, ("mlp", "embed"), self.bias, name="down")
    return down(jax.nn.silu(gate) * up)


def init_module(module: nn.Module, key: jax.Array, *args: Any) -> Any:
  """Random parameters of a module, boxed with their logical axes."""
  return module.init(key, *args)["params"]


def init_stack(
  module: nn.Module, depth: int, key: jax.Array, *args: Any
) -> Any:
  """As `init_module` for equal modules, on a leading `layers` axis."""
  boxed = jax.vmap(lambda k: init_module(module, k, *args))(
    jax.random.split(key, depth)
  )
  return jax.tree.map(
    lambda box: box.add_axis(0, {nn.PARTITION_NAME: "layers"}),
    boxed,
    is_leaf=lambda box: isinstance(box, nn.Partitioned),
  )
