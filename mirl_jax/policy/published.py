"""Sizes of the published models, by their name on the Hugging Face hub.

For what is asked before anything is downloaded: whether a run fits. The values
are those of each model's `config.json`.
"""

from typing import Any

from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.families import from_hf

_IDS = {
  "vision_start_token_id": 151652,
  "vision_end_token_id": 151653,
  "image_token_id": 151655,
  "video_token_id": 151656,
}
_EOS = 151645


def _qwen2_5(
  width: int,
  layers: int,
  heads: int,
  kv_heads: int,
  mlp: int,
  tower_mlp: int = 3456,
  vocab: int = 152064,
  tied: bool = False,
) -> dict[str, Any]:
  """arXiv 2502.13923, table 1."""
  return {
    "model_type": "qwen2_5_vl",
    **_IDS,
    "vision_token_id": 151654,
    "eos_token_id": _EOS,
    "hidden_size": width,
    "intermediate_size": mlp,
    "num_attention_heads": heads,
    "num_hidden_layers": layers,
    "num_key_value_heads": kv_heads,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": tied,
    "vocab_size": vocab,
    "vision_config": {
      "depth": 32,
      "hidden_size": 1280,
      "intermediate_size": tower_mlp,
      "num_heads": 16,
      "in_chans": 3,
      "out_hidden_size": width,
      "patch_size": 14,
      "spatial_merge_size": 2,
      "temporal_patch_size": 2,
      "window_size": 112,
      "fullatt_block_indexes": [7, 15, 23, 31],
    },
  }


# Depth, width, MLP and DeepStack blocks of Qwen3-VL's two towers.
_SMALL_TOWER = (24, 1024, 4096, (5, 11, 17))
_LARGE_TOWER = (27, 1152, 4304, (8, 16, 24))


def _qwen3(
  width: int,
  layers: int,
  heads: int,
  mlp: int,
  tower: tuple[int, int, int, tuple[int, ...]],
  tied: bool = False,
) -> dict[str, Any]:
  """arXiv 2511.21631."""
  depth, tower_width, tower_mlp, deep = tower
  return {
    "model_type": "qwen3_vl",
    **_IDS,
    "tie_word_embeddings": tied,
    "text_config": {
      "eos_token_id": _EOS,
      "head_dim": 128,
      "hidden_size": width,
      "intermediate_size": mlp,
      "num_attention_heads": heads,
      "num_hidden_layers": layers,
      "num_key_value_heads": 8,
      "rms_norm_eps": 1e-6,
      "rope_theta": 5e6,
      "rope_scaling": {
        "mrope_interleaved": True,
        "mrope_section": [24, 20, 20],
      },
      "vocab_size": 151936,
    },
    "vision_config": {
      "depth": depth,
      "hidden_size": tower_width,
      "intermediate_size": tower_mlp,
      "num_heads": 16,
      "in_channels": 3,
      "num_position_embeddings": 2304,
      "out_hidden_size": width,
      "patch_size": 16,
      "spatial_merge_size": 2,
      "temporal_patch_size": 2,
      "deepstack_visual_indexes": list(deep),
    },
  }


CONFIGS = {
  "Qwen/Qwen2.5-VL-3B-Instruct": _qwen2_5(
    2048, 36, 16, 2, 11008, 3420, 151936, tied=True
  ),
  "Qwen/Qwen2.5-VL-7B-Instruct": _qwen2_5(3584, 28, 28, 4, 18944, 3420),
  "Qwen/Qwen2.5-VL-32B-Instruct": _qwen2_5(5120, 64, 40, 8, 27648),
  "Qwen/Qwen2.5-VL-72B-Instruct": _qwen2_5(8192, 80, 64, 8, 29568),
  "Qwen/Qwen3-VL-2B-Instruct": _qwen3(
    2048, 28, 16, 6144, _SMALL_TOWER, tied=True
  ),
  "Qwen/Qwen3-VL-4B-Instruct": _qwen3(
    2560, 36, 32, 9728, _SMALL_TOWER, tied=True
  ),
  "Qwen/Qwen3-VL-8B-Instruct": _qwen3(4096, 36, 32, 12288, _LARGE_TOWER),
  "Qwen/Qwen3-VL-32B-Instruct": _qwen3(5120, 64, 64, 25600, _LARGE_TOWER),
}


def published_config(name: str) -> VLMConfig:
  """Sizes of a published model.

  Raises:
    ValueError: for a name that is not in CONFIGS.
  """
  if name not in CONFIGS:
    raise ValueError(
      f"policy.path={name!r} is neither a directory nor one of"
      f" {', '.join(CONFIGS)}"
    )
  return from_hf(CONFIGS[name])
