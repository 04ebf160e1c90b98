"""GRPO: one stage, one reward.

    for each question: o_1..o_G ~ π(· | v, q)      G = 16 whole responses
      advantage: z-score of correctness over the G
      clipped policy gradient, one step

Source: DeepSeekMath (arXiv 2402.03300), with the asymmetric clip of DAPO
(arXiv 2503.14476).
"""

from typing import Any


def fragment() -> dict[str, Any]:
  """What the method sets."""
  return {
    "program": {
      "stages": ("response",),
      "response": {
        "fanout": 16,
        "max_tokens": 80,
        "stop": "</answer>",
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "halvings": 0,
      },
    },
    "credit": {
      "response": {
        "correct": {"weight": 1.0, "baseline": "question", "std": True},
        "format": {"weight": 0.0, "baseline": "question", "std": True},
        # the degree to which an answer is right, as the IoU of boxes
        "score": {"weight": 0.0, "baseline": "question", "std": True},
      },
    },
    "loss": {"kl": {"response": 0.0}},
  }
