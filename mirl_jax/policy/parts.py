"""The parts of a policy, and which of them are trained."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

PARTS = ("vision", "merger", "text")
TUNING = ("full", "lora", "frozen")
ADAPTER_LEAVES = ("lora_a", "lora_b", "lora_scale")

Tree = dict[str, Any]


def is_adapter(path: str) -> bool:
  """Whether a path names a leaf of an adapter."""
  return path.rpartition("/")[2] in ADAPTER_LEAVES


def part_of(path: str) -> str:
  """The part that a parameter's path ("vision/merger/fc1/kernel") is in."""
  root, _, rest = path.partition("/")
  if root == "vision" and rest.startswith(("merger/", "deep_mergers/")):
    return "merger"
  return root


@dataclass(frozen=True)
class Lora:
  """Settings of the adapters.

  Attributes:
    rank: r.
    alpha: the update is scaled by alpha / rank.
    target: regular expression, searched in the hub's module names
      ("model.layers.{}.self_attn.q_proj"); "" adapts every linear layer of the
      blocks and mergers.
  """

  rank: int = 16
  alpha: float = 32.0
  target: str = ""

  def __post_init__(self) -> None:
    if self.rank < 1 or self.alpha <= 0:
      raise ValueError(
        f"policy.lora: rank {self.rank} and alpha {self.alpha} must be above 0"
      )
    try:
      re.compile(self.target)
    except re.error as error:
      raise ValueError(
        f"policy.lora.target={self.target!r} is no regular expression: {error}"
      ) from error


@dataclass(frozen=True)
class Training:
  """How each part is trained.

  Attributes:
    vision, merger, text: `full`, `lora` (adapters beside frozen kernels) or
      `frozen`.
    lora: the adapters.
  """

  vision: str = "full"
  merger: str = "full"
  text: str = "full"
  lora: Lora = field(default_factory=Lora)

  def __post_init__(self) -> None:
    for part in PARTS:
      value = getattr(self, part)
      if value not in TUNING:
        raise ValueError(
          f"policy.train.{part}={value!r} is not one of {TUNING}"
        )
    if all(getattr(self, part) == "frozen" for part in PARTS):
      raise ValueError(
        "policy.train freezes vision, merger and text; nothing would learn"
      )

  def trains(self, path: str) -> bool:
    """Whether the parameter of this path is changed by training."""
    if is_adapter(path):
      return not path.endswith("lora_scale")  # a constant
    return getattr(self, part_of(path)) == "full"


def split(params: Mapping[str, Any], training: Training) -> tuple[Tree, Tree]:
  """A parameter tree, or one that mirrors it, as trained and frozen leaves."""
  flat = flatten_dict(dict(params), sep="/")
  trained = {path: x for path, x in flat.items() if training.trains(path)}
  frozen = {path: x for path, x in flat.items() if path not in trained}
  return unflatten_dict(trained, sep="/"), unflatten_dict(frozen, sep="/")


def join(
  trained: Mapping[str, Any] | None, frozen: Mapping[str, Any] | None
) -> Tree:
  """The inverse of `split`; None is an empty tree."""
  flat = flatten_dict(dict(trained or {}), sep="/")
  flat |= flatten_dict(dict(frozen or {}), sep="/")
  return unflatten_dict(flat, sep="/")
