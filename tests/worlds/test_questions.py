import collections

import numpy as np
import pytest

from mirl_jax.worlds.dials import Dials
from mirl_jax.worlds.items import item_from_extra, make_item
from mirl_jax.worlds.questions import YES_NO, Question, sample_form
from mirl_jax.worlds.scene import CELLS, NUMBERS, REGIONS, USUAL

POINTS = {"circle": 1, "square": 2, "triangle": 3, "star": 4}


def brute_force(extra):
  """The answer from the scene graph's JSON, written without the package."""
  kind, args, scene = extra["kind"], extra["args"], extra["scene"]
  if kind == "chart":
    height = {bar["color"]: bar["height"] for bar in scene["bars"]}
    high, *low = args
    return NUMBERS[height[high] - (height[low[0]] if low else 0)]
  where, _, line = extra["region"].partition(" ")
  index = ["top", "middle", "bottom"] if line == "row" else None
  index = (index or ["left", "middle", "right"]).index(where)
  cells = [
    "abcdefghi"[3 * index + i if line == "row" else 3 * i + index]
    for i in range(3)
  ]
  things = [t for t in scene["things"] if t["cell"] in cells]

  def fit(word):
    return [t for t in things if word in (t["color"], t["shape"])]

  if kind == "exist":
    color, shape = args
    hits = [t for t in things if (t["color"], t["shape"]) == (color, shape)]
    return "yes" if hits else "no"
  if kind == "attribute":
    (thing,) = fit(args[1])
    return thing[args[0]]
  if kind == "size":
    (thing,) = fit(args[0])
    return thing["size"]
  if kind == "relation":
    (one,), (two,) = fit(args[0]), fit(args[1])
    axis = 0 if line == "row" else 1
    return "yes" if one["box"][axis] < two["box"][axis] else "no"
  if kind == "count":
    return NUMBERS[len(fit(args[0]))]
  if kind == "compare":
    return "yes" if len(fit(args[0])) > len(fit(args[1])) else "no"
  if kind == "add":
    return NUMBERS[sum(POINTS[t["shape"]] for t in things)]
  counts = collections.Counter(t["color"] for t in things)
  assert sorted(counts.values()) == [1, 2]
  return min(counts, key=counts.get)


@pytest.mark.parametrize("world", ["warm", "broken"])
def test_answers_equal_brute_force(world, request):
  for item in request.getfixturevalue(world):
    assert item.answer == brute_force(item.extra), item.question


@pytest.mark.parametrize(
  ("question", "text"),
  [
    (
      Question("exist", "top row", ("red", "circle")),
      "is there a red circle in the top row?",
    ),
    (
      Question("attribute", "left column", ("color", "circle")),
      "what color is the circle in the left column?",
    ),
    (
      Question("attribute", "left column", ("shape", "red")),
      "what shape is the red thing in the left column?",
    ),
    (
      Question("size", "middle row", ("star",)),
      "what size is the star in the middle row?",
    ),
    (
      Question("relation", "top row", ("circle", "square")),
      "is the circle left of the square in the top row?",
    ),
    (
      Question("relation", "right column", ("red", "blue")),
      "is the red thing above the blue thing in the right column?",
    ),
    (
      Question("count", "bottom row", ("red",)),
      "how many red shapes in the bottom row?",
    ),
    (
      Question("count", "bottom row", ("circle",)),
      "how many circles in the bottom row?",
    ),
    (
      Question("compare", "top row", ("red", "blue")),
      "are there more red than blue shapes in the top row?",
    ),
    (
      Question("compare", "top row", ("circle", "star")),
      "are there more circles than stars in the top row?",
    ),
    (Question("add", "top row"), "how many points in the top row?"),
    (
      Question("odd", "top row"),
      "which color is the odd one out in the top row?",
    ),
    (Question("chart", "chart", ("red",)), "how tall is the red bar?"),
    (
      Question("chart", "chart", ("red", "blue")),
      "how much taller is the red bar than the blue bar?",
    ),
  ],
)
def test_question_texts(question, text):
  assert question.text == text


