"""MIRL for Qwen3-VL-8B on named slices, compiled for them ahead of time.

    python -m mirl_jax.main --config=configs/qwen3_vl_8b.py:SLICE \\
      --config.policy.path=DIR --config.data.train=DIR
"""

from mirl_jax.full_size import full_size

SLICES = {
  "v5e-8x8": {
    "mesh": "fsdp:16,tensor:4",
    "loss.micro_batches": 4,
    "train.sample_parts": 2,
  },
}


def get_config(name=""):
  return full_size("Qwen/Qwen3-VL-8B-Instruct", SLICES, name)
