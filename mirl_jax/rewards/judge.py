"""A user's judge of free text, as a worker process calls it.

The function gets (prediction, answer, question) and returns how right the
prediction is in 0..1, a bool, or None where it abstains; it may ask a model
over the network.
"""

import importlib
import math
import runpy
from collections.abc import Callable
from typing import Any

# Set once per worker by `set_up`, before its first call.
_function: Callable[..., Any] | None = None


def load(target: str) -> Callable[..., Any]:
  """The function that "package.module:function" or "file.py:function" names.

  Raises:
    ValueError: for another form, or where there is no such function.
  """
  place, _, name = target.rpartition(":")
  if not place or not name:
    raise ValueError(
      f"judge={target!r}: give MODULE:FUNCTION or FILE.py:FUNCTION"
    )
  if place.endswith(".py"):
    names = runpy.run_path(place)
  else:
    names = vars(importlib.import_module(place))
  if not callable(names.get(name)):
    raise ValueError(f"judge={target!r}: {place} has no function {name!r}")
  return names[name]


def set_up(target: str) -> None:
  """Loads the user's function; called once in a worker."""
  global _function
  _function = load(target)


def call(
  prediction: str, answer: str, question: str
) -> tuple[float | None, str]:
  """The judge's score, or None where it abstains, with a reason.

  Raises:
    ValueError: for a score that is no number in 0..1.
  """
  assert _function is not None, "set_up comes first"
  value = _function(prediction, answer, question)
  if value is None:
    return None, "the judge abstains"
  score = float(value)
  if not 0 <= score <= 1 or math.isnan(score):
    raise ValueError(f"the judge returned {value!r}; give a number in 0..1")
  return score, f"the judge gives {score:g}"
