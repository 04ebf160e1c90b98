"""How often the loops of a compiled program run, read from its HLO."""

import re
from collections.abc import Iterator, Mapping

from mirl_jax.parallel.hlo_text import Computation, Instruction, Module, called

_ORDERS = ("LT", "LE", "GT", "GE")
_SAME = ("copy", "bitcast", "convert", "reshape")


def _constant(
  inside: Computation, name: str, given: Mapping[str, int]
) -> int | None:
  """The whole number that an operand always is, None for anything else.

  Args:
    inside: the computation.
    name: of the operand.
    given: numbers that the computation's parameters always are.
  """
  if name not in inside:
    return None
  found = inside[name]
  if found.op in _SAME:
    return _constant(inside, found.operands[0], given)
  if found.op == "parameter":
    return given.get(name)
  value = re.match(r"(-?\d+)\s", found.text)
  scalar = found.op == "constant" and found.shapes[0].dims == ()
  return int(value[1]) if scalar and value else None


def _element(
  inside: Computation, name: str, given: Mapping[str, int]
) -> int | None:
  """Which element of the loop's state an operand is, None for anything else.

  Args:
    inside: the computation.
    name: of the operand.
    given: elements that the computation's parameters are.
  """
  if name not in inside:
    return None
  found = inside[name]
  if found.op in _SAME:
    return _element(inside, found.operands[0], given)
  if found.op == "get-tuple-element":
    return int(found.attribute("index") or 0)
  return given.get(name)


def _passed(
  module: Module, name: str, values: list[int | None]
) -> dict[str, int]:
  """What a called computation's parameters are, of what is given to it."""
  return {
    i.name: value
    for i in module.computations.get(name, {}).values()
    if i.op == "parameter"
    for number in [int(i.text.split()[0])]
    for value in values[number : number + 1]
    if value is not None
  }


def _bounds(
  module: Module,
  name: str,
  numbers: Mapping[str, int],
  elements: Mapping[str, int],
) -> Iterator[tuple[int, int | None]]:
  """N of every `counter < N` in a condition, inside of what it calls too, and
  which element of the state the counter is, where that is plain."""
  inside = module.computations.get(name, {})
  for instruction in inside.values():
    operands = instruction.operands
    values = [_constant(inside, x, numbers) for x in operands]
    places = [_element(inside, x, elements) for x in operands]
    if instruction.op == "compare":
      direction = re.search(r"direction=(\w\w)", instruction.text)
      kind = direction[1] if direction else ""
      first = 0 if kind in ("LT", "LE") else 1
      counter, bound = values[first], values[1 - first]
      if kind in _ORDERS and counter is None and bound is not None:
        yield bound + kind.endswith("E"), places[first]
    for part in called(instruction):
      yield from _bounds(
        module,
        part,
        _passed(module, part, values),
        _passed(module, part, places),
      )


def _step(module: Module, body: str, element: int) -> int:
  """By how much a body raises a counter; 1 where it does not plainly say."""
  inside = module.computations.get(body, {})
  root = next((i for i in inside.values() if i.root), None)
  if root is None or element >= len(root.operands):
    return 1
  raised = inside.get(root.operands[element])
  while raised is not None and raised.op in _SAME:
    raised = inside.get(raised.operands[0])
  numbers: dict[str, int] = {}
  if raised is not None and raised.op == "fusion":
    values = [_constant(inside, x, {}) for x in raised.operands]
    part = next(called(raised), "")
    numbers = _passed(module, part, values)
    inside = module.computations.get(part, {})
    raised = next((i for i in inside.values() if i.root), None)
  if raised is None or raised.op != "add":
    return 1
  steps = [_constant(inside, x, numbers) for x in raised.operands]
  return max([x for x in steps if x is not None], default=1)


def trip_count(module: Module, loop: Instruction) -> int:
  """How often a loop's body runs at most.

  The compiler's own number where it knows one; else, of the condition's
  `counter < N`, N over what the body adds to the counter, which starts at 0.

  Raises:
    ValueError: where the condition holds no bound.
  """
  known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.text)
  if known:
    return int(known[1])
  condition = loop.attribute("condition") or ""
  body = loop.attribute("body") or ""
  found = [
    -(-bound // (1 if element is None else _step(module, body, element)))
    for bound, element in _bounds(module, condition, {}, {})
  ]
  if not found:
    raise ValueError(f"the loop {loop.name} has no constant bound")
  return min(found)
