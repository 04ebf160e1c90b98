"""What a compiled program does on one device, read from its HLO text.

XLA's own cost analysis counts the body of a loop once. Here every computation
is counted as often as it runs: a loop's body as often as its condition's
constant says, which is exact for scans and the most there can be for a loop
that may end early (decoding).
"""

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass

from mirl_jax.parallel.hlo_loops import trip_count
from mirl_jax.parallel.hlo_text import (
  Computation,
  Instruction,
  Module,
  Shape,
  called,
  parse,
)

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
  "collective-broadcast",
  "ragged-all-to-all",
)
# Instructions that move nothing by themselves.
_FREE = {
  "parameter",
  "constant",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "while",
  "call",
  "conditional",
  "after-all",
  "partition-id",
  "replica-id",
  "opt-barrier",
  "iota",
}


def _window(text: str) -> dict[str, list[tuple[int, ...]]]:
  """Fields of `window={size=4x2 stride=3x1 pad=0_1x0_0 …}`."""
  found = re.search(r"window=\{([^}]*)\}", text)
  fields = {}
  for part in found[1].split() if found else []:
    name, _, value = part.partition("=")
    fields[name] = [
      tuple(int(n) for n in dim.split("_")) for dim in value.split("x")
    ]
  return fields


def _valid(
  output: int, size: int, stride: int, pad: int, base: int, spread: int, n: int
) -> int:
  """Products along one spatial dimension: positions of the window, over all
  outputs, that fall on an element and neither on padding nor on a gap."""
  count = 0
  for o in range(output):
    for k in range(size):
      at = o * stride + k * spread - pad
      count += at % base == 0 and 0 <= at // base < n
  return count


def _convolution(output: Shape, left: Shape, right: Shape, text: str) -> int:
  """Multiply-adds times two."""
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", text)
  assert labels is not None
  lhs, rhs, out = labels.groups()
  window = _window(text)
  batches = re.search(r"batch_group_count=(\d+)", text)
  total = 2 * right.dims[rhs.index("i")]
  total *= output.dims[out.index("b")] * output.dims[out.index("f")]
  spatial = sorted(letter for letter in out if letter.isdigit())
  for number, letter in enumerate(spatial):

    def of(name: str, default: int, number: int = number) -> int:
      return window[name][number][0] if name in window else default

    total *= _valid(
      output.dims[out.index(letter)],
      right.dims[rhs.index(letter)],
      of("stride", 1),
      of("pad", 0),
      of("lhs_dilate", 1),
      of("rhs_dilate", 1),
      left.dims[lhs.index(letter)],
    )
  return total // int(batches[1] if batches else 1)


def _dot(output: Shape, left: Shape, text: str) -> int:
  found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", text)
  contracted = [int(n) for n in (found[1] if found else "").split(",") if n]
  return (
    2 * math.prod(output.dims) * math.prod(left.dims[i] for i in contracted)
  )


def _flops(instruction: Instruction, inside: Computation) -> int:
  if instruction.op not in ("dot", "convolution"):
    return 0
  left, right = (inside[name].shapes[0] for name in instruction.operands[:2])
  if instruction.op == "dot":
    return _dot(instruction.shapes[0], left, instruction.text)
  return _convolution(instruction.shapes[0], left, right, instruction.text)


def _kernel_flops(instruction: Instruction) -> int | None:
  """Of a custom call: its own estimate, or what we know of a kernel that gives
  none; None where nobody knows.

  Splash attention's are counted as if no block were masked.
  """
  told = re.search(r'"flops":"?(\d+)', instruction.text)
  if told:
    return int(told[1])
  if not instruction.name.startswith("splash_mha_fwd"):
    return None
  inputs = re.search(
    r"operand_layout_constraints=\{(.*?\})\}", instruction.text
  )
  arrays = re.findall(
    r"\b(?:bf16|f32)\[([\d,]+)\]", inputs[1] if inputs else ""
  )
  query, keys, _ = ([int(n) for n in x.split(",")] for x in arrays[:3])
  return 4 * math.prod(query) * keys[-2]


def group_size(text: str, devices: int) -> int:
  """Of the devices that a collective joins."""
  listed = re.search(r"replica_groups=\[\d+,(\d+)\]", text)
  if listed:
    return int(listed[1])
  named = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text)
  if named:
    sizes = dict(re.findall(r"'([^']*)'=(\d+)", named[1]))
    return math.prod(int(sizes[x]) for x in re.findall(r"'([^']*)'", named[2]))
  explicit = re.search(r"replica_groups=\{\{([\d,]*)\}", text)
  return len(explicit[1].split(",")) if explicit else devices


def collective(instruction: Instruction) -> str | None:
  """The kind of a collective, None for anything else and for the second half
  of one that is cut in two."""
  op = instruction.op.removesuffix("-start")
  return op if op in COLLECTIVES else None


def sent(kind: str, instruction: Instruction, devices: int) -> int:
  """Bytes that each device sends, with the usual ring algorithms."""
  size = max((shape.bytes for shape in instruction.shapes), default=0)
  if len(instruction.shapes) > 1 and not instruction.op.endswith("-start"):
    size = sum(shape.bytes for shape in instruction.shapes)
  if kind in ("collective-permute", "collective-broadcast"):
    return size
  n = group_size(instruction.text, devices)
  factor = {"all-reduce": 2, "reduce-scatter": n}.get(kind, 1)
  return factor * size * (n - 1) // n


