"""Everything that a run carries from step to step and checkpoints."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from mirl_jax.learning.credit import Memory, empty_memory
from mirl_jax.policy.lora import without_adapters
from mirl_jax.policy.parts import join


@struct.dataclass
class TrainState:
  """State of a run after `step` steps.

  Parameters that are not trained are no part of it: they come from the
  policy's directory (see `roles`).

  Attributes:
    step: steps taken, skipped ones included.
    params: the policy's trained parameters.
    opt_state: the optimiser's.
    reference: what `params` were at the start, adapters aside; None where
      nothing reads it or nothing is left.
    ema: a running average of `params`, or None where nothing reads it.
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
    return jax.tree.map(jnp.array, tree) or None

  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    reference=copy(without_adapters(params)) if reference else None,
    ema=copy(params) if ema else None,
    memory=empty_memory(),
    skipped=jnp.zeros((), jnp.int32),
    generated=jnp.zeros((), jnp.float32),
  )


def roles(state: TrainState, frozen: Any = None) -> dict[str, Any]:
  """Whole parameter trees by role: policy, reference and ema.

  A LoRA policy's reference is its frozen base with the adapters off: no copy.

  Args:
    state: with the trained parameters.
    frozen: the others; None where there are none.
  """
  found = {"policy": join(state.params, frozen)}
  reference = without_adapters(join(state.reference, frozen))
  leaves = len(jax.tree.leaves(without_adapters(found["policy"])))
  if len(jax.tree.leaves(reference)) == leaves:
    found["reference"] = reference
  if state.ema is not None:
    found["ema"] = join(state.ema, frozen)
  return found


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
