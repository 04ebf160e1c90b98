"""Which column of a data set holds what, decided from names and a few rows.

What is decided is one line of text (`str` of a Layout). Where two columns may
hold the same thing and do not say the same, nothing is guessed.
"""

import contextlib
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mirl_jax.data.answer_types import read_answer
from mirl_jax.data.chat import is_chat, read_chat
from mirl_jax.data.source import BadRow
from mirl_jax.rewards.verify import LETTERS

# What a column may be, and its usual names, best first. A dot goes into a
# struct.
ALIASES: dict[str, tuple[str, ...]] = {
  "question": (
    "question",
    "problem",
    "query",
    "prompt",
    "instruction",
    "input",
    "messages",
    "conversations",
    "conversation",
  ),
  "images": ("images", "image", "image_path", "image_paths"),
  "answer": (
    "answer",
    "solution",
    "label",
    "reward_model.ground_truth",
    "ground_truth",
    "answer_key",
    "response",
    "output",
    "target",
    "targets",
  ),
  "options": ("options", "choices"),
  "id": ("id", "qid", "question_id", "problem_id", "index", "pid", "uid"),
  "category": (
    "category",
    "subject",
    "data_source",
    "datasource",
    "ability",
    "source",
  ),
  "answer_type": ("answer_type",),
  "description": ("description",),
  "reasoning": ("reasoning",),
  "min_pixels": ("min_pixels",),
  "max_pixels": ("max_pixels",),
  "system": ("system",),
  "hint": ("hint",),
  "difficulty": ("difficulty", "pass_rate", "passrate"),
}
# Of these a second candidate is never passed over in silence.
_EXACT = ("question", "images", "answer", "options")
# Our own jsonl: every row has these, they are what they are called, and so are
# the optional ones (data/rows.py).
OURS = ("id", "image", "question", "answer")
_OPTIONAL = (
  "options",
  "category",
  "answer_type",
  "description",
  "reasoning",
  "min_pixels",
  "max_pixels",
  "difficulty",
)
# What an example is stored as (data/records.py).
STORED = frozenset(("id", "question", "answer", "answer_type", "rest"))
_NUMBERED = re.compile(r"image_?(\d+)")
_SHOWN = 40  # characters of a value in a message


@dataclass(frozen=True)
class Layout:
  """What the columns of a data set hold.

  Attributes:
    format: a name for people.
    columns: of each role that some column has; see ALIASES.
    labelled: columns named by letters, one option each.
    numbered: columns image_1, image_2, …, a picture or none each.
    strict: whether a row may lack none of OURS.
    stored: whether rows are what `records.record_from_example` made.
    notes: what else a reader should know.
  """

  format: str
  columns: Mapping[str, str]
  labelled: tuple[str, ...] = ()
  numbered: tuple[str, ...] = ()
  strict: bool = False
  stored: bool = False
  notes: tuple[str, ...] = field(default=())

  def __str__(self) -> str:
    parts = [f"{role}={name}" for role, name in self.columns.items()]
    if self.labelled:
      parts.append(f"options={self.labelled[0]}-{self.labelled[-1]}")
    if self.numbered:
      parts.append(f"images={self.numbered[0]}-{self.numbered[-1]}")
    return "; ".join([f"{self.format}, {', '.join(parts)}", *self.notes])


def at(row: Mapping[str, Any], path: str) -> Any:
  """The value of a column, into structs along dots; None where it has none."""
  if path in row:
    return row[path]
  value: Any = row
  for name in path.split("."):
    if not isinstance(value, Mapping):
      return None
    value = value.get(name)
  return value


def is_empty(value: Any) -> bool:
  """Whether a cell holds nothing."""
  return value is None or (
    isinstance(value, str | bytes | list | tuple | dict) and not value
  )


