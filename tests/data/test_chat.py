"""Conversations in the spellings of other data sets, and picture markers."""

import pytest

from mirl_jax.data.chat import Turn, read_chat, without_markers
from mirl_jax.data.source import BadRow

SPELLINGS = [
  "why?",
  [{"role": "user", "content": "why?"}],
  [{"from": "human", "value": "why?"}],
  [{"role": "user", "content": [{"type": "text", "text": "why?"}]}],
  [{"role": "user", "content": {"type": "text", "text": "why?"}}],
  [{"human": "why?"}],
  {"role": ["user"], "content": ["why?"]},
]


@pytest.mark.parametrize("value", SPELLINGS)
def test_spellings_of_one_question(value):
  assert read_chat(value, "r") == Turn("why?")


def test_system_and_response_are_kept_apart():
  value = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "look:"},
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "so"},
  ]
  assert read_chat(value, "r") == Turn("look:\nwhy?", "so", "be brief")


def test_blocks_give_pictures_and_their_places():
  value = [
    {
      "role": "user",
      "content": [
        {"type": "text", "text": "is"},
        {"type": "image_url", "image_url": {"url": "a"}},
        {"type": "image", "source": {"type": "base64", "data": "b"}},
        {"type": "image", "image": "c"},
        {"type": "image"},
        {"type": "text", "text": "the same?"},
      ],
    }
  ]
  turn = read_chat(value, "r")
  assert turn.question == "\n".join(["is", *["<image>"] * 4, "the same?"])
  assert turn.images == ({"url": "a"}, {"type": "base64", "data": "b"}, "c")


FAULTS = [
  ([{"role": "tool", "content": "x"}], "role 'tool'"),
  ([{"content": "x"}], "role None"),
  ([{"role": "assistant", "content": "x"}], "no message of a user"),
  (
    [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}] * 2,
    "several turns",
  ),
  ([{"human": "a", "assistant": "b"}] * 2, "several turns"),
  ([{"role": "user", "content": [{"type": "video"}]}], "type 'video'"),
  ([{"role": "user", "content": [3]}], "type None"),
  ([{"role": "user", "content": 3}], "content is a int"),
  ([], "is a list"),
  (["why?"], "is a list"),
  (3, "is a int"),
  (
    [
      {"role": "user", "content": "draw"},
      {"role": "assistant", "content": [{"type": "image", "image": "a"}]},
    ],
    "response holds a picture",
  ),
]


@pytest.mark.parametrize(("value", "reason"), FAULTS)
def test_what_is_no_single_question_is_named(value, reason):
  with pytest.raises(BadRow, match=reason):
    read_chat(value, "r")


@pytest.mark.parametrize(
  ("text", "count", "shown"),
  [
    ("why?", 0, "why?"),
    ("why?", 3, "why?"),
    ("<image>why?", 1, "why?"),
    ("<image>\n<image>\nwhy? <image>", 3, "why?"),
    ("In the figure <image>, find x.", 1, "In the figure, find x."),
    ("Is <image> like <image>?", 2, "Is image 1 like image 2?"),
    ("<image>\nIs it like <image>?", 2, "Is it like image 2?"),
  ],
)
def test_markers_leave_the_question(text, count, shown):
  assert without_markers(text, count, "r") == shown


@pytest.mark.parametrize(("text", "count"), [("<image>?", 0), ("<image>?", 2)])
def test_markers_agree_with_the_pictures(text, count):
  with pytest.raises(BadRow, match=f"1 <image> in .* for {count} images"):
    without_markers(text, count, "r")
