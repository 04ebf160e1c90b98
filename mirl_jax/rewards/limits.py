"""What a mathematical text may ask of SymPy, decided before SymPy sees it.

SymPy computes 9^9^9 digit by digit and expands (a+b+c)^1000 term by term, so a
short text can cost hours. The rules here read the text alone: they are the
same on every machine, take time linear in its length, and give a reason.
"""

import math
import re

MAX_CHARS = 2_000
MAX_DEPTH = 10  # nested brackets
MAX_NUMERAL = 60  # digits of one number
MAX_POWER_DIGITS = 5_000  # of the value of a power of numbers
MAX_SYMBOL_POWER = 5_000  # of a power of one symbol
MAX_TERMS = 300  # of all powers of sums, multiplied out
MAX_DEGREE = 6  # of a symbol in an equation that is to be solved
MAX_FACTORIAL = 500
MAX_BOUND = 500  # of a sum or product, or in a binomial coefficient
MAX_OPERATORS = 80
MAX_ITEMS = 32  # members of a list, cells of a matrix
MAX_COMMANDS = 60  # of LaTeX
MAX_FUNCTIONS = 4  # sines, logarithms
MAX_FUNCTION_SYMBOLS = 6  # functions times the different symbols beside them
MAX_BARS = 8
MAX_ROOTS = 12
MAX_RUN = 8  # the same operator again and again
MAX_SYMBOLS = 24  # letters that stand for themselves, in one formula

_NUMERAL = re.compile(r"\d+")
_GROUPED = re.compile(r"(?<=\d)(?:,|\\[!,;]|\{,\}|\s)+(?=\d{3})")
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[a-z]+\}|\\[a-zA-Z]+")
_PROSE = re.compile(r"\\(?:text|mbox|mathrm|textbf)\s*\{[^{}]*\}")
_FUNCTION = re.compile(
  r"(?<![a-zA-Z])(?:a(?:rc)?)?(?:sin|cos|tan|cot|sec|csc)h?(?![a-zA-Z])"
  r"|\\?(?:ln|log|exp|floor|ceil|lfloor|lceil|arg|max|min|gcd|lcm)(?![a-z])"
)
_UNBOUNDED = re.compile(
  r"\\(?:i{0,3}int|oint|lim|partial|nabla|infty\s*!|frac\s*\{\s*d)(?![a-zA-Z])"
)
_SERIES = re.compile(r"\\(?:sum|prod)(?![a-zA-Z])")
_COUNTING = re.compile(
  r"\\(?:[dt]?binom|choose|Gamma|zeta|operatorname|bmod|pmod|mod)(?![a-z])"
)
_MATRIX = re.compile(r"\\begin\s*\{[a-zA-Z]*(?:matrix|array|cases)")
_RUN = re.compile(rf"([-+!'^_|/*~=<>√±])(?:\s*\1){{{MAX_RUN}}}")
_OPERATOR = re.compile(
  r"\*\*|[-+*/^=<>!_&;|√\u00d7÷±·]|\\(?:cdot|times|div|pm|mp)"
)
_FORMULA = re.compile(r"\$([^$]*)\$|\\\((.*?)\\\)|\\\[(.*?)\\\]", re.DOTALL)
_RELATION = re.compile(
  r"[=<>≤≥≠]|\\(?:leq?|geq?|neq?|lt|gt|approx)(?![a-zA-Z])"
)
# "x = 5" names a value; there is nothing to solve.
_NAMED = re.compile(r"[\s$\\(\[{]*\\?[a-zA-Z]+\s*=")
_POWER = re.compile(r"\^|\*\*")
_PAIRS = {"{": "}", "(": ")", "[": "]"}
_HUGE = 10**9


def _depth(text: str) -> int:
  """How deep brackets nest; closing what is not open counts nothing."""
  deepest = depth = 0
  for char in text:
    if char in "{([":
      depth += 1
      deepest = max(deepest, depth)
    elif char in "})]":
      depth = max(depth - 1, 0)
  return deepest


