"""From questions to device batches, and from token ids back to text.

Host only: numpy, PIL and the tokenizer. A question is encoded once
(`Processor.encode`), its sizes pick a bucket, and prompts.py pads a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

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


def _shown(
  example: Example, view: str, images: Sequence[Image] | None
) -> Sequence[Image]:
  if view == "removed":
    return ()
  return example.images if images is None else images


def _each(
  example: Example, images: Sequence[Image], function: Callable[[Image], T]
) -> list[T]:
  """Maps over the images; an error names the example and the image."""
  out = []
  for number, image in enumerate(images, 1):
    try:
      out.append(function(image))
    except ValueError as error:
      raise ValueError(
        f"example {example.id!r}, image {number}: {error}"
      ) from error
  return out


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

  def _tokens(
    self, example: Example, grids: Sequence[tuple[int, int]]
  ) -> Int[np.ndarray, " p"]:
    """Prompt ids, each placeholder repeated to its image's visual tokens."""
    ids = self.encode_text(self.render(example.question, len(grids)))
    placeholder = ids == self.config.image_token
    if int(placeholder.sum()) != len(grids):
      raise ValueError(
        f"example {example.id!r}: the rendered prompt has "
        f"{int(placeholder.sum())} image placeholders for {len(grids)} images;"
        " the question may not contain a placeholder token, and the chat "
        "template must render one per image"
      )
    if np.any(ids == self.config.video_token):
      raise ValueError(
        f"example {example.id!r}: the question contains a video placeholder; "
        "video is not supported"
      )
    repeats = np.ones(len(ids), np.int64)
    repeats[placeholder] = [rows * columns for rows, columns in grids]
    return np.repeat(ids, repeats)

  def measure(
    self,
    example: Example,
    view: str = "clean",
    images: Sequence[Image] | None = None,
  ) -> tuple[int, int]:
    """Prompt tokens and patch slots of a question; no picture is decoded.

    Raises:
      ValueError: as `encode`.
    """
    _parse_view(view)
    shown = _shown(example, view, images)
    grids = _each(example, shown, lambda x: im.unit_grid(x, self.images))
    windows = sum(im.window_count(*grid, self.images) for grid in grids)
    slots = windows * self.config.vision.window_patches
    return len(self._tokens(example, grids)), slots

  def encode(
    self,
    example: Example,
    view: str = "clean",
    seed: int = 0,
    images: Sequence[Image] | None = None,
  ) -> Encoded:
    """One prompt, its pictures decoded once.

    Args:
      example: the question.
      view: how its pictures are shown: `clean`; `blank`, a constant grey
        picture of the same size; `removed`, no image tokens at all;
        `masked:RATE`, that share of the merge units grey.
      seed: with the question's id, the key of the masked units.
      images: shown instead of the question's own (contrastive scores).

    Raises:
      ValueError: names the example and what is wrong with it.
    """
    rate = _parse_view(view)
    vision, settings = self.config.vision, self.images
    shown = _shown(example, view, images)
    cut = _each(example, shown, lambda x: im.patchify(x, settings))
    grids = [grid for _, grid in cut]
    tokens = self._tokens(example, grids)
    placeholder = tokens == self.config.image_token
    positions, next_position = mrope_positions(placeholder, grids)
    # The empty first entries give a text-only prompt its shapes.
    patches = [np.zeros((0, vision.merge_unit, vision.patch_dim), np.float32)]
    places = [np.zeros((0, vision.merge_unit, 2), np.int64)]
    unit_slots, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    used = 0
    for number, (pixels, grid) in enumerate(cut, 1):
      patches.append(pixels)
      places.append(im.patch_places(*grid, vision.merge))
      unit_slots.append(used + im.unit_slots(*grid, settings))
      numbers.append(np.full(len(pixels), number))
      used += im.window_count(*grid, settings) * settings.window_units**2
    slots, pixels = np.concatenate(unit_slots), np.concatenate(patches)
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
    images: Sequence[Sequence[Image]] | None = None,
  ) -> Prompts:
    """A batch of B questions under one view: `encode`, then `collate`.

    Args:
      examples: B questions.
      prompt_length: P tokens.
      patch_slots: V patch slots.
      view: as in `encode`.
      seed: as in `encode`.
      images: per question, the images to show instead of its own.

    Raises:
      ValueError: names the example and the size that it needs.
    """
    if images is not None and len(images) != len(examples):
      raise ValueError(
        f"images has {len(images)} entries for {len(examples)} examples"
      )
    encoded = [
      self.encode(e, view, seed, None if images is None else images[i])
      for i, e in enumerate(examples)
    ]
    return self.collate(encoded, prompt_length, patch_slots)


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
    config=config,
    images=settings,
    tokenizer=tokenizer,
    chat_template=template,
    bytes_of=tuple(token_bytes(tokenizer, config.text.vocab)),
    system=system,
    instruction=instruction,
  )
