"""A plain oracle for tests: trees computed as independent sequences.

One full sequence per node and one dense softmax per layer; whatever shares
tokens must agree with it.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mirl_jax.policy.configs import VLMConfig
from mirl_jax.policy.forward import Nodes, embed_prompts
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.rope import text_rotation
from mirl_jax.policy.text import TextBlock, final_norm, head_logits


def node_path(
  levels: tuple[Nodes, ...], level: int, question: int, node: int
) -> list[list[int]]:
  """Real tokens of every node on the way to a node, itself last."""
  path: list[list[int]] = []
  while True:
    tokens, mask, parent = levels[level]
    row = np.asarray(tokens[question, node])
    path.insert(0, row[np.asarray(mask[question, node])].tolist())
    if level == 0:
      return path
    assert parent is not None
    fanout = tokens.shape[1] // parent.shape[1]
    node = int(parent[question, node // fanout])
    level -= 1


def extend(
  prompts: Prompts,
  questions: Sequence[int],
  tails: Sequence[Sequence[int]],
  room: int,
) -> Prompts:
  """One independent sequence per tail: a question's prompt, then the tail.

  Args:
    prompts: of all questions.
    questions: whose prompt each tail continues.
    tails: tokens.
    room: slots for them, at least the longest one's length.
  """
  picked = jax.tree.map(lambda x: np.asarray(x)[list(questions)], prompts)

  def wider(x: np.ndarray, fill: int) -> np.ndarray:
    pad = [(0, 0)] * (x.ndim - 1) + [(0, room)]
    return np.pad(x, pad, constant_values=fill)

  tokens, mask = wider(picked.tokens, 0), wider(picked.mask, 0)
  positions, slots = wider(picked.positions, 0), wider(picked.image_slot, -1)
  for i, tail in enumerate(tails):
    at = int(picked.mask[i].sum())
    here = slice(at, at + len(tail))
    tokens[i, here], mask[i, here], slots[i, here] = tail, True, -1
    positions[i, :, here] = picked.next_position[i] + np.arange(len(tail))
  batch = picked.replace(
    tokens=tokens, mask=mask, positions=positions, image_slot=slots
  )
  return jax.tree.map(jnp.asarray, batch)


@functools.partial(jax.jit, static_argnums=1)
def flat_logits(
  params: Any, config: VLMConfig, prompts: Prompts
) -> Float[Array, "b p v"]:
  """Logits after every token of independent sequences, densely computed."""
  text = config.text
  x, deep = embed_prompts(params, config, prompts, jnp.float32)
  turn = text_rotation(
    prompts.positions,
    text.mrope_section,
    text.head_dim,
    text.rope_theta,
    text.mrope_interleaved,
  )
  length = x.shape[1]
  mask = jnp.tril(jnp.ones((length, length), bool)) & prompts.mask[:, None]

  def read(q: Array, k: Array, v: Array) -> Array:
    k, v = (jnp.repeat(y, text.heads // text.kv_heads, axis=2) for y in (k, v))
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) * text.head_dim**-0.5
    weights = jax.nn.softmax(jnp.where(mask[:, None], logits, -1e30), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)

  for i in range(text.layers):
    layer = jax.tree.map(lambda p, i=i: p[i], params["text"]["blocks"])
    x = TextBlock(text).apply({"params": layer}, x, turn, read)
    if i < len(deep):
      x = x + deep[i]
  return head_logits(params["text"], final_norm(params["text"], text, x))


def flat_node_logits(
  params: Any, config: VLMConfig, prompts: Prompts, levels: tuple[Nodes, ...]
) -> list[Float[np.ndarray, "b r t v"]]:
  """Per level, the logits that predict each node's tokens, each node being a
  full sequence of its own; 0 where the mask is off."""
  b = prompts.tokens.shape[0]
  where = [
    (level, q, n)
    for level, x in enumerate(levels)
    for q in range(b)
    for n in range(x.tokens.shape[1])
  ]
  paths = [node_path(levels, *place) for place in where]
  tails = [list(itertools.chain(*path)) for path in paths]
  questions = [q for _, q, _ in where]
  # One fixed size, so that all trees of one shape share a compilation.
  room = sum(x.tokens.shape[2] for x in levels)
  batch = extend(prompts, questions, tails, room)
  logits = np.asarray(flat_logits(params, config, batch))
  lengths = np.asarray(prompts.mask).sum(axis=1)
  out = [np.zeros((*x.tokens.shape, logits.shape[-1])) for x in levels]
  for i, (level, q, n) in enumerate(where):
    own = len(paths[i][-1])
    end = lengths[q] + len(tails[i]) - 1
    out[level][q, n, :own] = logits[i, end - own : end]
  return out
