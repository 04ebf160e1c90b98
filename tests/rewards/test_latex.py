"""Short mathematical texts, read as text."""

import pytest

from mirl_jax.rewards.latex import (
  delimited,
  is_expression,
  lists_guesses,
  split_unit,
  to_latex,
)


@pytest.mark.parametrize(
  ("text", "latex"),
  [
    ("2√3", "$2\\sqrt{3}$"),
    ("2√{3}", "$2\\sqrt{3}$"),
    ("sqrt(x+1)", "$\\sqrt{x+1}$"),
    ("2pi", "$2\\pi$"),
    ("2π", "$2\\pi$"),
    ("x**2", "$x^2$"),
    ("3x ≤ 5", "$3x \\leq  5$"),
    ("$x$", "$x$"),
    ("so \\boxed{5} it is", "$5$"),
    ("\\$16,\\!386.20", "$16,386.20$"),
    ("the answer is 5", "the answer is 5"),
    ("2√{15}米", "$2\\sqrt{15}$"),
  ],
)
def test_signs_become_latex_and_mathematics_gets_its_marks(text, latex):
  assert to_latex(text) == latex


@pytest.mark.parametrize(
  ("text", "rest", "unit"),
  [
    ("12√{3}cm", "12√{3}", "cm"),
    ("9πcm^{2}", "9π", "cm"),
    ("\\frac{1}{2}\\mathrm{~cm}^{2}", "\\frac{1}{2}", "cm"),
    ("160√{3}m", "160√{3}", "m"),
    ("2am", "2am", ""),
    ("x = 3m", "x = 3m", ""),
    ("5", "5", ""),
  ],
)
def test_a_unit_is_split_off_a_constant_alone(text, rest, unit):
  assert split_unit(text) == (rest, unit)


def test_prose_is_no_expression():
  for text in ("2x+3", "\\sqrt{2}", "AB", "x = 5", "sin x", "3 cm", "-\\infty"):
    assert is_expression(text), text
  for text in ("the dog", "red", "it has 3 sides", "\\text{Evelyn}", "", "..."):
    assert not is_expression(text), text
  assert delimited("so \\(x\\)")
  assert not delimited("\\$5")


@pytest.mark.parametrize(
  ("prediction", "answer", "guesses"),
  [
    ("5 or 6", "5", True),
    ("\\boxed{5} \\boxed{6}", "5", True),
    ("\\boxed{5}, so \\boxed{5}", "5", False),
    ("either 5", "5", True),
    ("the numbers 4 and 5", "5", True),
    ("the number 5", "5", False),
    ("x=1 or x=2", "x=1, x=2", False),
    ("\\boxed{1} and \\boxed{2}", "$\\{1,2\\}$", False),
    ("\\for{5}", "5", False),
  ],
)
def test_listing_guesses_is_seen(prediction, answer, guesses):
  assert lists_guesses(prediction, answer) is guesses
