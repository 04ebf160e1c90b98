"""What is compared: a method by its shape, and the worlds it is trained in."""

import ast
import contextlib
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mirl_jax.config import get_config

_SHAPE = re.compile(r"(mirl|random|likelihood|oracle)-(\d+)-(\d+)-(\d+)")
_GRPO = re.compile(r"grpo-(\d+)")


def arm(name: str) -> ConfigDict:
  """The config of an arm.

  Args:
    name: `paper`; `grpo-G`; or `KEEP-N-K-F`, the default method that keeps K
      of N descriptions by KEEP (mirl, random, likelihood, oracle) and draws F
      reasonings of each. Fields may follow: `grpo-8 loss.entropy=-0.01`.

  Raises:
    ValueError: for another name, or a field that there is not.
  """
  base, *fields = name.split()
  shape, group = _SHAPE.fullmatch(base), _GRPO.fullmatch(base)
  if base == "paper":
    c = get_config("mirl_paper")
  elif group:
    c = get_config("grpo")
    c.program.response.fanout = int(group[1])
  elif shape:
    keep, n, k, f = shape.groups()
    c = get_config("mirl")
    c.program.describe.fanout = int(n)
    c.program.keep.k = int(k)
    c.program.keep.by = "mi" if keep == "mirl" else keep
    c.program.reason.fanout = int(f)
  else:
    raise ValueError(
      f"arm {name!r}: give paper, grpo-G or KEEP-N-K-F, where KEEP is one of"
      " mirl, random, likelihood and oracle"
    )
  return change(c, dict(field.split("=", 1) for field in fields))


def change(c: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
  """The config with fields set, values as Python writes them.

  Raises:
    ValueError: for a field that there is not.
  """
  for field, value in fields.items():
    if isinstance(value, str):
      # What is no literal is a bare word.
      with contextlib.suppress(ValueError, SyntaxError):
        value = ast.literal_eval(value)
    section: Any = c
    *path, last = field.split(".")
    try:
      for part in path:
        section = section[part]
      section[last]
    except (KeyError, TypeError) as error:
      raise ValueError(f"field {field!r} is unknown") from error
    if isinstance(value, dict):
      value = ConfigDict(value)
    with section.unlocked():
      section[last] = value
  return c


def label(name: str) -> str:
  """An arm's name as a table shows it."""
  base, *fields = name.split()
  shape, group = _SHAPE.fullmatch(base), _GRPO.fullmatch(base)
  if group:
    text = f"GRPO-{group[1]}"
  elif shape:
    keep, n, k, f = shape.groups()
    by = "" if keep == "mirl" else f", {keep} keep"
    text = f"MIRL {n}/{k}x{f}{by}"
  else:
    text = "MIRL 10/6x2 (paper's shape)"
  return " ".join([text, *fields])
