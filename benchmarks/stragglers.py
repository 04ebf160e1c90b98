"""What rows that ended early cost, and what compacting a loop would save.

    python -m benchmarks.stragglers --config={tiny,small,medium} [--workdir=RUN]

A loop feeds all of its rows until the longest of them ends. With compaction,
whenever at most half of the rows live, these would move into a loop of half as
many rows. Both are reckoned from measured seconds, of one decode step (logits,
draw, decoder) and of moving the caches, for lengths of given distributions and
those of a run's dumped rollouts. Rows are samples of one question. What it
takes to compile a loop per number of rows is left out. Prints one JSON object.
"""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.output import tell
from benchmarks.speed.compare import CONFIG, DTYPE
from benchmarks.speed.model import SIZES, Sizes, described, vlm_config
from mirl_jax.build import DTYPES
from mirl_jax.host_memory import computes_on_host, tune_allocator
from mirl_jax.policy.attention import Segment
from mirl_jax.policy.decode import (
  decode_step,
  decode_weights,
  empty_cache,
  next_logits,
)
from mirl_jax.rollout.draw import draw
from mirl_jax.runs.rollouts import PROMPT, read_rollouts, rollout_steps
from mirl_jax.testing import random_params

_ROWS = flags.DEFINE_integer("loop_rows", 64, "Rows of a loop, a power of two.")
_BATCHES = flags.DEFINE_integer("batches", 400, "Loops drawn for a case.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timings; their median counts.")
_WORKDIR = flags.DEFINE_string("workdir", "", "A run with dumped rollouts.")

# A saving below this share is no reason for a loop per number of rows.
WORTH = 0.05

Draw = Callable[[np.random.Generator, int], np.ndarray]
Seconds = Mapping[int, float]


def distributions(tokens: int) -> dict[str, Draw]:
  """Lengths by name; all are cut off at `tokens`, as a stage does."""

  def geometric(mean: float) -> Draw:
    return lambda rng, n: rng.geometric(1 / mean, n)

  def log_normal(median: float, sigma: float) -> Draw:
    return lambda rng, n: np.ceil(rng.lognormal(np.log(median), sigma, n))

  cases: dict[str, Draw] = {
    f"geometric, mean {mean:g}": geometric(mean)
    for mean in (tokens / 8, tokens / 4, tokens / 2)
  } | {
    f"log-normal, median {tokens / 4:g}, sigma {sigma:g}": log_normal(
      tokens / 4, sigma
    )
    for sigma in (0.25, 0.5, 1.0)
  }

  def cut(given: Draw) -> Draw:
    return lambda rng, n: np.clip(given(rng, n), 1, tokens).astype(int)

  return {name: cut(given) for name, given in cases.items()}


def dumped(workdir: str) -> dict[str, Draw]:
  """Lengths of a run's dumped nodes by stage, drawn again at random.

  Raises:
    ValueError: where nothing was dumped.
  """
  found: dict[str, list[int]] = {}
  for step in rollout_steps(workdir):
    for node in read_rollouts(workdir, step):
      if node.stage != PROMPT and node.tokens:
        found.setdefault(node.stage, []).append(node.tokens)
  if not found:
    raise ValueError(f"--workdir={workdir} holds no dumped rollouts")

  def again(lengths: list[int]) -> Draw:
    return lambda rng, n: rng.choice(lengths, n)

  return {f"dumped, {name}": again(lengths) for name, lengths in found.items()}


def idle_share(lengths: np.ndarray) -> float:
  """Share of row-steps in which a row had ended."""
  return 1.0 - float(lengths.sum() / (len(lengths) * lengths.max()))


def compacted(
  lengths: np.ndarray, step: Seconds, move: Seconds
) -> tuple[float, int]:
  """Seconds of a loop that halves its rows when at most half live, and how
  often it did.

  Args:
    lengths: of the rows, a power of two of them.
    step: seconds of a step by number of rows.
    move: seconds to move half of so many rows.
  """
  rows, total, halvings = len(lengths), 0.0, 0
  # live[t]: rows that are fed a token in step t.
  live = len(lengths) - np.searchsorted(
    np.sort(lengths), np.arange(lengths.max()), side="right"
  )
  for alive in live:
    while rows > 1 and 2 * alive <= rows:
      total += move[rows]
      rows //= 2
      halvings += 1
    total += step[rows]
  return total, halvings


