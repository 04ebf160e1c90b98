import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.rollout.tree import Level, Tree, flat, nodes, token_counts
from mirl_jax.testing_flat import node_path

SHAPES = {
  "one stage": ((1, 5, 4),),
  "kept and forked": ((1, 4, 6), (2, 3, 5)),
  "all forked": ((1, 3, 4), (3, 2, 4)),
  "three stages": ((1, 4, 3), (3, 2, 4), (2, 2, 5)),
}


def random_tree(shape, seed):
  config = tiny.tiny_config()
  rng = np.random.default_rng(seed)
  prompts = tiny.random_prompts(config, seed)
  plain = tiny.random_nodes(seed, 3, shape)
  levels = []
  for number, ((k, f, t), level) in enumerate(zip(shape, plain, strict=True)):
    kept = np.ones((3, k * f), bool)
    if number + 1 < len(shape):
      kept = np.zeros((3, k * f), bool)
      np.put_along_axis(kept, np.asarray(plain[number + 1].parent), True, 1)
    mask = level.mask.reshape(3, k, f, t)
    parent = level.parent if number else jnp.zeros((3, 1), jnp.int32)
    levels.append(
      Level(
        tokens=level.tokens.reshape(3, k, f, t),
        mask=mask,
        sampled=mask & jnp.asarray(rng.random(mask.shape) < 0.8),
        logprobs=jnp.zeros(mask.shape),
        parent=parent,
        finished=jnp.ones((3, k, f), bool),
        kept=jnp.asarray(kept.reshape(3, k, f)),
        scores={},
      )
    )
  return Tree(prompts, tuple(levels)), plain


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_token_counts_equal_a_loop_over_nodes(name, seed):
  tree, plain = random_tree(SHAPES[name], seed)
  prompt = np.asarray(tree.prompts.mask).sum(axis=1)
  want = {"generated": 0, "tree": int(prompt.sum()), "flat": 0}
  want["padded"] = tree.prompts.mask.size
  for number, level in enumerate(tree.levels):
    kept = np.asarray(flat(level.kept))
    sampled = np.asarray(flat(level.sampled))
    for q, n in np.ndindex(*kept.shape):
      path = node_path(plain, number, q, n)
      want["generated"] += int(sampled[q, n].sum())
      want["tree"] += len(path[-1])
      want["padded"] += sampled.shape[2]
      if number + 1 == len(tree.levels) or not kept[q, n]:
        want["flat"] += int(prompt[q]) + sum(len(part) for part in path)
  got = {name: int(x) for name, x in token_counts(tree).items()}
  assert got == want
  assert got["flat"] > got["tree"]


def test_nodes_flatten_groups_and_keep_parents():
  tree, plain = random_tree(SHAPES["three stages"], 0)
  got = nodes(tree.levels)
  assert got[0].parent is None
  for a, b in zip(got, plain, strict=True):
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.mask, b.mask)
  for a, b in zip(got[1:], plain[1:], strict=True):
    np.testing.assert_array_equal(a.parent, b.parent)


def test_flat_joins_parents_and_children_in_order():
  x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
  got = flat(x)
  assert got.shape == (2, 12, 5)
  np.testing.assert_array_equal(got[1, 2 * 4 + 3], x[1, 2, 3])
