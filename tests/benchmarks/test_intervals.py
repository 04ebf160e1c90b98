"""Intervals against sets of the whole numbers that they hold."""

import itertools

import numpy as np
import pytest

from benchmarks.speed.intervals import clip, gaps, length, union

_SIZE = 40


def points(intervals):
  return {x for begin, end in intervals for x in range(begin, end)}


def random_intervals(seed):
  rng = np.random.default_rng(seed)
  begins = rng.integers(0, _SIZE, rng.integers(0, 9))
  widths = rng.integers(0, 9, begins.size)  # some empty, some touching
  return [(int(a), int(a + w)) for a, w in zip(begins, widths, strict=True)]


@pytest.mark.parametrize("seed", range(60))
def test_union_clip_and_gaps_equal_sets(seed):
  some = random_intervals(seed)
  begin, end = sorted(np.random.default_rng(seed + 1000).integers(0, _SIZE, 2))
  within = (int(begin), int(end))
  inside = set(range(*within))

  joined = union(some)
  assert points(joined) == points(some)
  assert length(joined) == len(points(some))
  # Disjoint, in order, and as few as possible: a hole between any two.
  assert all(a[1] < b[0] for a, b in itertools.pairwise(joined))

  assert points(clip(some, within)) == points(some) & inside
  holes = gaps(some, within)
  assert points(holes) == inside - points(some)
  assert all(a[1] < b[0] for a, b in itertools.pairwise(holes))
