"""Entry point: `python -m mirl_jax.main --config=FILE --workdir=DIR`."""

import difflib
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from mirl_jax.data.pipeline import TooManyBadRows

# Mode -> module whose function of that name runs it; JAX starts with these.
MODES = {
  "train": "mirl_jax.train",
  "sft": "mirl_jax.sft",
  "eval": "mirl_jax.inspection",
  "sample": "mirl_jax.inspection",
  "report": "mirl_jax.inspection",
}
_DEFAULT = str(Path(__file__).with_name("default.py"))
_BAD_ARGUMENT, _BAD_ROWS = 2, 4

_WORKDIR = flags.DEFINE_string(
  "workdir", "runs/default", "Directory of the run."
)
_MODE = flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
_CONFIG = config_flags.DEFINE_config_file(
  "config", _DEFAULT, "Configuration file; the embedded default without one."
)


def fields(config: ConfigDict, prefix: str = "") -> list[str]:
  """Dotted names of every field."""
  found = []
  for name, value in config.items():
    path = f"{prefix}{name}"
    found += fields(value, f"{path}.") if isinstance(value, ConfigDict) else []
    found.append(path)
  return found


def explain(error: Exception, config: ConfigDict | None) -> str:
  """One line for a bad argument; an unknown field names the nearest."""
  text = str(error).strip().strip("'\"")
  unknown = re.search(r'Did you mean "?([\w.]+)|config\.([\w.]+)', text)
  if config is not None and unknown and "mean" not in text:
    name = unknown.group(2) or unknown.group(1)
    near = difflib.get_close_matches(name, fields(config), 1, 0)
    if near and near[0] != name:
      text += f"; the nearest field is config.{near[0]}"
  return " ".join(text.split())


def _run(argv: Sequence[str]) -> int:
  if len(argv) > 1:
    raise ValueError(f"unexpected argument {argv[1]!r}; flags begin with --")
  mode = _MODE.value
  run = getattr(importlib.import_module(MODES[mode]), mode)
  return run(_CONFIG.value, _WORKDIR.value)


def main() -> None:
  """Parses flags, runs the mode, and exits with the contract's code."""
  try:
    argv = flags.FLAGS(sys.argv)
  except Exception as error:  # noqa: BLE001 - whatever absl makes of a flag
    default = None
    try:
      default = importlib.import_module("mirl_jax.default").get_config()
    finally:
      print(f"error: {explain(error, default)}", file=sys.stderr)
    sys.exit(_BAD_ARGUMENT)
  try:
    sys.exit(_run(argv))
  except (ValueError, FileNotFoundError) as error:
    if "--debug" in sys.argv:
      raise
    print(f"error: {explain(error, None)}", file=sys.stderr)
    sys.exit(_BAD_ARGUMENT)
  except TooManyBadRows as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(_BAD_ROWS)


if __name__ == "__main__":
  main()

