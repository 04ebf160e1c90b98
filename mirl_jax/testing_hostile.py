"""Answers made to hang, crash or fool a verifier, for tests and benchmarks.

Seeded: the same number and seed give the same strings everywhere.
"""

import random
from collections.abc import Callable

_INJECTIONS = (
  "__import__('os').system('touch {path}')",
  "open('{path}', 'w').write('x')",
  "exec(\"open('{path}','w')\")",
  "eval(compile('1','','eval'))",
  "().__class__.__base__.__subclasses__()",
  "lambda: open('{path}', 'w')",
  'sympify(\'__import__("os").system("touch {path}")\')',
  "$\\text{{__import__('os').system('touch {path}')}}$",
  "$\\operatorname{{eval}}(open('{path}','w'))$",
  "\\input{{{path}}}",
  "\\write18{{touch {path}}}",
  "1; import socket; socket.create_connection(('127.0.0.1', 9))",
  "$(touch {path})",
  "`touch {path}`",
  "1+__builtins__['open']('{path}','w')",
  '{{"answer": "$(touch {path})"}}',
)
_OTHER_NUMBERS = (
  "nan", "inf", "-inf", "NaN", "Infinity", "\\infty", "zoo", "oo", "1e999999",
  "0/0", "\\frac{0}{0}", "1e-999999", "0x1p99", "٣", "Ⅷ", "½", "١٢٣",
  "\U0001d7d9", "-0.0", "1_000", "1e400%", "∞%",
)  # fmt: skip
_STRANGE = (
  "\0", "\ud800", "\u202e", "\ufeff", "\u200b", "\u0301", "\U0001f600",
  "\x1b[2J", "\r", "\b", "\x7f", "\u2028", "ﷺ", "İ", "ß", "\ufdfa",
)  # fmt: skip
_SYMBOLS = "abcxyznk"
_FUNCTIONS = ("\\sin", "\\cos", "\\tan", "\\ln", "\\log", "\\arctan", "|")


def _number(rng: random.Random, most: int = 12) -> str:
  return str(rng.randint(2, 10 ** rng.randint(1, most)))


def _tower(rng: random.Random) -> str:
  parts = [_number(rng, 3) for _ in range(rng.randint(2, 7))]
  kind = rng.randrange(4)
  if kind == 0:
    return "**".join(parts)
  if kind == 1:
    return "^".join(parts)
  if kind == 2:
    return "^{".join(parts) + "}" * (len(parts) - 1)
  return f"({'^('.join(parts)}" + ")" * len(parts)


def _factorial(rng: random.Random) -> str:
  number = _number(rng)
  return rng.choice(
    (
      f"{number}!",
      f"({number}!)!",
      f"{rng.randint(3, 9)}" + "!" * rng.randint(2, 40),
      f"\\binom{{{number}}}{{{_number(rng)}}}",
      f"\\Gamma({number})",
      f"{number}!/{_number(rng)}!",
      f"(10^{{{rng.randint(2, 9)}}})!",
    )
  )


def _nested(rng: random.Random) -> str:
  depth = rng.choice((15, 40, 200, 1000, 3000))
  opening, closing = rng.choice(
    (
      ("(", ")"),
      ("{", "}"),
      ("[", "]"),
      ("\\sqrt{", "}"),
      ("\\frac{1}{", "}"),
      ("\\left(", "\\right)"),
      ("\\sin(", ")"),
      ("-(", ")"),
      ("\\boxed{", "}"),
      ("|", "|"),
      ('{"a":', "}"),
    )
  )
  middle = rng.choice(("x", "1", "x+1", ""))
  closed = depth if rng.random() < 0.7 else rng.randint(0, depth)
  return opening * depth + middle + closing * closed


def _expansion(rng: random.Random) -> str:
  terms = rng.sample(_SYMBOLS, rng.randint(2, 6))
  power = rng.choice((5, 20, 24, 25, 99, 1000, 10**6))
  body = f"({'+'.join(terms)})^{{{power}}}"
  return body + (f"-{body}" if rng.random() < 0.5 else "")


def _functions(rng: random.Random) -> str:
  def leaf(depth: int) -> str:
    if depth == 0 or rng.random() < 0.2:
      return rng.choice((*_SYMBOLS, "2", "\\pi", "0.5", "\\frac{1}{3}"))
    name = rng.choice(_FUNCTIONS)
    inside = leaf(depth - 1)
    if name == "|":
      return f"|{inside}|"
    return f"{name}({inside}{rng.choice('+-*/')}{leaf(depth - 1)})"

  return leaf(rng.randint(2, 5))


def _roots(rng: random.Random) -> str:
  parts = [
    f"\\sqrt[{rng.randint(2, 9)}]"
    f"{{{_number(rng, 30)}+\\sqrt{{{_number(rng, 9)}}}}}"
    for _ in range(rng.randint(1, 8))
  ]
  return rng.choice("+-*").join(parts)


