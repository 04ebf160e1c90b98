"""A whole training step: our GRPO and MIRL against TRL's GRPOTrainer.

    python -m benchmarks.step --config={tiny,small,medium} [--pairs=3]

Three contenders train the same random Qwen2.5-VL on the same questions, in
turn, each in a process of its own; a repetition is one whole step (read the
pictures, sample, reward, update):

  trl:  GRPOTrainer, one update per batch, nothing recomputed;
  grpo: ours, as many responses of the same length per question;
  mirl: ours, 10 descriptions, 6 kept by mutual information, 2 reasonings for
    each, the two stages together as long as one response.

The reward is the parity of the last response's first token. Before timing,
prompts must be the same tokens and TRL must have generated as many as GRPO.
Prints one JSON object.
"""

import tempfile
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.output import tell
from benchmarks.speed import compare
from benchmarks.speed.model import described, write_model, write_questions
from benchmarks.speed.workers import cores, started

flags.DEFINE_enum("against", "trl", ["trl"], "Compared.")
_MICRO = flags.DEFINE_integer(
  "trl_micro", 0, "Samples of TRL's backward pass; 0 = a question's."
)


def agree(checks: dict[str, dict[str, Any]]) -> dict[str, Any]:
  """Token counts of the prompts and of what was generated.

  Raises:
    ValueError: where the contenders do not work on the same thing.
  """

  def prompts(name: str) -> set[tuple[int, ...]]:
    return {tuple(row) for row in checks[name]["prompts"]}

  generated = {name: check["generated"] for name, check in checks.items()}
  if not prompts("trl") == prompts("grpo") == prompts("mirl"):
    raise ValueError(
      "the prompts are not the same tokens:"
      f" {[sorted(prompts(name))[0] for name in checks]}"
    )
  if generated["trl"] != generated["grpo"]:
    raise ValueError(f"generated tokens differ: {generated}")
  return {"prompts": "equal", "generated": generated}


def main(argv: list[str]) -> None:
  del argv
  sizes, questions, samples = compare.chosen_sizes("update")
  compare.use_cpu()
  modules = {
    "trl": "benchmarks.speed.trl_worker",
    "grpo": "benchmarks.speed.our_step",
    "mirl": "benchmarks.speed.our_step",
  }
  env = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
  }
  with tempfile.TemporaryDirectory() as folder:
    write_model(Path(folder), sizes)
    write_questions(Path(folder), sizes, questions)
    with started(modules, env) as workers:
      common = {
        "folder": folder,
        "questions": questions,
        "dtype": compare.DTYPE.value,
      }
      loaded = {}
      for name, worker in workers.items():
        own: dict[str, Any] = {
          "method": name,
          "config": compare.CONFIG.value,
          "fanout": samples,
        }
        if name == "trl":
          own = {
            "samples": samples,
            "tokens": sizes.new_tokens,
            "micro": _MICRO.value or samples,
          }
        loaded[name] = worker.ask("setup", **common, **own)["loaded_mb"]
      checks = {name: worker.ask("check") for name, worker in workers.items()}
      agreement = agree(checks)
      times = compare.alternate(
        workers, compare.WARMUPS.value, compare.PAIRS.value
      )
      notes = {name: worker.ask("note") for name, worker in workers.items()}
  generated = agreement["generated"]
  report = {
    "benchmark": "step",
    "against": "trl",
    "config": compare.CONFIG.value,
    "questions": questions,
    "samples": samples,
    "response_tokens": sizes.new_tokens,
    "dtype": compare.DTYPE.value,
    "cores": cores(),
    "ratio": {
      "trl/grpo": compare.ratio(times, "trl", "grpo"),
      "trl/mirl": compare.ratio(times, "trl", "mirl"),
      "mirl/grpo": compare.ratio(times, "mirl", "grpo"),
    },
    "generated_ratio": {
      "mirl/grpo": compare.rounded(generated["mirl"] / generated["grpo"])
    },
    "contenders": {
      name: compare.entry(
        times[name], generated[name], loaded[name], notes[name]
      )
      for name in modules
    },
    "agreement": agreement,
    "sizes": described(sizes),
    "versions": compare.versions(
      "jax", "jaxlib", "flax", "torch", "transformers", "trl"
    ),
  }
  tell(report)


if __name__ == "__main__":
  app.run(main)
