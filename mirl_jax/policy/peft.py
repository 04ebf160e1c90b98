"""LoRA adapters as a directory of Hugging Face's PEFT."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.directory import write_json
from mirl_jax.policy.families import family
from mirl_jax.policy.parts import Lora


def write_adapter(
  out: Path,
  params: Mapping[str, Any],
  config: VLMConfig,
  lora: Lora,
  base: str = "",
) -> None:
  """Writes adapter_config.json and adapter_model.safetensors.

  Args:
    out: directory, made where absent.
    params: tree with adapters; the other leaves are not read.
    config: of the policy.
    lora: what the adapters were made with.
    base: name or path of the model that they belong to.

  Raises:
    ValueError: where the tree holds no adapter.
  """
  kind = family(config)
  flat = flatten_dict(dict(params), sep="/")
  modules = sorted(
    path.removesuffix("/lora_a") for path in flat if path.endswith("/lora_a")
  )
  if not modules:
    raise ValueError(
      "the policy has no adapters to write; set policy.train.…=lora, or export"
      " with export.lora=merge"
    )
  tensors, patterns = {}, []
  for module in modules:
    name = kind.module_name(kind.NAMES[module])
    patterns.append(re.escape(name).replace(r"\{\}", r"\d+"))
    # PEFT's A is [r, in] and its B [out, r].
    for leaf, label in (("lora_a", "lora_A"), ("lora_b", "lora_B")):
      stack = np.asarray(jax.device_get(flat[f"{module}/{leaf}"]))
      layers = stack if "{}" in name else stack[None]
      for i, layer in enumerate(layers):
        key = f"base_model.model.{name.format(i)}.{label}.weight"
        tensors[key] = np.ascontiguousarray(layer.T)
  out.mkdir(parents=True, exist_ok=True)
  write_json(
    out / "adapter_config.json",
    {
      "peft_type": "LORA",
      "task_type": "CAUSAL_LM",
      "base_model_name_or_path": base,
      "r": lora.rank,
      "lora_alpha": lora.alpha,
      "lora_dropout": 0.0,
      "bias": "none",
      "fan_in_fan_out": False,
      "inference_mode": True,
      "target_modules": "|".join(patterns),
    },
  )
  half = out / "adapter_model.safetensors.part"
  save_file(tensors, half, metadata={"format": "pt"})
  os.replace(half, out / "adapter_model.safetensors")
