"""From questions to device batches, and from token ids back to text.

Host only: numpy, PIL and the tokenizer. A question's pictures are decoded once
(`Processor.pictures`) and encoded under any number of views
(`Processor.encode`); the sizes pick a bucket, and prompts.py pads a batch.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int

from mirl_jax.data.example import Example, Image
from mirl_jax.policy import images as im
from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.directory import (
  PathLike,
  load_config,
  local_directory,
  read_json,
  write_json,
)
from mirl_jax.policy.images import ImageSettings
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.prompts import (
  Encoded,
  collate,
  mrope_positions,
  question_hash,
)
from mirl_jax.policy.tokenizer import load_tokenizer, token_bytes

T = TypeVar("T")

# Threads that decode; PIL and numpy let each other run.
DECODERS = min(16, os.cpu_count() or 1)

_VIEWS = "clean, blank, removed, or masked:RATE with RATE in 0..1"


def _parse_view(view: str) -> float:
  """Share of the merge units that a view turns grey."""
  kind, _, rate = view.partition(":")
  if not rate and view in ("clean", "removed"):
    return 0.0
  if view == "blank":
    return 1.0
  try:
    share = float(rate) if kind == "masked" else -1.0
  except ValueError:
    share = -1.0
  if not 0 <= share <= 1:
    raise ValueError(f"unknown view {view!r}; expected {_VIEWS}")
  return share


def _each(example: Example, function: Callable[[Image], T]) -> list[T]:
  """Maps over the images; an error names the example and the image."""
  out = []
  for number, image in enumerate(example.images, 1):
    try:
      out.append(function(image))
    except ValueError as error:
      raise ValueError(
        f"example {example.id!r}, image {number}: {error}"
      ) from error
  return out


@dataclass(frozen=True)
class Pictures:
  """The pictures of one question, decoded and cut; never written to.

  Attributes:
    patches: of each picture, as `images.patchify` cuts it.
    grids: rows and columns of merge units of each picture.
  """

  patches: tuple[Float[np.ndarray, "_ m d"], ...] = ()
  grids: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Processor:
  """Everything that turns text and pictures into `Prompts` and back.

  Attributes:
    config: sizes and special ids of the model.
    images: how pictures become patches.
    tokenizer: of transformers.
    chat_template: Jinja source that renders a conversation.
    bytes_of: the bytes that each id adds to the text, one entry per id.
    system: system message; empty leaves it to the template.
    instruction: put after every question on a line of its own.
  """

  config: VLMConfig
  images: ImageSettings
  tokenizer: Any
  chat_template: str
  bytes_of: tuple[bytes, ...]
  system: str = ""
  instruction: str = ""

  def render(self, question: str, image_count: int) -> str:
    """The prompt as text, one placeholder per image, ready for an answer."""
    if self.instruction:
      question = f"{question}\n{self.instruction}"
    content: list[dict[str, str]] = [{"type": "image"}] * image_count
    content = [*content, {"type": "text", "text": question}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if self.system:
      messages.insert(0, {"role": "system", "content": self.system})
    return self.tokenizer.apply_chat_template(
      messages,
      chat_template=self.chat_template,
      tokenize=False,
      add_generation_prompt=True,
    )

  def decode(self, ids: Sequence[int] | Int[np.ndarray, " n"]) -> str:
    """Text of token ids; broken UTF-8 becomes replacement characters."""
    joined = b"".join(self.bytes_of[int(i)] for i in ids)
    return joined.decode("utf-8", errors="replace")

  def encode_text(self, text: str) -> Int[np.ndarray, " n"]:
    """Token ids of a text as it stands, e.g. of a target to be taught."""
    ids = self.tokenizer.encode(text, add_special_tokens=False)
    return np.array(ids, np.int32)

  def _settings(self, example: Example) -> ImageSettings:
    """How this question's pictures are cut: its own limits go first."""
    try:
      return im.with_limits(self.images, example.min_pixels, example.max_pixels)
    except ValueError as error:
      raise ValueError(f"example {example.id!r}: {error}") from error

  def _ids(self, example: Example, count: int) -> Int[np.ndarray, " n"]:
    """Prompt ids, one placeholder for each of the images."""
    ids = self.encode_text(self.render(example.question, count))
    found = int((ids == self.config.image_token).sum())
    if found != count:
      raise ValueError(
        f"example {example.id!r}: the rendered prompt has "
        f"{found} image placeholders for {count} images;"
        " the question may not contain a placeholder token, and the chat "
        "template must render one per image"
      )
    if np.any(ids == self.config.video_token):
      raise ValueError(
        f"example {example.id!r}: the question contains a video placeholder; "
        "video is not supported"
      )
    return ids

  def measure(self, example: Example, view: str = "clean") -> tuple[int, int]:
    """Prompt tokens and patch slots of a question; no picture is decoded.

    Raises:
      ValueError: as `encode`.
    """
    _parse_view(view)
    grids = []
    if view != "removed":
      settings = self._settings(example)
      grids = _each(example, lambda x: im.unit_grid(x, settings))
    windows = sum(im.window_count(*grid, self.images) for grid in grids)
    slots = windows * self.config.vision.window_patches
    ids = self._ids(example, len(grids))
    # Counted, not made: a row may ask for more tokens than memory holds.
    length = len(ids) + sum(rows * columns - 1 for rows, columns in grids)
    return length, slots

  def pictures(self, example: Example) -> Pictures:
    """A question's pictures, each decoded once, for `encode` under any view.

    Raises:
      ValueError: names the example and what is wrong with its pictures or
        its pixel limits.
    """
    settings = self._settings(example)
    cut = _each(example, lambda x: im.patchify(x, settings))
    return Pictures(
      tuple(patches for patches, _ in cut), tuple(grid for _, grid in cut)
    )

  def encode(
    self,
    example: Example,
    view: str = "clean",
    seed: int = 0,
    pictures: Pictures | None = None,
  ) -> Encoded:
    """One prompt under one view.

    Args:
      example: the question.
      view: how its pictures are shown: `clean`; `blank`, a constant grey
        picture of the same size; `removed`, no image tokens at all;
        `masked:RATE`, that share of the merge units grey.
      seed: with the question's id, the key of the masked units.
      pictures: the question's own, where they are decoded already, or
        another's to be shown in their place (contrastive scores).

    Raises:
      ValueError: names the example and what is wrong with it.
    """
    rate = _parse_view(view)
    vision, settings = self.config.vision, self.images
    if view == "removed":
      pictures = Pictures()
    elif pictures is None:
      pictures = self.pictures(example)
    grids = pictures.grids
    ids = self._ids(example, len(grids))
    repeats = np.ones(len(ids), np.int64)
    repeats[ids == self.config.image_token] = [h * w for h, w in grids]
    tokens = np.repeat(ids, repeats)
    placeholder = tokens == self.config.image_token
    positions, next_position = mrope_positions(placeholder, grids)
    # The empty first entries give a text-only prompt its shapes.
    empty = np.zeros((0, vision.merge_unit, vision.patch_dim), np.float32)
    places = [np.zeros((0, vision.merge_unit, 2), np.int64)]
    unit_slots, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    used = 0
    for number, grid in enumerate(grids, 1):
      places.append(im.patch_places(*grid, vision.merge))
      unit_slots.append(used + im.unit_slots(*grid, settings))
      numbers.append(np.full(len(places[-1]), number))
      used += im.window_count(*grid, settings) * settings.window_units**2
    slots = np.concatenate(unit_slots)
    pixels = np.concatenate([empty, *pictures.patches])  # a copy, always
    image_slot = np.full(len(tokens), -1, np.int64)
    image_slot[placeholder] = slots
    question = question_hash(example.id)
    if rate:
      order = np.random.default_rng([seed, question]).permutation(len(pixels))
      pixels[order[: round(rate * len(pixels))]] = im.grey_patch(settings)
    return Encoded(
      id=example.id,
      question=question,
      tokens=tokens,
      positions=positions,
      next_position=next_position,
      image_slot=image_slot,
      patches=pixels,
      patch_hw=np.concatenate(places),
      patch_image=np.concatenate(numbers),
      unit_slots=slots,
      slots=used * vision.merge_unit,
    )

  def collate(
    self, encoded: Sequence[Encoded], prompt_length: int, patch_slots: int
  ) -> Prompts:
    """Pads encoded prompts to one batch; see `prompts.collate`."""
    return collate(encoded, self.config, prompt_length, patch_slots)

  def prompts(
    self,
    examples: Sequence[Example],
    prompt_length: int,
    patch_slots: int,
    view: str = "clean",
    seed: int = 0,
    pictures: Sequence[Pictures] | None = None,
  ) -> Prompts:
    """A batch of B questions under one view: `encode`, then `collate`.

    Args:
      examples: B questions.
      prompt_length: P tokens.
      patch_slots: V patch slots.
      view: as in `encode`.
      seed: as in `encode`.
      pictures: per question, as in `encode`.

    Raises:
      ValueError: names the example and the size that it needs.
    """
    if pictures is not None and len(pictures) != len(examples):
      raise ValueError(
        f"pictures has {len(pictures)} entries for {len(examples)} examples"
      )
    encoded = [
      self.encode(e, view, seed, None if pictures is None else pictures[i])
      for i, e in enumerate(examples)
    ]
    return self.collate(encoded, prompt_length, patch_slots)


