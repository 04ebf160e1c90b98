"""From examples to device batches, in buckets of sizes."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from mirl_jax.build import Policy, make_mi, make_program, make_source
from mirl_jax.data import buckets
from mirl_jax.data.example import Example
from mirl_jax.information.estimators import MI
from mirl_jax.parallel.mesh import batch_sharding
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.processing import Pictures
from mirl_jax.policy.prompts import Encoded, bucket
from mirl_jax.rollout.program import sampled_slots


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

  def _buckets(self, encoded: Sequence[Encoded]) -> tuple[int, int]:
    window = self.policy.config.vision.window_patches
    slots = [-(-n // window) * window for n in self.patch_buckets]
    length = max(len(e.tokens) for e in encoded)
    patches = max(e.slots for e in encoded)
    return (
      bucket(length, self.prompt_buckets),
      bucket(patches, [0, *slots]) if patches else 0,
    )

  def batch(
    self, examples: Sequence[Example], views: bool = True
  ) -> tuple[Prompts, Prompts | None]:
    """The questions [B, …], and what stands in for their images [M, B, …].

    Every picture is decoded once. Both are on the mesh; the second is None
    without MI, or where `views` are not wanted.
    """
    return self._place(*self._host(examples, views))

  def parts(
    self, examples: Sequence[Example], count: int
  ) -> list[tuple[Prompts, Prompts | None]]:
    """As `batch`, in equal parts of the questions and of one size.

    What stands in for a question's images comes from the whole batch.
    """
    prompts, views = self._host(examples, True)
    size = len(examples) // count
    return [
      self._place(
        jax.tree.map(lambda x, at=at: x[at : at + size], prompts),
        jax.tree.map(lambda x, at=at: x[:, at : at + size], views),
      )
      for at in range(0, len(examples), size)
    ]

  def _host(
    self, examples: Sequence[Example], views: bool
  ) -> tuple[Prompts, Prompts | None]:
    """A batch before it goes to the devices."""
    processor = self.policy.processor
    pictures = [processor.pictures(e) for e in examples]
    clean = [
      processor.encode(e, pictures=own)
      for e, own in zip(examples, pictures, strict=True)
    ]
    prompts = processor.collate(clean, *self._buckets(clean))
    if self.mi is None or not views:
      return prompts, None
    rows = self._views(self.mi, examples, pictures, clean)
    sizes = self._buckets([e for row in rows for e in row])
    stacked = jax.tree.map(
      lambda *x: np.stack(x), *[processor.collate(row, *sizes) for row in rows]
    )
    return prompts, stacked

  def _place(
    self, prompts: Prompts, views: Prompts | None
  ) -> tuple[Prompts, Prompts | None]:
    mesh = self.policy.mesh
    spread = NamedSharding(mesh, P(None, ("data", "fsdp")))
    return (
      jax.device_put(prompts, batch_sharding(mesh)),
      None if views is None else jax.device_put(views, spread),
    )

  def _views(
    self,
    mi: MI,
    examples: Sequence[Example],
    pictures: Sequence[Pictures],
    clean: Sequence[Encoded],
  ) -> list[list[Encoded]]:
    """M rows of B prompts that stand in for the clean ones."""
    encode = self.policy.processor.encode
    if mi.view in ("other", "other_same_question") and (
      len(examples) <= mi.views
    ):
      raise ValueError(
        f"mi.views={mi.views} other items need a batch of more than that, got"
        f" {len(examples)}; raise train.questions"
      )
    view = f"masked:{mi.mask_rate}" if mi.view == "masked" else mi.view

    def stand_in(m: int, i: int) -> Encoded:
      other = (i + m + 1) % len(examples)
      if view == "other":
        return clean[other]
      if view == "other_same_question":
        return encode(examples[i], pictures=pictures[other])
      return encode(examples[i], view, self.seed + m, pictures[i])

    return [
      [stand_in(m, i) for i in range(len(examples))] for m in range(mi.views)
    ]


def settled(
  config: ConfigDict, policy: Policy, sft: bool = False
) -> tuple[ConfigDict, str]:
  """The config with buckets where it leaves them open, and a line about them.

  Chosen from the prompts of a sample of the training split; a longer one that
  fits the reserve is taken, and any other row is a bad one.

  Args:
    config: of the run.
    policy: whose processor measures the prompts.
    sft: choose for supervised batches.

  Raises:
    ValueError: for a bad field; and as `make_source`.
    FileNotFoundError: as `make_source`.
  """
  data = config.data
  given = [_buckets(config, f"{name}_buckets") for name in ("prompt", "patch")]
  if all(given):
    return config, ""
  if data.buckets < 1:
    raise ValueError(f"data.buckets={data.buckets}: give at least 1")
  batch, mi = config.train.questions, None if sft else make_mi(config)
  rest = sampled_slots(make_program(config, False))
  if sft:
    batch, rest = config.sft.batch, config.sft.response_length
  measure = policy.processor.measure
  examples = buckets.sample_rows(make_source(config, "train", policy))
  sizes = [measure(example) for example in examples]
  lengths, slots = [n for n, _ in sizes], [n for _, n in sizes]
  chosen: dict[str, buckets.Chosen] = {}
  if not data.prompt_buckets:
    views = {}
    if mi is not None and mi.view in ("removed", "other_same_question"):
      texts = [measure(example, "removed")[0] for example in examples]
      views = buckets.view_needs(mi.view, mi.views, lengths, texts, batch)
    chosen["prompt_buckets"] = buckets.choose(
      lengths, batch, buckets.round_prompt, data.buckets, rest, views
    )
  if not data.patch_buckets:
    good = functools.partial(
      buckets.round_patches, window=policy.config.vision.window_patches
    )
    chosen["patch_buckets"] = buckets.choose(slots, batch, good, data.buckets)
  config = config.copy_and_resolve_references()
  for name, found in chosen.items():
    config.data[name] = found.sizes
  return config, buckets.told(chosen, len(examples))


def _buckets(config: ConfigDict, name: str) -> tuple[int, ...]:
  sizes = tuple(config.data[name])
  whole = all(isinstance(size, int) and size > 0 for size in sizes)
  if not whole or list(sizes) != sorted(set(sizes)):
    raise ValueError(f"data.{name}={sizes}: give whole numbers, growing")
  return sizes


def make_batcher(config: ConfigDict, policy: Policy, mi: MI | None) -> Batcher:
  """The batcher of a config; buckets that it leaves open are chosen here.

  Raises:
    ValueError: for buckets that are no growing sizes; and as `settled`.
  """
  config, _ = settled(config, policy)
  return Batcher(
    policy,
    _buckets(config, "prompt_buckets"),
    _buckets(config, "patch_buckets"),
    mi,
    config.seed,
  )
