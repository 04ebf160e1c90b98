"""The variants of the sampler benchmark do what they are compared for."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import sampler
from mirl_jax.rollout.sampler import Frontier, sample_stage

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def case():
  return sampler.make_case("tiny", rows=6, steps=5, dtype=jnp.float32)


@pytest.fixture(scope="module")
def ends(case):
  """The loop's last state and extras of every variant."""
  return {name: sampler.compiled(case, name)() for name in sampler.BODIES}


def test_the_whole_loop_is_the_samplers(case, ends):
  inputs = case.inputs
  frontier = Frontier(
    ancestors=inputs.ancestors,
    hidden=case.hidden,
    position=inputs.begin[:, :1],
    index=jnp.zeros((2, 1), jnp.int32),
  )
  level, _ = jax.jit(
    lambda params: sample_stage(
      params,
      inputs.config,
      inputs.stage,
      inputs.stop,
      frontier,
      inputs.keys,
      has_children=False,
    )
  )(inputs.params)
  record = ends["bookkeeping"][0].record
  np.testing.assert_array_equal(level.tokens[:, 0], record.tokens)
  np.testing.assert_allclose(level.logprobs[:, 0], record.logprobs, atol=1e-5)


def test_a_variant_computes_what_the_next_one_does(case, ends):
  whole = ends["bookkeeping"][0]
  # Those that draw fed the same tokens as the whole loop.
  for name in ("draw", "log-prob"):
    np.testing.assert_allclose(ends[name][0].hidden, whole.hidden, atol=1e-5)
  np.testing.assert_allclose(
    ends["log-prob"][1]["logprob"], whole.record.logprobs[..., -1], atol=1e-5
  )
  # The others fed what was given, and only that.
  for name in ("head", "bits"):
    np.testing.assert_allclose(
      ends[name][0].hidden, ends["decode"][0].hidden, atol=1e-5
    )
  assert np.abs(whole.hidden - ends["decode"][0].hidden).max() > 1e-3
  for name, extras in {
    "decode": set(),
    "head": {"logits"},
    "bits": {"logits", "uniform"},
    "draw": set(),
    "log-prob": {"logprob"},
  }.items():
    assert set(ends[name][1]) == extras
  assert ends["bits"][1]["logits"].shape == (2, 3, 512)
  uniform = np.asarray(ends["bits"][1]["uniform"])
  assert len(np.unique(uniform)) == 6
  for name, (loop, _) in ends.items():
    assert loop.step == 5, name


def test_truncation_changes_what_is_drawn(case, ends):
  # Logits of the random model are near uniform: half a nucleus is cut off.
  tokens = {
    name: np.asarray(ends[name][0].record.tokens)
    for name in ("bookkeeping", "top-p", "top-k")
  }
  assert (tokens["top-p"] != tokens["bookkeeping"]).any()
  assert (tokens["top-k"] != tokens["bookkeeping"]).any()


def test_the_table_compares_within_a_round():
  base = np.array([2.0, 8.0, 4.0])
  took = {
    name: list(base * (1 + 0.25 * i)) for i, name in enumerate(sampler.BODIES)
  }
  rows = sampler.table(took, steps=1000)
  assert rows["decode"] == {"ms_per_token": 4.0}
  for i, name in enumerate(list(sampler.BODIES)[1:6], 1):
    assert rows[name]["ms_per_token"] == 4 * (1 + 0.25 * i)
    assert rows[name]["added_ms"] == 1.0
    assert rows[name]["share_of_decode"] == 0.25
  assert rows["top-k"]["against"] == rows["top-p"]["against"] == "bookkeeping"
  assert rows["top-k"]["added_ms"] == 2 * rows["top-p"]["added_ms"]


def test_rounds_take_turns():
  calls = []
  work = {name: lambda name=name: calls.append(name) for name in "abc"}
  took = sampler.rounds(work, pairs=2)
  assert "".join(calls) == "abcabcabc"
  assert {name: len(each) for name, each in took.items()} == dict.fromkeys(
    "abc", 2
  )


def test_rows_must_be_shared_equally():
  with pytest.raises(ValueError, match="--rows=7 must be a multiple of 2"):
    sampler.make_case("tiny", rows=7, steps=2, dtype=jnp.float32)


@pytest.mark.slow
def test_the_report():
  done = subprocess.run(
    [
      *(sys.executable, "-m", "benchmarks.sampler", "--config=tiny"),
      *("--pairs=2", "--rows=4", "--tokens=3"),
    ],
    cwd=_ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads(done.stdout)
  assert list(report["variants"]) == list(sampler.BODIES)
  assert (report["rows"], report["questions"], report["steps"]) == (4, 2, 3)
  assert all(row["ms_per_token"] > 0 for row in report["variants"].values())
