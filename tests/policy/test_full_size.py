"""Shapes of the real models; nothing is allocated."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.abstract import abstract_params
from mirl_jax.policy.configs import from_hf
from mirl_jax.policy.forward import (
  decode_step,
  empty_cache,
  prefill,
  token_logprobs,
  tree_hidden,
)

QWEN = Path(__file__).parents[3] / "shared" / "data" / "qwen"
SHAPE = ((1, 4, 6), (2, 2, 5))


def qwen_config(size):
  if not QWEN.is_dir():
    pytest.skip(f"no {QWEN}")
  file = QWEN / "qwen2.5-vl-7b-instruct" / "config.json"
  config = json.loads(file.read_text())
  if size == "3b":
    file = QWEN / "param_tables" / "qwen2.5-vl-3b.hparams.json"
    config |= json.loads(file.read_text())
  return from_hf(config)


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_full_size_models_have_the_right_shapes(size):
  config = qwen_config(size)
  params = abstract_params(config)
  small = dataclasses.replace(
    tiny.tiny_config(),
    vision=dataclasses.replace(config.vision, patch=2, window=16),
  )
  prompts = tiny.random_prompts(small, 0, (((4, 5),), ((9, 2), (1, 1))))
  b, slots = prompts.patch_image.shape
  prompts = prompts.replace(
    patches=jax.ShapeDtypeStruct(
      (b, slots, config.vision.patch_dim), jnp.float32
    )
  )
  levels = tiny.random_nodes(0, b, SHAPE)
  text = config.text
  hidden = jax.eval_shape(
    lambda p, x: tree_hidden(p, config, x, levels, jnp.bfloat16),
    params,
    prompts,
  )
  for h, level in zip(hidden, levels, strict=True):
    assert h.shape == (*level.tokens.shape, text.width)
    assert h.dtype == jnp.bfloat16
  logprob, _ = jax.eval_shape(
    lambda p, h: token_logprobs(p, h, levels[0].tokens), params, hidden[0]
  )
  assert logprob.shape == levels[0].tokens.shape
  ready = jax.eval_shape(
    lambda p, x: prefill(p, config, x, jnp.bfloat16), params, prompts
  )
  length = prompts.tokens.shape[1]
  shape = (b, 1, text.kv_heads, length, text.head_dim)
  assert {s.keys.shape for s in ready.segments} == {shape}
  assert len(ready.segments) == text.layers

  def one(params, ready):
    cache = empty_cache(config, b, 4, 6, jnp.bfloat16)
    tokens = jnp.zeros((b, 4), jnp.int32)
    above = tuple((s,) for s in ready.segments)
    return decode_step(
      params, config, tokens, tokens, jnp.zeros((), jnp.int32), above, cache
    )

  state, cache = jax.eval_shape(one, params, ready)
  assert state.shape == (b, 4, text.width)
  assert {k.shape for k in cache.keys} == {
    (b, 4, text.kv_heads, 6, text.head_dim)
  }
