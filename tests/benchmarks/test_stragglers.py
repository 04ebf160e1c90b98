"""What the benchmark reckons, against loops told row by row."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import stragglers
from mirl_jax.runs.rollouts import Node, prompt_node, write_rollouts

ROOT = Path(__file__).parents[2]
STEP = {1: 1.0, 2: 1.5, 4: 2.0, 8: 3.5}
MOVE = {2: 0.2, 4: 0.3, 8: 0.5}


def told_row_by_row(lengths):
  """Seconds and halvings of a loop that keeps a list of who lives."""
  alive, rows, at, total, halvings = list(lengths), len(lengths), 0, 0.0, 0
  while any(length > at for length in alive):
    while rows > 1 and sum(length > at for length in alive) <= rows // 2:
      alive = sorted(alive)[-(rows // 2) :]
      total += MOVE[rows]
      rows //= 2
      halvings += 1
    total += STEP[rows]
    at += 1
  return total, halvings


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_compaction_is_reckoned_as_a_loop_would_go(seed, rows):
  lengths = np.random.default_rng(seed).integers(1, 12, rows)
  seconds, halvings = stragglers.compacted(lengths, STEP, MOVE)
  wanted = told_row_by_row(lengths.tolist())
  assert (pytest.approx(seconds), halvings) == wanted


def test_idle_rows_are_those_behind_the_longest():
  assert stragglers.idle_share(np.array([3, 3, 3])) == 0
  assert stragglers.idle_share(np.array([1, 4, 1, 2])) == 0.5


def test_equal_lengths_save_nothing_and_one_straggler_much():
  equal = stragglers.judge(lambda rng, n: np.full(n, 9), 8, 3, STEP, MOVE)
  assert equal["saved"] == equal["idle_share"] == equal["halvings"] == 0
  assert not equal["pays"]
  late = np.array([1] * 7 + [20])
  found = stragglers.judge(lambda rng, n: late, 8, 3, STEP, MOVE)
  assert found["halvings"] == 3
  assert found["saved"] == pytest.approx(1 - (3.5 + 1.0 + 19) / (20 * 3.5))
  assert found["saved_if_moves_were_free"] > found["saved"]
  assert found["pays"]
  dear = stragglers.judge(
    lambda rng, n: late, 8, 3, STEP, dict.fromkeys(MOVE, 100.0)
  )
  assert dear["saved"] < 0
  assert not dear["pays"]


def test_distributions_have_their_lengths():
  rng = np.random.default_rng(0)
  for name, given in stragglers.distributions(128).items():
    lengths = given(rng, 20_000)
    assert lengths.min() >= 1
    assert lengths.max() <= 128
    if name.startswith("geometric"):
      mean = float(name.split()[-1])
      # E min(X, m) of a geometric X is mean (1 - (1 - 1 / mean)^m).
      cut = mean * (1 - (1 - 1 / mean) ** 128)
      assert lengths.mean() == pytest.approx(cut, rel=0.03)
    else:
      assert np.median(lengths) == pytest.approx(32, abs=1.5)


def test_dumped_lengths_are_drawn_by_stage(tmp_path):
  def node(stage, number, tokens):
    return Node("q", stage, number, 0, "text", tokens)

  for step, tokens in ((1, 5), (3, 7)):
    nodes = [prompt_node("q", "?", "!", 99), node("see", 0, tokens)]
    write_rollouts(tmp_path, step, [*nodes, node("think", 0, 10 * tokens)])
  found = stragglers.dumped(str(tmp_path))
  rng = np.random.default_rng(0)
  drawn = {name: set(given(rng, 50).tolist()) for name, given in found.items()}
  assert drawn == {"dumped, see": {5, 7}, "dumped, think": {50, 70}}
  with pytest.raises(ValueError, match="no dumped rollouts"):
    stragglers.dumped(str(tmp_path / "none"))


@pytest.mark.slow
def test_the_report_has_every_case_and_row_count():
  done = subprocess.run(
    [
      *(sys.executable, "-m", "benchmarks.stragglers", "--config=tiny"),
      *("--loop_rows=4", "--batches=5", "--repeats=1"),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads(done.stdout)
  assert set(report["decode_step_seconds"]) == {"1", "2", "4"}
  assert set(report["move_seconds"]) == {"2", "4"}
  assert set(report["cases"]) == set(stragglers.distributions(8))
  for found in report["cases"].values():
    assert 0 <= found["idle_share"] < 1
    assert found["pays"] == (found["saved"] >= report["worth"])
