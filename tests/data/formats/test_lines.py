"""JSON rows, one per line or in one list."""

import json

import pytest

from mirl_jax.data.formats.lines import JsonLines, JsonList
from mirl_jax.data.source import BadRow

ROWS = [{"a": 1}, {"a": "\u2028 é"}, {"b": [None, {"c": 2.5}]}]


def test_lines_are_read_from_their_places(tmp_path):
  path = tmp_path / "x.jsonl"
  lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
  path.write_text("\n" + "\r\n\n".join(lines), encoding="utf-8")
  table = JsonLines(path)
  assert [table[i] for i in (2, 0, 1)] == [ROWS[2], ROWS[0], ROWS[1]]
  assert list(table.scan([])) == ROWS
  assert [table.label(i) for i in range(3)] == ["line 2", "line 4", "line 6"]


def test_a_line_that_is_no_object_is_named(tmp_path):
  path = tmp_path / "x.jsonl"
  path.write_bytes(b'{"a": 1}\n[1]\n{"a"\n\xff\n{"a": 2}\n')
  table = JsonLines(path)
  assert list(table.scan([])) == [{"a": 1}, None, None, None, {"a": 2}]
  for index in (1, 2, 3):
    with pytest.raises(BadRow, match=f"line {index + 1}: no readable JSON"):
      table[index]


def test_a_list_is_read_whole(tmp_path):
  path = tmp_path / "x.json"
  path.write_text(json.dumps([*ROWS, 3]), encoding="utf-8")
  table = JsonList(path)
  assert [table[i] for i in range(3)] == ROWS
  assert list(table.scan([])) == [*ROWS, None]
  with pytest.raises(BadRow, match="row 4: no JSON object"):
    table[3]


@pytest.mark.parametrize(
  ("content", "said"),
  [('{"a": 1}\n{"a": 2}', "goes into a .jsonl"), ('{"a": 1}', "holds a dict")],
)
def test_what_is_no_list_is_named(tmp_path, content, said):
  (tmp_path / "x.json").write_text(content, encoding="utf-8")
  with pytest.raises(ValueError, match=said):
    JsonList(tmp_path / "x.json")


def test_the_digest_follows_the_content(tmp_path):
  path = tmp_path / "x.jsonl"
  path.write_text('{"a": 1}', encoding="utf-8")
  first = JsonLines(path).digest
  path.write_text('{"a": 2}', encoding="utf-8")
  assert first != JsonLines(path).digest
