import dataclasses
import pickle
import string

import numpy as np
import pytest

from mirl_jax.data.example import Facts
from mirl_jax.worlds.describe import (
  Fact,
  Item,
  check_description,
  describe,
  read,
  true_facts,
)
from mirl_jax.worlds.items import item_from_extra
from mirl_jax.worlds.questions import Question
from mirl_jax.worlds.scene import Bar, Scene, Thing

BOX = (0, 0, 9, 9)
SCENE = Scene(
  "shapes",
  (
    Thing("a", "red", "circle", "big", BOX),
    Thing("c", "blue", "square", "small", BOX),
    Thing("e", "green", "star", "big", BOX),
  ),
)
TOP = Item(SCENE, Question("count", "top row", ("red",)))
SIZE = Item(SCENE, Question("size", "top row", ("red",)))
CHART = Item(
  Scene("chart", (), (Bar(0, "red", 3), Bar(1, "blue", 1), Bar(2, "green", 4))),
  Question("chart", "chart", ("red",)),
)
TRUE = "a red circle, b nothing, c blue square"
SIZED = "a big red circle, b nothing, c small blue square"
BARS = "red three, blue one, green four"


@pytest.mark.parametrize(
  ("item", "text", "true", "false", "missing", "irrelevant"),
  [
    (TOP, TRUE, 3, 0, 0, 0),
    (TOP, "c blue square, a red circle, b nothing", 3, 0, 0, 0),
    (TOP, "  A Red\tCIRCLE ,b  nothing,\nc blue square ", 3, 0, 0, 0),
    (TOP, "", 0, 0, 3, 0),
    (TOP, " \n ", 0, 0, 3, 0),
    (TOP, "a red circle, b nothing", 2, 0, 1, 0),
    (TOP, "a blue circle, b nothing, c blue square", 2, 1, 0, 0),
    (TOP, "a red square, b nothing, c blue square", 2, 1, 0, 0),
    (TOP, "a nothing, b nothing, c blue square", 2, 1, 0, 0),
    (TOP, "a red circle, b red star, c blue square", 2, 1, 0, 0),
    (TOP, TRUE + ", e green star", 3, 0, 0, 1),
    (TOP, TRUE + ", d nothing", 3, 0, 0, 1),
    (TOP, TRUE + ", d red star", 3, 1, 0, 0),
    (TOP, TRUE + ", e green star, e green star", 3, 1, 0, 1),
    (TOP, TRUE + ", a red circle", 3, 1, 0, 0),
    (TOP, "a blue circle, a red circle, b nothing", 1, 2, 1, 0),
    (TOP, TRUE + ",", 3, 1, 0, 0),
    (TOP, TRUE + ", and so on", 3, 1, 0, 0),
    (TOP, TRUE + ", z red circle", 3, 1, 0, 0),
    (TOP, TRUE + ", ab nothing", 3, 1, 0, 0),
    (TOP, "a red circle b nothing c blue square", 0, 1, 3, 0),
    (TOP, "circle, square", 0, 2, 3, 0),
    (TOP, "a, b, c", 0, 3, 3, 0),
    (TOP, TRUE + ", red three", 3, 1, 0, 0),
    (TOP, "a big red circle, b nothing, c blue square", 3, 0, 0, 1),
    (TOP, "a small red circle, b nothing, c blue square", 2, 1, 0, 0),
    (SIZE, SIZED, 3, 0, 0, 0),
    (SIZE, TRUE, 1, 0, 2, 0),
    (SIZE, "a small red circle, b nothing", 1, 1, 1, 0),
    (SIZE, SIZED + ", e green star", 3, 0, 0, 1),
    (CHART, BARS, 3, 0, 0, 0),
    (CHART, "green four, red three, blue one", 3, 0, 0, 0),
    (CHART, "red four, blue one", 1, 1, 1, 0),
    (CHART, BARS + ", purple two", 3, 1, 0, 0),
    (CHART, BARS + ", red three", 3, 1, 0, 0),
    (CHART, "red 3, blue one, green four", 2, 1, 1, 0),
    (CHART, BARS + ", a nothing", 3, 1, 0, 0),
  ],
)
def test_verdicts(item, text, true, false, missing, irrelevant):
  facts = check_description(text, item)
  assert facts == Facts(true, false, missing, irrelevant)


@pytest.mark.parametrize("world", ["warm", "broken"])
def test_true_descriptions_are_exact(world, request):
  for item in request.getfixturevalue(world):
    facts = item.check(item.extra["true_description"])
    assert facts == Facts(3, 0, 0, 0)
    assert facts.exact


def test_hallucinated_descriptions_have_one_false_fact(warm):
  for item in warm:
    wrong = int(item.extra["hallucinated"])
    assert item.check(item.description) == Facts(3 - wrong, wrong, 0, 0)


def test_random_edits_against_counting(broken):
  """Drop, repeat and invent by known amounts; the counts must follow."""
  rng = np.random.default_rng(0)
  for item in broken[:600]:
    parts = item.description.split(", ")
    dropped = int(rng.integers(0, 4))
    kept = list(rng.permutation(parts)[dropped:])
    repeats = [kept[0]] * int(rng.integers(0, 3)) if kept else []
    junk = ["of course"] * int(rng.integers(0, 3))
    facts = item.check(", ".join([*kept, *repeats, *junk]))
    expected = Facts(len(kept), len(repeats) + len(junk), dropped, 0)
    assert facts == expected


def test_saying_and_reading_are_inverse(broken):
  for item in broken[:600]:
    facts = true_facts(item_from_extra(item.extra))
    sized = item.category == "size"
    if not sized:
      facts = tuple(dataclasses.replace(f, size="") for f in facts)
    assert read(describe(facts, sized)) == facts


def test_checker_is_total():
  rng = np.random.default_rng(1)
  letters = string.printable + "éß中\x00\u2028"
  words = [*"abcdefghi", "red", "circle", "nothing", "big", "two", ",", ", "]
  for _ in range(1500):
    noise = "".join(rng.choice(list(letters), size=rng.integers(0, 40)))
    soup = " ".join(rng.choice(words, size=rng.integers(0, 30)))
    for text in (noise, soup):
      for item in (TOP, SIZE, CHART):
        facts = check_description(text, item)
        assert 0 <= facts.true <= 3
        assert 0 <= facts.missing <= 3
        assert min(facts.false, facts.irrelevant) >= 0


def test_unreadable_parts_are_marked():
  assert read("a red circle, huh") == (Fact("a", "red", "circle"), None)


def test_check_is_picklable(broken):
  item = pickle.loads(pickle.dumps(broken[0]))
  assert item.check(item.description).exact
