"""From the words of a command line to a mode, a work directory and a config.

Flags may stand in any order. JAX is not imported here: a bad flag is answered
at once.
"""

import difflib
import re
import runpy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from mirl_jax.config import from_saved
from mirl_jax.runs.config_files import CONFIG_FILE
from mirl_jax.runs.config_files import load_config as read_saved

# Modes that look at a run: what it was started with goes before the default.
OF_A_RUN = ("eval", "sample", "export")
DEFAULT_CONFIG = str(Path(__file__).with_name("default.py"))
_OVERRIDE = re.compile(r"--?(no)?config\.(?P<name>[^=]+)(=|$)")


@dataclass(frozen=True)
class Command:
  """What a command line asks for.

  Attributes:
    mode: one of the modes.
    workdir: directory of the run.
    config: resolved, overrides applied, locked.
    out: directory to write, of the mode that writes one.
    profile: first step to trace and the one to stop before.
    topology: of devices to compile for.
    as_json: print one JSON object.
    processes: how to join the run's other processes, see `processes.join`.
    debug: show the traceback of an error.
    help: show the flags and do nothing.
  """

  mode: str
  workdir: str
  config: ConfigDict
  out: str = ""
  profile: tuple[int, int] | None = None
  topology: str = ""
  as_json: bool = False
  processes: str = ""
  debug: bool = False
  help: str = ""


