"""How a step scales over TPU slices, by compiling it for them alone.

    python -m benchmarks.pods [--kind=v5e] [--out=DIR]

Compiles the sampler and the update of a published model for growing slices of
one kind, for a fixed number of questions (strong scaling) and for a fixed
number of each data shard (weak), and prints as one JSON object, for each chip:
operations, bytes from and to HBM, bytes sent, the time of the slowest of these
at the chip's peak, and the efficiency of a step: what the smallest slice's time
is to this one's, each times its chips and over its questions. No TPU is used,
so nothing here was timed. What is finished is a file in --out and is not
repeated.
"""

import json
import math
import runpy
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict

from benchmarks.output import tell, versions
from mirl_jax.aot import analyse

_KIND = flags.DEFINE_string("kind", "v5e", "Of the slices.")
_SLICES = flags.DEFINE_list(
  "slices", ["2x4", "4x4", "4x8", "8x8", "8x16", "16x16"], "Growing sizes."
)
_MODEL = flags.DEFINE_string("model", "qwen2_5_vl_3b", "A file of configs/.")
_TENSOR = flags.DEFINE_integer("tensor", 4, "Size of that axis.")
_STRONG = flags.DEFINE_integer("strong", 64, "Questions of a step.")
_WEAK = flags.DEFINE_integer("weak", 8, "Questions of each data shard.")
_AT_ONCE = flags.DEFINE_integer("at_once", 4, "Of a shard that are sampled.")
_FSDP = 64  # at most: more does not divide the models' widths
_OUT = flags.DEFINE_string("out", "runs/pods", "Directory of the rows.")


def sized(
  base: ConfigDict, chips: int, tensor: int, questions: int, at_once: int
) -> ConfigDict:
  """The config on a slice: a question of each shard is updated at a time.

  Raises:
    ValueError: where the shards do not divide the questions.
  """
  shards = chips // tensor
  if shards * tensor != chips or questions % shards:
    raise ValueError(
      f"{questions} questions on {chips} chips, tensor:{tensor}: give questions"
      " that the data shards divide"
    )
  own, fsdp = questions // shards, math.gcd(shards, _FSDP)
  c = base.copy_and_resolve_references()
  c.mesh = f"data:{shards // fsdp},fsdp:{fsdp},tensor:{tensor}"
  c.train.questions = questions
  c.train.sample_parts = math.ceil(own / at_once)
  c.loss.micro_batches = own
  return c


def summary(report: dict[str, Any], questions: int) -> dict[str, Any]:
  """What one chip does in a step: its parts of the sampler, and the update."""
  rows = report["programs"]
  found: dict[str, Any] = {
    "topology": report["topology"],
    "chips": report["devices"],
    "mesh": report["mesh"],
    "questions": questions,
    "fits": all(row["fits"] for row in rows),
    "peak_gb": {row["name"]: row.get("peak_gb") for row in rows},
  }
  if not report["step"]:
    return found
  for row in rows:
    times = row["per_step"]
    sent = sum(kind["gb"] for kind in row["collectives"].values())
    found[row["name"]] = {
      "tflop": times * row["tflops"],
      "hbm_gb": times * row["hbm_gb"],
      "sent_gb": times * sent,
      "bound": row["bound"],
      "roofline_s": times * row["roofline_s"][row["bound"]],
    }
  found["step_s"] = report["step"]["roofline_s"]
  return found


def efficiencies(rows: list[dict[str, Any]]) -> None:
  """Adds each row's, against the first that has a time."""
  timed = [row for row in rows if "step_s" in row]
  for row in timed:
    costs = [x["step_s"] * x["chips"] / x["questions"] for x in (timed[0], row)]
    row["efficiency"] = costs[0] / costs[1]


def measure(base: ConfigDict, size: str, questions: int) -> dict[str, Any]:
  """One slice's row; read back where it was compiled before."""
  chips = math.prod(int(n) for n in size.split("x"))
  config = sized(base, chips, _TENSOR.value, questions, _AT_ONCE.value)
  name = f"{_MODEL.value}-{_KIND.value}-{size}-t{_TENSOR.value}-q{questions}"
  file = Path(_OUT.value) / f"{name}.json"
  if not file.exists():
    report = analyse(
      config, f"{_KIND.value}:{size}", wanted=("sample", "update")
    )
    file.write_text(json.dumps(report), encoding="utf-8")
  return summary(json.loads(file.read_text("utf-8")), questions)


def main(argv: list[str]) -> None:
  del argv
  Path(_OUT.value).mkdir(parents=True, exist_ok=True)
  base = runpy.run_path(f"configs/{_MODEL.value}.py")["get_config"]("")
  found: dict[str, list[dict[str, Any]]] = {}
  for kind, questions in (("strong", _STRONG.value), ("weak", _WEAK.value)):
    if not questions:
      continue
    rows = found[kind] = []
    for size in _SLICES.value:
      chips = math.prod(int(n) for n in size.split("x"))
      shards = chips // _TENSOR.value
      asked = questions * (shards if kind == "weak" else 1)
      rows.append(measure(base, size, asked))
    efficiencies(rows)
  tell(
    {
      "benchmark": "pods",
      "model": base.policy.path,
      **found,
      "versions": versions("jax", "jaxlib", "libtpu"),
    }
  )


if __name__ == "__main__":
  app.run(main)
