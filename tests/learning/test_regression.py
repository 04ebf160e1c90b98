import jax.numpy as jnp
import numpy as np

from mirl_jax.learning import regression


def test_it_is_numpy_ridge_and_predicts_nothing_at_first():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 9, 3)).astype(np.float32)
  y = rng.normal(size=(2, 9)).astype(np.float32)
  fit = regression.empty(3)
  np.testing.assert_array_equal(regression.predict(fit, jnp.asarray(x)), 0)
  fit = regression.update(
    fit, jnp.asarray(x), jnp.asarray(y), jnp.ones(y.shape, bool)
  )
  rows = x.reshape(-1, 3)
  weights = np.linalg.solve(
    rows.T @ rows + 2.5 * np.eye(3), rows.T @ y.reshape(-1)
  )
  got = regression.predict(fit, jnp.asarray(x), ridge=2.5)
  np.testing.assert_allclose(got, x @ weights, atol=1e-5)


def test_regression_forgets():
  fit = regression.empty(2)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2)), jnp.float32)
  ok = jnp.ones(20, bool)
  for _ in range(40):
    fit = regression.update(fit, x, x[:, 0], ok)
  for _ in range(40):
    fit = regression.update(fit, x, -x[:, 0], ok)
  got = regression.predict(fit, jnp.eye(2))
  # The old sign has faded to .9**40 = .015; the ridge shrinks the rest.
  np.testing.assert_allclose(got, [-1, 0], atol=0.15)


def test_regression_ignores_invalid_rows():
  rng = np.random.default_rng(1)
  x = rng.normal(size=(6, 2)).astype(np.float32)
  y = rng.normal(size=6).astype(np.float32)
  ok = np.array([1, 1, 0, 1, 0, 1], bool)
  whole = regression.update(
    regression.empty(2), *(jnp.asarray(a) for a in (x[ok], y[ok], ok[ok]))
  )
  x[~ok], y[~ok] = np.nan, np.inf
  holes = regression.update(
    regression.empty(2), *(jnp.asarray(a) for a in (x, y, ok))
  )
  np.testing.assert_allclose(holes.gram, whole.gram, atol=1e-5)
  np.testing.assert_allclose(holes.moment, whole.moment, atol=1e-5)
