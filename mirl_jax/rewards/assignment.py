"""The best one-to-one assignment between two small lists."""

import math

import numpy as np
from jaxtyping import Float


def assign(value: Float[np.ndarray, "n m"]) -> list[tuple[int, int]]:
  """Pairs of rows and columns, each used once, of the largest total value.

  The Hungarian method with potentials (Kuhn 1955, Munkres 1957), in O(n² m)
  for n <= m. Every row or every column, whichever are fewer, is in a pair.

  Args:
    value: of pairing row i with column j; finite.
  """
  if value.size == 0:
    return []
  if value.shape[0] > value.shape[1]:
    return sorted((i, j) for j, i in assign(value.T))
  cost = -value.astype(np.float64)
  n, m = cost.shape
  row_potential, column_potential = np.zeros(n + 1), np.zeros(m + 1)
  row_of = np.zeros(m + 1, int)  # of each column, from 1; 0 is none
  for i in range(1, n + 1):
    row_of[0] = i
    least = np.full(m + 1, math.inf)
    before = np.zeros(m + 1, int)
    used = np.zeros(m + 1, bool)
    column = 0
    while row_of[column] != 0:
      used[column] = True
      row = row_of[column]
      reduced = cost[row - 1] - row_potential[row] - column_potential[1:]
      better = ~used[1:] & (reduced < least[1:])
      least[1:][better] = reduced[better]
      before[1:][better] = column
      free = np.where(used[1:], math.inf, least[1:])
      following = int(np.argmin(free)) + 1
      step = free[following - 1]
      row_potential[row_of[used]] += step
      column_potential[used] -= step
      least[~used] -= step
      column = following
    while column != 0:
      row_of[column] = row_of[before[column]]
      column = before[column]
  return sorted(
    (int(row_of[j]) - 1, j - 1) for j in range(1, m + 1) if row_of[j]
  )
