"""Says whether an answer is right, by the type that the data gives it.

Every verifier is total: any string in, a verdict with a reason out, in bounded
time. An answer that lists guesses is wrong. What takes more than reading, as
mathematical equality does, is asked of worker processes, see `judges`.
"""

import dataclasses
import re
from collections.abc import Sequence

from mirl_jax.data.example import Example
from mirl_jax.rewards.boxes import (
  box_verifier,
  detection_verifier,
  point_verifier,
)
from mirl_jax.rewards.extract import unbox
from mirl_jax.rewards.judges import Judges, default_judges
from mirl_jax.rewards.latex import (
  boxed_part,
  delimited,
  is_expression,
  lists_guesses,
)
from mirl_jax.rewards.numbers import UNITS, numbers_agree, read_number
from mirl_jax.rewards.sets import (
  interval_verifier,
  list_verifier,
  set_verifier,
)
from mirl_jax.rewards.spans import (
  count_verifier,
  json_verifier,
  span_verifier,
)
from mirl_jax.rewards.texts import MAX_CHARS, normalise
from mirl_jax.rewards.verdict import Ask, Verdict, Verifier

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_YES = frozenset({"yes", "true"})
_NO = frozenset({"no", "false"})
# Dressing that does not change what an option says; LaTeX is not evaluated.
_LATEX_NOISE = re.compile(
  r"\\[()\[\],;:! ]|\\(?:left|right|text|mathrm|displaystyle)\b|[${}~]"
)
# "A", "(a)", "B.", "**C**", "option D"
_BARE = re.compile(r"(?:option|choice|answer)?[\s:]*\(?([a-z])\)?[.):]?", re.I)
# "3 circles"
_COUNTED = re.compile(r"\s*[\d.,]+ ([a-z]{2,})\W*", re.I)
# "B) 12 cm", "(B) 12 cm", "B: 12 cm"
_LABELLED = re.compile(r"(?:\(([a-z])\)|([a-z])[.):])\s*(\S.*)", re.I | re.S)
# "the answer is B", "option (C)": capitals only, since "a" is a word
_PHRASE = re.compile(
  r"\b(?i:answer|option|choice)(?:\s+(?i:is))?[\s:]*\(?([A-Z])\b(?!['\u2019])"
)


def read_polarity(text: str) -> bool | None:
  """True for yes or true, False for no or false; None if unclear or both.

  A text may go on after its first word ("no, it is not red"); later on, only
  an opposite word or, behind no such first word, a "not" makes it unclear.
  """
  words = re.findall(r"[a-z]+", text[:MAX_CHARS].casefold())
  said = {word in _YES for word in words if word in _YES | _NO}
  if len(said) != 1:
    return None
  if words[0] not in _YES | _NO and "not" in words:
    return None
  return said.pop()


def _same_text(left: str, right: str) -> bool:
  """Equal after normalising, or equal numbers."""
  if normalise(left) == normalise(right):
    return True
  given, expected = read_number(left), read_number(right)
  if given is None or expected is None:
    return False
  # In "2 circles" the words matter, too: compare numbers only where the
  # expected side is one number with at most a unit.
  plain = re.fullmatch(r"[^a-z]*[a-z%°$€]*[^a-z]*", right, re.I) is not None
  return plain and numbers_agree(given, expected)


def _option_key(text: str) -> str:
  """An option's text without LaTeX dressing, to compare as a string."""
  text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
  return normalise(_LATEX_NOISE.sub("", text)).replace(" ", "")


def match_option(text: str, options: tuple[str, ...]) -> int | None:
  """The option whose text this is, if there is exactly one."""
  key = _option_key(text)
  same = [i for i, option in enumerate(options) if _option_key(option) == key]
  if not same:
    same = [i for i, option in enumerate(options) if _same_text(text, option)]
  if not same:
    said = read_polarity(text)
    polarity = [read_polarity(option) for option in options]
    if said is not None and set(polarity) == {True, False}:
      same = [i for i, value in enumerate(polarity) if value == said]
  return same[0] if len(same) == 1 else None


def _letter_index(letter: str, options: tuple[str, ...]) -> int | None:
  index = LETTERS.index(letter.upper())
  return index if not options or index < len(options) else None


