import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from mirl_jax.policy import weights as wt
from mirl_jax.policy.abstract import abstract_params
from mirl_jax.policy.directory import load_config
from mirl_jax.policy.families import from_hf
from mirl_jax.policy.tokenizer import write_tiny_directory

QWEN = Path(__file__).parents[2].parent / "shared" / "data" / "qwen"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A tiny model without weights."""
  out = tmp_path_factory.mktemp("tiny")
  write_tiny_directory(out, ("How many?",) * 9, 290)
  return out


@pytest.fixture(scope="module")
def config(folder):
  return load_config(folder)


def untied(config):
  import dataclasses

  text = dataclasses.replace(config.text, tied=False)
  return dataclasses.replace(config, text=text)


def random_params(config, seed=0, dtype=np.float32):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(dtype),
    abstract_params(config),
  )


def assert_same(got, want):
  got, want = flatten_dict(got, sep="/"), flatten_dict(want, sep="/")
  assert sorted(got) == sorted(want)
  for path, leaf in want.items():
    assert got[path].dtype == leaf.dtype, path
    np.testing.assert_array_equal(got[path], leaf, err_msg=path)


def qwen_config(size):
  if not QWEN.is_dir():
    pytest.skip(f"no {QWEN}")
  config = json.loads(
    (QWEN / "qwen2.5-vl-7b-instruct" / "config.json").read_text()
  )
  if size == "3b":
    hparams = QWEN / "param_tables" / "qwen2.5-vl-3b.hparams.json"
    config |= json.loads(hparams.read_text())
  return from_hf(config)


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_full_size_names_and_shapes_equal_the_hubs(size):
  config = qwen_config(size)
  file = QWEN / "param_tables" / f"qwen2.5-vl-{size}.json"
  table = json.loads(file.read_text())
  want = {name: tuple(shape) for name, shape in table["shapes"].items()}
  assert wt.expected_tensors(config) == want
  leaves = jax.tree.leaves(abstract_params(config))
  total = sum(int(np.prod(leaf.shape)) for leaf in leaves)
  assert 2 * total == table["bytes_bf16"]


def test_qwen3_names_and_shapes_equal_the_hubs():
  """The published index is of an embedding model, which has no head."""
  file = QWEN / "qwen3-vl-embedding-8b" / "config.json"
  if not file.is_file():
    pytest.skip(f"no {file}")
  config = from_hf(json.loads(file.read_text()))
  file = QWEN / "param_tables" / "qwen3-vl-embedding-8b.json"
  table = json.loads(file.read_text())
  want = {name: tuple(shape) for name, shape in table["shapes"].items()}
  got = wt.expected_tensors(config)
  head = got.pop("lm_head.weight")
  assert head == (config.text.vocab, config.text.width)
  assert got == want
  leaves = jax.tree.leaves(abstract_params(config))
  total = sum(int(np.prod(leaf.shape)) for leaf in leaves)
  assert total - np.prod(head) == table["params"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_round_trip_keeps_every_bit(config, tmp_path, tied, seed):
  config = config if tied else untied(config)
  params = random_params(config, seed)
  wt.save_params(tmp_path, params, config)
  assert_same(wt.load_params(tmp_path, config), params)
  again = tmp_path / "again"
  wt.save_params(again, wt.load_params(tmp_path, config), config)
  assert (again / SINGLE).read_bytes() == (tmp_path / SINGLE).read_bytes()


def test_dtypes_are_kept_on_writing_and_cast_on_reading(config, tmp_path):
  params = random_params(config, dtype=jnp.bfloat16)
  wt.save_params(tmp_path, params, config)
  assert_same(wt.load_params(tmp_path, config, jnp.bfloat16), params)
  wide = jax.tree.map(lambda x: x.astype(np.float32), params)
  assert_same(wt.load_params(tmp_path, config, np.float32), wide)
  wt.save_params(tmp_path, wide, config)
  assert_same(wt.load_params(tmp_path, config, jnp.bfloat16), params)


def test_device_arrays_are_written_too(config, tmp_path):
  params = random_params(config)
  wt.save_params(tmp_path, jax.tree.map(jnp.asarray, params), config)
  assert_same(wt.load_params(tmp_path, config), params)


def test_shards_stay_below_the_limit_and_read_back(config, tmp_path):
  params = random_params(config)
  limit = 400_000
  wt.save_params(tmp_path, params, config)
  wt.save_params(tmp_path, params, config, limit)
  index = json.loads((tmp_path / INDEX).read_text())
  shards = sorted(set(index["weight_map"].values()))
  # The single file of the first save must not be read instead.
  assert sorted(f.name for f in tmp_path.iterdir()) == sorted([*shards, INDEX])
  assert len(shards) > 3
  sizes = []
  for shard in shards:
    tensors = load_file(tmp_path / shard)
    assert all(index["weight_map"][name] == shard for name in tensors)
    sizes.append(sum(tensor.nbytes for tensor in tensors.values()))
  assert max(sizes) <= limit
  assert index["metadata"]["total_size"] == sum(sizes)
  assert_same(wt.load_params(tmp_path, config), params)
  wt.save_params(tmp_path, params, config)
  assert [f.name for f in tmp_path.iterdir()] == [SINGLE]


def test_leaves_come_one_at_a_time(config, tmp_path):
  params = random_params(config)
  wt.save_params(tmp_path, params, config)
  flat = flatten_dict(params, sep="/")
  seen = []
  for path, leaf in wt.stream_params(tmp_path, config, np.float32):
    np.testing.assert_array_equal(leaf, flat[path])
    seen.append(path)
  assert sorted(seen) == sorted(flat)


def newer(name):
  """transformers' layout since 4.52."""
  if name.startswith("visual."):
    return f"model.{name}"
  if name.startswith("model."):
    return name.replace("model.", "model.language_model.", 1)
  return name


