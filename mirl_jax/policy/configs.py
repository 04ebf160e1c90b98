"""Sizes of a Qwen2.5-VL, read from a Hugging Face config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class VisionConfig:
  """The vision tower: windowed and full attention blocks, then a merger."""

  depth: int
  width: int
  heads: int
  mlp: int
  out_width: int
  patch: int
  temporal_patch: int
  merge: int
  window: int
  full_blocks: tuple[int, ...]
  channels: int = 3

  @property
  def patch_dim(self) -> int:
    return self.channels * self.temporal_patch * self.patch**2

  @property
  def merge_unit(self) -> int:
    """Patches behind one visual token."""
    return self.merge**2

  @property
  def window_patches(self) -> int:
    """Patch slots of one attention window."""
    side = self.window // self.patch // self.merge
    return side**2 * self.merge_unit


@dataclass(frozen=True)
class TextConfig:
  """The decoder: grouped-query attention, SwiGLU, M-RoPE."""

  vocab: int
  width: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp: int
  rope_theta: float
  mrope_section: tuple[int, ...]
  rms_eps: float
  tied: bool


@dataclass(frozen=True)
class VLMConfig:
  """A vision tower, a decoder, and the ids that join them."""

  vision: VisionConfig
  text: TextConfig
  image_token: int
  video_token: int
  vision_start_token: int
  vision_end_token: int
  eos_tokens: tuple[int, ...]
  pad_token: int
  vision_pad_token: int | None = None

  @property
  def banned_tokens(self) -> tuple[int, ...]:
    """Ids that the policy may never emit: the vision placeholders."""
    ids = {
      self.image_token,
      self.video_token,
      self.vision_start_token,
      self.vision_end_token,
      self.vision_pad_token,
    }
    return tuple(sorted(i for i in ids if i is not None))


def from_hf(
  config: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> VLMConfig:
  """Reads a Qwen2.5-VL `config.json` of either layout (flat or nested).

  Args:
    config: parsed `config.json`.
    generation: parsed `generation_config.json`, for the end tokens.

  Raises:
    ValueError: for another architecture or a field that is missing.
  """
  kind = config.get("model_type")
  if kind != "qwen2_5_vl":
    raise ValueError(
      f"model_type {kind!r} is not supported; expected 'qwen2_5_vl'"
    )
  text = {**config, **config.get("text_config", {})}
  vision = config["vision_config"]
  rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
  generation = generation or {}
  try:
    heads = text["num_attention_heads"]
    eos = generation.get("eos_token_id", text.get("eos_token_id"))
    eos = tuple(eos) if isinstance(eos, list) else (eos,)
    pad = generation.get("pad_token_id", text.get("pad_token_id"))
    return VLMConfig(
      vision=VisionConfig(
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
      text=TextConfig(
        vocab=text["vocab_size"],
        width=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=heads,
        kv_heads=text["num_key_value_heads"],
        head_dim=text["hidden_size"] // heads,
        mlp=text["intermediate_size"],
        rope_theta=float(rope.get("rope_theta", text.get("rope_theta", 1e6))),
        mrope_section=tuple(rope["mrope_section"]),
        rms_eps=text["rms_norm_eps"],
        tied=bool(
          config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
        ),
      ),
      image_token=config["image_token_id"],
      video_token=config["video_token_id"],
      vision_start_token=config["vision_start_token_id"],
      vision_end_token=config["vision_end_token_id"],
      eos_tokens=eos,
      pad_token=eos[-1] if pad is None else pad,
      vision_pad_token=config.get("vision_token_id"),
    )
  except KeyError as error:
    raise ValueError(f"config.json lacks the field {error}") from error
