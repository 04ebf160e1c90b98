"""How the cost of our tree grows with group, prompt and response.

    python -m benchmarks.scaling --config={tiny,small,medium} [--pairs=3]

One question with a prompt of P text tokens, N responses of T1 tokens, k of
them kept and continued by F responses of T2 tokens each. One size is varied at
a time; every row gives the seconds of sampling, scoring and updating, and
those per ideal token, P + N·T1 + k·F·T2. A flat line is ideal: what is shared
costs nothing, and no cost is hidden in the sizes. Sampling's line falls, since
a step of decoding reads all weights however few rows it has. Prompts have no
picture, so that all tokens are alike. Prints one JSON object.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.output import tell
from benchmarks.speed import compare
from benchmarks.speed.cost import Branch, question_flops
from benchmarks.speed.model import SIZES, described, vlm_config
from benchmarks.speed.ours import endless, fitting_update, never
from benchmarks.speed.workers import cores
from mirl_jax.build import DTYPES
from mirl_jax.config import base
from mirl_jax.learning.credit import Guards, Term
from mirl_jax.learning.optimizer import make_optimizer
from mirl_jax.learning.state import new_state
from mirl_jax.learning.update import Loss, build_update, score_tree
from mirl_jax.parallel.mesh import make_mesh
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.inputs import Prompts
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import Keep, Program, Sample, samples
from mirl_jax.runs.progress import Progress
from mirl_jax.testing import random_params

_GROUPS = flags.DEFINE_list("groups", ["2", "4", "8", "16", "32", "64"], "N.")
_PROMPTS = flags.DEFINE_list(
  "prompts", ["64", "128", "256", "512", "1024", "2048"], "P."
)
_RESPONSES = flags.DEFINE_list(
  "responses", ["64", "128", "256", "512", "1024"], "T1."
)
_BASE = flags.DEFINE_list(
  "point", ["16", "256", "128"], "N, P, T1 of whatever is not varied."
)


@dataclass(frozen=True)
class Point:
  """Sizes of one measured tree.

  Attributes:
    n: responses of the prompt.
    prompt: its tokens, P.
    t1: tokens of each.
    k, f, t2: how many are kept, children of each, their tokens; k = 0 for
      one stage.
  """

  n: int
  prompt: int
  t1: int
  k: int = 0
  f: int = 0
  t2: int = 0

  @property
  def ideal_tokens(self) -> int:
    return self.prompt + self.n * self.t1 + self.k * self.f * self.t2

  @property
  def program(self) -> Program:
    first = Sample("first", self.n, self.t1, "never")
    if not self.k:
      return (first,)
    second = Sample("second", self.f, self.t2, "never")
    return (first, Keep(self.k, "likelihood"), second)

  @property
  def branches(self) -> list[Branch]:
    first = Branch(self.n, self.t1)
    second = Branch(self.k * self.f, self.t2, above=self.t1)
    return [first, second] if self.k else [first]


def sweep() -> dict[str, list[Point]]:
  """The points of every varied size; the last one is MIRL's tree."""
  n, prompt, t1 = (int(x) for x in _BASE.value)
  half = max(1, t1 // 2)
  return {
    "group": [Point(int(x), prompt, t1) for x in _GROUPS.value],
    "prompt": [Point(n, int(x), t1) for x in _PROMPTS.value],
    "response": [Point(n, prompt, int(x)) for x in _RESPONSES.value],
    "two stages": [
      Point(n, prompt, t1),
      Point(10, prompt, half, k=6, f=1, t2=half),
      Point(10, prompt, half, k=6, f=2, t2=half),
    ],
  }


def text_prompt(config: VLMConfig, length: int) -> Prompts:
  """One random prompt without a picture."""
  rng = np.random.default_rng(0)
  at = np.arange(length, dtype=np.int32)
  return Prompts(
    tokens=rng.integers(0, 256, (1, length)).astype(np.int32),
    mask=np.ones((1, length), bool),
    positions=np.broadcast_to(at, (1, 3, length)),
    next_position=np.array([length], np.int32),
    image_slot=np.full((1, length), -1, np.int32),
    patches=np.zeros((1, 0, config.vision.patch_dim), np.float32),
    patch_hw=np.zeros((1, 0, 2), np.int32),
    patch_grid=np.zeros((1, 0, 2), np.int32),
    patch_image=np.zeros((1, 0), np.int32),
    question=np.zeros(1, np.uint32),
  )


def seconds(work: Callable[[], Any]) -> float:
  """Median over the timed repetitions, after one that compiles."""
  jax.block_until_ready(work())
  took = []
  for _ in range(compare.PAIRS.value):
    began = time.perf_counter()
    jax.block_until_ready(work())
    took.append(time.perf_counter() - began)
  return statistics.median(took)


def measure(point: Point, config: VLMConfig, params: Any) -> dict[str, Any]:
  """One row: seconds, and microseconds per ideal token, of all three."""
  dtype = DTYPES[compare.DTYPE.value]
  prompts = jax.device_put(text_prompt(config, point.prompt))
  stages = samples(point.program)
  stop = never(config.text.vocab)
  rollout = Rollout(
    config,
    point.program,
    {stage.name: stop for stage in stages},
    make_mesh("data:1", jax.devices()[:1]),
    dtype=dtype,
  )
  key = jax.random.key(0)
  roles = {"policy": params}
  found = {"sample": seconds(lambda: rollout(roles, prompts, None, key))}
  tree = rollout(roles, prompts, None, key)

  score = jax.jit(
    lambda params, tree: score_tree(params, config, tree, stages, dtype=dtype)[
      0
    ]
  )
  found["score"] = seconds(lambda: score(params, tree))

  optimizer = make_optimizer(base().optimizer.to_dict(), 1000)
  terms = tuple(
    Term(stage.name, "given", baseline="none", std=False) for stage in stages
  )
  rewards = {
    stage.name: {"given": jnp.ones(level.finished.shape)}
    for stage, level in zip(stages, tree.levels, strict=True)
  }
  state = new_state(
    jax.tree.map(jnp.array, params), optimizer, reference=False, ema=False
  )
  update, _ = fitting_update(
    lambda parts: build_update(
      config,
      stages,
      terms,
      Guards(),
      Loss(micro_batches=parts),
      optimizer,
      dtype=dtype,
    ),
    state,
    tree,
    rewards,
  )

  def step() -> Any:
    nonlocal state
    state, metrics, _ = update(state, tree, rewards)
    return metrics

  found["update"] = seconds(step)
  ideal = point.ideal_tokens
  return {
    **dataclasses.asdict(point),
    "ideal_tokens": ideal,
    "gflop": question_flops(config, 0, point.prompt, point.branches) / 1e9,
    "seconds": {name: compare.rounded(x) for name, x in found.items()},
    "us_per_ideal_token": {
      name: compare.rounded(1e6 * x / ideal) for name, x in found.items()
    },
  }


def measure_all(
  points: dict[str, list[Point]], config: VLMConfig, params: Any
) -> dict[str, list[dict[str, Any]]]:
  """Rows by what is varied; progress goes to standard error."""
  found: dict[str, list[dict[str, Any]]] = {name: [] for name in points}
  done = 0
  with Progress(sum(map(len, points.values())), label="point") as progress:
    for name in points:
      for point in points[name]:
        found[name].append(measure(point, config, params))
        done += 1
        progress.update(done, found[name][-1]["seconds"])
  return found


def main(argv: list[str]) -> None:
  del argv
  sizes = SIZES[compare.CONFIG.value]
  config = endless(vlm_config(sizes))
  params = random_params(config, scale=0.2)
  report = {
    "benchmark": "scaling",
    "config": compare.CONFIG.value,
    "dtype": compare.DTYPE.value,
    "device": jax.devices()[0].device_kind,
    "cores": cores(),
    "rows": measure_all(sweep(), config, params),
    "sizes": described(sizes),
    "versions": compare.versions("jax", "jaxlib", "flax"),
  }
  tell(report)


if __name__ == "__main__":
  app.run(main)
