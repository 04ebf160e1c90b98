"""Predictions as VLMEvalKit reads them: {model}_{dataset}.tsv.

The columns of the set's own TSV but its pictures, and `prediction`; of a set in
another format the columns that VLMEvalKit needs. To be read there with
PRED_FORMAT=tsv.
"""

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mirl_jax.evaluation.items import Item
from mirl_jax.rewards.verify import LETTERS
from mirl_jax.runs.files import write_atomic

FAILED = "Failed to obtain answer"  # what VLMEvalKit takes for no prediction
PREDICTION = "prediction"
_PICTURES = ("image",)
_LETTERS = re.compile("[A-Z](,[A-Z])*")


def prediction_of(item: Item) -> str:
  """The answer that most samples give, the first of equal ones, as its letter
  where it is an option; the first response where none gives any."""
  votes = Counter(s.vote for s in item.samples if s.vote is not None)
  if not votes:
    return item.samples[0].text
  winner = votes.most_common(1)[0][0]
  if item.options and _LETTERS.fullmatch(winner):
    return winner
  return next(s.answer for s in item.samples if s.vote == winner) or ""


def read_tsv(path: Path) -> Iterator[dict[str, str]]:
  """The rows of a TSV as they stand, one in memory at a time."""
  limit = csv.field_size_limit(sys.maxsize)  # pictures are long
  try:
    with path.open(encoding="utf-8", newline="") as file:
      yield from csv.DictReader(file, delimiter="\t")
  finally:
    csv.field_size_limit(limit)


def _own_columns(item: Item) -> dict[str, str]:
  letters = dict(zip(LETTERS, item.options, strict=False))
  return {
    "index": item.id,
    "question": item.question,
    **letters,
    "answer": item.answer,
    "category": item.category,
  }


def prediction_rows(
  items: Sequence[Item], source: Path | None, bad: Sequence[str]
) -> list[Mapping[str, str]]:
  """One row per question, in the file's order.

  Args:
    items: the evaluated questions.
    source: the TSV that they are from; None for another format.
    bad: ids of rows that could not be used: predictions that failed.
  """
  if source is None:
    return [{**_own_columns(x), PREDICTION: prediction_of(x)} for x in items]
  by_id = {item.id: item for item in items}
  rows: list[Mapping[str, str]] = []
  for row in read_tsv(source):
    name = row.get("index", "")
    if name not in by_id and name not in bad:
      continue  # not asked: beyond eval.limit
    own = {k: v for k, v in row.items() if k and k not in _PICTURES}
    item = by_id.get(name)
    own[PREDICTION] = FAILED if item is None else prediction_of(item)
    rows.append(own)
  return rows


def write_predictions(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
  """Writes rows as a TSV whose columns are all that any row has."""
  columns = list(dict.fromkeys(name for row in rows for name in row))
  columns.sort(key=PREDICTION.__eq__)  # last, the others as they come
  text = io.StringIO()
  writer = csv.DictWriter(
    text, columns, restval="", delimiter="\t", lineterminator="\n"
  )
  writer.writeheader()
  writer.writerows(rows)
  write_atomic(path, text.getvalue().encode("utf-8", "replace"))
