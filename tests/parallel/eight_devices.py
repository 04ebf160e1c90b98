"""Run by test_eight_devices.py in a process of its own, with 8 CPU devices.

Samples, differentiates and updates on meshes of 1 and of 8 devices, and
prints what differs as one JSON object.
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mirl_jax.learning import update
from mirl_jax.learning.credit import Guards, Term
from mirl_jax.learning.objectives import token_weights
from mirl_jax.learning.state import new_state
from mirl_jax.learning.update import Fixed, Loss, build_update
from mirl_jax.parallel.mesh import (
  batch_sharding,
  make_mesh,
  replicated,
)
from mirl_jax.policy.placement import param_shardings
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import Keep, Sample, samples
from mirl_jax.rollout.tree import flat
from mirl_jax.testing import (
  random_params,
  random_prompts,
  tiny_config,
  tiny_stop,
)

MESHES = ("data:8", "data:2,fsdp:4")
COLLECTIVE = re.compile(
  r"= .*\b(all-reduce|all-gather|all-to-all|collective-permute|"
  r"reduce-scatter|collective-broadcast)"
)
CONFIG = tiny_config(depth=1, full_blocks=(0,), layers=1)
PROGRAM = (
  Sample("see", 3, 6, "</d>"),
  Keep(2, "likelihood"),
  Sample("think", 2, 5, "</a>", 0.8),
)
STAGES = samples(PROGRAM)
STOPS = {stage.name: tiny_stop(stage.stop) for stage in STAGES}
TERMS = (
  Term("see", "likelihood"),
  Term("think", "correct"),
)
GRIDS = (((2, 2),), ((3, 1), (1, 2)), (), ((1, 3),)) * 2
OPTIONS = {"xla_backend_optimization_level": 0}


def computations(text: str) -> dict[str, str]:
  """Bodies of an HLO module's computations by name."""
  found = re.findall(
    r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.M | re.S
  )
  return dict(found)


def loop_collectives(text: str) -> tuple[int, list[str]]:
  """How many while loops there are, and the collectives reachable inside."""
  named = computations(text)
  roots = re.findall(r"(?:body|condition)=%?([\w.\-]+)", text)
  seen: set[str] = set()
  todo = list(roots)
  while todo:
    name = todo.pop()
    if name in seen or name not in named:
      continue
    seen.add(name)
    todo += re.findall(r"%([\w.\-]+)", named[name])
  lines = [
    line
    for name in seen
    for line in named[name].splitlines()
    if COLLECTIVE.search(line)
  ]
  return len(roots) // 2, lines


def control() -> list[str]:
  """What the check finds in a loop that does wait for all devices."""
  mesh = make_mesh("data:8")

  def run(x):
    return jax.lax.while_loop(lambda x: jnp.any(x < 9), lambda x: x + 1, x)

  x = jax.device_put(jnp.arange(8), batch_sharding(mesh))
  return loop_collectives(jax.jit(run).lower(x).compile().as_text())[1]


class Side:
  """Everything on one mesh."""

  def __init__(self, text: str, devices: list):
    self.mesh = make_mesh(text, devices)
    self.shardings = param_shardings(CONFIG, self.mesh)
    self.params = jax.device_put(random_params(CONFIG, 0), self.shardings)

  def place(self, tree):
    return jax.device_put(tree, batch_sharding(self.mesh))

  def sample(self, prompts):
    rollout = Rollout(CONFIG, PROGRAM, STOPS, self.mesh)
    key = jax.device_put(jax.random.key(3), replicated(self.mesh))
    roles = {"policy": self.params}
    tree = rollout(roles, self.place(prompts), None, key)
    program = rollout._parts[0].lower(
      roles, self.place(prompts), None, key, None, None
    )
    return jax.device_get(tree), program.compile().as_text()

  def gradient(self, tree, fixed):
    run = jax.jit(
      lambda p, t, f: update.gradient(p, CONFIG, t, STAGES, f, Loss())[0],
      compiler_options=OPTIONS,
    )
    return jax.device_get(run(self.params, self.place(tree), self.place(fixed)))

  def train(self, tree, rewards):
    optimizer = optax.sgd(0.05, momentum=0.9)
    run = jax.jit(
      build_update(CONFIG, STAGES, TERMS, Guards(), Loss(), optimizer),
      compiler_options=OPTIONS,
    )
    state = new_state(self.params, optimizer, False, False)
    for _ in range(3):
      state, _, _ = run(state, self.place(tree), self.place(rewards))
    return jax.device_get(state.params)


def worst(got, want) -> float:
  """Largest error of a tensor, in shares of its maximum."""
  return max(
    float(np.abs(g - w).max() / max(np.abs(w).max(), 1e-30))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
  )


def main() -> None:
  assert len(jax.devices()) == 8
  prompts = random_prompts(CONFIG, 0, GRIDS)
  one = Side("data:1", jax.devices()[:1])
  tree, _ = one.sample(prompts)
  rng = np.random.default_rng(0)
  shape = tree.levels[1].finished.shape
  rewards = {
    "see": {},
    "think": {"correct": rng.integers(0, 2, shape).astype(np.float32)},
  }
  masks = [flat(level.sampled) for level in tree.levels]
  fixed = jax.device_get(
    Fixed(
      advantage=[
        rng.normal(size=m.shape[:2]).astype(np.float32) for m in masks
      ],
      weight=token_weights([jnp.asarray(m) for m in masks], "token"),
      old=[flat(level.logprobs) for level in tree.levels],
      importance=[np.ones(m.shape, np.float32) for m in masks],
      reference=None,
    )
  )
  grads, trained = one.gradient(tree, fixed), one.train(tree, rewards)
  report = {
    "control": len(control()),
    "sampled": sum(int(m.sum()) for m in masks),
    "lengths": sorted({int(n) for m in masks for n in m.sum(-1).ravel()}),
    "moved": worst(trained, jax.device_get(one.params)),
  }
  for text in MESHES:
    side = Side(text, jax.devices())
    other, hlo = side.sample(prompts)
    loops, inside = loop_collectives(hlo)
    report[text] = {
      "same": {
        name: all(
          np.array_equal(getattr(a, name), getattr(b, name))
          for a, b in zip(tree.levels, other.levels, strict=True)
        )
        for name in ("tokens", "mask", "sampled", "parent", "kept", "finished")
      },
      "logprobs": max(
        float(np.abs(a.logprobs - b.logprobs).max())
        for a, b in zip(tree.levels, other.levels, strict=True)
      ),
      "loops": loops,
      "inside": inside,
      "outside": len(COLLECTIVE.findall(hlo)),
      "cut": sum(
        not x.sharding.is_fully_replicated for x in jax.tree.leaves(side.params)
      ),
      "gradient": worst(side.gradient(tree, fixed), grads),
      "params": worst(side.train(tree, rewards), trained),
    }
  print(json.dumps(report))


if __name__ == "__main__":
  main()
