import math
import re

import pytest

from mirl_jax.runs import summary

BEFORE = {
  "eval/sampled/accuracy": 0.371,
  "eval/sampled/accuracy_se": 0.011,
  "tokens_per_answer": 51.3,
  "tokens_per_answer_se": 0.41,
  "zebra": 1234.5,
}
AFTER = {
  "eval/sampled/accuracy": 0.742,
  "eval/sampled/accuracy_se": 0.012,
  "eval/greedy/accuracy": 0.83,
  "tokens_per_answer": 54.9,
  "tokens_per_answer_se": 0.38,
  "zebra": float("nan"),
}


def test_table_is_aligned_and_holds_the_figures():
  lines = summary.table(BEFORE, AFTER).split("\n")
  assert re.split("  +", lines[2]) == [
    "sampled accuracy",
    "37.1 ± 1.1 %",
    "74.2 ± 1.2 %",
    "+37.1 ± 1.6 %",
  ]
  ends = [len(line) for line in lines]
  assert len({*ends}) == 1, "the last column is flush right"
  assert [line[:6] for line in lines[3:]] == ["greedy", "tokens", "zebra "]
  assert "-" in lines[3]  # greedy was not measured before
  assert "nan" in lines[5]


def test_error_of_a_change_adds_in_quadrature():
  (row,) = summary.rows({"x": 1.0, "x_se": 0.3}, {"x": 5.0, "x_se": 0.4})
  assert row.change == "+4.00 ± 0.50"
  (row,) = summary.rows({"x": 1.0, "x_se": 0.3}, {"x": 5.0})
  assert "±" not in row.change
  assert row.before == "1.00 ± 0.30"


@pytest.mark.parametrize(
  ("value", "error", "share", "text"),
  [
    (0.5, 0.0123, True, "50.0 ± 1.2 %"),
    (12345.6, 210.0, False, "12,346 ± 210"),
    (0.00123, 0.00004, False, "0.001230 ± 0.000040"),
    (0.0, None, False, "0.00"),
    (None, None, True, "-"),
    (math.inf, None, True, "inf"),
  ],
)
def test_figures_carry_the_digits_of_their_error(value, error, share, text):
  assert summary.format_figure(value, error, share) == text


def test_summary_round_trips(tmp_path):
  summary.write_summary(tmp_path, BEFORE, AFTER, {"seconds": 12.5})
  read = summary.read_summary(tmp_path)
  assert read["before"] == BEFORE
  assert repr(read["after"]) == repr(AFTER)
  assert read["seconds"] == 12.5
  with pytest.raises(ValueError, match="before"):
    summary.write_summary(tmp_path, {}, {}, {"before": 1})
  assert repr(summary.read_summary(tmp_path)) == repr(read)


def test_absent_and_secondary(tmp_path):
  assert summary.write_summary(tmp_path, {}, {}, {}, primary=False) is None
  with pytest.raises(FileNotFoundError, match="not finished"):
    summary.read_summary(tmp_path)


def test_one_group_has_no_error():
  assert summary.format_figure(0.75, math.nan, True) == "75.0 %"
  assert summary.format_figure(0.75, 0.25, True) == "75.0 ± 25.0 %"
