"""How well each score tells right descriptions from wrong ones.

    python -m benchmarks.screening [--questions=512] [--workdir=RUN] [--out=F]

For every question N descriptions are sampled and one reasoning for each. The
table gives, within questions, the AUC of each score for an exact description
and for a correct answer, with a standard error over questions, by kind of
question, and the score's correlation with length. `shuffled` is the MI (λ = 1,
blank) of each description with other pictures of the batch instead of its own:
a control, whose AUC should be near .5.
With --workdir the last checkpoint of a run is measured beside the start.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks.output import tell
from mirl_jax import batching, build, statistics
from mirl_jax.config import get_config
from mirl_jax.evaluate import Strategy, draw
from mirl_jax.information.estimators import MI
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import Keep, samples
from mirl_jax.start import load_roles

_QUESTIONS = flags.DEFINE_integer("questions", 512, "Held-out questions.")
_N = flags.DEFINE_integer("descriptions", 10, "Descriptions per question.")
_BATCH = flags.DEFINE_integer("batch", 64, "Questions per device batch.")
_WORKDIR = flags.DEFINE_string("workdir", "", "A run to measure as well.")
_OUT = flags.DEFINE_string("out", "", "File for the JSON, beside the output.")
_SEED = flags.DEFINE_integer("seed", 7, "Of the draws.")

LAMBDAS = (0.0, 0.2, 0.4, 0.7, 1.0)
VIEWS = (
  MI(view="blank"),
  MI(view="removed"),
  MI(view="masked", views=2),
  MI(view="other", views=4),
  MI(view="other_same_question", views=4),
)


def collect(
  policy: build.Policy, roles: dict[str, Any], mi: MI, config: Any
) -> dict[str, np.ndarray]:
  """Scores and verdicts [Q, N] under one view; draws do not depend on it."""
  base = build.make_program(config, training=True)
  describe, reason = samples(base)
  program = (
    dataclasses.replace(describe, fanout=_N.value),
    Keep(_N.value, "all"),
    dataclasses.replace(reason, fanout=1),
  )
  stops = build.make_stops(program, policy.processor)
  rollout = Rollout(
    policy.config, program, stops, policy.mesh, mi, policy.dtype
  )
  batcher = batching.make_batcher(config, policy, mi)
  questions = list(
    build.first_examples(build.make_source(config, "test"), _QUESTIONS.value)
  )
  parts = []
  for begin in range(0, len(questions), _BATCH.value):
    chunk = questions[begin : begin + _BATCH.value]
    tree, read = draw(
      Strategy("screening", rollout, True),
      roles,
      batcher,
      chunk,
      build.place_key(_SEED.value, policy),
    )
    level = tree.levels[0]
    rows = len(chunk)
    parts.append(
      {
        "clean": level.scores["clean"].reshape(rows, -1),
        "prior": level.scores["prior"].reshape(rows, -1),
        "length": level.sampled.sum(-1).reshape(rows, -1),
        "exact": read[0].rewards["exact"].reshape(rows, -1),
        "correct": read[1].rewards["correct"].reshape(rows, -1),
        "kind": np.array([[e.category] * _N.value for e in chunk]),
      }
    )
  return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def auc(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Within-question AUC with its standard error."""
  groups = np.repeat(np.arange(len(scores)), scores.shape[1])
  found = statistics.within_group_auc(
    scores.reshape(-1).astype(np.float64), labels.reshape(-1) > 0, groups
  )
  return {
    "auc": round(found.mean, 4),
    "se": round(found.error, 4),
    "questions": found.count,
  }


def describe_score(
  scores: np.ndarray, data: dict[str, np.ndarray]
) -> dict[str, Any]:
  """AUCs, correlation with length, and what keeping 6 of N would select."""
  k = min(6, scores.shape[1])
  kept = np.argsort(-scores, axis=1, kind="stable")[:, :k]
  kinds = data["kind"][:, 0]
  return {
    "exact": auc(scores, data["exact"]),
    "correct": auc(scores, data["correct"]),
    "length_correlation": round(
      float(np.corrcoef(scores.reshape(-1), data["length"].reshape(-1))[0, 1]),
      4,
    ),
    "kept_exact": round(
      float(np.take_along_axis(data["exact"], kept, 1).mean()), 4
    ),
    "kept_correct": round(
      float(np.take_along_axis(data["correct"], kept, 1).mean()), 4
    ),
    "exact_by_kind": {
      str(kind): auc(scores[kinds == kind], data["exact"][kinds == kind])
      for kind in np.unique(kinds)
    },
  }


def measure(
  policy: build.Policy, roles: dict[str, Any], config: Any
) -> dict[str, Any]:
  """The whole table of one policy."""
  table: dict[str, Any] = {}
  priors: dict[str, np.ndarray] = {}
  for mi in VIEWS:
    data = collect(policy, roles, mi, config)
    length = np.maximum(data["length"], 1)
    if "all" not in table:
      rng = np.random.default_rng(0)
      table["all"] = {
        "exact": round(float(data["exact"].mean()), 4),
        "correct": round(float(data["correct"].mean()), 4),
      }
      table["random"] = describe_score(rng.random(length.shape), data)
      table["length"] = describe_score(-length.astype(float), data)
      table["likelihood, sum"] = describe_score(data["clean"], data)
      table["oracle"] = describe_score(data["exact"].astype(float), data)
    for weight in LAMBDAS:
      if weight == 0 and mi.view != VIEWS[0].view:
        continue
      name = f"{mi.view}, lambda={weight:g}"
      if weight == 0:
        name = "likelihood, mean"
      score = (data["clean"] - weight * data["prior"]) / length
      table[name] = describe_score(score, data)
    table[f"{mi.view}, lambda=1, sum"] = describe_score(
      data["clean"] - data["prior"], data
    )
    priors[mi.view] = data["prior"]
  shuffled = (priors["other_same_question"] - priors["blank"]) / length
  table["shuffled"] = describe_score(shuffled, data)
  return table


def main(argv: list[str]) -> None:
  del argv
  config = get_config("mirl")
  policy = build.make_policy(config)
  start, _ = load_roles(config, "", policy)
  result = {
    "questions": _QUESTIONS.value,
    "descriptions": _N.value,
    "start": measure(policy, start, config),
  }
  if _WORKDIR.value:
    roles, step = load_roles(config, _WORKDIR.value, policy)
    result["trained"] = {"step": step, **measure(policy, roles, config)}
  tell(result, _OUT.value)


if __name__ == "__main__":
  jax.config.update("jax_enable_x64", False)
  app.run(main)