def read_columns(text: str) -> dict[str, str]:
  """Parses "question=problem,answer=solution"; an empty column: there is none.

  Raises:
    ValueError: for a part without "=", an unknown role (naming the nearest)
      or a role that is given twice.
  """
  given: dict[str, str] = {}
  for part in text.split(",") if text.strip() else ():
    role, equals, column = (piece.strip() for piece in part.partition("="))
    if not equals:
      raise ValueError(
        f"data.columns={text!r}: {part!r} is no ROLE=COLUMN, such as"
        " question=problem"
      )
    if role not in ALIASES:
      near = difflib.get_close_matches(role, ALIASES, 1, 0)[0]
      raise ValueError(
        f"data.columns={text!r}: there is no {role!r}; did you mean {near!r}?"
        f" Known are {', '.join(ALIASES)}"
      )
    if role in given:
      raise ValueError(f"data.columns={text!r} gives {role} twice")
    given[role] = column
  return given


def _known(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> set:
  """Names of columns and, along dots, of what stands in structs."""
  names = set(columns)
  for row in rows:
    for column, value in row.items():
      names.add(column)
      if isinstance(value, Mapping):
        names.update(f"{column}.{key}" for key in value)
  return names


def _text(role: str, value: Any) -> str:
  """What a cell says in a role, to compare two cells."""
  if role == "question":
    with contextlib.suppress(BadRow):
      value = read_chat(value, "").question
  if isinstance(value, str):
    value = read_answer(value) if role == "answer" else value
    return " ".join(value.replace("<image>", " ").split())
  return json.dumps(value, sort_keys=True, default=repr)


def _agree(
  role: str, one: str, other: str, rows: Sequence[Mapping[str, Any]]
) -> bool:
  """Whether two columns say the same wherever both say something."""
  pairs = [(at(row, one), at(row, other)) for row in rows]
  both = [pair for pair in pairs if not any(map(is_empty, pair))]
  return all(_text(role, a) == _text(role, b) for a, b in both)


def _shown(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _example(rows: Sequence[Mapping[str, Any]], column: str) -> str:
  found = [at(row, column) for row in rows]
  return _shown(next((x for x in found if not is_empty(x)), None))


def _choose(
  role: str, candidates: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> str:
  """The one column of a role.

  Raises:
    ValueError: where a second candidate says something else.
  """
  best, *others = candidates
  for other in others:
    if role == "images" or not _agree(role, best, other, rows):
      raise ValueError(
        f"two columns may hold the {role}: {best!r} ({_example(rows, best)})"
        f" and {other!r} ({_example(rows, other)}); say which:"
        f' data.columns="{role}={best}" or data.columns="{role}={other}"'
      )
  return best


def _name(found: Mapping[str, str], known: set) -> str:
  """The format that these columns are known from."""
  question, answer = found.get("question"), found.get("answer")
  images = "images" in found
  if {"index", "question"} <= known and images:
    return "VLMEvalKit"
  if answer == "reward_model.ground_truth":
    return "verl"
  if question == "conversations":
    return "LLaVA" if found.get("images") == "image" else "ShareGPT"
  if question == "conversation":
    return "ShareGPT"
  if question == "messages":
    return "OpenAI messages"
  if question == "prompt" and answer == "label":
    return "OpenRLHF"
  if question in ("prompt", "problem") and answer == "solution":
    return "TRL"
  if question == "problem" and answer == "answer" and images:
    return "Geometry3K"
  return "columns by name"


def sniff(
  columns: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  given: Mapping[str, str] | None = None,
) -> Layout:
  """Decides what the columns hold.

  Args:
    columns: their names, as far as the file says.
    rows: a few; a column that is empty in all of them holds nothing.
    given: columns by role, as `read_columns` has them; these are not guessed.

  Raises:
    ValueError: if two columns may hold the same, none holds the question, or
      a given column is not there; with the fix.
  """
  given = given or {}
  known = _known(columns, rows)
  for role, column in given.items():
    if column and column not in known:
      near = difflib.get_close_matches(column, known, 1, 0)
      hint = f"; did you mean {near[0]!r}?" if near else ""
      raise ValueError(
        f"data.columns: {role}={column}, but there is no such column{hint}"
        f" Columns are {_listed(known)}"
      )
  if known >= STORED:
    return Layout("stored examples", {"id": "id"}, stored=True)
  ours = not given and set(OURS) <= known
  taken = set(given.values())
  full = {
    name
    for name in known
    if not rows or any(not is_empty(at(row, name)) for row in rows)
  }
  found: dict[str, str] = {}
  notes: list[str] = []
  for role, names in ALIASES.items():
    if role in given:
      found |= {role: given[role]} if given[role] else {}
      continue
    some = [n for n in names if n in full and n not in taken]
    if role == "answer" and "options" not in given and _is_hub_geometry(full):
      some = [name for name in some if name != "ground_truth"]
      notes.append(
        "asked openly; as multiple choice with"
        ' data.columns="options=choices,answer=ground_truth"'
      )
    if role == "options" and notes:
      some = [name for name in some if name != "choices"]
    if role == "images" and "index" in full and some[:1] == ["image"]:
      some = some[:1]  # VLMEvalKit has a path beside
    if ours and role != "images":
      some = [name for name in some if name in (*OURS, *_OPTIONAL)]
    if role not in _EXACT:
      some = some[:1]
    if some:
      found[role] = _choose(role, some, rows)
  if "question" not in found:
    raise ValueError(
      f"no column for the question among {_listed(known)}; say which:"
      ' data.columns="question=COLUMN"'
    )
  labelled = tuple(_labels(full)) if "options" not in found else ()
  if "options" in given:
    labelled = ()
  numbered = tuple(_numbered(known)) if "images" not in found else ()
  if "images" in given:
    numbered = ()
  elif not numbered and "images" not in found:
    _refuse_pictures(columns, rows)
  question = found["question"]
  if "answer" not in found and any(is_chat(at(r, question)) for r in rows):
    notes.append("answer=the response, where there is one")
  strict = ours and all(_is_path(row.get("image")) for row in rows)
  name = "our jsonl" if strict else _name(found, known)
  return Layout(name, found, labelled, numbered, strict, notes=tuple(notes))


def _is_hub_geometry(full: set) -> bool:
  """hiyouga/geometry3k: an open answer beside the letter of a choice."""
  return {"problem", "answer", "choices", "ground_truth"} <= full


def _labels(full: Iterable[str]) -> list[str]:
  """A, B, … as far as columns of these names follow each other."""
  out: list[str] = []
  for letter in LETTERS:
    if letter not in full:
      break
    out.append(letter)
  return out if len(out) > 1 else []


def _refuse_pictures(
  columns: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
  """Pictures in a column that no role has must not be lost in silence."""
  for column in sorted({*columns, *(name for row in rows for name in row)}):
    if any(_is_picture(row.get(column)) for row in rows):
      raise ValueError(
        f"column {column!r} holds pictures, by no name that is known; say so:"
        f' data.columns="images={column}", or leave them out with'
        ' data.columns="images="'
      )


def _is_picture(value: Any) -> bool:
  values = value if isinstance(value, list) else [value]
  held = [x.get("bytes") if isinstance(x, Mapping) else x for x in values]
  return any(isinstance(x, bytes) for x in held)


def _numbered(known: Iterable[str]) -> list[str]:
  """image_1, image_2, … in order, as MMMU has them."""
  found = {int(m[1]): m[0] for m in map(_NUMBERED.fullmatch, known) if m}
  return [found[number] for number in sorted(found)]


def _is_path(value: Any) -> bool:
  names = value if isinstance(value, list) else [value]
  return all(name is None or isinstance(name, str) for name in names)


def _listed(names: Iterable[str]) -> str:
  return ", ".join(sorted(name for name in names if "." not in name)) or "none"


def listed(columns: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> str:
  """The names of all columns, for a message."""
  return _listed(_known(list(columns), rows))
