"""From a configuration to the parts of a run."""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from mirl_jax.data.example import Example
from mirl_jax.data.folder import fitting, folder_source
from mirl_jax.data.lengths import check_lengths, refuse
from mirl_jax.data.pipeline import Quarantine
from mirl_jax.data.source import BadRow, Mapped, Source, told
from mirl_jax.information.estimators import MI
from mirl_jax.information.estimators import from_config as mi_from_config
from mirl_jax.learning.credit import Term, terms_from_config
from mirl_jax.learning.objectives import Clip
from mirl_jax.learning.update import Loss
from mirl_jax.parallel.mesh import (
  check_heads,
  make_mesh,
  replicated,
)
from mirl_jax.parallel.processes import put
from mirl_jax.policy.attention.backends import check_backend
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.loading import load_params_onto
from mirl_jax.policy.lora import Leaf, adapted_modules, adapter_leaves
from mirl_jax.policy.parts import Lora, Training
from mirl_jax.policy.placement import leaf_sharding, param_shardings
from mirl_jax.policy.processing import Processor, load_processor
from mirl_jax.rewards import own
from mirl_jax.rollout import program as programs
from mirl_jax.rollout.program import samples
from mirl_jax.rollout.stop import Stop, compile_stop
from mirl_jax.worlds.dials import Dials, dials_from_dict
from mirl_jax.worlds.source import WorldSource

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
DECODE = ("auto", "scan", "unroll")


@dataclass(frozen=True, kw_only=True)
class Placed:
  """A policy's sizes and placement, without its parameters.

  Attributes:
    shardings: of the directory's parameters.
    dtype: of activations.
    training: which parts are trained, and how.
    adapters: leaves of the LoRA adapters by path.
  """

  config: VLMConfig
  mesh: Mesh
  shardings: Any
  dtype: Any
  training: Training
  adapters: dict[str, Leaf]

  def place(self, params: Any) -> Any:
    """Puts a parameter tree where the rules say."""
    return put(params, self.shardings)

  @functools.cached_property
  def placements(self) -> dict[str, NamedSharding]:
    """Where every parameter lies, adapters too, by path."""
    added = {
      path: leaf_sharding(self.config, self.mesh, path, leaf.axes, leaf.shape)
      for path, leaf in self.adapters.items()
    }
    return flatten_dict(self.shardings, sep="/") | added


@dataclass(frozen=True, kw_only=True)
class Policy(Placed):
  """A placed policy and what makes its prompts."""

  processor: Processor


def policy_path(config: ConfigDict) -> Any:
  """The model's directory; the embedded one where none is named."""
  if config.policy.path:
    return config.policy.path
  return resources.files("mirl_jax") / "tiny"


def place_policy(
  config: ConfigDict, vlm: VLMConfig, devices: Sequence[Any] | None = None
) -> Placed:
  """Places a model of given sizes on the config's mesh.

  Args:
    config: of the run.
    vlm: sizes.
    devices: of the mesh; this machine's unless told.

  Raises:
    ValueError: for a bad mesh, dtype, adapter, attention back end or way of
      decoding.
  """
  for name in ("dtype", "param_dtype"):
    if config.policy[name] not in DTYPES:
      raise ValueError(
        f"policy.{name}={config.policy[name]!r} is not one of {sorted(DTYPES)}"
      )
  if config.policy.decode not in DECODE:
    raise ValueError(
      f"policy.decode={config.policy.decode!r} is not one of {DECODE}"
    )
  mesh = make_mesh(config.mesh, devices)
  platform = mesh.devices.flat[0].platform
  vlm = dataclasses.replace(
    vlm,
    attention=config.policy.attention,
    mesh=mesh.abstract_mesh,
    scan_decode=config.policy.decode == "scan"
    or (config.policy.decode == "auto" and platform == "tpu"),
  )
  check_backend(
    vlm.attention, DTYPES[config.policy.dtype], vlm.text.head_dim, platform
  )
  heads = {"text": vlm.text.heads, "vision": vlm.vision.heads}
  check_heads(mesh, heads)
  shardings = param_shardings(vlm, mesh)
  training = Training(
    **config.policy.train.to_dict(), lora=Lora(**config.policy.lora.to_dict())
  )
  modules = adapted_modules(vlm, training)
  return Placed(
    config=vlm,
    mesh=mesh,
    shardings=shardings,
    dtype=DTYPES[config.policy.dtype],
    training=training,
    adapters=adapter_leaves(vlm, modules, training.lora),
  )


def make_policy(config: ConfigDict) -> Policy:
  """Reads the processor and places the model on the mesh.

  Raises:
    ValueError: for a bad directory; and as `place_policy`.
  """
  processor = load_processor(
    policy_path(config),
    config.policy.system,
    config.policy.instruction,
    config.policy.min_pixels or None,
    config.policy.max_pixels or None,
  )
  placed = place_policy(config, processor.config)
  return Policy(**vars(placed), processor=processor)


def load_policy_params(config: ConfigDict, policy: Policy) -> Any:
  """Parameters of the directory, on the mesh, as `policy.param_dtype`."""
  return load_params_onto(
    policy_path(config),
    policy.config,
    policy.shardings,
    DTYPES[config.policy.param_dtype],
  )


def make_dials(config: ConfigDict) -> Dials:
  """The world's dials."""
  values = config.world.to_dict()
  values.pop("length")
  values["kinds"] = tuple(values["kinds"].items())
  return dials_from_dict(values)


