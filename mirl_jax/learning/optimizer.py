"""AdamW with a schedule and global-norm clipping, from a config section."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from mirl_jax.policy.parts import part_of

SCHEDULES = ("constant", "cosine", "linear")
_MATRICES = ("kernel", "embedding", "lora_a", "lora_b")


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


def _path(path: Any) -> str:
  """A leaf's place in the parameter tree, "text/norm/scale"."""
  return "/".join(str(getattr(key, "key", key)) for key in path)


def _scale_parts(factors: Mapping[str, float]) -> optax.GradientTransformation:
  """Multiplies each part's updates by its factor."""

  def scale(path: Any, update: Any) -> Any:
    name = _path(path)
    embedding = name.startswith("text/embed/")
    return update * factors["embedding" if embedding else part_of(name)]

  return optax.stateless(
    lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates)
  )


def make_optimizer(
  values: Mapping[str, Any], steps: int
) -> optax.GradientTransformation:
  """Clip, AdamW, schedule.

  Weight decay spares vectors (norms, biases). A part's learning rate is `lr`
  times its factor.

  Args:
    values: the `optimizer` section: lr, schedule, warmup, end, b1, b2, eps,
      weight_decay, clip_norm (0 = off), factor (of vision, merger, text without
      the token embedding, and embedding).
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
        lambda path, x: _path(path).rpartition("/")[2] in _MATRICES, params
      ),
    )
  )
  factors = values["factor"]
  if any(factor != 1.0 for factor in factors.values()):
    parts.append(_scale_parts(factors))
  return optax.chain(*parts)
