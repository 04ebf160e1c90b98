import dataclasses
import itertools

import pytest

from mirl_jax.worlds.describe import Fact, read, true_facts
from mirl_jax.worlds.dials import KINDS
from mirl_jax.worlds.items import item_from_extra
from mirl_jax.worlds.questions import Question
from mirl_jax.worlds.reason import Slip, fallible_steps, reason, relevant

FACTS = read("a red circle, b nothing, c blue square")


@pytest.mark.parametrize("style", ["short", "long"])
@pytest.mark.parametrize("world", ["warm", "broken"])
def test_true_facts_give_the_true_answer(world, style, request):
  kinds = set()
  for item in request.getfixturevalue(world):
    graph = item_from_extra(item.extra)
    _, answer = reason(true_facts(graph), graph.question, style)
    assert answer == item.answer, (item.question, item.description)
    kinds.add(item.category)
  assert kinds == set(KINDS)


def test_the_text_of_a_description_suffices(broken):
  for item in broken[:600]:
    graph = item_from_extra(item.extra)
    _, answer = reason(read(item.description), graph.question)
    assert answer == item.answer


@pytest.mark.parametrize(
  ("question", "short", "answer"),
  [
    (
      Question("add", "top row"),
      "circle one makes one, nothing zero makes one, square two makes three",
      "three",
    ),
    (
      Question("count", "top row", ("red",)),
      "red circle yes one, nothing no one, blue square no one",
      "one",
    ),
    (
      Question("compare", "top row", ("blue", "red")),
      "red circle zero one, nothing zero one, blue square one one, so no",
      "no",
    ),
    (
      Question("relation", "top row", ("circle", "square")),
      "red circle so circle, nothing so circle, "
      "blue square so circle square, so yes",
      "yes",
    ),
    (
      Question("exist", "top row", ("blue", "square")),
      "red circle so no, nothing so no, blue square so yes",
      "yes",
    ),
    (
      Question("attribute", "top row", ("color", "square")),
      "red circle so nothing, nothing so nothing, blue square so blue",
      "blue",
    ),
  ],
)
def test_short_traces(question, short, answer):
  assert reason(FACTS, question, "short") == (short, answer)


def test_long_traces_say_places_and_goals():
  text, answer = reason(FACTS, Question("count", "top row", ("red",)))
  assert text == (
    "count red, a red circle yes makes one, b nothing no makes one, "
    "c blue square no makes one"
  )
  assert answer == "one"
  text, answer = reason(
    read("red three, blue one, green four"),
    Question("chart", "chart", ("red", "blue")),
  )
  assert text == (
    "look for red and blue, red three so three zero, blue one so three one, "
    "green four so three one, three minus one makes two"
  )
  assert answer == "two"


def test_length_is_a_dial_within_bounds(broken):
  for item in broken[:600]:
    graph = item_from_extra(item.extra)
    facts = true_facts(graph)
    short, long = (
      len(reason(facts, graph.question, style)[0].split())
      for style in ("short", "long")
    )
    assert short < long
    assert 8 <= short <= 20
    assert 15 <= long <= 35


def test_wrong_facts_give_their_own_answer():
  question = Question("attribute", "top row", ("color", "circle"))
  assert reason(read("a yellow circle"), question)[1] == "yellow"
  question = Question("add", "top row")
  assert reason(read("a red star, b red star"), question)[1] == "eight"


def test_only_the_region_counts_and_only_once():
  question = Question("add", "top row")
  facts = read("e red star, b red star, huh, b red circle, a red circle")
  facts = [fact for fact in facts if fact]
  assert [fact.place for fact in relevant(facts, question)] == ["a", "b"]
  assert reason(facts, question)[1] == "five"


def every_question():
  yield Question("exist", "top row", ("red", "circle"))
  for word in ("red", "circle"):
    asked = "shape" if word == "red" else "color"
    yield Question("attribute", "top row", (asked, word))
    yield Question("size", "top row", (word,))
    yield Question("count", "top row", (word,))
  for pair in (("red", "blue"), ("star", "circle")):
    yield Question("relation", "top row", pair)
    yield Question("compare", "top row", pair)
  yield Question("add", "top row")
  yield Question("odd", "top row")
  yield Question("chart", "chart", ("red",))
  yield Question("chart", "chart", ("red", "blue"))


def test_reason_is_total_over_descriptions_and_slips():
  """Any facts, with any slip: a non-empty answer and no error."""
  looks = [("", ""), ("red", "circle"), ("blue", "star")]
  for question in every_question():
    for number in range(4):
      for triple in itertools.product(looks, repeat=number):
        if question.kind == "chart":
          facts = [
            Fact(color, height=len(shape))
            for color, (_, shape) in zip(
              ("red", "blue", "green"), triple, strict=False
            )
          ]
        else:
          facts = [
            Fact(place, *look, "big" if look[0] else "")
            for place, look in zip("abc", triple, strict=False)
          ]
        for step in range(fallible_steps(facts, question) + 1):
          for style in ("short", "long"):
            text, answer = reason(facts, question, style, Slip(step, number))
            assert answer
            assert text == text.strip().lower()
            assert ",," not in text.replace(" ", "")


def test_a_slip_changes_one_step_and_what_follows(broken):
  for item in broken[:600]:
    graph = item_from_extra(item.extra)
    facts, question = true_facts(graph), graph.question
    right = reason(facts, question)[0].split(", ")
    for step in range(fallible_steps(facts, question)):
      wrong = reason(facts, question, "long", Slip(step, 7))[0].split(", ")
      # parts: the goal, a part for each fact, perhaps a conclusion
      assert wrong[: step + 1] == right[: step + 1]
      if question.kind != "odd":  # a colour alone cannot be misread
        assert wrong[step + 1] != right[step + 1]


def test_no_slip_beyond_the_last_step(broken):
  for item in broken[:100]:
    graph = item_from_extra(item.extra)
    facts, question = true_facts(graph), graph.question
    last = fallible_steps(facts, question)
    slip = Slip(last, 0)
    assert reason(facts, question, "long", slip) == reason(facts, question)


def test_unsized_facts_do_not_answer_sizes():
  question = Question("size", "top row", ("red",))
  facts = read("a red circle")
  assert reason(facts, question)[1] == "nothing"
  sized = [dataclasses.replace(facts[0], size="big")]
  assert reason(sized, question)[1] == "big"
