"""Finds the one final answer of a free response.

Strict about one: a response that names two different final answers has none.
Reading is total and takes time linear in the length of the text.
"""

import re

from mirl_jax.rewards.parse import TAGS, parse_response

EXTRACTIONS = ("tags", "boxed", "last_line", "auto")

_BOX = re.compile(r"\\f?boxed\s*\{")
# "Answer: 5", "**Final answer:** 5", "the answer is 5", "So the answer is: 5"
_MARKER = re.compile(
  r"\banswer[*_`\s]*(?:\bis\b[*_`\s]*:?|:)[*_`\s]*", re.IGNORECASE
)
_FACE = re.compile(r"\\(?:text|math)(?:bf|rm|it)?\{([^{}]*)\}")
_ANY_TAG = re.compile(rf"</?(?:{'|'.join(TAGS)})>")
_NO_ANSWER = re.compile(r"\s*(?:(?:so|thus|the|my|final)\s+)*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?]\s+(?=[A-Z])")
_MAX_BOXES = 8  # each costs a reading of the text
_DRESSING = "*_` \t"


def boxes_in(text: str) -> list[str] | None:
  """The insides of every outermost \\boxed{…}; None where one never closes."""
  found: list[str] = []
  cursor = 0
  while match := _BOX.search(text, cursor):
    depth, start = 1, match.end()
    for end in range(start, len(text)):
      # An escaped brace is a sign in the text.
      escaped = text[end - 1] == "\\" and text[end - 2] != "\\"
      if text[end] in "{}" and not escaped:
        depth += 1 if text[end] == "{" else -1
      if depth == 0:
        break
    if depth:
      return None
    found.append(text[start:end].strip())
    cursor = end + 1
  return found


def unbox(text: str) -> str:
  """A text that is one \\boxed{…} and nothing else, without the box.

  Boxes within boxes are taken off, too, up to `_MAX_BOXES`.
  """
  for _ in range(_MAX_BOXES):
    bare = text.strip(" \n.$")
    match = _BOX.match(bare)
    inside = boxes_in(bare) if match else None
    if not match or not inside or len(inside) != 1 or bare[-1:] != "}":
      return text
    text = inside[0]
  return text


def _undressed(value: str) -> str:
  """A box's value without a bold face, brackets around one number, spaces."""
  value = "".join(unbox(value).split()).rstrip(".")
  if face := _FACE.fullmatch(value):
    value = face[1]
  return value[1:-1] if re.fullmatch(r"\(\d{1,40}\)", value) else value


def _boxed(text: str) -> str | None:
  found = boxes_in(text)
  if not found or len({_undressed(value) for value in found}) != 1:
    return None
  return unbox(found[-1])


def _marked(part: str) -> str:
  """What a marker names: up to the end of its sentence."""
  part = _SENTENCE_END.split(part.strip(), maxsplit=1)[0]
  return part.rstrip(".").strip(_DRESSING)


def _last_line(text: str) -> str | None:
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  if not lines:
    return None
  found = [part for line in lines for part in _MARKER.split(line)[1:]]
  # In "Final answer: The final answer is 5." the first says nothing.
  marked = [_marked(part) for part in found if not _NO_ANSWER.fullmatch(part)]
  if not marked:
    return lines[-1].strip(_DRESSING)
  if len({value.casefold() for value in marked}) != 1:
    return None
  # The final answer is final: it stands in the last line.
  return marked[-1] if _MARKER.search(lines[-1]) else None


def _auto(text: str) -> str | None:
  if _ANY_TAG.search(text) and "answer>" in text:
    return parse_response(text).answer
  return _boxed(text) if _BOX.search(text) else _last_line(text)


def extract_answer(text: str, how: str = "tags") -> str | None:
  """The final answer of a response.

  Args:
    text: the whole response.
    how: "tags" takes the one <answer> block; "boxed" the \\boxed{…}, braces
      nested, where all of them say the same; "last_line" what follows
      "Answer:" or "answer is" in the last line, or that line itself where no
      line has such a marker; "auto" the first of these that the response uses.

  Returns:
    None where there is no such answer, or different ones.

  Raises:
    ValueError: for an unknown `how`.
  """
  if how == "tags":
    return parse_response(text).answer
  if how == "boxed":
    return _boxed(text)
  if how == "last_line":
    return _last_line(text)
  if how == "auto":
    return _auto(text)
  raise ValueError(f"extract={how!r}: give one of {', '.join(EXTRACTIONS)}")
