"""Run by test_attention_devices.py in a process of its own, with 8 CPU devices.

Attention by a kernel, interpreted, on meshes of 8 devices: prints by mesh the
largest difference to plain attention on one, and the shapes that a device's
kernel sees.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mirl_jax.parallel.mesh import BATCH, DATA_AXES, make_mesh
from mirl_jax.policy.attention import Segment, attend, splash

MESHES = {  # and questions
  "data:2,fsdp:4": 8,
  "data:4,tensor:2": 8,  # two key heads: cut
  "data:2,tensor:4": 8,  # cut too few; the four heads that share one are cut
  "data:8,odd": 6,  # not to be shared out
}
R, T, KV, REPEAT, DIM = 4, 6, 2, 4, 16


def case(questions):
  rng = np.random.default_rng(0)

  def floats(*size):
    return jnp.asarray(rng.normal(size=size), jnp.float32)

  segments = []
  for groups, size in ((1, 140), (4, T)):
    x = [floats(questions, groups, KV, size, DIM) for _ in range(2)]
    length = rng.integers(1, size + 1, (questions, groups, 1))
    segments.append(Segment(*x, jnp.asarray(np.arange(size) < length)))
  return floats(questions, R, T, KV * REPEAT, DIM), tuple(segments)


def main() -> None:
  splash._INTERPRET = True
  seen: list[tuple[int, ...]] = []
  kernel = splash.attend

  def noted(query, *rest, causal):
    seen.append(query.shape)
    return kernel(query, *rest, causal=causal)

  splash.attend = noted
  report = {}
  for text, questions in MESHES.items():
    mesh = make_mesh(text.removesuffix(",odd"))

    def loss(query, segments, backend, mesh=mesh.abstract_mesh):
      def out(query, segments):
        return attend(query, segments, True, backend, mesh)

      y = jax.checkpoint(out)(query, segments)
      return jnp.sum(jnp.sin(y)), y

    both = jax.jit(jax.grad(loss, has_aux=True), static_argnums=2)
    query, segments = case(questions)
    want = both(query, segments, "xla")
    spec = BATCH if questions % 8 == 0 else P()
    placed = jax.device_put((query, segments), NamedSharding(mesh, spec))
    seen.clear()
    got = both(*placed, "splash")
    worst = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), got, want)

    def sample(query, segments, mesh=mesh.abstract_mesh):
      return attend(query, segments, True, "splash", mesh)

    inside = jax.jit(
      jax.shard_map(
        sample,
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
        axis_names=set(DATA_AXES),
        check_vma=False,
      )
    )(*placed)
    report[text] = {
      "worst": max(jax.tree.leaves(worst)),
      "inside": float(jnp.abs(inside - want[1]).max()),
      "query": seen[0],
      "query_inside": seen[-1],
    }
  print(json.dumps(report))


if __name__ == "__main__":
  main()
