"""Log-probs of a group of responses: our tree against a forward per sample.

    python -m benchmarks.score --config={tiny,small,medium} [--pairs=3]

Three contenders score the same responses under the same random Qwen2.5-VL, in
turn, each in a process of its own:

  torch: transformers' forward over prompt and response of every sample, head
    on the responses only, in the batch size that is fastest for it;
  flat:  our score_tree, every sample a question of its own;
  tree:  our score_tree, one question with all its samples.

So torch/flat is what the compiler and runtime bring, flat/tree the design.
Before timing, all log-probs must agree. Prints one JSON object.
"""

from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.output import tell
from benchmarks.speed.compare import against_transformers

flags.DEFINE_enum("against", "transformers", ["transformers"], "Compared.")


def agree(checks: dict[str, dict[str, Any]], strict: bool) -> dict[str, float]:
  """Largest difference of a log-prob to the tree's, in nats."""
  tree = np.array(checks["tree"]["logprobs"])
  out = {}
  for name in checks.keys() - {"tree"}:
    gap = float(np.max(np.abs(np.array(checks[name]["logprobs"]) - tree)))
    if not gap < (1e-3 if strict else 0.3):
      raise ValueError(f"{name} and tree differ by {gap} nats in a log-prob")
    out[f"logprob {name}-tree"] = gap
  return out


def main(argv: list[str]) -> None:
  del argv
  report = against_transformers("score", lambda s: s.response, agree)
  tell(report)


if __name__ == "__main__":
  app.run(main)
