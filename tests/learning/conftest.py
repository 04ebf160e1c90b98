"""An independent dense forward, and random trees."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax.policy.configs import VLMConfig
from mirl_jax.rollout.program import Sample
from mirl_jax.rollout.tree import Level, Tree
from mirl_jax.testing import random_nodes, random_prompts, tiny_config

# Four questions: one picture, two pictures, text only, another picture.
GRIDS = (((2, 2),), ((3, 1), (1, 2)), (), ((1, 3),))
PROMPT_LENGTH = 24


@pytest.fixture(scope="session")
def config() -> VLMConfig:
  return tiny_config()


@pytest.fixture(scope="session")
def small() -> VLMConfig:
  """One block each, where depth is not the point."""
  return tiny_config(depth=1, full_blocks=(0,), layers=1)


@pytest.fixture(scope="session")
def quick_jit() -> Callable[..., Any]:
  """jit without LLVM's optimisations: half the compile time."""
  options = {"xla_backend_optimization_level": 0}
  return functools.partial(jax.jit, compiler_options=options)


def make_tree(
  config: VLMConfig,
  shape: tuple[tuple[int, int, int], ...],
  seed: int = 0,
  grids: Any = GRIDS,
) -> Tree:
  """Random tokens, lengths, parents and advantages' inputs.

  About a third of the nodes are truncated: up to two of their last tokens
  were forced, not sampled. Masked slots hold any ids, banned ones included.
  """
  rng = np.random.default_rng([seed, 1])
  prompts = random_prompts(config, seed, grids, prompt_length=PROMPT_LENGTH)
  b = len(grids)
  drawn = random_nodes(seed, b, shape)
  levels = []
  for i, ((k, f, t), node) in enumerate(zip(shape, drawn, strict=True)):
    size = (b, k, f, t)
    mask = np.asarray(node.mask).reshape(size)
    tokens = np.where(
      mask,
      np.asarray(node.tokens).reshape(size),
      rng.integers(0, config.text.vocab, size),
    )
    finished = rng.random((b, k, f)) < 2 / 3
    forced = np.where(finished, 0, rng.integers(1, 3, (b, k, f)))
    length = mask.sum(-1) - np.minimum(forced, mask.sum(-1) - 1)
    kept = np.ones((b, k * f), bool)
    if i + 1 < len(drawn):
      kept[:] = False
      np.put_along_axis(kept, np.asarray(drawn[i + 1].parent), True, axis=1)
    parent = np.zeros((b, k)) if node.parent is None else node.parent
    sampled = np.arange(t) < length[..., None]
    mi = rng.normal(size=(b, k, f))
    levels.append(
      Level(
        tokens=jnp.asarray(tokens, jnp.int32),
        mask=jnp.asarray(mask),
        sampled=jnp.asarray(sampled),
        logprobs=jnp.asarray(np.where(sampled, rng.normal(-3, 1, size), 0.0)),
        parent=jnp.asarray(parent, jnp.int32),
        finished=jnp.asarray(finished),
        kept=jnp.asarray(kept.reshape(b, k, f)),
        scores={"mi": jnp.asarray(mi, jnp.float32)} if i == 0 else {},
      )
    )
  return Tree(jax.tree.map(jnp.asarray, prompts), tuple(levels))


@pytest.fixture(scope="session")
def random_tree() -> Callable[..., Tree]:
  return make_tree


@dataclasses.dataclass(frozen=True)
class Paths:
  """Every node of a tree as a sequence of its own: prompt, ancestors, node.

  Padding stands only at the end. `row` and `column` say, per level, where the
  state lies that predicts each token.
  """

  tokens: Any  # [S, L]
  real: Any  # [S, L]
  positions: Any  # [S, L, 3]
  slot: Any  # [S, L]
  question: Any  # [S]
  row: list[Any]  # [B, R, T]
  column: list[Any]  # [B, R, T]


jax.tree_util.register_dataclass(
  Paths, [f.name for f in dataclasses.fields(Paths)], []
)


