"""TSV files against pandas' way to write them, shared pictures, and faults."""

import base64
import csv

import numpy as np
import pytest

from mirl_jax.data.formats.tsv import Tsv
from mirl_jax.data.source import BadRow
from mirl_jax.testing_data import picture, write_tsv


def text(seed):
  return base64.b64encode(picture(seed)).decode()


def test_any_field_comes_back_from_its_place(tmp_path):
  """The oracle is csv's own reader over the whole file."""
  rng = np.random.default_rng(0)
  pieces = ["a", '"', "\t", "\n", "\r\n", "é", "\u2028", ",", " ", "'", "\x0b"]
  for _ in range(30):
    rows = [
      {
        name: "".join(rng.choice(pieces, rng.integers(0, 9)))
        for name in ("question", "answer", "more")
      }
      for _ in range(rng.integers(1, 12))
    ]
    path = write_tsv(tmp_path / "x.tsv", rows)
    with path.open(encoding="utf-8", newline="") as file:
      known = [dict(row) for row in csv.DictReader(file, delimiter="\t")]
    table = Tsv(path)
    assert [table[i] for i in range(len(table))] == known == rows
    assert list(table.scan(["question"])) == rows


def test_a_long_field_is_no_fault(tmp_path):
  rows = [{"index": i, "question": "x" * 300_000} for i in range(2)]
  assert len(Tsv(write_tsv(tmp_path / "x.tsv", rows))[1]["question"]) == 300_000


def test_pictures_are_shared_by_index(tmp_path):
  rows = [
    {"index": 5, "image": text(0)},
    {"index": 6, "image": "5"},
    {"index": 7, "image": str(["5", text(1)])},
    {"index": 8, "image": "6"},
    {"index": 9, "image": ""},
    {"index": 10, "image": "99"},
  ]
  table = Tsv(write_tsv(tmp_path / "x.tsv", rows))
  assert table[1]["image"] == text(0)
  assert table[2]["image"] == [text(0), text(1)]
  with pytest.raises(BadRow, match="row 4: image '6': that row holds no pict"):
    table[3]
  assert (table[4]["image"], table[5]["image"]) == ("", "99")
  scanned = list(table.scan(["image"]))
  assert scanned[1] == table[1]
  assert scanned[3] is None


def test_torn_rows_are_named_and_spare_the_others(tmp_path):
  path = tmp_path / "x.tsv"
  path.write_bytes(
    b"\xef\xbb\xbfindex\tquestion\n1\twhy?\n2\n3\ta\tb\n\n4\tbro\rken\n5\tgood\n"
  )
  table = Tsv(path)
  assert table.columns == ("index", "question")
  assert table[0] == {"index": "1", "question": "why?"}
  for index in range(1, len(table) - 1):
    with pytest.raises(BadRow, match="not 2 fields as the first line"):
      table[index]
  assert table[len(table) - 1] == {"index": "5", "question": "good"}


@pytest.mark.parametrize(
  ("content", "said"),
  [("", "is empty"), ("a\ta\n1\t2\n", "no distinct columns")],
)
def test_what_is_no_table_is_named(tmp_path, content, said):
  (tmp_path / "x.tsv").write_text(content, encoding="utf-8")
  with pytest.raises(ValueError, match=said):
    Tsv(tmp_path / "x.tsv")
