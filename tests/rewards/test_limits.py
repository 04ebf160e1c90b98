"""What is refused before SymPy, and what is not."""

import random
import time

import pytest

from mirl_jax.rewards import limits
from mirl_jax.rewards.limits import refusal
from mirl_jax.testing_hostile import hostile_answers

FINE = (
  "5",
  "$\\frac{1}{2}$",
  "$2^{2024}-1$",
  "$x^{2024}$",
  "$e^{x^2}$",
  "$2^{2^{10}}$",
  "$10^{\\frac{-5+\\sqrt{13}}{6}}$",
  "$(x+1)^{10}$",
  "$5!$",
  "$\\binom{10}{3}$",
  "$\\sum_{k=1}^{100} k^2$",
  "$\\sin(x)\\cos(y)$",
  "$(((2^9)^9)^9)$",
  "$\\begin{pmatrix}\\cos t & -\\sin t \\\\ \\sin t & \\cos t\\end{pmatrix}$",
  "$[-1, -\\frac{1}{2}) \\cup (0, \\infty)$",
  "$\\begin{pmatrix}1 & 0 \\\\ 0 & 1\\end{pmatrix}$",
  "$1,234,567$",
  "$x^5 + 1 = 0$",
  "the answer is 12,000,023",
)
COSTLY = {
  "9^{9^{9}}": "power",
  "9**9**9": "power",
  "9^9^9": "power",
  "2^{10^{10}}": "power",
  "(((2^{99})^{99})^{99})^{99}": "power",
  "$(a+b+c)^{1000}$": "power of a sum",
  "$(a+b+c+d+e+f)^{8}(a+b+c)^{9}$": "power of a sum",
  "$x^{20}-5x<1$": "solve",
  "x^{100000}": "power",
  "1000000!": "factorial",
  "((3!)!)!": "factorial",
  "(10^5)!": "factorial",
  "\\binom{1000000}{5000}": "count",
  "\\sum_{k=1}^{1000000} k": "sum",
  "\\sum_{k=1}^{\\infty} k^{-2}": "infinite",
  "\\int_0^1 e^{-x^2} dx": "integral",
  "(" * 50 + ")" * 50: "nest",
  "-" * 20 + "5": "in a row",
  "9" * 61: "digits",
  "$" + ",".join("1" * 50) + "$": "items",
  "$" + "abcdefgh" * 5 + "$": "letters",
  "$\\sin\\sin\\sin\\sin\\sin x$": "functions",
  "$\\tan(a\\arctan(\\arctan(k)+\\tan(x-c)))$": "times symbols",
  "$\\sin x + \\cos x = x^2$": "equation",
  "$\\begin{pmatrix}a&b\\\\c&d\\end{pmatrix}^{9}$": "matrix",
  "x+" * 1500: "characters",
}


@pytest.mark.parametrize("text", FINE)
def test_ordinary_answers_are_not_refused(text):
  assert refusal(text) == ""


@pytest.mark.parametrize("text", COSTLY)
def test_costly_answers_are_refused_with_the_rule_that_did_it(text):
  assert COSTLY[text] in refusal(text)


def test_a_power_is_bounded_by_its_digits():
  """The bound holds: what passes has at most the digits that are allowed."""
  rng = random.Random(0)
  passed = 0
  for _ in range(2000):
    base, exponent = rng.randint(2, 999), rng.randint(1, 9999)
    if not refusal(f"{base}^{{{exponent}}}"):
      passed += 1
      # A product of digits and exponent is more than the digits there are.
      assert exponent * len(str(base)) <= limits.MAX_POWER_DIGITS
  assert 200 < passed < 2000


def test_nested_powers_are_bounded_like_their_values():
  rng = random.Random(1)
  for _ in range(500):
    a, b, c = (rng.randint(2, 12) for _ in range(3))
    for text in (f"{a}^{{{b}^{{{c}}}}}", f"{a}**{b}**{c}", f"{a}^({b}^{c})"):
      if not refusal(text):
        assert b**c * len(str(a)) <= limits.MAX_POWER_DIGITS, text


def test_reading_is_quick_and_total():
  for text in hostile_answers(600, seed=3):
    start = time.process_time()
    assert isinstance(refusal(text), str)
    assert time.process_time() - start < 0.5
