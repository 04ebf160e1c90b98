"""What calls in worker processes cost, beside the function that is called.

    python -m benchmarks.reward_workers

Prints one JSON object: seconds until a first worker has answered; calls per
second of a function that does nothing, on two workers; milliseconds until a
worker that died has been replaced and has answered; and milliseconds per node
of a reward file that returns 0, with a question's picture of that many bytes
sent along. Medians, of `REPEATS` each.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.output import tell
from mirl_jax.data.example import Example
from mirl_jax.rewards.assess import Assessed
from mirl_jax.rewards.own import OwnReward
from mirl_jax.rewards.workers import Workers

REPEATS = 7
PICTURES = (0, 10_000, 1_000_000)  # bytes
SCORE = "def score(example, text, siblings):\n  return 0.0\n"


def median_s(action: Callable[[], object], repeats: int) -> float:
  """Median wall seconds of an action."""
  taken = []
  for _ in range(repeats):
    began = time.perf_counter()
    action()
    taken.append(time.perf_counter() - began)
  return statistics.median(taken)


def start() -> None:
  """A pool that answers once."""
  with Workers("builtins:len") as pool:
    pool.map([("",)])


def node_ms(picture: int, questions: int, nodes: int, repeats: int) -> float:
  """Milliseconds per node of a reward file that does nothing.

  Args:
    picture: bytes of each question's.
    questions: of a batch.
    nodes: of each question.
    repeats: of the batch.
  """
  examples = [
    Example(str(i), (bytes(picture),), "?", "") for i in range(questions)
  ]
  texts = [["a text of a node"] * nodes] * questions
  exact = np.zeros((questions, nodes, 1), np.float32)
  level = Assessed(texts, texts, [], {"exact": exact})
  with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "reward.py"
    file.write_text(SCORE)
    names = [("own", "own_failed")]
    with OwnReward(str(file), names, 2, 60.0, 1024) as own:
      taken = median_s(lambda: own.add(examples, [level]), repeats)
  return 1000 * taken / (questions * nodes)


def report(
  repeats: int = REPEATS,
  calls: int = 2000,
  kills: int = 20,
  pictures: Sequence[int] = PICTURES,
) -> dict[str, object]:
  """What is printed.

  Args:
    repeats: of each figure.
    calls: of a repeat.
    kills: of a repeat.
    pictures: sizes in bytes.
  """
  with Workers("builtins:len") as pool:
    each = median_s(lambda: pool.map([("",)] * calls), repeats) / calls
  with Workers("os:_exit", count=1) as pool:
    kill = median_s(lambda: pool.map([(1,)] * kills), repeats) / kills
    assert pool.restarts == repeats * kills
  return {
    "start_s": round(median_s(start, repeats), 3),
    "calls_per_s": round(1 / each),
    "replaced_ms": round(1000 * kill, 2),
    "node_ms_by_picture_bytes": {
      size: round(node_ms(size, 16, 10, repeats), 3) for size in pictures
    },
  }


if __name__ == "__main__":
  tell(report())