def match_letter(text: str, options: tuple[str, ...]) -> int | None:
  """The option that a text names by its letter, if it names exactly one.

  A label followed by another option's text is a contradiction: None.
  """
  text = _LATEX_NOISE.sub("", text).strip().strip("*`'\" ")
  if bare := _BARE.fullmatch(text):
    return _letter_index(bare[1], options)
  if labelled := _LABELLED.fullmatch(text):
    index = _letter_index(labelled[1] or labelled[2], options)
    rest = labelled[3]
    if _LABELLED.search(rest):
      return None
    other = match_option(rest, options)
    return index if other is None or other == index else None
  named = {match[1] for match in _PHRASE.finditer(text)}
  return _letter_index(named.pop(), options) if len(named) == 1 else None


def read_letters(text: str) -> frozenset[int] | None:
  """The options of a list such as "a,c", "A and C" or "(A), (C)"."""
  parts = re.split(r"\s*(?:[,;&]|\band\b)\s*", text.strip(), flags=re.I)
  parts = [part for part in parts if part]
  letters = [re.fullmatch(r"\(?([a-z])\)?\.?", part, re.I) for part in parts]
  if not parts or not all(letters):
    return None
  return frozenset(LETTERS.index(m[1].upper()) for m in letters if m)


def _number(prediction: str, example: Example) -> Verdict:
  expected = read_number(example.answer)
  if expected is None:
    return _text(prediction, example)
  given = read_number(prediction)
  if given is None:
    return Verdict(False, "does not give one number")
  if numbers_agree(given, expected):
    return Verdict(True, "equal numbers")
  return Verdict(False, "another number or unit")


def _yes_no(prediction: str, example: Example) -> Verdict:
  expected = read_polarity(example.answer)
  if expected is None:
    return _text(prediction, example)
  given = read_polarity(prediction)
  if given is None:
    return Verdict(False, "does not say clearly yes or no")
  if given == expected:
    return Verdict(True, "same yes or no")
  return Verdict(False, "the opposite")


def _choice_letter(prediction: str, example: Example) -> Verdict:
  expected = read_letters(example.answer)
  if expected is None:
    return _choice_text(prediction, example)
  given = read_letters(prediction)
  if given is None:
    index = match_letter(prediction, example.options)
    if index is None:
      index = match_option(prediction, example.options)
    given = None if index is None else frozenset({index})
  return _choice(given, expected)


def _choice_text(prediction: str, example: Example) -> Verdict:
  options = example.options
  expected = match_option(example.answer, options)
  if expected is None:
    expected = match_letter(example.answer, options) if options else None
  if expected is None:
    return _text(prediction, example)
  given = match_option(prediction, options)
  if given is None:
    given = match_letter(prediction, options)
  picked = None if given is None else frozenset({given})
  return _choice(picked, frozenset({expected}))


def _choice(given: frozenset[int] | None, expected: frozenset[int]) -> Verdict:
  if given is None:
    return Verdict(False, "does not pick one option")
  if given == expected:
    return Verdict(True, "same option")
  return Verdict(False, "another option")


def _text(prediction: str, example: Example) -> Verdict:
  if normalise(prediction) == normalise(example.answer):
    return Verdict(True, "same text")
  return Verdict(False, "another text")


def _free_form(prediction: str, example: Example) -> Verdict | Ask:
  """A number by our tolerance, prose as text, anything else as mathematics."""
  if _option_key(prediction) == _option_key(example.answer):
    return Verdict(True, "same text")
  given, expected = read_number(prediction), read_number(example.answer)
  if given and expected:
    things = [_COUNTED.fullmatch(x) for x in (prediction, example.answer)]
    if things[0] and things[1] and _thing(things[0]) != _thing(things[1]):
      return Verdict(False, "a number of something else")
    return _number(prediction, example)
  formula = delimited(prediction) or is_expression(prediction)
  if expected and not formula:
    return Verdict(False, "does not give one number")
  if not (formula or given) or not _is_formula(example.answer):
    return Verdict(False, "another text")
  return _math(prediction, example)


