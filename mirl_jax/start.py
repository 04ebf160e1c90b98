"""What a run starts from, or goes on from: parameters and training state."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey
from ml_collections import ConfigDict

from mirl_jax import build
from mirl_jax.learning.optimizer import make_optimizer
from mirl_jax.learning.state import new_state, roles
from mirl_jax.parallel.mesh import replicated
from mirl_jax.parallel.processes import put
from mirl_jax.policy.lora import extend, init_adapters, without_adapters
from mirl_jax.policy.parts import split
from mirl_jax.runs.checkpoints import Checkpoints


def whole_params(config: ConfigDict, policy: build.Policy) -> Any:
  """The directory's parameters and new adapters, on the mesh.

  Parameters that are trained are float32 whatever `policy.param_dtype` says:
  an update of 1e-6 of a bfloat16 weight is no update.
  """
  params = build.load_policy_params(config, policy)
  new = init_adapters(policy.adapters, policy.training.lora, config.seed)
  placed = {
    path: put(leaf, policy.placements[path]) for path, leaf in new.items()
  }
  return extend(params, placed)


def start_params(config: ConfigDict, policy: build.Policy) -> tuple[Any, Any]:
  """Trained and frozen parameters before the first step; see `whole_params`."""
  trained, frozen = split(whole_params(config, policy), policy.training)
  return jax.tree.map(lambda x: x.astype(jnp.float32), trained), frozen


def state_shardings(state: Any, policy: build.Placed) -> Any:
  """Where a training state lies: whatever mirrors a parameter as it does, the
  rest whole on every device."""
  whole = replicated(policy.mesh)

  def place(path: Any, _: Any) -> Any:
    names = [key.key for key in path if isinstance(key, DictKey)]
    return policy.placements.get("/".join(map(str, names)), whole)

  return jax.tree_util.tree_map_with_path(place, state)


def place_state(state: Any, policy: build.Placed) -> Any:
  """Puts a training state where `state_shardings` says."""
  return put(state, state_shardings(state, policy))


def abstract(tree: Any) -> Any:
  """Shapes, dtypes and shardings of a placed tree."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )


def wanted_step(config: ConfigDict, checkpoints: Checkpoints) -> int | None:
  """The step that `eval.checkpoint` names, None where nothing was saved.

  Raises:
    ValueError: for another name, or where no best step was kept.
  """
  if config.eval.checkpoint == "latest":
    return checkpoints.latest()
  if config.eval.checkpoint != "best":
    raise ValueError(
      f"eval.checkpoint={config.eval.checkpoint!r}: give 'latest' or 'best'"
    )
  step = checkpoints.best()
  if step is None:
    raise ValueError(
      "eval.checkpoint='best': the run kept no best step; train it with"
      " eval.keep_best, or give 'latest'"
    )
  return step


def load_roles(
  config: ConfigDict,
  workdir: str,
  policy: build.Policy,
  step: int | None = None,
) -> tuple[dict[str, Any], int | None]:
  """Parameters of a checkpoint of the run, or of policy.path without one.

  Args:
    config: of the run.
    workdir: of the run.
    policy: that it trains.
    step: of the checkpoint; None takes that of `eval.checkpoint`.

  The reference is always the policy's own directory.
  """
  trained, frozen = start_params(config, policy)
  checkpoints = Checkpoints(workdir, config.train.keep)
  step = wanted_step(config, checkpoints) if step is None else step
  is_run = step is not None and checkpoints.meta(step)["mode"] == "train"
  loss, mi = build.make_loss(config), build.make_mi(config)
  scorer = mi.scorer if mi else "policy"
  state = place_state(
    new_state(
      trained,
      make_optimizer(config.optimizer.to_dict(), config.train.steps),
      reference=is_run and (loss.needs_reference or scorer == "reference"),
      ema=is_run and scorer == "ema",
    ),
    policy,
  )
  found = roles(state, frozen)
  start = without_adapters(found["policy"])
  if step is not None:
    state, _ = checkpoints.restore(step, abstract(state))
    found = roles(state, frozen)
  return {"ema": found["policy"], **found, "reference": start}, step
