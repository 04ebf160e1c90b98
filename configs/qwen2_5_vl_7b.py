"""MIRL for Qwen2.5-VL-7B on named slices, compiled for them ahead of time.

    python -m mirl_jax.main --config=configs/qwen2_5_vl_7b.py:SLICE \\
      --config.policy.path=DIR --config.data.train=DIR
"""

from mirl_jax.full_size import full_size

SLICES = {
  "v5p-2x2x2": {
    "mesh": "fsdp:4,tensor:2",
    "loss.micro_batches": 16,
    "train.sample_parts": 4,
  },
  "v5e-8x8": {
    "mesh": "fsdp:16,tensor:4",
    "loss.micro_batches": 4,
    "train.sample_parts": 4,
  },
}


def get_config(name=""):
  return full_size("Qwen/Qwen2.5-VL-7B-Instruct", SLICES, name)
