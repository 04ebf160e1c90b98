"""What a forward pass keeps for the backward pass.

`none` keeps everything; `cheap` keeps what a matrix product made (by name) and
computes norms, activations and softmax weights again; `full` keeps each
block's input only and computes the block again, a third more work.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

REMAT = ("none", "cheap", "full")
_KEPT = "kept"


def keep(x: Array) -> Array:
  """Marks what `cheap` keeps."""
  return checkpoint_name(x, _KEPT)


def rematerialise(
  function: Callable[..., Any], remat: str, **options: Any
) -> Callable[..., Any]:
  """The function, computing again in its backward pass what is not kept.

  Args:
    function: a block.
    remat: one of REMAT.
    options: of jax.checkpoint.
  """
  if remat == "none":
    return function
  policies = jax.checkpoint_policies
  policy = policies.save_only_these_names(_KEPT) if remat == "cheap" else None
  return jax.checkpoint(function, policy=policy, **options)
