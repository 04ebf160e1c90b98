"""Stop strings as a table that the device follows token by token.

Tokenisers merge across a stop's borders, so stops are matched on bytes: the
Knuth-Morris-Pratt automaton of the stop, run over each token's bytes, gives
`[state, token] -> state`. The last state, once reached, is never left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Stop:
  """One compiled stop.

  Attributes:
    table: [S, V] next state; state 0 is the start, S - 1 is accepting.
    close: token ids that spell the stop, forced on truncated parents.
  """

  table: Int[np.ndarray, "s v"]
  close: tuple[int, ...]

  @property
  def accept(self) -> int:
    return self.table.shape[0] - 1


def byte_automaton(stop: bytes) -> Int[np.ndarray, "s 256"]:
  """Next state for every (state, byte); the accepting state absorbs."""
  size = len(stop)
  table = np.zeros((size + 1, 256), np.int16)
  table[0, stop[0]] = 1
  fallback = 0  # the state that the longest proper border leads to
  for state in range(1, size):
    table[state] = table[fallback]
    table[state, stop[state]] = state + 1
    fallback = table[fallback, stop[state]]
  table[size] = size
  return table


def compile_stop(
  stop: str, token_bytes: Sequence[bytes], close: Sequence[int]
) -> Stop:
  """Compiles a stop text against a vocabulary.

  Args:
    stop: the text that ends a stage.
    token_bytes: the bytes that each token id adds to the text.
    close: token ids that spell the stop.

  Raises:
    ValueError: if the stop is empty, or `close` does not spell it.
  """
  if not stop:
    raise ValueError("stop must not be empty")
  text = stop.encode()
  spelled = b"".join(token_bytes[i] for i in close)
  if spelled != text:
    raise ValueError(f"close spells {spelled!r}, not the stop {text!r}")
  automaton = byte_automaton(text)
  states = np.repeat(
    np.arange(len(text) + 1, dtype=np.int16)[:, None], len(token_bytes), 1
  )
  lengths = np.array([len(b) for b in token_bytes])
  order = np.argsort(-lengths, kind="stable")  # longest first
  ordered = [token_bytes[i] for i in order]
  for position in range(int(lengths.max(initial=0))):
    count = int(np.sum(lengths > position))
    step = np.array([b[position] for b in ordered[:count]])
    ids = order[:count]
    states[:, ids] = automaton[states[:, ids], step[None]]
  return Stop(states.astype(np.int16), tuple(int(i) for i in close))
