"""Signs that a run goes wrong. They warn; guards change the advantage."""

from collections.abc import Mapping
from dataclasses import dataclass

LENGTH_DRIFT = 0.3
TAG_RATE = 0.5
VERIFIED = 0.5
_MIN_PAIRS_STEPS = 10


@dataclass(frozen=True)
class Start:
  """Figures of the start of a run that later ones are held against.

  Attributes:
    length: mean tokens of each stage at the first step.
    exact: greedy exactness before training; NaN where no checker is known.
  """

  length: Mapping[str, float]
  exact: float


def warnings(
  start: Start, step: int, metrics: Mapping[str, float | int]
) -> dict[str, str]:
  """What is suspicious now, as {metric name: sentence}.

  Args:
    start: of the run.
    step: steps taken.
    metrics: of this step; missing ones raise no warning.
  """
  found: dict[str, str] = {}
  # Only the first stage: reasoning lengths follow the questions.
  for stage, before in list(start.length.items())[:1]:
    now = metrics.get(f"length/{stage}")
    if now is not None and abs(now - before) > LENGTH_DRIFT * before:
      found[f"warn/length/{stage}"] = (
        f"{stage} length moved from {before:.1f} to {now:.1f} tokens: MI may be"
        " gamed by enumerating; see guards.length_cap and loss.kl"
      )
  auc = metrics.get("mi/auc_correct")
  if auc is not None and step >= _MIN_PAIRS_STEPS and auc < 0.5:
    found["warn/auc"] = (
      f"MI's running AUC for child correctness is {auc:.2f}, no better than"
      " chance: keeping by it does not help; see guards.trust"
    )
  verified = metrics.get("reward/verified")
  if verified is not None and verified < VERIFIED:
    found["warn/verified"] = (
      f"only {verified:.0%} of answers have a verdict: correctness pays few"
      " reasonings; rows need an answer of a known answer_type"
    )
  for name, share in metrics.items():
    if name.startswith("heard/") and share == 0:
      found[f"warn/{name}"] = (
        f"no node has a value of {name.removeprefix('heard/')} (reward and"
        " stage): it pays nothing; the scores fail, abstain or have other names"
      )
  exact = metrics.get("eval/greedy/exact")
  error = metrics.get("eval/greedy/exact_se", 0.0)
  if exact is not None and exact < start.exact - max(0.03, 2 * error):
    found["warn/exact"] = (
      f"greedy descriptions are exact in {exact:.3f} of cases,"
      f" {start.exact:.3f} before training: the description reward pays for"
      " something else"
    )
  return found


def tag_warning(tags: float) -> str | None:
  """A sentence where the policy does not write the tags, else None."""
  if tags >= TAG_RATE:
    return None
  return (
    f"only {tags:.0%} of sampled responses keep the tag format; warm the policy"
    " up with --mode=sft, or say the format in policy.instruction"
  )
