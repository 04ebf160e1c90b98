import itertools
import math

import numpy as np
import pytest

from mirl_jax.data import buckets
from mirl_jax.data.example import Example
from mirl_jax.data.source import BadRow, Mapped


def needs_of(seed, most=9):
  rng = np.random.default_rng(seed)
  values = rng.choice(200, rng.integers(1, most), replace=False)
  return {int(n): float(rng.random()) for n in values}


def brute(needs, count):
  """Least expected slots over every choice of sizes, by number of sizes."""
  values = sorted(n for n in needs if n)
  return [
    min(
      buckets.expected(needs, [*some, values[-1]])
      for some in itertools.combinations(values[:-1], k)
    )
    for k in range(min(count, len(values)))
  ]


@pytest.mark.parametrize("rest", [0, 50])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(25))
def test_sizes_are_as_good_as_the_best_and_no_more_than_they_need(
  seed, count, rest
):
  needs = needs_of(seed)
  sizes = buckets.best_sizes(needs, count, rest)
  if not any(needs):
    assert sizes == ()
    return
  best = brute(needs, count)
  enough = (1 + buckets.WORTH) * (min(best) + rest)
  fewest = 1 + next(i for i, x in enumerate(best) if x + rest <= enough + 1e-9)
  assert len(sizes) == fewest
  assert buckets.expected(needs, sizes) == pytest.approx(best[fewest - 1])
  assert list(sizes) == sorted(set(sizes))
  assert set(sizes) <= set(needs)
  assert sizes[-1] == max(needs)


def test_slots_beside_the_prompt_make_further_sizes_worthless():
  needs = {16: 1.0, 1024: 1.0}
  assert buckets.best_sizes(needs, 3) == (16, 1024)
  assert buckets.best_sizes(needs, 1) == (1024,)
  assert buckets.best_sizes(needs, 3, rest=10_000) == (1024,)


def test_a_need_of_nothing_needs_no_size():
  assert buckets.best_sizes({0: 1.0}, 3) == ()
  assert buckets.best_sizes({0: 9.0, 32: 1.0}, 3) == (32,)
  assert buckets.expected({0: 3.0, 30: 1.0}, (32,)) == 8
  # Without pictures there is a size all the same, and the least.
  found = buckets.choose([0, 0], 4, lambda n: buckets.round_patches(n, 36), 3)
  assert found == buckets.Chosen((36, 72), 0.0)
  assert buckets.choose([], 4, buckets.round_prompt, 3).sizes == (16, 32)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_longest_of_a_batch_against_every_batch(seed, batch):
  rng = np.random.default_rng(seed)
  sizes = rng.integers(1, 5, 6).tolist()
  found = buckets.longest_of(sizes, batch)
  drawn = [max(some) for some in itertools.product(sizes, repeat=batch)]
  for size in set(sizes):
    assert found[size] == pytest.approx(drawn.count(size) / len(drawn))
  assert sum(found.values()) == pytest.approx(1)


def test_a_larger_batch_makes_small_sizes_worthless():
  lengths = [60] * 90 + [600] * 10
  alone = buckets.choose(lengths, 1, buckets.round_prompt, 3)
  many = buckets.choose(lengths, 64, buckets.round_prompt, 3)
  assert alone.sizes == (64, 640, 1280)
  assert many.sizes == (640, 1280)
  # 10 of 100 alone are padded to 640 and the others to 64.
  mean = (90 * 60 + 10 * 600) / 100
  assert alone.padding == pytest.approx(1 - mean / (0.9 * 64 + 0.1 * 640))
  assert many.padding > alone.padding


def test_views_weigh_in():
  """Without its picture a long prompt is short, and so is a whole batch."""
  views = {32: 1.0}
  assert buckets.choose([1000], 8, buckets.round_prompt, 3).sizes[0] == 1024
  found = buckets.choose([1000], 8, buckets.round_prompt, 3, views=views)
  assert found.sizes == (32, 1024, 2048)
  assert found.padding == pytest.approx(1 - 1000 / 1024)


def test_needs_of_views():
  lengths, texts = [110, 40, 70], [10, 20, 30]  # pictures of 100, 20, 40
  removed = buckets.view_needs("removed", 1, lengths, texts, 4)
  assert removed == buckets.longest_of([16, 32, 32], 4)
  other = buckets.view_needs("other_same_question", 2, lengths, texts, 1)
  # Questions with the next one's picture: 30, 60 and 130.
  drawn = buckets.longest_of([32, 64, 144], 2)
  assert {n: w for n, w in other.items() if w} == pytest.approx(
    {n: 2 * w for n, w in drawn.items()}
  )
  assert max(other) >= 100 + 30
  assert buckets.view_needs("removed", 1, [], [], 4) == {}


@pytest.mark.parametrize("n", [0, 1, 16, 17, 255, 256, 257, 300, 1000])
def test_rounding(n):
  prompt = buckets.round_prompt(n)
  assert 0 <= prompt - n < (16 if n <= 256 else 64)
  assert prompt % (16 if n <= 256 else 64) == 0
  for window in (4, 36, 64, 100):
    slots = buckets.round_patches(n, window)
    assert slots >= n
    assert slots % window == 0
    step = window if n <= 256 else window * math.ceil(64 / window)
    assert slots - n < step


def test_all_measured_lengths_have_room_and_twice_the_longest():
  for seed in range(10):
    lengths = np.random.default_rng(seed).integers(1, 3000, 50).tolist()
    sizes = buckets.choose(lengths, 8, buckets.round_prompt, 3).sizes
    assert len(sizes) <= 4
    assert sizes[-2] >= max(lengths)
    assert sizes[-1] >= 2 * max(lengths)
    assert list(sizes) == sorted(set(sizes))


def test_rows_are_a_sample_without_the_bad_ones():
  def odd_is_bad(example):
    if int(example.id) % 2:
      raise BadRow(example.id, "odd")
    return example

  rows = [Example(str(i), (), "?", "1") for i in range(5000)]
  found = buckets.sample_rows(rows)
  assert len(found) == buckets.MEASURED
  ids = [int(e.id) for e in found]
  assert len(set(ids)) == buckets.MEASURED
  assert max(ids) > 4500  # of the whole, not of its head
  assert buckets.sample_rows(rows) == found
  few = buckets.sample_rows(Mapped(rows[:9], odd_is_bad))
  assert {e.id for e in few} == {"0", "2", "4", "6", "8"}


def test_the_line_tells_sizes_padding_and_room():
  line = buckets.told(
    {
      "prompt_buckets": buckets.Chosen((64, 96, 192), 0.07),
      "patch_buckets": buckets.Chosen((144, 288), 0.0),
    },
    512,
  )
  assert line == (
    "buckets: prompt 64, 96 (padding 7 %); patch 144 (padding 0 %) of 512"
    " measured prompts; longer ones fit up to 192 and 288"
  )
