"""From a configuration to the parts of a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from mirl_jax.data.example import Example
from mirl_jax.data.jsonl import JsonlSource
from mirl_jax.data.source import BadRow, Source
from mirl_jax.information.estimators import MI
from mirl_jax.information.estimators import from_config as mi_from_config
from mirl_jax.learning.objectives import Clip
from mirl_jax.learning.update import Loss
from mirl_jax.parallel.mesh import (
  batch_sharding,
  make_mesh,
  param_shardings,
  replicated,
)
from mirl_jax.policy.abstract import abstract_params, logical_axes
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.processing import Processor, load_processor
from mirl_jax.policy.prompts import bucket
from mirl_jax.policy.weights import load_params
from mirl_jax.rollout import program as programs
from mirl_jax.rollout.stop import Stop, compile_stop
from mirl_jax.runs.config_files import differing_fields, load_config
from mirl_jax.worlds.dials import Dials, dials_from_dict
from mirl_jax.worlds.source import WorldSource

# A run may be continued with other values of these.
_MAY_CHANGE = ("train.steps", "train.keep", "train.dump", "sft.log_every")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class Policy:
  """A policy's processor, sizes and placement, without its parameters."""

  processor: Processor
  config: VLMConfig
  mesh: Mesh
  shardings: Any
  dtype: Any

  def place(self, params: Any) -> Any:
    """Puts a parameter tree where the rules say."""
    return jax.device_put(params, self.shardings)


def policy_path(config: ConfigDict) -> Any:
  """The model's directory; the embedded one where none is named."""
  if config.policy.path:
    return config.policy.path
  return resources.files("mirl_jax") / "tiny"


def make_policy(config: ConfigDict) -> Policy:
  """Reads the processor and places the model on the mesh.

  Raises:
    ValueError: for a bad mesh, dtype or directory.
  """
  if config.policy.dtype not in DTYPES:
    raise ValueError(
      f"policy.dtype={config.policy.dtype!r} is not one of {sorted(DTYPES)}"
    )
  mesh = make_mesh(config.mesh)
  processor = load_processor(
    policy_path(config), config.policy.system, config.policy.instruction
  )
  vlm = processor.config
  shardings = param_shardings(abstract_params(vlm), logical_axes(vlm), mesh)
  return Policy(processor, vlm, mesh, shardings, DTYPES[config.policy.dtype])


def load_policy_params(config: ConfigDict, policy: Policy) -> Any:
  """Float32 parameters of the directory, on the mesh."""
  params = load_params(policy_path(config), policy.config, np.float32)
  return policy.place(params)


def make_dials(config: ConfigDict) -> Dials:
  """The world's dials."""
  values = config.world.to_dict()
  values.pop("length")
  values["kinds"] = tuple(values["kinds"].items())
  return dials_from_dict(values)


def make_source(config: ConfigDict, split: str) -> Source:
  """Examples of `train` or `test`.

  Raises:
    ValueError: for a folder without data.jsonl.
  """
  if config.data.train == "world":
    return WorldSource(
      config.data.seed, make_dials(config), split, config.world.length
    )
  return JsonlSource(
    config.data.train,
    split=split,
    test_share=config.data.test_share,
  )


def make_program(config: ConfigDict, training: bool) -> programs.Program:
  """The rollout program of the config."""
  stages = {name: config.program[name] for name in config.program.stages}
  return programs.validate(programs.from_config(stages), training)


def make_mi(config: ConfigDict) -> MI | None:
  """The estimator, where the method has one."""
  return mi_from_config(config.mi) if "mi" in config else None


def make_loss(config: ConfigDict) -> Loss:
  """The loss's settings."""
  c = config.loss
  return Loss(
    clip=Clip(c.clip_low, c.clip_high, c.dual_clip, c.ratio),
    reduction=c.reduction,
    kl=c.kl.to_dict(),
    kl_kind=c.kl_kind,
    entropy=c.entropy,
    old_logprob=c.old_logprob,
    importance_cap=c.importance_cap,
    minibatches=c.minibatches,
    micro_batches=c.micro_batches,
    remat=c.remat,
  )


def make_stops(
  program: programs.Program, processor: Processor
) -> dict[str, Stop]:
  """The compiled stop of every Sample stage."""
  return {
    stage.name: compile_stop(
      stage.stop,
      processor.bytes_of,
      [int(i) for i in processor.encode_text(stage.stop)],
    )
    for stage in programs.samples(program)
  }