def make_paths(tree: Tree) -> Paths:
  prompts, levels = tree.prompts, tree.levels
  b = prompts.tokens.shape[0]
  longest = prompts.tokens.shape[1] + sum(x.tokens.shape[3] for x in levels)
  rows: list[tuple] = []
  row, column = [], []

  def ancestors(level: int, q: int, node: int) -> list[list[int]]:
    x = levels[level]
    k, f = divmod(node, x.tokens.shape[2])
    mine = np.asarray(x.tokens[q, k, f])[np.asarray(x.mask[q, k, f])]
    if level == 0:
      return [mine.tolist()]
    above = ancestors(level - 1, q, int(x.parent[q, k]))
    return [*above, mine.tolist()]

  for number, level in enumerate(levels):
    _, k, f, t = level.tokens.shape
    row.append(np.zeros((b, k * f, t), np.int32))
    column.append(np.zeros((b, k * f, t), np.int32))
    for q in range(b):
      real = np.asarray(prompts.mask[q])
      text = np.asarray(prompts.tokens[q])[real].tolist()
      place = np.asarray(prompts.positions[q])[:, real].T.tolist()
      slot = np.asarray(prompts.image_slot[q])[real].tolist()
      for node in range(k * f):
        path = ancestors(number, q, node)
        words = [w for part in path for w in part]
        begin = len(text) + len(words) - len(path[-1])
        row[-1][q, node] = len(rows)
        column[-1][q, node] = np.minimum(begin - 1 + np.arange(t), longest - 1)
        after = int(prompts.next_position[q])
        rows.append(
          (
            text + words,
            place + [[after + i] * 3 for i in range(len(words))],
            slot + [-1] * len(words),
            q,
          )
        )

  def padded(part: int, fill: Any) -> Any:
    return jnp.asarray(
      [list(r[part]) + [fill] * (longest - len(r[part])) for r in rows]
    )

  lengths = jnp.asarray([len(r[0]) for r in rows])
  return Paths(
    tokens=padded(0, 5),
    real=jnp.arange(longest) < lengths[:, None],
    positions=padded(1, [0, 0, 0]),
    slot=padded(2, -1),
    question=jnp.asarray([r[3] for r in rows]),
    row=[jnp.asarray(x) for x in row],
    column=[jnp.asarray(x) for x in column],
  )


@pytest.fixture(scope="session")
def paths_of() -> Callable[[Tree], Paths]:
  return make_paths


def _rms(x: Any, p: Any, eps: float) -> Any:
  return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + eps) * p["scale"]


def _dense(x: Any, p: Any) -> Any:
  return x @ p["kernel"] + p.get("bias", 0.0)


def _mlp(x: Any, p: Any) -> Any:
  gate = _dense(x, p["gate"])
  return _dense(gate / (1 + jnp.exp(-gate)) * _dense(x, p["up"]), p["down"])


def _turn(x: Any, angles: Any) -> Any:
  """Rotation as a product of complex numbers; x [n, t, h, d]."""
  half = x.shape[-1] // 2
  cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
  a, b = x[..., :half], x[..., half:]
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def _softmax_attention(q: Any, k: Any, v: Any, mask: Any) -> Any:
  """q, k, v [n, t, h, d], mask [n, t, t]; rows without a key are garbage."""
  scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / np.sqrt(q.shape[-1])
  scores = jnp.where(mask[:, None], scores, -1e9)
  out = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores, -1), v)
  return out.reshape(*out.shape[:2], -1)


def _layer(blocks: Any, i: int) -> Any:
  return jax.tree.map(lambda x: x[i], blocks)


