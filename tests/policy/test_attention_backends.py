"""Which back end runs where, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as fused

from mirl_jax import testing as tiny
from mirl_jax.policy.attention import Segment, attend, cudnn
from mirl_jax.policy.attention.backends import check_backend
from mirl_jax.policy.forward import prefill, tree_hidden

CUDNN, SPLASH = "__cudnn$fmhaSoftmax", "tpu_custom_call"


@pytest.fixture
def with_cudnn(monkeypatch):
  """As on a machine with cuDNN: lowering for it needs no GPU."""
  monkeypatch.setattr(cudnn, "available", lambda: True)
  monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91100)


def lowered(platform, backend="auto", dtype="bfloat16", keys=256, dim=64):
  """The program of a gradient over a prompt and 32 tokens of 4 nodes."""

  def shaped(*shape, dtype=dtype):
    return jax.ShapeDtypeStruct(shape, dtype)

  def segment(groups, size):
    x = shaped(2, groups, 2, size, dim)
    return Segment(x, x, shaped(2, groups, size, dtype=bool))

  def loss(query, segments):
    return jnp.sum(attend(query, segments, True, backend)).astype(jnp.float32)

  arrays = shaped(2, 4, 32, 4, dim), (segment(1, keys), segment(4, 32))
  traced = jax.jit(jax.grad(loss)).trace(*arrays)
  return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.usefixtures("with_cudnn")
def test_auto_takes_each_platforms_kernel():
  """Of Splash for the long segment only: the short one is mostly padding."""
  found = {
    platform: [lowered(platform).count(name) for name in (CUDNN, SPLASH)]
    for platform in ("cpu", "cuda", "tpu", "rocm")
  }
  assert found == {
    "cpu": [0, 0],
    "cuda": [2, 0],
    "tpu": [0, 1],
    "rocm": [0, 0],
  }


@pytest.mark.usefixtures("with_cudnn")
def test_auto_takes_a_kernel_only_where_it_can():
  assert CUDNN not in lowered("cuda", dtype="float32")
  assert CUDNN not in lowered("cuda", dim=60)
  assert SPLASH in lowered("tpu", dtype="float32")
  assert SPLASH not in lowered("tpu", dtype="float16")
  assert SPLASH not in lowered("tpu", keys=64)


def test_auto_does_without_cudnn_where_there_is_none(monkeypatch):
  monkeypatch.setattr(cudnn, "available", lambda: False)
  assert CUDNN not in lowered("cuda")
  assert SPLASH in lowered("tpu")


@pytest.mark.usefixtures("with_cudnn")
def test_a_forced_back_end_is_taken_for_every_segment():
  assert lowered("tpu", "splash").count(SPLASH) == 2
  assert lowered("cuda", "cudnn").count(CUDNN) == 2
  for platform in ("cuda", "tpu"):
    plain = lowered(platform, "xla")
    assert CUDNN not in plain
    assert SPLASH not in plain


@pytest.mark.parametrize("forward", ["prefill", "tree_hidden"])
def test_the_models_field_reaches_its_attention(forward):
  config = tiny.tiny_config()
  prompts = tiny.random_prompts(config)
  levels = tiny.random_nodes(0, prompts.tokens.shape[0], ((1, 2, 4),))
  params = tiny.random_params(config)

  def program(backend):
    one = dataclasses.replace(config, attention=backend)
    if forward == "prefill":
      call = jax.jit(lambda p: prefill(p, one, prompts).hidden)
    else:
      call = jax.jit(lambda p: tree_hidden(p, one, prompts, levels))
    return call.trace(params).lower(lowering_platforms=("tpu",)).as_text()

  assert SPLASH in program("splash")
  assert SPLASH not in program("xla")


def refused(*arguments):
  with pytest.raises(ValueError) as caught:  # noqa: PT011
    check_backend(*arguments)
  return str(caught.value)


def test_what_cannot_run_is_refused_before_it_starts(monkeypatch):
  half = jnp.bfloat16
  assert "'flash' is not one of auto, xla" in refused("flash", half, 64, "cpu")
  said = refused("cudnn", half, 64, "cpu")
  assert "'cudnn' runs on NVIDIA GPUs" in said
  assert "cpu devices; use policy.attention=auto" in said
  assert "'splash' runs on TPUs" in refused("splash", half, 64, "gpu")
  said = refused("cudnn", jnp.float32, 64, "gpu")
  assert "takes bfloat16 or float16, not float32; set policy.dtype=bf" in said
  assert "not float16" in refused("splash", jnp.float16, 64, "tpu")
  monkeypatch.setattr(cudnn, "available", lambda: False)
  assert "needs cuDNN and" in refused("cudnn", half, 64, "gpu")
  monkeypatch.setattr(cudnn, "available", lambda: True)
  assert "at most 128, not 60" in refused("cudnn", half, 60, "gpu")
  assert "at most 128, not 256" in refused("cudnn", half, 256, "gpu")


def test_what_can_run_is_not_refused(monkeypatch):
  monkeypatch.setattr(cudnn, "available", lambda: True)
  for platform in ("cpu", "gpu", "tpu"):
    for backend in ("auto", "xla"):
      check_backend(backend, jnp.float32, 12, platform)
  check_backend("cudnn", jnp.bfloat16, 128, "gpu")
  check_backend("splash", jnp.float32, 12, "tpu")


def test_arrays_that_a_forced_back_end_cannot_take_are_refused(monkeypatch):
  def call(backend, mask, dim=16):
    keys = jnp.zeros((1, 2, 2, 5, dim))
    query = jnp.zeros((1, 2, 3, 4, dim))
    return attend(query, (Segment(keys, keys, mask),), backend=backend)

  mask = jnp.ones((1, 2, 5), bool)
  with pytest.raises(ValueError, match="'flash' is not one of auto, xla"):
    call("flash", mask)
  with pytest.raises(ValueError, match="not float32; set policy.dtype"):
    call("cudnn", mask)
  per_query = jnp.ones((1, 2, 3, 5), bool)
  with pytest.raises(
    ValueError, match=r"'splash' .* \(1, 2, 3, 5\); use 'xla'"
  ):
    call("splash", per_query)
  np.testing.assert_array_equal(call("auto", per_query), 0)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("mesh", "dtype"),
  [((1, 1), "bfloat16"), ((4, 1), "float32"), ((4, 2), "bfloat16")],
)
def test_a_training_step_compiles_for_tpus(monkeypatch, mesh, dtype):
  """Ahead of time for v5e: each device runs the kernel on its own shard."""
  pytest.importorskip("libtpu")
  from jax.experimental import topologies
  from jax.sharding import Mesh, NamedSharding

  from mirl_jax.parallel.mesh import BATCH
  from mirl_jax.policy.abstract import abstract_params
  from mirl_jax.policy.placement import param_shardings

  monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
  topology = topologies.get_topology_desc("v5e:2x4", platform="tpu")
  data, tensor = mesh
  devices = np.array(topology.devices[: data * tensor])
  placed = Mesh(
    devices.reshape(data, 1, tensor),
    ("data", "fsdp", "tensor"),
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
  )
  config = tiny.tiny_config()
  text = dataclasses.replace(config.text, heads=8, kv_heads=4)
  config = dataclasses.replace(config, text=text, mesh=placed.abstract_mesh)
  prompts = tiny.random_prompts(
    config, 0, (((2, 2),), ((1, 3),)) * 4, prompt_length=160
  )
  levels = tiny.random_nodes(0, 8, ((1, 4, 144), (2, 2, 24)))

  def abstract(tree, spec):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=NamedSharding(placed, spec)
      ),
      tree,
    )

  shardings = param_shardings(config, placed)
  params = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract_params(config),
    shardings,
  )

  def loss(params, prompts, levels):
    hidden = tree_hidden(params, config, prompts, levels, dtype, "cheap")
    return sum(jnp.sum(h.astype(jnp.float32) ** 2) for h in hidden)

  step = jax.jit(jax.grad(loss), out_shardings=shardings)
  arguments = (params, abstract(prompts, BATCH), abstract(levels, BATCH))
  compiled = step.lower(*arguments).compile().as_text()
  assert SPLASH in compiled