def test_the_newer_layout_is_read(config, tmp_path):
  config = untied(config)
  params = random_params(config)
  wt.save_params(tmp_path, params, config)
  tensors = load_file(tmp_path / SINGLE)
  save_file({newer(n): t for n, t in tensors.items()}, tmp_path / SINGLE)
  assert_same(wt.load_params(tmp_path, config), params)
  both = {**tensors, "model.visual.merger.ln_q.weight": np.ones(64, "f4")}
  save_file(both, tmp_path / SINGLE)
  with pytest.raises(ValueError, match=r"merger\.ln_q\.weight twice"):
    wt.load_params(tmp_path, config)


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_and_writes_the_same_weights(folder, tmp_path, tied):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  file = tmp_path / "config.json"
  raw = json.loads(file.read_text()) | {"tie_word_embeddings": tied}
  file.write_text(json.dumps(raw))
  config = load_config(tmp_path)
  params = random_params(config)
  wt.save_params(tmp_path, params, config)
  kind = transformers.Qwen2_5_VLForConditionalGeneration
  model, report = kind.from_pretrained(tmp_path, output_loading_info=True)
  assert not report["missing_keys"]
  assert not report["unexpected_keys"]
  # A linear layer is x W^T in torch and x K here.
  x = np.random.default_rng(1).normal(size=(5, 64)).astype(np.float32)
  block = params["vision"]["blocks"]["attn"]["qkv"]
  theirs = model.model.visual.blocks[1].attn.qkv(torch.tensor(x)).detach()
  ours = x @ block["kernel"][1] + block["bias"][1]
  np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)
  # The patch convolution sees (channel, time, row, column).
  x = np.random.default_rng(2).normal(size=(5, 384)).astype(np.float32)
  theirs = model.model.visual.patch_embed(torch.tensor(x)).detach()
  ours = x @ params["vision"]["patch_embed"]["kernel"]
  np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)
  out = tmp_path / "theirs"
  model.save_pretrained(out)
  assert_same(wt.load_params(out, config), params)


@pytest.fixture
def tensors(config, tmp_path):
  wt.save_params(tmp_path, random_params(config), config)
  return load_file(tmp_path / SINGLE)


