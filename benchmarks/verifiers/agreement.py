"""Agreement of our verdicts with third-party ones, with every difference.

A difference belongs to the first class whose rule holds; the classes name
whose doing it is. What no rule explains is "unexplained" and listed.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirl_jax.data.example import Example
from mirl_jax.rewards.extract import extract_answer
from mirl_jax.rewards.judges import Judges
from mirl_jax.rewards.numbers import read_number
from mirl_jax.rewards.verdict import Verdict
from mirl_jax.rewards.verify import verify_all

LONG = 200  # characters from which a text is a response and no answer


@dataclass(frozen=True)
class Case:
  """One answer that a third party has judged."""

  prediction: str | None
  example: Example
  expected: bool


# (case, our verdict) -> whether this explains that they differ
Rule = Callable[[Case, Verdict], bool]


def _text(case: Case) -> str:
  return case.prediction or ""


def _closes_what_is_not_open(text: str) -> bool:
  depth = 0
  for char in text:
    depth += (char == "{") - (char == "}")
    if depth < 0:
      return True
  return depth != 0


def _near(case: Case, verdict: Verdict) -> bool:
  left, right = read_number(_text(case)), read_number(case.example.answer)
  return bool(left and right and abs(left.value - right.value) <= 0.1)


RULES: dict[str, Rule] = {
  "ours: no single final answer": lambda case, verdict: (
    verdict.reason == "no single final answer"
  ),
  "ours: several numbers in prose are several answers": lambda case, verdict: (
    verdict.reason == "lists several answers"
  ),
  "ours: a whole response is no answer": lambda case, verdict: (
    len(_text(case)) > LONG
  ),
  "ours: an option's own text, or a label before it, counts": (
    lambda case, verdict: (
      verdict.reason == "same option"
      or re.match(r"[A-Z]\. ", _text(case)) is not None
    )
  ),
  "upstream: its extraction leaves debris, which it sees through": (
    lambda case, verdict: (
      case.expected and _closes_what_is_not_open(_text(case))
    )
  ),
  "ours: options are compared as texts, not as formulas": (
    lambda case, verdict: (
      case.expected and verdict.reason == "does not pick one option"
    )
  ),
  "ours: a relation is no set, as by Math-Verify's default": (
    lambda case, verdict: "\\in" in case.example.answer
  ),
  "upstream: it drops roots and pi": lambda case, verdict: (
    case.expected
    and re.search(r"√|π|sqrt|pi", f"{case.example.answer} {_text(case)}")
    is not None
  ),
  "upstream: near numbers are equal": lambda case, verdict: (
    case.expected and _near(case, verdict)
  ),
  "upstream: it does not read this form, or reads beside the tags": (
    lambda case, verdict: not case.expected and verdict.correct
  ),
}


def _example(gold: str, kind: str, options: Sequence[str] | None) -> Example:
  return Example("x", (), "?", gold, kind, tuple(options or ()))


def _rows(path: Path) -> list[dict[str, Any]]:
  return [json.loads(line) for line in path.open(encoding="utf-8")]


def _short(text: str) -> str | None:
  """An answer as it stands; the final answer of a response."""
  return extract_answer(text, "auto") if len(text) > LONG else text


def load_cases(data: Path) -> dict[str, list[Case]]:
  """The cases of every file, by a name that says what was judged.

  Args:
    data: folder with math_verify_cases, r1v_rollouts, mathv_responses.jsonl.
  """
  found: dict[str, list[Case]] = {"math_verify_cases": []}
  other = found["math_verify_cases, other settings"] = []
  for row in _rows(data / "math_verify_cases.jsonl"):
    if row["expected"] is None:
      continue
    gold = _short(row["gold"]) or row["gold"]
    case = Case(
      _short(row["pred"]), _example(gold, "math", None), row["expected"]
    )
    (other if row["params"] else found["math_verify_cases"]).append(case)
  for name in ("r1v_rollouts", "mathv_responses"):
    rows = _rows(data / f"{name}.jsonl")
    for column in ("extracted", "response"):
      cases = found[f"{name}, {column}"] = []
      for row in rows:
        options = row.get("options")
        kind = "choice_letter" if options else "free_form"
        text = row[column]
        if column == "response":
          text = extract_answer(text, "auto")
        cases.append(
          Case(text, _example(row["gold"], kind, options), row["correct"])
        )
  return found


def differences(
  cases: Sequence[Case], judges: Judges
) -> list[tuple[Case, Verdict, str]]:
  """The cases where our verdict is another, with the class of each."""
  pairs = [(case.prediction, case.example) for case in cases]
  found = []
  for case, verdict in zip(cases, verify_all(pairs, judges), strict=True):
    if verdict.correct == case.expected:
      continue
    names = (name for name, rule in RULES.items() if rule(case, verdict))
    found.append((case, verdict, next(names, "unexplained")))
  return found


def compare(cases: Sequence[Case], judges: Judges) -> dict[str, Any]:
  """Share of agreement, differences by class, and one of each class."""
  differ = differences(cases, judges)
  examples: dict[str, list[str]] = {}
  for case, verdict, name in differ:
    shown = f"{case.prediction!r:.80} for {case.example.answer!r:.60}"
    line = f"{shown}: {verdict.reason}; upstream says {case.expected}"
    examples.setdefault(name, []).append(line)
  return {
    "cases": len(cases),
    "agreement": round(1 - len(differ) / len(cases), 4),
    "differences": dict(Counter(name for *_, name in differ)),
    "examples": {
      name: lines if name == "unexplained" else lines[:2]
      for name, lines in examples.items()
    },
  }