def decode_pictures(
  processor: Processor, examples: Sequence[Example], threads: int | None = None
) -> list[Pictures]:
  """The pictures of each question, by DECODERS threads unless told.

  Raises:
    ValueError: as `Processor.pictures`.
  """
  with ThreadPoolExecutor(threads or DECODERS) as pool:
    return list(pool.map(processor.pictures, examples))


def _chat_template(folder: Path, tokenizer: Any) -> str:
  """The processor's template; a file of its own goes before the tokenizer's."""
  file = folder / "chat_template.jinja"
  if file.is_file():
    return file.read_text(encoding="utf-8")
  legacy = read_json(folder, "chat_template.json", required=False)
  template = legacy.get("chat_template") or tokenizer.chat_template
  if not isinstance(template, str):
    raise ValueError(
      f"{folder} has no single chat template in chat_template.jinja, "
      "chat_template.json or tokenizer_config.json"
    )
  return template


def write_pixel_limits(folder: Path, settings: ImageSettings) -> None:
  """Puts pixel limits into a directory's preprocessor_config.json."""
  name = "preprocessor_config.json"
  content = read_json(folder, name)
  content["min_pixels"] = settings.min_pixels
  content["max_pixels"] = settings.max_pixels
  if "size" in content:  # the newer spelling of the same limits
    content["size"] = {
      "shortest_edge": settings.min_pixels,
      "longest_edge": settings.max_pixels,
    }
  write_json(folder / name, content)


