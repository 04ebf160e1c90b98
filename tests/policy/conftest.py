"""Random segments whose masks are prefixes, as every back end takes them."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from mirl_jax.policy.attention import Segment

# Questions, nodes, query heads, key heads, size of a head.
B, R, HEADS, KV, DIM = 2, 4, 4, 2, 16


def make_case(
  shape: tuple[tuple[int, int], ...], t: int, seed: int, empty: bool = False
) -> tuple[Array, tuple[Segment, ...]]:
  """Queries [B, R, T, H, D] and segments of ragged lengths.

  Args:
    shape: (groups, keys) of each segment; the last is (R, T) where it is read
      causally.
    t: tokens of a node.
    seed: of values and lengths.
    empty: one group of the first segment has no key at all.
  """
  rng = np.random.default_rng(seed)

  def floats(*size: int) -> Array:
    return jnp.asarray(rng.normal(size=size), jnp.float32)

  segments = []
  for number, (groups, size) in enumerate(shape):
    length = rng.integers(1, size + 1, (B, groups, 1))
    if empty and number == 0:
      length[0, 0] = 0
    keys, values = (floats(B, groups, KV, size, DIM) for _ in range(2))
    mask = jnp.asarray(np.arange(size) < length)
    segments.append(Segment(keys, values, mask))
  return floats(B, R, t, HEADS, DIM), tuple(segments)


@pytest.fixture(scope="session")
def prefix_case() -> Callable[..., tuple[Array, tuple[Segment, ...]]]:
  return make_case
