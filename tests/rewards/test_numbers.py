"""Reading one number and comparing two."""

import random
from fractions import Fraction

import pytest

from mirl_jax.rewards.numbers import MAX_CHARS, numbers_agree, read_number


@pytest.mark.parametrize(
  ("text", "value", "unit"),
  [
    ("5", 5, ""),
    (" -5 ", -5, ""),
    ("\u22125", -5, ""),
    ("+5.", 5, ""),
    ("- 5", -5, ""),
    (".5", "1/2", ""),
    ("1,000.0", 1000, ""),
    ("1 000", 1000, ""),
    ("1,234,567", 1234567, ""),
    ("1,5", "3/2", ""),
    ("3/4", "3/4", ""),
    ("-10 / 4", "-5/2", ""),
    ("1 1/2", "3/2", ""),
    ("\\frac{3}{4}", "3/4", ""),
    ("1e5", 100000, ""),
    ("2.5 x 10^3", 2500, ""),
    ("three", 3, ""),
    ("Twenty", 20, ""),
    ("x = 3", 3, ""),
    ("there are seven of them", 7, ""),
    ("**7**", 7, ""),
    ("$10$", 10, ""),
    ("5 cm", 5, "cm"),
    ("5 centimetres", 5, "cm"),
    ("15cm²", 15, "cm"),
    ("15 cm^2", 15, "cm"),
    ("five inches", 5, "inch"),
    ("140°", 140, "°"),
    ("140 degrees", 140, "°"),
    ("28\\%", 28, "%"),
    ("28 per cent", 28, "%"),
    ("-$5.50", "-11/2", "$"),
    ("60 km/h", 60, ""),
    ("4 apples", 4, ""),
  ],
)
def test_one_number_is_read(text, value, unit):
  number = read_number(text)
  assert number is not None
  assert number.value == Fraction(value)
  assert number.unit == unit


@pytest.mark.parametrize(
  "text",
  [
    "",
    "none",
    "3 or 4",
    "3, 4",
    "1,2,3",
    "3-4",
    "two and 3",
    "twenty-one",
    "A2",
    "m^2",
    "12:30",
    "1.2.3",
    "3/4/5",
    "1/0",
    "1 1/0",
    "3x",
    "2\u221a3",
    "1+\u221a3",
    "22+4\\sqrt{3}",
    "5sqrt(3)",
    "2π",
    "5!",
    "7*2",
    "a + 3z = 0",
    "(0,9)",
    "nan",
    "inf",
    "9" * 60,
    "5" + " " * MAX_CHARS,
  ],
)
def test_no_number_or_several_are_none(text):
  assert read_number(text) is None


def agree(given: str, expected: str) -> bool:
  left, right = read_number(given), read_number(expected)
  assert left is not None
  assert right is not None
  return numbers_agree(left, right)


@pytest.mark.parametrize(
  ("given", "expected", "same"),
  [
    ("5.0", "5", True),
    ("five", "5", True),
    ("10/2", "5", True),
    ("5.0001", "5", False),
    ("12345678901234567890", "12345678901234567891", False),
    ("2.0944", "2.0944", True),
    ("2.094395", "2.0944", True),
    ("2.094", "2.0944", True),
    ("2.09", "2.0944", False),
    ("291.4214", "291.42", True),
    ("291.6", "291.4214", False),
    ("0.333", "1/3", True),
    ("0.33", "1/3", False),
    ("0.0004", "0.0005", False),
    ("27.04", "27.0", False),
    ("5 cm", "5", True),
    ("5", "5 cm", True),
    ("5 m", "5 cm", False),
    ("50%", "50", True),
    ("50", "50%", True),
    ("0.5", "50%", True),
    ("50%", "0.5", True),
    ("0.5%", "0.5", False),
    ("0.5%", "50", False),
    ("5000", "50%", False),
    ("50 cm", "50%", False),
    ("50%", "50 cm", False),
  ],
)
def test_tolerance_units_and_percent(given, expected, same):
  assert agree(given, expected) is same


@pytest.mark.parametrize("seed", range(3))
def test_any_short_string_is_read_or_refused(seed):
  rng = random.Random(seed)
  pieces = [
    *"0123456789.,/-+ eE%$°()=x^{}\\!π²½٣",
    "10^",
    "one",
    "\\frac{1}{0}",
  ]
  for _ in range(3000):
    text = "".join(rng.choices(pieces, k=rng.randint(0, 15)))
    number = read_number(text)
    if number is not None:
      assert numbers_agree(number, number), text
