import collections
import dataclasses

import numpy as np

from mirl_jax.worlds.demonstrate import hallucinate, misleading
from mirl_jax.worlds.describe import Fact, read, true_facts
from mirl_jax.worlds.dials import WARM
from mirl_jax.worlds.items import item_from_extra, make_item
from mirl_jax.worlds.reason import reason
from mirl_jax.worlds.scene import USUAL


def within(hits, rate):
  """Whether a share lies within four standard errors of a rate."""
  return abs(np.mean(hits) - rate) < 4 * np.sqrt(rate * (1 - rate) / len(hits))


def test_hallucination_rate_where_one_is_possible(warm):
  possible = [
    item.extra["hallucinated"]
    for item in warm
    if misleading(true_facts(item_from_extra(item.extra)))
  ]
  assert len(possible) > 400
  assert within(possible, WARM.hallucinate)
  assert sum(possible) == sum(item.extra["hallucinated"] for item in warm)


def test_a_hallucination_says_the_usual_colour(warm):
  for item in warm:
    truth = read(item.extra["true_description"])
    said = read(item.description)
    changed = [(a, b) for a, b in zip(truth, said, strict=True) if a != b]
    assert len(changed) == item.extra["hallucinated"]
    for before, after in changed:
      assert after.color == USUAL[after.shape] != before.color
      assert dataclasses.replace(after, color=before.color) == before


def test_hallucination_needs_a_thing_of_another_colour():
  rng = np.random.default_rng(0)
  facts = (Fact("a", "red", "circle"), Fact("b"), Fact("red", height=3))
  assert hallucinate(facts, 1.0, rng) == facts


def test_reasonings_follow_the_description_said(warm):
  for item in warm:
    if item.extra["slipped"]:
      continue
    question = item_from_extra(item.extra).question
    expected = reason(read(item.description), question)
    assert expected == (item.reasoning, item.extra["demonstrated_answer"])


def test_slip_rate(warm):
  slipped = [item.extra["slipped"] for item in warm]
  # A slip at "odd" may find no colour to confuse: under 1 % of all.
  assert within(slipped, WARM.slip)


def test_slips_usually_spoil_the_answer():
  dials = dataclasses.replace(WARM, hallucinate=0.0, slip=1.0)
  spoiled = collections.defaultdict(list)
  for index in range(500):
    item = make_item(2, index, dials, "train")
    wrong = item.extra["demonstrated_answer"] != item.answer
    spoiled[item.category].append(wrong)
  for kind, wrong in spoiled.items():
    assert np.mean(wrong) > 0.5, kind


def test_a_perfect_teacher_is_right(broken):
  for item in broken:
    assert item.description == item.extra["true_description"]
    assert item.extra["demonstrated_answer"] == item.answer
    assert not item.extra["hallucinated"]
    assert not item.extra["slipped"]
