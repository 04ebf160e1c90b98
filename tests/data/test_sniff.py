"""What columns hold, from their names and a few rows."""

import pytest

from mirl_jax.data.sniff import ALIASES, Layout, at, read_columns, sniff


def layout(row, **given):
  return sniff(list(row), [row], given)


def test_dots_go_into_structs_unless_a_column_has_that_name():
  row = {"a": {"b": {"c": 3}}, "a.b": 4}
  assert at(row, "a.b.c") == 3
  assert at(row, "a.b") == 4
  assert at(row, "a.x.c") is at(row, "z") is at({"a": 3}, "a.b") is None


def test_settings_are_columns_by_role():
  assert read_columns("") == read_columns(" ") == {}
  assert read_columns("question = a.b,options=") == {
    "question": "a.b",
    "options": "",
  }


def test_a_column_that_is_empty_everywhere_holds_nothing():
  rows = [
    {"question": "1?", "answer": "3", "solution": None, "images": []},
    {"question": "2?", "answer": "4", "solution": "", "images": None},
  ]
  found = sniff([], rows)
  assert dict(found.columns) == {"question": "question", "answer": "answer"}


def test_what_is_given_is_not_guessed():
  row = {"id": 1, "question": "1?", "text": "2?", "answer": "3", "A": 1, "B": 2}
  assert layout(row).columns["question"] == "question"
  assert layout(row, question="text").columns["question"] == "text"
  assert layout(row).labelled == ("A", "B")
  assert layout(row, options="").labelled == ()
  assert "id" not in layout(row, id="").columns


def test_our_own_columns_are_what_they_are_called():
  row = {
    "id": "a",
    "image": "a.png",
    "question": "1?",
    "answer": "3",
    "solution": "Add.",
    "source": "there",
    "system": "be brief",
  }
  found = layout(row)
  assert found.strict
  assert set(found.columns) == {"id", "images", "question", "answer"}
  row["images"] = ["b.png"]
  with pytest.raises(ValueError, match="two columns may hold the images"):
    layout(row)


def test_columns_that_may_be_several_do_not_confuse_optional_roles():
  row = {"question": "?", "answer": "a", "category": "x", "source": "y"}
  assert layout(row).columns["category"] == "category"
  assert layout(row, category="source").columns["category"] == "source"


def test_a_layout_says_itself_in_one_line():
  row = {"index": 1, "image": "x", "question": "?", "A": "a", "B": "b"}
  assert str(layout(row)) == (
    "VLMEvalKit, question=question, images=image, id=index, options=A-B"
  )
  said = Layout("x", {"question": "q"}, notes=("so",))
  assert str(said) == "x, question=q; so"


def test_every_alias_is_found_alone():
  for role, names in ALIASES.items():
    for name in names:
      row = {name: ["x"] if role == "images" else "x"}
      if role != "question":
        row = {"question": "?", **row}
      head = name.partition(".")
      if head[1]:
        row[head[0]] = {head[2]: row.pop(name)}
      assert layout(row).columns[role] == name
