"""Sizes of a vision-language model; families read them from config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jax.sharding import AbstractMesh


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
  """What every vision tower has; a family adds its own fields."""

  depth: int
  width: int
  heads: int
  mlp: int
  out_width: int
  patch: int
  temporal_patch: int
  merge: int
  channels: int = 3

  @property
  def patch_dim(self) -> int:
    return self.channels * self.temporal_patch * self.patch**2

  @property
  def merge_unit(self) -> int:
    """Patches behind one visual token."""
    return self.merge**2

  @property
  def window_units(self) -> int:
    """Side of an attention window in merge units; 1 without windows."""
    return 1

  @property
  def window_patches(self) -> int:
    """Patch slots of one attention window."""
    return self.window_units**2 * self.merge_unit


@dataclass(frozen=True, kw_only=True)
class TextConfig:
  """The decoder: grouped-query attention, SwiGLU, M-RoPE.

  Attributes:
    mrope_section: frequencies that read time, height and width.
    mrope_interleaved: the three take turns instead of lying in blocks.
    qkv_bias: whether queries, keys and values have biases.
    qk_norm: whether each head's query and key are normalised.
    tied: whether the head is the embedding.
  """

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
  mrope_interleaved: bool = False
  qkv_bias: bool = True
  qk_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class VLMConfig:
  """A vision tower, a decoder, and the ids that join them.

  Attributes:
    family: `model_type` of config.json, see `families`.
    attention: the decoder's back end, one of `attention.backends.BACKENDS`;
      of the run, not of the model, as is
    mesh: over which its forward passes are cut; None on one device; and
    scan_decode: whether a decode step scans the layers, see `decode.py`.
  """

  family: str
  vision: VisionConfig
  text: TextConfig
  image_token: int
  video_token: int
  vision_start_token: int
  vision_end_token: int
  eos_tokens: tuple[int, ...]
  pad_token: int
  vision_pad_token: int | None = None
  attention: str = "auto"
  mesh: AbstractMesh | None = None
  scan_decode: bool = False

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


def text_section(config: Mapping[str, Any]) -> dict[str, Any]:
  """The decoder's fields, from a flat or a nested config.json."""
  return {**config, **config.get("text_config", {})}


def read_text(config: Mapping[str, Any], **family: Any) -> TextConfig:
  """The decoder's sizes.

  Args:
    config: parsed `config.json`.
    family: fields that the family fixes.

  Raises:
    KeyError: for a field that is missing.
    ValueError: for a decoder that is not ours.
  """
  text = text_section(config)
  rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
  if text.get("hidden_act", "silu") != "silu" or text.get("use_sliding_window"):
    raise ValueError(
      "the decoder has another activation than silu, or a sliding window;"
      " neither is supported"
    )
  heads = text["num_attention_heads"]
  return TextConfig(
    vocab=text["vocab_size"],
    width=text["hidden_size"],
    layers=text["num_hidden_layers"],
    heads=heads,
    kv_heads=text["num_key_value_heads"],
    head_dim=text.get("head_dim") or text["hidden_size"] // heads,
    mlp=text["intermediate_size"],
    rope_theta=float(rope.get("rope_theta", text.get("rope_theta", 1e6))),
    mrope_section=tuple(rope["mrope_section"]),
    rms_eps=text["rms_norm_eps"],
    # The outer field decides; the decoder's own is often left at its default.
    tied=bool(
      config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    ),
    **family,
  )


def read_ids(
  config: Mapping[str, Any], generation: Mapping[str, Any]
) -> dict[str, Any]:
  """The special ids of a `VLMConfig`.

  Raises:
    KeyError: for a field that is missing.
  """
  text = text_section(config)
  eos = generation.get("eos_token_id", text.get("eos_token_id"))
  eos = tuple(eos) if isinstance(eos, list) else (eos,)
  pad = generation.get("pad_token_id", text.get("pad_token_id"))
  return {
    "image_token": config["image_token_id"],
    "video_token": config["video_token_id"],
    "vision_start_token": config["vision_start_token_id"],
    "vision_end_token": config["vision_end_token_id"],
    "eos_tokens": eos,
    "pad_token": eos[-1] if pad is None else pad,
    "vision_pad_token": config.get("vision_token_id"),
  }
