"""Sources: a list is one, and functions over them fail row by row."""

import dataclasses
import pickle

import pytest

from mirl_jax.data.example import Example
from mirl_jax.data.source import BadRow, Mapped, Shuffled, Source


def _shout(example: Example) -> Example:
  if example.id == "1":
    raise ValueError("too quiet")
  return dataclasses.replace(example, question=example.question.upper())


def test_mapped_changes_examples_and_turns_errors_into_bad_rows():
  rows = [Example(str(i), (), f"why {i}", "a") for i in range(3)]
  assert isinstance(rows, Source)
  source = Mapped(rows, _shout)
  assert isinstance(source, Source)
  assert len(source) == 3
  assert source[2].question == "WHY 2"
  with pytest.raises(BadRow, match="too quiet") as caught:
    source[1]
  assert caught.value.row == "1"
  assert "_shout" in repr(source)
  assert " at 0x" not in repr(source)


def test_shuffled_keeps_every_row_and_its_faults():
  rows = [Example(str(i), (), f"why {i}", "a") for i in range(50)]
  source = Shuffled(Mapped(rows, _shout))
  assert isinstance(source, Source)
  found = []
  for index in range(50):
    try:
      found.append(source[index].id)
    except BadRow as bad:
      found.append(bad.row)
  assert found != [row.id for row in rows]
  assert sorted(found) == sorted(row.id for row in rows)
  assert repr(source) == f"Shuffled({source.source!r})"
  with pytest.raises(IndexError):
    source[50]


def test_bad_rows_survive_pickling():
  bad = pickle.loads(pickle.dumps(BadRow("r7", "torn")))
  assert (bad.row, bad.reason, str(bad)) == ("r7", "torn", "r7: torn")
