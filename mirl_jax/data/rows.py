"""From a row and what its columns hold to an example.

Our own jsonl has `id, image, question, answer` and may have `options,
answer_type, category, description, reasoning, min_pixels, max_pixels`; `image`
is a path or a list of paths. Other formats differ in names and in how they
write a question, a picture and an answer (`sniff`, `chat`, `pictures`,
`answer_types`); columns without a role become `Example.extra`.
"""

import ast
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mirl_jax.data.answer_types import (
  TYPE_NAMES,
  read_answer,
  sniff_answer_type,
  tagged,
)
from mirl_jax.data.chat import Turn, is_chat, read_chat, without_markers
from mirl_jax.data.example import Example
from mirl_jax.data.pictures import read_picture
from mirl_jax.data.sniff import OURS, Layout, at, is_empty
from mirl_jax.data.source import BadRow
from mirl_jax.rewards.verify import (
  LETTERS,
  VERIFIERS,
  match_letter,
  match_option,
  read_letters,
  reference_fault,
)

# Not supported; a row that holds some is no question about pictures alone.
_OTHER_MEDIA = ("videos", "video", "audios", "audio")


def with_options(question: str, options: tuple[str, ...]) -> str:
  """The question as it is shown: each option on a line of its own.

  "(A) first", "(B) second", … below the question. Options that are nothing but
  their own letters (they stand in the picture), and options that the question
  lists already, are not repeated.
  """
  if options == tuple(LETTERS[: len(options)]):
    return question
  lines = [f"({LETTERS[i]}) {text}" for i, text in enumerate(options)]
  if all(_lists(question, line) for line in lines):
    return question
  return "\n".join([question, *lines])


def _lists(question: str, line: str) -> bool:
  """Whether a question holds "(A) text", also as "A. text" or "A) text"."""
  letter, text = line[1], line[4:]
  spellings = (line, *(f"{letter}{mark} {text}" for mark in ".):"))
  return any(spelling in question for spelling in spellings)


def text_of(value: Any, column: str, row: str) -> str:
  """A cell as text; an empty one is "".

  Raises:
    BadRow: for a list or another structure.
  """
  if value is None:
    return ""
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, bytes):
    return value.decode("utf-8", errors="replace")
  if isinstance(value, float) and math.isnan(value):
    return ""
  if isinstance(value, str | int | float):
    return str(value)
  raise BadRow(row, f"column {column!r} is a {type(value).__name__}, not text")


def _pixels(
  row: Mapping[str, Any], layout: Layout, name: str
) -> tuple[int | None, int | None]:
  """The row's own pixel limits, None where it has none."""
  limits: list[int | None] = []
  for role in ("min_pixels", "max_pixels"):
    column = layout.columns.get(role)
    value = at(row, column) if column else None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and 0 < value <= sys.maxsize):
      raise BadRow(
        name, f"{column}={value!r} is no whole number of pixels above 0"
      )
    limits.append(value)
  low, high = limits
  if low is not None and high is not None and low > high:
    raise BadRow(name, f"min_pixels {low} is more than max_pixels {high}")
  return low, high


def _check_answer(
  row: str, answer: str, answer_type: str, options: tuple[str, ...]
) -> None:
  """Refuses an answer that no prediction could match."""
  if answer_type not in VERIFIERS:
    known = ", ".join(VERIFIERS)
    raise BadRow(
      row,
      f"answer_type {answer_type!r} is none of {known}; where the column is"
      ' another one: data.columns="answer_type="',
    )
  if len(options) > len(LETTERS):
    raise BadRow(row, f"{len(options)} options; at most {len(LETTERS)}")
  if not answer.strip():
    return
  if fault := reference_fault(answer, answer_type):
    raise BadRow(row, f"answer {answer!r:.80}, of {answer_type}: {fault}")
  if not options:
    return
  if answer_type == "choice_letter":
    letters = read_letters(answer)
    if letters is None or max(letters) >= len(options):
      raise BadRow(
        row, f"answer {answer!r} is no letter of {len(options)} options"
      )
  if answer_type == "choice_text":
    found = match_option(answer, options)
    if found is None and match_letter(answer, options) is None:
      raise BadRow(row, f"answer {answer!r} is not one of the options")


