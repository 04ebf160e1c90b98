"""Model families, one module each, by the `model_type` of config.json.

A family's module holds
  MODEL_TYPE: the key;
  NAMES: module of our parameter tree -> module of the published checkpoint,
    {} being the layer;
  hub_name: a tensor's published name, from any layout that is about;
  module_name: a published module's name in transformers' model;
  read_config: config.json and generation_config.json -> VLMConfig;
  init_tower: random parameters of the vision tower, with logical axes;
  encode_images: the tower itself.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.families import qwen2_5_vl, qwen3_vl

FAMILIES: dict[str, ModuleType] = {
  module.MODEL_TYPE: module for module in (qwen2_5_vl, qwen3_vl)
}


def family(config: VLMConfig) -> ModuleType:
  """The module of a config's family."""
  return FAMILIES[config.family]


def from_hf(
  config: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> VLMConfig:
  """Reads a `config.json` of a known family.

  Args:
    config: parsed `config.json`.
    generation: parsed `generation_config.json`, for the end tokens.

  Raises:
    ValueError: for another architecture or a field that is missing.
  """
  kind = config.get("model_type")
  if kind not in FAMILIES:
    known = ", ".join(repr(name) for name in FAMILIES)
    raise ValueError(
      f"model_type {kind!r} is not supported; expected one of {known}"
    )
  try:
    return FAMILIES[kind].read_config(config, generation or {})
  except KeyError as error:
    raise ValueError(f"config.json lacks the field {error}") from error
