"""Reward terms: pure functions of one node, by name.

A term takes (example, node text, path text, parse of the path text, step) and
returns a number, or None where it abstains: the node then has no such reward,
which is not the same as zero. Options are keyword arguments with defaults.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from mirl_jax.data.example import Example, Facts
from mirl_jax.rewards.parse import TAGS, Parsed, tag_rules
from mirl_jax.rewards.verify import verify

# (example, node text, path text, parse of the path text, step)
Term = Callable[[Example, str, str, Parsed, int], float | None]


def correct(
  example: Example, node_text: str, path_text: str, parsed: Parsed, step: int
) -> float | None:
  """1 for a right answer, 0 for a wrong or missing one.

  Abstains where the example has no reference answer, or its judge abstains.
  """
  if not example.answer.strip():
    return None
  verdict = verify(parsed.answer, example)
  return None if verdict.abstains else float(verdict.correct)


def format_share(
  example: Example,
  node_text: str,
  path_text: str,
  parsed: Parsed,
  step: int,
  *,
  tags: tuple[str, ...] = TAGS,
) -> float:
  """Share of the tag rules that the path keeps (see `parse.tag_rules`).

  Args:
    tags: the blocks that the path should hold, in order.
  """
  rules = tag_rules(path_text, tags)
  return sum(rules.values()) / len(rules)


def _facts(example: Example, parsed: Parsed) -> Facts | None:
  if example.check is None or parsed.description is None:
    return None
  return example.check(parsed.description)


def exact(
  example: Example, node_text: str, path_text: str, parsed: Parsed, step: int
) -> float | None:
  """1 where a checker finds every relevant fact stated and nothing else.

  For metrics and for an oracle's selection: the ground truth of a world is no
  reward that a method may use by default. A path without one description
  block has 0. Abstains where the example has no checker.
  """
  if example.check is None:
    return None
  facts = _facts(example, parsed)
  return float(facts is not None and facts.exact)


def facts_share(
  example: Example, node_text: str, path_text: str, parsed: Parsed, step: int
) -> float | None:
  """True facts over all facts that are stated or should have been.

  In 0..1, 1 for an exact description (also for an empty one where nothing was
  to be said); otherwise like `exact`.
  """
  if example.check is None:
    return None
  facts = _facts(example, parsed)
  if facts is None:
    return 0.0
  if facts.exact:
    return 1.0
  total = facts.true + facts.false + facts.missing + facts.irrelevant
  return facts.true / total


def length(
  example: Example,
  node_text: str,
  path_text: str,
  parsed: Parsed,
  step: int,
  *,
  soft: int = 64,
  hard: int = 128,
) -> float:
  """0 up to `soft` words of the node, then falling in a line to -1 at `hard`.

  The soft overlong punishment of DAPO (arXiv 2503.14476, eq. 13), in words
  separated by white space.

  Raises:
    ValueError: unless 0 <= soft < hard.
  """
  if not 0 <= soft < hard:
    raise ValueError(f"length: soft={soft}, hard={hard}: need 0 <= soft < hard")
  words = len(node_text.split())
  return -min(max(words - soft, 0) / (hard - soft), 1.0)


TERMS: dict[str, Term] = {
  "correct": correct,
  "format": format_share,
  "exact": exact,
  "facts": facts_share,
  "length": length,
}


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
  names = sorted(known)
  near = difflib.get_close_matches(name, names, n=1, cutoff=0)
  hint = f" (did you mean {near[0]!r}?)" if near else ""
  return f"unknown {kind} {name!r}{hint}; known: {', '.join(names) or 'none'}"


def make_term(name: str, **options: Any) -> Term:
  """The term of that name with its options set.

  Raises:
    KeyError: for an unknown name, naming the nearest.
    TypeError: for an unknown option of it, naming the nearest.
  """
  if name not in TERMS:
    raise KeyError(_unknown("reward term", name, TERMS))
  term = TERMS[name]
  known = [
    parameter.name
    for parameter in inspect.signature(term).parameters.values()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
  ]
  for option in options:
    if option not in known:
      raise TypeError(
        _unknown(f"option of reward term {name!r}:", option, known)
      )
  return functools.partial(term, **options) if options else term
