"""Qwen3-VL, dense (arXiv 2511.21631, section 2).

The tower has full attention in every block, learned positions interpolated to
each image's grid, and gives the decoder features of several depths (DeepStack,
arXiv 2406.04334). The decoder normalises queries and keys, and its M-RoPE
interleaves the three axes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import AbstractMesh
from jaxtyping import Array, Float, Int

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
  LayerNorm,
  init_module,
  init_stack,
)
from mirl_jax.policy.remat import keep, rematerialise
from mirl_jax.policy.rope import vision_rotation
from mirl_jax.policy.text import decoder_names
from mirl_jax.policy.vision import Features, TowerAttention

MODEL_TYPE = "qwen3_vl"
_TOWER = {
  "patch_embed": "patch_embed.proj",
  "positions": "pos_embed",
  "blocks/norm1": "blocks.{}.norm1",
  "blocks/norm2": "blocks.{}.norm2",
  "blocks/attn/qkv": "blocks.{}.attn.qkv",
  "blocks/attn/proj": "blocks.{}.attn.proj",
  "blocks/mlp/fc1": "blocks.{}.mlp.linear_fc1",
  "blocks/mlp/fc2": "blocks.{}.mlp.linear_fc2",
  "merger/norm": "merger.norm",
  "merger/fc1": "merger.linear_fc1",
  "merger/fc2": "merger.linear_fc2",
  "deep_mergers/norm": "deepstack_merger_list.{}.norm",
  "deep_mergers/fc1": "deepstack_merger_list.{}.linear_fc1",
  "deep_mergers/fc2": "deepstack_merger_list.{}.linear_fc2",
}
NAMES = {
  **{f"vision/{ours}": f"model.visual.{name}" for ours, name in _TOWER.items()},
  **decoder_names("model.language_model"),
}


def hub_name(name: str) -> str:
  """A published name; this family has one layout."""
  return name


def module_name(name: str) -> str:
  """A published module's name in transformers' model: the same."""
  return name


@dataclass(frozen=True, kw_only=True)
class Vision(VisionConfig):
  """The tower's sizes.

  Attributes:
    positions: learned positions, a square grid.
    deep_blocks: blocks whose states become DeepStack features.
  """

  positions: int
  deep_blocks: tuple[int, ...]


def read_config(
  config: Mapping[str, Any], generation: Mapping[str, Any]
) -> VLMConfig:
  """Reads `config.json`.

  Raises:
    KeyError: for a field that is missing.
    ValueError: where there are more DeepStack features than decoder layers.
  """
  vision = config["vision_config"]
  deep = tuple(vision["deepstack_visual_indexes"])
  layers = config["text_config"]["num_hidden_layers"]
  if len(deep) > layers or list(deep) != sorted(set(deep)):
    raise ValueError(
      f"config.json has deepstack_visual_indexes={list(deep)}; they must grow"
      f" and be no more than the decoder's {layers} layers"
    )
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
      channels=vision.get("in_channels", 3),
      positions=vision["num_position_embeddings"],
      deep_blocks=deep,
    ),
    text=read_text(
      config, mrope_interleaved=True, qkv_bias=False, qk_norm=True
    ),
    **read_ids(config, generation),
  )


class VisionBlock(nn.Module):
  """One pre-norm block with full attention within each image."""

  config: Vision
  mesh: AbstractMesh | None = None

  @nn.compact
  def __call__(self, x: Array, turn: Array, image: Array) -> Array:
    c = self.config
    attention = TowerAttention(c, self.mesh, name="attn")
    x = x + attention(LayerNorm(name="norm1")(x), turn, image, x.shape[1])
    x = keep(x)
    return x + VisionMLP(c, name="mlp")(LayerNorm(name="norm2")(x))


class VisionMLP(nn.Module):
  config: Vision

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = keep(Dense(self.config.mlp, ("embed", "mlp"), name="fc1")(x))
    x = jax.nn.gelu(x, approximate=True)
    return Dense(self.config.width, ("mlp", "embed"), name="fc2")(x)


class Merger(nn.Module):
  """Joins each merge unit into one token of the decoder's width.

  Attributes:
    config: sizes.
    joined_norm: normalise the joined unit rather than each patch.
  """

  config: Vision
  joined_norm: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config
    norm = LayerNorm(name="norm")
    shape = (x.shape[0], -1, c.merge_unit * c.width)
    x = norm(x.reshape(shape)) if self.joined_norm else norm(x).reshape(shape)
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
  embed_key, table_key = jax.random.split(keys[0])
  merger_key, deep_key = jax.random.split(keys[2])
  table = nn.initializers.normal(0.02)(
    table_key, (config.positions, config.width)
  )
  tower = {
    "patch_embed": init_module(
      Dense(config.width, (None, "embed")), embed_key, patches
    ),
    "positions": {"embedding": nn.Partitioned(table, (None, "embed"))},
    "blocks": init_stack(
      VisionBlock(config), config.depth, keys[1], x, turn, image
    ),
    "merger": init_module(Merger(config), merger_key, x),
  }
  if config.deep_blocks:
    tower["deep_mergers"] = init_stack(
      Merger(config, True), len(config.deep_blocks), deep_key, x
    )
  return tower


def interpolate_positions(
  table: Float[Array, "n d"],
  patch_hw: Int[Array, "b v 2"],
  patch_grid: Int[Array, "b v 2"],
) -> Float[Array, "b v d"]:
  """The learned grid of positions, read bilinearly at every patch.

  An image's outer patches lie on the outer positions, whatever its grid.

  Args:
    table: a square grid of positions, row-major.
    patch_hw: row and column of each patch in its image.
    patch_grid: rows and columns of that image.
  """
  side = isqrt(table.shape[0])
  at = patch_hw * (side - 1) / jnp.maximum(patch_grid - 1, 1)
  low = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, side - 1)
  high = jnp.minimum(low + 1, side - 1)
  part = at - low

  def read(rows: Array, columns: Array, weight: Array) -> Array:
    return table[rows * side + columns] * weight[..., None]

  (top, left), (bottom, right) = (
    (low[..., 0], low[..., 1]),
    (high[..., 0], high[..., 1]),
  )
  down, across = part[..., 0], part[..., 1]
  return (
    read(top, left, (1 - down) * (1 - across))
    + read(top, right, (1 - down) * across)
    + read(bottom, left, down * (1 - across))
    + read(bottom, right, down * across)
  )


def encode_images(
  params: dict[str, Any],
  config: Vision,
  prompts: Prompts,
  dtype: Any = jnp.float32,
  remat: str = "none",
  mesh: AbstractMesh | None = None,
) -> Features:
  """Visual tokens and DeepStack features of every merged slot.

  Args:
    params: the `vision` subtree.
    config: sizes.
    prompts: whose patches.
    dtype: of the activations.
    remat: what the backward pass computes again, see remat.py.
    mesh: over which the pictures are cut.
  """
  embed = Dense(config.width, (None, "embed"))
  patches = prompts.patches.astype(dtype)
  x = spread(embed.apply({"params": params["patch_embed"]}, patches), mesh)
  x += interpolate_positions(
    params["positions"]["embedding"], prompts.patch_hw, prompts.patch_grid
  ).astype(dtype)
  turn = vision_rotation(prompts.patch_hw, config.width // config.heads)
  deep_count = len(config.deep_blocks)

  def apply(x: Array, layer: dict) -> Array:
    x = VisionBlock(config, mesh).apply(
      {"params": layer}, x, turn, prompts.patch_image
    )
    return spread(x, mesh)

  one = rematerialise(apply, remat)
  # States are kept in slots of the carry: as outputs of the scan they would be
  # kept for every block. The last slot takes those that nobody wants.
  slot = [deep_count] * config.depth
  for number, block in enumerate(config.deep_blocks):
    slot[block] = number

  def body(carry: tuple[Array, Array], block: Any) -> Any:
    x, kept = carry
    layer, slot = block
    x = one(x, layer)
    kept = jax.lax.dynamic_update_index_in_dim(kept, x, slot, 0)
    return (x, kept), None

  kept = jnp.zeros((deep_count + 1, *x.shape), x.dtype)
  (x, kept), _ = jax.lax.scan(
    body, (x, kept), (params["blocks"], jnp.array(slot))
  )
  deep = tuple(
    Merger(config, True).apply(
      {"params": jax.tree.map(lambda p, i=i: p[i], params["deep_mergers"])},
      kept[i],
    )
    for i in range(deep_count)
  )
  merger = Merger(config).apply({"params": params["merger"]}, x)
  return Features(merger, deep)
