"""What threads save where a batch's pictures are decoded and cut.

    python -m benchmarks.decoding

Decodes the same JPEGs with one thread and with as many as a run takes, in turn,
and prints one JSON object: pictures per second of both, and their ratio; the
median of the pairs, and the least and the largest.
"""

import io
import statistics
import time

import numpy as np
from PIL import Image

from benchmarks.output import tell
from mirl_jax.build import policy_path
from mirl_jax.config import get_config
from mirl_jax.data.example import Example
from mirl_jax.policy.processing import (
  DECODERS,
  Processor,
  decode_pictures,
  load_processor,
)


def photo(width: int, seed: int) -> bytes:
  """A JPEG of smooth colours and some noise, as large as a photograph's."""
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (width // 32, width // 24, 3), np.uint8)
  image = Image.fromarray(small).resize((width, width * 3 // 4))
  noisy = np.asarray(image) + rng.normal(0, 6, np.asarray(image).shape)
  file = io.BytesIO()
  pixels = noisy.clip(0, 255).astype(np.uint8)
  Image.fromarray(pixels).save(file, "JPEG", quality=90)
  return file.getvalue()


def seconds(
  processor: Processor, examples: list[Example], threads: int
) -> float:
  began = time.perf_counter()
  decode_pictures(processor, examples, threads)
  return time.perf_counter() - began


def report(
  pictures: int = 64, width: int = 1280, tokens: int = 1024, pairs: int = 5
) -> dict[str, object]:
  """What is printed.

  Args:
    pictures: of a batch.
    width: of each, in pixels; they are three quarters as high.
    tokens: of each picture at most, for the policy.
    pairs: repetitions of both ways.
  """
  path = policy_path(get_config("mirl"))
  side = load_processor(path).images.factor
  processor = load_processor(path, max_pixels=tokens * side * side)
  examples = [
    Example(str(i), (photo(width, i),), "?", "") for i in range(pictures)
  ]
  seconds(processor, examples[:1], 1)
  taken = [
    [seconds(processor, examples, n) for n in (1, DECODERS)]
    for _ in range(pairs)
  ]
  ratios = sorted(one / several for one, several in taken)
  one, several = (
    pictures / statistics.median(column) for column in zip(*taken, strict=True)
  )
  return {
    "benchmark": "decoding",
    "pictures": pictures,
    "jpeg_bytes": len(examples[0].images[0]),
    "threads": DECODERS,
    "pictures_per_s": {"one": round(one, 1), "threads": round(several, 1)},
    "ratio": {
      "median": round(statistics.median(ratios), 3),
      "min": round(ratios[0], 3),
      "max": round(ratios[-1], 3),
    },
  }


if __name__ == "__main__":
  tell(report())
