import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mirl_jax.learning.optimizer import make_optimizer, schedule

VALUES = {
  "lr": 0.5,
  "schedule": "constant",
  "warmup": 0,
  "end": 0.1,
  "b1": 0.9,
  "b2": 0.95,
  "eps": 1e-8,
  "weight_decay": 0.0,
  "clip_norm": 0.0,
  "factor": {"vision": 1.0, "merger": 1.0, "text": 1.0, "embedding": 1.0},
}


def test_schedule_values_by_hand():
  """Warm-up over 4 of 12 steps, then the decay over the other 8."""
  expected = {
    "constant": lambda x: 0.5,
    "linear": lambda x: 0.5 * (1 - 0.9 * x),
    "cosine": lambda x: 0.5 * (0.1 + 0.9 * (1 + np.cos(np.pi * x)) / 2),
  }
  for kind, after in expected.items():
    rate = schedule({**VALUES, "schedule": kind, "warmup": 4}, 12)
    for step in range(16):
      want = 0.125 + 0.375 * step / 4  # from lr / warmup to lr
      if step >= 4:
        want = after(min((step - 4) / 8, 1))
      assert float(rate(step)) == pytest.approx(want, rel=1e-5), (kind, step)


def test_without_warmup_the_first_step_is_at_full_rate():
  rate = schedule({**VALUES, "schedule": "cosine"}, 10)
  assert float(rate(0)) == pytest.approx(0.5)
  assert float(rate(10)) == pytest.approx(0.05)


def test_unknown_schedule_is_an_error():
  with pytest.raises(ValueError, match="optimizer.schedule='cos'"):
    schedule({**VALUES, "schedule": "cos"}, 10)


PARAMS = {
  "text": {
    "embed": {"embedding": jnp.full((3, 2), 2.0)},
    "blocks": {
      # Stacked over layers: vectors are matrices here, and still not decayed.
      "norm1": {"scale": jnp.full((2, 2), 2.0)},
      "q": {"kernel": jnp.full((2, 2, 2), 2.0), "bias": jnp.full((2, 2), 2.0)},
    },
    "head": {"kernel": jnp.full((2, 3), 2.0)},
  },
  "vision": {
    "patch_embed": {"kernel": jnp.full((2, 2), 2.0)},
    "merger": {"fc1": {"kernel": jnp.full((2, 2), 2.0)}},
  },
}


def updated(grads, **changes):
  optimizer = make_optimizer({**VALUES, **changes}, 10)
  update, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
  flat, _ = jax.tree_util.tree_flatten_with_path(update)
  return {"/".join(k.key for k in path): np.asarray(x) for path, x in flat}


def like(value):
  return jax.tree.map(lambda x: jnp.full(x.shape, value), PARAMS)


def test_weight_decay_moves_kernels_and_embeddings_only():
  got = updated(like(0.0), weight_decay=0.1)
  for name, move in got.items():
    want = -0.5 * 0.1 * 2.0 if name.endswith(("kernel", "embedding")) else 0.0
    np.testing.assert_allclose(move, want, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
  ("part", "prefix"),
  [
    ("embedding", "text/embed/"),
    ("vision", "vision/patch_embed/"),
    ("merger", "vision/merger/"),
    ("text", ("text/blocks/", "text/head/")),
  ],
)
def test_a_parts_factor_scales_its_rate_only(part, prefix):
  base = updated(like(0.3), weight_decay=0.1)
  factors = {**VALUES["factor"], part: 3.0}
  got = updated(like(0.3), weight_decay=0.1, factor=factors)
  scaled = {name for name in got if name.startswith(prefix)}
  assert scaled
  assert scaled != set(got)
  for name, move in got.items():
    factor = 3 if name in scaled else 1
    np.testing.assert_allclose(move, factor * base[name], rtol=1e-6)


def test_first_step_of_adam_is_the_rate():
  """Bias-corrected Adam's first step is -lr · sign(g)."""
  for move in updated(like(-0.3)).values():
    np.testing.assert_allclose(move, 0.5, rtol=1e-5)


def test_clip_norm_binds():
  """A large eps makes Adam's first step proportional to the gradient."""
  grads = like(4.0)
  norm = float(optax.global_norm(grads))
  loose = updated(grads, eps=1e6, clip_norm=2 * norm)
  tight = updated(grads, eps=1e6, clip_norm=norm / 4)
  off = updated(grads, eps=1e6)
  for name, move in off.items():
    np.testing.assert_allclose(loose[name], move, rtol=1e-6)
    np.testing.assert_allclose(tight[name], move / 4, rtol=1e-4)
