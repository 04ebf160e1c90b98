import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from benchmarks import loading as benchmark
from mirl_jax import testing as tiny
from mirl_jax.parallel.mesh import make_mesh
from mirl_jax.policy import loading
from mirl_jax.policy.abstract import abstract_params
from mirl_jax.policy.loading import load_params, load_params_onto
from mirl_jax.policy.placement import param_shardings
from mirl_jax.policy.saving import save_params
from mirl_jax.policy.weights import INDEX, SINGLE

CONFIGS = {
  "qwen2.5": tiny.tiny_config(),
  "qwen2.5 untied": tiny.tiny_config(tied=False, temporal_patch=2),
  "qwen3": tiny.tiny_qwen3(),
  "qwen3 tied": tiny.tiny_qwen3(tied=True, temporal_patch=2),
}


@pytest.fixture(params=CONFIGS)
def config(request):
  return CONFIGS[request.param]


def shardings(config):
  return param_shardings(config, make_mesh("data:1"))


def assert_same(got, want):
  got, want = flatten_dict(got, sep="/"), flatten_dict(want, sep="/")
  assert sorted(got) == sorted(want)
  for path, leaf in want.items():
    assert got[path].dtype == leaf.dtype, path
    np.testing.assert_array_equal(got[path], leaf, err_msg=path)


# Onto devices; tests/parallel has meshes of several.


@pytest.mark.parametrize("stored", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_weights_of_every_dtype_are_cast(
  config, tmp_path, stored, dtype, monkeypatch
):
  params = jax.tree.map(
    lambda x: np.asarray(x).astype(stored), tiny.random_params(config)
  )
  want = jax.tree.map(lambda x: x.astype(dtype), params)
  save_params(tmp_path, params, config, 40_000)
  assert_same(load_params(tmp_path, config, dtype), want)
  places = shardings(config)
  small = load_params_onto(tmp_path, config, places, dtype)
  monkeypatch.setattr(loading, "_PIECE_BYTES", 1000)  # divides no tensor
  large = load_params_onto(tmp_path, config, places, dtype)
  for got in (small, large):
    assert_same(got, want)
    same = jax.tree.map(lambda x, place: x.sharding == place, got, places)
    assert all(jax.tree.leaves(same))


def test_a_small_model_compiles_nothing(config, tmp_path):
  save_params(tmp_path, tiny.random_params(config), config)
  loading._writer.cache_clear()
  load_params_onto(tmp_path, config, shardings(config))
  assert loading._writer.cache_info().currsize == 0


def test_all_layers_of_a_leaf_share_one_program(tmp_path, monkeypatch):
  config = tiny.tiny_config(layers=5)
  save_params(tmp_path, tiny.random_params(config), config)
  monkeypatch.setattr(loading, "_PIECE_BYTES", 1000)
  made, create = [], loading._writer.__wrapped__

  def writer(*given):
    made.append(create(*given))
    return made[-1]

  monkeypatch.setattr(loading, "_writer", writer)
  load_params_onto(tmp_path, config, shardings(config))
  assert len(made) > 10
  assert {program._cache_size() for program in made} == {1}


@pytest.mark.parametrize(
  ("dtype", "mesh"), [("float32", "data:1"), ("bfloat16", "fsdp:4")]
)
def test_the_host_holds_little_beside_the_devices(tmp_path, dtype, mesh):
  """Less than the largest leaf, which would once be made on the host whole."""
  if not Path("/proc/self/status").exists():
    pytest.skip("anonymous memory is read from /proc")
  sizes = (2048, 512)
  config = benchmark.model(0.3, *sizes)
  benchmark.write_checkpoint(tmp_path, config)
  count = max(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))
  bound = 0.9e-6 * count * jnp.dtype(dtype).itemsize
  assert bound > 70
  case = (0.3, dtype, mesh, str(tmp_path))
  found = benchmark.measure(*case, sizes=sizes)
  assert abs(found["parameter_bytes"] / jnp.dtype(dtype).itemsize - 15e7) < 1e7
  assert found["load"]["excess_mb"] < bound
  assert found["save"]["excess_mb"] < bound
  if mesh == "data:1":  # the test can fail
    whole = benchmark.measure(*case, way="whole", sizes=sizes)
    assert whole["load"]["excess_mb"] > 3 * bound


