"""The vision tower of Qwen2.5-VL (arXiv 2502.13923, section 2.1).

Patches arrive in window-padded order (see inputs.py), so windowed attention
is a reshape and the merger joins consecutive slots.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from mirl_jax.policy.attention import attend, segment
from mirl_jax.policy.configs import VisionConfig
from mirl_jax.policy.layers import Dense, RMSNorm, SwiGLU
from mirl_jax.policy.rope import rotate, vision_angles

_EPS = 1e-6


class VisionAttention(nn.Module):
  config: VisionConfig

  @nn.compact
  def __call__(self, x: Array, angles: Array, image: Array, full: bool):
    c = self.config
    b, v, _ = x.shape
    qkv = Dense(3 * c.width, ("embed", "heads"), name="qkv")(x)
    q, k, value = jnp.moveaxis(qkv.reshape(b, v, 3, c.heads, -1), 2, 0)
    q, k = rotate(q, angles), rotate(k, angles)
    span = v if full else c.window_patches
    shape = (b, v // span, span, *q.shape[2:])
    spans = image.reshape(b, v // span, span)
    if full:  # several images share the slots: read one's own only
      mask = (spans[..., None, :] == spans[..., None]) & (
        spans[..., None, :] > 0
      )
    else:
      mask = spans > 0
    out = attend(
      q.reshape(shape), (segment(k.reshape(shape), value.reshape(shape), mask),)
    )
    return Dense(c.width, ("heads", "embed"), name="proj")(out.reshape(x.shape))


class VisionBlock(nn.Module):
  """One pre-norm block; `full` picks full or windowed attention."""

  config: VisionConfig

  @nn.compact
  def __call__(self, x: Array, angles: Array, image: Array, full: bool):
    c = self.config
    attention = VisionAttention(c, name="attn")
    x = x + attention(RMSNorm(_EPS, name="norm1")(x), angles, image, full)
    mlp = SwiGLU(c.mlp, bias=True, name="mlp")
    return x + mlp(RMSNorm(_EPS, name="norm2")(x))


class Merger(nn.Module):
  """Joins each merge unit into one token of the decoder's width."""

  config: VisionConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config
    x = RMSNorm(_EPS, name="norm")(x)
    x = x.reshape(x.shape[0], -1, c.merge_unit * c.width)
    x = Dense(x.shape[-1], ("embed", "mlp"), name="fc1")(x)
    x = jax.nn.gelu(x, approximate=False)
    return Dense(c.out_width, ("mlp", "embed"), name="fc2")(x)


def _period(config: VisionConfig) -> int | None:
  """Blocks per repeated group that ends in a full block, if regular."""
  full = config.full_blocks
  if not full:
    return None
  period = full[0] + 1
  regular = tuple(range(period - 1, config.depth, period))
  return period if full == regular and config.depth % period == 0 else None


def encode_images(
  params: dict,
  config: VisionConfig,
  patches: Float[Array, "b v d"],
  patch_hw: Int[Array, "b v 2"],
  patch_image: Int[Array, "b v"],
  dtype: Any = jnp.float32,
  remat: bool = False,
) -> Float[Array, "b m e"]:
  """Visual tokens of every merged slot, padded slots included.

  Args:
    params: the `vision` subtree.
    config: sizes.
    patches: normalised pixels in window-padded order.
    patch_hw: row and column of each patch.
    patch_image: image number of each patch, 0 for padding.
    dtype: of the activations.
    remat: recompute each block, or regular group of blocks, in the backward
      pass.
  """
  embed = Dense(config.width, (None, "embed"), bias=False)
  x = embed.apply({"params": params["patch_embed"]}, patches.astype(dtype))
  angles = vision_angles(patch_hw, config.width // config.heads)
  block = VisionBlock(config)

  def apply(x: Array, layer: dict, full: bool) -> Array:
    return block.apply({"params": layer}, x, angles, patch_image, full)

  period = _period(config)
  blocks = params["blocks"]
  if period is None or period == config.depth:
    for i in range(config.depth):
      layer = jax.tree.map(lambda p, i=i: p[i], blocks)
      one = jax.checkpoint(apply, static_argnums=2) if remat else apply
      x = one(x, layer, i in config.full_blocks)
  else:

    def group(x: Array, layers: dict) -> tuple[Array, None]:
      for i in range(period):
        layer = jax.tree.map(lambda p, i=i: p[i], layers)
        x = apply(x, layer, i == period - 1)
      return x, None

    groups = jax.tree.map(lambda p: p.reshape(-1, period, *p.shape[1:]), blocks)
    x, _ = jax.lax.scan(jax.checkpoint(group) if remat else group, x, groups)
  return Merger(config).apply({"params": params["merger"]}, x)
