"""What a tree and its flat equivalent cost, by formula.

A multiply-add counts as two operations; norms, activations, softmax and
rotations are left out. A backward pass counts as two forward ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mirl_jax.policy.configs import VLMConfig


@dataclass(frozen=True)
class Branch:
  """One level under a question.

  Attributes:
    nodes: how many.
    tokens: of each.
    above: tokens of all its ancestors beside the prompt.
  """

  nodes: int
  tokens: int
  above: int = 0


def vision_flops(config: VLMConfig, patches: int) -> int:
  """Forward operations of the tower on one picture of a question."""
  c: Any = config.vision  # with the fields of its family
  block = 4 * c.width**2 + 3 * c.width * c.mlp
  embed = c.patch_dim * c.width
  inner = c.merge_unit * c.width
  merger = inner**2 + inner * c.out_width
  full = len(c.full_blocks)
  keys = full * patches + (c.depth - full) * min(c.window_patches, patches)
  return (
    2 * patches * (embed + c.depth * block)
    + 2 * patches // c.merge_unit * merger
    + 4 * patches * keys * c.width
  )


def question_flops(
  config: VLMConfig, patches: int, prompt: int, branches: Sequence[Branch]
) -> int:
  """Forward operations of one question: its picture, prompt and tree.

  Args:
    config: sizes.
    patches: of its picture.
    prompt: its tokens, the picture's among them.
    branches: its levels; the head reads their tokens only.
  """
  c = config.text
  heads = c.heads * c.head_dim
  block = 2 * c.width * heads + 2 * c.width * c.kv_heads * c.head_dim
  block += 3 * c.width * c.mlp
  tokens, predicted = prompt, 0
  pairs = prompt * (prompt + 1) // 2  # of a query and a key that it reads
  for x in branches:
    tokens += x.nodes * x.tokens
    predicted += x.nodes * x.tokens
    inside = x.tokens * (x.tokens + 1) // 2
    pairs += x.nodes * (x.tokens * (prompt + x.above) + inside)
  return (
    vision_flops(config, patches)
    + 2 * tokens * c.layers * block
    + 4 * pairs * c.layers * heads
    + 2 * predicted * c.width * c.vocab
  )


def group_cost(
  config: VLMConfig, patches: int, prompt: int, samples: int, tokens: int
) -> dict[str, Any]:
  """A group of samples of one prompt as a tree and flat.

  Returns:
    Forward operations and token counts per question, and what the tree could
    save at most by either count.
  """
  tree = question_flops(config, patches, prompt, [Branch(samples, tokens)])
  one = question_flops(config, patches, prompt, [Branch(1, tokens)])
  tree_tokens = prompt + samples * tokens
  flat_tokens = samples * (prompt + tokens)
  return {
    "tree": tree,
    "flat": samples * one,
    "ideal_ratio": round(samples * one / tree, 3),
    "tree_tokens": tree_tokens,
    "flat_tokens": flat_tokens,
    "ideal_token_ratio": round(flat_tokens / tree_tokens, 3),
  }