def read_list(value: Any) -> Any:
  """A list that is written as text ("['a', 'b']"), else the value itself."""
  if not isinstance(value, str) or not value.lstrip().startswith("["):
    return value
  for read in (json.loads, ast.literal_eval):
    try:
      found = read(value)
    # literal_eval raises these on hostile text, too.
    except (ValueError, SyntaxError, MemoryError, RecursionError):
      continue
    if isinstance(found, list):
      return found
  return value


def _options(
  row: Mapping[str, Any], layout: Layout, name: str
) -> tuple[str, ...]:
  if layout.labelled:
    texts = [text_of(row.get(k), k, name).strip() for k in layout.labelled]
    while texts and not texts[-1]:
      texts.pop()
    if not all(texts):
      raise BadRow(name, "an option between others is empty")
    return tuple(texts)
  column = layout.columns.get("options")
  choices = read_list(at(row, column)) if column else None
  if not choices:
    return ()
  if isinstance(choices, Mapping):  # {"A": …, "B": …}
    choices = list(choices.values())
  if not isinstance(choices, Sequence) or isinstance(choices, str | bytes):
    raise BadRow(name, f"column {column!r} is no list")
  return tuple(text_of(choice, "options", name) for choice in choices)


def row_id(row: Mapping[str, Any], layout: Layout) -> str:
  """The row's own id; "" where it has none that is text or a number."""
  column = layout.columns.get("id")
  value = at(row, column) if column else None
  if isinstance(value, bool) or not isinstance(value, str | int):
    return ""
  return str(value)


def _values(value: Any) -> list[Any]:
  """The pictures of a cell, which may hold one, several or none."""
  value = read_list(value)
  if is_empty(value):
    return []
  return list(value) if isinstance(value, list | tuple) else [value]


