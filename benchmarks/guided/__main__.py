"""What an MI reward can give before any training, and where it breaks.

    python -m benchmarks.guided [--questions=512] [--view=blank] [--start=DIR]
      [--world=NAME=VALUE,…] [--out=FILE.json] [--figure=FILE.png]

A reward log π0(d|v,q) - λ log π0(d|v0,q) of weight w under a KL of weight κ to
the start π0 has the optimum

    π(d) ∝ π0(d|v,q)^(1+β) π0(d|v0,q)^(-βλ),   β = w/κ.

Here the start itself is decoded so, token by token. That approximates the
optimum, which tilts whole descriptions: token by token, each prefix is
normalised for itself, and what a token leads to later does not count. β = 0 is
ordinary decoding.

For every β, λ and cut, sampled (4 per question) and greedy: the rate of exact
descriptions, accuracy of an ordinary reasoning from each under the image, mean
tokens of a description, the share that ran into the end of its buffer
(`truncated`) and that without its stop for whatever reason (`unclosed`), with
standard errors over questions; `_change` is against ordinary decoding of the
same questions and random numbers. λ = 0 is a control: it sharpens the policy
and no view counts. The cut never chooses a token below .1 of the most probable
one under the image: what `mi.plausible` is to the reward. Prints one JSON
object.
"""

from pathlib import Path

import jax
from absl import app, flags

from benchmarks.guided import figure, table
from benchmarks.headline.setting import Setting, world_fields
from benchmarks.output import tell
from mirl_jax.host_memory import tune_allocator

_QUESTIONS = flags.DEFINE_integer("questions", 512, "Held out.", 2)
_VIEW = flags.DEFINE_enum("view", "blank", ["blank", "removed"], "For v0.")
_START = flags.DEFINE_string("start", "", "Model; default: the embedded one.")
_WORLD = flags.DEFINE_list("world", [], "Fields of `world`: NAME=VALUE, ….")
_OUT = flags.DEFINE_string("out", "", "File for the JSON, beside the output.")
_FIGURE = flags.DEFINE_string("figure", "", "PNG of rate and length over β.")


def main(argv: list[str]) -> None:
  del argv
  tune_allocator()
  world = world_fields(_WORLD.value)
  config = Setting(_START.value, world).config("mirl-10-6-1")
  result = {
    "benchmark": "guided",
    "questions": _QUESTIONS.value,
    "view": _VIEW.value,
    "start": _START.value,
    "world": dict(world),
    "cells": table.measure(config, _QUESTIONS.value, _VIEW.value),
    "device": jax.devices()[0].device_kind,
  }
  if _FIGURE.value:
    figure.draw(result, Path(_FIGURE.value))
  tell(result, _OUT.value)


if __name__ == "__main__":
  app.run(main)
