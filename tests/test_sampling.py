"""Parts of a batch draw, cost and teach what the whole does."""

import jax
import numpy as np
import pytest

from mirl_jax import batching, build
from mirl_jax import testing_runs as runs
from mirl_jax.rewards.own import OwnReward
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import samples
from mirl_jax.sampling import collect, launch
from mirl_jax.train import train


@pytest.fixture(scope="module", autouse=True)
def traced_once():
  with runs.traced_once():
    yield


@pytest.fixture(scope="module")
def setting():
  config = runs.small_config("--config.mi.view=other")
  policy = build.make_policy(config)
  program = build.make_program(config, True)
  mi = build.make_mi(config)
  stops = build.make_stops(program, policy.processor)
  rollout = Rollout(policy.config, program, stops, policy.mesh, mi)
  start = build.load_policy_params(config, policy)
  params = {"policy": start, "reference": start}
  source = build.make_source(config, "train")
  examples = list(build.first_examples(source, 4))
  batcher = batching.make_batcher(config, policy, mi)
  return policy, program, rollout, params, batcher, examples


def run(setting, parts):
  policy, _, rollout, params, batcher, examples = setting
  started = launch(rollout, params, batcher, examples, jax.random.key(3), parts)
  return started, *collect(started, policy, 0)


def test_rewards_of_ones_own_are_added_part_by_part(setting, tmp_path):
  policy, _, rollout, params, batcher, examples = setting
  file = tmp_path / "reward.py"
  file.write_text(
    "def score(example, text, siblings):\n"
    f"  return len(text) / (example.id != {examples[3].id!r})\n"
  )
  key = jax.random.key(3)
  started = launch(rollout, params, batcher, examples, key, 2)
  names = [(), ("own", "own_failed")]
  with OwnReward(str(file), names, 1, 60.0, 1024) as own_reward:
    _, got = collect(started, policy, 0, own_reward)
  assert "own" not in got.read[0].rewards
  leaf = got.read[1]
  lengths = [[len(path) for path in row] for row in leaf.paths]
  np.testing.assert_array_equal(
    leaf.rewards["own"].reshape(4, -1)[:3], lengths[:3]
  )
  assert np.isnan(leaf.rewards["own"][3]).all()
  assert leaf.rewards["own_failed"].sum() == len(lengths[3])
  assert got.fault == "ZeroDivisionError: division by zero (line 2)"


def test_parts_are_the_whole_in_order(setting):
  _, program, *_, examples = setting
  whole_parts, whole_tree, whole = run(setting, 1)
  assert len(whole_parts) == 1
  for count in (2, 4):
    started, tree, got = run(setting, count)
    assert [len(part.examples) for part in started] == [4 // count] * count
    assert [e.id for part in started for e in part.examples] == [
      e.id for e in examples
    ]
    for mine, want in zip(
      jax.tree.leaves(tree), jax.tree.leaves(whole_tree), strict=True
    ):
      # Sums of another batch size may round otherwise in the last bit.
      np.testing.assert_allclose(
        np.asarray(mine, np.float32),
        np.asarray(want, np.float32),
        rtol=1e-5,
        atol=1e-5,
      )
    for level, read, want in zip(got.levels, got.read, whole.read, strict=True):
      assert read.texts == want.texts
      assert read.paths == want.paths
      assert level.tokens.shape[0] == len(read.texts) == 4
      for name, value in read.rewards.items():
        np.testing.assert_array_equal(value, want.rewards[name])
  assert len(whole.levels) == len(samples(program))
  assert whole.waited > 0
  assert whole.judged > 0


def test_a_run_in_parts_learns_the_same(tmp_path):
  flags = ("--config.train.steps=2", *runs.UNMEASURED)
  rows = {}
  for parts in (1, 2):
    config = runs.small_config(*flags, f"--config.train.sample_parts={parts}")
    assert train(config, str(tmp_path / str(parts))) == 0
    rows[parts] = runs.untimed_metrics(tmp_path / str(parts))
  assert rows[1][-1].keys() == rows[2][-1].keys()
  for one, two in zip(rows[1], rows[2], strict=True):
    for name, value in one.items():
      if name.startswith("idle/"):  # a part waits for its own longest only
        assert two[name] <= value
        continue
      assert two[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_parts_must_share_out_the_questions(tmp_path):
  config = runs.small_config("--config.train.sample_parts=3")
  with pytest.raises(ValueError, match=r"questions=4: give a multiple of 3"):
    train(config, str(tmp_path))
  config = runs.small_config("--config.train.sample_parts=0")
  with pytest.raises(ValueError, match="sample_parts=0: give at least 1"):
    train(config, str(tmp_path))
