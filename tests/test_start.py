"""What a run starts from, on this machine's one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mirl_jax import build, start
from mirl_jax import testing_runs as runs
from mirl_jax.learning.optimizer import make_optimizer
from mirl_jax.learning.state import new_state
from mirl_jax.runs.checkpoints import Checkpoints
from mirl_jax.train import train

LORA = (
  "--config.policy.train.vision=frozen",
  "--config.policy.train.merger=full",
  "--config.policy.train.text=lora",
  "--config.policy.lora.rank=2",
)


@pytest.fixture(scope="module", autouse=True)
def traced_once():
  with runs.traced_once():
    yield


def config(*overrides):
  return runs.small_config(*overrides)


def flat(tree):
  return flatten_dict(tree, sep="/")


def test_a_state_lies_where_the_rules_say():
  policy = build.make_policy(config())
  trained, frozen = start.start_params(config(), policy)
  assert frozen == {}
  optimizer = make_optimizer(config().optimizer.to_dict(), 3)
  state = start.place_state(new_state(trained, optimizer, True, True), policy)
  shapes = start.abstract(state)
  assert jax.tree.structure(shapes) == jax.tree.structure(state)
  for tree in (state.params, state.reference, state.ema):
    for x, sharding in zip(
      jax.tree.leaves(tree), jax.tree.leaves(policy.shardings), strict=True
    ):
      assert x.sharding == sharding
  # The copies are copies: the update gives the originals away.
  pointers = [
    {x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)}
    for tree in (state.params, state.reference, state.ema)
  ]
  assert not pointers[0] & pointers[1]
  assert not pointers[1] & pointers[2]


def test_trained_parameters_are_float32_whatever_the_others_are():
  half = config("--config.policy.param_dtype=bfloat16", *LORA)
  policy = build.make_policy(half)
  trained, frozen = start.start_params(half, policy)
  assert {x.dtype for x in jax.tree.leaves(trained)} == {jnp.dtype("float32")}
  kinds = {
    x.dtype for path, x in flat(frozen).items() if "lora_scale" not in path
  }
  assert kinds == {jnp.dtype("bfloat16")}


def checkpoint(workdir, step, ema):
  """Saves a state whose parameters are the start's, scaled by zero."""
  policy = build.make_policy(config())
  params = build.load_policy_params(config(), policy)
  params = jax.tree.map(lambda x: x * 0.0, params)
  state = new_state(
    params,
    make_optimizer(config().optimizer.to_dict(), 6),
    reference=False,
    ema=ema,
  )
  Checkpoints(workdir, 2).save(step, state, {"mode": "train"})


def test_roles_are_what_their_names_say(tmp_path):
  policy = build.make_policy(config())
  ema = config("--config.mi.scorer=ema")
  checkpoint(tmp_path, 3, ema=True)
  roles, step = start.load_roles(ema, str(tmp_path), policy)
  assert step == 3
  params = build.load_policy_params(config(), policy)

  def size(tree):
    return sum(float(np.abs(x).sum()) for x in jax.tree.leaves(tree))

  assert size(roles["policy"]) == size(roles["ema"]) == 0
  assert size(roles["reference"]) == size(params) > 0


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory):
  """Two steps with a KL to the reference, which has no copy here."""
  flags = (
    *LORA,
    *runs.UNMEASURED,
    "--config.train.steps=2",
    "--config.train.save_every=1",
    "--config.loss.kl.reason=0.1",
    "--config.optimizer.lr=0.01",
  )
  workdir = tmp_path_factory.mktemp("lora")
  assert train(config(*flags), str(workdir)) == 0
  return flags, workdir


def test_a_lora_run_saves_only_what_it_trains(lora_run):
  flags, workdir = lora_run
  saved = runs.saved_arrays(workdir)
  held = [name for name in saved if "params" in name]
  assert held
  for name in held:
    assert "merger" in name or "lora_a" in name or "lora_b" in name
  policy = build.make_policy(config(*flags))
  roles, step = start.load_roles(config(*flags), str(workdir), policy)
  assert step == 2
  base = build.load_policy_params(config(*flags), policy)
  ours = flat(roles["policy"])
  moved = {
    path for path, x in flat(base).items() if not np.array_equal(x, ours[path])
  }
  assert moved
  assert all(path.startswith("vision/merger/") for path in moved)
  assert any(
    np.abs(x).max() > 0 for path, x in ours.items() if path.endswith("lora_b")
  )
  jax.tree.map(np.testing.assert_array_equal, roles["reference"], base)


def test_an_earlier_checkpoint_is_read_where_asked_for(lora_run):
  flags, workdir = lora_run
  policy = build.make_policy(config(*flags))
  early, step = start.load_roles(config(*flags), str(workdir), policy, 1)
  assert step == 1
  late, _ = start.load_roles(config(*flags), str(workdir), policy)
  one, two = flat(early["policy"]), flat(late["policy"])
  assert any(not np.array_equal(one[path], two[path]) for path in one)
  jax.tree.map(
    np.testing.assert_array_equal, early["reference"], late["reference"]
  )


def test_a_lora_run_resumes_bitwise(lora_run, tmp_path):
  flags, workdir = lora_run
  for steps in (1, 2):
    again = config(*flags, f"--config.train.steps={steps}")
    assert train(again, str(tmp_path)) == 0
  want, got = runs.saved_arrays(workdir), runs.saved_arrays(tmp_path)
  assert want.keys() == got.keys()
  for name, value in want.items():
    np.testing.assert_array_equal(got[name], value, err_msg=name)