@dataclass(frozen=True)
class Batcher:
  """Builds device batches of prompts and views, in buckets of sizes.

  Attributes:
    policy: whose processor and mesh.
    prompt_buckets: prompt lengths to pad to.
    patch_buckets: patch slots to pad to; the smallest that fits.
    mi: which views are needed, or None.
    seed: of masked views.
  """

  policy: Policy
  prompt_buckets: tuple[int, ...]
  patch_buckets: tuple[int, ...]
  mi: MI | None
  seed: int

  def _buckets(self, encoded: Sequence[Any]) -> tuple[int, int]:
    window = self.policy.config.vision.window_patches
    slots = [-(-n // window) * window for n in self.patch_buckets]
    length = max(len(e.tokens) for e in encoded)
    patches = max(e.slots for e in encoded)
    return (
      bucket(length, self.prompt_buckets),
      bucket(patches, [0, *slots]) if patches else 0,
    )

  def prompts(self, examples: Sequence[Example]) -> Prompts:
    """The questions with their images, on the mesh."""
    processor = self.policy.processor
    encoded = [processor.encode(e) for e in examples]
    batch = processor.collate(encoded, *self._buckets(encoded))
    return self._put(batch, batch_sharding(self.policy.mesh))

  def views(self, examples: Sequence[Example]) -> Prompts | None:
    """What stands in for the images, stacked [M, B, …]; None without MI."""
    mi = self.mi
    if mi is None:
      return None
    processor = self.policy.processor
    if mi.view in ("other", "other_same_question") and (
      len(examples) <= mi.views
    ):
      raise ValueError(
        f"mi.views={mi.views} other items need a batch of more than that, got"
        f" {len(examples)}; raise train.questions"
      )
    rows = []
    for m in range(mi.views):
      row = []
      for i, example in enumerate(examples):
        other = examples[(i + m + 1) % len(examples)]
        if mi.view == "other":
          row.append(processor.encode(other))
        elif mi.view == "other_same_question":
          row.append(processor.encode(example, images=other.images))
        elif mi.view == "masked":
          view = f"masked:{mi.mask_rate}"
          row.append(processor.encode(example, view, seed=self.seed + m))
        else:
          row.append(processor.encode(example, mi.view))
      rows.append(row)
    sizes = self._buckets([e for row in rows for e in row])
    stacked = jax.tree.map(
      lambda *x: np.stack(x), *[processor.collate(row, *sizes) for row in rows]
    )
    mesh = self.policy.mesh
    return self._put(stacked, NamedSharding(mesh, P(None, ("data", "fsdp"))))

  def _put(self, batch: Prompts, sharding: NamedSharding) -> Prompts:
    return jax.tree.map(lambda x: jax.device_put(x, sharding), batch)


def make_batcher(config: ConfigDict, policy: Policy, mi: MI | None) -> Batcher:
  """The batcher of a config."""
  return Batcher(
    policy,
    tuple(config.data.prompt_buckets),
    tuple(config.data.patch_buckets),
    mi,
    config.seed,
  )


def place_key(seed: int, policy: Policy) -> jax.Array:
  """A random key that every device holds."""
  return jax.device_put(jax.random.key(seed), replicated(policy.mesh))



def place_state(state: Any, policy: Policy) -> Any:
  """Places a training state: whatever mirrors the parameters lies as they do,
  the rest is whole on every device."""
  like = jax.tree_util.tree_structure(policy.shardings)

  def place(node: Any) -> Any:
    if jax.tree_util.tree_structure(node) == like:
      return jax.device_put(node, policy.shardings)
    return jax.device_put(node, replicated(policy.mesh))

  return jax.tree.map(
    place,
    state,
    is_leaf=lambda node: jax.tree_util.tree_structure(node) == like,
  )


def place_batch(batch: Any, policy: Policy) -> Any:
  """Puts host arrays with a leading question axis on the mesh."""
  return jax.device_put(batch, batch_sharding(policy.mesh))


def abstract(tree: Any) -> Any:
  """Shapes, dtypes and shardings of a placed tree."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )


def first_examples(source: Source, count: int) -> Iterator[Example]:
  """Up to `count` examples in order, bad rows left out."""
  found = 0
  for index in range(len(source)):
    if found == count:
      return
    try:
      example = source[index]
    except BadRow:
      continue
    found += 1
    yield example


def check_same_config(
  config: ConfigDict, workdir: str, resumed: int | None
) -> None:
  """Refuses to continue a run with another config.

  Raises:
    ValueError: naming the fields that differ.
  """
  if resumed is None:
    return
  differing = [
    field
    for field in differing_fields(load_config(workdir), config)
    if not field.startswith(_MAY_CHANGE)
  ]
  if differing:
    raise ValueError(
      f"{workdir} holds a run with another config; these fields differ:"
      f" {', '.join(differing)}. Use another --workdir, or the same values"
    )
