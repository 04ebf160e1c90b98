"""What the configs of the published models share: real lengths and dtypes."""

from collections.abc import Mapping
from types import MappingProxyType

from ml_collections import ConfigDict

from mirl_jax.config import get_config

# Tokens of a prompt, and of these its picture's.
PROMPT, PICTURE = 1280, 1024
DESCRIPTION, REASONING = 256, 768
_MERGE_UNIT = 4  # patches behind a token of a picture

# On one chip: adapters of the decoder beside frozen weights.
LORA = MappingProxyType(
  {
    "mesh": "data:1",
    "policy.train.vision": "frozen",
    "policy.train.merger": "frozen",
    "policy.train.text": "lora",
    "loss.micro_batches": 64,
  }
)

# Fields by dotted name, and their values.
Changes = Mapping[str, object]


def full_size(
  path: str, slices: Mapping[str, Changes], name: str
) -> ConfigDict:
  """MIRL at the paper's shape for a published model on a named slice.

  Args:
    path: the model's name on the hub; the directory that it was downloaded to
      goes into policy.path.
    slices: what a slice changes, by its name; the first is the default.
    name: of the slice; "" takes the first.

  Raises:
    ValueError: for an unknown slice.
  """
  name = name or next(iter(slices))
  if name not in slices:
    raise ValueError(f"{name!r} is none of the slices {', '.join(slices)}")
  c = get_config("mirl")
  c.policy.path = path
  c.policy.dtype = "bfloat16"
  c.policy.param_dtype = "bfloat16"
  c.program.describe.fanout = 10
  c.program.keep.k = 6
  c.program.describe.max_tokens = DESCRIPTION
  c.program.reason.max_tokens = REASONING
  c.program.reason.fanout = 2
  c.data.prompt_buckets = (PROMPT,)
  c.data.patch_buckets = (PICTURE * _MERGE_UNIT,)
  c.train.questions = 64
  c.eval.batch = 64
  c.optimizer.lr = 1e-6
  c.loss.remat = "full"
  for field, value in slices[name].items():
    section, _, last = field.rpartition(".")
    inner = c
    for part in section.split(".") if section else ():
      inner = inner[part]
    inner[last] = value
  return c
