"""Rotary position embeddings: two-dimensional (vision) and M-RoPE (text)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def frequency_axes(
  sections: tuple[int, ...], interleaved: bool
) -> Int[np.ndarray, " half"]:
  """Which of time, height and width (0, 1, 2) each frequency reads.

  Args:
    sections: frequencies of each axis, in order.
    interleaved: the axes take turns (t h w t h w …) and time takes what the
      others leave, as in Qwen3-VL; else each has one block.
  """
  if not interleaved:
    return np.repeat(np.arange(3), sections)
  axes = np.zeros(sum(sections), np.int64)
  for axis in (1, 2):
    axes[axis : 3 * sections[axis] : 3] = axis
  return axes


def text_rotation(
  positions: Int[Array, "b 3 *n"],
  sections: tuple[int, ...],
  head_dim: int,
  theta: float,
  interleaved: bool = False,
) -> Float[Array, "b *n 2 half"]:
  """The rotation of M-RoPE: each frequency reads one of three position axes.

  Source: Qwen2-VL (arXiv 2409.12191), section 2.1.

  Args:
    positions: time, height and width position of each token.
    sections: how many frequencies read each axis; sums to head_dim / 2.
    head_dim: size of one head.
    theta: base of the frequencies.
    interleaved: as in `frequency_axes`.
  """
  inverse = theta ** (-np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
  axes = frequency_axes(sections, interleaved)
  chosen = jnp.moveaxis(positions, 1, -1)[..., axes]
  return _rotation(chosen.astype(jnp.float32) * inverse)


def _rotation(angles: Float[Array, "*n half"]) -> Float[Array, "*n 2 half"]:
  """Cosines and sines, made once: XLA would fuse them into every reader."""
  turn = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-2)
  return jax.lax.optimization_barrier(turn)


def vision_rotation(
  patch_hw: Int[Array, "b v 2"], head_dim: int, theta: float = 10000.0
) -> Float[Array, "b v 2 half"]:
  """The rotation of the vision tower: half the frequencies read the row of a
  patch, half its column."""
  quarter = head_dim // 4
  inverse = theta ** (
    -np.arange(0, 2 * quarter, 2, dtype=np.float32) / (head_dim // 2)
  )
  angles = patch_hw[..., None].astype(jnp.float32) * inverse
  return _rotation(angles.reshape(*patch_hw.shape[:2], 2 * quarter))


def rotate(
  x: Float[Array, "*n h d"], turn: Float[Array, "*n 2 half"]
) -> Float[Array, "*n h d"]:
  """Rotates the two halves of each head by cosines and sines, in float32."""
  cos, sin = turn[..., None, 0, :], turn[..., None, 1, :]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return turned.astype(x.dtype)
