"""The device programs of a config, with abstract arguments."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from mirl_jax import build
from mirl_jax.checks import check_batch
from mirl_jax.evaluate import greedy_program, sampled_program
from mirl_jax.information.estimators import MI
from mirl_jax.learning import credit
from mirl_jax.learning.optimizer import make_optimizer
from mirl_jax.learning.state import TrainState, new_state, roles
from mirl_jax.learning.update import build_update
from mirl_jax.parallel.mesh import (
  DATA_AXES,
  batch_sharding,
  data_shards,
  replicated,
)
from mirl_jax.policy.abstract import abstract_params
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.lora import extend
from mirl_jax.policy.parts import split
from mirl_jax.rewards.assess import LEAF_REWARDS
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import Program, samples
from mirl_jax.rollout.shared import shared
from mirl_jax.rollout.stop import Stop
from mirl_jax.rollout.tree import Tree
from mirl_jax.start import state_shardings

# A tag's text is spelled by about one token for four bytes.
_TAG_BYTES = 4


@dataclass(frozen=True)
class DeviceProgram:
  """A jitted function and what it is compiled for.

  Attributes:
    name: of it.
    function: jitted.
    arguments: abstract, with shardings.
    per_step: how often it runs in a step of training.
    beside: bytes on each device that lie there while it runs and are none of
      its arguments: parameters and optimiser state that it does not read, and
      prompts of a run that wait for their turn.
  """

  name: str
  function: Any
  arguments: tuple[Any, ...]
  per_step: int
  beside: int


def local_bytes(tree: Any) -> int:
  """Bytes of placed arrays on each device, one that stands twice once."""
  leaves = {id(x): x for x in jax.tree.leaves(tree)}.values()
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in leaves
  )


def _placed(tree: Any, shardings: Any, dtype: Any = None) -> Any:
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=s),
    tree,
    shardings,
  )


def abstract_state(
  config: ConfigDict, policy: build.Placed, mi: MI | None
) -> tuple[TrainState, Any]:
  """The training state, and the parameters that are not trained."""
  params = extend(
    _placed(
      abstract_params(policy.config),
      policy.shardings,
      build.DTYPES[config.policy.param_dtype],
    ),
    {
      path: jax.ShapeDtypeStruct(
        leaf.shape, jnp.float32, sharding=policy.placements[path]
      )
      for path, leaf in policy.adapters.items()
    },
  )
  trained, frozen = split(params, policy.training)
  trained = jax.tree.map(lambda x: x.update(dtype=jnp.float32), trained)
  loss = build.make_loss(config)
  optimizer = make_optimizer(
    config.optimizer.to_dict(), config.train.steps * loss.minibatches
  )
  scorer = mi.scorer if mi else "policy"
  state = jax.eval_shape(
    lambda trained: new_state(
      trained,
      optimizer,
      reference=loss.needs_reference or scorer == "reference",
      ema=scorer == "ema",
    ),
    trained,
  )
  return _placed(state, state_shardings(state, policy)), frozen


def abstract_prompts(
  policy: build.Placed, questions: int, tokens: int, patches: int
) -> Prompts:
  """A batch of prompts.

  Args:
    policy: whose mesh and tower.
    questions: B.
    tokens: P.
    patches: V, made a multiple of the tower's window.
  """
  vision = policy.config.vision
  window = vision.window_patches
  b, p, v = questions, tokens, -(-patches // window) * window
  where = batch_sharding(policy.mesh)

  def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

  return Prompts(
    tokens=array(jnp.int32, b, p),
    mask=array(jnp.bool_, b, p),
    positions=array(jnp.int32, b, 3, p),
    next_position=array(jnp.int32, b),
    image_slot=array(jnp.int32, b, p),
    patches=array(policy.dtype, b, v, vision.patch_dim),
    patch_hw=array(jnp.int32, b, v, 2),
    patch_grid=array(jnp.int32, b, v, 2),
    patch_image=array(jnp.int32, b, v),
    question=array(jnp.uint32, b),
  )


def abstract_views(
  prompts: Prompts, policy: build.Placed, mi: MI, text: int
) -> Prompts:
  """What stands in for the images, [M, B, …].

  Args:
    prompts: the clean ones.
    policy: whose mesh.
    mi: which view, and how many.
    text: tokens of a prompt without its image's.
  """
  if mi.view == "removed":
    prompts = abstract_prompts(policy, len(prompts.tokens), text, 0)
  where = NamedSharding(policy.mesh, P(None, DATA_AXES))
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      (mi.views, *x.shape), x.dtype, sharding=where
    ),
    prompts,
  )


def stand_in_stops(program: Program, config: VLMConfig) -> dict[str, Stop]:
  """Stops of the right sizes: their tables need a tokenizer, their costs do
  not."""
  return {
    stage.name: Stop(
      np.zeros((len(stage.stop.encode()) + 1, config.text.vocab), np.int16),
      (0,) * -(-len(stage.stop) // _TAG_BYTES),
    )
    for stage in samples(program)
  }


def device_programs(
  config: ConfigDict, vlm: VLMConfig, devices: Iterable[Any]
) -> list[DeviceProgram]:
  """What a run of the config compiles, at its largest sizes: the largest
  buckets, and loops to their ends.

  Args:
    config: of the run; its buckets must be given.
    vlm: sizes of the model.
    devices: of the mesh.

  Raises:
    ValueError: for a config that cannot run.
  """
  sizes = config.data.prompt_buckets, config.data.patch_buckets
  if not all(sizes):
    raise ValueError(
      "data.prompt_buckets and data.patch_buckets: give the lengths to compile"
      " for, such as --config.data.prompt_buckets='(1280,)'"
    )
  policy = build.place_policy(config, vlm, list(devices))
  shards = data_shards(policy.mesh)
  check_batch(config, shards)
  program, mi = build.make_program(config, True), build.make_mi(config)
  state, frozen = abstract_state(config, policy, mi)
  parts = roles(state, frozen)
  resident = local_bytes((state, frozen))
  key = jax.ShapeDtypeStruct(
    (),
    jax.eval_shape(lambda: jax.random.key(0)).dtype,
    sharding=replicated(policy.mesh),
  )
  most = max(sizes[0]), max(sizes[1])
  text = max(most[0] - most[1] // policy.config.vision.merge_unit, 1)

  def batch(questions: int, mi: MI | None) -> tuple[Prompts, Prompts | None]:
    prompts = abstract_prompts(policy, questions, *most)
    return prompts, abstract_views(prompts, policy, mi, text) if mi else None

  # The next step's batch is put on the devices while the update runs.
  waiting = local_bytes(batch(config.train.questions, mi))

  def rollout(
    name: str,
    stages: Program,
    mi: MI | None,
    questions: int,
    per_step: int,
    waiting: int,
  ) -> tuple[list[DeviceProgram], Any]:
    stops = stand_in_stops(stages, policy.config)
    runs = Rollout(
      policy.config, stages, stops, policy.mesh, mi, policy.dtype
    ).parts
    prompts, views = batch(questions, mi)
    needed = {"policy": parts["policy"]}
    if mi:
      needed[mi.scorer] = parts[mi.scorer]
    beside = resident - local_bytes(needed) + waiting
    made: list[DeviceProgram] = []
    carry: Any = None
    for number, run in enumerate(runs):
      scores = None
      if number:
        level = carry[1][-1]
        scores = jax.ShapeDtypeStruct(
          (questions, math.prod(level.finished.shape[1:])),
          jnp.float32,
          sharding=batch_sharding(policy.mesh),
        )
      arguments = (shared(needed), prompts, views, key, carry, scores)
      label = f"{name} {number + 1}" if len(runs) > 1 else name
      made.append(DeviceProgram(label, run, arguments, per_step, beside))
      carry = _placed_batch(jax.eval_shape(run, *arguments), policy)
    return made, Tree(prompts, carry[1])

  count = config.train.sample_parts
  others = waiting - waiting // count
  size = config.train.questions // count
  found, _ = rollout("sample", program, mi, size, count, others)
  _, tree = rollout("sample", program, mi, config.train.questions, 1, 0)
  found.append(_update(config, policy, program, state, frozen, tree, waiting))
  asked = -(-config.eval.batch // shards) * shards
  for name, stages in (
    ("greedy", greedy_program(program)),
    ("sampled", sampled_program(program, config.eval.samples)),
  ):
    label = f"evaluate {name}"
    found += rollout(label, stages, None, asked, 0, waiting)[0]
  return found


def _placed_batch(tree: Any, policy: build.Placed) -> Any:
  where = batch_sharding(policy.mesh)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree
  )


def _update(
  config: ConfigDict,
  policy: build.Placed,
  program: Program,
  state: TrainState,
  frozen: Any,
  tree: Tree,
  beside: int,
) -> DeviceProgram:
  stages, loss = samples(program), build.make_loss(config)
  optimizer = make_optimizer(
    config.optimizer.to_dict(), config.train.steps * loss.minibatches
  )
  update = build_update(
    policy.config,
    stages,
    build.make_terms(config),
    credit.Guards(**config.guards.to_dict()),
    loss,
    optimizer,
    config.optimizer.ema_decay,
    policy.dtype,
  )
  jitted = jit_update(update, state, policy)
  names = reward_names(config)
  rewards = {
    stage.name: {
      name: jax.ShapeDtypeStruct(
        level.finished.shape, jnp.float32, sharding=batch_sharding(policy.mesh)
      )
      for name in names[stage.name]
    }
    for stage, level in zip(stages, tree.levels, strict=True)
  }
  arguments = (state, tree, rewards, frozen)
  return DeviceProgram("update", jitted, arguments, 1, beside)


def reward_names(config: ConfigDict) -> dict[str, tuple[str, ...]]:
  """The rewards that a run hands to the update, by stage."""
  own = build.own_names(config)
  *others, last = [s.name for s in samples(build.make_program(config, False))]
  leaf = {last: LEAF_REWARDS}
  return {
    stage: ("exact", *leaf.get(stage, ()), *own.get(stage, ()))
    for stage in (*others, last)
  }


def jit_update(
  update: Callable[..., Any], state: TrainState, policy: build.Placed
) -> Callable[..., Any]:
  """The update as a run compiles it; the state is donated.

  Left to itself the compiler may spread results less than arguments.
  """
  return jax.jit(
    update,
    donate_argnums=0,
    out_shardings=(
      jax.tree.map(lambda x: x.sharding, state),
      replicated(policy.mesh),
      batch_sharding(policy.mesh),
    ),
  )
