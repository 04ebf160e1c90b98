import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax.policy.layers import project_rows
from mirl_jax.policy.products import smaller_second


@pytest.mark.parametrize("seed", range(3))
def test_a_swapped_product_is_einsum(seed):
  keys = jax.random.split(jax.random.key(seed))
  x = jax.random.normal(keys[0], (2, 3, 5))
  y = jax.random.normal(keys[1], (2, 11, 5))
  spec = "bqd,bsd->bqs"
  np.testing.assert_allclose(
    jax.jit(smaller_second, static_argnums=0)(spec, x, y),
    jnp.einsum(spec, x, y),
    rtol=1e-5,
    atol=1e-5,
  )


def test_weights_come_first_on_a_cpu_and_last_elsewhere():
  x, kernel_t = jnp.zeros((2, 2, 8)), jnp.zeros((32, 8))
  traced = jax.jit(lambda x, w: project_rows(x, w)).trace(x, kernel_t)

  def product(platform):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    lines = [line for line in text.splitlines() if "dot_general" in line]
    return lines[0].partition(" : ")[2]

  assert product("cpu").startswith("(tensor<32x8xf32>, tensor<4x8xf32>)")
  assert product("cuda").startswith("(tensor<4x8xf32>, tensor<32x8xf32>)")


def test_rows_keep_their_shape_and_take_a_dtype():
  x = jnp.ones((2, 3, 4), jnp.bfloat16)
  y = project_rows(x, jnp.ones((5, 4), jnp.bfloat16), jnp.float32)
  assert y.shape == (2, 3, 5)
  assert y.dtype == jnp.float32
  np.testing.assert_array_equal(y, 4.0)
