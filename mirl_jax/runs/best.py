"""Which step of a run was best by a figure of its evaluations: best.json."""

import math
from collections.abc import Mapping
from typing import Any

from mirl_jax.runs.files import PathLike, from_json, local_path, to_json
from mirl_jax.runs.files import write_atomic as _write

BEST_FILE = "best.json"


def better(
  best: Mapping[str, Any], name: str, step: int, value: float
) -> dict[str, Any]:
  """The better of the best so far and a step; of equal ones the earlier.

  Args:
    best: `name`, `step` and `value` of the best so far; empty where there is
      none. One by another figure counts as none.
    name: of the figure, of which more is better.
    step: of the new evaluation.
    value: of its figure; nan is no better than anything.
  """
  old = dict(best) if best.get("name") == name else {}
  if math.isnan(value) or (old and value <= old["value"]):
    return old
  return {"name": name, "step": step, "value": value}


def write_best(workdir: PathLike, best: Mapping[str, Any]) -> None:
  """Writes best.json whole, unless it says the same already."""
  if read_best(workdir) != best:
    text = to_json(best, indent=2)
    _write(local_path(workdir) / BEST_FILE, text + "\n")


def read_best(workdir: PathLike) -> dict[str, Any]:
  """`name`, `step` and `value` of a run's best step; empty where there is none.

  Raises:
    ValueError: where the file is damaged.
  """
  path = local_path(workdir) / BEST_FILE
  return from_json(path.read_bytes()) if path.exists() else {}
