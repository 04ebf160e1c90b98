import dataclasses
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mirl_jax.runs.best import better
from mirl_jax.runs.checkpoints import MARKER, Checkpoints

ROOT = Path(__file__).parents[2]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  params: dict
  moments: optax.OptState
  key: jax.Array
  step: jax.Array
  seen: np.ndarray
  best: float


def _state(seed):
  # Bits, not numbers: every pattern must survive, NaN payloads too.
  bits = jax.random.bits(jax.random.key(seed), (64, 3))
  params = {
    "f32": jax.lax.bitcast_convert_type(bits, jnp.float32),
    "bf16": jax.lax.bitcast_convert_type(bits.astype(jnp.uint16), jnp.bfloat16),
    "a/b": jnp.float32(seed),
  }
  moments = optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(params)
  return State(
    params, moments, jax.random.key(seed), jnp.int32(seed), np.arange(4), 0.5
  )


def _bits(state):
  def bits(leaf):
    is_key = hasattr(leaf, "dtype") and jnp.issubdtype(
      leaf.dtype, jax.dtypes.prng_key
    )
    leaf = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    return leaf.dtype, leaf.shape, leaf.tobytes()

  return jax.tree.map(bits, state)


def _run(script, *arguments, devices=1):
  """Runs a script in a process of its own, since it is to die or to have
  another number of devices; returns its exit code and error output."""
  environment = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": str(devices),
    "PYTHONPATH": str(ROOT),
  }
  result = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
    env=environment,
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  return result.returncode, result.stderr


@pytest.mark.parametrize("seed", range(3))
def test_restores_every_bit(tmp_path, seed):
  state = _state(seed)
  meta = {"data": {"next_index": 2**40}, "wall_s": 1.25, "list": [1, None]}
  assert Checkpoints(tmp_path, keep=2).save(seed, state, meta)
  other = jax.tree.map(lambda x: x, _state(seed + 1))
  restored, read = Checkpoints(tmp_path, keep=2).restore(seed, other)
  assert _bits(restored) == _bits(state)
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  assert read == meta
  draw = jax.random.uniform(restored.key, (3,))
  np.testing.assert_array_equal(draw, jax.random.uniform(state.key, (3,)))


def test_keeps_the_last_and_takes_any_abstract_tree(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=2)
  assert checkpoints.latest() is None
  assert checkpoints.steps() == []
  for step in (0, 9, 10):
    checkpoints.save(step, {"x": jnp.full(3, step)}, {"step": step})
  assert checkpoints.steps() == [9, 10]
  assert sorted(os.listdir(tmp_path / "checkpoints")) == ["10", "9"]
  shape = jax.ShapeDtypeStruct((3,), jnp.int32)
  state, meta = checkpoints.restore(9, {"x": shape})
  np.testing.assert_array_equal(state["x"], [9, 9, 9])
  assert meta == {"step": 9}


def test_a_committed_step_is_not_written_again(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=2)
  assert checkpoints.save(1, {"x": jnp.ones(2)}, {})
  assert not checkpoints.save(1, {"x": jnp.zeros(2)}, {})
  state, _ = checkpoints.restore(1, {"x": jnp.zeros(2)})
  np.testing.assert_array_equal(state["x"], [1, 1])


def test_what_is_not_committed_is_ignored_and_then_removed(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=3)
  checkpoints.save(1, {"x": jnp.ones(2)}, {})
  checkpoints.save(2, {"x": jnp.ones(2)}, {})
  folder = tmp_path / "checkpoints"
  (folder / "2" / MARKER).unlink()
  (folder / "7").mkdir()
  (folder / "3.orbax-checkpoint-tmp-1").mkdir()
  (folder / "3.orbax-checkpoint-tmp-1" / "state").write_text("half")
  assert checkpoints.latest() == 1
  with pytest.raises(FileNotFoundError, match=r"committed steps: \[1\]"):
    checkpoints.restore(7, {"x": jnp.ones(2)})
  # A reader leaves alone what another process may be writing.
  checkpoints.restore(1, {"x": jnp.ones(2)})
  assert len(list(folder.iterdir())) == 4
  checkpoints.save(2, {"x": jnp.zeros(2)}, {})
  assert sorted(os.listdir(folder)) == ["1", "2"]
  state, _ = checkpoints.restore(2, {"x": jnp.ones(2)})
  np.testing.assert_array_equal(state["x"], [0, 0])


def test_retention_unmarks_before_it_deletes(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path, keep=1)
  checkpoints.save(1, {"x": jnp.ones(2)}, {})

  def killed(folder):
    raise KeyboardInterrupt(folder)

  monkeypatch.setattr("shutil.rmtree", killed)
  with pytest.raises(KeyboardInterrupt):
    checkpoints.save(2, {"x": jnp.ones(2)}, {})
  assert checkpoints.steps() == [2]


def test_a_state_that_does_not_fit_is_named(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=1)
  saved = {"x": jnp.ones((2, 3)), "y": [jnp.ones(2)], "key": jax.random.key(0)}
  checkpoints.save(1, saved, {})
  faults = {
    r"x is saved as .*\(2, 3\).* asked for as .*\(2, 4\)": {
      **saved,
      "x": jnp.ones((2, 4)),
    },
    r"x is saved as .*float32.* asked for as .*bfloat16": {
      **saved,
      "x": jnp.ones((2, 3), jnp.bfloat16),
    },
    "z is not saved": {**saved, "z": jnp.ones(1)},
    "y/0 is saved but not asked for": {"x": saved["x"], "key": saved["key"]},
    "key is saved as": {**saved, "key": jax.random.key(0, impl="rbg")},
  }
  for message, wanted in faults.items():
    with pytest.raises(ValueError, match=message):
      checkpoints.restore(1, wanted)


