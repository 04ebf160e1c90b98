"""Exports of a LoRA run: merged, and as an adapter."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from mirl_jax import testing_runs as runs
from mirl_jax.export import export
from mirl_jax.train import train

LORA = (
  "--config.policy.train.vision=frozen",
  "--config.policy.train.merger=frozen",
  "--config.policy.train.text=lora",
  "--config.policy.lora.rank=2",
  "--config.policy.lora.target=[qv]_proj",
  "--config.train.steps=1",
  "--config.optimizer.lr=0.01",
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  assert train(runs.small_config(*LORA), str(workdir)) == 0
  return workdir


def test_an_adapter_and_the_merged_weights_agree(workdir, tmp_path):
  """Kernel by kernel: merged - start = B A alpha / r, elsewhere no change."""
  merged, adapter, start = (
    tmp_path / name for name in ("merged", "adapter", "start")
  )
  assert export(runs.small_config(*LORA), str(workdir), str(merged)) == 0
  how = runs.small_config(*LORA, "--config.export.lora=adapter")
  assert export(how, str(workdir), str(adapter)) == 0
  empty = str(tmp_path / "none")
  assert export(runs.small_config(*LORA), empty, str(start)) == 0
  settings = json.loads((adapter / "adapter_config.json").read_text())
  assert {f.name for f in adapter.iterdir()} == {
    "adapter_config.json",
    "adapter_model.safetensors",
  }
  factor = settings["lora_alpha"] / settings["r"]
  parts = load_file(adapter / "adapter_model.safetensors")
  new, old = (load_file(d / "model.safetensors") for d in (merged, start))
  moved = 0
  for name, tensor in new.items():
    module = name.removesuffix(".weight").removeprefix("model.")
    key = f"base_model.model.model.language_model.{module}"
    want = old[name]
    if f"{key}.lora_A.weight" in parts:
      change = parts[f"{key}.lora_B.weight"] @ parts[f"{key}.lora_A.weight"]
      assert np.abs(change).max() > 0
      want = want + factor * change
      moved += 1
    np.testing.assert_allclose(tensor, want, atol=1e-6, err_msg=name)
  assert moved == len(parts) / 2 == 6  # queries and values of three layers


def test_what_an_adapter_would_lose_is_refused(workdir, tmp_path):
  how = ("--config.export.lora=adapter", "--config.policy.train.merger=full")
  with pytest.raises(ValueError, match=r"lose policy\.train\.merger=full"):
    export(runs.small_config(*LORA, *how), str(workdir), str(tmp_path / "a"))
  odd = runs.small_config("--config.export.lora=both")
  with pytest.raises(ValueError, match=r"export\.lora='both' is not one of"):
    export(odd, str(workdir), str(tmp_path / "a"))
