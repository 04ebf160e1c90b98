"""What hostile answers cost, and whether they get out."""

import tempfile
import time
from pathlib import Path
from typing import Any

from mirl_jax.data.example import Example
from mirl_jax.rewards.judges import Judges
from mirl_jax.rewards.verdict import Ask
from mirl_jax.rewards.verify import VERIFIERS, verify_all
from mirl_jax.testing_hostile import hostile_answers

REFERENCES = (
  "5",
  "$\\frac{1}{2}$",
  "2\\sqrt{3}",
  "x=3",
  "$(1,2)$",
  "$x^2+1$",
  "$x^3-x=2$",
  "$x>2$",
)
# A reference that each type reads; other types take any.
_KNOWN = {
  "choice_letter": "A",
  "yes_no": "yes",
  "interval": "[0, \\sqrt{2})",
  "list": "1, \\sqrt{2}, 3",
  "set": "{1, \\sqrt{2}, 3}",
  "json": '{"a": 1}',
  "box": "[[1, 2, 30, 40]]",
  "detection": '[{"bbox_2d": [1, 2, 30, 40], "label": "cat"}]',
  "point": "[[1, 2], [30, 40]]",
}


def _pairs(texts: list[str], kind: str) -> list[tuple[str, Example]]:
  return [
    (
      text,
      Example(
        "x",
        (),
        "?",
        _KNOWN.get(kind, REFERENCES[number // 15 % len(REFERENCES)]),
        kind,
        ("red", "12 cm") if "choice" in kind else (),
      ),
    )
    for number, text in enumerate(texts)
  ]


def measure(count: int = 1200, seed: int = 0) -> dict[str, Any]:
  """Judges hostile answers by every type, and once more one at a time.

  Returns:
    Of "math", the type that computes, a batch's seconds and the longest
    single answer's; the share that no limit refused before SymPy and the
    share that reached the deadline; the seconds of every other type; workers
    lost; what a text tried and was refused; files that injections made.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "made"
    texts = hostile_answers(count, seed, str(path))
    with Judges() as judges:
      pairs = _pairs(texts, "math")
      began = time.monotonic()
      verdicts = verify_all(pairs, judges)
      wall = time.monotonic() - began
      reasons = [verdict.reason for verdict in verdicts]
      asked = [
        isinstance(VERIFIERS["math"](text, example), Ask)
        for text, example in pairs
        if len(text) <= 4000
      ]
      others = {}
      for kind in VERIFIERS:
        began = time.monotonic()
        verify_all(_pairs(texts, kind), judges)
        others[kind] = round(time.monotonic() - began, 2)
      lost = judges.restarts
    longest, slowest = 0.0, ""
    with Judges(count=1) as judges:
      verify_all(_pairs(["1+x"], "math"), judges)  # the worker starts
      for pair in pairs:
        began = time.monotonic()
        verify_all([pair], judges)
        seconds = time.monotonic() - began
        if seconds > longest:
          longest, slowest = seconds, pair[0]
      lost += judges.restarts
      alive = verify_all(_pairs(["\\frac{10}{2}"], "math"), judges)
    refused = [
      reason
      for reason in reasons
      if reason.startswith(("not computed: ", "longer"))
      and "deadline" not in reason
    ]
    return {
      "answers": count,
      "seed": seed,
      "batch_s": round(wall, 2),
      "longest_answer_s": round(longest, 2),
      "longest_answer": slowest[:120],
      "reached_deadline": sum("deadline" in reason for reason in reasons),
      "refused_before_sympy": len(refused),
      "asked": sum(asked),
      "correct": sum(verdict.correct for verdict in verdicts),
      "workers_lost": lost,
      "worker_answers_after": alive[0].correct,
      "tried_and_refused": [r for r in reasons if "which is refused" in r],
      "files_made": int(path.exists()),
      "seconds_by_type": others,
    }
