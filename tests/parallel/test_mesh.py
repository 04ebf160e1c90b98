import jax
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from mirl_jax.parallel.mesh import (
  AXES,
  batch_sharding,
  check_heads,
  data_shards,
  make_mesh,
  parse_mesh,
  replicated,
  spec,
)


@pytest.mark.parametrize(
  ("text", "devices", "sizes"),
  [
    ("data:-1", 1, (1, 1, 1)),
    ("data:8", 8, (8, 1, 1)),
    ("data:2,fsdp:4", 8, (2, 4, 1)),
    ("data:2, fsdp:-1, tensor:2", 16, (2, 4, 2)),
    ("tensor:4,data:-1", 8, (2, 1, 4)),
    ("fsdp:-1", 6, (1, 6, 1)),
  ],
)
def test_parse_mesh(text, devices, sizes):
  assert tuple(parse_mesh(text, devices).values()) == sizes
  assert tuple(parse_mesh(text, devices)) == AXES


@pytest.mark.parametrize(
  ("text", "match"),
  [
    ("model:8", "'model:8' should read axis:size"),
    ("data", "'data' should read axis:size"),
    ("data:x", "'data:x' should read axis:size"),
    ("data:--1", "'data:--1' should read axis:size"),
    ("", "'' should read axis:size"),
    ("data:2,data:4", "'data' stands twice"),
    ("data:4", "does not fit 8 devices"),
    ("data:3,fsdp:-1", "does not fit 8 devices"),
    ("data:-1,fsdp:-1", "does not fit 8 devices"),
    ("data:0", "does not fit 8 devices"),
    ("data:-8", "does not fit 8 devices"),
    ("data:-2,fsdp:-4", "does not fit 8 devices"),
  ],
)
def test_parse_mesh_errors(text, match):
  with pytest.raises(ValueError, match=match):
    parse_mesh(text, 8)


def test_make_mesh_is_auto_typed():
  mesh = make_mesh("data:1", jax.devices()[:1])
  assert mesh.axis_names == AXES
  assert mesh.axis_types == (AxisType.Auto,) * 3
  assert data_shards(mesh) == 1
  assert batch_sharding(mesh).spec == P(("data", "fsdp"))
  assert replicated(mesh).spec == P()


def mesh_of(data, fsdp, tensor):
  return AbstractMesh((data, fsdp, tensor), AXES)


def test_spec_places_each_mesh_axis_once_and_only_where_it_divides():
  mesh = mesh_of(2, 4, 2)
  assert spec(("embed", "mlp"), (8, 6), mesh) == P("fsdp", "tensor")
  assert spec(("embed", "mlp"), (6, 6), mesh) == P(None, "tensor")
  assert spec(("embed", "mlp"), (8, 5), mesh) == P("fsdp", None)
  assert spec(("layers", "heads", "embed"), (2, 4, 4), mesh) == P(
    None, "tensor", "fsdp"
  )
  assert spec(("vocab", "mlp"), (4, 4), mesh) == P("tensor", None)
  assert spec((), (), mesh) == P()
  with pytest.raises(ValueError, match="'width' has no rule"):
    spec(("width",), (4,), mesh)


def test_spec_keeps_units_together():
  units = {"kv_heads": 4}
  for tensor, cut in ((2, "tensor"), (4, None), (3, None)):
    mesh = mesh_of(1, 1, tensor)
    assert spec(("kv_heads",), (8,), mesh, units) == P(cut)
    assert spec(("kv_heads",), (24,), mesh, {}) == P("tensor")


def test_spec_names_every_dimension():
  with pytest.raises(ValueError, match=r"do not fit the shape \(4, 2\)"):
    spec(("embed",), (4, 2), mesh_of(1, 1, 1))


def test_a_tensor_axis_must_divide_the_heads():
  mesh = AbstractMesh((1, 1, 4), AXES)
  check_heads(mesh, {"text": 28, "vision": 16})
  with pytest.raises(ValueError, match="tensor:4 does not divide the 6 text"):
    check_heads(mesh, {"vision": 4, "text": 6})
