"""A decode step reads laid-out weights: all kinds of them are laid out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.decode import decode_weights, next_logits
from mirl_jax.policy.lora import adapted_modules, adapter_leaves, extend
from mirl_jax.policy.parts import Lora, Training
from mirl_jax.policy.text import TextBlock, head_logits

CONFIG = tiny.tiny_config()


def adapted(params, config):
  training = Training(text="lora", lora=Lora(rank=2))
  leaves = adapter_leaves(
    config, adapted_modules(config, training), training.lora
  )
  rng = np.random.default_rng(0)
  values = {
    path: rng.normal(size=leaf.shape).astype(np.float32)
    for path, leaf in leaves.items()
  }
  return extend(params, values)


@pytest.mark.parametrize("lora", [False, True])
def test_a_block_computes_the_same_from_laid_out_weights(lora):
  params = tiny.random_params(CONFIG)
  if lora:
    params = adapted(params, CONFIG)
  text = CONFIG.text
  x = jax.random.normal(jax.random.key(1), (2, 3, text.width))
  turn = jax.random.normal(jax.random.key(2), (2, 3, 2, text.head_dim // 2))
  weights = decode_weights(params, CONFIG)
  assert len(weights.blocks) == text.layers
  for i, layer in enumerate(weights.blocks):
    stacked = jax.tree.map(lambda p, i=i: p[i], params["text"]["blocks"])
    got, want = (
      TextBlock(text).apply({"params": p}, x, turn, lambda q, k, v: q)
      for p in (layer, stacked)
    )
    # One float32 product summed in another order.
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_next_logits_are_those_of_the_head(tied):
  config = dataclasses.replace(
    CONFIG, text=dataclasses.replace(CONFIG.text, tied=tied)
  )
  params = tiny.random_params(config)
  hidden = jax.random.normal(jax.random.key(0), (2, 3, config.text.width))
  got = next_logits(decode_weights(params, config), hidden)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(
    got, head_logits(params["text"], hidden), rtol=1e-5, atol=1e-5
  )