def test_bad_arguments_are_named(tmp_path):
  with pytest.raises(ValueError, match="keep = 0"):
    Checkpoints(tmp_path, keep=0)
  checkpoints = Checkpoints(tmp_path, keep=1)
  with pytest.raises(ValueError, match="state/a is empty"):
    checkpoints.save(1, {"a": jnp.ones((0, 2))}, {})
  with pytest.raises(TypeError, match=r"meta\.f"):
    checkpoints.save(1, {"a": jnp.ones(2)}, {"f": object()})
  assert checkpoints.latest() is None


KILLED = """
  import os, sys, threading
  import jax.numpy as jnp
  from mirl_jax.runs import checkpoints as module
  workdir, moment = sys.argv[1:]
  state = {str(i): jnp.full((256, 256), i) for i in range(40)}
  checkpoints = module.Checkpoints(workdir, keep=1)
  checkpoints.save(1, state, {"step": 1})
  if moment == "before the marker":
    module.write_atomic = lambda *_: os._exit(9)
  else:
    threading.Timer(float(moment), os._exit, (9,)).start()
  checkpoints.save(2, state, {"step": 2})
  threading.Event().wait()
"""


@pytest.mark.parametrize("moment", ["before the marker", "0.01", "0.03"])
def test_killed_while_saving_the_step_before_stands(tmp_path, moment):
  code, errors = _run(KILLED, tmp_path, moment)
  assert code == 9, errors
  checkpoints = Checkpoints(tmp_path, keep=1)
  step = checkpoints.latest()
  if moment == "before the marker":
    assert step == 1
    assert (tmp_path / "checkpoints/2").is_dir()
  assert step in (1, 2)
  state = {str(i): jnp.full((256, 256), i) for i in range(40)}
  restored, meta = checkpoints.restore(step, state)
  assert _bits(restored) == _bits(state)
  assert meta == {"step": step}
  checkpoints.save(3, state, {"step": 3})
  assert os.listdir(tmp_path / "checkpoints") == ["3"]


MESHES = """
  import sys
  import jax, jax.numpy as jnp, numpy as np
  from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
  from mirl_jax.runs.checkpoints import Checkpoints
  def on(shape, names, spec):
    types = (AxisType.Auto,) * len(shape)
    return NamedSharding(jax.make_mesh(shape, names, axis_types=types), spec)
  x = jnp.arange(64.).reshape(8, 8)
  line = on((8,), ("fsdp",), P("fsdp"))
  checkpoints = Checkpoints(sys.argv[1], keep=1)
  checkpoints.save(1, {"x": jax.device_put(x, line)}, {})
  grid = on((2, 4), ("data", "fsdp"), P("fsdp", "data"))
  wanted = {"x": jax.ShapeDtypeStruct((8, 8), x.dtype, sharding=grid)}
  state, _ = checkpoints.restore(1, wanted)
  assert state["x"].sharding == grid, state["x"].sharding
  assert {s.data.shape for s in state["x"].addressable_shards} == {(2, 4)}
  np.testing.assert_array_equal(state["x"], x)
"""


def test_restores_onto_another_mesh_and_fewer_devices(tmp_path):
  code, errors = _run(MESHES, tmp_path, devices=8)
  assert code == 0, errors
  shape = jax.ShapeDtypeStruct((8, 8), jnp.float32)
  state, _ = Checkpoints(tmp_path, keep=1).restore(1, {"x": shape})
  expected = np.arange(64.0, dtype=np.float32).reshape(8, 8)
  np.testing.assert_array_equal(state["x"], expected)
  assert len(state["x"].devices()) == 1


def test_the_best_step_stays_beside_the_last_ones(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=2)
  assert checkpoints.best() is None
  best = {}
  for step, value in ((1, 0.2), (2, 0.8), (3, 0.1), (4, 0.3), (5, 0.8)):
    best = better(best, "x", step, value)
    checkpoints.save(step, {"x": jnp.full(2, step)}, {}, best)
  assert checkpoints.steps() == [2, 4, 5]
  assert checkpoints.best() == 2
  state, _ = checkpoints.restore(2, {"x": jnp.zeros(2, jnp.int32)})
  np.testing.assert_array_equal(state["x"], [2, 2])
  # A better one: the old one goes.
  best = better(best, "x", 6, 0.9)
  checkpoints.save(6, {"x": jnp.full(2, 6)}, {}, best)
  assert checkpoints.steps() == [5, 6]
  assert checkpoints.best() == 6


def test_a_committed_step_may_turn_out_to_be_the_best(tmp_path):
  """Its evaluation was stopped, and done after a resume."""
  checkpoints = Checkpoints(tmp_path, keep=1)
  first = better({}, "x", 1, 0.5)
  checkpoints.save(1, {"x": jnp.ones(2)}, {}, first)
  checkpoints.save(2, {"x": jnp.ones(2)}, {}, first)
  assert checkpoints.best() == 1
  second = better(first, "x", 2, 0.7)
  assert not checkpoints.save(2, {"x": jnp.ones(2)}, {}, second)
  assert checkpoints.best() == 2
  checkpoints.save(3, {"x": jnp.ones(2)}, {}, second)
  assert checkpoints.steps() == [2, 3]


def test_a_best_step_that_is_gone_is_none(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=1)
  checkpoints.save(1, {"x": jnp.ones(2)}, {}, better({}, "x", 1, 0.5))
  checkpoints.save(2, {"x": jnp.ones(2)}, {})
  assert checkpoints.steps() == [2]
  assert checkpoints.best() is None
