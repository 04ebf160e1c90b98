"""What the vision towers of all families share."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import AbstractMesh
from jaxtyping import Array

from mirl_jax.policy.attention import attend, segment
from mirl_jax.policy.configs import VisionConfig
from mirl_jax.policy.layers import Dense
from mirl_jax.policy.remat import keep
from mirl_jax.policy.rope import rotate


class Features(NamedTuple):
  """What a tower makes of M merged slots for each of B questions.

  Attributes:
    tokens: [B, M, E] in place of the placeholders' embeddings.
    deep: [B, M, E] each, added to the placeholders' states after the
      decoder's first layers (DeepStack, arXiv 2406.04334).
  """

  tokens: Array
  deep: tuple[Array, ...] = ()


class TowerAttention(nn.Module):
  """Self-attention of patches, within spans of consecutive slots.

  By plain XLA with every back end: several images share the slots of full
  attention, and a window's real patches need not come first, while kernels
  read a prefix of the keys.
  """

  config: VisionConfig
  mesh: AbstractMesh | None = None

  @nn.compact
  def __call__(self, x: Array, turn: Array, image: Array, span: int) -> Array:
    """Patches of one image and one span read each other.

    Args:
      x: [B, V, width].
      turn: [B, V, 2, head_dim / 2] cosines and sines of the rotary embedding.
      image: [B, V] image of each patch, 0 for padding.
      span: slots per span; V for full attention. A shorter span must be
        filled by one image only.
    """
    c = self.config
    b, v, _ = x.shape
    qkv = Dense(3 * c.width, ("embed", "heads"), name="qkv")(x)
    q, k, value = jnp.moveaxis(qkv.reshape(b, v, 3, c.heads, -1), 2, 0)
    q, k = keep(rotate(q, turn)), keep(rotate(k, turn))
    value = keep(value)
    shape = (b, v // span, span, *q.shape[2:])
    spans = image.reshape(b, v // span, span)
    if span == v:  # several images share the slots: read one's own only
      mask = (spans[..., None, :] == spans[..., None]) & (
        spans[..., None, :] > 0
      )
    else:
      mask = spans > 0
    out = attend(
      q.reshape(shape),
      (segment(k.reshape(shape), value.reshape(shape), mask),),
      mesh=self.mesh,
    )
    return Dense(c.width, ("heads", "embed"), name="proj")(out.reshape(x.shape))
