"""Rotary position embeddings: two-dimensional (vision) and M-RoPE (text)."""

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


def text_angles(
  positions: Int[Array, "b 3 *n"],
  sections: tuple[int, ...],
  head_dim: int,
  theta: float,
  interleaved: bool = False,
) -> Float[Array, "b *n half"]:
  """Angles of M-RoPE: each frequency reads one of three position axes.

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
  return chosen.astype(jnp.float32) * inverse


def vision_angles(
  patch_hw: Int[Array, "b v 2"], head_dim: int, theta: float = 10000.0
) -> Float[Array, "b v half"]:
  """Angles of the vision tower: half the frequencies read the row, half the
  column of a patch."""
  quarter = head_dim // 4
  inverse = theta ** (
    -np.arange(0, 2 * quarter, 2, dtype=np.float32) / (head_dim // 2)
  )
  angles = patch_hw[..., None].astype(jnp.float32) * inverse
  return angles.reshape(*patch_hw.shape[:2], 2 * quarter)


def rotate(
  x: Float[Array, "*n h d"], angles: Float[Array, "*n half"]
) -> Float[Array, "*n h d"]:
  """Rotates the two halves of each head by the given angles, in float32."""
  cos = jnp.cos(angles)[..., None, :]
  sin = jnp.sin(angles)[..., None, :]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return turned.astype(x.dtype)
