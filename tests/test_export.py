import dataclasses
import json
import shutil
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mirl_jax import build, main
from mirl_jax import export as mode
from mirl_jax import testing as tiny
from mirl_jax import testing_runs as runs
from mirl_jax.learning.optimizer import make_optimizer
from mirl_jax.learning.state import new_state
from mirl_jax.policy.directory import load_config
from mirl_jax.policy.loading import load_params
from mirl_jax.policy.lora import merge
from mirl_jax.policy.parts import join
from mirl_jax.policy.saving import save_params
from mirl_jax.policy.weights import INDEX, SINGLE
from mirl_jax.runs.checkpoints import Checkpoints
from mirl_jax.runs.config_files import write_config
from mirl_jax.start import place_state, start_params
from mirl_jax.testing_flat import flat_logits
from mirl_jax.testing_torch import ARCHITECTURES, hf_config, torch_inputs
from mirl_jax.train import train

TINY = Path(str(resources.files("mirl_jax") / "tiny"))
SHORT = ("--config.train.steps=2", "--config.eval.every=0")


def contents(folder):
  return {file.name: file.read_bytes() for file in folder.iterdir()}


def others(folder):
  """What is no weights and no config.json."""
  kept = contents(folder)
  return {
    name: kept[name]
    for name in kept
    if name != "config.json" and "safetensors" not in name
  }


def directory(folder, family, tied, dtype):
  """A whole model directory of random weights, with the tiny model's files."""
  make = {"qwen2_5_vl": tiny.tiny_config, "qwen3_vl": tiny.tiny_qwen3}[family]
  config, own = make(tied=tied), load_config(TINY)
  ids = {
    field.name: getattr(own, field.name)
    for field in dataclasses.fields(config)
    if field.name not in ("family", "vision", "text")
  }
  vision = {"patch": 8, "temporal_patch": 2}
  if hasattr(config.vision, "window"):
    vision["window"] = 32  # of two merge units, as before
  config = dataclasses.replace(
    config,
    vision=dataclasses.replace(config.vision, **vision),
    text=dataclasses.replace(config.text, vocab=own.text.vocab),
    **ids,
  )
  shutil.copytree(TINY, folder)
  (folder / SINGLE).unlink()
  raw = hf_config(config) | {"torch_dtype": np.dtype(dtype).name}
  raw |= {"eos_token_id": 469, "pad_token_id": 467}
  (folder / "config.json").write_text(json.dumps(raw))
  params = jax.tree.map(
    lambda x: np.asarray(x.astype(dtype)), tiny.random_params(config)
  )
  save_params(folder, params, config, 100_000)
  return params


def exported(source, out, *overrides):
  config = runs.small_config(f"--config.policy.path={source}", *overrides)
  policy = build.make_policy(config)
  params = build.load_policy_params(config, policy)
  mode.write_model(config, policy, params, out)
  return policy


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_import_export_import_is_the_same(family, tied, dtype, tmp_path):
  source, out, again = (tmp_path / name for name in "abc")
  params = directory(source, family, tied, dtype)
  for held in ("float32", "bfloat16") if dtype != np.float32 else ("float32",):
    for folder in (out, again):
      shutil.rmtree(folder, ignore_errors=True)
    flags = (
      f"--config.policy.param_dtype={held}",
      "--config.export.shard_gb=0.0001",
    )
    policy = exported(source, out, *flags)
    exported(out, again, *flags)
    assert others(source) == others(out)
    assert json.loads((out / "config.json").read_text()) == json.loads(
      (source / "config.json").read_text()
    )
    weights = {n: b for n, b in contents(source).items() if "safetens" in n}
    assert len(weights) > 2
    assert INDEX in weights
    assert weights.items() <= contents(out).items()
    assert contents(out) == contents(again)
    got = flatten_dict(load_params(out, policy.config, dtype))
    for path, leaf in flatten_dict(params).items():
      np.testing.assert_array_equal(got[path], leaf)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_transformers_loads_it_and_gives_the_same_logits(family, tmp_path):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  source, out = tmp_path / "source", tmp_path / "out"
  directory(source, family, False, np.float32)
  policy = exported(source, out, "--config.export.shard_gb=0.0001")
  kind = getattr(transformers, ARCHITECTURES[family])
  model, report = kind.from_pretrained(
    out, attn_implementation="eager", output_loading_info=True
  )
  assert not any(report.values())
  assert model.dtype == torch.float32
  assert model.generation_config.eos_token_id == [469, 467]
  tokenizer = transformers.AutoTokenizer.from_pretrained(out)
  assert tokenizer.chat_template == policy.processor.chat_template
  params = load_params(source, policy.config)
  prompts = tiny.random_prompts(policy.config, 1)
  with torch.no_grad():
    theirs = model(**torch_inputs(policy.config, prompts)).logits.numpy()
  ours = np.asarray(flat_logits(params, policy.config, prompts))
  mask = np.asarray(prompts.mask)
  np.testing.assert_allclose(ours[mask], theirs[mask], atol=1e-4)


