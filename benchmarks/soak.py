"""Does a long run compile anew, or grow? Pictures and questions of all sizes.

    python -m benchmarks.soak --steps=200

Trains the tiny model on pictures of changing sizes under questions of changing
lengths, and prints one JSON object: tracings and compilations after the
warm-up, how much the process's memory grew from there to the end, and in how
many places the job's device programs call the host.
"""

import contextlib
import io
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from PIL import Image

from benchmarks.output import tell
from mirl_jax.config import get_config
from mirl_jax.host_memory import tune_allocator
from mirl_jax.runs.metrics import read_metrics

_STEPS = flags.DEFINE_integer("steps", 200, "Steps of training.")
_WARM = flags.DEFINE_integer("warm", 25, "Steps of warm-up.")
_ROWS = 400
_WORDS = "how many red round green small shapes lie near the blue one".split()

# How a program, lowered or compiled, calls the host: a callback of Python's by
# its target, or a transfer in the middle of the program.
_CALLS_HOST = re.compile(
  r"""(?:custom_call\ @|custom_call_target=")\w*python\w*callback
  | stablehlo\.(?:infeed|outfeed|send|recv)\b
  | =\ [^=]*\ (?:infeed|outfeed|send|recv)\(""",
  re.VERBOSE,
)


def host_callbacks(program: str) -> int:
  """Places where a program calls the host, from its StableHLO or HLO text."""
  return len(_CALLS_HOST.findall(program))


@contextlib.contextmanager
def programs_kept(folder: Path) -> Iterator[None]:
  """Writes every program to a folder as it is compiled, as StableHLO text."""
  jax.config.update("jax_dump_ir_to", str(folder))
  try:
    yield
  finally:
    jax.config.update("jax_dump_ir_to", "")  # its default


def compiled_programs(folder: Path) -> dict[str, tuple[float, str]]:
  """When each program in the folder was compiled, and its text, by name."""
  return {
    file.name: (file.stat().st_mtime, file.read_text(encoding="utf-8"))
    for file in sorted(folder.glob("*.mlir"))
  }


def write_rows(folder: Path) -> None:
  """A data.jsonl whose pictures and questions differ from row to row."""
  rng = np.random.default_rng(0)
  lines = []
  for i in range(_ROWS):
    height, width = rng.integers(24, 130, 2)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    (folder / f"{i}.png").write_bytes(data.getvalue())
    words = rng.choice(_WORDS, rng.integers(3, 30))
    row = {
      "id": str(i),
      "image": f"{i}.png",
      "question": " ".join(words),
      "answer": str(int(rng.integers(0, 9))),
      "answer_type": "number",
    }
    lines.append(json.dumps(row))
  (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")


def measure(steps: int, warm: int) -> dict[str, float | int]:
  """Runs `steps` steps and reads their metrics.

  Args:
    steps: of training.
    warm: step after which nothing should be compiled any more.

  Raises:
    ValueError: for a warm-up that leaves no step after it.
  """
  from mirl_jax.train import train

  if not 1 <= warm < steps:
    raise ValueError(f"--warm={warm} must lie in 1..{steps - 1}, below --steps")
  with tempfile.TemporaryDirectory() as temporary:
    data, workdir, folder = (
      Path(temporary) / name for name in ("data", "run", "programs")
    )
    data.mkdir()
    folder.mkdir()
    write_rows(data)
    config = get_config("mirl")
    config.data.train = str(data)
    config.train.steps = steps
    config.train.questions = 4
    config.train.save_every = 0
    config.train.dump_every = 0
    config.eval.every = 0
    config.eval.final_questions = 4
    config.eval.batch = 4
    # As one would choose them for such data: three sizes each.
    config.data.prompt_buckets = (32, 64, 128)
    config.data.patch_buckets = (36, 144, 256)
    # Its tables are no part of the JSON.
    with programs_kept(folder), contextlib.redirect_stdout(sys.stderr):
      began = time.time()
      train(config, str(workdir))
    rows = {row["step"]: row for row in read_metrics(workdir)}
    programs = compiled_programs(folder)
  return {
    "steps": steps,
    "warm_up": warm,
    **summary(rows, warm),
    "programs": len(programs),
    # A program may be compiled anew without being traced, as for an argument
    # that lies on another device. The final evaluation counts.
    "compiled_after_warm_up": sum(
      at > began + rows[warm]["wall_s"] for at, _ in programs.values()
    ),
    "host_callbacks": sum(
      host_callbacks(text) for _, text in programs.values()
    ),
  }


def summary(
  rows: Mapping[int, Mapping[str, float]], warm: int
) -> dict[str, float | int]:
  """Tracings and memory before and after the warm-up.

  A step's count holds the sampling of the next step, which is started in it.

  Args:
    rows: of metrics.jsonl by step; step 0 is before training.
    warm: the warm-up's last step.
  """
  last = max(rows)
  compiles = {step: row["compiles"] for step, row in rows.items() if step}
  memory = {step: row["memory/host_mb"] for step, row in rows.items() if step}
  return {
    "traced_in_warm_up": compiles[warm],
    "traced_after_warm_up": compiles[last] - compiles[warm],
    "last_step_that_traced": min(
      step for step in compiles if compiles[step] == compiles[last]
    ),
    "host_mb_after_warm_up": memory[warm],
    "host_mb_at_end": memory[last],
    "growth": memory[last] / memory[warm] - 1,
  }


def main(argv: Sequence[str]) -> None:
  del argv
  tune_allocator()
  tell(measure(_STEPS.value, _WARM.value))


if __name__ == "__main__":
  app.run(main)