def _group_end(text: str, start: int) -> int:
  """Behind the bracket that closes the one at `start`; the end if none."""
  opening, closing = text[start], _PAIRS[text[start]]
  depth = 0
  for end in range(start, len(text)):
    depth += (text[end] == opening) - (text[end] == closing)
    if depth == 0:
      return end + 1
  return len(text)


def _exponent(text: str, start: int) -> str:
  """What an exponent that begins at `start` may comprise, towers included."""
  end = start
  while end < len(text):
    while end < len(text) and text[end] in " +-":
      end += 1
    if end < len(text) and text[end] in _PAIRS:
      end = _group_end(text, end)
    elif match := re.compile(r"\\?[a-zA-Z]+|[\d.]+|\S").match(text, end):
      end = match.end()
    rest = re.compile(r"\s*(?:!|\^|\*\*|(?=[\[{(]))").match(text, end)
    if rest is None:
      break
    end = max(rest.end(), end + 1) if rest.end() == end else rest.end()
  return text[start:end]


def _base(text: str, end: int) -> str:
  """What stands before a power sign: a numeral, a bracket or one symbol."""
  text = text[:end].rstrip()
  if not text or text[-1] not in "})]":
    match = re.search(r"[\d.]+$", text[-MAX_NUMERAL - 2 :])
    return match[0] if match else text[-1:]
  depth = 0
  for start in range(len(text) - 1, -1, -1):
    depth += (text[start] in "})]") - (text[start] in "{([")
    if depth == 0:
      return text[start:]
  return text


def _size(text: str, level: int = 0) -> int:
  """A bound on what an exponent's text can amount to, at most `_HUGE`."""
  if level > 3 or "!" in text:
    return _HUGE
  size = 1
  cursor = 0
  while match := _POWER.search(text, cursor):
    exponent = _exponent(text, match.end())
    inner = _size(exponent, level + 1)
    numerals = _NUMERAL.findall(_base(text, match.start()))
    if any(len(numeral) > 6 for numeral in numerals) or inner > 30:
      return _HUGE
    for numeral in numerals:
      size *= max(int(numeral), 1) ** max(inner - 1, 0)
    if not numerals:
      size *= max(inner, 1)
    cursor = match.end() + max(len(exponent), 1)
    if size >= _HUGE:
      return _HUGE
  for numeral in _NUMERAL.findall(_POWER.split(text)[0]):
    if len(numeral) > 6:
      return _HUGE
    size *= max(int(numeral), 1)
  return min(size, _HUGE)


def _terms(base: str, power: int) -> int:
  """How many terms a power of a sum has when it is multiplied out."""
  summands = 1 + len(re.findall(r"[-+±]", base))
  if power > MAX_TERMS:
    return _HUGE
  return math.comb(power + summands - 1, power)


def _solved(text: str) -> bool:
  """Whether a text has a relation that SymPy would solve."""
  named = _NAMED.match(text)
  return _RELATION.search(text, named.end() if named else 0) is not None


def _inner(base: str) -> int:
  """The exponents within a bracket, multiplied; at most `_HUGE`."""
  size = 1
  for match in _POWER.finditer(base):
    size = min(size * _size(_exponent(base, match.end())), _HUGE)
  return size


def _powers(text: str) -> str:
  """Why a text's powers are too large, or "" where they are not."""
  expansion = 1
  solved = _solved(text)
  for match in _POWER.finditer(text):
    size = _size(_exponent(text, match.end()))
    base = _base(text, match.start())
    digits = sum(map(len, _NUMERAL.findall(base))) * _inner(base) * size
    if digits > MAX_POWER_DIGITS:
      return f"a power of more than {MAX_POWER_DIGITS} digits"
    if base[-1:] in "})]" and re.search(r"[-+±√a-zA-Z!^]", base):
      expansion *= _terms(base, size)
      if expansion > MAX_TERMS:
        return f"a power of a sum of more than {MAX_TERMS} terms"
    elif not digits and size > (MAX_DEGREE if solved else MAX_SYMBOL_POWER):
      return "a power too high to solve for" if solved else "a power too high"
  return ""