def test_the_dtype_and_that_of_config_json_agree(tmp_path):
  half, back = tmp_path / "half", tmp_path / "back"
  exported(TINY, half, "--config.export.dtype=bfloat16")
  config = load_config(TINY)
  want = load_params(TINY, config, ml_dtypes.bfloat16)
  got = load_params(half, config, ml_dtypes.bfloat16)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert (half / SINGLE).stat().st_size < 0.51 * (TINY / SINGLE).stat().st_size
  raw = json.loads((half / "config.json").read_text())
  assert raw.pop("torch_dtype") == "bfloat16"
  own = json.loads((TINY / "config.json").read_text())
  assert own.pop("torch_dtype") == "float32"
  assert raw == own
  exported(half, back)  # as its source stores them
  assert contents(back) == contents(half)
  exported(half, tmp_path / "wide", "--config.export.dtype=float32")
  raw = json.loads((tmp_path / "wide" / "config.json").read_text())
  assert raw["torch_dtype"] == "float32"


def test_other_weights_are_not_carried_over(tmp_path):
  source, out = tmp_path / "source", tmp_path / "out"
  shutil.copytree(TINY, source)
  for name in ("pytorch_model.bin", "old.pt", "x.gguf", "x.bin.index.json"):
    (source / name).write_text("of another time")
  (source / "NOTICE").write_text("kept")
  exported(source, out)
  want = {file.name for file in TINY.iterdir()} | {"NOTICE"}
  assert {file.name for file in out.iterdir()} == want


# The mode.


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  """A short run of the default job on small sizes."""
  workdir = tmp_path_factory.mktemp("original")
  assert train(runs.small_config(*SHORT), str(workdir)) == 0
  return workdir


def run(*argv):
  return main.run(["--mode=export", *map(str, argv)])


def test_the_default_job_runs_the_same_from_an_export(
  original, tmp_path, capsys
):
  out = tmp_path / "models" / "out"
  new = tmp_path / "new"
  assert run(f"--workdir={new}", f"--out={out}") == 0
  said = capsys.readouterr().out.splitlines()
  assert said[0] == f"{SINGLE}: 2 MB (1 of 1)"
  assert said[1] == (
    f"model: {out} (the start policy, as {new} has no checkpoint; float32)"
  )
  assert not new.exists()
  assert [file.name for file in out.parent.iterdir()] == ["out"]
  flags = (*SHORT, f"--config.policy.path={out}")
  again = tmp_path / "again"
  assert train(runs.small_config(*flags), str(again)) == 0
  rows = runs.untimed_metrics(original)
  assert [row["step"] for row in rows] == [0, 1, 2]
  assert rows == runs.untimed_metrics(again)
  assert runs.different_arrays(original, again) == []
  assert runs.dumps(original) == runs.dumps(again)


def test_a_run_is_exported_by_its_own_config(original, tmp_path, capsys):
  """Its last checkpoint, its pixel limits; no flag is repeated."""
  workdir = tmp_path / "run"
  shutil.copytree(original, workdir)
  file = workdir / "config.json"
  saved = json.loads(file.read_text())
  saved["policy"]["max_pixels"] = 2304
  file.write_text(json.dumps(saved))
  out = tmp_path / "out"
  assert run(f"--workdir={workdir}", f"--out={out}") == 0
  assert f"(step 2 of {workdir}; float32)" in capsys.readouterr().out
  limits = json.loads((out / "preprocessor_config.json").read_text())
  assert limits["max_pixels"] == 2304
  assert limits["min_pixels"] == 576
  got = load_params(out, load_config(TINY))
  arrays = runs.saved_arrays(workdir)
  start = load_params(TINY, load_config(TINY))
  for path, leaf in jax.tree_util.tree_leaves_with_path(got):
    want = arrays["['params']" + jax.tree_util.keystr(path)]
    np.testing.assert_array_equal(leaf, want)
  embedding = [x["text"]["embed"]["embedding"] for x in (got, start)]
  assert not np.array_equal(*embedding)


def checkpoint(workdir, config, kind, step):
  """What a run of a mode leaves, with trained leaves that are all changed."""
  policy = build.make_policy(config)
  trained, frozen = start_params(config, policy)
  trained = jax.tree.map(lambda x: x + 0.01, trained)
  optimizer = make_optimizer(config.optimizer.to_dict(), 6)
  # MI's scorer is the start.
  state = new_state(trained, optimizer, kind == "train", False)
  state = place_state(state, policy)
  Checkpoints(workdir, 1).save(step, state, {"mode": kind})
  write_config(workdir, config)
  return join(trained, frozen)


