"""Shares of a mix and of weights, and orders that repeat."""

import numpy as np
import pytest

from mirl_jax.data.example import Example
from mirl_jax.data.mix import MOST, Mixed, Weighted, parse_mix
from mirl_jax.data.source import BadRow


def rows(count, name=""):
  return [Example(f"{name}{i}", (), "?", "a", group="g") for i in range(count)]


def ids(source):
  return [source[i].id for i in range(len(source))]


def test_parts_and_weights_are_read():
  assert parse_mix("a*2, b/c*0.5") == [("a", 2.0), ("b/c", 0.5)]
  assert parse_mix("a,b") == [("a", None), ("b", None)]
  assert parse_mix("tfds:x/y:/z*3,b*1")[0] == ("tfds:x/y:/z", 3.0)


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("a,,b", "empty part"),
    ("*2,b*1", "empty part"),
    ("a*x,b*1", "no weight above 0"),
    ("a*0,b*1", "no weight above 0"),
    ("a*-1,b*1", "no weight above 0"),
    ("a*inf,b*1", "no weight above 0"),
    ("a*2,b", "every part or to none"),
  ],
)
def test_bad_mixes_are_named(text, said):
  with pytest.raises(ValueError, match=said):
    parse_mix(text)


def test_shares_hold_over_any_stretch_and_no_row_is_left_out():
  rng = np.random.default_rng(0)
  for _ in range(60):
    sizes = rng.integers(1, 40, rng.integers(2, 5))
    weights = rng.uniform(0.5, 4, len(sizes))
    names = [chr(97 + k) for k in range(len(sizes))]
    source = Mixed(names, [rows(int(n)) for n in sizes], weights.tolist())
    found = ids(source)
    for name, size in zip(names, sizes, strict=True):
      assert {f"{name}/{i}" for i in range(size)} <= set(found)
    share = weights / weights.sum()
    start, end = sorted(rng.integers(0, len(found) + 1, 2))
    parts = [text.partition("/")[0] for text in found[start:end]]
    for name, expected in zip(names, share, strict=True):
      # An epoch holds whole rows: half a row in all, one at each end.
      assert abs(parts.count(name) - expected * len(parts)) <= 2


def test_without_weights_every_row_comes_once():
  found = ids(Mixed(["a", "b"], [rows(3), rows(7)]))
  assert len(found) == len(set(found)) == 10


def test_ids_groups_and_bad_rows_name_their_part():
  class Torn(list):
    def __getitem__(self, index):
      raise BadRow("row 1", "torn")

  source = Mixed(["a", "b"], [rows(1), Torn([0])])
  assert (source[0].id, source[0].group) == ("a/0", "a/g")
  with pytest.raises(BadRow, match="b/row 1: torn"):
    source[1]


def test_an_endless_epoch_is_refused():
  with pytest.raises(ValueError, match="give weights that differ less"):
    Mixed(["a", "b"], [rows(10), rows(10)], [1e-6, 1.0])


def test_rows_are_drawn_in_proportion_to_their_weights():
  rng = np.random.default_rng(1)
  for _ in range(40):
    weights = rng.uniform(0.2, 3, rng.integers(1, 50))
    weights[rng.random(len(weights)) < 0.2] = 0
    weights[0] = 1.0
    source = Weighted(rows(len(weights)), weights)
    found = ids(source)
    counts = np.array([found.count(str(i)) for i in range(len(weights))])
    expected = weights / weights.sum() * len(found)
    assert np.abs(counts - expected).max() < 1 + 1e-6
    assert np.all((counts == 0) == (weights == 0))


def test_weights_that_differ_too_much_are_cut_and_told():
  weights = np.ones(50)
  weights[3] = 1e-9
  source = Weighted(rows(50), weights)
  assert len(source) == MOST * 50
  assert "1 rows never" in source.told
  assert "3" not in ids(source)


def test_a_row_without_weight_is_drawn_as_an_average_one():
  found = ids(Weighted(rows(3), [np.nan, 1.0, 3.0]))
  assert abs(found.count("0") / len(found) - 1 / 3) < 0.1
  with pytest.raises(ValueError, match="no row has a weight above 0"):
    Weighted(rows(2), [0.0, 0.0])


def test_names_of_sources_follow_what_they_depend_on():
  one = Weighted(rows(3), [1.0, 2.0, 3.0])
  assert repr(one) == repr(Weighted(rows(3), [1.0, 2.0, 3.0]))
  assert repr(one) != repr(Weighted(rows(3), [3.0, 2.0, 1.0]))
  assert repr(Mixed("ab", [one, one], [1.0, 2.0])) != repr(
    Mixed("ab", [one, one])
  )
