"""Runs a rollout program on the mesh: one compiled call per shape bucket.

prefill → sample → score → keep → fork → … stays on the device inside one
`shard_map` over the data axes, so each shard stops when its own rows are done
and no token costs a collective. A Keep that only the host can decide cuts the
program in two.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.tree_util import keystr

from mirl_jax.information.estimators import MI, score_nodes
from mirl_jax.parallel.mesh import AXES, BATCH, DATA_AXES
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.forward import prefill
from mirl_jax.policy.inputs import Prompts
from mirl_jax.rollout.program import HOST_RULES, Keep, Program, Sample
from mirl_jax.rollout.sampler import Frontier, keep, sample_stage, start
from mirl_jax.rollout.selection import select
from mirl_jax.rollout.shared import Roles, Shared, shared
from mirl_jax.rollout.stop import Stop
from mirl_jax.rollout.tree import Level, Tree, flat, nodes

Carry = tuple[Frontier | None, tuple[Level, ...]]
HostScore = Callable[[tuple[Level, ...]], np.ndarray | jax.Array]


def cut(program: Program) -> list[list[tuple[int, Sample | Keep]]]:
  """Numbered stages, split before each Keep that the host decides."""
  parts: list[list[tuple[int, Sample | Keep]]] = [[]]
  for number, stage in enumerate(program):
    if isinstance(stage, Keep) and stage.by in HOST_RULES:
      parts.append([])
    parts[-1].append((number, stage))
  return parts


def _mark_kept(level: Level, index: jax.Array) -> Level:
  b, k, f = level.finished.shape
  kept = jnp.zeros((b, k * f), bool)
  kept = jax.vmap(lambda row, i: row.at[i].set(True))(kept, index)
  return dataclasses.replace(level, kept=kept.reshape(b, k, f))


# Weights that a layer itself takes in the activations' dtype.
_CAST = re.compile(r"(kernel|lora_[ab]|text/embed/embedding)$")


def _cast(weights: Shared, dtype: Any) -> Shared:
  """The large weights in the dtype that they are computed with.

  Every device gathers them: as bfloat16 they are half as large.
  """
  made: dict[int, jax.Array] = {}  # what is shared stays so

  def one(path: Any, x: jax.Array) -> jax.Array:
    name = keystr(path, simple=True, separator="/")
    if not _CAST.search(name):
      return x
    return made.setdefault(id(x), x.astype(dtype))

  return shared(jax.tree_util.tree_map_with_path(one, weights.roles))


class Rollout:
  """A program, compiled once per shape of its inputs.

  Attributes:
    program: the stages.
    parts: the jitted device programs, cut where the host decides; they take
      parameters as `Shared`.
    compiles: how often one was traced.
  """

  def __init__(
    self,
    config: VLMConfig,
    program: Program,
    stops: dict[str, Stop],
    mesh: Mesh,
    mi: MI | None = None,
    dtype: Any = jnp.float32,
  ):
    self.program = program
    self.compiles = 0
    self.parts = [
      self._compile(config, part, stops, mesh, mi, dtype)
      for part in cut(program)
    ]

  def __call__(
    self,
    roles: Roles,
    prompts: Prompts,
    views: Prompts | None,
    key: jax.Array,
    host_score: HostScore | None = None,
  ) -> Tree:
    """Samples a tree for every prompt.

    Args:
      roles: parameters by role.
      prompts: B questions, placed on the mesh.
      views: [M, B, …] prompts for MI, or None where nothing is scored.
      key: of this step; a draw depends on (key, question, stage, node, token).
      host_score: scores [B, R] of the last level for a host-decided Keep.
    """
    carry: Carry | None = None
    weights = shared(roles)
    for number, part in enumerate(self.parts):
      scores = None
      if number > 0:
        if host_score is None or carry is None:
          raise ValueError("this program keeps by a score of the host's")
        scores = jnp.asarray(host_score(carry[1]), jnp.float32)
      carry = part(weights, prompts, views, key, carry, scores)
    assert carry is not None
    return Tree(prompts, carry[1])

  def _compile(
    self,
    config: VLMConfig,
    stages: list[tuple[int, Sample | Keep]],
    stops: dict[str, Stop],
    mesh: Mesh,
    mi: MI | None,
    dtype: Any,
  ) -> Callable[..., Carry]:
    last = len(self.program) - 1

    def run(
      weights: Shared,
      prompts: Prompts,
      views: Prompts | None,
      key: jax.Array,
      carry: Carry | None,
      scores: jax.Array | None,
    ) -> Carry:
      self.compiles += 1
      roles = weights.roles
      params = roles["policy"]
      if carry is None:
        frontier = start(prefill(params, config, prompts, dtype))
        levels: tuple[Level, ...] = ()
      else:
        cut, levels = carry
        assert cut is not None
        frontier = cut
      question_keys = jax.vmap(lambda q: jax.random.fold_in(key, q))(
        prompts.question
      )
      for number, stage in stages:
        keys = jax.vmap(lambda k, n=number: jax.random.fold_in(k, n))(
          question_keys
        )
        if isinstance(stage, Sample):
          level, frontier = sample_stage(
            params,
            config,
            stage,
            stops[stage.name],
            frontier,
            keys,
            has_children=number < last,
          )
          levels = (*levels, level)
          if mi is not None and mi.stage == stage.name and views is not None:
            reuse = mi.reuses_sampler(stage.temperature)
            found = score_nodes(
              roles[mi.scorer],
              config,
              mi,
              prompts,
              views,
              nodes(levels),
              flat(level.sampled),
              flat(level.logprobs) if reuse else None,
              dtype,
            )
            found = {
              name: x.reshape(level.finished.shape) for name, x in found.items()
            }
            scored = {**level.scores, **found}
            level = dataclasses.replace(level, scores=scored)
            levels = (*levels[:-1], level)
        elif stage.by != "all":
          level = levels[-1]
          named = {name: flat(x) for name, x in level.scores.items()}
          if stage.by in HOST_RULES and scores is not None:
            named[stage.by] = scores
          index = select(stage.by, stage.k, named, flat(level.finished), keys)
          frontier = keep(frontier, index)
          levels = (*levels[:-1], _mark_kept(level, index))
      return frontier, levels

    batched = BATCH
    # A finished program returns no caches: only its levels leave the device.
    finishes = stages[-1][0] == last

    def body(*args: Any) -> Carry:
      frontier, levels = run(*args)
      return (None, levels) if finishes else (frontier, levels)

    sharded = jax.shard_map(
      body,
      mesh=mesh,
      in_specs=(
        P(),
        batched,
        P(None, DATA_AXES),
        P(),
        batched,
        batched,
      ),
      out_specs=batched,
      # An axis of one device is mapped too: a kernel cannot be lowered while
      # the compiler has an axis of its own.
      axis_names={*DATA_AXES, *(a for a in AXES if mesh.shape[a] == 1)},
      check_vma=False,
    )

    def rollout(weights: Shared, *rest: Any) -> Carry:
      return sharded(_cast(weights, dtype), *rest)

    return jax.jit(rollout)
