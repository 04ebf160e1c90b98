"""How many prompts fit, counted before the first step."""

import pytest

from mirl_jax.data.example import Example
from mirl_jax.data.folder import fitting
from mirl_jax.data.lengths import Overlong, check_lengths, refuse
from mirl_jax.data.source import BadRow, Mapped, TooManyBadRows


class Rows:
  """Prompts of 0 to n - 1 tokens; every tenth row is bad."""

  def __init__(self, n):
    self.n = n

  def __len__(self):
    return self.n

  def __getitem__(self, index):
    if index % 10 == 3:
      raise BadRow(f"row {index}", "torn")
    return Example(f"row {index}", (), "?", "a")


def source(n, limit):
  def measure(example):
    return int(example.id.split()[1]), 0

  return Mapped(Rows(n), fitting(measure, limit, 0))


def test_all_rows_are_counted_where_they_are_few():
  found = check_lengths(source(100, 69))
  assert (found.rows, found.total, found.unusable) == (100, 100, 10)
  assert found.overlong == 27  # 70 to 99 without 73, 83 and 93
  assert "27 do not fit, of all 100 rows, 10 unusable" in str(found)
  assert "add to data.prompt_buckets" in str(found)
  assert str(check_lengths(source(100, 99))) == (
    "prompt lengths: all fit, of all 100 rows, 10 unusable"
  )


def test_many_rows_are_sampled_fairly_and_alike_in_every_run():
  found = check_lengths(source(5000, 3999), 500)
  assert found == check_lengths(source(5000, 3999), 500)
  assert (found.rows, found.total) == (500, 5000)
  assert abs(found.overlong / 500 - 0.18) < 0.06
  assert "of 500 of 5000 rows" in str(found)


def test_a_run_that_could_not_go_on_is_not_begun():
  refuse(Overlong(100, 100, 50, 10, "x"), 0.2)
  with pytest.raises(TooManyBadRows, match="more than data.max_bad_share=0.2"):
    refuse(Overlong(100, 100, 50, 11, "x"), 0.2)
  refuse(Overlong(10, 10, 10, 0, ""), 0.0)
