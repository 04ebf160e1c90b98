"""Our parameters beside the tensors of a Hugging Face checkpoint: one table.

Our kernels are [in, out] and blocks are stacked on a leading layer axis;
torch's are [out, in], one tensor per layer. Shapes come from the abstract
parameters, so the table holds names only. loading.py and saving.py go by it.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
from flax.traverse_util import flatten_dict

from mirl_jax.policy.abstract import abstract_params
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.families import FAMILIES, family

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEAD = "lm_head.weight"
_NAMED = 8  # tensors named per kind of fault; the rest are counted
_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "embedding": "weight",
  "bias": "bias",
}


@dataclass(frozen=True)
class Row:
  """One leaf of our tree and the tensors that it is made of.

  Attributes:
    path: of the leaf, joined by "/".
    shape: of the leaf.
    names: the tensor, or one per layer.
    tensor_shape: of each tensor.
    stacked: whether the leaf's leading axis is the layer.
  """

  path: str
  shape: tuple[int, ...]
  names: tuple[str, ...]
  tensor_shape: tuple[int, ...]
  stacked: bool

  @property
  def transposed(self) -> bool:
    """Whether a layer of the leaf is its tensor, as a matrix, transposed."""
    return self.path.endswith("kernel")


def weight_table(config: VLMConfig) -> tuple[Row, ...]:
  """Every parameter beside its names on the hub."""
  vision, modules = config.vision, family(config).NAMES
  conv = (vision.channels, vision.temporal_patch, vision.patch, vision.patch)
  rows = []
  for path, leaf in flatten_dict(abstract_params(config), sep="/").items():
    module, _, kind = path.rpartition("/")
    name = f"{modules[module]}.{_LEAVES[kind]}"
    stacked = "{}" in name
    shape = tuple(leaf.shape)
    one = shape[1:] if stacked else shape
    if kind == "kernel":
      one = one[::-1]
    if path == "vision/patch_embed/kernel":
      one = (one[0], *conv)
    layers = range(shape[0]) if stacked else (0,)
    names = tuple(name.format(i) for i in layers)
    rows.append(Row(path, shape, names, one, stacked))
  return tuple(rows)


def expected_tensors(config: VLMConfig) -> dict[str, tuple[int, ...]]:
  """Names and shapes of a checkpoint of this config, hub layout."""
  return {
    name: row.tensor_shape for row in weight_table(config) for name in row.names
  }


def embedding_name(config: VLMConfig) -> str:
  return f"{family(config).NAMES['text/embed']}.weight"


def _absent(kind: str, names: list[str], others: list[str], label: str) -> str:
  """A line on names that have no partner, a few with the nearest one."""
  parts = []
  for name in names[:_NAMED]:
    close = difflib.get_close_matches(name, others, 1)
    parts.append(f"{name} ({label} {close[0]})" if close else name)
  if len(names) > _NAMED:
    parts.append(f"… and {len(names) - _NAMED} more")
  return f"{len(names)} {kind}: " + ", ".join(parts)


def _plain(name: str) -> str:
  """A name without what tells one layout of a family from another, or one
  layer from another."""
  name = re.sub(r"\b(model|language_model)\.", "", name)
  return re.sub(r"\.(\d+|\{\})\.", ".*.", name)


def _named_as(found: Iterable[str], config: VLMConfig) -> str:
  """The family whose modules the names are those of; the config's in doubt."""
  modules = {_plain(name).rpartition(".")[0] for name in found}

  def share(kind: str) -> float:
    known = {_plain(name) for name in FAMILIES[kind].NAMES.values()}
    return len(modules & known) / len(known)

  return max((config.family, *FAMILIES), key=share)


def check_tensors(
  found: Mapping[str, tuple[int, ...]], config: VLMConfig, where: str
) -> None:
  """Compares a checkpoint's names and shapes with the config's.

  Args:
    found: hub names and shapes.
    config: what they should fit.
    where: the checkpoint, for the message.

  Raises:
    ValueError: one message that lists missing, surplus and misshapen tensors,
      each absent name with the nearest one on the other side, and what model
      the names are of where it is not the config's.
  """
  expected = expected_tensors(config)
  missing = [name for name in expected if name not in found]
  surplus = [name for name in found if name not in expected]
  if config.text.tied and HEAD in surplus:
    surplus.remove(HEAD)  # compared with the embedding on reading
  wrong = [
    f"{name} is {list(found[name])} instead of {list(shape)}"
    for name, shape in expected.items()
    if name in found and tuple(found[name]) != shape
  ]
  likely = _named_as(found, config)
  if likely != config.family:
    raise ValueError(
      f"{where} does not fit its config: its tensors are named as those of"
      f" {likely}, but config.json has model_type {config.family}"
      f" ({len(missing)} of {len(expected)} tensors are missing); one of the"
      " two is another model's, so download the directory again"
    )
  faults = []
  if missing == [HEAD]:
    faults.append(
      "it has no head and can write nothing, as an embedding model; name the"
      " generating model instead (or set tie_word_embeddings to true in"
      " config.json, where the head is the embedding)"
    )
  if missing:
    others = surplus or list(found)
    faults.append(_absent("missing", missing, others, "nearest there:"))
  if surplus:
    others = missing or list(expected)
    faults.append(_absent("surplus", surplus, others, "nearest expected:"))
  if wrong:
    more = [f"… and {len(wrong) - _NAMED} more"] * (len(wrong) > _NAMED)
    shown = ", ".join(wrong[:_NAMED] + more)
    faults.append(f"{len(wrong)} misshapen: {shown}")
  if faults:
    raise ValueError(f"{where} does not fit its config: " + "; ".join(faults))
