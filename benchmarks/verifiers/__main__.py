"""Agreement with third-party verdicts, and hostile answers.

    python -m benchmarks.verifiers [--data=DIR] [--answers=1200] [--out=F]

DIR holds math_verify_cases.jsonl, r1v_rollouts.jsonl and mathv_responses.jsonl;
without it only the hostile answers run.
"""

import time
from pathlib import Path

from absl import app, flags

from benchmarks.output import tell, versions
from benchmarks.verifiers import agreement, hostile
from mirl_jax.rewards.judges import Judges

_DATA = flags.DEFINE_string("data", "", "Folder with third-party verdicts.")
_ANSWERS = flags.DEFINE_integer("answers", 1200, "Hostile answers.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the hostile answers.")
_OUT = flags.DEFINE_string("out", "", "File for the JSON, beside the output.")


def main(_: list[str]) -> None:
  table = {"versions": versions("math-verify", "sympy")}
  if _DATA.value:
    began = time.monotonic()
    with Judges() as judges:
      table["agreement"] = {
        name: agreement.compare(cases, judges)
        for name, cases in agreement.load_cases(Path(_DATA.value)).items()
      }
    table["agreement_s"] = round(time.monotonic() - began, 1)
  table["hostile"] = hostile.measure(_ANSWERS.value, _SEED.value)
  tell(table, _OUT.value)


if __name__ == "__main__":
  app.run(main)
