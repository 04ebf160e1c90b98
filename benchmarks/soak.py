"""Does a long run compile anew, or grow? Pictures and questions of all sizes.

    python -m benchmarks.soak --steps=200

Trains the tiny model on pictures of changing sizes under questions of changing
lengths, and prints one JSON object: tracings after the warm-up, and how much
the process's memory grew from there to the end.
"""

import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from mirl_jax.config import get_config
from mirl_jax.host_memory import tune_allocator
from mirl_jax.runs.metrics import read_metrics

_STEPS = flags.DEFINE_integer("steps", 200, "Steps of training.")
_WARM = flags.DEFINE_integer("warm", 25, "Steps of warm-up.")
_ROWS = 400
_WORDS = "how many red round green small shapes lie near the blue one".split()


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
  """Runs `steps` steps and reads their metrics."""
  from mirl_jax.train import train

  with tempfile.TemporaryDirectory() as temporary:
    data, workdir = Path(temporary) / "data", Path(temporary) / "run"
    data.mkdir()
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
    train(config, str(workdir))
    rows = [row for row in read_metrics(workdir) if row["step"]]
  memory = np.array([row["memory/host_mb"] for row in rows])
  compiles = [row["compiles"] for row in rows]
  return {
    "steps": steps,
    "warm_up": warm,
    "traced_in_warm_up": compiles[warm - 1],
    "traced_after_warm_up": compiles[-1] - compiles[warm - 1],
    "last_step_that_traced": 1 + int(np.argmax(compiles)),
    "host_mb_after_warm_up": float(memory[warm - 1]),
    "host_mb_at_end": float(memory[-1]),
    "growth": float(memory[-1] / memory[warm - 1] - 1),
  }


def main(argv: Sequence[str]) -> None:
  del argv
  tune_allocator()
  print(json.dumps(measure(_STEPS.value, _WARM.value), indent=1))


if __name__ == "__main__":
  app.run(main)
