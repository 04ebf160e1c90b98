"""Reads short mathematical texts as text: what to hand to a LaTeX parser."""

import re
import unicodedata

from mirl_jax.rewards.extract import boxes_in, unbox
from mirl_jax.rewards.numbers import UNITS

_SIGNS = {
  "π": r"\pi ",
  "\u00d7": r"\times ",
  "÷": r"\div ",
  "·": r"\cdot ",
  "≤": r"\leq ",
  "≥": r"\geq ",
  "≠": r"\neq ",
  "±": r"\pm ",
  "∞": r"\infty ",
  "\u222a": r"\cup ",
  "∩": r"\cap ",
  "∈": r"\in ",
  "°": r"^{\circ}",
  "²": "^{2}",
  "³": "^{3}",
  "\u2212": "-",
  "\u2013": "-",
}
_FUNCTIONS = frozenset(
  "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp sqrt"
  " max min gcd lcm mod pi".split()
)
_JOINS = frozenset({"and", "or", "percent", "pct"})
_UNIT_WORDS = "|".join(
  sorted((unit for unit in UNITS if unit.isalpha()), key=len, reverse=True)
)
# A unit behind a number, root or bracket: "2√3cm²", "9\\pi \\mathrm{~cm}^{2}".
_UNIT = re.compile(
  rf"(?<=[\d}})πi ]) ?(?:\\(?:text|mathrm|mbox|textbf) ?\{{~? ?)?"
  rf"(?P<unit>{_UNIT_WORDS})\s*\}}?(?:\^\{{?[23]\}}?\^?|[²³])?\s*(?=\$?$)",
  re.IGNORECASE,
)
_DELIMITER = re.compile(r"(?<!\\)\$|\\\(|\\\[|\\f?boxed")
_PROSE = re.compile(
  r"\\(?:text|mbox|mathrm|textbf|textit|operatorname)\s*\{[^{}]*\}"
)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_ROOT_OF_GROUP = re.compile(r"(?:√|(?<![a-zA-Z\\])sqrt)\s*\(([^()]*)\)")
_ROOT_OF_ONE = re.compile(r"√\s*(\d+(?:\.\d+)?|[a-zA-Z])")
_THOUSANDS = re.compile(r"(?<=\d),\\!\s*(?=\d{3})")
_IDEOGRAPHS = re.compile(r"[\u4e00-\u9fff]+\s*$")  # a unit, as 米
_PI = re.compile(r"(?<![a-zA-Z\\])pi(?![a-zA-Z])")
_OR = re.compile(r"(?<![a-zA-Z\\])(?:or|either)(?![a-zA-Z])", re.IGNORECASE)
_NUMERAL = re.compile(r"\d+(?:[.,]\d+)*")
_LIST = re.compile(
  r"[,;]|\\pm|±|\\cup|\\quad|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])"
)


def delimited(text: str) -> bool:
  """Whether a text marks its mathematics, by $, \\(, \\[ or a box."""
  return _DELIMITER.search(text) is not None


def is_expression(text: str) -> bool:
  """Whether a whole text is mathematics and no prose.

  Words within \\text{…}, names of functions and known units are no prose.
  """
  bare = _COMMAND.sub(" ", _PROSE.sub(" ", text))
  if not re.search(r"[\w∞]", bare) and not _COMMAND.search(
    _PROSE.sub("", text)
  ):
    return False
  for word in _WORD.findall(bare):
    known = word.casefold()
    if known in _FUNCTIONS or known in UNITS or known in _JOINS:
      continue
    # Two letters, or capitals, are a product or the name of a line.
    if len(word) > 2 and not word.isupper() and word.isascii():
      return False
  return True


def boxed_part(text: str) -> str:
  """What stands in the one box of a text, else the text; spaces made single."""
  text = re.sub(r"[^\S\n]+", " ", text).strip()
  text = re.sub(r" ?\n[\n ]*", "\n", text)
  boxes = boxes_in(text)
  if boxes and len({"".join(box.split()) for box in boxes}) == 1:
    return unbox(boxes[-1])
  return text


def split_unit(text: str) -> tuple[str, str]:
  """A constant without its unit, and the unit's name in `numbers.UNITS`.

  The unit is "" where none stands, or where letters before it may be symbols,
  so that it may be one, too: "2am".
  """
  match = _UNIT.search(text)
  if match is None:
    return text, ""
  rest = text[: match.start()] + text[match.end() :]
  bare = _PI.sub(" ", _COMMAND.sub(" ", rest))
  words = re.findall(r"[a-zA-Z]+", bare)
  if any(word not in _FUNCTIONS for word in words) or "=" in rest:
    return text, ""
  return rest, UNITS[match["unit"].casefold()]


def to_latex(text: str) -> str:
  """A short text with its signs as LaTeX, between $ where it is mathematics.

  A text that has one box is reduced to what stands in it.
  """
  text = _THOUSANDS.sub(",", boxed_part(text)).replace("\\$", "")
  text = _IDEOGRAPHS.sub("", text)
  text = _ROOT_OF_GROUP.sub(r"\\sqrt{\1}", text)
  text = _ROOT_OF_ONE.sub(r"\\sqrt{\1}", text).replace("√", "\\sqrt")
  for sign, command in _SIGNS.items():
    text = text.replace(sign, command)
  text = unicodedata.normalize("NFKC", text)
  if delimited(text) or not is_expression(text):
    return text
  text = _PI.sub(r"\\pi ", text)
  return f"${text.replace('**', '^').strip()}$"


def lists_guesses(prediction: str, answer: str) -> bool:
  """Whether a prediction offers several answers where one is expected.

  That is: several different boxes, an "or", or several numbers in prose.
  """
  if _LIST.search(answer) or answer.count("boxed") > 1:
    return False
  boxes = boxes_in(prediction) or []
  values = {"".join(box.split()) for box in boxes}
  if len(values) > 1:
    return True
  core = boxes[-1] if values else prediction
  if _OR.search(core):
    return True
  prose = not delimited(core) and not is_expression(core)
  return prose and len(set(_NUMERAL.findall(core))) > 1
