"""Sweep algebra: lists of points, a point being config fields and values.

    get_hyper = lambda hyper: hyper.product(
      hyper.sweep("optimizer.lr", (1e-4, 3e-4)),
      hyper.zipped(
        hyper.sweep("program.describe.fanout", (6, 10)),
        hyper.sweep("program.keep.k", (4, 6)),
      ),
    )

has four points. A sweep file defines `get_config` and `get_hyper(hyper)`, which
is handed this module.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Point = Mapping[str, Any]
Points = Sequence[Point]

_NAME_LENGTH = 100


def sweep(field: str, values: Iterable[Any]) -> Points:
  """One point for each value of a field.

  Args:
    field: dotted name within the config, such as "optimizer.lr".
    values: at least one.

  Raises:
    ValueError: without any value.
  """
  points = [{field: value} for value in values]
  if not points:
    raise ValueError(f"sweep of {field}: no values; give at least one")
  return points


def fixed(field: str, value: Any) -> Points:
  """A single point: the factor of a product that sets a field everywhere."""
  return sweep(field, (value,))


def product(*factors: Points) -> Points:
  """Every combination; the last factor varies fastest.

  Raises:
    ValueError: where two factors set the same field.
  """
  return [_join(points) for points in itertools.product(*factors)]


def zipped(*rows: Points) -> Points:
  """The first points of all joined, then the second ones, and so on.

  Raises:
    ValueError: for unequal lengths, or where two set the same field.
  """
  lengths = [len(points) for points in rows]
  if len(set(lengths)) > 1:
    raise ValueError(f"zipped: unequal lengths {lengths}")
  return [_join(points) for points in zip(*rows, strict=True)]


def chain(*parts: Points) -> Points:
  """The points of one sweep after those of another; a repeated one once."""
  points: list[Point] = []
  for point in itertools.chain(*parts):
    if point not in points:
      points.append(point)
  return points


def _join(points: Iterable[Point]) -> Point:
  joined: dict[str, Any] = {}
  for point in points:
    for field, value in point.items():
      if field in joined:
        raise ValueError(f"field {field} is set twice; sweep it in one place")
      joined[field] = value
  return joined


def flags(point: Point) -> list[str]:
  """A point as `--config.field=value` flags.

  Raises:
    ValueError: for a value that a command line cannot say.
  """
  words = []
  for field, value in point.items():
    if not isinstance(value, bool | int | float | str | tuple):
      raise ValueError(
        f"field {field}: {value!r} is no number, text, bool or tuple"
      )
    words.append(f"--config.{field}={value}")
  return words


def name(point: Point) -> str:
  """A directory's name, equal for equal points and no others."""
  text = ",".join(f"{field}={value}" for field, value in point.items())
  safe = re.sub(r"[^\w.,=+-]", "_", text)
  if safe == text and 0 < len(text) <= _NAME_LENGTH:
    return text
  digest = hashlib.sha256(text.encode()).hexdigest()[:8]
  return f"{safe[:_NAME_LENGTH]}-{digest}"
