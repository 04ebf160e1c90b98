"""The same random model and batch in transformers, as an oracle for tests.

torch is no dependency of the package: it is imported where a test asks for it.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.saving import save_params

ARCHITECTURES = {
  "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
  "qwen3_vl": "Qwen3VLForConditionalGeneration",
}


def hf_config(config: VLMConfig) -> dict[str, Any]:
  """A `config.json` of this config, in the layout of the family's hub."""
  vision: Any = config.vision  # with the fields of its family
  text = config.text
  decoder = {
    "hidden_size": text.width,
    "intermediate_size": text.mlp,
    "num_hidden_layers": text.layers,
    "num_attention_heads": text.heads,
    "num_key_value_heads": text.kv_heads,
    "vocab_size": text.vocab,
    "rms_norm_eps": text.rms_eps,
    "rope_theta": text.rope_theta,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "eos_token_id": config.eos_tokens[0],
    "pad_token_id": config.pad_token,
  }
  tower = {
    "depth": vision.depth,
    "hidden_size": vision.width,
    "num_heads": vision.heads,
    "intermediate_size": vision.mlp,
    "out_hidden_size": vision.out_width,
    "patch_size": vision.patch,
    "temporal_patch_size": vision.temporal_patch,
    "spatial_merge_size": vision.merge,
  }
  outer = {
    "architectures": [ARCHITECTURES[config.family]],
    "model_type": config.family,
    "tie_word_embeddings": text.tied,
    "image_token_id": config.image_token,
    "video_token_id": config.video_token,
    "vision_start_token_id": config.vision_start_token,
    "vision_end_token_id": config.vision_end_token,
    "torch_dtype": "float32",
  }
  sections = [*text.mrope_section]
  if config.family == "qwen3_vl":
    return {
      **outer,
      "text_config": {
        **decoder,
        "model_type": "qwen3_vl_text",
        "attention_bias": False,
        "head_dim": text.head_dim,
        "rope_scaling": {
          "mrope_interleaved": True,
          "mrope_section": sections,
          "rope_type": "default",
        },
      },
      "vision_config": {
        **tower,
        "model_type": "qwen3_vl",
        "hidden_act": "gelu_pytorch_tanh",
        "in_channels": vision.channels,
        "num_position_embeddings": vision.positions,
        "deepstack_visual_indexes": [*vision.deep_blocks],
      },
    }
  return {
    **outer,
    **decoder,
    "rope_scaling": {"type": "mrope", "mrope_section": sections},
    "use_sliding_window": False,
    "vision_config": {
      **tower,
      "spatial_patch_size": vision.patch,
      "window_size": vision.window,
      "fullatt_block_indexes": [*vision.full_blocks],
      "in_chans": vision.channels,
      "hidden_act": "silu",
      "tokens_per_second": 2,
    },
  }


def torch_model(config: VLMConfig, params: Any, folder: Path) -> Any:
  """transformers' model with these parameters, by way of a directory."""
  transformers = importlib.import_module("transformers")
  transformers.utils.logging.disable_progress_bar()
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(hf_config(config)))
  save_params(folder, params, config)
  kind = getattr(transformers, ARCHITECTURES[config.family])
  model = kind.from_pretrained(folder, attn_implementation="eager")
  return model.float().eval()


def pictures(
  config: VLMConfig, prompts: Prompts
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
  """The batch's images as transformers wants them.

  Returns:
    Patches of all images, merge units in row-major order; the grids; question
    and slot of each patch.
  """
  merge = config.vision.merge
  pixels, grids, places = [], [], []
  image = np.asarray(prompts.patch_image)
  for b in range(len(image)):
    for number in range(1, image[b].max(initial=0) + 1):
      slots = np.flatnonzero(image[b] == number)
      hw = np.asarray(prompts.patch_hw)[b, slots]
      row, column = hw.T
      order = np.lexsort((column, row, column // merge, row // merge))
      pixels.append(np.asarray(prompts.patches)[b, slots[order]])
      grids.append([1, row.max() + 1, column.max() + 1])
      places += [(b, int(slot)) for slot in slots[order]]
  return np.concatenate(pixels), np.array(grids), places


def torch_inputs(
  config: VLMConfig, prompts: Prompts, left: bool = False
) -> dict[str, Any]:
  """Arguments of transformers' forward or generate.

  Args:
    config: sizes.
    prompts: the batch.
    left: pad on the left, as generate wants it.
  """
  torch = importlib.import_module("torch")
  ids, mask = np.array(prompts.tokens), np.array(prompts.mask)
  if left:
    for b, count in enumerate(mask.sum(1)):
      ids[b] = np.roll(np.where(mask[b], ids[b], config.pad_token), -count)
      mask[b] = np.roll(mask[b], -count)
  tokens = torch.tensor(ids, dtype=torch.long)
  inputs = {
    "input_ids": tokens,
    "attention_mask": torch.tensor(mask).long(),
    "mm_token_type_ids": (tokens == config.image_token).int(),
  }
  if np.asarray(prompts.patch_image).any():
    pixels, grids, _ = pictures(config, prompts)
    inputs["pixel_values"] = torch.tensor(pixels)
    inputs["image_grid_thw"] = torch.tensor(grids)
  return inputs


def slot_features(
  features: Any, places: Sequence[tuple[int, int]], unit: int
) -> np.ndarray:
  """Rows of [B, M, E] in the order of `pictures`, one per merge unit."""
  array = np.asarray(features)
  return np.stack([array[b, slot // unit] for b, slot in places[::unit]])
