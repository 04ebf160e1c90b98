"""Reads a response in the tag format: what it says, and which rules it keeps.

The whole format is
`<description>…</description>\\n<think>…</think>\\n<answer>…</answer>`.
Reading is total: any string has a parse, in time linear in its length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

TAGS = ("description", "think", "answer")


@dataclass(frozen=True)
class Parsed:
  """What a response, or a part of one, says.

  Attributes:
    description: inside of the one description block, stripped; None where the
      block is missing, unclosed or repeated.
    reasoning: likewise, of the think block.
    answer: inside of the one answer block, stripped; None unless there is
      exactly one and no tag follows it. May be empty.
    tags_ok: whether every rule of the whole format is kept.
  """

  description: str | None
  reasoning: str | None
  answer: str | None
  tags_ok: bool


def block(text: str, tag: str) -> tuple[int, int] | None:
  """Where the inside of a tag's one well-formed block starts and ends."""
  opening, closing = f"<{tag}>", f"</{tag}>"
  if text.count(opening) != 1 or text.count(closing) != 1:
    return None
  start = text.index(opening) + len(opening)
  end = text.index(closing)
  return (start, end) if start <= end else None


def tag_rules(text: str, tags: Sequence[str] = TAGS) -> dict[str, bool]:
  """Which rules of the format a text keeps.

  Args:
    text: the text from the first sampled token on.
    tags: the blocks that it should hold, in order; a description node alone
      is held to ("description",).

  Returns:
    By rule: each tag's name (exactly one block of it), "order" (blocks follow
    one another without nesting), "outside" (between and around the blocks
    stands only white space). The last two hold only where all blocks do.
  """
  blocks = [block(text, tag) for tag in tags]
  rules = {
    tag: span is not None for tag, span in zip(tags, blocks, strict=True)
  }
  cursor, order, outside = 0, True, True
  for tag, span in zip(tags, blocks, strict=True):
    if span is None:
      order = outside = False
      break
    start = span[0] - len(f"<{tag}>")
    order = order and start >= cursor
    outside = outside and not text[cursor:start].strip()
    cursor = span[1] + len(f"</{tag}>")
  rules["order"] = order
  rules["outside"] = order and outside and not text[cursor:].strip()
  return rules


def parse_response(text: str) -> Parsed:
  """Parses the concatenated text of a path, whole or only its first stages.

  Text after the answer block breaks `tags_ok` but leaves the answer; a further
  tag after it, or a second answer, leaves none: listing guesses scores nothing.
  """
  inside = {}
  for tag in TAGS:
    span = block(text, tag)
    inside[tag] = None if span is None else text[span[0] : span[1]].strip()
  answer = inside["answer"]
  if answer is not None:
    rest = text[text.index("</answer>") + len("</answer>") :]
    if any(f"<{slash}{tag}>" in rest for tag in TAGS for slash in ("", "/")):
      answer = None
  return Parsed(
    description=inside["description"],
    reasoning=inside["think"],
    answer=answer,
    tags_ok=all(tag_rules(text).values()),
  )
