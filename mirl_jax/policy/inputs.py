"""What the policy reads: a padded batch of prompts with their images."""

from typing import Any

from flax import struct

# Leaves are numpy arrays on the host, jax arrays in a program, and specs or
# abstract shapes while a program is built; shapes are therefore comments here.
Array = Any


@struct.dataclass
class Prompts:
  """B prompts, right-padded to P tokens, with V patch slots each.

  Patches lie in window-padded order: every attention window of the vision
  tower fills a fixed number of consecutive slots, and every `merge**2`
  consecutive slots are one merge unit, so windows and merger are reshapes.

  Attributes:
    tokens: token ids; image placeholders are ordinary ids here.
    mask: real tokens.
    positions: M-RoPE positions (time, height, width) of every token.
    next_position: the M-RoPE position of the first token after the prompt.
    image_slot: for a placeholder token the merged slot (patch slot index
      // merge**2) that holds its feature; -1 for text.
    patches: normalised pixels, flattened (channel, time, row, column).
    patch_hw: row and column of each patch in its image's grid.
    patch_grid: rows and columns of that grid.
    patch_image: 1-based number of the patch's image; 0 marks padding.
    question: 32-bit hash of the question id, the key of its random numbers.
  """

  tokens: Array  # [B, P] int32
  mask: Array  # [B, P] bool
  positions: Array  # [B, 3, P] int32
  next_position: Array  # [B] int32
  image_slot: Array  # [B, P] int32
  patches: Array  # [B, V, patch_dim] float32, or of the activations' dtype
  patch_hw: Array  # [B, V, 2] int32
  patch_grid: Array  # [B, V, 2] int32
  patch_image: Array  # [B, V] int32
  question: Array  # [B] uint32
