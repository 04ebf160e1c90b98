"""The sizes that batches are padded to, chosen from the lengths of the data.

A batch is padded to its longest prompt, so the distribution that matters is
that of the longest of B prompts: here of B independent draws from those that
were measured, in closed form.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mirl_jax.data.example import Example
from mirl_jax.data.source import BadRow, Shuffled, Source

MEASURED = 512  # prompts at most
# A further size is a further compilation of every program; it has to save this
# share of the slots.
WORTH = 0.1
# Of the longest prompt measured: a longer one finds room up to here.
RESERVE = 2
_COARSE = 256  # from here on, sizes are multiples of 64


def round_prompt(length: int) -> int:
  """The least good prompt length of at least this many tokens.

  16 rows fill a tile of a matrix unit; beyond 256, kernels take 64 at a time
  and a finer step saves little.
  """
  return _up(length, 16 if length <= _COARSE else 64)


def round_patches(slots: int, window: int) -> int:
  """The least good number of patch slots of at least this many.

  Whole windows of attention; beyond 256, as many as fill 64 rows.

  Args:
    slots: that the pictures need.
    window: slots of a window.
  """
  step = window if slots <= _COARSE else window * math.ceil(64 / window)
  return _up(slots, step)


def _up(n: int, step: int) -> int:
  return -(-n // step) * step


def longest_of(sizes: Sequence[int], batch: int) -> dict[int, float]:
  """Probability of each size as the largest of independent draws.

  Args:
    sizes: one per item measured; items are drawn alike.
    batch: number of draws.
  """
  values, counts = np.unique(np.asarray(sizes, np.int64), return_counts=True)
  below = np.concatenate([[0.0], np.cumsum(counts) / len(sizes)]) ** batch
  return dict(zip(values.tolist(), np.diff(below).tolist(), strict=True))


def expected(needs: Mapping[int, float], sizes: Sequence[int]) -> float:
  """Mean slots of what is padded to the smallest size that holds it.

  Args:
    needs: weight of each need; 0 needs no size.
    sizes: that hold them all.
  """
  total = sum(
    weight * min((s for s in sizes if s >= need), default=math.inf)
    for need, weight in needs.items()
    if need
  )
  return total / sum(needs.values())


def best_sizes(
  needs: Mapping[int, float], count: int, rest: int = 0
) -> tuple[int, ...]:
  """At most `count` sizes of least expected slots, by dynamic programming.

  Of several numbers of sizes the least that comes within WORTH of the best.

  Args:
    needs: weight of each need; 0 needs no size.
    count: most sizes.
    rest: slots that come to a need's own and that no choice changes.

  Returns:
    Sizes in order, all of them needs; the last is the largest need. Nothing
    where nothing is needed.
  """
  values = np.array(sorted(need for need in needs if need), np.int64)
  if not len(values):
    return ()
  weight = np.cumsum([needs[int(value)] for value in values])
  # cost[i]: slots of the needs up to the i-th, which is a size; between[h, i]:
  # of those above the h-th, where h and i are sizes and none between them is.
  between = values * (weight - weight[:, None])
  between[np.tril_indices(len(values))] = np.inf
  cost = values * weight
  costs, before = [cost[-1]], []
  for _ in range(min(count, len(values)) - 1):
    through = cost[:, None] + between
    before.append(np.argmin(through, axis=0))
    cost = np.min(through, axis=0)
    costs.append(cost[-1])
  slots = np.array(costs) / sum(needs.values()) + rest
  number = int(np.argmax(slots <= (1 + WORTH) * slots.min()))
  at, chosen = len(values) - 1, [len(values) - 1]
  for table in reversed(before[:number]):
    at = int(table[at])
    chosen.append(at)
  return tuple(int(values[i]) for i in reversed(chosen))


def view_needs(
  view: str,
  views: int,
  lengths: Sequence[int],
  texts: Sequence[int],
  batch: int,
) -> dict[int, float]:
  """Weights of the prompt sizes that batches of views need.

  Args:
    view: `removed` or `other_same_question`; all others need what the
      questions themselves do.
    views: of each question.
    lengths: of the prompts.
    texts: of the same prompts without their pictures.
    batch: questions of a batch.
  """
  if not lengths:
    return {}
  largest: dict[int, float] = {}
  if view == "removed":
    found = list(texts)
  else:
    shown = [n - text for n, text in zip(lengths, texts, strict=True)]
    others = [*shown[1:], shown[0]]
    found = [n + text for n, text in zip(others, texts, strict=True)]
    # The longest text may come to stand with the largest picture.
    largest = {round_prompt(max(shown) + max(texts)): 0.0}
  needs = longest_of([round_prompt(n) for n in found], views * batch)
  # All views of a batch are padded as one.
  return largest | {size: views * share for size, share in needs.items()}


@dataclass(frozen=True)
class Chosen:
  """Sizes to pad to.

  Attributes:
    sizes: growing; those that were chosen, then the reserve, which compiles
      nothing until a prompt needs it.
    padding: expected share of a batch's slots that none of its prompts fills.
  """

  sizes: tuple[int, ...]
  padding: float

  def __str__(self) -> str:
    listed = ", ".join(str(size) for size in self.sizes[:-1])
    return f"{listed} (padding {100 * self.padding:.0f} %)"


def choose(
  lengths: Sequence[int],
  batch: int,
  good: Callable[[int], int],
  count: int,
  rest: int = 0,
  views: Mapping[int, float] | None = None,
) -> Chosen:
  """Sizes for batches of prompts like those that were measured.

  Args:
    lengths: of the prompts, or their patch slots.
    batch: prompts of a batch.
    good: the least good size for a length, such as `round_prompt`.
    count: most sizes, the reserve apart.
    rest: as in `best_sizes`.
    views: rounded needs of other batches of these prompts, such as their
      views without a picture, and how many there are for one of the prompts.
  """
  measured = list(lengths) or [0]
  own = longest_of([good(length) for length in measured], batch)
  needs = dict(own)
  for need, weight in (views or {}).items():
    needs[need] = needs.get(need, 0.0) + weight
  sizes = best_sizes(needs, count, rest) or (good(1),)
  slots = expected(own, sizes)
  return Chosen(
    (*sizes, good(RESERVE * sizes[-1])),
    1 - float(np.mean(measured)) / slots if slots else 0.0,
  )


def told(chosen: Mapping[str, Chosen], measured: int) -> str:
  """What was chosen, in one line.

  Args:
    chosen: sizes by field of the config.
    measured: number of prompts.
  """
  parts = "; ".join(
    f"{name.removesuffix('_buckets')} {found}" for name, found in chosen.items()
  )
  room = " and ".join(str(found.sizes[-1]) for found in chosen.values())
  return (
    f"buckets: {parts} of {measured} measured prompts; longer ones fit up to"
    f" {room}"
  )


def sample_rows(source: Source) -> list[Example]:
  """Usable rows among up to MEASURED, the same ones in every run."""
  shuffled = Shuffled(source)
  found = []
  for index in range(min(MEASURED, len(shuffled))):
    with contextlib.suppress(BadRow):  # the pipeline will name it
      found.append(shuffled[index])
  return found