def _thing(match: re.Match[str]) -> str:
  """What is counted, by its stem; units are compared with the numbers."""
  word = match[1].casefold()
  return "" if word in UNITS else word.removesuffix("s")


def _is_formula(answer: str) -> bool:
  return delimited(answer) or is_expression(answer)


def _formula_key(text: str) -> str:
  """Like `_option_key`, without a box, or brackets around one letter."""
  key = _option_key(boxed_part(text))
  return key[1:-1] if re.fullmatch(r"\([a-z]\)", key) else key


def _math(prediction: str, example: Example) -> Verdict | Ask:
  if _formula_key(prediction) == _formula_key(example.answer):
    return Verdict(True, "same text")
  given, expected = read_number(prediction), read_number(example.answer)
  if (
    given
    and expected
    and (given.value, given.unit) == (expected.value, expected.unit)
  ):
    return Verdict(True, "equal numbers")
  if lists_guesses(prediction, example.answer):
    return Verdict(False, "lists several answers")
  return Ask("math", prediction, example.answer)


def _judged(prediction: str, example: Example) -> Verdict | Ask:
  if normalise(prediction) == normalise(example.answer):
    return Verdict(True, "same text", 1.0)
  return Ask("judge", prediction, example.answer, example.question)


VERIFIERS: dict[str, Verifier] = {
  "number": _number,
  "yes_no": _yes_no,
  "choice_letter": _choice_letter,
  "choice_text": _choice_text,
  "text": _text,
  "free_form": _free_form,
  "math": _math,
  "list": list_verifier,
  "set": set_verifier,
  "interval": interval_verifier,
  "count": count_verifier,
  "span": span_verifier,
  "json": json_verifier,
  "box": box_verifier,
  "detection": detection_verifier,
  "point": point_verifier,
  "judged": _judged,
}


BOXES = ("box", "detection")
# Types whose reference has a form of its own.
_FORMED = (*BOXES, "point", "list", "set", "count", "json")


def reference_fault(answer: str, answer_type: str) -> str:
  """Why no prediction can match a reference of that type; "" where one can."""
  if answer_type not in _FORMED:
    return ""
  example = Example("", (), "", answer, answer_type)
  said = VERIFIERS[answer_type](answer, example)
  if isinstance(said, Verdict) and said.reason.startswith("the reference"):
    return said.reason
  return ""


def _decide(
  prediction: str | None, example: Example, least_iou: float
) -> Verdict | Ask:
  if not example.answer.strip():
    return Verdict(False, "no reference answer is known")
  if prediction is None:
    return Verdict(False, "no single final answer")
  if not prediction.strip():
    return Verdict(False, "empty answer")
  if len(prediction) > MAX_CHARS:
    return Verdict(False, f"longer than {MAX_CHARS} characters")
  verifier = VERIFIERS.get(example.answer_type)
  if verifier is None:
    return Verdict(False, f"unknown answer type {example.answer_type!r}")
  if example.answer_type in BOXES and "iou" not in example.extra:
    extra = {**example.extra, "iou": least_iou}
    example = dataclasses.replace(example, extra=extra)
  return verifier(unbox(prediction), example)


def verify_all(
  pairs: Sequence[tuple[str | None, Example]],
  judges: Judges | None = None,
  step: int = 0,
) -> list[Verdict]:
  """Judges a batch of answers, each as `verify` does, side by side.

  Args:
    pairs: an answer and its example each.
    judges: whom to ask what reading cannot tell; the process's own if None.
    step: of training, for thresholds that change with it.
  """
  judges = judges or default_judges()
  least = judges.least_iou(step)
  found = [_decide(prediction, example, least) for prediction, example in pairs]
  asks = [one for one in found if isinstance(one, Ask)]
  answers = iter(judges.ask(asks))
  return [next(answers) if isinstance(one, Ask) else one for one in found]


def verify(
  prediction: str | None, example: Example, judges: Judges | None = None
) -> Verdict:
  """Judges an answer against the example's, by the example's answer type.

  Args:
    prediction: what stood inside of the answer tags; None where there was no
      single final answer.
    example: `answer`, `answer_type` and, for choices, `options` are read.
    judges: whom to ask what reading cannot tell; the process's own if None.
  """
  return verify_all([(prediction, example)], judges)[0]
