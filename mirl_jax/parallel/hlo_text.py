"""Reads the text of a compiled program, HLO, line by line."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
_INSTRUCTION = re.compile(
  r"^\s*(?P<root>ROOT )?%(?P<name>[\w.\-]+) = (?P<type>.*?) "
  r"(?P<op>[a-z][\w\-]*)\((?P<rest>.*)$"
)
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>[\w.\-]+) \(.*\{$")
_ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,]*)\](\{[^}]*\})?")


@dataclass(frozen=True)
class Shape:
  """One array: its sizes, bytes, and whether it lies in HBM."""

  dims: tuple[int, ...]
  bytes: int
  in_hbm: bool


def shapes(text: str) -> list[Shape]:
  found = []
  for kind, dims, layout in _ARRAY.findall(text):
    bits = _BITS.get(kind) or int((re.findall(r"\d+", kind) or ["0"])[0])
    sizes = tuple(int(n) for n in dims.split(",") if n)
    size = math.prod(sizes) * bits // 8
    # S(n) names a memory other than HBM: a TPU's on-chip one.
    found.append(Shape(sizes, size, "S(" not in layout))
  return found


@dataclass
class Instruction:
  """One line of a computation."""

  name: str
  op: str
  shapes: list[Shape]
  operands: list[str]
  text: str
  root: bool

  @property
  def bytes(self) -> int:
    return sum(shape.bytes for shape in self.shapes if shape.in_hbm)

  def attribute(self, name: str) -> str | None:
    """The word behind `name=`, without its percent sign."""
    found = re.search(rf"\b{name}=%?([\w.\-]+)", self.text)
    return found[1] if found else None


Computation = dict[str, Instruction]


@dataclass
class Module:
  """Computations by name, and which of them is run."""

  computations: dict[str, Computation] = field(default_factory=dict)
  entry: str = ""


def _operands(rest: str) -> tuple[str, str]:
  """What stands between an opcode's parentheses, and what follows."""
  depth = 1
  for at, letter in enumerate(rest):
    depth += (letter == "(") - (letter == ")")
    if depth == 0:
      return rest[:at], rest[at + 1 :]
  return rest, ""


def parse(text: str) -> Module:
  """Reads `compiled.as_text()`."""
  module, current = Module(), None
  for line in text.splitlines():
    begins = _COMPUTATION.match(line)
    if begins:
      current = module.computations.setdefault(begins["name"], {})
      if begins["entry"]:
        module.entry = begins["name"]
      continue
    found = _INSTRUCTION.match(line)
    if found is None or current is None:
      continue
    inside, after = _operands(found["rest"])
    current[found["name"]] = Instruction(
      found["name"],
      found["op"],
      shapes(found["type"]),
      re.findall(r"%([\w.\-]+)", inside),
      f"{inside} {after}",
      bool(found["root"]),
    )
  return module


def called(instruction: Instruction) -> Iterator[str]:
  """Computations that run with an instruction, loops apart."""
  for name in ("calls", "to_apply"):
    found = instruction.attribute(name)
    if found:
      yield found
  branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.text)
  if branches:
    yield from re.findall(r"%([\w.\-]+)", branches[1])
