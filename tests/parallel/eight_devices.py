"""Run by test_eight_devices.py in a process of its own, with 8 CPU devices.

Samples, differentiates and updates on meshes of 1 and of 8 devices, and
prints what differs as one JSON object.
"""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from mirl_jax.learning.credit import Guards, Term
from mirl_jax.learning.state import new_state
from mirl_jax.learning.update import Loss, build_update
from mirl_jax.parallel.hlo import COLLECTIVES, group_size
from mirl_jax.parallel.mesh import (
  batch_sharding,
  make_mesh,
  replicated,
)
from mirl_jax.policy.placement import param_shardings
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import Keep, Sample, samples
from mirl_jax.rollout.shared import shared
from mirl_jax.rollout.tree import flat
from mirl_jax.testing import (
  random_params,
  random_prompts,
  tiny_config,
  tiny_stop,
)

MESHES = (
  "data:8",
  "data:2,fsdp:4",
  "fsdp:8",
  "data:2,fsdp:2,tensor:2",
  "fsdp:4,tensor:2",
)
SCANNED = "fsdp:4,tensor:2"  # decodes by a scan over the layers, as TPUs do
COLLECTIVE = re.compile(rf" ({'|'.join(COLLECTIVES)})(-start)?\(")
CONFIG = tiny_config(depth=1, full_blocks=(0,), layers=2)
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


def trap() -> dict[str, float]:
  """The gradient of a mean over 8 rows, taken inside of `shard_map`.

  With its types checked, a gradient in something that is whole everywhere is
  summed already: a mean after it does nothing, and the result is 8 times too
  large. Ours is taken under `jit`, which knows of no shards.
  """
  mesh = make_mesh("data:8")
  x, w = np.arange(8.0, dtype=np.float32), jnp.float32(2.0)
  rows = batch_sharding(mesh).spec

  def loss(w, x):
    return jnp.mean((w * x) ** 2)

  def inside(w, x):
    return jax.lax.pmean(jax.grad(loss)(w, x), ("data", "fsdp"))

  mapped = jax.shard_map(inside, mesh=mesh, in_specs=(P(), rows), out_specs=P())
  placed = jax.device_put(x, batch_sharding(mesh))
  return {
    "true": float(jax.grad(loss)(w, x)),
    "mapped": float(jax.jit(mapped)(w, placed)),
    "jitted": float(jax.jit(jax.grad(loss))(w, placed)),
  }


class Side:
  """Everything on one mesh."""

  def __init__(self, text: str, devices: list):
    self.mesh = make_mesh(text, devices)
    self.config = dataclasses.replace(
      CONFIG, mesh=self.mesh.abstract_mesh, scan_decode=text == SCANNED
    )
    self.shardings = param_shardings(CONFIG, self.mesh)
    self.params = jax.device_put(random_params(CONFIG, 0), self.shardings)

  def place(self, tree):
    return jax.device_put(tree, batch_sharding(self.mesh))

  def sample(self, prompts):
    rollout = Rollout(self.config, PROGRAM, STOPS, self.mesh)
    key = jax.device_put(jax.random.key(3), replicated(self.mesh))
    roles = {"policy": self.params}
    tree = rollout(roles, self.place(prompts), None, key)
    program = rollout.parts[0].lower(
      shared(roles), self.place(prompts), None, key, None, None
    )
    return jax.device_get(tree), program.compile().as_text()

  def train(self, tree, rewards):
    """The first step's gradient, and the parameters after three."""
    optimizer = optax.chain(optax.trace(0.0), optax.sgd(0.05))
    run = jax.jit(
      build_update(self.config, STAGES, TERMS, Guards(), Loss(), optimizer),
      compiler_options=OPTIONS,
    )
    state = new_state(self.params, optimizer, False, False)
    gradients = []
    for _ in range(3):
      state, _, _ = run(state, self.place(tree), self.place(rewards))
      gradients.append(state.opt_state[0].trace)
    return jax.device_get((gradients[0], state.params))


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
  grads, trained = one.train(tree, rewards)
  report = {
    "control": len(control()),
    "sampled": sum(int(m.sum()) for m in masks),
    "lengths": sorted({int(n) for m in masks for n in m.sum(-1).ravel()}),
    "moved": worst(trained, jax.device_get(one.params)),
    "trap": trap(),
  }
  for text in MESHES:
    side = Side(text, jax.devices())
    other, hlo = side.sample(prompts)
    found = side.train(tree, rewards)
    loops, inside = loop_collectives(hlo)
    report[text] = {
      "same": {
        name: min(
          float(np.mean(getattr(a, name) == getattr(b, name)))
          for a, b in zip(tree.levels, other.levels, strict=True)
        )
        for name in ("tokens", "mask", "sampled", "parent", "kept", "finished")
      },
      "logprobs": max(
        float(np.abs(a.logprobs - b.logprobs).max())
        for a, b in zip(tree.levels, other.levels, strict=True)
      ),
      "loops": loops,
      "inside": sorted({group_size(line, 8) for line in inside}),
      "outside": len(COLLECTIVE.findall(hlo)),
      "cut": sum(
        not x.sharding.is_fully_replicated for x in jax.tree.leaves(side.params)
      ),
      "gradient": worst(found[0], grads),
      "params": worst(found[1], trained),
    }
  print(json.dumps(report))


if __name__ == "__main__":
  main()
