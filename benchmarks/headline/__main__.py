"""MIRL against GRPO from one warm start, at equal cost.

    python -m benchmarks.headline --seeds=8 [--quick] [--out=DIR] [--start=DIR]

Each arm's learning rate is tuned on seeds and questions of their own. Then it
is trained on fresh questions with seeds 0, 1, … and measured on fresh
questions, the same for all arms and drawn the same way, where it has spent a
budget: of generated tokens, and the forward operations and the seconds that
GRPO-8 needs for these. Seconds are steps times an arm's seconds per step, taken
from all arms in turn. A finished run is a file in --out and is not repeated;
the same command, started again beside the first, takes part in its work.
Prints one JSON object, writes it beside a figure: means and differences to each
GRPO, paired by seed, with 95 % intervals over seeds.
"""

from pathlib import Path

from absl import app, flags

from benchmarks.headline import figure
from benchmarks.headline.bench import compare, prepare
from benchmarks.headline.setting import Setting, world_fields
from benchmarks.output import tell

ARMS = (
  "mirl-10-6-1",
  "mirl-6-4-1",
  "paper",
  "random-10-6-1",
  "likelihood-10-6-1",
  "oracle-10-6-1",
  "grpo-4",
  "grpo-6",
  "grpo-8",
  "grpo-12",
  "grpo-16",
)
_SEEDS = flags.DEFINE_integer("seeds", 8, "Training seeds per arm.")
_QUICK = flags.DEFINE_bool("quick", False, "80 k tokens; rates are not tuned.")
_TOKENS = flags.DEFINE_integer("tokens", 0, "Generated tokens per run.")
_OUT = flags.DEFINE_string("out", "runs/headline", "Directory of the rows.")
_START = flags.DEFINE_string("start", "", "Model; default: the embedded one.")
_WORLD = flags.DEFINE_list("world", [], "Fields of `world`: NAME=VALUE, ….")
_ARMS = flags.DEFINE_list("arms", list(ARMS), "Which; see arms.py.")
_RATES = flags.DEFINE_list(
  "rates", ["1.5e-4", "3e-4"], "Learning rates; one is not tuned."
)
_BUDGETS = flags.DEFINE_list(
  "budgets", ["tokens", "flops", "seconds"], "Which."
)


def settings() -> tuple[Setting, list[float]]:
  """Of the flags: what is shared, and the learning rates."""
  quick = _QUICK.value
  setting = Setting(
    _START.value,
    world_fields(_WORLD.value),
    _TOKENS.value or (80_000 if quick else 160_000),
    256 if quick else 512,
  )
  rates = [float(rate) for rate in _RATES.value]
  tuned = _RATES.present or not quick
  return setting, rates if tuned else [1.5e-4]


def main(argv: list[str]) -> None:
  del argv
  out = Path(_OUT.value)
  prepare(out)
  setting, rates = settings()
  result = compare(
    out, setting, _ARMS.value, range(_SEEDS.value), rates, _BUDGETS.value
  )
  figure.draw(result, out / "headline.png")
  tell(result, out / "headline.json")


if __name__ == "__main__":
  app.run(main)