def judge(
  given: Draw, rows: int, batches: int, step: Seconds, move: Seconds
) -> dict[str, Any]:
  """What the loop and its compaction cost on lengths of one distribution."""
  rng = np.random.default_rng(0)
  drawn = [given(rng, rows) for _ in range(batches)]
  free = dict.fromkeys(move, 0.0)
  present = sum(float(x.max()) * step[rows] for x in drawn)
  reckoned = [compacted(x, step, move) for x in drawn]
  saved = 1 - sum(seconds for seconds, _ in reckoned) / present
  bound = 1 - sum(compacted(x, step, free)[0] for x in drawn) / present
  return {
    "mean_length": float(np.mean(drawn)),
    "mean_longest": float(np.mean([x.max() for x in drawn])),
    "idle_share": float(np.mean([idle_share(x) for x in drawn])),
    "seconds": present / batches,
    "halvings": float(np.mean([count for _, count in reckoned])),
    "saved": saved,
    "saved_if_moves_were_free": bound,
    "pays": saved >= WORTH,
  }


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
  """Median wall time; a first call compiles and is not counted."""
  jax.block_until_ready(function())
  times = []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(function())
    times.append(time.perf_counter() - began)
  return float(np.median(times))


def measure(
  sizes: Sizes, most: int, repeats: int, dtype: Any
) -> tuple[dict[int, float], dict[int, float]]:
  """Seconds of a decode step, and of moving half of the rows, by rows."""
  config, tokens = vlm_config(sizes), sizes.new_tokens
  params = jax.tree.map(lambda x: jnp.asarray(x, dtype), random_params(config))
  text = config.text
  shape = (1, 1, text.kv_heads, sizes.prompt, text.head_dim)
  keys = jax.random.normal(jax.random.key(0), shape, dtype)
  prompt = Segment(keys, keys, jnp.ones((1, 1, sizes.prompt), bool))
  ancestors = ((prompt,),) * text.layers

  @jax.jit
  def decode(params: Any, ancestors: Any, hidden: Any) -> Any:
    rows = hidden.shape[1]
    weights = decode_weights(params, config)

    def one_token(i: Any, carry: Any) -> Any:
      hidden, cache = carry
      key = jax.random.fold_in(jax.random.key(1), i)
      token = draw(
        next_logits(weights, hidden), jax.random.uniform(key, (1, rows))
      )
      positions = jnp.full((1, rows), sizes.prompt, jnp.int32) + i
      return decode_step(
        params, config, token, positions, i, ancestors, cache, weights
      )

    cache = empty_cache(config, 1, rows, tokens, dtype)
    return jax.lax.fori_loop(0, tokens, one_token, (hidden, cache))

  @jax.jit
  def halve(cache: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: jnp.take(x, index, axis=1), cache)

  step, move = {}, {}
  rows = 1
  while rows <= most:
    hidden = jnp.ones((1, rows, text.width), dtype)
    whole = median_seconds(
      lambda h=hidden: decode(params, ancestors, h), repeats
    )
    step[rows] = whole / tokens
    if rows > 1:
      cache = empty_cache(config, 1, rows, tokens, dtype)
      index = jnp.arange(0, rows, 2)
      move[rows] = median_seconds(
        functools.partial(halve, cache, index), repeats
      )
    rows *= 2
  return step, move


def main(argv: list[str]) -> None:
  del argv
  rows = _ROWS.value
  if rows < 2 or rows & (rows - 1):
    raise app.UsageError(f"--loop_rows={rows}: give a power of two, at least 2")
  if computes_on_host():
    tune_allocator()
  sizes = SIZES[CONFIG.value]
  cases = distributions(sizes.new_tokens)
  if _WORKDIR.value:
    cases |= dumped(_WORKDIR.value)
  step, move = measure(sizes, rows, _REPEATS.value, DTYPES[DTYPE.value])
  judged = {
    name: judge(given, rows, _BATCHES.value, step, move)
    for name, given in cases.items()
  }
  report = {
    "device": jax.devices()[0].device_kind,
    "config": CONFIG.value,
    "sizes": described(sizes),
    "dtype": DTYPE.value,
    "rows": rows,
    "batches": _BATCHES.value,
    "decode_step_seconds": step,
    "move_seconds": move,
    "worth": WORTH,
    "cases": judged,
    "pays_in": [name for name, found in judged.items() if found["pays"]],
    "most_saved": max(found["saved"] for found in judged.values()),
    "least_saved": min(found["saved"] for found in judged.values()),
  }
  tell(report)


if __name__ == "__main__":
  app.run(main)
