"""MIRL for Qwen3-VL-2B, on slices that it was compiled for.

    python -m mirl_jax.main --config=configs/qwen3_vl_2b.py:SLICE \\
      --config.policy.path=DIR --config.data.train=DIR
"""

from mirl_jax.full_size import full_size

SLICES = {
  "v5e-1x1": {
    "mesh": "data:1",
    "policy.train.vision": "frozen",
    "policy.train.merger": "frozen",
    "policy.train.text": "lora",
    "loss.micro_batches": 64,
    "train.sample_parts": 32,
    "eval.batch": 4,
  },
}


def get_config(name=""):
  return full_size("Qwen/Qwen3-VL-2B-Instruct", SLICES, name)
