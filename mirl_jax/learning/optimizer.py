"""AdamW with a schedule and global-norm clipping, from a config section."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

SCHEDULES = ("constant", "cosine", "linear")


def schedule(values: Mapping[str, Any], steps: int) -> optax.Schedule:
  """Learning rate by optimiser step: linear warm-up, then decay to `end`.

  Args:
    values: `lr`, `schedule`, `warmup` (steps), `end` (share of lr).
    steps: optimiser steps of the whole run.

  Raises:
    ValueError: for an unknown schedule.
  """
  lr, warmup, kind = values["lr"], values["warmup"], values["schedule"]
  rest = max(steps - warmup, 1)
  if kind == "constant":
    after = optax.constant_schedule(lr)
  elif kind == "cosine":
    after = optax.cosine_decay_schedule(lr, rest, alpha=values["end"])
  elif kind == "linear":
    after = optax.linear_schedule(lr, lr * values["end"], rest)
  else:
    raise ValueError(f"optimizer.schedule={kind!r} is not one of {SCHEDULES}")
  if warmup == 0:
    return after
  return optax.join_schedules(
    [optax.linear_schedule(lr / warmup, lr, warmup), after], [warmup]
  )


def _scale_embedding(factor: float) -> optax.GradientTransformation:
  """Multiplies the token embedding's update by a factor."""

  def scale(path: Any, update: Any) -> Any:
    names = [getattr(key, "key", None) for key in path]
    return update * factor if "embed" in names else update

  return optax.stateless(
    lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates)
  )


def make_optimizer(
  values: Mapping[str, Any], steps: int
) -> optax.GradientTransformation:
  """Clip, AdamW, schedule.

  Weight decay spares vectors (norms, biases).

  Args:
    values: the `optimizer` section: lr, schedule, warmup, end, b1, b2, eps,
      weight_decay, clip_norm (0 = off), embedding_factor.
    steps: optimiser steps of the whole run.
  """
  parts = []
  if values["clip_norm"] > 0:
    parts.append(optax.clip_by_global_norm(values["clip_norm"]))
  parts.append(
    optax.adamw(
      schedule(values, steps),
      b1=values["b1"],
      b2=values["b2"],
      eps=values["eps"],
      weight_decay=values["weight_decay"],
      mask=lambda params: jax.tree_util.tree_map_with_path(
        lambda path, x: getattr(path[-1], "key", "") in ("kernel", "embedding"),
        params,
      ),
    )
  )
  if values["embedding_factor"] != 1.0:
    parts.append(_scale_embedding(values["embedding_factor"]))
  return optax.chain(*parts)
