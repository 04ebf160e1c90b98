"""Small random models, vocabularies, prompts and trees for tests."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mirl_jax.policy.abstract import abstract_params
from mirl_jax.policy.configs import TextConfig, VisionConfig, VLMConfig
from mirl_jax.policy.families import qwen2_5_vl, qwen3_vl
from mirl_jax.policy.forward import Nodes
from mirl_jax.policy.images import ImageSettings, patch_places, unit_slots
from mirl_jax.policy.inputs import Prompts
from mirl_jax.policy.prompts import Encoded, collate, mrope_positions
from mirl_jax.rollout.stop import Stop, compile_stop

# Rows and columns of merge units of each image of each question. The window
# holds 2 x 2 units, so that most of these leave windows partly empty.
Grids = Sequence[Sequence[tuple[int, int]]]
GRIDS: Grids = (((2, 2),), ((3, 1), (1, 2)), ())

ORDINARY = 58  # ids below are text, ids above are special
_PIECES = (
  "< / d > a \n b c e </ d> a> /d >\n ></ </d> </a> e</d> </d>\n c</d>e </d></"
  " b</a> </a>c </a></d> </d></a> <</d> d>< //"
)


def tiny_config(
  tied: bool = True,
  depth: int = 2,
  full_blocks: tuple[int, ...] = (1,),
  layers: int = 2,
  temporal_patch: int = 1,
) -> VLMConfig:
  """A Qwen2.5-VL of about 60 thousand parameters and 64 ids."""
  vision = qwen2_5_vl.Vision(
    depth=depth,
    width=32,
    heads=2,
    mlp=48,
    out_width=48,
    patch=2,
    temporal_patch=temporal_patch,
    merge=2,
    window=8,
    full_blocks=full_blocks,
  )
  return _around(qwen2_5_vl.MODEL_TYPE, vision, layers, tied)


def tiny_qwen3(
  tied: bool = False,
  depth: int = 3,
  deep_blocks: tuple[int, ...] = (0, 2),
  layers: int = 3,
  temporal_patch: int = 1,
) -> VLMConfig:
  """A Qwen3-VL of the same order of size, with the same 64 ids."""
  vision = qwen3_vl.Vision(
    depth=depth,
    width=32,
    heads=2,
    mlp=48,
    out_width=48,
    patch=2,
    temporal_patch=temporal_patch,
    merge=2,
    positions=25,
    deep_blocks=deep_blocks,
  )
  family = {"mrope_interleaved": True, "qkv_bias": False, "qk_norm": True}
  return _around(qwen3_vl.MODEL_TYPE, vision, layers, tied, **family)


def _around(
  name: str, vision: VisionConfig, layers: int, tied: bool, **family: Any
) -> VLMConfig:
  return VLMConfig(
    family=name,
    vision=vision,
    text=TextConfig(
      vocab=64,
      width=48,
      layers=layers,
      heads=4,
      kv_heads=2,
      head_dim=12,
      mlp=64,
      rope_theta=100.0,
      # Interleaved, time takes what the others leave.
      mrope_section=(2, 2, 2) if family else (1, 2, 3),
      rms_eps=1e-6,
      tied=tied,
      **family,
    ),
    image_token=58,
    video_token=59,
    vision_start_token=60,
    vision_end_token=61,
    eos_tokens=(62,),
    pad_token=63,
  )


def random_params(config: VLMConfig, seed: int = 0, scale: float = 1.0) -> Any:
  """Float32 parameters that keep activations, biases and logits near 1.

  Args:
    config: sizes.
    seed: of the numbers.
    scale: of the embedding and the head, hence of the logits.
  """
  rng = np.random.default_rng(seed)

  def leaf(path: Any, x: Any) -> Array:
    name = path[-1].key
    value = rng.normal(size=x.shape)
    if name == "scale":
      value = 1 + 0.2 * value
    elif name == "bias":
      value = 0.2 * value
    elif name == "embedding" or path[-2].key == "head":
      value = value * scale * 1.5 * config.text.width**-0.5
    else:
      value = value * x.shape[-2] ** -0.5
    return jnp.asarray(value, jnp.float32)

  return jax.tree_util.tree_map_with_path(leaf, abstract_params(config))


def vocabulary() -> list[bytes]:
  """Bytes of the 64 ids: letters, pieces of `</d>` and `</a>`, words that
  hold a whole stop or only its borders, and special tokens."""
  rng = np.random.default_rng(0)
  pieces = [piece.encode() for piece in _PIECES.split(" ")]
  while len(pieces) < ORDINARY:
    word = bytes(rng.choice(list(b"abcde "), rng.integers(1, 5)).tolist())
    if word not in pieces:
      pieces.append(word)
  special = ("image", "video", "start", "end", "im_end", "pad")
  return pieces + [f"<|{name}|>".encode() for name in special]


def tiny_stop(text: str = "</d>") -> Stop:
  """A stop on `vocabulary`, spelled by two ids where that is possible."""
  words, close = vocabulary(), []
  at = text.encode()
  while at:
    size = next(n for n in (2, 1) if at[:n] in words)
    close.append(words.index(at[:size]))
    at = at[size:]
  return compile_stop(text, words, close)


def random_prompts(
  config: VLMConfig,
  seed: int = 0,
  grids: Grids = GRIDS,
  patch_slots: int | None = None,
  prompt_length: int | None = None,
) -> Prompts:
  """Prompts of random words around random pictures, of unequal lengths.

  Args:
    config: sizes.
    seed: of words, pixels and question hashes.
    grids: one question per entry.
    patch_slots: V; by default what the largest needs.
    prompt_length: P; by default what fits the grids with any seed.
  """
  rng = np.random.default_rng(seed)
  vision, merge = config.vision, config.vision.merge
  settings = ImageSettings(
    patch=vision.patch,
    temporal_patch=vision.temporal_patch,
    merge=merge,
    window_units=vision.window_units,
    min_pixels=1,
    max_pixels=1 << 20,
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
  )

  def words() -> list[int]:
    return rng.integers(0, ORDINARY, rng.integers(1, 5)).tolist()

  encoded = []
  for number, images in enumerate(grids):
    tokens, slots, hw, image, used = words(), [], [], [], 0
    for i, (rows, columns) in enumerate(images, 1):
      units = rows * columns
      tokens += [config.vision_start_token, *[config.image_token] * units]
      tokens += [config.vision_end_token, *words()]
      slots.append(used + unit_slots(rows, columns, settings))
      hw.append(patch_places(rows, columns, merge))
      image.append(np.full(units, i))
      side = settings.window_units
      used += -(-rows // side) * -(-columns // side) * side**2
    ids = np.array(tokens, np.int32)
    units = sum(len(x) for x in image)
    positions, after = mrope_positions(ids == config.image_token, images)
    image_slot = np.full(len(ids), -1, np.int32)
    unit_slot = np.concatenate([np.zeros(0, int), *slots])
    image_slot[ids == config.image_token] = unit_slot
    shape = (units, vision.merge_unit, vision.patch_dim)
    encoded.append(
      Encoded(
        id=f"q{number}",
        question=int(rng.integers(0, 1 << 32)),
        tokens=ids,
        positions=positions,
        next_position=after,
        image_slot=image_slot,
        patches=rng.normal(size=shape).astype(np.float32),
        patch_hw=np.concatenate([np.zeros((0, *shape[1:2], 2), int), *hw]),
        patch_image=np.concatenate([np.zeros(0, int), *image]),
        unit_slots=unit_slot,
        slots=used * vision.merge_unit,
      )
    )
  if patch_slots is None:
    patch_slots = max(e.slots for e in encoded)
  if prompt_length is None:
    prompt_length = max(
      4 + sum(h * w + 6 for h, w in images) for images in grids
    )
  batch = collate(encoded, config, prompt_length, patch_slots)
  return jax.tree.map(jnp.asarray, batch)


def random_nodes(
  seed: int, b: int, shape: Sequence[tuple[int, int, int]]
) -> tuple[Nodes, ...]:
  """Levels of random tokens and ragged lengths (at least one token each).

  Args:
    seed: of tokens, lengths and parents.
    b: questions.
    shape: (parents K, children of each F, buffer T) of each level.
  """
  rng = np.random.default_rng(seed)
  levels: list[Nodes] = []
  for k, f, t in shape:
    r = k * f
    parent = None
    if levels:
      above = levels[-1].tokens.shape[1]
      drawn = np.stack([rng.permutation(above)[:k] for _ in range(b)])
      parent = jnp.asarray(drawn, jnp.int32)
    length = rng.integers(1, t + 1, (b, r, 1))
    tokens = rng.integers(0, ORDINARY, (b, r, t))
    mask = jnp.asarray(np.arange(t) < length)
    levels.append(Nodes(jnp.asarray(tokens, jnp.int32), mask, parent))
  return tuple(levels)