def make_source(
  config: ConfigDict, split: str, policy: Policy | None = None
) -> Source:
  """Examples of `train` or `test`.

  Args:
    config: of the run.
    split: train or test.
    policy: makes rows whose prompt it cannot take bad rows.

  Raises:
    FileNotFoundError: if there is nothing at the path.
    ValueError: as `folder_source`.
  """
  if config.data.train == "world":
    return WorldSource(
      config.data.seed, make_dials(config), split, config.world.length
    )
  source = folder_source(config.data, split)
  if policy is None:
    return source
  window = policy.config.vision.window_patches
  # Before buckets are chosen, any size fits.
  check = fitting(
    policy.processor.measure,
    max(config.data.prompt_buckets, default=sys.maxsize),
    -(-max(config.data.patch_buckets, default=sys.maxsize) // window) * window,
  )
  return Mapped(source, check)


def data_report(config: ConfigDict, policy: Policy) -> str:
  """What the training data is read as, and how many of its prompts fit.

  Args:
    config: of the run, with buckets.
    policy: whose processor measures the prompts.

  Returns:
    A line for each; nothing for the world, which says both itself.

  Raises:
    TooManyBadRows: if more prompts than `data.max_bad_share` do not fit.
    ValueError, FileNotFoundError: as `make_source`.
  """
  source = make_source(config, "train", policy)
  if not isinstance(source, Mapped):
    return ""
  found = check_lengths(source)
  refuse(found, config.data.max_bad_share)
  return f"data: {told(source)}\n{found}"


def make_program(config: ConfigDict, training: bool) -> programs.Program:
  """The rollout program of the config."""
  stages = {
    name: config.program[name].to_dict() for name in config.program.stages
  }
  return programs.validate(programs.from_config(stages), training)


def make_mi(config: ConfigDict) -> MI | None:
  """The estimator, where the method has one.

  Raises:
    ValueError: for a bad field, or a stage that the program lacks.
  """
  if "mi" not in config:
    return None
  mi = mi_from_config(config.mi.to_dict())
  _check_stage("mi.stage", mi.stage, config)
  return mi


def _check_stage(field: str, name: str, config: ConfigDict) -> None:
  names = [stage.name for stage in samples(make_program(config, False))]
  if name not in names:
    raise ValueError(
      f"{field}: the program has no stage {name!r} that samples; it has"
      f" {', '.join(names)}"
    )


def make_terms(config: ConfigDict) -> tuple[Term, ...]:
  """What pays which stage.

  Raises:
    ValueError: for a bad field, or a stage that the program lacks.
  """
  for stage in config.credit:
    _check_stage("credit", stage, config)
  return tuple(terms_from_config(config.credit.to_dict()))


def own_names(config: ConfigDict) -> dict[str, tuple[str, ...]]:
  """The rewards of the user's own that each stage's nodes need.

  Raises:
    ValueError: for such a reward without a file, or a file that nothing pays.
  """
  stages = [stage.name for stage in samples(make_program(config, False))]
  names = own.own_names(config.credit.to_dict(), stages)
  if names and not config.reward.file:
    stage, (first, *_) = next(iter(names.items()))
    raise ValueError(
      f"credit: {first} of stage {stage!r} needs a file that scores; give"
      " reward.file=FILE.py"
    )
  if config.reward.file and not names:
    raise ValueError(
      f"reward.file={config.reward.file}: no stage is paid by it; take"
      " configs/mirl_jsonl.py:path=DIR,reward=FILE, or in your own config"
      f" file, in `with c.unlocked():`, set c.credit.{stages[-1]}.own ="
      ' {"weight": 1.0, "baseline": "question", "std": True}'
    )
  return names


def make_own(config: ConfigDict) -> own.OwnReward | None:
  """The user's reward file at work, where there is one.

  Raises:
    ValueError: as `own_names` and `OwnReward`.
  """
  names = own_names(config)
  if not names:
    return None
  c = config.reward
  stages = samples(make_program(config, False))
  return own.OwnReward(
    c.file,
    [names.get(stage.name, ()) for stage in stages],
    c.workers,
    c.deadline_s,
    c.memory_mb,
  )


def make_loss(config: ConfigDict) -> Loss:
  """The loss's settings.

  Raises:
    ValueError: for a bad field, or a stage that the program lacks.
  """
  c = config.loss
  for stage in c.kl:
    _check_stage("loss.kl", stage, config)
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
    for stage in samples(program)
  }


def place_key(seed: int, policy: Policy) -> jax.Array:
  """A random key that every device holds."""
  where = replicated(policy.mesh)
  return jax.jit(lambda: jax.random.key(seed), out_shardings=where)()


def first_examples(
  source: Source, count: int, quarantine: Quarantine | None = None
) -> Iterator[Example]:
  """Up to `count` examples in order; bad rows go to quarantine."""
  found = 0
  for index in range(len(source)):
    if found == count:
      return
    try:
      example = source[index]
    except BadRow as bad:
      if quarantine is not None:
        quarantine.add(bad)
      continue
    found += 1
    yield example


def held_out(
  config: ConfigDict, policy: Policy, count: int, workdir: str
) -> list[Example]:
  """The first questions of the test split, one at least.

  Raises:
    ValueError: if none of its rows can be used.
  """
  source = make_source(config, "test", policy)
  primary = jax.process_index() == 0
  path = Path(workdir) / "quarantine.jsonl" if primary else None
  found = list(first_examples(source, count, Quarantine(path)))
  if not found and count:
    raise ValueError(
      f"none of the {len(source)} rows held out for evaluation can be used;"
      f" {Path(workdir) / 'quarantine.jsonl'} says why"
    )
  return found
