import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from mirl_jax.runs.metrics import MetricsWriter, read_metrics
from mirl_jax.runs.rollouts import prompt_node, rollout_steps, write_rollouts


def _run(workdir, resume, steps, offset=0.0):
  with MetricsWriter(workdir, resume) as writer:
    for step in steps:
      writer.write(step, {"loss/total": step + offset, "n": step})


def test_rows_read_back_with_their_types(tmp_path):
  with MetricsWriter(tmp_path, None) as writer:
    writer.write(
      0,
      {
        "float": 0.5,
        "int": 2**60 + 1,
        "np": np.float32(0.25),
        "jax": jnp.float32(0.125),
        "bf16": jnp.bfloat16(2),
        "size one": np.ones(1),
      },
    )
    # Flushed: a reader sees the line while the run goes on.
    (row,) = read_metrics(tmp_path)
  assert row == {
    "step": 0,
    "float": 0.5,
    "int": 2**60 + 1,
    "np": 0.25,
    "jax": 0.125,
    "bf16": 2.0,
    "size one": 1.0,
  }


def test_non_finite_values_are_strict_json_and_come_back(tmp_path):
  with MetricsWriter(tmp_path, None) as writer:
    writer.write(1, {"a": float("nan"), "b": -math.inf, "c": 1.0})
  line = json.loads((tmp_path / "metrics.jsonl").read_text())
  assert line["a"] is None
  assert line["nonfinite"] == {"a": "nan", "b": "-inf"}
  (row,) = read_metrics(tmp_path)
  assert math.isnan(row["a"])
  assert row["b"] == -math.inf
  assert row["c"] == 1.0


@pytest.mark.parametrize("resume", [None, 0, 4, 9])
def test_resume_cuts_lines_and_rollouts(tmp_path, resume):
  _run(tmp_path, None, range(10))
  for step in (0, 4, 5, 9):
    write_rollouts(tmp_path, step, [prompt_node("q", "?", "!")])
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"step": 10, "loss/t')  # killed while writing
  start = 0 if resume is None else resume + 1
  _run(tmp_path, resume, range(start, 12), offset=100.0)
  rows = read_metrics(tmp_path)
  assert [r["step"] for r in rows] == list(range(12))
  assert [r["loss/total"] >= 100 for r in rows] == [
    s >= start for s in range(12)
  ]
  kept = [] if resume is None else [s for s in (0, 4, 5, 9) if s <= resume]
  assert rollout_steps(tmp_path) == kept


def test_tensorboard_shows_the_resumed_run_only(tmp_path):
  _run(tmp_path, None, range(6))
  _run(tmp_path, 2, range(3, 8), offset=100.0)
  board = event_accumulator.EventAccumulator(str(tmp_path))
  board.Reload()
  seen = {e.step: e.value for e in board.Scalars("loss/total")}
  assert seen == {s: float(s if s < 3 else s + 100) for s in range(8)}


def test_misuse_is_named(tmp_path):
  with MetricsWriter(tmp_path, None) as writer:
    writer.write(3, {"a": 1.0})
    with pytest.raises(ValueError, match="not after step 3"):
      writer.write(3, {"b": 1.0})
    with pytest.raises(ValueError, match=r"'b' has shape \(2,\)"):
      writer.write(4, {"b": jnp.ones(2)})
    with pytest.raises(ValueError, match="'step'"):
      writer.write(4, {"step": 4})
  assert [r["step"] for r in read_metrics(tmp_path)] == [3]
  with MetricsWriter(tmp_path, 3) as writer:
    with pytest.raises(ValueError, match="not after step 3"):
      writer.write(2, {"a": 1.0})


def test_secondary_writers_touch_nothing(tmp_path):
  _run(tmp_path, None, range(3))
  before = sorted(tmp_path.rglob("*"))
  with MetricsWriter(tmp_path, None, primary=False) as writer:
    writer.write(0, {"a": 1.0})
  assert sorted(tmp_path.rglob("*")) == before
  assert len(read_metrics(tmp_path)) == 3


def test_no_file_has_no_rows(tmp_path):
  assert read_metrics(tmp_path) == []
