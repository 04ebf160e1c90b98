"""What a decode step costs, and what the sampler adds to it.

    python -m benchmarks.sampler --config={tiny,small,medium} [--pairs=3]

Every variant is a compiled loop over the same rows; each does what the one
that it is compared with does, and one thing more:

  decode:      policy/decode.py alone, on tokens that are given;
  head:        the logits of the next token;
  bits:        a random number per row;
  draw:        temperature and bans, and a token drawn, which is fed next;
  log-prob:    of that token;
  bookkeeping: the stop's automaton and the record: the sampler's own loop;
  top-p, top-k: the sampler's loop with truncation, either against without.

Variants run in turn; times are medians over the rounds, differences and shares
medians of those within a round. Prints one JSON object.
"""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.output import tell
from benchmarks.scaling import text_prompt
from benchmarks.speed import compare
from benchmarks.speed.model import SIZES, described, vlm_config
from benchmarks.speed.ours import endless, never
from benchmarks.speed.workers import cores
from mirl_jax.build import DTYPES
from mirl_jax.policy.decode import decode_step, decode_weights, next_logits
from mirl_jax.policy.forward import prefill
from mirl_jax.policy.logprobs import shape_logits
from mirl_jax.rollout.draw import choose, log_prob, random_numbers
from mirl_jax.rollout.loop import Inputs, Loop, first_loop, one_token
from mirl_jax.rollout.program import Sample
from mirl_jax.testing import random_params

_ROWS = flags.DEFINE_integer("rows", 64, "Responses in all.")
_STEPS = flags.DEFINE_integer("tokens", 64, "Tokens of a response.")
_TOP_P, _TOP_K = 0.9, 50

# Which variant a variant is compared with.
AGAINST = {
  "head": "decode",
  "bits": "head",
  "draw": "bits",
  "log-prob": "draw",
  "bookkeeping": "log-prob",
  "top-p": "bookkeeping",
  "top-k": "bookkeeping",
}


@dataclass(frozen=True)
class Case:
  """What all variants read.

  Attributes:
    inputs: of the sampler's loop.
    given: [T, B, R] tokens to feed where none is drawn.
    hidden: [B, 1, D] state after the prompts.
  """

  inputs: Inputs
  given: jax.Array
  hidden: jax.Array


def make_case(
  name: str, rows: int, steps: int, dtype: Any, questions: int = 0
) -> Case:
  """A random model, prompts of random text, and their prefilled segments.

  Args:
    name: of the sizes.
    rows: over all questions.
    steps: tokens per row.
    dtype: of activations.
    questions: that share the rows; 0 = as the sizes have it.

  Raises:
    ValueError: for rows that the questions do not divide.
  """
  sizes = SIZES[name]
  count = questions or sizes.questions
  if rows < 1 or rows % count:
    raise ValueError(f"--rows={rows} must be a multiple of {count} questions")
  config = endless(vlm_config(sizes))
  params = random_params(config, scale=0.2)
  prompts = jax.tree.map(
    lambda x: np.repeat(x, count, axis=0), text_prompt(config, sizes.prompt)
  )
  ready = jax.jit(prefill, static_argnums=(1, 3))(
    params, config, prompts, dtype
  )
  each = rows // count
  inputs = Inputs(
    params=params,
    config=config,
    stage=Sample("response", each, steps, "never"),
    stop=never(config.text.vocab),
    close=(),
    keys=jax.random.split(jax.random.key(0), count),
    ancestors=tuple((segment,) for segment in ready.segments),
    begin=jnp.repeat(ready.position, each, axis=1),
    node=jnp.broadcast_to(jnp.arange(each, dtype=jnp.int32), (count, each)),
    nodes=each,
    weights=jax.jit(decode_weights, static_argnums=1)(params, config),
  )
  given = np.random.default_rng(0).integers(
    0, config.text.vocab, (steps, *inputs.begin.shape), np.int32
  )
  return Case(inputs, jnp.asarray(given), ready.hidden)


# A body takes and returns the sampler's loop state, and what it computes beside
# that: carried, so that the compiler cannot leave it out.
Extras = dict[str, jax.Array]
Body = Callable[[Case, Loop, Extras], tuple[Loop, Extras]]


def _feed(case: Case, loop: Loop, token: jax.Array) -> Loop:
  inputs = case.inputs
  hidden, cache = decode_step(
    inputs.params,
    inputs.config,
    token,
    inputs.begin + loop.step,
    loop.step,
    inputs.ancestors,
    loop.cache,
    inputs.weights,
  )
  return loop._replace(step=loop.step + 1, hidden=hidden, cache=cache)


