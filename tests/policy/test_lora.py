"""Adapters: where they sit, what they compute, and what is left without."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mirl_jax import testing as tiny
from mirl_jax.policy import lora as lr
from mirl_jax.policy.forward import tree_hidden
from mirl_jax.policy.logprobs import token_logprobs
from mirl_jax.policy.parts import Lora, Training, part_of, split
from mirl_jax.policy.text import head_logits

CONFIGS = {"qwen2_5_vl": tiny.tiny_config(), "qwen3_vl": tiny.tiny_qwen3()}
EVERYWHERE = Training("lora", "lora", "lora", Lora(rank=3, alpha=6.0))


def adapted(config, training=EVERYWHERE, seed=0, zero=False):
  """Random parameters with adapters whose `b` is random too."""
  modules = lr.adapted_modules(config, training)
  leaves = lr.adapter_leaves(config, modules, training.lora)
  values = lr.init_adapters(leaves, training.lora, seed)
  rng = np.random.default_rng(seed)
  if not zero:
    values = {
      path: rng.normal(size=x.shape, scale=0.1).astype(np.float32)
      if path.endswith("lora_b")
      else x
      for path, x in values.items()
    }
  values = {path: jnp.asarray(x) for path, x in values.items()}
  return lr.extend(tiny.random_params(config, seed), values)


@functools.partial(jax.jit, static_argnums=1)
def logits(params, config, prompts, levels):
  hidden = tree_hidden(params, config, prompts, levels)
  return [head_logits(params["text"], h) for h in hidden]


def batch(config, seed=0):
  prompts = tiny.random_prompts(config, seed)
  return prompts, tiny.random_nodes(seed, 3, ((1, 2, 4), (2, 1, 3)))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(3))
def test_merged_weights_compute_what_the_adapters_do(name, seed):
  config = CONFIGS[name]
  params = adapted(config, seed=seed)
  merged = lr.merge(params)
  base = lr.without_adapters(params)
  assert jax.tree.structure(merged) == jax.tree.structure(base)
  inputs = batch(config, seed)
  got = logits(params, config, *inputs)
  for ours, same, other in zip(
    got,
    logits(merged, config, *inputs),
    logits(base, config, *inputs),
    strict=True,
  ):
    np.testing.assert_allclose(ours, same, atol=2e-5)
    assert not np.allclose(ours, other, atol=1e-2)


@pytest.mark.parametrize("name", CONFIGS)
def test_new_adapters_change_no_bit_and_share_the_base(name):
  config = CONFIGS[name]
  params = adapted(config, zero=True)
  base = lr.without_adapters(params)
  flat = flatten_dict(params, sep="/")
  for path, leaf in flatten_dict(base, sep="/").items():
    assert leaf is flat[path]
  inputs = batch(config)
  for ours, plain in zip(
    logits(params, config, *inputs), logits(base, config, *inputs), strict=True
  ):
    np.testing.assert_array_equal(ours, plain)


def test_gradients_are_those_of_the_merged_kernel():
  """d/da = s · dW bᵀ and d/db = s · aᵀ dW, layer by layer."""
  config = CONFIGS["qwen3_vl"]
  params = adapted(config)
  prompts, levels = batch(config)

  def value(params):
    hidden = tree_hidden(params, config, prompts, levels)
    return sum(
      jnp.sum(token_logprobs(params, h, x.tokens)[0] * x.mask)
      for h, x in zip(hidden, levels, strict=True)
    )

  trained, rest = split(params, EVERYWHERE)
  assert {
    path.rpartition("/")[2] for path in flatten_dict(trained, sep="/")
  } == {
    "lora_a",
    "lora_b",
  }
  got = flatten_dict(
    jax.jit(
      jax.grad(lambda t: value(lr.extend(rest, flatten_dict(t, sep="/"))))
    )(trained),
    sep="/",
  )
  want = flatten_dict(jax.jit(jax.grad(value))(lr.merge(params)), sep="/")
  flat = flatten_dict(params, sep="/")
  for path, gradient in got.items():
    module, _, kind = path.rpartition("/")
    kernel = want[f"{module}/kernel"]
    a, b = flat[f"{module}/lora_a"], flat[f"{module}/lora_b"]
    if kind == "lora_a":
      expected = 2.0 * kernel @ jnp.swapaxes(b, -1, -2)
    else:
      expected = 2.0 * jnp.swapaxes(a, -1, -2) @ kernel
    scale = max(float(jnp.abs(expected).max()), 1e-3)
    np.testing.assert_allclose(gradient, expected, atol=1e-4 * scale)


def test_modules_are_chosen_by_part_and_pattern():
  config = CONFIGS["qwen2_5_vl"]
  everything = lr.adapted_modules(config, EVERYWHERE)
  kernels = {
    path.removesuffix("/kernel")
    for path in flatten_dict(tiny.random_params(config), sep="/")
    if path.endswith("/kernel")
  }
  assert set(everything) == kernels - {"vision/patch_embed"}
  text = lr.adapted_modules(config, Training("full", "frozen", "lora"))
  assert set(text) == {m for m in everything if part_of(m) == "text"}
  some = Training("lora", "full", "lora", Lora(target=r"[qv]_proj|attn\.qkv"))
  assert sorted(lr.adapted_modules(config, some)) == [
    "text/blocks/attn/q",
    "text/blocks/attn/v",
    "vision/blocks/attn/qkv",
  ]
  with pytest.raises(ValueError, match=r"'qproj' fits no .*\.text.*\.q_proj"):
    lr.adapted_modules(config, Training(text="lora", lora=Lora(target="qproj")))


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"rank": 0}, "rank 0"),
    ({"alpha": 0.0}, "alpha 0.0"),
    ({"target": "(q"}, r"'\(q' is no regular expression"),
  ],
)
def test_bad_settings_are_named(values, message):
  with pytest.raises(ValueError, match=message):
    Lora(**values)


def test_first_values_depend_on_seed_and_path_only():
  config = CONFIGS["qwen2_5_vl"]
  few = Training(text="lora", lora=Lora(rank=3, target="q_proj"))

  def draw(training, seed):
    modules = lr.adapted_modules(config, training)
    leaves = lr.adapter_leaves(config, modules, training.lora)
    return lr.init_adapters(leaves, training.lora, seed)

  name = "text/blocks/attn/q/lora_a"
  one = draw(few, 1)
  assert sorted(one) == [
    f"text/blocks/attn/q/lora_{x}" for x in ("a", "b", "scale")
  ]
  np.testing.assert_array_equal(one[name], draw(EVERYWHERE, 1)[name])
  assert not np.array_equal(one[name], draw(few, 2)[name])
  assert np.abs(one[name]).max() <= config.text.width**-0.5
  assert (one["text/blocks/attn/q/lora_scale"] == 32 / 3).all()
