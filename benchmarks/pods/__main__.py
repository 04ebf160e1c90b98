"""How a step scales over TPU slices, by compiling it for them alone.

    python -m benchmarks.pods [--kind=v5e] [--out=DIR]

Compiles the sampler and the update of a published model for growing slices of
one kind, for a fixed number of questions (strong scaling) and for a fixed
number of each data shard (weak), and prints as one JSON object, for each chip:
operations, bytes from and to HBM, bytes sent, the time of the slowest of these
at the chip's peak, and the efficiency of a step: what the smallest slice's time
is to this one's, each times its chips and over its questions. No TPU is used,
so nothing here was timed. What is finished is a file in --out and is not
repeated.
"""

import runpy
from pathlib import Path

from absl import app, flags

from benchmarks.output import tell, versions
from benchmarks.pods.scaling import Slices, scale

_KIND = flags.DEFINE_string("kind", "v5e", "Of the slices.")
_SLICES = flags.DEFINE_list(
  "slices", ["2x4", "4x4", "4x8", "8x8", "8x16", "16x16"], "Growing sizes."
)
_MODEL = flags.DEFINE_string("model", "qwen2_5_vl_3b", "A file of configs/.")
_TENSOR = flags.DEFINE_integer("tensor", 4, "Size of that axis.")
_STRONG = flags.DEFINE_integer("strong", 64, "Questions of a step; 0: none.")
_WEAK = flags.DEFINE_integer("weak", 8, "Of each data shard; 0: none.")
_AT_ONCE = flags.DEFINE_integer("at_once", 4, "Of a shard that are sampled.")
_OUT = flags.DEFINE_string("out", "runs/pods", "Directory of the rows.")


def main(argv: list[str]) -> None:
  del argv
  out = Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  base = runpy.run_path(f"configs/{_MODEL.value}.py")["get_config"]("")
  slices = Slices(
    base, _MODEL.value, _KIND.value, _TENSOR.value, _AT_ONCE.value, out
  )
  tell(
    {
      "benchmark": "pods",
      "model": base.policy.path,
      **scale(slices, _SLICES.value, _STRONG.value, _WEAK.value),
      "versions": versions("jax", "jaxlib", "libtpu"),
    }
  )


if __name__ == "__main__":
  app.run(main)
