"""Runs a user's reward file; in the worker processes of `own.OwnReward`.

A score is a number, a dict of numbers by name, or None. What is none of these,
or is raised, is a fault of that score, told in one line.
"""

import functools
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mirl_jax.data.example import Example
from mirl_jax.rewards.worker_process import described

FUNCTIONS = ("score", "score_batch")
MAX_SIZE = 1e6  # larger scores are faults: squares must stay far from infinity

# Values by name, where a plain number has the name "", and what went wrong.
Judged = tuple[dict[str, float], str]


@functools.cache
def load(path: str) -> tuple[str, Callable[..., Any]]:
  """Runs the file, once in a process.

  Returns:
    Which of FUNCTIONS it defines, and that function.

  Raises:
    ValueError: unless it defines just one of them.
    Exception: whatever running the file raises.
  """
  sys.path.insert(0, str(Path(path).parent))
  spec = importlib.util.spec_from_file_location("own_reward", path)
  if spec is None or spec.loader is None:
    raise ValueError(f"{path} is no python file; its name must end in .py")
  module = importlib.util.module_from_spec(spec)
  sys.modules["own_reward"] = module
  spec.loader.exec_module(module)
  found = [name for name in FUNCTIONS if callable(getattr(module, name, None))]
  if len(found) != 1:
    raise ValueError(
      "define score(example, text, siblings), or score_batch(examples, texts,"
      f" siblings), and not both; it defines {' and '.join(found) or 'neither'}"
    )
  return found[0], getattr(module, found[0])


def ask(path: str, question: str, *arguments: Any) -> Any:
  """What workers are called with: `kind`, or `judge` with its arguments."""
  kind, function = load(path)
  return kind if question == "kind" else judge(path, function, kind, *arguments)


def judge(
  path: str,
  function: Callable[..., Any],
  kind: str,
  examples: Sequence[Example],
  texts: Sequence[str],
  siblings: Sequence[Sequence[str]],
) -> list[Judged]:
  """Scores nodes: one by one, or together where the file does so."""
  try:
    if kind == "score":
      nodes = zip(examples, texts, siblings, strict=True)
      return [read_score(function(*node)) for node in nodes]
    scores = function(examples, texts, siblings)
    if isinstance(scores, str | Mapping) or len(scores) != len(texts):
      raise ValueError(f"score_batch must return {len(texts)} scores in order")
    return [read_score(score) for score in scores]
  except MemoryError:
    raise
  except Exception as error:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    where = f" (line {lines[-1]})" if lines else ""
    return [({}, described(error) + where)] * len(texts)


def read_score(score: Any) -> Judged:
  """A score's values by name, and what is wrong with the first bad one.

  None abstains, also as a value of a dict.
  """
  if not isinstance(score, Mapping):
    score = {"": score}
  values: dict[str, float] = {}
  fault = ""
  for name, value in score.items():
    if value is None:
      continue
    said = f"{name}: " if name else ""
    try:
      if not isinstance(name, str):
        raise TypeError
      if isinstance(value, str | bytes):  # float() would read "1"
        raise TypeError
      number = float(value)
    except (TypeError, ValueError):
      what = type(value).__name__
      fault = fault or (
        f"{said}returned a {what}; give a number, a dict of numbers by name,"
        " or None"
      )
      continue
    except OverflowError:
      number = math.inf
    if abs(number) <= MAX_SIZE:
      values[name] = number
    else:
      fault = fault or (
        f"{said}returned {number:g}; give a finite number of at most"
        f" {MAX_SIZE:g} in size"
      )
  return values, fault
