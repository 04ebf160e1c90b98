"""From the run table to means, intervals and paired differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

METRICS = (
  "sampled_accuracy",
  "greedy_accuracy",
  "sampled_exact",
  "greedy_exact",
)
COSTS = (
  "steps",
  "generated_tokens",
  "flops",
  "seconds",
  "trajectories",
  "sampled_tokens",
)
Rows = Sequence[Mapping[str, Any]]


def interval(values: Sequence[float]) -> dict[str, Any]:
  """Mean over seeds with a 95 % Student interval."""
  mean = float(np.mean(values))
  if len(values) < 2:
    return {"mean": round(mean, 4), "half_width": None}
  error = float(np.std(values, ddof=1) / np.sqrt(len(values)))
  reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
  return {"mean": round(mean, 4), "half_width": round(reach, 4)}


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
  """Difference paired by seed, its interval and two-sided p (paired t)."""
  gaps = np.asarray(ours) - np.asarray(theirs)
  found = interval(list(gaps))
  if len(gaps) < 2:
    return {**found, "p": None}
  if np.ptp(gaps) == 0:
    return {**found, "p": 1.0 if gaps[0] == 0 else 0.0}
  return {**found, "p": float(stats.ttest_1samp(gaps, 0.0).pvalue)}


def best_rate(rows: Rows, budget: str = "tokens") -> float:
  """The learning rate with the best mean of sampled and greedy accuracy.

  By sampled accuracy alone, rates would win that sharpen the policy at the cost
  of its single best answer.
  """
  by_rate: dict[float, list[float]] = {}
  for row in rows:
    found = [row["at"][budget][metric] for metric in METRICS[:2]]
    by_rate.setdefault(row["lr"], []).append(float(np.mean(found)))
  return max(by_rate, key=lambda lr: (np.mean(by_rate[lr]), -lr))


def lead(differences: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """Whether an arm beats every one of its rivals.

  That it beats the best of them is only claimed where it beats each: the
  largest p is a valid p for that (an intersection-union test), so that no
  choice of the best has to be corrected for.

  Args:
    differences: of one arm by rival, from `paired`.
  """
  rival = min(differences, key=lambda name: differences[name]["mean"])
  known = [d["p"] if d["mean"] > 0 else 1.0 for d in differences.values()]
  return {
    "closest": rival,
    "mean": differences[rival]["mean"],
    "p": None if None in known else max(known),
  }


def table(rows: Rows, budget: str) -> dict[str, dict[str, Any]]:
  """Per arm: accuracies with intervals over seeds, and mean costs."""
  by_arm: dict[str, list[Mapping[str, Any]]] = {}
  for row in sorted(rows, key=lambda row: row["seed"]):
    by_arm.setdefault(row["arm"], []).append(row)
  out: dict[str, dict[str, Any]] = {}
  for name, own in by_arm.items():
    at = [row["at"][budget] for row in own]
    out[name] = {
      "lr": own[0]["lr"],
      "seeds": [row["seed"] for row in own],
      "trajectories_per_question": own[0]["trajectories_per_question"],
      "out_of_budget": sum(budget in row["out_of_budget"] for row in own),
      **{m: interval([x[m] for x in at]) for m in METRICS},
      **{c: float(np.mean([x[c] for x in at])) for c in COSTS},
    }
  return out


def differences(rows: Rows, budget: str) -> dict[str, Any]:
  """Every arm that is not GRPO against each GRPO, and against all of them.

  Raises:
    ValueError: for arms that were run with different seeds.
  """
  values: dict[str, dict[int, Mapping[str, float]]] = {}
  for row in rows:
    values.setdefault(row["arm"], {})[row["seed"]] = row["at"][budget]
  rivals = [name for name in values if name.startswith("grpo")]
  out: dict[str, Any] = {}
  for name in values:
    if name in rivals or not rivals:
      continue
    seeds = sorted(values[name])
    for rival in rivals:
      if sorted(values[rival]) != seeds:
        raise ValueError(
          f"{name} has seeds {seeds}, {rival} has {sorted(values[rival])}:"
          " finish the same ones"
        )
    out[name] = {}
    for metric in METRICS[:2]:
      against = {
        rival: paired(
          [values[name][s][metric] for s in seeds],
          [values[rival][s][metric] for s in seeds],
        )
        for rival in rivals
      }
      out[name][metric] = {"against": against, "every": lead(against)}
  return out