def _analysis(rng: random.Random) -> str:
  top, x = _number(rng), rng.choice(_SYMBOLS)
  return rng.choice(
    (
      f"\\sum_{{k=1}}^{{{top}}} k^{{{rng.randint(1, 99)}}}",
      f"\\prod_{{k=1}}^{{{top}}} (1+\\frac{{1}}{{k}})",
      f"\\int_0^{{{top}}} e^{{-x^2}}\\sin(x^{rng.randint(2, 9)}) dx",
      f"\\lim_{{{x} \\to 0}} \\frac{{\\sin {x}}}{{{x}^{rng.randint(1, 9)}}}",
      f"\\sum_{{i=1}}^{{{rng.randint(2, 400)}}}\\sum_{{j=1}}^{{{top}}} ij",
      f"\\frac{{d}}{{dx}} x^{{{top}}}",
      f"\\sum_{{k=1}}^{{\\infty}} \\frac{{1}}{{k^{rng.randint(1, 30)}}}",
    )
  )


def _relation(rng: random.Random) -> str:
  x, degree = rng.choice(_SYMBOLS), rng.randint(2, 30)
  return rng.choice(
    (
      f"{x}^{{{degree}}} + {x} + 1 = {rng.randint(0, 9)}",
      f"\\sin({x}) + {x}^{degree} = \\cos({x})",
      f"{x}^{{{degree}}} - {_number(rng, 9)}{x} < {rng.randint(0, 9)}",
      "<".join(rng.choices(_SYMBOLS + "0123456789", k=rng.randint(3, 60))),
      f"e^{{{x}}} + \\ln({x}) \\leq {x}^{degree}",
      f"|{x}| + |{x} - 1| + |{x} + 2| > {rng.randint(0, 9)}",
      f"{x} = {_tower(rng)}",
    )
  )


def _matrix(rng: random.Random) -> str:
  rows, columns = rng.randint(2, 12), rng.randint(2, 12)
  cells = " \\\\ ".join(
    " & ".join(rng.choice(_SYMBOLS) for _ in range(columns))
    for _ in range(rows)
  )
  whole = f"\\begin{{pmatrix}}{cells}\\end{{pmatrix}}"
  return whole + rng.choice(("", "^{-1}", "^{100}", "^T", whole))


def _boxes(rng: random.Random) -> str:
  count = rng.choice((1, 3, 100, 3000))
  box = [rng.choice((0, 1, -5, 1e308, 10**30)) for _ in range(4)]
  return "[" + ", ".join([str(box)] * count) + "]"


def _lists(rng: random.Random) -> str:
  joint = rng.choice((", ", "; ", " or ", "\n", "$ $", ",", "\\cup ", "&"))
  inside = joint.join(_number(rng, 6) for _ in range(rng.choice((5, 60, 900))))
  opening, closing = rng.choice((("{", "}"), ("(", ")"), ("$", "$"), ("", "")))
  return opening + inside + closing


def _long(rng: random.Random) -> str:
  piece = rng.choice(
    ("a", "1", " ", "$", "\\", "{", "answer is ", "1+", "9", "\\frac", "x^",
     "-", "\n", ",", "boxed{", "[0,1]", "((", "'", "%", "Answer: ", "the ", "½",
     '{"a":')
  )  # fmt: skip
  return piece * (rng.choice((300, 3_999, 100_000)) // len(piece))


def _noise(rng: random.Random) -> str:
  pieces = [
    *"0123456789+-*/^_=<>!|%$(){}[]\\,.;:'\" \n",
    *_STRANGE,
    *_OTHER_NUMBERS,
    "\\frac{", "\\sqrt{", "\\text{", "\\left(", "\\right)", "\\pi", "\\cdot",
    "and", "or", "x", "y", "\\boxed{", "\\begin{matrix}", "\\end{matrix}",
  ]  # fmt: skip
  return "".join(rng.choices(pieces, k=rng.randint(1, 60)))


def _injection(rng: random.Random, path: str) -> str:
  text = rng.choice(_INJECTIONS).format(path=path)
  return rng.choice(("{}", "${}$", "\\boxed{{{}}}", "1+{}", "x = {}")).format(
    text
  )


def _dressed(rng: random.Random, text: str) -> str:
  """A text as it may stand in an answer."""
  before, after = rng.choice(
    (
      ("", ""),
      ("", ""),
      ("$", "$"),
      ("\\boxed{", "}"),
      ("\\[", "\\]"),
      ("x=", ""),
    )
  )
  return before + text + after


def hostile_answers(
  count: int = 1200, seed: int = 0, path: str = "hostile.txt"
) -> list[str]:
  """So many hostile answers, of every kind about equally many.

  Args:
    count: how many.
    seed: of the draws.
    path: a file that injections try to create; it should not exist after.
  """
  rng = random.Random(seed)
  kinds: tuple[Callable[[random.Random], str], ...] = (
    _tower,
    _factorial,
    _nested,
    _expansion,
    _functions,
    _roots,
    _analysis,
    _relation,
    _matrix,
    _boxes,
    _lists,
    _long,
    _noise,
    lambda r: r.choice(_OTHER_NUMBERS) + r.choice(("", *_STRANGE)),
    lambda r: _injection(r, path),
  )
  return [_dressed(rng, kinds[i % len(kinds)](rng)) for i in range(count)]
