"""MIRL in the shape that the paper's abstract states.

    for each question (v, q):
      d_1..d_10 ~ π(· | v, q)
      s_i = Σ_t [log π0(d_it | v, q) - log π0(d_it | v0, q)]     frozen scorer
      keep the 6 descriptions with the highest s
      two reasonings for each: 12 complete trajectories instead of 16
      description advantage (all 10): s less its mean over the 10, in nats
      reasoning advantage: z-score of correctness over the 12
      clipped policy gradient; 3 · k3(π, π0) on description tokens

Source: arXiv 2605.01520, abstract: 10 pre-samples, top-6, 25 % fewer complete
trajectories than 16 (two forks are inferred from that), decoupled rewards.
The estimator is ours, and so are two guards, without which MI as the only
reward of descriptions collapses: a KL to the frozen reference, weighted to
match a reward in nats, and a plausibility cut. The KL is k3, whose gradient on
policy is that of KL(π0 || π).
"""

from typing import Any

from mirl_jax.methods import mirl


def fragment() -> dict[str, Any]:
  """What the method sets."""
  values = mirl.fragment()
  values["program"]["describe"]["fanout"] = 10
  values["program"]["keep"]["k"] = 6
  values["program"]["reason"]["fanout"] = 2
  values["mi"].update(
    prior_weight=1.0, reduction="sum", scorer="reference", plausible=0.1
  )
  values["credit"]["describe"]["children_correct"]["weight"] = 0.0
  values["credit"]["reason"]["correct"]["baseline"] = "question"
  values["loss"]["kl"]["describe"] = 3.0
  return values