def _with_vision_pad(config: VLMConfig, tokenizer: Any) -> VLMConfig:
  """Names the id that Qwen3-VL's config.json leaves out, so that it is banned.

  It is no field of that file, but the tokenizer still has the token.
  """
  if config.vision_pad_token is not None:
    return config
  found = tokenizer.get_vocab().get("<|vision_pad|>")
  return dataclasses.replace(config, vision_pad_token=found)


def load_processor(
  path: PathLike,
  system: str = "",
  instruction: str = "",
  min_pixels: int | None = None,
  max_pixels: int | None = None,
) -> Processor:
  """Reads a Hugging Face directory's processor; no network, no weights.

  Args:
    path: with config.json, preprocessor_config.json, tokenizer files and a
      chat template.
    system: system message; empty leaves it to the template.
    instruction: appended to every question on a line of its own.
    min_pixels, max_pixels: replace the directory's limits.

  Raises:
    ValueError: names the file or field that is missing or contradictory.
  """
  with local_directory(path) as folder:
    config = load_config(folder)
    settings = im.read_settings(
      {
        **read_json(folder, "preprocessor_config.json"),
        **({} if min_pixels is None else {"min_pixels": min_pixels}),
        **({} if max_pixels is None else {"max_pixels": max_pixels}),
      },
      config.vision,
    )
    tokenizer = load_tokenizer(folder)
    template = _chat_template(folder, tokenizer)
  return Processor(
    config=_with_vision_pad(config, tokenizer),
    images=settings,
    tokenizer=tokenizer,
    chat_template=template,
    bytes_of=tuple(token_bytes(tokenizer, config.text.vocab)),
    system=system,
    instruction=instruction,
  )
