"""What was drawn for one question, and the file that keeps it.

WORKDIR/eval/SET/STRATEGY.jsonl: first a line that says what the draws depend
on, then one line per question, appended batch by batch. A kill costs one batch;
what stands in the file is never drawn again.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirl_jax.data.example import Example
from mirl_jax.rewards.numbers import read_number
from mirl_jax.rewards.verify import (
  LETTERS,
  match_letter,
  match_option,
  normalise,
  read_letters,
)
from mirl_jax.runs.config_files import differing_fields
from mirl_jax.runs.files import read_jsonl, to_json, write_atomic

FINGERPRINT = "fingerprint"


@dataclass(frozen=True)
class Sample:
  """One response to a question.

  Attributes:
    text: of the whole response.
    answer: what was extracted from it; None where there is no final answer.
    vote: the answer in a form that is equal for equal answers.
    correct: 1 or 0; None where no reference answer is known.
    reason: of the verdict.
    exact: 1 where its description is exact, None where no checker is known.
    tags: whether the tag format was kept.
    finished: whether it ended with its stop; otherwise it was cut off.
    tokens: of this response, shared ones counted in full.
  """

  text: str
  answer: str | None
  vote: str | None
  correct: float | int | None
  reason: str
  exact: float | int | None
  tags: bool
  finished: bool
  tokens: int


@dataclass(frozen=True)
class Item:
  """One question and its samples.

  Attributes:
    id: of the question.
    digest: of its text, options, pictures and reference answer.
    category: for tables; empty where there is none.
    group: questions of one group are dependent; empty where it stands alone.
    question: as it was asked.
    options: its choices.
    answer: the reference answer.
    type: of the answer.
    tokens: generated for it, each counted once.
    joint: of figures over several questions (see presets), by their name, the
      label that these questions share.
    samples: the responses.
  """

  id: str
  digest: str
  category: str
  group: str
  question: str
  options: tuple[str, ...]
  answer: str
  type: str
  tokens: int
  samples: tuple[Sample, ...]
  joint: Mapping[str, str] = field(default_factory=dict)


def digest_of(example: Example) -> str:
  """Names all of a question that an answer or its verdict depends on."""
  digest = hashlib.sha256()
  parts = (example.question, example.answer, example.answer_type)
  for text in (*parts, *example.options):
    digest.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
  for image in example.images:
    data = image if isinstance(image, bytes) else image.tobytes()
    digest.update(hashlib.sha256(data).digest())
  return digest.hexdigest()[:16]


def vote_of(answer: str | None, example: Example) -> str | None:
  """An answer in a form that is equal for equal answers, for majorities.

  Choices become their letters and numbers their value with the unit; None
  where nothing was answered.
  """
  if answer is None or not answer.strip():
    return None
  if example.options:
    letters = read_letters(answer)
    if letters is not None and max(letters) < len(example.options):
      return ",".join(LETTERS[i] for i in sorted(letters))
    index = match_option(answer, example.options)
    if index is None:
      index = match_letter(answer, example.options)
    return normalise(answer) if index is None else LETTERS[index]
  number = read_number(answer)
  if number is None:
    return normalise(answer)
  return f"{number.value} {number.unit}".strip()


def _to_item(record: Mapping[str, Any]) -> Item:
  values = dict(record)
  values["samples"] = tuple(Sample(**sample) for sample in values["samples"])
  values["options"] = tuple(values["options"])
  return Item(**values)


def read_items(path: Path) -> tuple[dict[str, Any], dict[str, Item]]:
  """The fingerprint of a file and its items by id, the last of each id.

  An absent file has an empty fingerprint and no items.

  Raises:
    ValueError: naming a line that is no item; a torn last one is dropped.
  """
  first, *rest = read_jsonl(path) or [{}]
  try:
    items = [_to_item(record) for record in rest]
  except (KeyError, TypeError) as error:
    raise ValueError(
      f"{path} holds a line that is no item ({error}); remove the file"
    ) from error
  return first.get(FINGERPRINT, {}), {item.id: item for item in items}


def start_items(
  path: Path, fingerprint: Mapping[str, Any]
) -> tuple[dict[str, Item], list[str]]:
  """Makes a file ready to be appended to.

  Items of another fingerprint are moved aside to PATH.old, in place of what
  stood there.

  Args:
    path: of the file.
    fingerprint: what the draws depend on, JSON-able.

  Returns:
    The items that it holds, and in what the fingerprint of items that were
    moved aside differs from this one.
  """
  text = path.read_bytes() if path.exists() else b""
  if not text.endswith(b"\n"):  # a line that a kill cut short
    write_atomic(path, text[: text.rfind(b"\n") + 1])
  found, items = read_items(path)
  differing = differing_fields(found, fingerprint) if items else []
  if items and not differing:
    return items, []
  if items:
    os.replace(path, path.with_name(f"{path.name}.old"))
  write_atomic(path, to_json({FINGERPRINT: dict(fingerprint)}) + "\n")
  return {}, differing


def append_items(path: Path, items: Sequence[Item]) -> None:
  """Adds lines to a file that `start_items` made, and waits for the disk."""
  text = "".join(to_json(dataclasses.asdict(item)) + "\n" for item in items)
  with path.open("ab") as file:
    file.write(text.encode("utf-8"))
    file.flush()
    os.fsync(file.fileno())
