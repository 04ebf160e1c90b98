import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from mirl_jax import testing as tiny
from mirl_jax.policy import saving
from mirl_jax.policy.loading import load_params
from mirl_jax.policy.saving import save_params
from mirl_jax.policy.weights import INDEX, SINGLE, expected_tensors
from mirl_jax.testing_torch import ARCHITECTURES, hf_config

CONFIGS = {
  "qwen2.5": tiny.tiny_config(),
  "qwen2.5 untied": tiny.tiny_config(tied=False, temporal_patch=2),
  "qwen3": tiny.tiny_qwen3(),
  "qwen3 tied": tiny.tiny_qwen3(tied=True, temporal_patch=2),
}
DTYPES = (np.dtype(np.float32), np.dtype(jnp.bfloat16), np.dtype(np.float16))


@pytest.fixture(params=CONFIGS)
def config(request):
  return CONFIGS[request.param]


@pytest.fixture(params=["whole", "in pieces"])
def pieces(request, monkeypatch):
  """Small tensors are as large ones: pieces that do not divide them."""
  if request.param == "in pieces":
    monkeypatch.setattr(saving, "_PIECE_BYTES", 1000)
    monkeypatch.setattr(saving, "_SMALL_BYTES", 0)


def random_params(config, seed=0, dtype=np.float32):
  return jax.tree.map(
    lambda x: np.asarray(x.astype(dtype)), tiny.random_params(config, seed)
  )


def assert_same(got, want):
  got, want = flatten_dict(got, sep="/"), flatten_dict(want, sep="/")
  assert sorted(got) == sorted(want)
  for path, leaf in want.items():
    assert got[path].dtype == leaf.dtype, path
    np.testing.assert_array_equal(got[path], leaf, err_msg=path)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_round_trip_keeps_every_bit(config, tmp_path, dtype, place, pieces):
  params = random_params(config, 1, dtype)
  save_params(tmp_path, jax.tree.map(place, params), config)
  tensors = load_file(tmp_path / SINGLE)  # the library's reader
  shapes = {name: x.shape for name, x in tensors.items()}
  assert shapes == expected_tensors(config)
  assert {x.dtype for x in tensors.values()} == {dtype}
  assert_same(load_params(tmp_path, config, dtype), params)
  again = tmp_path / "again"
  save_params(again, load_params(tmp_path, config, dtype), config)
  assert (again / SINGLE).read_bytes() == (tmp_path / SINGLE).read_bytes()


def test_a_dtype_is_cast_to_on_writing(config, tmp_path, pieces):
  params = random_params(config)
  narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  for place in (np.asarray, jnp.asarray):
    placed = jax.tree.map(place, params)
    save_params(tmp_path, placed, config, dtype=jnp.bfloat16)
    assert_same(load_params(tmp_path, config, jnp.bfloat16), narrow)


def test_dtypes_may_be_mixed(tmp_path, pieces):
  config = CONFIGS["qwen3"]
  # An odd number of two-byte elements must not shift the four-byte ones.
  vision = dataclasses.replace(config.vision, out_width=51)
  config = dataclasses.replace(
    config,
    vision=vision,
    text=dataclasses.replace(config.text, width=51),
  )
  params = random_params(config)
  params["vision"] = jax.tree.map(
    lambda x: x.astype(jnp.bfloat16), params["vision"]
  )
  save_params(tmp_path, params, config)
  assert_same(
    load_params(tmp_path, config),
    jax.tree.map(lambda x: x.astype(np.float32), params),
  )
  with open(tmp_path / SINGLE, "rb") as file:
    size = int.from_bytes(file.read(8), "little")
    head = json.loads(file.read(size))
  assert size % 8 == 0
  assert head.pop("__metadata__") == {"format": "pt"}
  assert {entry["dtype"] for entry in head.values()} == {"F32", "BF16"}
  width = {"F32": 4, "BF16": 2}
  for entry in head.values():
    assert entry["data_offsets"][0] % width[entry["dtype"]] == 0


def test_shards_stay_below_the_limit_and_read_back(config, tmp_path):
  params = random_params(config)
  limit, lines = 70_000, []
  save_params(tmp_path, params, config)
  save_params(tmp_path, params, config, limit, say=lines.append)
  index = json.loads((tmp_path / INDEX).read_text())
  shards = sorted(set(index["weight_map"].values()))
  # The single file of the first save must not be read instead.
  assert sorted(f.name for f in tmp_path.iterdir()) == sorted([*shards, INDEX])
  assert len(shards) > 3
  assert lines == [
    f"{shard}: 0 MB ({i} of {len(shards)})" for i, shard in enumerate(shards, 1)
  ]
  sizes = []
  for shard in shards:
    tensors = load_file(tmp_path / shard)
    assert all(index["weight_map"][name] == shard for name in tensors)
    sizes.append(sum(tensor.nbytes for tensor in tensors.values()))
  assert max(sizes) <= limit
  assert index["metadata"]["total_size"] == sum(sizes)
  assert_same(load_params(tmp_path, config), params)
  save_params(tmp_path, params, config)
  assert [f.name for f in tmp_path.iterdir()] == [SINGLE]


def test_another_process_than_the_primary_writes_nothing(config, tmp_path):
  out = tmp_path / "out"
  save_params(out, random_params(config), config, primary=False)
  assert not out.exists()


def test_transformers_reads_and_writes_the_same_weights(config, tmp_path):
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  params = random_params(config)
  (tmp_path / "config.json").write_text(json.dumps(hf_config(config)))
  save_params(tmp_path, params, config, 40_000)
  kind = getattr(transformers, ARCHITECTURES[config.family])
  model, report = kind.from_pretrained(tmp_path, output_loading_info=True)
  assert not report["missing_keys"]
  assert not report["unexpected_keys"]
  out = tmp_path / "theirs"
  model.save_pretrained(out)
  assert_same(load_params(out, config), params)


def test_a_tree_that_does_not_fit_is_not_written(config, tmp_path):
  params = random_params(config)
  params["text"]["norm"]["scale"] = np.zeros(3, np.float32)
  with pytest.raises(ValueError, match="at text/norm/scale"):
    save_params(tmp_path, params, config)
  assert not list(tmp_path.iterdir())
