"""What two roles share is one argument."""

import jax
import jax.numpy as jnp
import numpy as np

from mirl_jax.rollout.shared import shared


def test_an_array_of_two_roles_stands_once():
  base, own, other = jnp.arange(3.0), jnp.ones(2), jnp.zeros(2)
  roles = {
    "policy": {"base": base, "adapter": own},
    "reference": {"base": base, "head": other},
  }
  weights = shared(roles)
  assert len(weights.arrays) == 3
  assert weights.roles["policy"]["base"] is weights.roles["reference"]["base"]
  jax.tree.map(np.testing.assert_array_equal, weights.roles, roles)

  # Through a program, which takes each as one parameter and is told apart from
  # one for roles that share nothing.
  double = jax.jit(lambda w: jax.tree.map(lambda x: 2 * x, w.roles))
  text = double.lower(weights).as_text()
  assert "%arg2:" in text
  assert "%arg3:" not in text
  jax.tree.map(
    lambda got, want: np.testing.assert_array_equal(got, 2 * want),
    double(weights),
    roles,
  )
  apart = {**roles, "reference": {"base": base + 1, "head": other}}
  assert double(shared(apart))["reference"]["base"].tolist() == [2, 4, 6]
