"""The random models and questions that the speed benchmarks share.

A model is an ordinary Hugging Face directory (config, tokenizer, processor,
weights); beside it lie the questions as arrays, so that every contender, in
whatever library, computes the same thing.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirl_jax.data.example import Example
from mirl_jax.policy.configs import TextConfig, VLMConfig
from mirl_jax.policy.directory import write_json
from mirl_jax.policy.families import qwen2_5_vl
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.processing import Processor, load_processor
from mirl_jax.policy.saving import save_params
from mirl_jax.policy.tokenizer import (
  SPECIAL_TOKENS,
  save_tokenizer,
  train_tokenizer,
)
from mirl_jax.testing import random_params
from mirl_jax.testing_torch import hf_config, pictures

_PATCH, _MERGE = 14, 2
# Of the embedding, hence of the logits: sampling stays near uniform, the
# policy that the responses of `write_case` are drawn from.
_LOGIT_SCALE = 0.2


@dataclass(frozen=True)
class Sizes:
  """A model and what is asked of it.

  Attributes:
    width, layers, heads, kv_heads, vocab: of the decoder.
    vision_width, vision_heads, vision_depth: of the tower.
    pixels: side of the square picture.
    window: side of an attention window, in pixels.
    text_tokens: of a prompt, beside the picture's.
    new_tokens: sampled per response.
    response: tokens of a response that is scored or learned from.
    questions, samples: of a batch; responses per question.
    update_questions: questions of an update.
  """

  width: int
  layers: int
  heads: int
  kv_heads: int
  vocab: int
  vision_width: int
  vision_heads: int
  vision_depth: int
  pixels: int
  window: int = 112
  text_tokens: int = 64
  new_tokens: int = 128
  response: int = 192
  questions: int = 4
  samples: int = 16
  update_questions: int = 4

  @property
  def image_tokens(self) -> int:
    return (self.pixels // _PATCH // _MERGE) ** 2

  @property
  def prompt(self) -> int:
    return self.image_tokens + self.text_tokens


SIZES = {
  "tiny": Sizes(
    width=64,
    layers=2,
    heads=4,
    kv_heads=2,
    vocab=512,
    vision_width=32,
    vision_heads=2,
    vision_depth=2,
    pixels=56,
    window=56,
    text_tokens=24,
    new_tokens=8,
    response=12,
    questions=2,
    samples=4,
    update_questions=2,
  ),
  "small": Sizes(
    width=256,
    layers=4,
    heads=4,
    kv_heads=2,
    vocab=4096,
    vision_width=128,
    vision_heads=4,
    vision_depth=4,
    pixels=224,
  ),
  "medium": Sizes(
    width=768,
    layers=8,
    heads=12,
    kv_heads=2,
    vocab=8192,
    vision_width=384,
    vision_heads=6,
    vision_depth=8,
    pixels=448,
    update_questions=1,
  ),
}


def vlm_config(sizes: Sizes) -> VLMConfig:
  """Qwen2.5-VL of these sizes; its special ids are the last ones."""
  ids = {
    name: sizes.vocab - len(SPECIAL_TOKENS) + i
    for i, name in enumerate(SPECIAL_TOKENS)
  }
  half = sizes.width // sizes.heads // 2
  depth = sizes.vision_depth
  return VLMConfig(
    family=qwen2_5_vl.MODEL_TYPE,
    vision=qwen2_5_vl.Vision(
      depth=depth,
      width=sizes.vision_width,
      heads=sizes.vision_heads,
      mlp=4 * sizes.vision_width,
      out_width=sizes.width,
      patch=_PATCH,
      temporal_patch=2,
      merge=_MERGE,
      window=sizes.window,
      # One block in four, as Qwen's; at least the last one.
      full_blocks=tuple(range(3, depth, 4)) or (depth - 1,),
    ),
    text=TextConfig(
      vocab=sizes.vocab,
      width=sizes.width,
      layers=sizes.layers,
      heads=sizes.heads,
      kv_heads=sizes.kv_heads,
      head_dim=sizes.width // sizes.heads,
      mlp=4 * sizes.width,
      rope_theta=1e6,
      # Qwen's shares of the frequencies: 16, 24 and 24 of 64.
      mrope_section=(
        half // 4,
        3 * half // 8,
        half - half // 4 - 3 * half // 8,
      ),
      rms_eps=1e-6,
      tied=True,
    ),
    image_token=ids["<|image_pad|>"],
    video_token=ids["<|video_pad|>"],
    vision_start_token=ids["<|vision_start|>"],
    vision_end_token=ids["<|vision_end|>"],
    vision_pad_token=ids["<|vision_pad|>"],
    eos_tokens=(ids["<|im_end|>"],),
    pad_token=ids["<|endoftext|>"],
  )


def _words(count: int) -> list[str]:
  """Random words; enough of them to train any of the vocabularies on."""
  rng = np.random.default_rng(0)
  letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
  sizes = rng.integers(2, 9, count)
  return ["".join(rng.choice(letters, size)) for size in sizes]


def write_model(folder: Path, sizes: Sizes) -> None:
  """Writes the directory of a random float32 model."""
  folder.mkdir(parents=True, exist_ok=True)
  config = vlm_config(sizes)
  words = " ".join(_words(2 * sizes.vocab))
  tokenizer = train_tokenizer(["user\nassistant\n", words], sizes.vocab)
  if len(tokenizer) != sizes.vocab:
    raise ValueError(f"{len(tokenizer)} ids were trained, not {sizes.vocab}")
  save_tokenizer(tokenizer, folder)
  content = hf_config(config)
  content["vision_token_id"] = config.vision_pad_token
  content["bos_token_id"] = config.pad_token
  content["max_position_embeddings"] = 8192
  write_json(folder / "config.json", content)
  write_json(
    folder / "preprocessor_config.json",
    {
      "image_mean": [0.5, 0.5, 0.5],
      "image_std": [0.25, 0.25, 0.25],
      "image_processor_type": "Qwen2VLImageProcessor",
      "processor_class": "Qwen2_5_VLProcessor",
      "min_pixels": sizes.pixels**2 // 4,
      "max_pixels": 4 * sizes.pixels**2,
      "patch_size": _PATCH,
      "merge_size": _MERGE,
      "temporal_patch_size": 2,
    },
  )
  save_params(folder, random_params(config, scale=_LOGIT_SCALE), config)


def write_questions(folder: Path, sizes: Sizes, count: int) -> None:
  """Writes questions of exactly `text_tokens` tokens, and pictures of noise.

  They are called q0.npy, … and questions.json.
  """
  processor = load_processor(folder)
  rng = np.random.default_rng(1)
  whole = [
    text.decode()
    for text in processor.bytes_of
    if text.startswith(b" ") and text[1:].isalpha()
  ]
  overhead = len(processor.encode_text(processor.render("", 1))) - 1
  room = sizes.text_tokens - overhead
  texts: list[str] = []
  while len(texts) < count:
    text = "".join(rng.choice(whole, room))
    # A word may split otherwise than the vocabulary's longest match.
    if len(processor.encode_text(processor.render(text, 1))) == (
      sizes.text_tokens + 1
    ):
      texts.append(text)
  for number in range(count):
    shape = (sizes.pixels, sizes.pixels, 3)
    picture = rng.integers(0, 256, shape).astype(np.uint8)
    np.save(folder / f"q{number}.npy", picture)
  (folder / "questions.json").write_text(json.dumps(texts))


def examples(folder: Path, count: int) -> list[Example]:
  """The first questions of a folder."""
  texts = json.loads((folder / "questions.json").read_text())
  return [
    Example(f"q{i}", (np.load(folder / f"q{i}.npy"),), text, "")
    for i, text in enumerate(texts[:count])
  ]


def encode(
  processor: Processor, questions: Sequence[Example], sizes: Sizes
) -> Prompts:
  """Prompts without any padding."""
  slots = (sizes.pixels // _PATCH) ** 2
  return processor.prompts(questions, sizes.prompt, slots)


def write_case(
  folder: Path, sizes: Sizes, questions: int, samples: int
) -> None:
  """Writes the questions, and for each of them random responses.

  Prompts as both worlds read them are in prompts.npz and peer.npz; the
  responses, with an advantage each, in responses.npz.
  """
  write_questions(folder, sizes, questions)
  config = vlm_config(sizes)
  prompts = encode(load_processor(folder), examples(folder, questions), sizes)
  fields = [field.name for field in dataclasses.fields(prompts)]
  np.savez(
    folder / "prompts.npz", **{name: getattr(prompts, name) for name in fields}
  )
  pixels, grids, _ = pictures(config, prompts)
  np.savez(
    folder / "peer.npz",
    input_ids=prompts.tokens,
    pixel_values=pixels,
    image_grid_thw=grids,
  )
  rng = np.random.default_rng(2)
  ordinary = sizes.vocab - len(SPECIAL_TOKENS)
  shape = (questions, samples, sizes.response)
  np.savez(
    folder / "responses.npz",
    tokens=rng.integers(0, ordinary, shape),
    advantage=rng.normal(0.5, 1.0, shape[:2]).astype(np.float32),
    old=np.full(shape, -np.log(ordinary), np.float32),
  )


def load_prompts(folder: Path) -> Prompts:
  """What `write_case` wrote."""
  with np.load(folder / "prompts.npz") as found:
    return Prompts(**dict(found))


def described(sizes: Sizes) -> dict[str, Any]:
  """The sizes as JSON."""
  return {
    **dataclasses.asdict(sizes),
    "image_tokens": sizes.image_tokens,
    "prompt": sizes.prompt,
  }
