import json
from pathlib import Path

import jax
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy import weights as wt
from mirl_jax.policy.abstract import abstract_params
from mirl_jax.policy.families import from_hf

QWEN = Path(__file__).parents[2].parent / "shared" / "data" / "qwen"


def qwen_config(size):
  if not QWEN.is_dir():
    pytest.skip(f"no {QWEN}")
  config = json.loads(
    (QWEN / "qwen2.5-vl-7b-instruct" / "config.json").read_text()
  )
  if size == "3b":
    hparams = QWEN / "param_tables" / "qwen2.5-vl-3b.hparams.json"
    config |= json.loads(hparams.read_text())
  return from_hf(config)


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_full_size_names_and_shapes_equal_the_hubs(size):
  config = qwen_config(size)
  file = QWEN / "param_tables" / f"qwen2.5-vl-{size}.json"
  table = json.loads(file.read_text())
  want = {name: tuple(shape) for name, shape in table["shapes"].items()}
  assert wt.expected_tensors(config) == want
  leaves = jax.tree.leaves(abstract_params(config))
  total = sum(int(np.prod(leaf.shape)) for leaf in leaves)
  assert 2 * total == table["bytes_bf16"]


def test_qwen3_names_and_shapes_equal_the_hubs():
  """The published index is of an embedding model, which has no head."""
  file = QWEN / "qwen3-vl-embedding-8b" / "config.json"
  if not file.is_file():
    pytest.skip(f"no {file}")
  config = from_hf(json.loads(file.read_text()))
  file = QWEN / "param_tables" / "qwen3-vl-embedding-8b.json"
  table = json.loads(file.read_text())
  want = {name: tuple(shape) for name, shape in table["shapes"].items()}
  got = wt.expected_tensors(config)
  head = got.pop("lm_head.weight")
  assert head == (config.text.vocab, config.text.width)
  assert got == want
  leaves = jax.tree.leaves(abstract_params(config))
  total = sum(int(np.prod(leaf.shape)) for leaf in leaves)
  assert total - np.prod(head) == table["params"]


CONFIGS = {
  "qwen2.5": tiny.tiny_config(),
  "qwen2.5 untied": tiny.tiny_config(tied=False),
  "qwen3": tiny.tiny_qwen3(),
  "qwen3 tied": tiny.tiny_qwen3(tied=True),
}


def said(found, config):
  """What is said of a checkpoint with these tensors, in one line."""
  with pytest.raises(ValueError, match="m does not fit its config") as caught:
    wt.check_tensors(found, config, "m")
  message = str(caught.value)
  assert "\n" not in message
  return message


@pytest.mark.parametrize("name", CONFIGS)
def test_faults_are_named_in_one_error_with_the_nearest_name(name):
  config = CONFIGS[name]
  found = wt.expected_tensors(config)
  wt.check_tensors(found, config, "m")
  norm = next(n for n in found if "layers.1.input_layernorm" in n)
  other = norm.replace("layernorm", "norm")
  patch = next(n for n in found if n.endswith("patch_embed.proj.weight"))
  bias = next(n for n in found if ".merger." in n and n.endswith("bias"))
  shape = list(found[patch])
  found[other] = found.pop(norm)
  found[patch] = (32, 3)
  del found[bias]
  message = said(found, config)
  assert f"{norm} (nearest there: {other})" in message
  assert "2 missing: " in message
  assert bias in message
  assert f"1 surplus: {other} (nearest expected: {norm})" in message
  assert f"1 misshapen: {patch} is [32, 3] instead of {shape}" in message


@pytest.mark.parametrize("name", ["qwen2.5 untied", "qwen3"])
def test_a_model_without_a_head_is_told_from_a_broken_one(name):
  config = CONFIGS[name]
  found = wt.expected_tensors(config)
  del found[wt.HEAD]
  message = said(found, config)
  assert "it has no head and can write nothing, as an embedding" in message
  assert "1 missing: lm_head.weight" in message
  del found[wt.embedding_name(config)]
  assert "it has no head" not in said(found, config)


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_of_another_family_are_told(name):
  config = CONFIGS[name]
  for other in CONFIGS.values():
    if other.family != config.family:
      message = said(wt.expected_tensors(other), config)
      assert f"named as those of {other.family}" in message
      assert f"model_type {config.family} (" in message
      assert len(message) < 400


@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpoint_of_another_model_gives_a_short_error(name):
  found = {f"bert.{i}.weight": (2,) for i in range(300)}
  message = said(found, CONFIGS[name])
  assert "300 surplus" in message
  assert "… and 292 more" in message
  assert "named as" not in message
  assert len(message) < 3000
