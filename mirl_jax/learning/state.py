"""Everything that a run carries from step to step and checkpoints."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from mirl_jax.learning.credit import Memory, empty_memory


@struct.dataclass
class TrainState:
  """State of a run after `step` steps.

  Attributes:
    step: steps taken, skipped ones included.
    params: the policy.
    opt_state: the optimiser's.
    reference: the frozen reference, or None where nothing reads it.
    ema: a running average of the policy, or None where nothing reads it.
    memory: what credit has learned.
    skipped: steps whose gradient was not finite.
    generated: real tokens sampled so far, for curves by token.
  """

  step: Any
  params: Any
  opt_state: Any
  reference: Any
  ema: Any
  memory: Memory
  skipped: Any
  generated: Any


def new_state(
  params: Any,
  optimizer: optax.GradientTransformation,
  reference: bool,
  ema: bool,
) -> TrainState:
  """The state before the first step; copies made only where they are read."""

  def copy(tree: Any) -> Any:
    return jax.tree.map(jnp.array, tree)

  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    reference=copy(params) if reference else None,
    ema=copy(params) if ema else None,
    memory=empty_memory(),
    skipped=jnp.zeros((), jnp.int32),
    generated=jnp.zeros((), jnp.float32),
  )


def step_params(
  state: TrainState,
  grads: Any,
  optimizer: optax.GradientTransformation,
  ema_decay: float,
) -> tuple[TrainState, jax.Array]:
  """One optimiser step; a non-finite gradient changes nothing and is counted.

  Returns:
    The state (its `step` untouched) and the gradient's global norm.
  """
  norm = optax.global_norm(grads)
  finite = jnp.isfinite(norm)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)

  def guard(new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

  params = guard(params, state.params)
  ema = state.ema
  if ema is not None:
    moved = jax.tree.map(
      lambda e, p: ema_decay * e + (1 - ema_decay) * p, ema, params
    )
    ema = guard(moved, ema)
  state = dataclasses.replace(
    state,
    params=params,
    opt_state=guard(opt_state, state.opt_state),
    ema=ema,
    skipped=state.skipped + jnp.where(finite, 0, 1),
  )
  return state, norm
