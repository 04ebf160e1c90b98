"""One slice's row, and what growing slices make of a step."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mirl_jax.aot import analyse

_FSDP = 64  # at most: more does not divide the models' widths


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


@dataclass(frozen=True)
class Slices:
  """What the slices share.

  Attributes:
    base: config of the model.
    model: its name in a row's file.
    kind: of the chips.
    tensor: size of that axis.
    at_once: questions of a shard that are sampled at a time.
    out: directory of the rows.
  """

  base: ConfigDict
  model: str
  kind: str
  tensor: int
  at_once: int
  out: Path

  def row(self, size: str, questions: int) -> dict[str, Any]:
    """One slice's; read back where it was compiled before."""
    config = sized(self.base, chips(size), self.tensor, questions, self.at_once)
    name = f"{self.model}-{self.kind}-{size}-t{self.tensor}-q{questions}"
    file = self.out / f"{name}.json"
    if not file.exists():
      report = analyse(config, f"{self.kind}:{size}", ("sample", "update"))
      file.write_text(json.dumps(report), encoding="utf-8")
    return summary(json.loads(file.read_text("utf-8")), questions)


def chips(size: str) -> int:
  """Of a slice such as 4x8."""
  return math.prod(int(n) for n in size.split("x"))


def scale(
  slices: Slices, sizes: Sequence[str], strong: int, weak: int
) -> dict[str, list[dict[str, Any]]]:
  """Rows of strong and of weak scaling.

  Args:
    slices: what they share.
    sizes: growing.
    strong: questions of a step; 0 leaves these rows out.
    weak: questions of each data shard; likewise.
  """
  found = {}
  if strong:
    found["strong"] = [slices.row(size, strong) for size in sizes]
  if weak:
    found["weak"] = [
      slices.row(size, weak * chips(size) // slices.tensor) for size in sizes
    ]
  for rows in found.values():
    efficiencies(rows)
  return found
