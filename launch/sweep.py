"""Runs the points of a sweep one after another.

    python -m launch.sweep --config=configs/sweeps/prior_weight.py \\
      --workdir=runs/prior_weight [--list] [--config.field=value …]

Each point is a run of its own in WORKDIR/POINT, with `--config.field=value`
flags for what the point sets; further overrides go to every point. Points that
have a summary are not run again, so the same line resumes a sweep. A point that
fails is named at the end, and the others are run all the same; a stop signal is
passed on to the run, which saves, and ends the sweep.
"""

import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch import hyper
from mirl_jax.command_line import load_config, override, split
from mirl_jax.runs.summary import SUMMARY_FILE

# A run that was stopped by signal n exits with 128 + n.
_STOPPED = 128
BAD_ARGUMENT = 2


def load_points(config: str, overrides: Sequence[str]) -> hyper.Points:
  """The points of a sweep file, each checked against the config.

  Args:
    config: FILE or FILE:ARGUMENT.
    overrides: flags that every point gets.

  Raises:
    ValueError: for a file without get_hyper, two points of one name, an
      unknown field, a value that is not of its field's type, or an override
      of a field that the sweep sets.
  """
  file = config.partition(":")[0]
  load_config(config)
  get_hyper = runpy.run_path(file).get("get_hyper")
  if get_hyper is None:
    raise ValueError(f"--config={config}: the file has no get_hyper(hyper)")
  points = get_hyper(hyper)
  given = {re.sub(r"^--?(no)?config\.|=.*", "", flag) for flag in overrides}
  for point in points:
    if clash := given & point.keys():
      raise ValueError(f"config.{min(clash)} is set by the sweep itself")
    override(load_config(config), [*hyper.flags(point), *overrides])
  names = [hyper.name(point) for point in points]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f"--config={config}: the point {name} stands twice")
  return points


def run_one(argv: Sequence[str]) -> int:
  """Runs a command to its end and passes stop signals on; its exit code."""
  # A group of its own: Ctrl-C would else reach it twice, which means "at once".
  child = subprocess.Popen(argv, process_group=0)
  before = {
    number: signal.signal(number, lambda n, _: child.send_signal(n))
    for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    code = child.wait()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  return code if code >= 0 else _STOPPED - code


def run_sweep(
  config: str, workdir: str, overrides: Sequence[str], points: hyper.Points
) -> int:
  """Runs every point without a summary; 0, or the first failure's code."""
  codes: dict[str, int] = {}
  for number, point in enumerate(points, start=1):
    name = hyper.name(point)
    out = Path(workdir) / name
    if (out / SUMMARY_FILE).exists():
      print(f"[{number}/{len(points)}] {name}: done before", flush=True)
      continue
    print(f"[{number}/{len(points)}] {name}", flush=True)
    codes[name] = run_one(
      [
        sys.executable,
        "-m",
        "mirl_jax.main",
        f"--config={config}",
        f"--workdir={out}",
        *hyper.flags(point),
        *overrides,
      ]
    )
    if codes[name] > _STOPPED:
      print(f"stopped in {name}; the same command resumes", file=sys.stderr)
      return codes[name]
  failed = {name: code for name, code in codes.items() if code}
  for name, code in failed.items():
    print(f"failed with exit code {code}: {name}", file=sys.stderr)
  return next(iter(failed.values()), 0)


def run(argv: Sequence[str]) -> int:
  """Runs a command line, without the program's name; returns the exit code."""
  values = flags.FlagValues()
  config = flags.DEFINE_string(
    "config", None, "Sweep file as FILE or FILE:ARGUMENT.", flag_values=values
  )
  workdir = flags.DEFINE_string(
    "workdir", None, "Directory of the sweep.", flag_values=values
  )
  listing = flags.DEFINE_bool(
    "list", False, "Print the points and leave.", flag_values=values
  )
  plain, overrides = split(argv)
  try:
    rest = values(["", *plain])[1:]
    if rest:
      raise ValueError(f"unexpected argument {rest[0]!r}")
    if config.value is None or workdir.value is None:
      raise ValueError("--config=FILE and --workdir=DIR must be given")
    points = load_points(config.value, overrides)
  except (flags.Error, ValueError) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return BAD_ARGUMENT
  if listing.value:
    print("\n".join(hyper.name(point) for point in points))
    return 0
  return run_sweep(config.value, workdir.value, overrides, points)


if __name__ == "__main__":
  sys.exit(run(sys.argv[1:]))
