"""The Splash back end, its kernel interpreted on a CPU, against plain XLA."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.attention import attend, splash
from mirl_jax.policy.forward import tree_hidden

# Segments (groups, keys) read by 4 nodes, tokens of a node, causal.
CASES = {
  "own": (((4, 5),), 5, True),
  "own, several blocks": (((4, 390),), 390, True),
  "a shared prompt": (((1, 300),), 40, False),
  "prompt, parents, own": (((1, 140), (2, 9), (4, 20)), 20, True),
}


@pytest.fixture(autouse=True)
def _interpret(monkeypatch):
  monkeypatch.setattr(splash, "_INTERPRET", True)


def run(case, causal, backend, seed=0):
  """Outputs and the gradients of all that is differentiated."""
  query, segments = case
  rng = np.random.default_rng(seed)
  pay = jnp.asarray(rng.normal(size=query.shape), jnp.float32)

  def loss(query, floats):
    parts = tuple(
      s._replace(keys=k, values=v)
      for s, (k, v) in zip(segments, floats, strict=True)
    )
    out = attend(query, parts, causal, backend)
    return jnp.sum(out * pay), out

  both = jax.grad(loss, argnums=(0, 1), has_aux=True)
  floats = [(s.keys, s.values) for s in segments]
  kernels = str(jax.make_jaxpr(both)(query, floats)).count("pallas_call[")
  assert kernels == (len(segments) if backend == "splash" else 0)
  return jax.jit(both)(query, floats)


def assert_near(got, want, atol):
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, atol=atol), got, want
  )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_outputs_and_gradients_are_those_of_plain_xla(prefix_case, name, seed):
  shape, t, causal = CASES[name]
  case = prefix_case(shape, t, seed)
  want = run(case, causal, "xla")
  assert_near(run(case, causal, "splash"), want, 2e-5)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want)) > 0.1


def test_a_group_without_any_key_reads_the_other_segments(prefix_case):
  case = prefix_case(((2, 140), (4, 6)), 6, 3, empty=True)
  query, (_, own) = case
  got = run(case, True, "splash")
  assert_near(got, run(case, True, "xla"), 2e-5)
  alone = attend(query, (own,), True)
  # The first two nodes of the first question read their own tokens only.
  np.testing.assert_allclose(got[1][0, :2], alone[0, :2], atol=2e-6)
  assert not np.allclose(got[1][0, 2:], alone[0, 2:], atol=1e-2)


def test_what_a_masked_key_holds_changes_no_bit(prefix_case):
  query, segments = prefix_case(((1, 140), (4, 6)), 6, 4)
  noisy = tuple(
    s._replace(
      keys=jnp.where(s.mask[:, :, None, :, None], s.keys, 1e4),
      values=jnp.where(s.mask[:, :, None, :, None], s.values, -1e4),
    )
    for s in segments
  )
  np.testing.assert_array_equal(
    attend(query, segments, True, "splash"),
    attend(query, noisy, True, "splash"),
  )


def test_bfloat16_stays_near_float32(prefix_case):
  query, segments = prefix_case(((1, 140), (4, 20)), 20, 5)
  half = jnp.bfloat16
  got = attend(
    query.astype(half),
    tuple(
      s._replace(keys=s.keys.astype(half), values=s.values.astype(half))
      for s in segments
    ),
    True,
    "splash",
  )
  assert got.dtype == half
  np.testing.assert_allclose(
    got.astype(jnp.float32), attend(query, segments, True), atol=0.05
  )


def test_a_tree_trains_through_it():
  """Hidden states and parameter gradients of a whole model."""
  levels = tiny.random_nodes(0, 2, ((1, 2, 5), (1, 2, 3)))
  rng = np.random.default_rng(0)

  def both(backend):
    config = dataclasses.replace(
      tiny.tiny_config(depth=1, full_blocks=(0,), layers=1),
      attention=backend,
    )
    prompts = tiny.random_prompts(config, 0, (((2, 2),), ()))
    params = tiny.random_params(config)

    def loss(params):
      hidden = tree_hidden(params, config, prompts, levels, remat="cheap")
      real = [
        jnp.where(level.mask[..., None], h, 0)
        for h, level in zip(hidden, levels, strict=True)
      ]
      return sum(jnp.sum(h * p) for h, p in zip(real, pay, strict=True)), real

    return jax.jit(jax.grad(loss, has_aux=True))(params)

  width = tiny.tiny_config().text.width
  pay = [
    jnp.asarray(rng.normal(size=(*level.tokens.shape, width)))
    for level in levels
  ]
  assert_near(both("splash"), both("xla"), 2e-4)
