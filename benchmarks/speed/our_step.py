"""Our whole training step, as the training loop takes it."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.speed.model import SIZES, examples
from benchmarks.speed.ours import endless, fitting_update, never
from benchmarks.speed.workers import hide_torch, set_allocator
from mirl_jax import batching, build
from mirl_jax.config import get_config
from mirl_jax.learning import credit
from mirl_jax.learning.optimizer import make_optimizer
from mirl_jax.learning.state import new_state, roles
from mirl_jax.learning.update import build_update
from mirl_jax.parallel.mesh import batch_sharding
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import samples
from mirl_jax.rollout.tree import flat
from mirl_jax.start import place_state, start_params


def method_config(
  method: str, folder: Path, config: str, fanout: int, dtype: str
) -> Any:
  """GRPO with `fanout` responses, or MIRL, whose two stages share the length
  of one response: 10 descriptions, 6 kept, 2 reasonings for each."""
  sizes, c = SIZES[config], get_config(method)
  if method == "grpo":
    c.program.response.fanout = fanout
    c.program.response.max_tokens = sizes.new_tokens
  else:
    c.program.reason.fanout = 2
    c.program.describe.max_tokens = sizes.new_tokens // 2
    c.program.reason.max_tokens = sizes.new_tokens // 2
  c.policy.path = str(folder)
  c.policy.dtype = dtype
  c.mesh = "data:1"
  c.data.prompt_buckets = (sizes.prompt,)
  slots = sizes.image_tokens * 4
  c.data.patch_buckets = (slots,)
  return c


class Step:
  """Rollout, rewards on the host, update; the next batch is made meanwhile."""

  def __init__(
    self,
    method: str,
    folder: Path,
    config: str,
    questions: int,
    fanout: int,
    dtype: str,
  ):
    c = method_config(method, folder, config, fanout, dtype)
    policy = build.make_policy(c)
    self.policy = dataclasses.replace(policy, config=endless(policy.config))
    program = build.make_program(c, training=True)
    stages = samples(program)
    self.names = tuple(stage.name for stage in stages)
    mi = build.make_mi(c)
    self.batcher = batching.make_batcher(c, self.policy, mi)
    stop = never(self.policy.config.text.vocab)
    self.rollout = Rollout(
      self.policy.config,
      program,
      dict.fromkeys(self.names, stop),
      self.policy.mesh,
      mi,
      self.policy.dtype,
    )
    optimizer = make_optimizer(c.optimizer.to_dict(), 1000)
    terms, loss = build.make_terms(c), build.make_loss(c)

    def make(parts: int) -> Any:
      return build_update(
        self.policy.config,
        stages,
        terms,
        credit.Guards(**c.guards.to_dict()),
        dataclasses.replace(loss, micro_batches=parts),
        optimizer,
        c.optimizer.ema_decay,
        self.policy.dtype,
      )

    trained, self.frozen = start_params(c, self.policy)
    state = new_state(trained, optimizer, reference=False, ema=False)
    self.state = place_state(state, self.policy)
    self.make, self.update = make, None
    self.key, self.step = build.place_key(0, self.policy), 0
    self.questions = examples(folder, questions)
    self.following = self.batcher.batch(self.questions)
    self.note: dict[str, Any] = {"device": jax.devices()[0].device_kind}

  def once(self) -> float:
    """One step; returns the number of tokens that were generated."""
    prompts, views = self.following
    tree = self.rollout(
      roles(self.state, self.frozen),
      prompts,
      views,
      jax.random.fold_in(self.key, self.step),
    )
    self.step += 1
    levels = jax.device_get(tree.levels)
    for tokens in flat(levels[-1].tokens).reshape(
      -1, levels[-1].tokens.shape[-1]
    ):
      self.policy.processor.decode(tokens)  # what a real reward would read
    # It costs nothing and differs within a group.
    correct = (levels[-1].tokens[..., 0] % 2).astype(np.float32)
    rewards: dict[str, Any] = {name: {} for name in self.names}
    rewards[self.names[-1]] = {
      "correct": jax.device_put(correct, batch_sharding(self.policy.mesh))
    }
    arguments = (tree, rewards, self.frozen)
    if self.update is None:
      self.update, note = fitting_update(self.make, self.state, *arguments)
      self.note |= note
    self.state, metrics, _ = self.update(self.state, *arguments)
    self.following = self.batcher.batch(self.questions)
    row = {name: float(value) for name, value in metrics.items()}
    return row["tokens/step"]

  def check(self) -> dict[str, Any]:
    prompts, _ = self.following
    generated = self.once()
    return {
      "prompts": np.asarray(prompts.tokens).tolist(),
      "generated": int(generated),
    }


def contender(method: str, folder: str, **values: Any) -> Step:
  hide_torch()
  set_allocator()
  return Step(method, Path(folder), **values)
