"""Reasonings: a small program trace over described facts, right or wrong.

Each kind of question is one fold over the facts with a carry (a verdict, a
count, a sum, who came first), sometimes followed by a conclusion. A slip
replaces one carry or the conclusion; what follows is consistent with it.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mirl_jax.worlds.describe import NOTHING, Fact, name
from mirl_jax.worlds.questions import POINTS, Question, matches
from mirl_jax.worlds.scene import COLORS, HEIGHTS, NUMBERS, SHAPES, SIZES


@dataclass(frozen=True)
class Slip:
  """A mistake: at which step, and which of the wrong values is taken."""

  step: int
  choice: int


# settle(step, right value, values to confuse it with) -> value written down
Settle = Callable[[int, Any, Sequence[Any]], Any]


@dataclass(frozen=True)
class Trace:
  """A reasoning before it is put into words.

  Attributes:
    goal: what the long form says first.
    lines: of each fact: short words and long words.
    end: the conclusion, where one is drawn after the last fact.
    answer: what the trace arrives at.
  """

  goal: str
  lines: tuple[tuple[str, str], ...]
  end: str
  answer: str


def relevant(facts: Sequence[Fact], question: Question) -> tuple[Fact, ...]:
  """Facts about the question's region: the first of each place, in order."""
  first: dict[str, Fact] = {}
  for fact in facts:
    asked = (
      fact.height >= 0
      if question.kind == "chart"
      else fact.height < 0 and fact.place in question.places
    )
    if asked:
      first.setdefault(fact.place, fact)
  if question.kind == "chart":
    return tuple(first.values())
  return tuple(first[place] for place in sorted(first))


def _yes(value: bool) -> str:
  return "yes" if value else "no"


def _exist(facts: Sequence[Fact], question: Question, settle: Settle) -> Trace:
  color, shape = question.args
  found = False
  lines = []
  for step, fact in enumerate(facts):
    hit = (fact.color, fact.shape) == (color, shape)
    found = settle(step, found or hit, (not (found or hit),))
    carry = f"so {_yes(found)}"
    lines.append((f"{name(fact)} {carry}", f"{_yes(hit)} {carry}"))
  return Trace(f"look for {color} {shape}", tuple(lines), "", _yes(found))


def _referent(
  facts: Sequence[Fact], question: Question, settle: Settle
) -> Trace:
  """The colour, shape or size of a thing, or the height of a bar."""
  *asked, word = question.args
  kind = question.kind
  sized = kind == "size"
  wrong: Sequence[str]
  if kind == "chart":
    wrong = [NUMBERS[height] for height in HEIGHTS]
  elif sized:
    wrong = SIZES
  else:
    wrong = COLORS if asked[0] == "color" else SHAPES
  carry = NOTHING
  lines = []
  for step, fact in enumerate(facts):
    if kind == "chart":
      hit = fact.place == word
      value = NUMBERS[fact.height]
    else:
      hit = matches(fact, word)
      value = fact.size if sized else getattr(fact, asked[0])
    right = value if hit and value else carry
    carry = settle(step, right, wrong)
    end = f"so {carry}"
    lines.append((f"{name(fact, sized)} {end}", f"{_yes(hit)} {end}"))
  return Trace(f"look for {word}", tuple(lines), "", carry)


def _relation(
  facts: Sequence[Fact], question: Question, settle: Settle
) -> Trace:
  one, two = question.args
  seen: tuple[str, ...] = ()
  lines = []
  for step, fact in enumerate(facts):
    new = [word for word in (one, two) if matches(fact, word)]
    hit = new[0] if new else NOTHING
    if new and new[0] not in seen:
      seen = (*seen, new[0])
    swapped = tuple({one: two, two: one}[word] for word in seen)
    seen = settle(step, seen, (swapped,) if seen else ((one,), (two,)))
    carry = f"so {' '.join(seen) or NOTHING}"
    lines.append((f"{name(fact)} {carry}", f"{hit} {carry}"))
  right = seen == (one, two)
  answer = _yes(settle(len(facts), right, (not right,)))
  goal = f"look for {one} and {two}"
  return Trace(goal, tuple(lines), f"so {answer}", answer)


def _count(facts: Sequence[Fact], question: Question, settle: Settle) -> Trace:
  (word,) = question.args
  carry = 0
  lines = []
  for step, fact in enumerate(facts):
    hit = matches(fact, word)
    right = carry + hit
    near = [n for n in (right - 1, right + 1) if 0 <= n <= step + 1]
    carry = settle(step, right, near)
    words = f"{_yes(hit)} {NUMBERS[carry]}"
    long = f"{_yes(hit)} makes {NUMBERS[carry]}"
    lines.append((f"{name(fact)} {words}", long))
  return Trace(f"count {word}", tuple(lines), "", NUMBERS[carry])


def _compare(
  facts: Sequence[Fact], question: Question, settle: Settle
) -> Trace:
  one, two = question.args
  carry = (0, 0)
  lines = []
  for step, fact in enumerate(facts):
    right = (carry[0] + matches(fact, one), carry[1] + matches(fact, two))
    # A mistake that turns the verdict: mixed up, or one too many.
    wrong = (right[0] + 1, right[1]) if right[0] == right[1] else right[::-1]
    carry = settle(step, right, (wrong,))
    words = f"{NUMBERS[carry[0]]} {NUMBERS[carry[1]]}"
    lines.append((f"{name(fact)} {words}", f"makes {words}"))
  more = carry[0] > carry[1]
  answer = _yes(settle(len(facts), more, (not more,)))
  goal = f"count {one} and {two}"
  return Trace(goal, tuple(lines), f"so {answer}", answer)


