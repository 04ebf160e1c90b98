"""How well each score tells right descriptions from wrong ones.

    python -m benchmarks.screening [--questions=512] [--workdir=RUN] [--out=F]

The figures of `mirl_jax.screening` for the procedural world: N descriptions of
every question, one reasoning each, all scored by the policy that wrote them.
With --workdir the last checkpoint of a run is measured beside the start.
"""

import dataclasses
from typing import Any

import jax
from absl import app, flags

from benchmarks.output import tell
from mirl_jax import build
from mirl_jax.config import get_config
from mirl_jax.screening.run import screen
from mirl_jax.start import load_roles

_QUESTIONS = flags.DEFINE_integer("questions", 512, "Held-out questions.")
_N = flags.DEFINE_integer("descriptions", 10, "Descriptions per question.")
_BATCH = flags.DEFINE_integer("batch", 64, "Questions per device batch.")
_WORKDIR = flags.DEFINE_string("workdir", "", "A run to measure as well.")
_OUT = flags.DEFINE_string("out", "", "File for the JSON, beside the output.")
_SEED = flags.DEFINE_integer("seed", 7, "Of the draws.")

KEPT = 6


def measure(workdir: str) -> dict[str, Any]:
  """The figures of a run's last checkpoint, or of the start without one."""
  config = get_config("mirl")
  with config.unlocked():
    config.program.describe.fanout = _N.value
    config.program.keep.k = min(KEPT, _N.value)
    config.eval.batch = _BATCH.value
    config.eval.seed = _SEED.value
  policy = build.make_policy(config)
  roles, step = load_roles(config, workdir, policy)
  questions = build.first_examples(
    build.make_source(config, "test"), _QUESTIONS.value
  )
  mi = build.make_mi(config)
  assert mi is not None
  mi = dataclasses.replace(mi, scorer="policy")
  found = screen(config, policy, roles, list(questions), mi)
  return {"step": step, **found}


def main(argv: list[str]) -> None:
  del argv
  result = {"start": measure("")}
  if _WORKDIR.value:
    result["trained"] = measure(_WORKDIR.value)
  tell(result, _OUT.value)


if __name__ == "__main__":
  jax.config.update("jax_enable_x64", False)
  app.run(main)
