"""Arithmetic of intervals in time, as (begin, end) pairs in one unit."""

from collections.abc import Iterable

Interval = tuple[float, float]


def union(intervals: Iterable[Interval]) -> list[Interval]:
  """The same points as disjoint intervals in order; empty ones are dropped."""
  out: list[Interval] = []
  for begin, end in sorted(intervals):
    if begin >= end:
      continue
    if out and begin <= out[-1][1]:
      out[-1] = (out[-1][0], max(end, out[-1][1]))
    else:
      out.append((begin, end))
  return out


def clip(intervals: Iterable[Interval], within: Interval) -> list[Interval]:
  """The parts of the intervals that lie within another one."""
  cut = [(max(a, within[0]), min(b, within[1])) for a, b in intervals]
  return [(a, b) for a, b in cut if a < b]


def gaps(intervals: Iterable[Interval], within: Interval) -> list[Interval]:
  """What the intervals leave uncovered of another one, in order."""
  out, at = [], within[0]
  for begin, end in union(clip(intervals, within)):
    if at < begin:
      out.append((at, begin))
    at = end
  if at < within[1]:
    out.append((at, within[1]))
  return out


def length(intervals: Iterable[Interval]) -> float:
  """The sum of their lengths; of a union, the time that it covers."""
  return sum(end - begin for begin, end in intervals)
