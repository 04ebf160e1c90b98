"""One tree of shapes, dtypes and logical axes for a policy's parameters.

It is the source for initialisation, sharding, restore and weight mapping;
full-size models are described without allocating anything.
"""

import functools
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.families import family
from mirl_jax.policy.text import init_decoder

Params = dict[str, Any]


def _boxed_init(config: VLMConfig, key: jax.Array) -> Params:
  keys = jax.random.split(key, 7)
  return {
    "vision": family(config).init_tower(config.vision, keys[:3]),
    "text": init_decoder(config.text, keys[3:]),
  }


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


@functools.lru_cache(maxsize=8)  # a run asks several times; callers unbox
def _abstract_boxed(config: VLMConfig) -> Params:
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.eval_shape(lambda k: _boxed_init(config, k), key)


def count_params(params: Params) -> int:
  """Number of scalars in a parameter tree, abstract or real."""
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