def _accessed(module: Module, name: str, number: int) -> int | None:
  """Bytes that a fused computation reads of its parameter where it takes slices
  of it only, in a fusion of its own too, or hands it on; None where it reads
  all."""
  fused = module.computations[name]
  names = {
    i.name
    for i in fused.values()
    if i.op == "parameter" and i.text.startswith(f"{number} ")
  }
  total = 0
  for user in fused.values():  # in the order that they run in
    if names.isdisjoint(user.operands):
      continue
    first = user.operands[0] in names
    if user.op == "bitcast" and not user.root:
      names.add(user.name)
    elif user.op in ("dynamic-slice", "slice", "gather"):
      total += user.bytes
    elif user.op == "dynamic-update-slice" and first:
      total += fused[user.operands[1]].bytes
    elif collective(user) or (user.op == "tuple" and user.root):
      continue  # what a collective reads is sent
    elif user.op == "fusion":
      for at, operand in enumerate(user.operands):
        if operand in names:
          part = _accessed(module, user.attribute("calls") or "", at)
          if part is None:
            return None
          total += part
    else:
      return None
  return total


def _written(result: Instruction, fused: Computation) -> int:
  """Bytes that a fused computation writes for one of its results: an argument
  that is handed on is not, one that is changed in place is in part."""
  if result.op == "bitcast":
    return _written(fused[result.operands[0]], fused)
  if result.op == "parameter" or collective(result):
    return 0
  if result.op == "dynamic-update-slice":
    return sum(shape.bytes for shape in fused[result.operands[1]].shapes)
  return sum(shape.bytes for shape in result.shapes)


def _traffic(
  instruction: Instruction, inside: Computation, module: Module
) -> int:
  """Bytes from and to HBM of one instruction that is not fused."""
  if instruction.op in _FREE or instruction.op.endswith("-done"):
    return 0
  if instruction.op in ("copy-start", "slice-start"):
    source, target = instruction.shapes[:2]
    ends = source.in_hbm + target.in_hbm
    return ends * min(source.bytes, target.bytes)
  operands = [inside[n] for n in instruction.operands if n in inside]
  if instruction.op in ("dynamic-slice", "slice", "gather"):
    return 2 * instruction.bytes
  if instruction.op == "dynamic-update-slice":
    return 2 * operands[1].bytes
  called = instruction.attribute("calls") or ""
  fused = module.computations.get(called)
  if instruction.op != "fusion" or fused is None:
    return instruction.bytes + sum(x.bytes for x in operands)
  root = next(i for i in fused.values() if i.root)
  results = [root]
  if root.op == "tuple":
    results = [fused[name] for name in root.operands]
  written = instruction.bytes
  if len(results) == len(instruction.shapes):
    written = sum(
      min(shape.bytes, _written(result, fused))
      for shape, result in zip(instruction.shapes, results, strict=True)
      if shape.in_hbm
    )
  read = 0
  for number, operand in enumerate(operands):
    part = _accessed(module, called, number)
    read += operand.bytes if part is None else min(part, operand.bytes)
  return written + read


@dataclass(frozen=True)
class Cost:
  """What one device does in one run of a program.

  Attributes:
    flops: of matrix products.
    bytes: from and to HBM.
    collectives: how many run, by kind.
    sent: bytes that they send, by kind.
    kernels: custom calls that say nothing of their operations.
  """

  flops: int
  bytes: int
  collectives: dict[str, int]
  sent: dict[str, int]
  kernels: int


def cost(text: str, devices: int) -> Cost:
  """Reads the cost of a program from its text.

  Args:
    text: `compiled.as_text()`.
    devices: of the mesh.

  Raises:
    ValueError: as `trip_count`.
  """
  module = parse(text)
  flops = moved = kernels = 0
  runs: Counter[str] = Counter()
  bytes_sent: dict[str, int] = defaultdict(int)
  # A collective may go on beside several fusions, each of which has it: a
  # chain of pieces. It begins as often as the rarest of them runs.
  chains: dict[str, tuple[int, str, int]] = {}

  def visit(name: str, times: int, fused: bool) -> None:
    nonlocal flops, moved, kernels
    inside = module.computations.get(name, {})
    for instruction in inside.values():
      flops += times * _flops(instruction, inside)
      kind = collective(instruction)
      if kind:
        size = sent(kind, instruction, devices)
        chain = re.search(r'chain_id="(\w+)"', instruction.text)
        if chain:
          piece = (times, kind, size)
          chains[chain[1]] = min(chains.get(chain[1], piece), piece)
        else:
          runs[kind] += times
          bytes_sent[kind] += times * size
        continue
      if instruction.op == "while":
        count = trip_count(module, instruction)
        for part in ("condition", "body"):
          visit(instruction.attribute(part) or "", times * count, fused)
        continue
      if instruction.op == "custom-call":
        known = _kernel_flops(instruction)
        flops += times * (known or 0)
        kernel = 'custom_call_target="tpu_custom_call"' in instruction.text
        kernels += kernel and known is None
      if not fused:
        moved += times * _traffic(instruction, inside, module)
      for part in called(instruction):
        visit(part, times, fused or instruction.op not in ("call",))

  visit(module.entry, 1, False)
  for times, kind, size in chains.values():
    runs[kind] += times
    bytes_sent[kind] += times * size
  return Cost(flops, moved, dict(runs), dict(bytes_sent), kernels)
