"""Adapters written for PEFT compute the same in transformers."""

import json

import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy import lora as lr
from mirl_jax.policy.parts import Lora, Training
from mirl_jax.policy.peft import write_adapter
from mirl_jax.testing_flat import extend, flat_logits
from mirl_jax.testing_torch import torch_inputs, torch_model

TRAININGS = {
  "all": Training("lora", "lora", "lora", Lora(rank=2, alpha=5.0)),
  "queries": Training(text="lora", lora=Lora(rank=3, target="q_proj")),
}


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize(
  "config",
  [tiny.tiny_config(), tiny.tiny_qwen3()],
  ids=lambda config: config.family,
)
def test_peft_reads_the_adapter(config, training, tmp_path):
  torch = pytest.importorskip("torch")
  peft = pytest.importorskip("peft")
  how = TRAININGS[training]
  leaves = lr.adapter_leaves(config, lr.adapted_modules(config, how), how.lora)
  rng = np.random.default_rng(0)
  values = {
    path: rng.normal(size=x.shape, scale=0.2).astype(np.float32)
    if path.endswith("lora_b")
    else x
    for path, x in lr.init_adapters(leaves, how.lora, 0).items()
  }
  base = tiny.random_params(config)
  params = lr.extend(base, values)
  write_adapter(tmp_path / "adapter", params, config, how.lora, "base")
  model = torch_model(config, base, tmp_path / "base")
  batch = extend(tiny.random_prompts(config), range(3), [[1], [2, 3], []], 3)
  inputs = torch_inputs(config, batch)
  mask = np.asarray(batch.mask)
  with torch.no_grad():
    plain = model(**inputs).logits.numpy()[mask]
    model = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    want = model(**inputs).logits.numpy()[mask]
  got = np.asarray(flat_logits(params, config, batch))[mask]
  np.testing.assert_allclose(got, want, atol=1e-4)
  assert np.abs(plain - want).max() > 0.05
  settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
  assert settings["base_model_name_or_path"] == "base"
  # Each adapted layer is named, none else: PEFT warns of no missing key.
  names = {n for n, _ in model.named_parameters() if "lora_" in n}
  matrices = [x for x in values.values() if x.ndim > 1]
  count = sum(len(x) if x.ndim > 2 else 1 for x in matrices)
  assert len(names) == count


def test_a_policy_without_adapters_is_refused(tmp_path):
  config = tiny.tiny_config()
  with pytest.raises(ValueError, match="no adapters to write"):
    write_adapter(tmp_path, tiny.random_params(config), config, Lora())
