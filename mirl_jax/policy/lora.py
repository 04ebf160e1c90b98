"""Low-rank adapters (LoRA, arXiv 2106.09685).

An adapter is three leaves beside a kernel: `lora_a` [in, r], `lora_b` [r, out]
and the constant `lora_scale` = alpha / r; `Dense` adds `x @ a @ b * scale`
where it finds them. The policy without adapters is the same tree without these
leaves, and shares every other one.
"""

import re
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mirl_jax.policy.abstract import abstract_params, logical_axes
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.families import family
from mirl_jax.policy.parts import (
  ADAPTER_LEAVES,
  PARTS,
  Lora,
  Training,
  is_adapter,
  part_of,
)

# Neither the patches' projection nor the vocabulary's is ever adapted.
_NEVER = ("vision/patch_embed/kernel", "text/head/kernel")


class Leaf(NamedTuple):
  """Shape and logical axes of one leaf of an adapter."""

  shape: tuple[int, ...]
  axes: tuple[str | None, ...]


def adapted_modules(config: VLMConfig, training: Training) -> list[str]:
  """Paths of the modules that get adapters.

  Raises:
    ValueError: where a part to be adapted has no such module.
  """
  names = family(config).NAMES
  modules = {
    module: part_of(path)
    for path in flatten_dict(abstract_params(config), sep="/")
    for module, _, kind in [path.rpartition("/")]
    if kind == "kernel" and path not in _NEVER
  }
  found = []
  for part in PARTS:
    if getattr(training, part) != "lora":
      continue
    inside = [module for module, owner in modules.items() if owner == part]
    target = training.lora.target
    fitting = [m for m in inside if re.search(target, names[m])]
    if not fitting:
      known = ", ".join(names[module] for module in inside)
      raise ValueError(
        f"policy.lora.target={target!r} fits no linear layer of policy.train"
        f".{part}; its layers are {known}"
      )
    found += fitting
  return found


def adapter_leaves(
  config: VLMConfig, modules: list[str], lora: Lora
) -> dict[str, Leaf]:
  """Every leaf of the adapters by path."""
  shapes = flatten_dict(abstract_params(config), sep="/")
  axes = flatten_dict(logical_axes(config), sep="/")
  leaves = {}
  for module in modules:
    *lead, rows, columns = shapes[f"{module}/kernel"].shape
    *lead_axes, into, out = axes[f"{module}/kernel"]
    leaves[f"{module}/lora_a"] = Leaf(
      (*lead, rows, lora.rank), (*lead_axes, into, None)
    )
    leaves[f"{module}/lora_b"] = Leaf(
      (*lead, lora.rank, columns), (*lead_axes, None, out)
    )
    leaves[f"{module}/lora_scale"] = Leaf((*lead,), (*lead_axes,))
  return leaves


def init_adapters(
  leaves: Mapping[str, Leaf], lora: Lora, seed: int
) -> dict[str, np.ndarray]:
  """First values: `a` uniform in ± in^-1/2, `b` zero, so that nothing changes.

  Each leaf is drawn by its own path: adapting more modules moves no other.
  """
  values = {}
  for path, (shape, _) in leaves.items():
    if path.endswith("lora_a"):
      rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
      bound = shape[-2] ** -0.5
      values[path] = rng.uniform(-bound, bound, shape).astype(np.float32)
    elif path.endswith("lora_b"):
      values[path] = np.zeros(shape, np.float32)
    else:
      values[path] = np.full(shape, lora.alpha / lora.rank, np.float32)
  return values


def extend(
  tree: Mapping[str, Any], leaves: Mapping[str, Any]
) -> dict[str, Any]:
  """A nested tree with more leaves by path."""
  return unflatten_dict(
    {**flatten_dict(dict(tree), sep="/"), **leaves}, sep="/"
  )


def without_adapters(params: Mapping[str, Any]) -> dict[str, Any]:
  """The policy with its adapters off; shares its leaves."""
  flat = flatten_dict(dict(params), sep="/")
  base = {path: x for path, x in flat.items() if not is_adapter(path)}
  return unflatten_dict(base, sep="/")


def merge(params: Mapping[str, Any]) -> dict[str, Any]:
  """The policy without adapters that computes what this one does.

  Kernels keep their dtype; the sum is float32.
  """
  flat = flatten_dict(dict(params), sep="/")
  merged = {path: x for path, x in flat.items() if not is_adapter(path)}
  for path, kernel in merged.items():
    module = path.removesuffix("/kernel")
    if f"{module}/lora_a" not in flat or not path.endswith("/kernel"):
      continue
    a, b, scale = (flat[f"{module}/{name}"] for name in ADAPTER_LEAVES)
    change = jnp.matmul(a, b) * scale[..., None, None]
    total = kernel.astype(jnp.float32) + change
    merged[path] = total.astype(kernel.dtype)
  return unflatten_dict(merged, sep="/")
