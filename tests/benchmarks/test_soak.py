"""What the soak test counts, and that no device program calls the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from benchmarks import soak
from mirl_jax import testing_runs as runs
from mirl_jax.train import train


def rows(compiles, memory):
  each = zip(compiles, memory, strict=True)
  return {
    i: {"compiles": c, "memory/host_mb": m} for i, (c, m) in enumerate(each, 1)
  } | {0: {"wall_s": 1.0}}


def test_summary_by_hand():
  found = soak.summary(
    rows([2, 3, 3, 4, 4, 4], [100, 200, 400, 420, 600, 500]), warm=3
  )
  assert found["traced_in_warm_up"] == 3
  assert found["traced_after_warm_up"] == 1
  assert found["last_step_that_traced"] == 4
  assert found["host_mb_after_warm_up"] == 400
  assert found["growth"] == 0.25
  flat = soak.summary(rows([2, 2], [100, 100]), warm=1)
  assert flat["last_step_that_traced"] == 1
  assert flat["traced_after_warm_up"] == flat["growth"] == 0


@pytest.mark.parametrize(("steps", "warm"), [(5, 5), (5, 0), (1, 1)])
def test_a_warm_up_must_leave_steps(steps, warm):
  with pytest.raises(ValueError, match=f"--warm={warm}"):
    soak.measure(steps, warm)


def pure(x):
  shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
  return jax.pure_callback(lambda x: np.asarray(x) + 1, shape, x)


def ordered(x):
  io_callback(lambda x: None, None, x, ordered=True)
  return x + 1


def printed(x):
  jax.debug.print("{}", x)
  return x + 1


@pytest.mark.parametrize(
  ("function", "count"),
  [
    (lambda x: jnp.tanh(x) @ x, 0),
    (pure, 1),
    (ordered, 1),
    (printed, 1),
    (lambda x: jax.lax.fori_loop(0, 3, lambda i, x: pure(x), pure(x)), 2),
  ],
)
def test_callbacks_are_found_in_programs(function, count):
  lowered = jax.jit(function).lower(jnp.ones((4, 4)))
  assert soak.host_callbacks(lowered.as_text()) == count
  assert soak.host_callbacks(lowered.compile().as_text()) == count


@pytest.mark.parametrize(
  "line",
  [
    "  %s = (f32[4]{0}, u32[], token[]) send(%x, %token), channel_id=1",
    "  %i = ((f32[2]), token[]) infeed(%token)",
    '  %0 = "stablehlo.recv"(%arg0)',
  ],
)
def test_transfers_are_found(line):
  assert soak.host_callbacks(line) == 1


def test_a_job_calls_the_host_nowhere(tmp_path):
  config = runs.small_config("--config.train.steps=2", "--config.eval.every=0")
  (tmp_path / "programs").mkdir()
  with soak.programs_kept(tmp_path / "programs"):
    assert train(config, str(tmp_path / "run")) == 0
    jax.jit(printed)(jnp.ones(3))  # would be seen
  jax.effects_barrier()
  jax.jit(pure)(jnp.ones(3))  # would not: nothing is kept any more
  found = soak.compiled_programs(tmp_path / "programs")
  calls = {name: soak.host_callbacks(text) for name, (_, text) in found.items()}
  assert not any("jit_pure" in name for name in calls)
  (own,) = (name for name in calls if "printed" in name)
  assert calls.pop(own) == 1
  # Both programs of a step are among them, with their loops over tokens.
  assert any("jit_update" in name for name in calls)
  loops = [name for name in calls if "stablehlo.while" in found[name][1]]
  assert any("jit_rollout" in name for name in loops)
  assert not any(calls.values()), calls


@pytest.mark.slow
def test_a_soak_run():
  report = soak.measure(steps=4, warm=3)
  assert report["host_callbacks"] == 0
  assert report["programs"] >= report["traced_in_warm_up"] > 0
