"""MIRL for Qwen3-VL-2B on named slices, compiled for them ahead of time.

    python -m mirl_jax.main --config=configs/qwen3_vl_2b.py:SLICE \\
      --config.policy.path=DIR --config.data.train=DIR
"""

from mirl_jax.full_size import LORA, full_size

SLICES = {
  "v5e-1x1": {
    **LORA,
    "train.sample_parts": 16,
    "eval.batch": 4,
  },
}


def get_config(name=""):
  return full_size("Qwen/Qwen3-VL-2B-Instruct", SLICES, name)
