"""The tag format: strict about it, and total on everything else."""

import itertools
import random

import pytest

from mirl_jax.rewards.parse import TAGS, block, parse_response, tag_rules

GOOD = (
  "<description>a red circle</description>\n"
  "<think>one circle</think>\n<answer>one</answer>"
)


def test_a_whole_response():
  parsed = parse_response(GOOD)
  assert parsed.description == "a red circle"
  assert parsed.reasoning == "one circle"
  assert parsed.answer == "one"
  assert parsed.tags_ok


def test_a_description_alone_is_read_and_judged_by_its_own_rules():
  text = "<description> a red circle </description>"
  parsed = parse_response(text)
  assert parsed.description == "a red circle"
  assert parsed.reasoning is None
  assert parsed.answer is None
  assert not parsed.tags_ok
  assert all(tag_rules(text, ("description",)).values())


def test_a_truncated_description_is_none():
  assert parse_response("<description>a red cir").description is None
  assert parse_response("a red circle</description>").description is None


@pytest.mark.parametrize(
  ("text", "answer"),
  [
    ("<answer>3</answer>", "3"),
    ("<answer> 3\n</answer> thank you", "3"),
    ("<think>so <answer>3</answer>", "3"),
    ("<answer></answer>", ""),
    ("3", None),
    ("<answer>3", None),
    ("</answer>3<answer>", None),
    ("<answer>3</answer><answer>3</answer>", None),
    ("<answer>3</answer><think>or four</think>", None),
    ("<answer>3<answer>4</answer>", None),
    ("<description><answer>3</answer></description>", None),
    ("<ANSWER>3</ANSWER>", None),
  ],
)
def test_there_is_an_answer_only_if_there_is_one_final_answer(text, answer):
  assert parse_response(text).answer == answer


@pytest.mark.parametrize(
  ("change", "broken"),
  [
    (lambda t: t, set()),
    (lambda t: "Sure: " + t, {"outside"}),
    (lambda t: t + " ok", {"outside"}),
    (lambda t: t.replace("\n<think>", "so\n<think>"), {"outside"}),
    (lambda t: t.replace("</think>", ""), {"think", "order", "outside"}),
    (lambda t: t + "<answer>", {"answer", "order", "outside"}),
    (
      lambda t: t.replace("</description>", "") + "</description>",
      {"order", "outside"},
    ),
  ],
)
def test_each_rule_can_be_broken(change, broken):
  rules = tag_rules(change(GOOD))
  assert {name for name, kept in rules.items() if not kept} == broken
  assert parse_response(change(GOOD)).tags_ok == (not broken)


def test_only_one_order_of_the_blocks_is_right():
  blocks = [f"<{tag}>x</{tag}>" for tag in TAGS]
  for order in itertools.permutations(range(3)):
    text = "\n".join(blocks[i] for i in order)
    assert parse_response(text).tags_ok == (order == (0, 1, 2))


@pytest.mark.parametrize("seed", range(3))
def test_any_string_has_a_parse(seed):
  rng = random.Random(seed)
  pieces = [f"<{s}{tag}>" for tag in TAGS for s in ("", "/")]
  pieces += ["x", " ", "\n", "<", "\0", "é", "\ud800", "<answer", "3"]
  for _ in range(2000):
    text = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
    parsed = parse_response(text)
    rules = tag_rules(text)
    assert parsed.tags_ok == all(rules.values())
    assert (parsed.description is not None) == rules["description"]
    if parsed.tags_ok:
      assert parsed.answer is not None
      rest = text
      for tag in TAGS:
        start, end = block(text, tag)
        rest = rest.replace(f"<{tag}>{text[start:end]}</{tag}>", "", 1)
      assert not rest.strip()


def test_parsing_is_linear_in_the_length():
  # A quadratic parse of 6 MB would take minutes, not a second.
  text = "<answer>" * 400_000 + "</answer>" * 400_000
  assert parse_response(text).answer is None
