"""The reference answer in a text, and how answers like it are compared."""

import re

from mirl_jax.rewards.numbers import MAX_CHARS, read_number
from mirl_jax.rewards.verify import (
  LETTERS,
  normalise,
  read_letters,
)

# Spellings of other data sets, by our own.
TYPE_NAMES = {
  "integer": "number",
  "float": "number",
  "multi_choice": "choice_letter",
  "multiple_choice": "choice_letter",
  "multiple-choice": "choice_letter",
  "open": "free_form",
  "free-form": "free_form",
}
_BOXED = "\\boxed{"
_POLARITY = ("yes", "no", "true", "false")
# A number with at most one word behind it, or a currency before it.
_NUMBER = re.compile(r"[-+$€ ]*[.\d][\d.,/ eE+-]*\s*[^\W\d_]*[%°]?\.?")
# What only a formula holds.
_FORMULA = re.compile(r"[\\$^_{}=<>√π°\d]")
_LABEL = re.compile(r"(?<!\w)\(?([A-Z])[).:]\s*\S")


def last_boxed(text: str) -> str | None:
  """What stands in the last balanced `\\boxed{…}`, if there is one."""
  start = text.rfind(_BOXED)
  if start < 0:
    return None
  depth, begin = 1, start + len(_BOXED)
  for at in range(begin, len(text)):
    depth += {"{": 1, "}": -1}.get(text[at], 0)
    if not depth:
      return text[begin:at]
  return None


def tagged(text: str, tag: str) -> str | None:
  """What stands in the last `<tag>…</tag>`, None where there is none."""
  end = text.rfind(f"</{tag}>")
  start = text.rfind(f"<{tag}>", 0, max(end, 0))
  return text[start + len(tag) + 2 : end].strip() if start >= 0 else None


def read_answer(text: str) -> str:
  """The answer itself: of `<answer>…</answer>` or `\\boxed{…}` the last.

  A text without either is the answer as it stands.
  """
  inside = tagged(text, "answer")
  text = text if inside is None else inside
  boxed = last_boxed(text)
  return (text if boxed is None else boxed).strip()


def sniff_answer_type(
  answer: str, options: tuple[str, ...] = (), question: str = ""
) -> str:
  """How an answer is compared, from what it looks like.

  Args:
    answer: the reference.
    options: the choices; with these it is choice_letter or choice_text.
    question: a single capital letter is a choice where the question lists
      options under that letter.

  Returns:
    number, yes_no, choice_letter, choice_text, free_form (formulas and what
    else holds a digit) or text.
  """
  letters = read_letters(answer)
  if options:
    if letters is not None and max(letters) < len(options):
      return "choice_letter"
    return "choice_text"
  labels = {LETTERS.index(label) for label in _LABEL.findall(question)}
  if letters is not None and len(labels) > 1 and letters <= labels:
    return "choice_letter"
  if normalise(answer) in _POLARITY:
    return "yes_no"
  short = answer.strip() if len(answer) <= MAX_CHARS else ""
  if _NUMBER.fullmatch(short) and read_number(short) is not None:
    return "number"
  return "free_form" if _FORMULA.search(answer) else "text"