def fields(config: ConfigDict, prefix: str = "") -> list[str]:
  """Dotted names of every field that holds a value, not a section."""
  found: list[str] = []
  for name, value in config.items():
    path = f"{prefix}{name}"
    inner = isinstance(value, ConfigDict) and len(value) > 0
    found += fields(value, f"{path}.") if inner else [path]
  return found


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Plain flags, and overrides as `--config.name=value` each."""
  plain, overrides = [], []
  words = list(argv)
  while words:
    word = words.pop(0)
    if not _OVERRIDE.match(word):
      plain.append(word)
      continue
    if "=" not in word and words and not words[0].startswith("--"):
      word = f"{word}={words.pop(0)}"
    overrides.append(word)
  return plain, overrides


def load_config(given: str) -> ConfigDict:
  """Calls `get_config` of a file, given as `FILE` or `FILE:ARGUMENT`.

  Raises:
    ValueError: naming the file, and what is wrong with it.
  """
  file, colon, argument = given.partition(":")
  if not Path(file).is_file():
    raise ValueError(f"--config={given}: there is no file {file}")
  try:
    config = runpy.run_path(file)["get_config"](*[argument] if colon else [])
  except Exception as error:
    kind = type(error).__name__
    raise ValueError(f"--config={given}: {kind}: {error}") from error
  if not isinstance(config, ConfigDict):
    raise ValueError(
      f"--config={given}: get_config gave a {type(config).__name__}; it must"
      " return a ConfigDict"
    )
  return config


def saved_config(file: Path) -> ConfigDict:
  """The config that a run wrote to its work directory.

  Raises:
    ValueError: naming the file, and what is wrong with it.
  """
  values = read_saved(file.parent)
  try:
    return from_saved(values)
  except ValueError as error:
    raise ValueError(f"{file}: {error}; give --config=FILE") from error


def override(config: ConfigDict, given: Sequence[str]) -> ConfigDict:
  """The config with `--config.name=value` flags applied, values typed.

  Of several flags for one field the last counts.

  Raises:
    ValueError: for an unknown field, naming the nearest; for a value that is
      not of the field's type.
  """
  known = fields(config)
  last: dict[str, str] = {}  # ml_collections would join tuples
  for flag in given:
    found = _OVERRIDE.match(flag)
    assert found is not None
    name = found["name"]
    if name == "method":
      raise ValueError(
        f"{flag}: the method is the config file's choice; name another file,"
        " such as --config=configs/grpo.py"
      )
    if name not in known:
      if any(field.startswith(f"{name}.") for field in known):
        raise ValueError(f"{flag}: config.{name} is a section; name a field")
      near = difflib.get_close_matches(name, known, 1, 0)[0]
      raise ValueError(
        f"{flag}: there is no field config.{name}; the nearest is config.{near}"
      )
    last[name] = flag
  values = flags.FlagValues()
  argv = ["", *last.values()]
  try:
    config_flags.DEFINE_config_dict(
      "config", config, flag_values=values, sys_argv=argv
    )
    values(argv)
  except (flags.Error, ValueError, TypeError) as error:
    raise ValueError(str(error)) from error
  return values["config"].value


def parse_steps(text: str) -> tuple[int, int]:
  """Reads `START:STOP`, the first step to trace and the one to stop before.

  Raises:
    ValueError: for anything else.
  """
  first, colon, last = text.partition(":")
  if not (colon and first.isdecimal() and last.isdecimal()):
    raise ValueError(f"--profile={text}: give START:STOP, two numbers of steps")
  if not 0 < int(first) < int(last):
    raise ValueError(f"--profile={text}: give 0 < START < STOP")
  return int(first), int(last)


def parse(argv: Sequence[str], modes: Sequence[str]) -> Command:
  """Reads a command line, the program's name left out.

  Raises:
    ValueError: in one line, naming what is wrong and the fix.
  """
  values = flags.FlagValues()
  workdir = flags.DEFINE_string(
    "workdir", "runs/default", "Directory of the run.", flag_values=values
  )
  mode = flags.DEFINE_enum(
    "mode", "train", list(modes), "What to do.", flag_values=values
  )
  file = flags.DEFINE_string(
    "config",
    "",
    "Configuration file as FILE or FILE:ARGUMENT; without one the embedded"
    " default, or the run's own to eval, sample or export it."
    " --config.field=value overrides a field.",
    flag_values=values,
  )
  out = flags.DEFINE_string(
    "out", "", "Directory that --mode=export writes.", flag_values=values
  )
  profile = flags.DEFINE_string(
    "profile",
    "",
    "START:STOP, steps of training to trace into WORKDIR/profile.",
    flag_values=values,
  )
  topology = flags.DEFINE_string(
    "topology",
    "",
    "What --mode=compile compiles for: v5e:4x4, v5p:4x4x4, cpu:8, …",
    flag_values=values,
  )
  as_json = flags.DEFINE_bool(
    "json", False, "--mode=compile prints JSON.", flag_values=values
  )
  processes = flags.DEFINE_string(
    "processes",
    "",
    "Run as one of several: HOST:PORT,COUNT,INDEX with the first one's address,"
    " or auto on SLURM, Cloud TPU and Kubernetes.",
    flag_values=values,
  )
  debug = flags.DEFINE_bool(
    "debug", False, "Show the traceback of an error.", flag_values=values
  )
  show = flags.DEFINE_bool(
    "help", False, "Show the flags and leave.", flag_values=values
  )
  plain, overrides = split(argv)
  try:
    rest = values(["", *plain])[1:]
  except flags.Error as error:
    raise ValueError(str(error)) from error
  if rest:
    raise ValueError(f"unexpected argument {rest[0]!r}; flags begin with --")
  if out.value and mode.value != "export":
    raise ValueError(f"--out={out.value} goes with --mode=export only")
  if profile.value and mode.value != "train":
    raise ValueError(f"--profile={profile.value} goes with --mode=train only")
  if (topology.value or as_json.value) and mode.value != "compile":
    raise ValueError("--topology and --json go with --mode=compile only")
  steps = parse_steps(profile.value) if profile.value else None
  saved = Path(workdir.value) / CONFIG_FILE
  if mode.value in OF_A_RUN and not file.value and saved.is_file():
    config = saved_config(saved)
  else:
    config = load_config(file.value or DEFAULT_CONFIG)
  config = override(config, overrides)
  # Without absl's own flags.
  usage = values.get_help().split("\nabsl.flags:")[0] if show.value else ""
  return Command(
    mode.value,
    workdir.value,
    config,
    out.value,
    steps,
    topology.value,
    as_json.value,
    processes.value,
    debug.value,
    usage,
  )
