"""The cases of the overlap benchmark; no time is judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import overlap
from mirl_jax import sampling, train

_ROOT = Path(__file__).parents[2]


def test_only_the_named_phase_is_delayed_and_all_is_undone(monkeypatch):
  naps = []
  monkeypatch.setattr(overlap.time, "sleep", naps.append)
  monkeypatch.setattr(sampling, "assess", lambda x: ("read", x))
  monkeypatch.setattr(train, "collect", lambda: "collected")
  before = sampling.assess, train.collect
  case = overlap.Case(parts=4, slow="judge")
  with overlap.watched(case, 2.0):
    assert sampling.assess(3) == ("read", 3)
    assert train.collect() == "collected"
    assert sampling.assess is not before[0]
  assert naps == [0.5]  # a quarter for each part
  assert (sampling.assess, train.collect) == before


def test_a_step_lasts_from_line_to_line():
  rows = [{"step": i, "wall_s": w} for i, w in enumerate((1, 3, 6, 10, 15))]
  # Neither the step that writes the trace nor the last one.
  assert overlap.step_seconds(rows, after=1) == [3, 4]
  with pytest.raises(ValueError, match="more --train_steps"):
    overlap.step_seconds(rows, after=3)


@pytest.mark.parametrize(
  ("steps", "trace", "delay", "questions", "message"),
  [
    (9, (3, 7), 0.0, 16, "--delay=0.0"),
    (9, (3, 7), 0.5, 6, "--questions=6"),
    (8, (3, 7), 0.5, 16, "--profile=3:7"),
    (9, (6, 7), 0.5, 16, "--profile=6:7"),
  ],
)
def test_bad_arguments_are_named(steps, trace, delay, questions, message):
  with pytest.raises(ValueError, match=message):
    overlap.measure(steps, trace, delay, questions)


@pytest.mark.slow
def test_overlap_runs(tmp_path):
  figure = tmp_path / "steps.png"
  done = subprocess.run(
    [
      *(sys.executable, "-m", "benchmarks.overlap", "--train_steps=5"),
      *("--profile=1:3", "--questions=4", f"--figure={figure}"),
    ],
    cwd=_ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads(done.stdout[done.stdout.index("{") :])
  assert set(report["cases"]) == set(overlap.CASES)
  for name, case in report["cases"].items():
    (step,) = case["traced_steps"]
    assert 0 <= step["idle_ms"] <= step["wall_ms"]
    assert step["longest_gap"]["ms"] <= step["idle_ms"] + 1e-3
    # Sampling and updating are the programs of a step.
    assert len(step["program_ms"]) >= 2
    slow = overlap.CASES[name].slow
    assert (case["delay_s"] > 0) == bool(slow) == ("hidden_share" in case)
    assert 0 <= case.get("hidden_share", 0) <= 1
  assert figure.read_bytes().startswith(b"\x89PNG")