def _add(facts: Sequence[Fact], question: Question, settle: Settle) -> Trace:
  del question
  carry = 0
  lines = []
  for step, fact in enumerate(facts):
    points = POINTS.get(fact.shape, 0)
    right = carry + points
    near = [n for n in (right - 1, right + 1) if 0 <= n <= 4 * (step + 1)]
    carry = settle(step, right, near)
    words = f"{NUMBERS[points]} makes {NUMBERS[carry]}"
    lines.append((f"{fact.shape or NOTHING} {words}", words))
  return Trace("start zero", tuple(lines), "", NUMBERS[carry])


def _odd(facts: Sequence[Fact], question: Question, settle: Settle) -> Trace:
  del question
  here = tuple(dict.fromkeys(fact.color for fact in facts if fact.color))
  read = []
  lines = []
  for step, fact in enumerate(facts):
    color = settle(step, fact.color or NOTHING, here)
    read.append(color)
    lines.append((f"{name(fact)} {color}", f"is {color}"))
  counts = {c: read.count(c) for c in dict.fromkeys(read) if c != NOTHING}
  alone = [color for color, number in counts.items() if number == 1]
  right = alone[0] if len(alone) == 1 and len(counts) == 2 else NOTHING
  answer = settle(len(facts), right, tuple(counts))
  ranked = sorted(counts.items(), key=lambda item: -item[1])
  tally = " ".join(f"{NUMBERS[number]} {color}" for color, number in ranked)
  end = f"{tally} so {answer}".strip()
  return Trace("list color", tuple(lines), end, answer)


def _taller(facts: Sequence[Fact], question: Question, settle: Settle) -> Trace:
  high, low = question.args
  carry = (0, 0)
  lines = []
  for step, fact in enumerate(facts):
    value = fact.height
    right = (
      value if fact.place == high else carry[0],
      value if fact.place == low else carry[1],
    )
    near = [(n, right[1]) for n in HEIGHTS] + [(right[0], n) for n in HEIGHTS]
    carry = settle(step, right, near)
    words = f"so {NUMBERS[carry[0]]} {NUMBERS[carry[1]]}"
    lines.append((f"{name(fact)} {words}", words))
  rest = max(carry[0] - carry[1], 0)
  close = [n for n in (rest - 1, rest + 1) if n >= 0]
  answer = NUMBERS[settle(len(facts), rest, close)]
  end = f"{NUMBERS[carry[0]]} minus {NUMBERS[carry[1]]} makes {answer}"
  return Trace(f"look for {high} and {low}", tuple(lines), end, answer)


_TRACES = {
  "exist": _exist,
  "attribute": _referent,
  "size": _referent,
  "relation": _relation,
  "count": _count,
  "compare": _compare,
  "add": _add,
  "odd": _odd,
  "chart": _referent,
}
_CONCLUDES = ("relation", "compare", "odd")


def _is_difference(question: Question) -> bool:
  return question.kind == "chart" and len(question.args) == 2


def fallible_steps(facts: Sequence[Fact], question: Question) -> int:
  """At how many steps a reasoning about these facts can slip."""
  ends = question.kind in _CONCLUDES or _is_difference(question)
  return len(relevant(facts, question)) + ends


def _settle(
  slip: Slip | None, step: int, right: Any, confusable: Sequence[Any]
) -> Any:
  """The value that a step writes down: the right one but for a slip."""
  if slip is None or slip.step != step:
    return right
  wrong = [value for value in confusable if value != right]
  return wrong[slip.choice % len(wrong)] if wrong else right


def reason(
  facts: Sequence[Fact],
  question: Question,
  style: str = "long",
  slip: Slip | None = None,
) -> tuple[str, str]:
  """Reasons about a description, right or wrong, and answers from it alone.

  Facts outside the question's region are passed over. Where the description
  lacks what is asked about, the answer is "no", "zero" or "nothing".

  Args:
    facts: what the description states, as `describe.read` gives it.
    question: what is asked.
    style: "short" or "long"; the long form names its goal, and each fact
      again with its place.
    slip: a mistake to make; None reasons rightly. A step beyond the last
      makes none.

  Returns:
    The reasoning (inside of its tag) and the answer.
  """
  settle = functools.partial(_settle, slip)
  facts = relevant(facts, question)
  tracer = _taller if _is_difference(question) else _TRACES[question.kind]
  trace = tracer(facts, question, settle)
  if style == "short":
    parts = [short for short, _ in trace.lines]
  else:
    sized = question.kind == "size"
    parts = [trace.goal]
    for fact, (_, long) in zip(facts, trace.lines, strict=True):
      place = "" if fact.height >= 0 else f"{fact.place} "
      parts.append(f"{place}{name(fact, sized)} {long}")
  if trace.end:
    parts.append(trace.end)
  return ", ".join(parts), trace.answer
