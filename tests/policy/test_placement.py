"""Every parameter lies where exactly one rule says."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from mirl_jax.parallel import mesh as meshes
from mirl_jax.policy.abstract import abstract_params
from mirl_jax.policy.placement import param_shardings
from mirl_jax.testing import tiny_config, tiny_qwen3

CONFIGS = {"qwen2_5_vl": tiny_config(tied=False), "qwen3_vl": tiny_qwen3()}


def mesh_of(data, fsdp, tensor):
  return AbstractMesh((data, fsdp, tensor), meshes.AXES)


def specs(config, mesh):
  placed = flatten_dict(param_shardings(config, mesh), sep="/")
  return {path: sharding.spec for path, sharding in placed.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_kernel_is_cut_over_both_axes(name):
  config, mesh = CONFIGS[name], mesh_of(1, 4, 2)
  shapes = flatten_dict(abstract_params(config), sep="/")
  for path, spec in specs(config, mesh).items():
    assert len(spec) == len(shapes[path].shape)
    ways = np.prod([mesh.shape[axis] for axis in spec if axis])
    if path.endswith(("kernel", "embedding")):
      assert ways >= 4, path


def test_a_key_value_head_stays_whole():
  config = CONFIGS["qwen2_5_vl"]
  heads = config.text.kv_heads
  key, query = (f"text/blocks/attn/{name}/kernel" for name in "kq")
  for tensor in (heads, 2 * heads):
    found = specs(config, mesh_of(1, 1, tensor))
    assert found[query] == P(None, "fsdp", "tensor")
    cut = "tensor" if tensor == heads else None
    assert found[key] == P(None, "fsdp", cut)


def test_a_parameter_without_a_rule_is_named(monkeypatch):
  rules = {k: v for k, v in meshes.RULES.items() if k != "vocab"}
  monkeypatch.setattr(meshes, "RULES", rules)
  with pytest.raises(ValueError, match="text/embed/embedding: logical axis"):
    param_shardings(CONFIGS["qwen2_5_vl"], mesh_of(1, 1, 1))