def partial_body(last: str) -> Body:
  """A decode step with the sampler's parts up to the named one.

  Args:
    last: decode, head, bits, draw or log-prob.
  """
  order = ("decode", "head", "bits", "draw", "log-prob")
  count = order.index(last)

  def body(case: Case, loop: Loop, extras: Extras) -> tuple[Loop, Extras]:
    inputs, step, found = case.inputs, loop.step, dict(extras)
    token = case.given[step]
    if count >= 1:
      logits = next_logits(inputs.weights, loop.hidden)
      if count <= 2:
        found["logits"] = logits
    if count >= 2:
      uniform = random_numbers(inputs.keys, step, inputs.nodes)
    if count == 2:
      found["uniform"] = uniform
    if count >= 3:
      stage = inputs.stage
      logits = shape_logits(
        logits, stage.temperature, inputs.config.banned_tokens
      )
      token = choose(stage, logits, uniform)
    if count == 4:
      found["logprob"] = log_prob(logits, token)
    return _feed(case, loop, token), found

  return body


def whole_body(**restricted: float) -> Body:
  """The sampler's own body, with fields of its stage replaced."""

  def body(case: Case, loop: Loop, extras: Extras) -> tuple[Loop, Extras]:
    stage = Sample(**{**vars(case.inputs.stage), **restricted})
    return one_token(case.inputs._replace(stage=stage), loop), extras

  return body


BODIES: dict[str, Body] = {
  **{
    name: partial_body(name)
    for name in ("decode", "head", "bits", "draw", "log-prob")
  },
  "bookkeeping": whole_body(),
  "top-p": whole_body(top_p=_TOP_P),
  "top-k": whole_body(top_k=_TOP_K),
}


def compiled(case: Case, name: str) -> Callable[[], Any]:
  """The loop over all tokens of one variant, compiled; returns its state."""
  body, inputs = BODIES[name], case.inputs
  arrays = (
    inputs.params,
    inputs.keys,
    inputs.ancestors,
    inputs.begin,
    inputs.weights,
    case.given,
    case.hidden,
  )

  def run(*arrays: Any) -> tuple[Loop, Extras]:
    params, keys, ancestors, begin, weights, given, hidden = arrays
    traced = Case(
      inputs._replace(
        params=params,
        keys=keys,
        ancestors=ancestors,
        begin=begin,
        weights=weights,
      ),
      given,
      hidden,
    )
    loop = first_loop(traced.inputs, hidden)
    _, shapes = jax.eval_shape(functools.partial(body, traced), loop, {})
    extras = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    return jax.lax.fori_loop(
      0, len(given), lambda _, carry: body(traced, *carry), (loop, extras)
    )

  program = jax.jit(run).lower(*arrays).compile()
  return lambda: program(*arrays)


def rounds(
  work: Mapping[str, Callable[[], Any]], pairs: int
) -> dict[str, list[float]]:
  """Seconds of each, A, B, C, A, B, C, …, after a round that is left out."""
  took: dict[str, list[float]] = {name: [] for name in work}
  for number in range(pairs + 1):
    for name, each in work.items():
      began = time.perf_counter()
      jax.block_until_ready(each())
      if number:
        took[name].append(time.perf_counter() - began)
  return took


def table(took: Mapping[str, list[float]], steps: int) -> dict[str, Any]:
  """Milliseconds per token of each variant, what it adds, and the share.

  Args:
    took: seconds of each variant, by round.
    steps: tokens per row.
  """
  alone = took["decode"]
  rows = {}
  for name, each in took.items():
    row: dict[str, Any] = {
      "ms_per_token": compare.rounded(1e3 * statistics.median(each) / steps)
    }
    if name in AGAINST:
      added = [a - b for a, b in zip(each, took[AGAINST[name]], strict=True)]
      row["against"] = AGAINST[name]
      row["added_ms"] = compare.rounded(1e3 * statistics.median(added) / steps)
      row["share_of_decode"] = compare.rounded(
        statistics.median(a / b for a, b in zip(added, alone, strict=True))
      )
    rows[name] = row
  return rows


def main(argv: list[str]) -> None:
  del argv
  name, steps = compare.CONFIG.value, _STEPS.value
  case = make_case(
    name,
    _ROWS.value,
    steps,
    DTYPES[compare.DTYPE.value],
    compare.QUESTIONS.value,
  )
  work = {variant: compiled(case, variant) for variant in BODIES}
  took = rounds(work, compare.PAIRS.value)
  share = statistics.median(
    whole / alone - 1
    for whole, alone in zip(took["bookkeeping"], took["decode"], strict=True)
  )
  report = {
    "benchmark": "sampler",
    "config": name,
    "rows": _ROWS.value,
    "questions": case.inputs.begin.shape[0],
    "steps": steps,
    "pairs": compare.PAIRS.value,
    "dtype": compare.DTYPE.value,
    "device": jax.devices()[0].device_kind,
    "cores": cores(),
    "sampler_share_of_decode": compare.rounded(share),
    "variants": table(took, steps),
    "top_p": _TOP_P,
    "top_k": _TOP_K,
    "sizes": described(SIZES[name]),
    "versions": compare.versions("jax", "jaxlib", "flax"),
  }
  tell(report)


if __name__ == "__main__":
  app.run(main)
