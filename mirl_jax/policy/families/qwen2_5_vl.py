"""Qwen2.5-VL (arXiv 2502.13923, section 2.1).

The tower alternates windowed and full attention. Patches arrive in
window-padded order (see inputs.py), so a window is a reshape and the merger
joins consecutive slots.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import AbstractMesh
from jaxtyping import Array

from mirl_jax.parallel.mesh import spread
from mirl_jax.policy.configs import (
  VisionConfig,
  VLMConfig,
  read_ids,
  read_text,
)
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.layers import (
  Dense,
  RMSNorm,
  SwiGLU,
  init_module,
  init_stack,
)
from mirl_jax.policy.remat import keep, rematerialise
from mirl_jax.policy.rope import vision_rotation
from mirl_jax.policy.text import decoder_names
from mirl_jax.policy.vision import Features, TowerAttention

MODEL_TYPE = "qwen2_5_vl"
NAMES = {
  "vision/patch_embed": "visual.patch_embed.proj",
  "vision/merger/norm": "visual.merger.ln_q",
  "vision/merger/fc1": "visual.merger.mlp.0",
  "vision/merger/fc2": "visual.merger.mlp.2",
  "vision/blocks/norm1": "visual.blocks.{}.norm1",
  "vision/blocks/norm2": "visual.blocks.{}.norm2",
  "vision/blocks/attn/qkv": "visual.blocks.{}.attn.qkv",
  "vision/blocks/attn/proj": "visual.blocks.{}.attn.proj",
  "vision/blocks/mlp/gate": "visual.blocks.{}.mlp.gate_proj",
  "vision/blocks/mlp/up": "visual.blocks.{}.mlp.up_proj",
  "vision/blocks/mlp/down": "visual.blocks.{}.mlp.down_proj",
  **decoder_names("model"),
}
_EPS = 1e-6


def hub_name(name: str) -> str:
  """A published name, from the hub's layout or transformers' newer one."""
  if name.startswith("model.visual."):
    return name.removeprefix("model.")
  if name.startswith("model.language_model."):
    return "model." + name.removeprefix("model.language_model.")
  return name


def module_name(name: str) -> str:
  """A published module's name in transformers' model."""
  if name.startswith("visual."):
    return f"model.{name}"
  if name.startswith("model."):
    return f"model.language_model.{name.removeprefix('model.')}"
  return name


@dataclass(frozen=True, kw_only=True)
class Vision(VisionConfig):
  """The tower's sizes.

  Attributes:
    window: side of an attention window in pixels.
    full_blocks: blocks with full attention.
  """

  window: int
  full_blocks: tuple[int, ...]

  @property
  def window_units(self) -> int:
    return self.window // self.patch // self.merge


def read_config(
  config: Mapping[str, Any], generation: Mapping[str, Any]
) -> VLMConfig:
  """Reads `config.json` of either layout (flat or nested).

  Raises:
    KeyError: for a field that is missing.
  """
  vision = config["vision_config"]
  return VLMConfig(
    family=MODEL_TYPE,
    vision=Vision(
      depth=vision["depth"],
      width=vision["hidden_size"],
      heads=vision["num_heads"],
      mlp=vision["intermediate_size"],
      out_width=vision["out_hidden_size"],
      patch=vision["patch_size"],
      temporal_patch=vision["temporal_patch_size"],
      merge=vision["spatial_merge_size"],
      window=vision["window_size"],
      full_blocks=tuple(vision["fullatt_block_indexes"]),
      channels=vision.get("in_channels", vision.get("in_chans", 3)),
    ),
    text=read_text(config),
    **read_ids(config, generation),
  )


class VisionBlock(nn.Module):
  """One pre-norm block; `full` picks full or windowed attention."""

  config: Vision
  mesh: AbstractMesh | None = None

  @nn.compact
  def __call__(self, x: Array, turn: Array, image: Array, full: bool):
    c = self.config
    span = x.shape[1] if full else c.window_patches
    attention = TowerAttention(c, self.mesh, name="attn")
    x = x + attention(RMSNorm(_EPS, name="norm1")(x), turn, image, span)
    x = keep(x)
    mlp = SwiGLU(c.mlp, bias=True, name="mlp")
    return keep(x + mlp(RMSNorm(_EPS, name="norm2")(x)))


class Merger(nn.Module):
  """Joins each merge unit into one token of the decoder's width."""

  config: Vision

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config
    x = RMSNorm(_EPS, name="norm")(x)
    x = x.reshape(x.shape[0], -1, c.merge_unit * c.width)
    x = Dense(x.shape[-1], ("embed", "mlp"), name="fc1")(x)
    x = jax.nn.gelu(x, approximate=False)
    return Dense(c.out_width, ("mlp", "embed"), name="fc2")(x)


