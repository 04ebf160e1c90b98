"""Keep: static-shape choice of k nodes per question on the device."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key


def rank(
  scores: Float[Array, "b r"], finished: Bool[Array, "b r"]
) -> Int[Array, "b r"]:
  """Node indices from best to worst.

  Truncated nodes come last whatever their score, NaN counts as -inf, and
  ties go to the lowest index.
  """
  clean = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
  return jnp.lexsort((-clean, ~finished), axis=-1)


def select(
  by: str,
  k: int,
  scores: dict[str, Float[Array, "b r"]],
  finished: Bool[Array, "b r"],
  keys: Key[Array, " b"],
) -> Int[Array, "b k"]:
  """Chooses k of R nodes for each question.

  Args:
    by: the rule of a Keep stage.
    k: how many.
    scores: named scores; the rule's own must be there (`stratified` reads
      `mi`).
    finished: nodes that ended with their stop.
    keys: one random key per question, read by `random`.

  Raises:
    ValueError: if the rule's score was not computed.
  """
  b, r = finished.shape
  if by == "all":
    return jnp.broadcast_to(jnp.arange(r), (b, r))
  if by == "random":
    score = jax.vmap(lambda key: jax.random.uniform(key, (r,)))(keys)
  else:
    name = "mi" if by == "stratified" else by
    if name not in scores:
      raise ValueError(
        f"Keep by {by!r} needs the score {name!r}, but only {sorted(scores)}"
        " were computed; set mi.stage to the stage before the Keep"
      )
    score = scores[name]
  order = rank(score, finished)
  if by == "stratified":
    picks = np.round(np.linspace(0, r - 1, k)).astype(np.int32)
    return order[:, picks]
  return order[:, :k]
