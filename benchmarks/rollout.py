"""Sampling a group of responses per question: our tree against generate.

    python -m benchmarks.rollout --config={tiny,small,medium} [--pairs=3]

Three contenders sample the same number of tokens from the same random
Qwen2.5-VL, in turn, each in a process of its own:

  torch: transformers' generate, the prompt repeated for every sample;
  flat:  our rollout engine, every sample a question of its own;
  tree:  our rollout engine, one question with all its samples.

So torch/flat is what the compiler and runtime bring, flat/tree the design.
Before timing, all must choose the same tokens greedily. Prints one JSON object.
"""

from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.output import tell
from benchmarks.speed.compare import against_transformers

flags.DEFINE_enum("against", "transformers", ["transformers"], "Compared.")


def agree(checks: dict[str, dict[str, Any]], strict: bool) -> dict[str, float]:
  """Share of greedy tokens that are those of the tree; all in float32."""
  tree = np.array(checks["tree"]["tokens"])
  out = {}
  for name in checks.keys() - {"tree"}:
    same = float(np.mean(np.array(checks[name]["tokens"]) == tree))
    if strict and same < 1:
      raise ValueError(f"{name} and tree agree on {same:.1%} of greedy tokens")
    out[f"greedy {name}-tree"] = same
  return out


def main(argv: list[str]) -> None:
  del argv
  report = against_transformers("rollout", lambda s: s.new_tokens, agree)
  tell(report)


if __name__ == "__main__":
  app.run(main)