def init_tower(config: Vision, keys: jax.Array) -> dict[str, Any]:
  """Random parameters with logical axes, from three keys."""
  slots = config.window_patches
  patches = jnp.zeros((1, slots, config.patch_dim))
  x = jnp.zeros((1, slots, config.width))
  turn = jnp.zeros((1, slots, 2, config.width // config.heads // 2))
  image = jnp.ones((1, slots), jnp.int32)
  embed = Dense(config.width, (None, "embed"), bias=False)
  block = VisionBlock(config)
  return {
    "patch_embed": init_module(embed, keys[0], patches),
    "blocks": init_stack(block, config.depth, keys[1], x, turn, image, True),
    "merger": init_module(Merger(config), keys[2], x),
  }


def _period(config: Vision) -> int | None:
  """Blocks per repeated group that ends in a full block, if regular."""
  full = config.full_blocks
  if not full:
    return None
  period = full[0] + 1
  regular = tuple(range(period - 1, config.depth, period))
  return period if full == regular and config.depth % period == 0 else None


def encode_images(
  params: dict[str, Any],
  config: Vision,
  prompts: Prompts,
  dtype: Any = jnp.float32,
  remat: str = "none",
  mesh: AbstractMesh | None = None,
) -> Features:
  """Visual tokens of every merged slot, padded slots included.

  Args:
    params: the `vision` subtree.
    config: sizes.
    prompts: whose patches.
    dtype: of the activations.
    remat: what the backward pass computes again (see remat.py), by block.
    mesh: over which the pictures are cut.
  """
  embed = Dense(config.width, (None, "embed"), bias=False)
  patches = prompts.patches.astype(dtype)
  x = spread(embed.apply({"params": params["patch_embed"]}, patches), mesh)
  turn = vision_rotation(prompts.patch_hw, config.width // config.heads)
  block = VisionBlock(config, mesh)

  def apply(x: Array, layer: dict, full: bool) -> Array:
    x = block.apply({"params": layer}, x, turn, prompts.patch_image, full)
    return spread(x, mesh)

  one = rematerialise(apply, remat, static_argnums=2)
  period = _period(config)
  blocks = params["blocks"]
  if period is None or period == config.depth:
    for i in range(config.depth):
      layer = jax.tree.map(lambda p, i=i: p[i], blocks)
      x = one(x, layer, i in config.full_blocks)
  else:

    def windowed(x: Array, layer: dict) -> tuple[Array, None]:
      return one(x, layer, False), None

    def group(x: Array, layers: dict) -> tuple[Array, None]:
      some, last = (
        jax.tree.map(lambda p, at=at: p[at], layers)
        for at in (slice(period - 1), period - 1)
      )
      x, _ = jax.lax.scan(windowed, x, some)
      return one(x, last, True), None

    groups = jax.tree.map(lambda p: p.reshape(-1, period, *p.shape[1:]), blocks)
    x, _ = jax.lax.scan(group, x, groups)
  return Features(Merger(config).apply({"params": params["merger"]}, x))
