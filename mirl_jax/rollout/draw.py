"""The choice of a token: random numbers, draws, truncation, log-probs."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mirl_jax.rollout.program import Sample


def _smallest_kept(
  logits: Float[Array, "*n v"], weights: Float[Array, "*n v"], limit: float
) -> Float[Array, "*n 1"]:
  """The smallest logit above which the weights sum up to less than a limit.

  Found by bisection over the bit patterns of floats: 32 sums, where XLA's CPU
  back end takes many times as long to sort.
  """

  def flip(bits: Array) -> Array:
    """From a float's bits to whole numbers in the floats' order, and back."""
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)

  # No -0.0, which is equal to 0.0.
  keys = flip(jax.lax.bitcast_convert_type(logits + 0.0, jnp.int32))

  def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = ends
    middle = (low & high) + ((low ^ high) >> 1)  # does not overflow
    above = jnp.sum(
      jnp.where(keys > middle, weights, 0), axis=-1, keepdims=True
    )
    enough = above < limit
    return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

  high = jnp.max(keys, axis=-1, keepdims=True)
  lowest = jnp.full((), -jnp.inf, jnp.float32)
  low = flip(jax.lax.bitcast_convert_type(lowest, jnp.int32))
  _, found = jax.lax.fori_loop(0, 32, halve, (jnp.full_like(high, low), high))
  return jax.lax.bitcast_convert_type(flip(found), jnp.float32)


def restrict(
  logits: Float[Array, "*n v"], top_p: float, top_k: int
) -> Float[Array, "*n v"]:
  """Removes tokens outside of the top-k and of the nucleus (Holtzman 2020).

  The nucleus is the smallest set of most probable tokens that together reach
  top_p; ties at its border stay in.
  """
  if top_k > 0:
    border = _smallest_kept(logits, jnp.ones_like(logits), float(top_k))
    logits = jnp.where(logits < border, -jnp.inf, logits)
  if top_p < 1:
    border = _smallest_kept(logits, jax.nn.softmax(logits, axis=-1), top_p)
    logits = jnp.where(logits < border, -jnp.inf, logits)
  return logits


def _block(size: int) -> int:
  """Near the square root of the vocabulary: a power of two, as are most
  factors of vocabularies."""
  return 1 << round(math.log2(size) / 2)


def _in_blocks(x: Float[Array, "*n v"], fill: float) -> Float[Array, "*n k m"]:
  """A row in blocks of `_block`, the last one filled up."""
  block = _block(x.shape[-1])
  pad = [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % block)]
  x = jnp.pad(x, pad, constant_values=fill)
  return x.reshape(*x.shape[:-1], -1, block)


def _take_block(
  logits: Float[Array, "*n v"], block: Int[Array, "*n"]
) -> Float[Array, "*n m"]:
  """One block of each row, without a copy of the others; -inf past the end."""
  size = logits.shape[-1]
  ids = block[..., None] * _block(size) + jnp.arange(_block(size))
  found = jnp.take_along_axis(logits, jnp.minimum(ids, size - 1), axis=-1)
  return jnp.where(ids < size, found, -jnp.inf)


def _weights(
  logits: Float[Array, "*n v"],
) -> tuple[Float[Array, "*n 1"], Float[Array, "*n k"]]:
  """The largest logit, and each block's sum of probabilities relative to it.

  Draw and log-prob both call this: the compiler does it once for a token.
  """
  peak = jnp.max(logits, axis=-1, keepdims=True)
  return peak, jnp.sum(_in_blocks(jnp.exp(logits - peak), 0.0), axis=-1)


def _invert(
  weights: Float[Array, "*n m"], aim: Float[Array, "*n"]
) -> tuple[Int[Array, "*n"], Float[Array, "*n"]]:
  """The first index of positive weight whose prefix sum exceeds the aim.

  The last such index where rounding leaves no sum above the aim. Also returns
  the sum before it.
  """
  cumulative = jnp.cumsum(weights, axis=-1)
  # A parallel sum rounds each prefix in its own way, so it may rise at a weight
  # of zero or fall: look at positive ones only.
  possible = weights > 0
  total = jnp.max(jnp.where(possible, cumulative, 0), axis=-1, keepdims=True)
  above = (cumulative > aim[..., None]) | (cumulative >= total)
  index = jnp.argmax(possible & above, axis=-1)
  before = jnp.maximum(index - 1, 0)[..., None]
  before = jnp.take_along_axis(cumulative, before, axis=-1)[..., 0]
  return index, jnp.where(index > 0, before, 0)


def draw(
  logits: Float[Array, "*n v"], uniform: Float[Array, "*n"]
) -> Int[Array, "*n"]:
  """One categorical draw per row by inversion of its distribution function.

  One random number per row instead of one per logit; a token of probability
  zero is never drawn. First a block of the vocabulary is drawn, then a token of
  it: prefix sums of all of it would cost several times as much.

  Args:
    logits: unnormalised log-probs, some possibly -inf or very low.
    uniform: numbers in [0, 1).
  """
  peak, weights = _weights(logits)
  aim = uniform * jnp.sum(weights, axis=-1)
  block, before = _invert(weights, aim)
  inner = jnp.exp(_take_block(logits, block) - peak)
  index, _ = _invert(inner, aim - before)
  return (block * _block(logits.shape[-1]) + index).astype(jnp.int32)


def greedy(logits: Float[Array, "*n v"]) -> Int[Array, "*n"]:
  """The most probable token of each row, the first of equal ones.

  By blocks too: XLA's CPU back end is slow at the index of a maximum.
  """
  peaks = jnp.max(_in_blocks(logits, -jnp.inf), axis=-1)
  block = jnp.argmax(peaks, axis=-1)
  index = jnp.argmax(_take_block(logits, block), axis=-1)
  return (block * _block(logits.shape[-1]) + index).astype(jnp.int32)


def random_numbers(
  keys: Key[Array, " b"], step: Int[Array, ""], r: int
) -> Float[Array, "b r"]:
  """Uniform in [0, 1); each depends on its question's key, step and node."""
  return jax.vmap(
    lambda key: jax.random.uniform(jax.random.fold_in(key, step), (r,))
  )(keys)


def choose(
  stage: Sample,
  logits: Float[Array, "b r v"],
  uniform: Float[Array, "b r"],
) -> Int[Array, "b r"]:
  """The next token of every node as the stage samples it, from shaped logits.

  Args:
    stage: whose temperature 0 is greedy, and whose top-p and top-k count.
    logits: of `shape_logits`.
    uniform: random numbers in [0, 1).
  """
  if stage.temperature == 0:
    return greedy(logits)
  return draw(restrict(logits, stage.top_p, stage.top_k), uniform)


def log_prob(
  logits: Float[Array, "b r v"], token: Int[Array, "b r"]
) -> Float[Array, "b r"]:
  """Log-prob of a token under the whole distribution, in nats."""
  chosen = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
  peak, weights = _weights(logits)
  return chosen - peak[..., 0] - jnp.log(jnp.sum(weights, axis=-1))
