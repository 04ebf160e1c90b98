"""Prompts before padding, and the padded batch that they make."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.inputs import Prompts


@dataclass(frozen=True)
class Encoded:
  """One prompt before padding.

  Attributes:
    id: of the question.
    question: 32-bit hash of the id.
    tokens: ids with one placeholder per visual token.
    positions: M-RoPE positions (time, height, width).
    next_position: position of the first token after the prompt.
    image_slot: merged slot of each placeholder, -1 for text.
    patches: real patches, merge units in row-major order, image by image.
    patch_hw: row and column of each patch in its image.
    patch_image: 1-based image of each merge unit.
    unit_slots: merged slot of each merge unit.
    slots: patch slots that the images fill, padded windows included.
  """

  id: str
  question: int
  tokens: Int[np.ndarray, " p"]
  positions: Int[np.ndarray, "3 p"]
  next_position: int
  image_slot: Int[np.ndarray, " p"]
  patches: Float[np.ndarray, "units m d"]
  patch_hw: Int[np.ndarray, "units m 2"]
  patch_image: Int[np.ndarray, " units"]
  unit_slots: Int[np.ndarray, " units"]
  slots: int


def question_hash(question_id: str) -> int:
  """Stable 32-bit hash of a question id, the key of its random numbers."""
  return zlib.crc32(question_id.encode("utf-8", "surrogatepass"))


def bucket(n: int, sizes: Sequence[int]) -> int:
  """The smallest of the sizes that holds n.

  Raises:
    ValueError: where none does.
  """
  fitting = [size for size in sizes if size >= n]
  if not fitting:
    raise ValueError(
      f"{n} fits none of the sizes {sorted(sizes)}; add one of at least {n}"
    )
  return min(fitting)


def mrope_positions(
  is_image: Sequence[bool] | np.ndarray,
  grids: Sequence[tuple[int, int]],
) -> tuple[Int[np.ndarray, "3 p"], int]:
  """M-RoPE positions of a prompt (Qwen2-VL, arXiv 2409.12191, section 2.1).

  Text advances all three axes together; an image's tokens share one time and
  spread over height and width, and the text after them continues past the
  larger side.

  Args:
    is_image: which tokens are placeholders.
    grids: rows and columns of visual tokens of each image, in order.

  Returns:
    Positions (time, height, width), and the next token's position.
  """
  placeholder = np.asarray(is_image, bool)
  positions = np.zeros((3, len(placeholder)), np.int32)
  at = start = 0
  for rows, columns in grids:
    first = at + int(np.argmax(placeholder[at:]))
    text = first - at
    positions[:, at:first] = start + np.arange(text)
    start += text
    at = first + rows * columns
    row, column = np.divmod(np.arange(rows * columns), columns)
    positions[:, first:at] = start + np.stack([np.zeros_like(row), row, column])
    start += max(rows, columns)
  rest = len(placeholder) - at
  positions[:, at:] = start + np.arange(rest)
  return positions, start + rest


def _pad(
  rows: Sequence[np.ndarray], length: int, fill: int, dtype: Any
) -> np.ndarray:
  """Stacks arrays, padding their last axis on the right."""
  out = np.full((len(rows), *rows[0].shape[:-1], length), fill, dtype)
  for i, row in enumerate(rows):
    out[i, ..., : row.shape[-1]] = row
  return out


def collate(
  encoded: Sequence[Encoded],
  config: VLMConfig,
  prompt_length: int,
  patch_slots: int,
) -> Prompts:
  """Pads encoded prompts to one batch of static sizes.

  Args:
    encoded: B prompts, at least one.
    config: of the model.
    prompt_length: P tokens.
    patch_slots: V slots, a multiple of the window's (0 for text only).

  Raises:
    ValueError: names the example that does not fit and the size it needs.
  """
  vision = config.vision
  if patch_slots % vision.window_patches:
    raise ValueError(
      f"patch_slots {patch_slots} is not a multiple of the "
      f"{vision.window_patches} slots of an attention window"
    )
  if not encoded:
    raise ValueError("a batch needs at least one example")
  for e in encoded:
    if len(e.tokens) > prompt_length:
      raise ValueError(
        f"example {e.id!r} needs {len(e.tokens)} prompt tokens, but "
        f"prompt_length is {prompt_length}; raise it to at least "
        f"{len(e.tokens)} or lower max_pixels"
      )
    if e.slots > patch_slots:
      raise ValueError(
        f"example {e.id!r} needs {e.slots} patch slots, but patch_slots is "
        f"{patch_slots}; raise it to at least {e.slots} or lower max_pixels"
      )
  b, m = len(encoded), vision.merge_unit
  patches = np.zeros((b, patch_slots // m, m, vision.patch_dim), np.float32)
  places = np.zeros((b, patch_slots // m, m, 2), np.int32)
  grids = np.zeros((b, patch_slots // m, m, 2), np.int32)
  numbers = np.zeros((b, patch_slots // m, m), np.int32)
  for i, e in enumerate(encoded):
    patches[i, e.unit_slots] = e.patches
    places[i, e.unit_slots] = e.patch_hw
    numbers[i, e.unit_slots] = e.patch_image[:, None]
    for number in np.unique(e.patch_image):
      units = e.patch_image == number
      grids[i, e.unit_slots[units]] = e.patch_hw[units].max((0, 1)) + 1
  lengths = np.array([len(e.tokens) for e in encoded])
  return Prompts(
    tokens=_pad(
      [e.tokens for e in encoded],
      prompt_length,
      config.pad_token,
      np.int32,
    ),
    mask=np.arange(prompt_length) < lengths[:, None],
    positions=_pad([e.positions for e in encoded], prompt_length, 0, np.int32),
    next_position=np.array([e.next_position for e in encoded], np.int32),
    image_slot=_pad(
      [e.image_slot for e in encoded], prompt_length, -1, np.int32
    ),
    patches=patches.reshape(b, patch_slots, vision.patch_dim),
    patch_hw=places.reshape(b, patch_slots, 2),
    patch_grid=grids.reshape(b, patch_slots, 2),
    patch_image=numbers.reshape(b, patch_slots),
    question=np.array([e.question for e in encoded], np.uint32),
  )
