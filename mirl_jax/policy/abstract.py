"""One tree of shapes, dtypes and logical axes for a policy's parameters.

It is the source for initialisation, sharding, restore and weight mapping;
full-size models are described without allocating anything.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.layers import Dense, RMSNorm
from mirl_jax.policy.text import TextBlock
from mirl_jax.policy.vision import Merger, VisionBlock

Params = dict[str, Any]


def _init_module(module: nn.Module, key: jax.Array, *args: Any) -> Params:
  return module.init(key, *args)["params"]


def _stack(module: nn.Module, depth: int, key: jax.Array, *args: Any):
  """Initialises `depth` equal blocks with a leading `layers` axis."""
  boxed = jax.vmap(lambda k: _init_module(module, k, *args))(
    jax.random.split(key, depth)
  )
  return jax.tree.map(
    lambda box: box.add_axis(0, {nn.PARTITION_NAME: "layers"}),
    boxed,
    is_leaf=lambda box: isinstance(box, nn.Partitioned),
  )


def _boxed_init(config: VLMConfig, key: jax.Array) -> Params:
  vision, text = config.vision, config.text
  keys = jax.random.split(key, 7)
  slots = vision.window_patches
  patches = jnp.zeros((1, slots, vision.patch_dim))
  wide = jnp.zeros((1, slots, vision.width))
  v_angles = jnp.zeros((1, slots, vision.width // vision.heads // 2))
  image = jnp.ones((1, slots), jnp.int32)
  x = jnp.zeros((1, 1, text.width))
  t_angles = jnp.zeros((1, 1, text.head_dim // 2))
  embedding = nn.initializers.normal(0.02)(keys[4], (text.vocab, text.width))
  params = {
    "vision": {
      "patch_embed": _init_module(
        Dense(vision.width, (None, "embed"), bias=False), keys[0], patches
      ),
      "blocks": _stack(
        VisionBlock(vision), vision.depth, keys[1], wide, v_angles, image, True
      ),
      "merger": _init_module(Merger(vision), keys[2], wide),
    },
    "text": {
      "embed": {"embedding": nn.Partitioned(embedding, ("vocab", "embed"))},
      "blocks": _stack(
        TextBlock(text),
        text.layers,
        keys[3],
        x,
        t_angles,
        lambda q, k, v: q,
      ),
      "norm": _init_module(RMSNorm(text.rms_eps), keys[5], x),
    },
  }
  if not text.tied:
    head = nn.initializers.normal(0.02)(keys[6], (text.width, text.vocab))
    params["text"]["head"] = {
      "kernel": nn.Partitioned(head, ("embed", "vocab"))
    }
  return params


def init_params(config: VLMConfig, key: jax.Array) -> Params:
  """Random float32 parameters, normal(0.02) kernels as Qwen's."""
  return nn.meta.unbox(jax.jit(_boxed_init, static_argnums=0)(config, key))


def abstract_params(config: VLMConfig) -> Params:
  """Shapes and dtypes of the parameters, nothing allocated."""
  return nn.meta.unbox(_abstract_boxed(config))


def logical_axes(config: VLMConfig) -> Params:
  """Logical axis names of every parameter, as tuples at the leaves."""
  return jax.tree.map(
    lambda box: tuple(box.names),
    _abstract_boxed(config),
    is_leaf=lambda box: isinstance(box, nn.Partitioned),
  )


def _abstract_boxed(config: VLMConfig) -> Params:
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.eval_shape(lambda k: _boxed_init(config, k), key)


def count_params(params: Params) -> int:
  """Number of scalars in a parameter tree, abstract or real."""
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
