"""Shapes of the real models; nothing is allocated."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.abstract import abstract_params, count_params
from mirl_jax.policy.decode import decode_step, empty_cache
from mirl_jax.policy.families import from_hf
from mirl_jax.policy.forward import prefill, tree_hidden
from mirl_jax.policy.logprobs import token_logprobs
from mirl_jax.policy.published import CONFIGS, published_config

SHAPE = ((1, 4, 6), (2, 2, 5))
SHARED = Path(__file__).parents[3] / "shared" / "data" / "qwen"
# Parameters that the hub counts, in thousands of millions.
BILLIONS = {
  "Qwen/Qwen2.5-VL-3B-Instruct": 3.755,
  "Qwen/Qwen2.5-VL-7B-Instruct": 8.292,
  "Qwen/Qwen2.5-VL-32B-Instruct": 33.453,
  "Qwen/Qwen2.5-VL-72B-Instruct": 73.411,
  "Qwen/Qwen3-VL-2B-Instruct": 2.128,
  "Qwen/Qwen3-VL-4B-Instruct": 4.438,
  "Qwen/Qwen3-VL-8B-Instruct": 8.767,
  "Qwen/Qwen3-VL-32B-Instruct": 33.357,
}
# A published config.json, and what changes its sizes to the model's.
FILES = {
  "Qwen/Qwen2.5-VL-7B-Instruct": ("qwen2.5-vl-7b-instruct/config.json", None),
  "Qwen/Qwen2.5-VL-3B-Instruct": (
    "qwen2.5-vl-7b-instruct/config.json",
    "param_tables/qwen2.5-vl-3b.hparams.json",
  ),
  "Qwen/Qwen3-VL-8B-Instruct": ("qwen3-vl-embedding-8b/config.json", None),
}


@pytest.mark.parametrize("name", FILES)
def test_sizes_are_those_of_the_published_file(name):
  if not SHARED.is_dir():
    pytest.skip(f"no {SHARED}")
  file, changes = FILES[name]
  config = json.loads((SHARED / file).read_text())
  if changes:
    config |= json.loads((SHARED / changes).read_text())
  assert published_config(name) == from_hf(config)


def test_another_name_is_refused():
  with pytest.raises(ValueError, match="'Qwen/Qwen9' is neither a directory"):
    published_config("Qwen/Qwen9")


def test_all_are_counted():
  assert BILLIONS.keys() == CONFIGS.keys()


@pytest.mark.parametrize("name", BILLIONS)
def test_parameter_counts_are_the_hubs(name):
  params = abstract_params(published_config(name))
  assert count_params(params) / 1e9 == pytest.approx(BILLIONS[name], abs=6e-4)


@pytest.mark.parametrize("name", FILES)
def test_full_size_models_have_the_right_shapes(name):
  config = published_config(name)
  params = abstract_params(config)
  sizes = {"patch": 2, "window": 16} if "2.5" in name else {"patch": 2}
  small = dataclasses.replace(
    config,
    vision=dataclasses.replace(config.vision, **sizes),
    text=tiny.tiny_config().text,
    image_token=58,
    vision_start_token=60,
    vision_end_token=61,
    pad_token=63,
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
  scored = jax.eval_shape(
    lambda p, h: token_logprobs(p, h, levels[0].tokens), params, hidden[0]
  )
  assert {x.shape for x in scored} == {levels[0].tokens.shape}
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
