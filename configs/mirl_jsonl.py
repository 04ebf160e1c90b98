"""MIRL on your own pictures: a jsonl file beside a folder of images.

    python -m mirl_jax.main --config=configs/mirl_jsonl.py:path=DIR \\
      --config.policy.path=MODEL --workdir=RUN

DIR holds `data.jsonl`, one JSON object per line, and the pictures that it
names. Columns:

    id           unique text
    image        a path, or a list of paths, relative to DIR
    question     what is asked, without any image placeholder
    answer       the reference answer
    answer_type  number, choice_letter, choice_text, text, yes_no or free_form:
                 how an answer is compared; without it, by what it looks like
    options      a list of choices, shown below the question as (A), (B), …
    category     for tables
    min_pixels, max_pixels  of this row's pictures, in place of the policy's
    description  a true description of the picture; --mode=sft needs it
    reasoning    from the description to the answer; --mode=sft uses it

Only the first four must be there; other columns are ignored. Other formats are
read as well, by their columns (mirl_jax/data/open.py). A row that cannot be
used is written to RUN/quarantine.jsonl with the reason, and the run goes on
unless more than `data.max_bad_share` of the rows are bad.

The argument is a list of field=value with commas between (a path with a comma
goes into --config.data.train instead):

    path           the folder, or the file itself
    test           another folder whose rows are all held out; without it
    test_share     of the groups of `path` is held out (default .2)
    group          the column whose equal values never stand on both sides of
                   that split (default image), and over which standard errors
                   are clustered
    group_pattern  a regular expression; its (group) within that column counts
    describe       shapes or nlvr: fills description and reasoning of those two
                   data sets from what they say of their pictures
    method         mirl (default), mirl_paper or grpo
    reward         a python file that defines score(example, text, siblings):
                   it pays the last stage, beside correctness and with the same
                   weight (mirl_jax/rewards/own.py); the field
                   --config.credit.STAGE.own.weight changes that

A policy that does not yet write <description>, <think> and <answer> needs a
supervised start first; `config.sft` has its sizes:

    python -m mirl_jax.main --mode=sft --workdir=START \\
      --config=configs/mirl_jsonl.py:path=DIR,describe=shapes
    python -m mirl_jax.main --workdir=RUN --config.policy.path=START/model \\
      --config=configs/mirl_jsonl.py:path=DIR,describe=shapes

Without --config.policy.path it is the embedded tiny model, which knows coloured
shapes on a 3 x 3 grid and little else.
"""

from typing import Any

from ml_collections import ConfigDict

from mirl_jax.config import get_config as method_config
from mirl_jax.config import parse_argument

_FIELDS = {
  "path": "",
  "test": "",
  "test_share": "0.2",
  "group": "",
  "group_pattern": "",
  "describe": "",
  "method": "mirl",
  "reward": "",
}

# What a data set needs beside its rows. Lengths are the longest that it has
# with the embedded tokenizer, rounded up.
_PRESETS: dict[str, dict[str, Any]] = {
  "": {
    "describe_tokens": 128,
    "reason_tokens": 256,
    "response_length": 384,
  },
  # 30 x 30 pixels become 48 x 48: each of the nine cells is one visual token.
  "shapes": {
    "describe_tokens": 48,
    "reason_tokens": 136,
    "response_length": 176,
    "min_pixels": 48 * 48,
  },
  # 400 x 100 pixels become 192 x 48: a box is 3 x 3 visual tokens. The rows
  # … show one scene with its boxes in another order.
  "nlvr": {
    "describe_tokens": 192,
    "reason_tokens": 32,
    "response_length": 216,
    "min_pixels": 192 * 48,
    "max_pixels": 192 * 48,
    "group": "id",
    "group_pattern": "^(.*)-",
  },
}


def get_config(arg: str = "") -> ConfigDict:
  """A method on a folder of pictures.

  Raises:
    ValueError: for an argument that names no path, or an unknown field, data
      set or method.
  """
  given = parse_argument(arg, _FIELDS)
  if not given["path"]:
    raise ValueError("say where the data is: configs/mirl_jsonl.py:path=DIR")
  if given["describe"] not in _PRESETS:
    known = ", ".join(name for name in _PRESETS if name)
    raise ValueError(
      f"describe={given['describe']} is none of {known}; leave it away for"
      " data of your own"
    )
  preset = _PRESETS[given["describe"]]
  c = method_config(given["method"])

  c.data.train = given["path"]
  c.data.test = given["test"]
  try:
    c.data.test_share = float(given["test_share"])
  except ValueError:
    raise ValueError(
      f"test_share={given['test_share']}: give a share in 0..1"
    ) from None
  c.data.describe = given["describe"]
  c.data.group = given["group"] or preset.get("group", "image")
  # A pattern of the preset belongs to the preset's column.
  c.data.group_pattern = given["group_pattern"] or (
    "" if given["group"] else preset.get("group_pattern", "")
  )

  if given["reward"]:
    c.reward.file = given["reward"]
    with c.unlocked():
      c.credit[c.program.stages[-1]].own = {
        "weight": 1.0,
        "baseline": "question",
        "std": True,
      }

  c.policy.min_pixels = preset.get("min_pixels", 0)
  c.policy.max_pixels = preset.get("max_pixels", 0)
  lengths = {
    "describe": preset["describe_tokens"],
    "reason": preset["reason_tokens"],
    "response": preset["response_length"],
  }
  for stage in c.program.stages:
    if stage in lengths:
      c.program[stage].max_tokens = lengths[stage]
  c.sft.response_length = preset["response_length"]
  c.sft.steps = 300
  c.sft.lr = 1e-3
  return c