# Layouts and faults.


def newer(name):
  """transformers' layout since 4.52."""
  if name.startswith("visual."):
    return f"model.{name}"
  if name.startswith("model."):
    return name.replace("model.", "model.language_model.", 1)
  return name


def test_the_newer_layout_is_read(tmp_path):
  config = CONFIGS["qwen2.5 untied"]
  params = jax.device_get(tiny.random_params(config))
  save_params(tmp_path, params, config)
  tensors = load_file(tmp_path / SINGLE)
  save_file({newer(n): t for n, t in tensors.items()}, tmp_path / SINGLE)
  assert_same(load_params(tmp_path, config), params)
  both = {**tensors, "model.visual.merger.ln_q.weight": np.ones(64, "f4")}
  save_file(both, tmp_path / SINGLE)
  assert "merger.ln_q.weight twice" in fault(tmp_path, config)


def fault(folder, config):
  """What a directory is refused with, the same on either way in."""
  messages = []
  for load in (
    lambda: load_params(folder, config),
    lambda: load_params_onto(folder, config, shardings(config)),
  ):
    with pytest.raises(ValueError, match=str(folder)) as caught:
      load()
    messages.append(str(caught.value))
  assert messages[0] == messages[1]
  assert "\n" not in messages[0]
  return messages[0]


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3 tied"])
def test_a_head_beside_tied_embeddings_must_equal_them(
  name, tmp_path, monkeypatch
):
  monkeypatch.setattr(loading, "_PIECE_BYTES", 1000)
  config = CONFIGS[name]
  save_params(tmp_path, tiny.random_params(config), config)
  tensors = load_file(tmp_path / SINGLE)
  embedding = next(n for n in tensors if n.endswith("embed_tokens.weight"))
  tensors["lm_head.weight"] = tensors[embedding]
  save_file(tensors, tmp_path / SINGLE)
  assert "head" not in load_params(tmp_path, config)["text"]
  for row in (0, -1):
    changed = tensors[embedding].copy()
    changed[row, 3] += 1
    save_file({**tensors, "lm_head.weight": changed}, tmp_path / SINGLE)
    said = fault(tmp_path, config)
    assert "ties the embeddings, but lm_head.weight differs" in said
  save_file({**tensors, "lm_head.weight": changed[1:]}, tmp_path / SINGLE)
  assert "differs" in fault(tmp_path, config)


@pytest.fixture
def shards(config, tmp_path):
  save_params(tmp_path, tiny.random_params(config), config, 40_000)
  return sorted(tmp_path.glob("model-*"))


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_named(shards, config, tmp_path, kept):
  data = shards[1].read_bytes()
  shards[1].write_bytes(data[: int(kept * len(data))])
  said = fault(tmp_path, config)
  assert f"{shards[1]} is not a whole safetensors file" in said
  assert "download it again" in said


def test_a_pointer_of_git_lfs_is_no_weights(shards, config, tmp_path):
  shards[0].write_text("version https://git-lfs.github.com/spec/v1\n")
  assert f"{shards[0]} is not a whole" in fault(tmp_path, config)


def test_absent_files_are_named(shards, config, tmp_path):
  assert "no such model directory" in fault(tmp_path / "nowhere", config)
  (tmp_path / "empty").mkdir()
  assert "has no weights" in fault(tmp_path / "empty", config)
  index = (tmp_path / INDEX).read_text()
  (tmp_path / INDEX).unlink()
  assert f"{len(shards)} weight files but no {INDEX}" in fault(tmp_path, config)
  (tmp_path / INDEX).write_text(index)
  shards[1].unlink()
  assert f"{shards[1]} is missing" in fault(tmp_path, config)


