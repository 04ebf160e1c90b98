"""Sources: a list is one, and functions over them fail row by row."""

import dataclasses
import pickle

import pytest

from mirl_jax.data.example import Example
from mirl_jax.data.source import BadRow, Mapped, Source


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


def test_bad_rows_survive_pickling():
  bad = pickle.loads(pickle.dumps(BadRow("r7", "torn")))
  assert (bad.row, bad.reason, str(bad)) == ("r7", "torn", "r7: torn")
