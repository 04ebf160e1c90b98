import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mirl_jax.learning.state import new_state, step_params

PARAMS = {"a": jnp.asarray([1.0, 2.0]), "b": {"c": jnp.asarray([[3.0]])}}
GRADS = jax.tree.map(jnp.ones_like, PARAMS)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_new_state_copies_only_what_is_read():
  bare = new_state(PARAMS, optax.adam(0.1), reference=False, ema=False)
  assert bare.reference is None
  assert bare.ema is None
  full = new_state(PARAMS, optax.adam(0.1), reference=True, ema=True)
  for copied in (full.reference, full.ema):
    same(copied, PARAMS)
    # A copy of its own: the policy's buffers are donated to each step.
    ours, theirs = (
      {x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)}
      for tree in (copied, PARAMS)
    )
    assert not ours & theirs
  assert (int(full.step), int(full.skipped), float(full.generated)) == (0, 0, 0)
  assert float(full.memory.auc) == 0.5


def test_a_step_moves_params_and_optimiser_and_reports_the_norm():
  optimizer = optax.adam(0.1)
  state = new_state(PARAMS, optimizer, False, False)
  moved, norm = step_params(state, GRADS, optimizer, 0.9)
  assert float(norm) == pytest.approx(np.sqrt(3))
  for new, old in zip(
    jax.tree.leaves(moved.params), jax.tree.leaves(PARAMS), strict=True
  ):
    np.testing.assert_allclose(new, old - 0.1, rtol=1e-5)
  assert int(moved.opt_state[0].count) == 1
  assert int(moved.skipped) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_gradient_changes_nothing_and_is_counted(bad):
  optimizer = optax.adam(0.1)
  state = new_state(PARAMS, optimizer, True, True)
  state, _ = step_params(state, GRADS, optimizer, 0.9)
  broken = {"a": GRADS["a"].at[1].set(bad), "b": GRADS["b"]}
  after, norm = jax.jit(lambda s, g: step_params(s, g, optimizer, 0.9))(
    state, broken
  )
  assert not np.isfinite(norm)
  assert int(after.skipped) == 1
  same(after.replace(skipped=state.skipped), state)
  again, _ = step_params(after, broken, optimizer, 0.9)
  assert int(again.skipped) == 2
  moved, _ = step_params(after, GRADS, optimizer, 0.9)  # and it goes on
  assert float(jnp.abs(moved.params["a"] - after.params["a"]).max()) > 0.01


def test_ema_follows_and_the_reference_does_not():
  optimizer = optax.sgd(1.0)
  state = new_state(PARAMS, optimizer, True, True)
  average = np.asarray(PARAMS["a"])
  for _ in range(3):
    state, _ = step_params(state, GRADS, optimizer, 0.75)
    average = 0.75 * average + 0.25 * np.asarray(state.params["a"])
  np.testing.assert_allclose(state.params["a"], PARAMS["a"] - 3)
  np.testing.assert_allclose(state.ema["a"], average, rtol=1e-6)
  same(state.reference, PARAMS)
