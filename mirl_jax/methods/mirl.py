"""MIRL with the credit that the evidence supports: the default.

    for each question (v, q):
      d_1..d_N ~ π(· | v, q)                       N = 6 descriptions
      s_i = mean_t [log π0(d_it | v, q) - λ log π0(d_it | v0, q)]   λ = .8,
        π0 the frozen start, v0 a blank picture; a token that π0 finds less
        than a tenth as probable as its first choice earns nothing by it
      keep the k = 4 descriptions with the highest s
      r_i ~ π(· | v, q, d_i)                       one reasoning each
      y_i = 1 if r_i's answer is right
      description advantage (all N): s less its mean over the N, in nats per
        token, plus half the z-score of y over the kept (0 for the others)
      reasoning advantage: y_i less the question's mean and less what a
        running regression on d_i's scores predicts, over the spread
      clipped policy gradient on both, one step

Source: arXiv 2605.01520 (screening by MI, decoupled credit). λ, the view, the
mix, one child per kept description and the regressed baseline are ours, and so
is N/k: at equal tokens more, smaller steps won over the abstract's 10/6
(benchmarks/RESULTS.md). MI is left in nats: over its spread it would pay the
last hair's breadth between equal descriptions as much as the gap between right
and wrong, and was gamed. The scorer is frozen: scored by itself, a policy at
twice the learning rate unlearned the prior's words together with what it saw.
"""

from typing import Any


def fragment() -> dict[str, Any]:
  """What the method sets."""
  return {
    "program": {
      "stages": ("describe", "keep", "reason"),
      "describe": {
        "fanout": 6,
        "max_tokens": 24,
        "stop": "</description>",
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "halvings": 0,
      },
      "keep": {"k": 4, "by": "mi"},
      "reason": {
        "fanout": 1,
        "max_tokens": 56,
        "stop": "</answer>",
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "halvings": 0,
      },
    },
    "mi": {
      "stage": "describe",
      "view": "blank",
      "views": 1,
      "mask_rate": 0.5,
      "prior_weight": 0.8,
      "reduction": "mean",
      "clip": 0.0,
      "scorer": "reference",
      "temperature": 1.0,
      "plausible": 0.1,
    },
    "credit": {
      "describe": {
        "mi": {"weight": 1.0, "baseline": "question", "std": False},
        "children_correct": {
          "weight": 0.5,
          "baseline": "question",
          "std": True,
        },
      },
      "reason": {
        "correct": {"weight": 1.0, "baseline": "regression", "std": True},
        "format": {"weight": 0.0, "baseline": "question", "std": True},
        # the degree to which an answer is right, as the IoU of boxes
        "score": {"weight": 0.0, "baseline": "question", "std": True},
      },
    },
    "loss": {"kl": {"describe": 0.0, "reason": 0.0}},
  }
