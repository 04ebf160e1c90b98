"""Compiles a run's device programs ahead of time, for devices that need not be
here, and says whether they fit and what bounds them.

Nothing is downloaded, allocated or run. Sizes are the largest that the config
allows; loops are counted to their ends.
"""

import dataclasses
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mirl_jax import build
from mirl_jax.parallel import hlo, topology
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.directory import load_config
from mirl_jax.policy.published import published_config
from mirl_jax.programs import DeviceProgram, device_programs
from mirl_jax.runs.progress import Progress

NO_MEMORY = 3
_GB = 1e9
KNOBS = {
  "sample": "train.sample_parts up, train.questions down, a tensor axis, or"
  " policy.param_dtype=bfloat16",
  "update": "loss.micro_batches up, loss.remat=full, a larger fsdp or tensor"
  " axis, or policy.train.text=lora",
  "evaluate": "eval.batch or eval.samples down",
}


def model_sizes(config: ConfigDict) -> VLMConfig:
  """Of the config's policy: a directory's, or a published model's.

  Raises:
    ValueError: for a path that is neither.
  """
  path = build.policy_path(config)
  if isinstance(path, str) and not Path(path).is_dir():
    return published_config(path)
  return load_config(path)


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler says of a program, per device.

  Attributes:
    name: of the program.
    per_step: how often it runs in a step of training.
    seconds: that compiling took.
    arguments, outputs, temporaries: bytes; outputs that take an argument's
      place are not counted.
    code: bytes of the program itself.
    live: the most bytes that the compiler counts as in use at a time, on-chip
      memory with HBM; the heap of the temporaries has gaps, and is larger.
    beside: bytes that lie there and are none of its arguments.
    cost: of one run, None where it was not compiled.
    refused: the compiler's reason, "" where there is none.
  """

  name: str
  per_step: int
  seconds: float
  arguments: int = 0
  outputs: int = 0
  temporaries: int = 0
  code: int = 0
  live: int = 0
  beside: int = 0
  cost: hlo.Cost | None = None
  refused: str = ""

  @property
  def peak(self) -> int:
    """Bytes that are set aside at once, which must fit."""
    own = self.arguments + self.outputs + self.temporaries + self.code
    return own + self.beside


def compile_program(program: DeviceProgram, devices: int) -> Compiled:
  """Lowers and compiles one program."""
  began = time.monotonic()
  try:
    made = program.function.lower(*program.arguments).compile()
  except Exception as error:
    text = " ".join(str(error).split())
    if "RESOURCE_EXHAUSTED" not in text and "Ran out of memory" not in text:
      raise
    return Compiled(
      program.name,
      program.per_step,
      time.monotonic() - began,
      beside=program.beside,
      refused=out_of_memory(text),
    )
  seconds = time.monotonic() - began
  memory = made.memory_analysis()
  return Compiled(
    program.name,
    program.per_step,
    seconds,
    arguments=memory.argument_size_in_bytes,
    outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    live=memory.peak_memory_in_bytes,
    beside=program.beside,
    cost=hlo.cost(made.as_text(), devices),
  )


def out_of_memory(text: str) -> str:
  """The compiler's message in a few words."""
  used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", text) or re.search(
    r"required for .*?\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)", text
  )
  if used:
    return f"needs {used[1]} of {used[2]} HBM"
  return text[:200]


def roofline(cost: hlo.Cost, chip: topology.Chip) -> dict[str, float]:
  """Seconds that each resource is busy at its peak rate."""
  return {
    "compute": cost.flops / chip.flops,
    "hbm": cost.bytes / chip.bandwidth,
    "interconnect": sum(cost.sent.values()) / chip.links,
  }


def record(done: Compiled, chip: topology.Chip | None) -> dict[str, Any]:
  """One program's part of the report."""
  row: dict[str, Any] = {
    "name": done.name,
    "per_step": done.per_step,
    "compile_s": round(done.seconds, 2),
    "arguments_gb": done.arguments / _GB,
    "outputs_gb": done.outputs / _GB,
    "temporaries_gb": done.temporaries / _GB,
    "code_gb": done.code / _GB,
    "beside_gb": done.beside / _GB,
  }
  if done.refused:
    return {**row, "fits": False, "refused": done.refused}
  assert done.cost is not None
  row["peak_gb"] = done.peak / _GB
  row["live_gb"] = (done.live + done.beside) / _GB
  row["fits"] = chip is None or done.peak <= chip.memory
  row["tflops"] = done.cost.flops / 1e12
  row["hbm_gb"] = done.cost.bytes / _GB
  row["kernels_uncounted"] = done.cost.kernels
  row["collectives"] = {
    kind: {"count": count, "gb": done.cost.sent[kind] / _GB}
    for kind, count in sorted(done.cost.collectives.items())
  }
  if chip is not None:
    times = roofline(done.cost, chip)
    row["roofline_s"] = times
    row["bound"] = max(times, key=lambda name: times[name])
  return row