def test_faults_are_named_in_one_error_with_the_nearest_name(
  tensors, config, tmp_path
):
  norm = "model.layers.1.input_layernorm.weight"
  tensors["model.layers.1.input_norm.weight"] = tensors.pop(norm)
  tensors["visual.patch_embed.proj.weight"] = np.zeros((64, 3), np.float32)
  del tensors["visual.merger.mlp.2.bias"]
  save_file(tensors, tmp_path / SINGLE)
  with pytest.raises(ValueError, match="does not fit its config") as caught:
    wt.load_params(tmp_path, config)
  message = str(caught.value)
  assert (
    f"2 missing: {norm} (nearest there: model.layers.1.input_norm.weight), "
    "visual.merger.mlp.2.bias"
  ) in message
  assert (
    f"1 surplus: model.layers.1.input_norm.weight (nearest expected: {norm})"
  ) in message
  assert (
    "1 misshapen: visual.patch_embed.proj.weight is [64, 3] instead of "
    "[64, 3, 2, 8, 8]"
  ) in message


def test_a_checkpoint_of_another_model_gives_a_short_error(config, tmp_path):
  save_file(
    {f"bert.{i}.weight": np.zeros(2, np.float32) for i in range(300)},
    tmp_path / SINGLE,
  )
  with pytest.raises(
    ValueError, match=r"300 surplus.*… and 292 more"
  ) as caught:
    wt.load_params(tmp_path, config)
  assert len(str(caught.value)) < 3000


def test_a_head_beside_tied_embeddings_must_equal_them(
  tensors, config, tmp_path
):
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
  save_file(tensors, tmp_path / SINGLE)
  assert "head" not in wt.load_params(tmp_path, config)["text"]
  tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
  save_file(tensors, tmp_path / SINGLE)
  with pytest.raises(ValueError, match=r"ties the embeddings, but lm_head"):
    wt.load_params(tmp_path, config)


def test_a_truncated_file_is_named(tensors, config, tmp_path):
  data = (tmp_path / SINGLE).read_bytes()
  (tmp_path / SINGLE).write_bytes(data[: len(data) // 2])
  with pytest.raises(ValueError, match="not a whole safetensors file"):
    wt.load_params(tmp_path, config)


def test_absent_files_are_named(config, tmp_path):
  with pytest.raises(ValueError, match="no such model directory"):
    wt.load_params(tmp_path / "nowhere", config)
  with pytest.raises(ValueError, match="has no weights"):
    wt.load_params(tmp_path, config)
  wt.save_params(tmp_path, random_params(config), config, 400_000)
  index = (tmp_path / INDEX).read_text()
  (tmp_path / INDEX).unlink()
  with pytest.raises(ValueError, match=f"weight files but no {INDEX}"):
    wt.load_params(tmp_path, config)
  (tmp_path / INDEX).write_text(index)
  shard = sorted(tmp_path.glob("model-*"))[1]
  shard.unlink()
  with pytest.raises(ValueError, match=f"{shard.name} is missing"):
    wt.load_params(tmp_path, config)


def test_an_index_that_contradicts_its_shards_is_named(config, tmp_path):
  wt.save_params(tmp_path, random_params(config), config, 400_000)
  index = json.loads((tmp_path / INDEX).read_text())
  name = "model.norm.weight"
  shard = index["weight_map"].pop(name)
  (tmp_path / INDEX).write_text(json.dumps(index))
  with pytest.raises(ValueError, match=f"{shard} holds {name}, which"):
    wt.load_params(tmp_path, config)
  other = next(s for s in index["weight_map"].values() if s != shard)
  index["weight_map"][name] = other
  (tmp_path / INDEX).write_text(json.dumps(index))
  with pytest.raises(ValueError, match=f"{other} lacks {name}"):
    wt.load_params(tmp_path, config)


def test_a_tree_that_does_not_fit_is_not_written(config, tmp_path):
  params = random_params(config)
  params["text"]["norm"]["scale"] = np.zeros(3, np.float32)
  with pytest.raises(ValueError, match="at text/norm/scale"):
    wt.save_params(tmp_path, params, config)
  assert not list(tmp_path.iterdir())
