"""Our own contenders of rollout, score and update, in a process of JAX.

`tree`: one question with S children. `flat`: the same code, every sample a
question of its own, so that nothing is shared.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.model import SIZES, Sizes, load_prompts
from benchmarks.speed.workers import set_allocator
from mirl_jax.build import DTYPES
from mirl_jax.config import base
from mirl_jax.learning.credit import Guards, Term
from mirl_jax.learning.optimizer import make_optimizer
from mirl_jax.learning.state import TrainState, new_state
from mirl_jax.learning.update import Loss, build_update, score_tree
from mirl_jax.parallel.mesh import make_mesh
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.directory import load_config
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.loading import load_params
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import Program, Sample
from mirl_jax.rollout.stop import Stop
from mirl_jax.rollout.tree import Level, Tree

_STAGE = "response"
_MEMORY_SHARE = 0.2  # of what is free: the others keep what they freed
GREEDY_TOKENS = 6


def never(vocab: int) -> Stop:
  """A stop that no text reaches: every response has the same length."""
  return Stop(np.zeros((2, vocab), np.int16), ())


def one_stage(fanout: int, tokens: int, temperature: float = 1.0) -> Program:
  return (Sample(_STAGE, fanout, tokens, "never", temperature),)


def endless(config: VLMConfig) -> VLMConfig:
  """The model without a token that ends a response."""
  return dataclasses.replace(config, eos_tokens=())


def leaf_level(tokens: np.ndarray, old: np.ndarray, parents: int = 1) -> Level:
  """A level of whole responses [B, R, T], children of the prompt."""
  b, r, t = tokens.shape
  shape = (b, parents, r // parents)
  return Level(
    tokens=tokens.reshape(*shape, t).astype(np.int32),
    mask=np.ones((*shape, t), bool),
    sampled=np.ones((*shape, t), bool),
    logprobs=old.reshape(*shape, t),
    parent=np.zeros((b, parents), np.int32),
    finished=np.ones(shape, bool),
    kept=np.ones(shape, bool),
    scores={},
  )


def free_bytes() -> int:
  """Memory that a program may still take on its device."""
  figures = jax.devices()[0].memory_stats()
  if figures:
    return figures["bytes_limit"] - figures["bytes_in_use"]
  text = Path("/proc/meminfo").read_text()
  return 1024 * int(text.split("MemAvailable:")[1].split()[0])


def fitting_update(
  make: Callable[[int], Callable[..., Any]],
  state: TrainState,
  tree: Tree,
  *rest: Any,
) -> tuple[Any, dict[str, Any]]:
  """An update, compiled in as few micro-batches as memory asks for.

  Args:
    make: from a number of micro-batches to the update.
    state: its first argument, whose memory it takes over.
    tree: its second.
    rest: its others.

  Returns:
    The compiled update, and what to say of it.
  """
  parts, questions = 1, len(tree.levels[0].tokens)
  while True:
    lowered = jax.jit(make(parts), donate_argnums=0).lower(state, tree, *rest)
    compiled = lowered.compile()
    need = compiled.memory_analysis().temp_size_in_bytes
    if need < _MEMORY_SHARE * free_bytes() or parts >= questions:
      temp = round(need / 2**20)
      return compiled, {"micro_batches": parts, "compiled_temp_mb": temp}
    parts *= 2


class Base:
  """A model, and a batch laid out as a tree or flat."""

  def __init__(self, folder: Path, dtype: str, way: str):
    self.config = endless(load_config(folder))
    self.dtype = DTYPES[dtype]
    self.mesh = make_mesh("data:1", jax.devices()[:1])
    prompts = load_prompts(folder)
    with np.load(folder / "responses.npz") as found:
      arrays = dict(found)
    self.samples = arrays["tokens"].shape[1]
    if way == "flat":
      prompts = jax.tree.map(lambda x: x.repeat(self.samples, axis=0), prompts)
      # Draws are keyed by question.
      count = len(prompts.question)
      prompts = prompts.replace(question=np.arange(count, dtype=np.uint32))
      arrays = {
        name: x.reshape(-1, 1, *x.shape[2:]) for name, x in arrays.items()
      }
    self.fanout = arrays["tokens"].shape[1]
    self.prompts: Prompts = jax.device_put(prompts)
    self.arrays = arrays
    self.note: dict[str, Any] = {}

  def params(self, folder: Path, dtype: Any) -> Any:
    return jax.device_put(load_params(folder, self.config, dtype))

  def tree(self) -> Tree:
    level = leaf_level(self.arrays["tokens"], self.arrays["old"])
    return Tree(self.prompts, jax.device_put((level,)))

  def stage(self) -> tuple[Sample, ...]:
    tokens = self.arrays["tokens"].shape[-1]
    return (Sample(_STAGE, self.fanout, tokens, "never"),)


class Sampling(Base):
  """The public rollout, as a training step calls it."""

  def __init__(self, folder: Path, dtype: str, way: str, sizes: Sizes):
    super().__init__(folder, dtype, way)
    self.roles = {"policy": self.params(folder, self.dtype)}
    self.rollout = self._rollout(sizes.new_tokens)
    self.key, self.step = jax.random.key(0), 0

  def _rollout(self, tokens: int, temperature: float = 1.0) -> Rollout:
    return Rollout(
      self.config,
      one_stage(self.fanout, tokens, temperature),
      {_STAGE: never(self.config.text.vocab)},
      self.mesh,
      dtype=self.dtype,
    )

  def once(self) -> None:
    self.step += 1
    key = jax.random.fold_in(self.key, self.step)
    tree = self.rollout(self.roles, self.prompts, None, key)
    level = jax.device_get(tree.levels[0])
    assert level.mask.all(), "a response ended early"

  def check(self) -> dict[str, Any]:
    self.once()  # compiles
    greedy = self._rollout(GREEDY_TOKENS, 0.0)
    tree = greedy(self.roles, self.prompts, None, self.key)
    tokens = np.asarray(tree.levels[0].tokens)
    return {"tokens": tokens.reshape(-1, self.samples, GREEDY_TOKENS).tolist()}


class Scoring(Base):
  """Log-probs of given responses."""

  def __init__(self, folder: Path, dtype: str, way: str):
    super().__init__(folder, dtype, way)
    self.policy = self.params(folder, self.dtype)
    stages = self.stage()
    self.program = jax.jit(
      lambda params, tree: score_tree(
        params, self.config, tree, stages, dtype=self.dtype
      )[0][0]
    )
    self.batch = self.tree()

  def once(self) -> Any:
    return np.asarray(self.program(self.policy, self.batch))

  def check(self) -> dict[str, Any]:
    tokens = self.arrays["tokens"].shape[-1]
    return {"logprobs": self.once().reshape(-1, tokens).tolist()}


class Updating(Base):
  """One GRPO update: loss, gradient, AdamW as the default config has it."""

  def __init__(self, folder: Path, dtype: str, way: str):
    super().__init__(folder, dtype, way)
    optimizer = make_optimizer(base().optimizer.to_dict(), 1000)
    # Master weights are float32 whatever the activations are.
    params = self.params(folder, np.float32)
    self.state = new_state(params, optimizer, reference=False, ema=False)
    self.batch = self.tree()
    shape = (*self.batch.levels[0].finished.shape,)
    given = jnp.asarray(self.arrays["advantage"]).reshape(shape)
    self.rewards = {_STAGE: {"given": given}}

    def make(parts: int) -> Callable[..., Any]:
      return build_update(
        self.config,
        self.stage(),
        (Term(_STAGE, "given", baseline="none", std=False),),
        Guards(),
        Loss(micro_batches=parts),
        optimizer,
        dtype=self.dtype,
      )

    self.program, self.note = fitting_update(
      make, self.state, self.batch, self.rewards
    )

  def once(self) -> dict[str, Any]:
    self.state, metrics, _ = self.program(self.state, self.batch, self.rewards)
    return {name: float(value) for name, value in metrics.items()}

  def check(self) -> dict[str, Any]:
    metrics = self.once()
    return {"loss": metrics["loss/total"], "grad_norm": metrics["grad_norm"]}


def contender(
  task: str, way: str, folder: str, config: str, dtype: str
) -> Base:
  """The contender of a task.

  Args:
    task: rollout, score or update.
    way: tree or flat.
    folder: of `write_case`.
    config: name of the sizes.
    dtype: of activations.
  """
  set_allocator()
  path = Path(folder)
  if task == "rollout":
    made: Base = Sampling(path, dtype, way, SIZES[config])
  elif task == "score":
    made = Scoring(path, dtype, way)
  else:
    made = Updating(path, dtype, way)
  made.note["device"] = jax.devices()[0].device_kind
  return made
