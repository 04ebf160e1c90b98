"""Reads one number, with its unit, from a short free text."""

import re
from dataclasses import dataclass
from fractions import Fraction

_WORD_LIST = (
  "zero one two three four five six seven eight nine ten eleven twelve "
  "thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
)
NUMBER_WORDS = {word: n for n, word in enumerate(_WORD_LIST.split())}

# Spellings of a unit -> its one name. Two known units that differ make two
# quantities differ; nothing is converted, and unknown units are ignored.
UNITS = {
  spelling: spellings.split()[0]
  for spellings in (
    "° degree degrees deg",
    "% percent pct",
    "mm millimeter millimeters millimetre millimetres",
    "cm centimeter centimeters centimetre centimetres",
    "m meter meters metre metres",
    "km kilometer kilometers kilometre kilometres",
    "inch inches",
    "ft foot feet",
    "g gram grams",
    "kg kilogram kilograms",
    "s sec second seconds",
    "min minute minutes",
    "h hour hours",
    "$ dollar dollars usd",
    "€ euro euros eur",
  )
  for spelling in spellings.split()
}

MAX_CHARS = 200
# One numeral: a mixed number, a fraction, grouped thousands, or a plain
# decimal. Digits are bounded, so no value is expensive to hold; a numeral that
# is part of a name, a date, a power or a product with a symbol is none.
_NUMERAL = re.compile(
  r"""
  (?<![\w.^/±√\\{]) (?<!\d[:,])
  (?P<sign>[-+]?)(?P<currency>[$€]?)
  (?:
    (?P<whole>\d{1,12})[ ](?P<mixed>\d{1,12}/\d{1,12})
  | (?P<fraction>\d{1,40}(?:\.\d{1,40})?[ ]?/[ ]?\d{1,40}(?:\.\d{1,40})?)
  | (?P<grouped>\d{1,3}(?:,\d{3}){1,12}(?:\.\d{1,40})?)
  | (?P<spaced>\d{1,3}(?:[ ]\d{3}){1,12}(?:\.\d{1,40})?)
  | (?P<plain>\d{1,40}(?:\.\d{1,40})?|\.\d{1,40})
    (?P<power>(?:[eE]|[ ]?[x\u00d7*·][ ]?10\^)[-+]?\d{1,2})?
  )
  (?! [\d/√^\\({!π*] | [.,:]\d )
  # A single letter glued to the digits is a symbol, unless it is a unit.
  (?! (?![mghs])[^\W\d_] (?![^\W\d_]) )
  """,
  re.VERBOSE,
)
_COMMA_DECIMAL = re.compile(r"(?<![\d,])(\d{1,40}),(\d{1,2})(?![\d,])")
_FRACTION = re.compile(r"\\[dt]?frac\{(\d{1,40})\}\{(\d{1,40})\}")
_EXPONENT = re.compile(r"(?<=[a-z])(?:\^[23]|\^\{[23]\}|[²³])")
# What makes of a number a part of an expression.
_EXPRESSION = re.compile(r"[√^\\{}+*\u00d7÷<>≤≥±π∞]|sqrt|(?<![a-z])pi(?![a-z])")
_UNIT = re.compile(r"[ ]?([a-zA-Z]+(?!/)|[°%$€])")
_WORDS = re.compile(
  rf"(?<![^\W_])({'|'.join(NUMBER_WORDS)})(?![^\W_])", re.IGNORECASE
)


@dataclass(frozen=True)
class Number:
  """A number as written.

  Attributes:
    value: exact, in the unit that was written; 28 for "28 %".
    unit: its name in `UNITS`; empty where none or an unknown one stands.
    decimals: digits after the decimal point; -1 for integers and fractions.
    integer: whether it was written as an integer.
  """

  value: Fraction
  unit: str
  decimals: int
  integer: bool


def _quotient(text: str) -> Fraction | None:
  over, under = text.replace(" ", "").split("/")
  return Fraction(over) / Fraction(under) if Fraction(under) else None


def _decimals(text: str) -> int:
  return len(text.partition(".")[2]) if "." in text else -1