@pytest.mark.parametrize(
  ("content", "said"),
  [
    ("{", "not valid JSON"),
    ("[]", "holds no JSON object"),
    ("{}", "has no weight_map"),
    ('{"weight_map": {}}', "has no weight_map"),
  ],
)
def test_a_broken_index_is_named(shards, config, tmp_path, content, said):
  (tmp_path / INDEX).write_text(content)
  message = fault(tmp_path, config)
  assert f"{tmp_path / INDEX} " in message
  assert said in message


def test_an_index_that_contradicts_its_shards_is_named(
  shards, config, tmp_path
):
  index = json.loads((tmp_path / INDEX).read_text())
  name = next(n for n in index["weight_map"] if n.endswith("del.norm.weight"))
  shard = index["weight_map"].pop(name)
  (tmp_path / INDEX).write_text(json.dumps(index))
  said = f"{tmp_path / shard} holds {name}, which {INDEX} does not list"
  assert said in fault(tmp_path, config)
  other = next(s for s in index["weight_map"].values() if s != shard)
  index["weight_map"][name] = other
  (tmp_path / INDEX).write_text(json.dumps(index))
  assert f"{tmp_path / other} lacks {name}" in fault(tmp_path, config)


@pytest.mark.parametrize(
  ("dtype", "kind"), [(np.int8, "I8"), (np.uint8, "U8"), (np.float64, "F64")]
)
def test_a_dtype_that_is_not_supported_is_named(tmp_path, dtype, kind):
  """Before the names, which a quantised checkpoint has others of too."""
  config = CONFIGS["qwen2.5"]
  save_params(tmp_path, tiny.random_params(config), config)
  tensors = load_file(tmp_path / SINGLE)
  bad = sorted(name for name in tensors if "mlp" in name)[:3]
  for name in bad:
    tensors[f"{name}_packed"] = tensors.pop(name).astype(dtype)
  save_file(tensors, tmp_path / SINGLE)
  said = fault(tmp_path, config)
  assert f"{tmp_path / SINGLE}: {bad[0]}_packed is {kind}, not one of" in said
  assert "(2 others too); quantised checkpoints are not supported" in said


def test_eight_bit_floats_are_refused(tmp_path):
  """The library cannot write them from numpy: the header is changed here."""
  config = CONFIGS["qwen2.5"]
  save_params(tmp_path, tiny.random_params(config), config)
  data = (tmp_path / SINGLE).read_bytes()
  size = int.from_bytes(data[:8], "little")
  head = json.loads(data[8 : 8 + size])
  name = max(head, key=lambda n: head[n].get("data_offsets", [0])[0])
  entry = head[name]
  entry["dtype"] = "F8_E4M3"
  begin, end = entry["data_offsets"]
  entry["data_offsets"] = [begin, begin + (end - begin) // 4]
  text = json.dumps(head).encode()
  (tmp_path / SINGLE).write_bytes(
    len(text).to_bytes(8, "little")
    + text
    + data[8 + size : 8 + size + entry["data_offsets"][1]]
  )
  assert f"{name} is F8_E4M3, not one of" in fault(tmp_path, config)


def test_a_wrong_shape_is_named(config, tmp_path):
  save_params(tmp_path, tiny.random_params(config), config)
  tensors = load_file(tmp_path / SINGLE)
  name = next(n for n in tensors if n.endswith("layers.1.mlp.up_proj.weight"))
  shape = list(tensors[name].shape)
  tensors[name] = np.ascontiguousarray(tensors[name].T)
  save_file(tensors, tmp_path / SINGLE)
  said = f"1 misshapen: {name} is {shape[::-1]} instead of {shape}"
  assert said in fault(tmp_path, config)
