import itertools
import json

import pytest

from mirl_jax.runs.best import BEST_FILE, better, read_best, write_best

NAME = "eval/greedy/accuracy"
NAN = float("nan")


@pytest.mark.parametrize("values", itertools.product([0.1, 0.5, NAN], repeat=4))
def test_the_best_is_the_first_of_the_largest(values):
  best = {}
  for step, value in enumerate(values, 1):
    best = better(best, NAME, step, value)
  known = [value for value in values if value == value]
  if not known:
    assert best == {}
    return
  step = 1 + values.index(max(known))
  assert best == {"name": NAME, "step": step, "value": max(known)}


def test_a_step_that_was_best_by_another_figure_counts_no_longer():
  old = better({}, NAME, 3, 0.9)
  assert better(old, "eval/greedy/exact", 6, 0.1)["step"] == 6
  assert better(old, "eval/greedy/exact", 6, NAN) == {}


def test_what_is_written_is_read(tmp_path):
  assert read_best(tmp_path) == {}
  best = better({}, NAME, 3, 0.9)
  write_best(tmp_path, best)
  assert read_best(tmp_path) == best
  file = tmp_path / BEST_FILE
  assert json.loads(file.read_text())["step"] == 3
  before = file.stat().st_ino
  write_best(tmp_path, best)
  assert file.stat().st_ino == before  # nothing new to say
  write_best(tmp_path, {**best, "step": 6})
  assert read_best(tmp_path)["step"] == 6