def _see(params: Any, config: VLMConfig, prompts: Any) -> Any:
  c = config.vision
  n, slots = prompts.patch_image.shape
  x = prompts.patches @ params["patch_embed"]["kernel"]
  image = prompts.patch_image
  same = (image[:, :, None] == image[:, None]) & (image[:, None] > 0)
  window = jnp.arange(slots) // c.window_patches
  near = same & (window[:, None] == window[None])
  size = c.width // c.heads
  frequency = 10000.0 ** (-np.arange(0, size // 2, 2) / (size // 2))
  hw = prompts.patch_hw.astype(jnp.float32)
  angles = (hw[..., None] * frequency).reshape(n, slots, -1)
  for i in range(c.depth):
    p = _layer(params["blocks"], i)
    y = _dense(_rms(x, p["norm1"], 1e-6), p["attn"]["qkv"])
    q, k, v = (
      z.reshape(n, slots, c.heads, size) for z in jnp.split(y, 3, axis=-1)
    )
    mask = same if i in c.full_blocks else near
    y = _softmax_attention(_turn(q, angles), _turn(k, angles), v, mask)
    x = x + _dense(y, p["attn"]["proj"])
    x = x + _mlp(_rms(x, p["norm2"], 1e-6), p["mlp"])
  p = params["merger"]
  x = _rms(x, p["norm"], 1e-6).reshape(n, slots // c.merge**2, -1)
  x = _dense(x, p["fc1"])
  x = x * 0.5 * (1 + jax.scipy.special.erf(x / np.sqrt(2)))
  return _dense(x, p["fc2"])


def _embed(params: Any, config: VLMConfig, prompts: Any) -> Any:
  """Prompt embeddings [B, P, D], pictures in their places."""
  x = params["text"]["embed"]["embedding"][prompts.tokens]
  if not prompts.patches.shape[1]:
    return x
  seen = _see(params["vision"], config, prompts)
  rows = jnp.arange(len(seen))[:, None]
  seen = seen[rows, jnp.maximum(prompts.image_slot, 0)]
  return jnp.where((prompts.image_slot >= 0)[..., None], seen, x)


def naming_logits(params: Any, config: VLMConfig, prompts: Any) -> Any:
  """What every prompt position says by itself: norm and tied head."""
  x = _embed(params, config, prompts)
  x = _rms(x, params["text"]["norm"], config.text.rms_eps)
  return x @ params["text"]["embed"]["embedding"].T


@pytest.fixture(scope="session")
def dense_naming() -> Callable[..., Any]:
  return naming_logits


def dense_logits(
  params: Any, config: VLMConfig, prompts: Any, paths: Paths
) -> Any:
  """Logits [S, L, V] of every path by itself."""
  c = config.text
  text = params["text"]
  n, length = paths.tokens.shape
  x = text["embed"]["embedding"][paths.tokens]
  if prompts.patches.shape[1]:
    seen = _see(params["vision"], config, prompts)
    seen = seen[paths.question[:, None], jnp.maximum(paths.slot, 0)]
    x = jnp.where((paths.slot >= 0)[..., None], seen, x)
  frequency = c.rope_theta ** (-np.arange(0, c.head_dim, 2) / c.head_dim)
  axis = np.repeat([0, 1, 2], c.mrope_section)
  angles = paths.positions[..., axis].astype(jnp.float32) * frequency
  causal = jnp.arange(length)[:, None] >= jnp.arange(length)[None]
  mask = causal[None] & paths.real[:, None]
  for i in range(c.layers):
    p = _layer(text["blocks"], i)
    y = _rms(x, p["norm1"], c.rms_eps)
    q, k, v = (
      _dense(y, p["attn"][name]).reshape(n, length, -1, c.head_dim)
      for name in ("q", "k", "v")
    )
    k, v = (jnp.repeat(z, c.heads // c.kv_heads, axis=2) for z in (k, v))
    y = _softmax_attention(_turn(q, angles), _turn(k, angles), v, mask)
    x = x + _dense(y, p["attn"]["o"])
    x = x + _mlp(_rms(x, p["norm2"], c.rms_eps), p["mlp"])
  x = _rms(x, text["norm"], c.rms_eps)
  if c.tied:
    return x @ text["embed"]["embedding"].T
  return x @ text["head"]["kernel"]


def flat_log_scores(
  params: Any,
  config: VLMConfig,
  tree: Tree,
  paths: Paths,
  stages: tuple[Sample, ...],
) -> tuple[list[Any], list[Any]]:
  """Log-probs and entropies [B, R, T] of every level from flat paths."""
  allowed = np.setdiff1d(np.arange(config.text.vocab), config.banned_tokens)
  place = np.zeros(config.text.vocab, np.int32)
  place[allowed] = np.arange(len(allowed))
  logits = dense_logits(params, config, tree.prompts, paths)
  logprobs, entropies = [], []
  for i, (stage, level) in enumerate(zip(stages, tree.levels, strict=True)):
    b, k, f, t = level.tokens.shape
    found = logits[paths.row[i], paths.column[i]][..., allowed]
    found = jax.nn.log_softmax(found / stage.temperature, axis=-1)
    tokens = jnp.asarray(place)[level.tokens.reshape(b, k * f, t)]
    picked = jnp.take_along_axis(found, tokens[..., None], -1)
    logprobs.append(picked[..., 0])
    entropies.append(-(jnp.exp(found) * found).sum(-1))
  return logprobs, entropies


@pytest.fixture(scope="session")
def flat_scores() -> Callable[..., Any]:
  return flat_log_scores


def assert_trees_close(got: Any, want: Any, share: float = 1e-5) -> None:
  """Every tensor agrees to `share` of its own maximum."""
  flat, _ = jax.tree_util.tree_flatten_with_path(want)
  for (path, w), g in zip(flat, jax.tree.leaves(got), strict=True):
    w, g = np.asarray(w, np.float64), np.asarray(g, np.float64)
    name = jax.tree_util.keystr(path)
    assert np.isfinite(g).all(), name
    error = np.abs(g - w).max(initial=0)
    assert error <= share * np.abs(w).max(initial=0), (
      f"{name}: off by {error:.2e}, largest {np.abs(w).max():.2e}"
    )


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
  return assert_trees_close
