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

QWEN = Path(__file__).parents[3] / "shared" / "data" / "qwen"
SHAPE = ((1, 4, 6), (2, 2, 5))


# What the published configs say; the 8B's file is in the shared data.
# width, layers, heads, kv heads, mlp, tied; depth, width, mlp, deep blocks.
QWEN3 = {
  "qwen3-2b": (2048, 28, 16, 8, 6144, True, 24, 1024, 4096, (5, 11, 17)),
  "qwen3-4b": (2560, 36, 32, 8, 9728, True, 24, 1024, 4096, (5, 11, 17)),
  "qwen3-32b": (5120, 64, 64, 8, 25600, False, 27, 1152, 4304, (8, 16, 24)),
}
# Sizes of the other Qwen2.5-VL: width, layers, heads, kv heads, mlp.
QWEN25 = {
  "32b": (5120, 64, 40, 8, 27648, 3456),
  "72b": (8192, 80, 64, 8, 29568, 3456),
}
# Parameters that the hub counts, in thousands of millions.
BILLIONS = {
  "3b": 3.755,
  "7b": 8.292,
  "32b": 33.453,
  "72b": 73.411,
  "qwen3-2b": 2.128,
  "qwen3-4b": 4.438,
  "qwen3-8b": 8.767,
  "qwen3-32b": 33.357,
}


def qwen_config(size):
  if not QWEN.is_dir():
    pytest.skip(f"no {QWEN}")
  if size.startswith("qwen3"):
    file = QWEN / "qwen3-vl-embedding-8b" / "config.json"
    config = json.loads(file.read_text())
    if size in QWEN3:
      w, layers, heads, kv, mlp, tied, depth, tower, tower_mlp, deep = QWEN3[
        size
      ]
      config["tie_word_embeddings"] = tied
      config["text_config"] |= {
        "hidden_size": w,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": mlp,
      }
      config["vision_config"] |= {
        "depth": depth,
        "hidden_size": tower,
        "intermediate_size": tower_mlp,
        "out_hidden_size": w,
        "deepstack_visual_indexes": [*deep],
      }
    return from_hf(config)
  file = QWEN / "qwen2.5-vl-7b-instruct" / "config.json"
  config = json.loads(file.read_text())
  if size == "3b":
    file = QWEN / "param_tables" / "qwen2.5-vl-3b.hparams.json"
    config |= json.loads(file.read_text())
  if size in QWEN25:
    w, layers, heads, kv, mlp, tower_mlp = QWEN25[size]
    config |= {
      "hidden_size": w,
      "num_hidden_layers": layers,
      "num_attention_heads": heads,
      "num_key_value_heads": kv,
      "intermediate_size": mlp,
    }
    config["vision_config"] |= {
      "out_hidden_size": w,
      "intermediate_size": tower_mlp,
    }
  return from_hf(config)


@pytest.mark.parametrize("size", BILLIONS)
def test_parameter_counts_are_the_hubs(size):
  params = abstract_params(qwen_config(size))
  assert count_params(params) / 1e9 == pytest.approx(BILLIONS[size], abs=6e-4)


@pytest.mark.parametrize("size", ["3b", "7b", "qwen3-8b"])
def test_full_size_models_have_the_right_shapes(size):
  config = qwen_config(size)
  params = abstract_params(config)
  sizes = {"patch": 2, "window": 16} if size in "3b 7b" else {"patch": 2}
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
