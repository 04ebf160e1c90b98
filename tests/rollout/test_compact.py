"""Halving the rows changes no result, only what is computed on the way."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.forward import prefill
from mirl_jax.rollout.program import Sample
from mirl_jax.rollout.sampler import keep, sample_stage, start
from mirl_jax.rollout.tree import flat

CONFIG = tiny.tiny_config()
STOP, LAST_STOP = tiny.tiny_stop("</d>"), tiny.tiny_stop("</a>")
DESCRIBE = Sample("describe", 6, 12, "</d>")
ANSWER = Sample("answer", 2, 12, "</a>")


@functools.partial(jax.jit, static_argnums=0)
def two_stages(halvings, params, prompts, keys):
  """Six descriptions, three of them forked in two."""
  describe, answer = (
    dataclasses.replace(s, halvings=halvings) for s in (DESCRIBE, ANSWER)
  )
  frontier = start(prefill(params, CONFIG, prompts))
  first, frontier = sample_stage(
    params, CONFIG, describe, STOP, frontier, keys, has_children=True
  )
  rank = jnp.argsort(jnp.sum(flat(first.mask), axis=-1), axis=-1)
  second, frontier = sample_stage(
    params,
    CONFIG,
    answer,
    LAST_STOP,
    keep(frontier, rank[:, 1:4].astype(jnp.int32)),
    keys,
    has_children=False,
  )
  return (first, second), (frontier.hidden, frontier.position)


def run(halvings, seed):
  params = tiny.random_params(CONFIG, seed)
  prompts = tiny.random_prompts(CONFIG, seed)
  keys = jax.vmap(lambda q: jax.random.fold_in(jax.random.key(seed), q))(
    prompts.question
  )
  return two_stages(halvings, params, prompts, keys)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("halvings", [1, 3])
def test_nodes_are_those_of_the_whole_loop(seed, halvings):
  levels, ends = run(halvings, seed)
  whole, whole_ends = run(0, seed)
  lengths = [np.asarray(x.mask).sum(-1) for x in whole]
  # Else no loop was ever halved, and nothing tested.
  assert any(len(np.unique(x)) > 2 for x in lengths)
  for a, b in zip(levels, whole, strict=True):
    for name in ("tokens", "mask", "sampled", "finished", "parent"):
      np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
  for a, b in zip(ends, whole_ends, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_fewer_rows_are_decoded():
  """The program with halvings holds a loop per number of rows."""
  params = tiny.random_params(CONFIG)
  prompts = tiny.random_prompts(CONFIG)
  keys = jax.random.split(jax.random.key(0), 3)

  def bodies(halvings):
    text = two_stages.lower(halvings, params, prompts, keys).as_text()
    return text.count("stablehlo.while")

  assert bodies(2) - bodies(0) >= 4
