"""Equality of two mathematical texts by Math-Verify, in a worker process.

Math-Verify (github.com/huggingface/Math-Verify) reads LaTeX or plain
expressions into SymPy and compares numerically, then symbolically. Its own
time limits are signals and are off: the worker's deadline is the limit.
"""

import functools
import logging
import warnings
from typing import Any

from mirl_jax.rewards import sandbox

PRELOAD = ("math_verify", "sympy.solvers", "mirl_jax.rewards.symbolic")


def set_up() -> None:
  """Warms the parser up and locks the process; called once in a worker."""
  logging.disable(logging.CRITICAL)  # it warns that its time limits are off
  warnings.simplefilter("ignore")  # SymPy's deprecations, once per answer
  equal("$\\frac{1}{2}$", "$0.5x + 1 - x/2 - 1/2$")
  sandbox.lock()


@functools.lru_cache(maxsize=256)
def _read(text: str) -> Any:
  import math_verify

  return math_verify.parse(text, parsing_timeout=None)


def equal(prediction: str, answer: str) -> tuple[bool, str]:
  """Whether a prediction equals the reference.

  Args:
    prediction: LaTeX between delimiters, or plain.
    answer: likewise; the comparison is not symmetric, see Math-Verify.

  Returns:
    The verdict and its reason.
  """
  import math_verify

  before = len(sandbox.refused)
  expected = _read(answer)
  given = _read(prediction)
  same = math_verify.verify(expected, given, timeout_seconds=None)
  if len(sandbox.refused) > before:
    return False, f"tried {sandbox.refused[-1]}, which is refused"
  if same:
    return True, "mathematically equal"
  if not expected:
    return False, "the reference cannot be read as mathematics"
  if not given:
    return False, "cannot be read as mathematics"
  return False, "mathematically different"
