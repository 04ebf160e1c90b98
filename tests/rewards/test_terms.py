"""Reward terms: values, abstention and the registry."""

import pytest

from mirl_jax.data.example import Example, Facts
from mirl_jax.rewards.parse import parse_response
from mirl_jax.rewards.terms import TERMS, make_term

RIGHT = "<description>a</description>\n<think>b</think>\n<answer>1</answer>"


def item(answer="1", check=None):
  return Example("x", (), "?", answer, "number", check=check)


def pay(name, text, example=None, node=None, **options):
  term = make_term(name, **options)
  node = text if node is None else node
  return term(example or item(), node, text, parse_response(text), 3)


def test_correct_pays_one_zero_or_abstains():
  assert pay("correct", RIGHT) == 1.0
  assert pay("correct", RIGHT.replace("1", "2")) == 0.0
  assert pay("correct", "no tags: 1") == 0.0
  assert pay("correct", RIGHT, item(answer="")) is None


def test_format_is_the_share_of_kept_rules():
  assert pay("format", RIGHT) == 1.0
  assert pay("format", "so " + RIGHT) == pytest.approx(4 / 5)
  assert pay("format", "nothing") == 0.0
  description = "<description>a</description>"
  assert pay("format", description) == pytest.approx(1 / 5)
  assert pay("format", description, tags=("description",)) == 1.0


@pytest.mark.parametrize(
  ("facts", "exact", "share"),
  [
    (Facts(2, 0, 0, 0), 1.0, 1.0),
    (Facts(0, 0, 0, 0), 1.0, 1.0),
    (Facts(2, 1, 0, 0), 0.0, 2 / 3),
    (Facts(2, 0, 2, 0), 0.0, 1 / 2),
    (Facts(2, 0, 0, 2), 0.0, 1 / 2),
    (Facts(0, 1, 0, 0), 0.0, 0.0),
  ],
)
def test_facts_come_from_the_checker_of_the_description(facts, exact, share):
  asked = []

  def check(text):
    asked.append(text)
    return facts

  example = item(check=check)
  assert pay("exact", RIGHT, example) == exact
  assert pay("facts", RIGHT, example) == pytest.approx(share)
  assert asked == ["a", "a"]


@pytest.mark.parametrize("name", ["exact", "facts"])
def test_facts_need_a_checker_and_a_description(name):
  assert pay(name, RIGHT) is None
  example = item(check=lambda text: Facts(1, 0, 0, 0))
  assert pay(name, "<description>unclosed", example) == 0.0


def test_length_falls_between_soft_and_hard():
  def paid(words, **options):
    return pay("length", RIGHT, node="word " * words, **options)

  assert paid(64) == 0.0
  assert paid(96) == pytest.approx(-0.5)
  assert paid(128) == -1.0
  assert paid(500) == -1.0
  assert paid(15, soft=10, hard=20) == pytest.approx(-0.5)
  with pytest.raises(ValueError, match="soft=5"):
    paid(1, soft=5, hard=5)


def test_unknown_names_and_options_name_the_nearest():
  with pytest.raises(KeyError, match="did you mean 'correct'"):
    make_term("corect")
  with pytest.raises(TypeError, match="did you mean 'soft'"):
    make_term("length", sofd=3)
  with pytest.raises(TypeError, match="known: none"):
    make_term("correct", soft=3)
  assert all(make_term(name) is term for name, term in TERMS.items())
