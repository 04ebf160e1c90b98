"""Entry point: `python -m mirl_jax.main --config=FILE --workdir=DIR`.

Exit codes: 0 the run did what it was asked; 2 bad argument; 3 does not fit in
memory; 4 too many bad rows; 128 + the signal's number (143 for SIGTERM) when
stopped, resumable.
"""

import importlib
import sys
from collections.abc import Sequence

from mirl_jax.command_line import parse
from mirl_jax.data.source import TooManyBadRows
from mirl_jax.host_memory import computes_on_host, tune_allocator
from mirl_jax.rewards.judges import make_judges, serving

# Mode -> module whose function of that name runs it; JAX starts with these.
MODES = {
  "train": "mirl_jax.train",
  "sft": "mirl_jax.sft",
  "eval": "mirl_jax.inspection",
  "sample": "mirl_jax.inspection",
  "report": "mirl_jax.inspection",
  "export": "mirl_jax.export",
  "compile": "mirl_jax.aot",
}
BAD_ARGUMENT, NO_MEMORY, BAD_ROWS = 2, 3, 4


def exit_code(error: Exception) -> int | None:
  """The contract's code for an error, None for one that it does not know."""
  if isinstance(error, TooManyBadRows):
    return BAD_ROWS
  if isinstance(error, ValueError | FileNotFoundError):
    return BAD_ARGUMENT
  # XLA's error type is named otherwise in every release of JAX.
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
    return NO_MEMORY
  return None


def run(argv: Sequence[str]) -> int:
  """Runs a command line, without the program's name; returns the exit code."""
  try:
    command = parse(argv, tuple(MODES))
    if command.help:
      print(command.help.strip("\n"))
      return 0
    if computes_on_host():
      tune_allocator()
    if command.processes:
      importlib.import_module("mirl_jax.parallel.processes").join(
        command.processes
      )
    module = importlib.import_module(MODES[command.mode])
    more: dict[str, list] = {
      "export": [command.out],
      "train": [command.profile],
      "compile": [command.topology, command.as_json],
    }
    with serving(make_judges(command.config)):
      return getattr(module, command.mode)(
        command.config, command.workdir, *more.get(command.mode, [])
      )
  except Exception as error:
    code = exit_code(error)
    if code is None or "--debug" in argv:
      raise
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def main() -> None:
  """The command `mirl-jax`."""
  sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
  main()
