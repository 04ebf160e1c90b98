"""Every speed benchmark runs and prints what it promises; no time is judged."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.speed import compare, workers
from benchmarks.speed.cost import Branch, group_cost, question_flops
from benchmarks.speed.model import SIZES, vlm_config
from mirl_jax.policy.abstract import abstract_params
from mirl_jax.policy.configs import VLMConfig

_ROOT = Path(__file__).parents[1]


def run(name: str, *flags: str) -> dict:
  """The JSON object of a benchmark at its smallest."""
  done = subprocess.run(
    [sys.executable, "-m", f"benchmarks.{name}", "--config=tiny", *flags],
    cwd=_ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout)


def check_contenders(report: dict, pairs: int) -> None:
  for figures in report["contenders"].values():
    assert len(figures["wall_s"]) == len(figures["cpu_s"]) == pairs
    assert figures["tokens_per_s"] > 0
    assert figures["peak_mb"] >= figures["above_loaded_mb"]
  for ratio in report["ratio"].values():
    assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rollout", "score", "update"])
def test_against_transformers(name):
  report = run(name, "--pairs=2", "--questions=3", "--samples=5")
  assert set(report["ratio"]) == {"torch/tree", "torch/flat", "flat/tree"}
  assert set(report["contenders"]) == {"torch", "flat", "tree"}
  check_contenders(report, pairs=2)
  assert report["agreement"]
  sizes = SIZES["tiny"]
  length = sizes.new_tokens if name == "rollout" else sizes.response
  assert report["flops"]["tree_tokens"] == 3 * (sizes.prompt + 5 * length)
  assert report["flops"]["flat_tokens"] == 15 * (sizes.prompt + length)


@pytest.mark.slow
def test_step_against_trl():
  pytest.importorskip("trl")
  report = run("step", "--pairs=1")
  check_contenders(report, pairs=1)
  sizes = SIZES["tiny"]
  generated = report["agreement"]["generated"]
  each = sizes.samples * sizes.new_tokens
  assert generated["trl"] == generated["grpo"] == sizes.update_questions * each
  half = sizes.new_tokens // 2
  assert generated["mirl"] == sizes.update_questions * (10 + 12) * half


@pytest.mark.slow
def test_scaling():
  report = run(
    "scaling",
    "--pairs=1",
    "--groups=2,3",
    "--prompts=7",
    "--responses=5",
    "--point=2,6,4",
  )
  groups = report["rows"]["group"]
  assert [row["ideal_tokens"] for row in groups] == [14, 18]
  mirl = report["rows"]["two stages"][-1]
  assert mirl["ideal_tokens"] == 6 + 10 * 2 + 6 * 2 * 2
  assert set(mirl["seconds"]) == {"sample", "score", "update"}


def test_a_failing_worker_shows_its_log(tmp_path):
  with (
    workers.started({"x": "benchmarks.no_such_module"}) as found,
    pytest.raises(RuntimeError, match="no_such_module"),
  ):
    found["x"].ask("setup")


def test_agreement_is_demanded():
  same = {"a": {"loss": 1.0}, "b": {"loss": 1.00001}}
  assert compare.relative_gaps(same, "loss", 1e-4)
  for other in (1.001, float("nan")):
    checks = {"a": {"loss": 1.0}, "b": {"loss": other}}
    with pytest.raises(ValueError, match="not the same task"):
      compare.relative_gaps(checks, "loss", 1e-4)


def test_ratio_pairs_rounds():
  times = {
    "slow": [{"wall_s": x} for x in (2.0, 9.0, 4.0)],
    "fast": [{"wall_s": x} for x in (1.0, 1.0, 4.0)],
  }
  found = compare.ratio(times, "slow", "fast")
  assert found == {"median": 2.0, "min": 1.0, "max": 9.0}


def matrix_flops(config: VLMConfig, patches: int, text: int) -> int:
  """Twice each matrix's size times the rows that pass through it."""
  leaves = jax.tree_util.tree_flatten_with_path(abstract_params(config))[0]
  total = 0
  for path, leaf in leaves:
    name = "/".join(key.key for key in path)
    if not name.endswith("kernel"):
      continue
    rows = text if name.startswith("text") else patches
    if "merger" in name:
      rows = patches // config.vision.merge_unit
    total += 2 * rows * int(np.prod(leaf.shape))
  return total


@pytest.mark.parametrize("name", SIZES)
def test_flops_count_every_matrix(name):
  sizes = SIZES[name]
  config, patches = vlm_config(sizes), 4 * sizes.image_tokens
  branches = [Branch(3, 5), Branch(4, 2, above=5)]
  prompt, text = sizes.prompt, sizes.prompt + 15 + 8
  found = question_flops(config, patches, prompt, branches)
  c, v = config.text, config.vision
  head = 2 * 23 * c.width * c.vocab
  # Attention, a query at a time: keys that it reads.
  read = sum(range(1, prompt + 1))
  read += 3 * sum(prompt + i for i in range(1, 6))
  read += 4 * sum(prompt + 5 + i for i in range(1, 3))
  attention = 4 * read * c.layers * c.width
  windows = v.depth - len(v.full_blocks)
  keys = windows * v.window_patches + len(v.full_blocks) * patches
  attention += 4 * patches * keys * v.width
  assert found == matrix_flops(config, patches, text) + head + attention


def test_ideal_ratio_grows_with_the_group():
  config = vlm_config(SIZES["small"])
  ratios = [
    group_cost(config, 256, 128, samples, 192)["ideal_ratio"]
    for samples in (1, 4, 16)
  ]
  assert ratios[0] == 1
  assert ratios == sorted(ratios)
