"""Verifiers of several values: lists, sets and intervals.

Members are compared as numbers where both are numbers, else as texts; what
needs algebra is handed on to mathematical equality.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from mirl_jax.data.example import Example
from mirl_jax.rewards.latex import to_latex
from mirl_jax.rewards.numbers import numbers_agree, read_number
from mirl_jax.rewards.texts import normalise
from mirl_jax.rewards.verdict import Ask, Verdict

MAX_MEMBERS = 200

_CLOSING = {"{": "}", "(": ")", "[": "]"}
_SPACING = re.compile(r"\\(?:left|right|quad|qquad|[,;:! ])|(?<!\\)\$|~")
_JOINT = re.compile(
  r"\s*(?:[;,\n]|(?<!\w)(?:and|or)(?!\w)|\\text\{\s*(?:and|or)\s*\})\s*"
)
_INFINITY = re.compile(
  r"([-+]?)\s*(?:\\infty|∞|oo|inf|infinity)", re.IGNORECASE
)
_ONE_INTERVAL = re.compile(r"([\[(])([^\[\](),;]+)[,;]([^\[\](),;]+)([\])])")
_UNION = re.compile(r"\s*(?:\\cup|\u222a|(?<=[\])\s])U(?=[\[(\s]))\s*")
_COMPARE = re.compile(r"\\(?:leq?|geq?|lt|gt)(?![a-zA-Z])|<=|>=|[<>≤≥]")
_MEANING = {
  "\\leq": "<=", "\\le": "<=", "≤": "<=", "\\lt": "<",
  "\\geq": ">=", "\\ge": ">=", "≥": ">=", "\\gt": ">",
}  # fmt: skip
_BEFORE = re.compile(r"^\s*[a-zA-Z]\s*(?:\\in(?![a-zA-Z])|∈)\s*")
_VARIABLE = re.compile(r"[a-zA-Z]")


def members(text: str) -> list[str] | None:
  """What a text lists; None where its brackets do not close, or too many.

  Commas, semicolons, new lines, "and" and "or" part members; inside of brackets
  they belong to the member. One pair of brackets around all is no member.
  """
  text = _SPACING.sub(" ", text).replace("\\{", "{").replace("\\}", "}").strip()
  text = re.sub(r"^\s*[a-zA-Z]\s*=\s*(?=[{\[(])", "", text)
  if text and text[0] in _CLOSING and _closes_last(text):
    text = text[1:-1].strip()
  found: list[str] = []
  open_: list[str] = []
  start = cursor = 0
  while cursor < len(text):
    char = text[cursor]
    joint = None if open_ else _JOINT.match(text, cursor)
    if joint and joint.end() > cursor and joint[0].strip(" "):
      found.append(text[start:cursor])
      start = cursor = joint.end()
      continue
    if char in _CLOSING:
      open_.append(_CLOSING[char])
    elif char in "})]" and (not open_ or open_.pop() != char):
      return None
    cursor += 1
  found.append(text[start:])
  # "a, and b": between the comma and the "and" stands nothing.
  kept = [member.strip(" '\"`") for member in found if member.strip()]
  return kept if not open_ and len(kept) <= MAX_MEMBERS else None


def _closes_last(text: str) -> bool:
  """Whether the bracket that opens a text closes at its very end."""
  depth = 0
  for place, char in enumerate(text):
    depth += (char in _CLOSING) - (char in "})]")
    if depth == 0:
      return place + 1 == len(text) and char == _CLOSING[text[0]]
  return False


def same_member(given: str, expected: str) -> bool:
  """Equal numbers, or equal texts after normalising."""
  left, right = read_number(given), read_number(expected)
  if left is not None and right is not None:
    return numbers_agree(left, right)
  return normalise(given) == normalise(expected)


def _distinct(found: list[str]) -> list[str]:
  kept: list[str] = []
  for member in found:
    if not any(same_member(member, other) for other in kept):
      kept.append(member)
  return kept


def _lists(
  prediction: str, example: Example
) -> tuple[list[str], list[str]] | Verdict:
  expected = members(example.answer)
  if not expected:
    return Verdict(False, "the reference is no list")
  given = members(prediction)
  if given is None:
    return Verdict(False, f"no list of at most {MAX_MEMBERS} members")
  return given, expected


def _algebra(given: list[str], expected: list[str]) -> bool:
  """Whether a member on either side is more than a number or a word."""
  return any(
    "\\" in member or re.search(r"[√^π*]|\d\s*[-+]\s*\d", member)
    for member in (*given, *expected)
  )


def list_verifier(prediction: str, example: Example) -> Verdict | Ask:
  """The same members in the same order; the score is the share in place."""
  read = _lists(prediction, example)
  if isinstance(read, Verdict):
    return read
  given, expected = read
  hits = sum(map(same_member, given, expected))
  score = hits / max(len(given), len(expected))
  if score == 1:
    return Verdict(True, "same list", 1.0)
  if len(given) == len(expected) and _algebra(given, expected):
    return Ask("math", f"$({', '.join(given)})$", f"$({', '.join(expected)})$")
  return Verdict(False, f"{hits} of {len(expected)} members in place", score)


def set_verifier(prediction: str, example: Example) -> Verdict | Ask:
  """The same members in any order; the score is intersection over union."""
  read = _lists(prediction, example)
  if isinstance(read, Verdict):
    return read
  given, expected = _distinct(read[0]), _distinct(read[1])
  left = list(expected)
  for member in given:
    match = next((one for one in left if same_member(member, one)), None)
    if match is not None:
      left.remove(match)
  hits = len(expected) - len(left)
  score = hits / (len(given) + len(expected) - hits)
  if score == 1:
    return Verdict(True, "same set", 1.0)
  if len(given) == len(expected) and _algebra(given, expected):
    return Ask(
      "math",
      f"$\\{{{', '.join(given)}\\}}$",
      f"$\\{{{', '.join(expected)}\\}}$",
    )
  return Verdict(False, f"{hits} of {len(expected)} members found", score)


@dataclass(frozen=True, order=True)
class Interval:
  """From `low` to `high`, each of them in it or not."""

  low: Fraction | float
  low_open: bool
  high: Fraction | float
  high_open: bool


def _end(text: str) -> Fraction | float | None:
  text = text.strip()
  if match := _INFINITY.fullmatch(text):
    return -math.inf if match[1] == "-" else math.inf
  number = read_number(text)
  if number is None:
    return None
  return number.value / 100 if number.unit == "%" else number.value


def _from_relation(text: str) -> Interval | None:
  """An interval that a chain such as 1 < x <= 2 or x >= 5 describes."""
  signs = [_MEANING.get(sign, sign) for sign in _COMPARE.findall(text)]
  parts = [part.strip() for part in _COMPARE.split(text)]
  places = [i for i, part in enumerate(parts) if _VARIABLE.fullmatch(part)]
  if not signs or len(places) != 1 or len(parts) > 3:
    return None
  if len(parts) == 3 and (places != [1] or signs[0][0] != signs[1][0]):
    return None
  low, low_open, high, high_open = -math.inf, True, math.inf, True
  bounds: dict[str, tuple[Fraction | float, bool]] = {}
  for i, sign in enumerate(signs):
    left = i + 1 == places[0]  # the bound stands left of the variable
    bound = _end(parts[i] if left else parts[i + 1])
    if bound is None:
      return None
    side = "low" if (sign[0] == "<") == left else "high"
    bounds[side] = (bound, sign in "<>")
  lower, low_open = bounds.get("low", (low, low_open))
  upper, high_open = bounds.get("high", (high, high_open))
  return Interval(lower, low_open, upper, high_open)


def read_intervals(text: str) -> tuple[Interval, ...] | None:
  """The union of intervals that a text gives, merged and in order.

  [0, 1), (-∞, 2] ∪ (3, 4), x >= 5 or 1 < x <= 2. None where it gives none or
  an end is no number.
  """
  text = _BEFORE.sub("", _SPACING.sub(" ", text).strip())
  found: list[Interval] = []
  for part in _UNION.split(text.strip()):
    match = _ONE_INTERVAL.fullmatch(part.strip())
    if match is None:
      whole = _from_relation(part)
      if whole is None:
        return None
      found.append(whole)
      continue
    low, high = _end(match[2]), _end(match[3])
    if low is None or high is None:
      return None
    found.append(Interval(low, match[1] == "(", high, match[4] == ")"))
  if any(one.low > one.high for one in found) or len(found) > MAX_MEMBERS:
    return None
  return _merged(found)


def _merged(found: list[Interval]) -> tuple[Interval, ...]:
  """Overlapping and touching intervals as one; infinite ends are open."""
  ordered = sorted(
    Interval(
      one.low,
      one.low_open or one.low == -math.inf,
      one.high,
      one.high_open or one.high == math.inf,
    )
    for one in found
  )
  done: list[Interval] = []
  for one in ordered:
    last = done[-1] if done else None
    touches = last is not None and (
      one.low < last.high
      or (one.low == last.high and not (one.low_open and last.high_open))
    )
    if last is None or not touches:
      done.append(one)
      continue
    # Of two equal ends, the closed one reaches further.
    far = max((last, one), key=lambda x: (x.high, not x.high_open))
    done[-1] = Interval(last.low, last.low_open, far.high, far.high_open)
  return tuple(done)


def interval_verifier(prediction: str, example: Example) -> Verdict | Ask:
  """The same set of real numbers, ends included or not as in the reference."""
  expected, given = read_intervals(example.answer), read_intervals(prediction)
  if expected is None or given is None:
    if to_latex(prediction) == to_latex(example.answer):
      return Verdict(True, "same text")
    return Ask("math", prediction, example.answer)
  if given == expected:
    return Verdict(True, "same interval")
  return Verdict(False, "another interval")
