"""From examples to device batches, in buckets of sizes."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from mirl_jax.build import Policy, make_mi, make_program, make_source
from mirl_jax.data import buckets
from mirl_jax.data.share import Rows, Share
from mirl_jax.information.estimators import MI
from mirl_jax.parallel.mesh import DATA_AXES, batch_sharding
from mirl_jax.parallel.processes import agreed, gathered, own_rows, put_rows
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.processing import Pictures, decode_pictures
from mirl_jax.policy.prompts import Encoded, bucket
from mirl_jax.rollout.program import sampled_slots

Encoder = Callable[[int], Encoded]
# Views that show a question with the pictures of others in its batch.
_OTHERS = ("other", "other_same_question")


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

  def batch(
    self, examples: Rows, views: bool = True
  ) -> tuple[Prompts, Prompts | None]:
    """The questions [B, …], and what stands in for their images [M, B, …].

    Every picture is decoded once, on the processes that need it, by threads.
    Both are on the mesh; the second is None without MI, or where `views` are
    not wanted.
    """
    (whole,) = self._parts(examples, 1, views)
    return whole

  def parts(
    self, examples: Rows, count: int
  ) -> list[tuple[Prompts, Prompts | None]]:
    """As `batch`, in equal parts of the questions and of one size.

    What stands in for a question's images comes from the whole batch.
    """
    return self._parts(examples, count, True)

  def needs(self, size: int, count: int) -> list[int]:
    """The questions of a batch that this process needs for `parts`, growing:
    its own, and those whose pictures stand in for theirs."""
    mine, mi = self._mine(size, count), self.mi
    others = range(mi.views) if mi and mi.view in _OTHERS else ()
    return sorted({*mine, *(_other(i, m, size) for i in mine for m in others)})

  def share(self, size: int, count: int) -> Share | None:
    """What this process reads of every batch; None where there is one."""
    if jax.process_count() == 1:
      return None
    return Share(tuple(self.needs(size, count)), gathered)

  def _mine(self, size: int, count: int) -> list[int]:
    """The own questions of a batch that is made in parts, part by part."""
    part = size // count
    rows = own_rows(self.policy.mesh, part)
    return [at * part + i for at in range(count) for i in rows]

  def _parts(
    self, examples: Rows, count: int, views: bool
  ) -> list[tuple[Prompts, Prompts | None]]:
    mesh, size = self.policy.mesh, len(examples) // count
    mine = self._mine(len(examples), count)
    mi = self.mi if views else None
    needed = self.needs(len(examples), count) if views else mine
    shown = [examples[i] for i in needed]
    decoded = decode_pictures(self.policy.processor, shown)
    pictures = dict(zip(needed, decoded, strict=True))
    clean, stand_ins = self._encoders(examples, pictures, mi)
    prompts = [clean(i) for i in mine]
    others = [[stand_in(i) for i in mine] for stand_in in stand_ins]
    fits, others_fit = self._sizes(prompts, [e for x in others for e in x])
    spread = NamedSharding(mesh, P(None, DATA_AXES))

    def collate(rows: Sequence[Encoded], *sizes: int) -> Prompts:
      """With patches as the tower takes them: as bfloat16 half the bytes."""
      made = self.policy.processor.collate(rows, *sizes)
      patches = made.patches.astype(self.policy.dtype)
      return dataclasses.replace(made, patches=patches)

    own_size = len(mine) // count

    def part(at: int) -> tuple[Prompts, Prompts | None]:
      some = slice(at, at + own_size)
      own = put_rows(collate(prompts[some], *fits), batch_sharding(mesh), size)
      if not others:
        return own, None
      stacked = jax.tree.map(
        lambda *x: np.stack(x), *[collate(x[some], *others_fit) for x in others]
      )
      return own, put_rows(stacked, spread, size)

    return [part(at) for at in range(0, len(mine), own_size)]

  def _sizes(self, *groups: Sequence[Encoded]) -> list[tuple[int, int]]:
    """Tokens and patch slots that hold a group's prompts on all processes."""
    window = self.policy.config.vision.window_patches
    slots = [0, *(-(-n // window) * window for n in self.patch_buckets)]
    needs = agreed(
      [
        (
          max((len(e.tokens) for e in group), default=0),
          max((e.slots for e in group), default=0),
        )
        for group in groups
      ]
    )
    return [
      (self._prompt_size(length), bucket(patches, slots))
      for length, patches in needs.tolist()
    ]

  def _prompt_size(self, length: int) -> int:
    # A question that stands with a larger picture than its own may be longer
    # than all prompts: that costs a compilation, and must not end a run.
    if length > max(self.prompt_buckets):
      return buckets.round_prompt(length)
    return bucket(length, self.prompt_buckets)

  def _encoders(
    self, examples: Rows, pictures: Mapping[int, Pictures], mi: MI | None
  ) -> tuple[Encoder, list[Encoder]]:
    """How question i is shown, and what stands in for it in each of M views.

    On the calling thread alone: the tokenizer is for one at a time.
    """
    processor = self.policy.processor
    clean = functools.cache(
      lambda i: processor.encode(examples[i], pictures=pictures[i])
    )
    if mi is None:
      return clean, []
    if mi.view in _OTHERS and len(examples) <= mi.views:
      raise ValueError(
        f"mi.views={mi.views} other items need a batch of more than that, got"
        f" {len(examples)}; raise train.questions"
      )
    view = f"masked:{mi.mask_rate}" if mi.view == "masked" else mi.view

    def stand_in(m: int, i: int) -> Encoded:
      other = _other(i, m, len(examples))
      if view == "other":
        return clean(other)
      if view == "other_same_question":
        return processor.encode(examples[i], pictures=pictures[other])
      return processor.encode(examples[i], view, self.seed + m, pictures[i])

    return clean, [functools.partial(stand_in, m) for m in range(mi.views)]


def _other(i: int, m: int, size: int) -> int:
  """The question of a batch that stands in for question i in view m."""
  return (i + m + 1) % size


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
