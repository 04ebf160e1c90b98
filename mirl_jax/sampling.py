"""Sampling a step's batch, ahead of the host and part by part.

A batch is sampled in parts of its questions; the answers of one part are judged
on the host while the device samples the next. What a question draws depends on
neither (see rollout/sampler.py).
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mirl_jax import batching, build
from mirl_jax.accounting import Slots
from mirl_jax.data.share import Rows
from mirl_jax.evaluate import host_oracle
from mirl_jax.parallel.mesh import batch_sharding
from mirl_jax.parallel.processes import on_host, own_rows
from mirl_jax.policy.inputs import Prompts
from mirl_jax.rewards.assess import Assessed, assess, joined
from mirl_jax.rewards.own import OwnReward
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.tree import Tree


@dataclass(frozen=True)
class Part:
  """Some of a batch's questions, on their way through the device."""

  examples: Rows
  prompts: Prompts
  views: Prompts | None
  tree: Tree


@dataclass(frozen=True)
class Sampled:
  """A whole batch of trees, on the device and read on the host.

  Attributes:
    levels: of the tree, as numpy.
    slots: of the parts.
    own: the questions that this process judges, in order.
    read: one entry per level, of the own questions.
    fault: of the first score of a reward file that failed, "" if none did.
    waited: seconds that the host waited for tokens.
    judged: seconds that it read and judged them.
  """

  levels: tuple[Any, ...]
  slots: list[Slots]
  own: list[int]
  read: list[Assessed]
  fault: str
  waited: float
  judged: float

  @property
  def own_levels(self) -> tuple[Any, ...]:
    """The levels of the own questions."""
    return jax.tree.map(lambda x: x[self.own], self.levels)


def launch(
  rollout: Rollout,
  roles: dict[str, Any],
  batcher: batching.Batcher,
  examples: Rows,
  key: jax.Array,
  parts: int,
) -> list[Part]:
  """Starts to sample a batch; waits for nothing but a host-decided Keep.

  Args:
    rollout: the program.
    roles: parameters by role.
    batcher: makes the prompts.
    examples: B questions, the own ones at least.
    key: of this step.
    parts: how many; each of B / parts questions.
  """
  size = len(examples) // parts
  started = []
  for number, (prompts, views) in enumerate(batcher.parts(examples, parts)):
    some = examples[number * size : (number + 1) * size]
    oracle = host_oracle(some, batcher.policy)
    tree = rollout(roles, prompts, views, key, oracle)
    started.append(Part(some, prompts, views, tree))
  return started


def collect(
  parts: Sequence[Part],
  policy: build.Policy,
  step: int,
  own_reward: OwnReward | None = None,
) -> tuple[Tree, Sampled]:
  """Waits for the parts in turn and judges each as it comes.

  Args:
    parts: from `launch`.
    policy: reads the tokens.
    step: of training.
    own_reward: adds rewards of the user's own.

  Returns:
    The tree on the device, the parts' questions in order, and what was read.
    Whoever drops the parts and, after the update, the tree frees their
    prompts, which are most of a step's data.
  """
  levels, slots, read, faults = [], [], [], []
  waited = judged = 0.0
  size = len(parts[0].examples)
  rows = own_rows(policy.mesh, size)
  for part in parts:
    began = time.monotonic()
    found, tokens, patches, views = on_host(
      (
        part.tree.levels,
        part.prompts.mask,
        part.prompts.patch_image,
        part.views and part.views.mask,
      )
    )
    levels.append(found)
    slots.append(Slots(tokens, patches > 0, views))
    came = time.monotonic()
    own = jax.tree.map(lambda x: x[rows], found)
    examples = [part.examples[i] for i in rows]
    judgement = assess(examples, own, policy.processor.decode, step)
    if own_reward is not None:
      judgement, fault = own_reward.add(examples, judgement)
      faults += [fault] if fault else []
    read.append(judgement)
    waited += came - began
    judged += time.monotonic() - came
  trees = [part.tree for part in parts]
  mine = [number * size + i for number in range(len(parts)) for i in rows]
  fault = faults[0] if faults else ""
  if len(parts) == 1:
    return trees[0], Sampled(
      levels[0], slots, mine, read[0], fault, waited, judged
    )
  tree = _joiner(policy.mesh)(trees)
  whole = jax.tree.map(lambda *x: np.concatenate(x), *levels)
  return tree, Sampled(whole, slots, mine, joined(read), fault, waited, judged)


@functools.cache  # one jitted function, not one per step
def _joiner(mesh: Mesh) -> Callable[[list[Tree]], Tree]:
  return jax.jit(_join_trees, out_shardings=batch_sharding(mesh))


def _join_trees(trees: list[Tree]) -> Tree:
  return jax.tree.map(lambda *x: jnp.concatenate(x), *trees)