def _plain(value: Any) -> Any:
  """A value as JSON can hold it; bytes become their number."""
  if isinstance(value, Mapping):
    return {str(key): _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if isinstance(value, bytes | bytearray):
    return f"<{len(value)} bytes>"
  if value is None or isinstance(value, bool | int | float | str):
    return value
  return str(value)


def _cell(row: Mapping[str, Any], layout: Layout, role: str) -> Any:
  column = layout.columns.get(role)
  return at(row, column) if column else None


def _cell_text(
  row: Mapping[str, Any], layout: Layout, role: str, name: str
) -> str:
  column = layout.columns.get(role, role)
  return text_of(_cell(row, layout, role), column, name)


def _check_own(row: Mapping[str, Any], name: str) -> None:
  """Refuses a row of our own format that lacks what each must have."""
  missing = [column for column in OURS if column not in row]
  if missing:
    raise BadRow(name, f"missing columns: {', '.join(missing)}")
  names = row["image"] if isinstance(row["image"], list) else [row["image"]]
  if not all(isinstance(path, str) and path for path in names):
    raise BadRow(name, "column 'image' holds no path")


def _asked(
  row: Mapping[str, Any], layout: Layout, name: str
) -> tuple[Turn, list[Any]]:
  """The turn, its question without markers, and its pictures' values."""
  for medium in _OTHER_MEDIA:
    if not is_empty(row.get(medium)):
      raise BadRow(name, f"column {medium!r}: only pictures are supported")
  asked = _cell(row, layout, "question")
  if isinstance(asked, str):
    listed = read_list(asked)  # messages as JSON text
    asked = listed if is_chat(listed) else asked
  elif not is_chat(asked):
    asked = _cell_text(row, layout, "question", name)
  turn = read_chat(asked, name)
  shown = _values(_cell(row, layout, "images"))
  shown += [x for column in layout.numbered for x in _values(row.get(column))]
  if shown and turn.images:
    raise BadRow(name, "pictures both in the messages and in a column")
  shown = shown or list(turn.images)
  question = without_markers(turn.question, len(shown), name)
  if not question.strip():
    raise BadRow(name, "empty question")
  if hint := _cell_text(row, layout, "hint", name).strip():
    question = f"{hint}\n{question}"
  return dataclasses.replace(turn, question=question), shown


def _extra(
  row: Mapping[str, Any], layout: Layout, system: str
) -> dict[str, Any]:
  """The columns without a role, the system message and the difficulty."""
  used = {path.partition(".")[0] for path in layout.columns.values()}
  used |= {*layout.labelled, *layout.numbered}
  used -= {"reward_model", "extra_info"}
  extra = {key: _plain(value) for key, value in row.items() if key not in used}
  if system:
    extra["system"] = system
  if "difficulty" in layout.columns:
    extra["difficulty"] = _plain(_cell(row, layout, "difficulty"))
  return extra


def to_example(
  row: Mapping[str, Any],
  layout: Layout,
  root: Path,
  name: str,
  *,
  show_options: bool = True,
  need_answer: bool = False,
) -> Example:
  """One row as an example, its pictures read.

  Args:
    row: columns by name.
    layout: what they hold.
    root: the folder that image paths are relative to.
    name: of the row, its id.
    show_options: append the options to the question (see `with_options`).
    need_answer: a row without a reference answer is a bad one.

  Raises:
    BadRow: for whatever is wrong with it.
  """
  if layout.stored:
    return example_from_stored(row, name)
  if layout.strict:
    _check_own(row, name)

  def text(role: str) -> str:
    return _cell_text(row, layout, role, name)

  turn, shown = _asked(row, layout, name)
  question, options = turn.question, _options(row, layout, name)
  reply = text("answer") or turn.response
  answer = reply if layout.strict else read_answer(reply)
  if need_answer and not answer.strip():
    raise BadRow(name, "no reference answer")
  given_type = text("answer_type").strip()
  answer_type = TYPE_NAMES.get(given_type, given_type) or sniff_answer_type(
    answer, options, question
  )
  _check_answer(name, answer, answer_type, options)
  try:
    "".join((name, question, answer, *options)).encode()
  except UnicodeEncodeError as error:
    # Half of a surrogate pair, as JSON may hold; no tokenizer takes it.
    raise BadRow(name, f"broken Unicode: {error}") from error
  min_pixels, max_pixels = _pixels(row, layout, name)
  return Example(
    id=name,
    images=tuple(
      read_picture(value, root, name, number)
      for number, value in enumerate(shown, 1)
    ),
    question=with_options(question, options) if show_options else question,
    answer=answer,
    answer_type=answer_type,
    options=options,
    category=text("category"),
    description=text("description") or tagged(reply, "description") or "",
    reasoning=text("reasoning") or tagged(reply, "think") or "",
    min_pixels=min_pixels,
    max_pixels=max_pixels,
    extra=_extra(row, layout, turn.system or text("system")),
  )


def example_from_stored(row: Mapping[str, Any], name: str) -> Example:
  """The example of a row that `records.record_from_example` made.

  Raises:
    BadRow: for a picture that no longer decodes, or what JSON cannot read.
  """
  pictures = row["images"] if "images" in row else [row["image"]]
  try:
    rest = json.loads(row["rest"])
  except ValueError as error:
    raise BadRow(name, f"column 'rest' is no JSON: {error}") from error
  return Example(
    id=name,
    images=tuple(
      read_picture(picture, Path(), name, number)
      for number, picture in enumerate(pictures, 1)
    ),
    question=row["question"],
    answer=row["answer"],
    answer_type=row["answer_type"],
    options=tuple(rest.get("options") or ()),
    category=row.get("category", ""),
    group=row.get("group", ""),
    description=row.get("description", ""),
    reasoning=row.get("reasoning", ""),
    regions=tuple(tuple(words) for words in rest.get("regions") or ()),
    min_pixels=rest.get("min_pixels"),
    max_pixels=rest.get("max_pixels"),
    extra=rest.get("extra") or {},
  )