def step_record(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Rooflines of a step of training: its programs run one after the other."""
  parts = [row for row in rows if row["per_step"] and "roofline_s" in row]
  if not parts or any(r["per_step"] and "roofline_s" not in r for r in rows):
    return {}
  totals = {
    name: sum(row["per_step"] * row["roofline_s"][name] for row in parts)
    for name in parts[0]["roofline_s"]
  }
  return {
    "roofline_s": sum(
      row["per_step"] * max(row["roofline_s"].values()) for row in parts
    ),
    "busy_s": totals,
    "bound": max(totals, key=lambda name: totals[name]),
  }


def lines(report: Mapping[str, Any]) -> list[str]:
  """The report as a table for people."""
  memory = report["memory_gb"]
  head = f"{report['topology']}, {report['devices']} devices, {report['mesh']}"
  out = [head + (f", {memory:.2f} GB each" if memory else "")]
  names = ["program", "peak GB", "live", "arguments", "temporaries", "code"]
  names += ["beside", "TFLOP", "HBM GB", "sent GB", "bound", "compile s"]
  table = [names]
  for row in report["programs"]:
    if "refused" in row:
      table.append([row["name"], row["refused"]])
      continue
    sent = sum(x["gb"] for x in row["collectives"].values())
    bound = ""
    if "bound" in row:
      bound = f"{row['bound']} {row['roofline_s'][row['bound']]:.3g} s"
    numbers = ("peak", "live", "arguments", "temporaries", "code", "beside")
    table.append(
      [
        row["name"],
        *(f"{row[f'{name}_gb']:.2f}" for name in numbers),
        f"{row['tflops']:.3g}",
        f"{row['hbm_gb']:.3g}",
        f"{sent:.3g}",
        bound,
        f"{row['compile_s']:.1f}",
      ]
    )
  widths = [
    max(len(row[i]) for row in table if len(row) == len(names))
    for i in range(len(names))
  ]
  for row in table:
    pairs = zip(row, widths, strict=False)
    out.append("  ".join(cell.ljust(width) for cell, width in pairs).rstrip())
  for row in report["programs"]:
    kinds = row.get("collectives", {})
    said = [f"{x['count']} {k} {x['gb']:.3g} GB" for k, x in kinds.items()]
    if said:
      out.append(f"{row['name']}: {', '.join(said)}")
    if row.get("kernels_uncounted"):
      out.append(
        f"{row['name']}: the operations of {row['kernels_uncounted']} kernels"
        " are not known"
      )
  if report["step"]:
    step = report["step"]
    busy = ", ".join(f"{k} {v:.3g} s" for k, v in step["busy_s"].items())
    out.append(
      f"step: at least {step['roofline_s']:.3g} s, bound by {step['bound']}"
      f" ({busy})"
    )
  return out


def advice(rows: Sequence[Mapping[str, Any]], memory: float) -> list[str]:
  """What does not fit, and what to change."""
  out = []
  for row in rows:
    if row["fits"]:
      continue
    need = row.get("refused") or (
      f"needs {row['peak_gb']:.2f} of {memory:.2f} GB"
    )
    kind = row["name"].split()[0]
    out.append(f"error: does not fit: {row['name']} {need}; try {KNOBS[kind]}")
  return out


def analyse(
  config: ConfigDict, name: str, wanted: Sequence[str] = ()
) -> dict[str, Any]:
  """Compiles a config's device programs for a topology.

  Args:
    config: of the run.
    name: of the topology, such as v5e:4x4 or cpu:8.
    wanted: names of the programs; all where it is empty.

  Returns:
    The report, as `--json` prints it.

  Raises:
    ValueError: for a bad topology, config or model.
  """
  kind, _ = topology.parse(name)
  chip = topology.CHIPS.get(kind)
  vlm = model_sizes(config)
  devices = topology.devices(name)
  programs = device_programs(config, vlm, devices)
  if wanted:
    programs = [program for program in programs if program.name in wanted]
  rows = []
  with Progress(len(programs), label="program") as progress:
    for number, program in enumerate(programs, 1):
      done = compile_program(program, len(devices))
      rows.append(record(done, chip))
      progress.update(number, {"compile_s": done.seconds})
  return {
    "topology": name,
    "devices": len(devices),
    "mesh": config.mesh,
    "model": config.policy.path or "embedded",
    "questions": config.train.questions,
    "memory_gb": chip.memory / _GB if chip else None,
    "programs": rows,
    "step": step_record(rows),
  }


def compile(config: ConfigDict, workdir: str, name: str, as_json: bool) -> int:
  """Compiles every device program for a topology and prints the report.

  Args:
    config: of the run.
    workdir: not used; modes have one.
    name: of the topology, such as v5e:4x4 or cpu:8.
    as_json: print one JSON object instead of a table.

  Returns:
    The exit code: 3 where a program does not fit.

  Raises:
    ValueError: for a bad topology, config or model.
  """
  del workdir
  if not name:
    raise ValueError(
      "--mode=compile needs --topology, such as v5e:4x4 or cpu:8"
    )
  report = analyse(config, name)
  print(json.dumps(report, indent=1) if as_json else "\n".join(lines(report)))
  faults = advice(report["programs"], report["memory_gb"] or 0.0)
  for fault in faults:
    print(fault, file=sys.stderr)
  return NO_MEMORY if faults else 0