def test_answers_are_balanced(broken):
  answers = collections.defaultdict(collections.Counter)
  for item in broken:
    kind = item.category
    if kind in ("attribute", "chart"):
      kind = f"{kind} {len(item.extra['args'])} {item.extra['args'][0]}"
      kind = kind if kind.startswith("attribute") else kind[:7]
    answers[kind][item.answer] += 1
  expected = {
    **dict.fromkeys((*YES_NO, "size"), 2),
    "attribute 2 color": 5,
    "attribute 2 shape": 4,
    "count": 4,
    "add": 13,
    "odd": 5,
    "chart 1": 4,
    "chart 2": 3,
  }
  assert set(answers) == set(expected)
  for kind, number in expected.items():
    counts = answers[kind]
    total = sum(counts.values())
    assert len(counts) == number, kind
    even = total / number
    bound = 4.5 * np.sqrt(even * (1 - 1 / number))
    assert all(abs(c - even) < bound for c in counts.values()), (kind, counts)


def test_yes_and_no_stay_even_under_a_prior(warm):
  for kind in YES_NO:
    yes = [item.answer == "yes" for item in warm if item.category == kind]
    assert abs(np.mean(yes) - 0.5) < 4.5 * 0.5 / np.sqrt(len(yes)), kind


def usual_share(items):
  """Share of usual colours among things outside the asked region."""
  hits = [
    thing["color"] == USUAL[thing["shape"]]
    for item in items
    if item.category != "chart"
    for thing in item.extra["scene"]["things"]
    if thing["cell"] not in REGIONS[item.extra["region"]]
  ]
  return np.mean(hits), len(hits)


@pytest.mark.parametrize(("world", "rate"), [("warm", 0.68), ("broken", 0.2)])
def test_prior_rate(world, rate, request):
  share, number = usual_share(request.getfixturevalue(world))
  assert abs(share - rate) < 4 * np.sqrt(rate * (1 - rate) / number)


def test_prior_reaches_the_asked_region(warm, broken):
  def inside(items):
    return np.mean(
      [
        thing["color"] == USUAL[thing["shape"]]
        for item in items
        if item.category != "chart"
        for thing in item.extra["scene"]["things"]
        if thing["cell"] in REGIONS[item.extra["region"]]
      ]
    )

  assert inside(warm) > 0.55
  assert inside(broken) < 0.25


def test_a_prior_that_excludes_what_fits_gives_way():
  rng = np.random.default_rng(0)
  form = sample_form(rng, 1.0, lambda f: f.color == "purple")
  assert form.color == "purple"


def test_a_full_prior_asks_every_kind():
  items = [make_item(0, i, Dials(prior=1.0), "train") for i in range(300)]
  assert len({item.category for item in items}) == 9
  assert usual_share(items)[0] == 1


def test_sizes_are_named_by_their_own_kind_only(broken):
  for item in broken:
    says = {"big", "small"} & set(item.description.replace(",", "").split())
    things = "nothing" not in item.description or " " in item.description
    if item.category == "size":
      assert says
      assert things
    else:
      assert not says


def test_region_cells_are_described_in_order(broken):
  for item in broken:
    if item.category == "chart":
      bars = item.extra["scene"]["bars"]
      assert item.description == ", ".join(
        f"{bar['color']} {NUMBERS[bar['height']]}" for bar in bars
      )
    else:
      places = [part.split()[0] for part in item.description.split(", ")]
      assert "".join(places) == REGIONS[item.extra["region"]]
      assert sorted(places, key=CELLS.index) == places


def test_texts_are_lower_case_words(warm):
  allowed = set("abcdefghijklmnopqrstuvwxyz ,?")
  for item in warm:
    for text in (item.question, item.description, item.reasoning, item.answer):
      assert set(text) <= allowed, text


def test_question_of_extra_is_the_question_asked(broken):
  for item in broken[:300]:
    assert item_from_extra(item.extra).question.text == item.question