def _factorials(text: str) -> str:
  for match in re.finditer(r"!(?!=)", text):
    before = text[: match.start()].rstrip()
    base = _base(before, len(before))
    numerals = _NUMERAL.findall(base)
    nested = before[-1:] == "!" or re.search(r"[!^]|\*\*", base)
    large = any(len(n) > 3 or int(n) > MAX_FACTORIAL for n in numerals)
    if large or nested or (before[-1:] in "})]" and len(numerals) > 2):
      return f"a factorial above {MAX_FACTORIAL} or of a factorial or power"
  return ""


def _symbols(text: str) -> int:
  """Letters of the longest formula; side by side they are a product."""
  formulas = [next(filter(None, m), "") for m in _FORMULA.findall(text)]
  return max(
    (
      len(re.findall(r"[^\W\d_]", _FUNCTION.sub("", _COMMAND.sub("", formula))))
      for formula in formulas or [""]
    ),
    default=0,
  )


def _function_symbols(text: str) -> int:
  """How many functions times how many different symbols there are."""
  letters = _FUNCTION.sub(" ", text)
  symbols = set(re.findall(r"[a-zA-Z]", _COMMAND.sub(" ", letters)))
  return len(_FUNCTION.findall(text)) * len(symbols)


def _counts(text: str) -> str:
  """Why a text is too large in one of its parts, or ""."""
  bare = _PROSE.sub(" ", text)
  for count, limit, what in (
    (len(_OPERATOR.findall(bare)), MAX_OPERATORS, "operators"),
    (len(re.findall(r"[,;&]", bare)), MAX_ITEMS, "items"),
    (len(_COMMAND.findall(bare)), MAX_COMMANDS, "commands"),
    (len(_FUNCTION.findall(bare)), MAX_FUNCTIONS, "functions"),
    (
      _function_symbols(bare),
      MAX_FUNCTION_SYMBOLS,
      "functions times symbols",
    ),
    (bare.count("\\sqrt") + bare.count("√"), MAX_ROOTS, "roots"),
    (bare.count("|"), MAX_BARS, "bars"),
    (len(_SERIES.findall(bare)), 1, "sums or products"),
    (_symbols(bare), MAX_SYMBOLS, "letters in one formula"),
  ):
    if count > limit:
      return f"more than {limit} {what}"
  return ""


def refusal(text: str) -> str:
  """Why a mathematical text is not handed to SymPy.

  Args:
    text: LaTeX or plain.

  Returns:
    One clause, "" where nothing speaks against the text.
  """
  if len(text) > MAX_CHARS:
    return f"more than {MAX_CHARS} characters"
  text = _GROUPED.sub("", text)
  if _depth(text) > MAX_DEPTH:
    return f"brackets nest deeper than {MAX_DEPTH}"
  if any(len(n) > MAX_NUMERAL for n in _NUMERAL.findall(text)):
    return f"a number of more than {MAX_NUMERAL} digits"
  if _RUN.search(text):
    return f"an operator more than {MAX_RUN} times in a row"
  if _UNBOUNDED.search(text) or (_SERIES.search(text) and "infty" in text):
    return "an integral, limit, derivative or infinite sum"
  if why := _counts(text):
    return why
  if (_SERIES.search(text) or _COUNTING.search(text)) and any(
    int(n) > MAX_BOUND for n in _NUMERAL.findall(text)
  ):
    return f"a sum, product or count with a number above {MAX_BOUND}"
  if _solved(text) and len(_FUNCTION.findall(text)) > 1:
    return "an equation of more than one function"
  if _MATRIX.search(text) and (_POWER.search(text) or "\\det" in text):
    return "a power or determinant of a matrix"
  return _powers(text) or _factorials(text)