def _value(match: re.Match[str]) -> tuple[Fraction, int] | None:
  """The unsigned value of a numeral and its decimals; None for x/0."""
  if match["whole"]:
    part = _quotient(match["mixed"])
    return None if part is None else (int(match["whole"]) + part, -1)
  if match["fraction"]:
    ratio = _quotient(match["fraction"])
    return None if ratio is None else (ratio, -1)
  text = match["grouped"] or match["spaced"] or match["plain"]
  text = text.replace(",", "").replace(" ", "")
  value = Fraction(text)
  if match["power"]:
    exponent = int(re.split(r"[eE^]", match["power"])[-1])
    return value * Fraction(10) ** exponent, -1
  return value, _decimals(text)


def _plain(text: str) -> str:
  """A text without markdown, simple LaTeX dressing and "x =" before it."""
  for old, new in (("\u2212", "-"), ("\u2013", "-"), ("**", ""), ("\\%", "%")):
    text = text.replace(old, new)
  text = " ".join(text.replace("per cent", "percent").split()).strip("`'\"")
  if len(text) > 1 and text[0] == text[-1] == "$":
    text = text.strip("$ ")
  text = _FRACTION.sub(r"\1/\2", text)
  name, _, value = text.rpartition("=")
  if not any(char.isdigit() for char in name):
    text = value.strip()
  text = re.sub(r"(^|: |\()- (?=[\d.])", r"\1-", text)
  # "(0,9)" is a pair or an interval, not nine tenths.
  if "(" not in text and "[" not in text:
    text = _COMMA_DECIMAL.sub(r"\1.\2", text)
  return text


def read_number(text: str) -> Number | None:
  """The one number in a text; None where there is none or more than one.

  Digits (1,000 or 1 000 in groups, 1,5 with a decimal comma, 1e3, 3/4, 1 1/2),
  or a word from zero to twenty; a simple \\frac{3}{4}, percent signs and units
  behind it. "x = 3" is read as 3. Digits in names (A2) and powers (m^2) are no
  numbers; a part of an expression (3x, 2√5, 1+1) is none either. Texts beyond
  `MAX_CHARS` are not read.
  """
  if len(text) > MAX_CHARS:
    return None
  text = _plain(text)
  if _EXPRESSION.search(_EXPONENT.sub("", _NUMERAL.sub("", text)).casefold()):
    return None
  found: list[Number] = []
  for match in _NUMERAL.finditer(text):
    read = _value(match)
    if read is None:
      return None
    value, decimals = read
    if match["sign"] == "-":
      value = -value
    unit = match["currency"] or _unit_after(text, match.end())
    ratio = match["mixed"] or match["fraction"] or match["power"]
    integer = not ratio and decimals < 0
    found.append(Number(value, UNITS.get(unit, ""), decimals, integer))
  for match in _WORDS.finditer(text):
    value = Fraction(NUMBER_WORDS[match[1].casefold()])
    unit = _unit_after(text, match.end())
    found.append(Number(value, UNITS.get(unit, ""), -1, True))
  return found[0] if len(found) == 1 else None


def _unit_after(text: str, end: int) -> str:
  match = _UNIT.match(text, end)
  return match[1].casefold() if match else ""


def numbers_agree(given: Number, expected: Number) -> bool:
  """Whether a given number is the expected one, under our tolerance policy.

  An expected integer is matched exactly. Otherwise the given value may differ
  by a thousandth (of the expected value where that is below one), or round to
  an expected value of two or more decimals. A percent sign is never required;
  it divides by 100 where only one side has it and the other is at most one.
  Two known units must be the same; none is converted.
  """
  if "%" not in (given.unit, expected.unit):
    if given.unit and expected.unit and given.unit != expected.unit:
      return False
    return _close(given.value, expected)
  if given.unit == expected.unit:
    return _close(given.value, expected)
  if expected.unit == "%":
    scaled = abs(given.value) <= 1 and _close(given.value * 100, expected)
    return not given.unit and (scaled or _close(given.value, expected))
  if expected.unit:
    return False
  if abs(expected.value) <= 1:
    return _close(given.value / 100, expected)
  return _close(given.value, expected)


def _close(value: Fraction, expected: Number) -> bool:
  if expected.integer:
    return value == expected.value
  error = abs(value - expected.value)
  if error <= Fraction(1, 1000) * min(Fraction(1), abs(expected.value)):
    return True
  half_unit = Fraction(1, 2 * 10 ** max(expected.decimals, 0))
  return expected.decimals >= 2 and error <= half_unit
