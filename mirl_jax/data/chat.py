"""One question out of a conversation, in the spellings that data sets use.

Messages of OpenAI, verl, OpenRLHF and TRL (`role`, `content`), of LLaVA and
ShareGPT (`from`, `value`), pairs (`human`, `assistant`), and content in blocks
as OpenAI and Anthropic have them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mirl_jax.data.source import BadRow

MARKER = "<image>"  # where a picture stands in the text
_ROLES = {
  "system": "system",
  "developer": "system",
  "user": "user",
  "human": "user",
  "assistant": "assistant",
  "gpt": "assistant",
  "model": "assistant",
  "chatgpt": "assistant",
  "bot": "assistant",
}
# Of a content block; a picture without a value stands in a column of its own.
_PICTURES = ("image", "image_url", "source", "url", "path", "bytes", "base64")


@dataclass(frozen=True)
class Turn:
  """One question and, where it is told, its response.

  Attributes:
    question: of the user, with a marker for each picture shown there.
    response: of the assistant; empty where there is none.
    system: message; empty where there is none.
    images: values of the pictures that stand in the messages themselves.
  """

  question: str
  response: str = ""
  system: str = ""
  images: tuple[Any, ...] = ()


def is_chat(value: Any) -> bool:
  """Whether a value is a list of messages."""
  if isinstance(value, Mapping):
    return any(isinstance(value.get(key), list) for key in ("role", "from"))
  return (
    isinstance(value, list)
    and bool(value)
    and all(isinstance(message, Mapping) for message in value)
  )


def _messages(value: Any, row: str) -> list[tuple[str, Any]]:
  """(role, content) of each message."""
  if isinstance(value, Mapping):  # columns of messages, as parquet may hold
    names = list(value)
    value = [
      dict(zip(names, cells, strict=False))
      for cells in zip(*value.values(), strict=False)
    ]
  out: list[tuple[str, Any]] = []
  for message in value:
    role = message.get("role") or message.get("from")
    if role is None and message.get("human") is not None:
      out.append(("user", message["human"]))
      if message.get("assistant"):
        out.append(("assistant", message["assistant"]))
      continue
    known = _ROLES.get(str(role).lower())
    if known is None:
      raise BadRow(
        row, f"a message has the role {role!r}; known are {', '.join(_ROLES)}"
      )
    content = message.get("content")
    out.append((known, message.get("value") if content is None else content))
  return out


def _content(content: Any, row: str) -> tuple[str, list[Any]]:
  """The text of a message with its markers, and the pictures in it."""
  if content is None or isinstance(content, str):
    return content or "", []
  if isinstance(content, Mapping):
    content = [content]
  if not isinstance(content, Sequence) or isinstance(content, bytes):
    raise BadRow(row, f"a message's content is a {type(content).__name__}")
  texts: list[str] = []
  images: list[Any] = []
  for block in content:
    if isinstance(block, str):
      texts.append(block)
      continue
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind in ("text", "input_text"):
      texts.append(str(block.get("text") or ""))
    elif kind in ("image", "image_url", "input_image"):
      texts.append(MARKER)
      found = [block[key] for key in _PICTURES if block.get(key)]
      images += found[:1]
    else:
      raise BadRow(row, f"a message has a block of type {kind!r}")
  return "\n".join(texts), images


def read_chat(value: Any, row: str) -> Turn:
  """The one question of a conversation.

  User messages that follow each other before the first response are one.

  Args:
    value: a list of messages, or the question itself.
    row: id of the row.

  Raises:
    BadRow: for a dialogue of several turns, a message of another kind, or no
      question.
  """
  if isinstance(value, str):
    return Turn(value)
  if not is_chat(value):
    raise BadRow(row, f"the question is a {type(value).__name__}, no text")
  texts: dict[str, list[str]] = {"system": [], "user": [], "assistant": []}
  images: list[Any] = []
  for role, content in _messages(value, row):
    if texts["assistant"] and role != "system":
      raise BadRow(row, "a dialogue of several turns; one question is read")
    text, shown = _content(content, row)
    if shown and role == "assistant":
      raise BadRow(row, "the response holds a picture")
    texts[role].append(text)
    images += shown
  if not texts["user"]:
    raise BadRow(row, "no message of a user")
  return Turn(
    question="\n".join(texts["user"]),
    response="\n".join(texts["assistant"]),
    system="\n".join(texts["system"]),
    images=tuple(images),
  )


def without_markers(text: str, count: int, row: str) -> str:
  """The question without `<image>`; the prompt shows its pictures first.

  Where several pictures are named inside of a sentence, each marker there
  becomes "image 1", "image 2", …: which is meant would be lost otherwise.

  Args:
    text: with a marker for each picture, or with none at all.
    count: pictures of the row.
    row: its id.

  Raises:
    BadRow: if the numbers do not agree.
  """
  pieces = text.split(MARKER)
  if len(pieces) == 1:
    return text
  if len(pieces) - 1 != count:
    raise BadRow(
      row, f"{len(pieces) - 1} {MARKER} in the question for {count} images"
    )
  first, last = 0, count
  while first < count and not pieces[first].strip():
    first += 1
  while last > first and not pieces[last].strip():
    last -= 1
  out = pieces[first]
  for number in range(first + 1, last + 1):
    if count > 1:
      out += f"image {number}{pieces[number]}"
    else:
      out = out.rstrip(" ") + pieces[number]
  return out.strip()
