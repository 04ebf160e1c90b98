"""MIRL for Qwen2.5-VL-3B on named slices, compiled for them ahead of time.

    python -m mirl_jax.main --config=configs/qwen2_5_vl_3b.py:SLICE \\
      --config.policy.path=DIR --config.data.train=DIR
"""

from mirl_jax.full_size import LORA, full_size

SLICES = {
  "v5e-4x4": {
    "mesh": "fsdp:4,tensor:4",
    "loss.micro_batches": 16,
    "train.sample_parts": 4,
  },
  "v6e-1x1": {
    **LORA,
    "train.sample_parts": 8,
    "eval.batch": 8,
  },
}


def get_config(name=""):
  return full_size("Qwen/Qwen2.5-VL-3B-Instruct", SLICES, name)