@pytest.mark.parametrize("kind", ["train", "sft"])
def test_a_run_of_part_of_the_policy_is_exported_merged(kind, tmp_path, capsys):
  """Frozen parts come from policy.path, adapters into the kernels."""
  workdir, out = tmp_path / "run", tmp_path / "out"
  config = runs.small_config(
    "--config.policy.train.vision=frozen",
    "--config.policy.train.merger=full",
    "--config.policy.train.text=lora",
    "--config.policy.param_dtype=bfloat16",
    "--config.export.dtype=float32",
  )
  params = checkpoint(workdir, config, kind, 4)
  assert run(f"--workdir={workdir}", f"--out={out}") == 0
  assert f"(step 4 of {workdir}; float32)" in capsys.readouterr().out
  got, start = (load_params(x, load_config(TINY)) for x in (out, TINY))
  half = jax.tree.map(
    lambda x: x.astype(jnp.bfloat16).astype(np.float32), start
  )
  merger = [x["vision"].pop("merger") for x in (got, half)]
  jax.tree.map(np.testing.assert_array_equal, got["vision"], half["vision"])
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y + 0.01, atol=1e-6), *merger
  )
  jax.tree.map(
    np.testing.assert_array_equal, got["text"]["embed"], half["text"]["embed"]
  )
  want = merge(params)["text"]["blocks"]["mlp"]["gate"]["kernel"]
  kernels = [x["text"]["blocks"]["mlp"]["gate"]["kernel"] for x in (got, half)]
  np.testing.assert_array_equal(kernels[0], want.astype(np.float32))
  assert not np.array_equal(*kernels)


def test_what_it_cannot_do_is_one_clear_line(tmp_path, capsys, monkeypatch):
  def fail(*_):
    raise AssertionError("nothing may be loaded before")

  monkeypatch.setattr(mode, "load_roles", fail)
  full = tmp_path / "full"
  full.mkdir()
  (full / "mine.txt").write_text("mine")
  file = tmp_path / "file"
  file.write_text("mine")
  draft = tmp_path / "new.part"
  new = f"--out={tmp_path / 'new'}"
  for argv, said in (
    ([], "needs --out=DIR"),
    ([f"--out={full}"], f"{full} exists and is not an empty directory"),
    ([f"--out={file}"], f"{file} exists and is not an empty directory"),
    ([f"--out={TINY}", f"--config.policy.path={TINY}"], "is policy.path"),
    ([new, "--config.export.dtype=int8"], "export.dtype='int8'"),
    ([new, "--config.export.shard_gb=0"], "export.shard_gb=0"),
    ([new, "--config.export.shard_gb=nan"], "export.shard_gb=nan"),
    ([new, "--config.policy.path=nowhere"], "no such model directory: nowhere"),
  ):
    assert run(f"--workdir={tmp_path / 'none'}", *argv) == main.BAD_ARGUMENT
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err
  assert contents(full) == {"mine.txt": b"mine"}
  assert file.read_text() == "mine"
  assert not draft.exists()
  assert not (tmp_path / "new").exists()


def test_a_stored_dtype_that_cannot_be_written_is_named(tmp_path):
  source = tmp_path / "source"
  shutil.copytree(TINY, source)
  raw = json.loads((source / "config.json").read_text())
  file = source / "config.json"
  path = f"--config.policy.path={source}"
  file.write_text(json.dumps(raw | {"torch_dtype": "float8_e4m3fn"}))
  with pytest.raises(ValueError, match=r"config\.json has dtype 'float8_e4m3"):
    mode.export_dtype(runs.small_config(path))
  for value, want in (("torch.bfloat16", jnp.bfloat16), (None, jnp.float32)):
    file.write_text(json.dumps(raw | {"torch_dtype": value}))
    assert mode.export_dtype(runs.small_config(path)) == want


def test_a_kill_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
  out, draft = tmp_path / "out", tmp_path / "out.part"

  class Kill(BaseException):
    """As a signal, whose handler may not even clean up."""

  def die(*_):
    assert draft.is_dir()
    raise Kill

  for name in ("save_params", "copy_directory", "write_dtype"):
    with monkeypatch.context() as patch:
      patch.setattr(mode, name, die)
      patch.setattr(mode.shutil, "rmtree", lambda *_, **__: None)
      with pytest.raises(Kill):
        exported(TINY, out)
    assert not out.exists()
    assert (draft / "UNFINISHED").is_file()
    exported(TINY, out)  # takes what was left for its own
    assert {f.name for f in out.iterdir()} == {f.name for f in TINY.iterdir()}
    assert not draft.exists()
    shutil.rmtree(out)
  # What may be a user's is left alone.
  draft.mkdir()
  (draft / "mine.txt").write_text("mine")
  with pytest.raises(ValueError, match=r"out\.part is in the way"):
    exported(TINY, out)
  assert contents(draft) == {"mine.txt": b"mine"}


def test_an_error_takes_its_draft_away(tmp_path, monkeypatch):
  def full(*_):
    raise OSError("no space left on device")

  monkeypatch.setattr(mode, "write_dtype", full)
  with pytest.raises(OSError, match="no space left"):
    exported(TINY, tmp_path / "out")
  assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_may_be_given(tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  assert mode.check_out(runs.small_config(), str(out)) == out
  exported(TINY, out)
  assert (out / SINGLE).is_file()
