"""MIRL for Qwen2.5-VL-32B on named slices, compiled for them ahead of time.

    python -m mirl_jax.main --config=configs/qwen2_5_vl_32b.py:SLICE \\
      --config.policy.path=DIR --config.data.train=DIR
"""

from mirl_jax.full_size import full_size

SLICES = {
  "v5p-4x4x4": {"mesh": "fsdp:16,tensor:4", "loss.micro_batches": 4},
}


def get_config(name=""):
  return full_size("Qwen/Qwen2.5-VL-32B-Instruct", SLICES, name)
