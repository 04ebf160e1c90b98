"""One GRPO update: our tree against a plain torch update.

    python -m benchmarks.update --config={tiny,small,medium} [--pairs=3]

Three contenders take the same step (clipped loss, gradient, global-norm clip,
AdamW) on the same responses with the same random Qwen2.5-VL, in turn, each in
a process of its own:

  torch: forward and backward over prompt and response of every sample, as
    many at a time as memory holds, nothing recomputed;
  flat:  our update, every sample a question of its own;
  tree:  our update, one question with all its samples.

So torch/flat is what the compiler and runtime bring, flat/tree the design.
Before timing, loss and gradient norm must agree. Prints one JSON object.
"""

from typing import Any

from absl import app, flags

from benchmarks.output import tell
from benchmarks.speed.compare import against_transformers, relative_gaps

flags.DEFINE_enum("against", "transformers", ["transformers"], "Compared.")


def agree(checks: dict[str, dict[str, Any]], strict: bool) -> dict[str, float]:
  """Relative differences of loss and gradient norm."""
  limit = 1e-4 if strict else 0.05
  return {
    **relative_gaps(checks, "loss", limit),
    **relative_gaps(checks, "grad_norm", limit),
  }


def main(argv: list[str]) -> None:
  del argv
  report = against_transformers("update", lambda s: s.response, agree)
  tell(report)


if __name__ == "__main__":
  app.run(main)
