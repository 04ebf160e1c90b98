"""A process of tests imports several benchmarks: their flags must differ."""

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPORT = re.compile(
  r"^\s*(?:from (benchmarks[\w.]*) import \(?([\w,\s]+?)\)?$"
  r"|import (benchmarks[\w.]+))",
  re.M,
)
FLAG = re.compile(r"flags\.DEFINE_\w+\(\s*\"(\w+)\"")


def imported() -> set[Path]:
  """Files of the benchmarks that a test or one of these files imports."""
  todo = [*ROOT.glob("tests/**/*.py")]
  found: set[Path] = set()
  while todo:
    for package, names, whole in IMPORT.findall(todo.pop().read_text("utf-8")):
      parts = [package or whole]
      parts += [
        f"{package}.{x.split(' as ')[0]}"
        for x in re.split(r",\s*", names.strip())
      ]
      for part in parts:
        file = ROOT / f"{part.replace('.', '/')}.py"
        if file.is_file() and file not in found:
          found.add(file)
          todo.append(file)
  return found


def test_no_flag_is_defined_by_two_of_them():
  files = imported()
  assert ROOT / "benchmarks/loading.py" in files
  owners = defaultdict(list)
  for file in sorted(files):
    for flag in FLAG.findall(file.read_text("utf-8")):
      owners[flag].append(file.relative_to(ROOT).as_posix())
  assert owners
  assert {k: v for k, v in owners.items() if len(v) > 1} == {}
