"""Tree, prefill and decode against independent sequences."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.attention import Segment, written
from mirl_jax.policy.decode import decode_step, empty_cache
from mirl_jax.policy.forward import (
  ancestor_indices,
  embed_prompts,
  gather_nodes,
  prefill,
  start_positions,
  tree_hidden,
)
from mirl_jax.policy.logprobs import shape_logits, token_logprobs
from mirl_jax.policy.remat import REMAT
from mirl_jax.policy.text import head_logits
from mirl_jax.testing_flat import (
  extend,
  flat_logits,
  flat_node_logits,
  node_path,
)

CONFIG = tiny.tiny_config()
# Blocks of the tower: one group, two scanned groups (here with an untied head
# and stills doubled in time), and irregular ones.
CONFIGS = {
  "one group": CONFIG,
  "scanned groups": tiny.tiny_config(
    tied=False, depth=6, full_blocks=(2, 5), layers=3, temporal_patch=2
  ),
  "irregular blocks": tiny.tiny_config(depth=3, full_blocks=(0,)),
}
QWEN3 = tiny.tiny_qwen3()
SHAPE = ((1, 4, 6), (2, 2, 5), (3, 1, 4))


@functools.partial(jax.jit, static_argnames=("config", "remat"))
def tree_logits(params, prompts, levels, config=CONFIG, remat="none"):
  hidden = tree_hidden(params, config, prompts, levels, remat=remat)
  return tuple(head_logits(params["text"], h) for h in hidden)


prefill_jit = jax.jit(prefill, static_argnums=1)
decode_jit = jax.jit(decode_step, static_argnums=1)
embed_jit = jax.jit(embed_prompts, static_argnums=(1, 3))


@pytest.fixture(params=[CONFIG, QWEN3], ids=lambda config: config.family)
def config(request):
  return request.param


@pytest.fixture(scope="module")
def params():
  return tiny.random_params(CONFIG)


@pytest.fixture(scope="module")
def prompts():
  return tiny.random_prompts(CONFIG)


@pytest.fixture(scope="module")
def levels():
  return tiny.random_nodes(0, 3, SHAPE)


def real(x, mask):
  return np.asarray(x)[np.asarray(mask)]


@pytest.mark.parametrize("seed", range(3))
def test_tree_equals_independent_sequences(config, seed):
  params = tiny.random_params(config)
  prompts = tiny.random_prompts(config, seed)
  levels = tiny.random_nodes(seed, 3, SHAPE)
  got = tree_logits(params, prompts, levels, config)
  want = flat_node_logits(params, config, prompts, levels)
  for g, w, level in zip(got, want, levels, strict=True):
    # Float32 sums in another order; logits are about 1.
    np.testing.assert_allclose(
      real(g, level.mask), real(w, level.mask), atol=1e-5
    )


def test_tree_gradients_equal_those_of_independent_sequences(config):
  params, prompts = tiny.random_params(config), tiny.random_prompts(config)
  levels = tiny.random_nodes(5, 3, SHAPE[:2])
  rng = np.random.default_rng(0)
  pays = [rng.normal(size=x.tokens.shape) * np.asarray(x.mask) for x in levels]

  def tree_loss(params):
    hidden = tree_hidden(params, config, prompts, levels)
    total = 0.0
    for h, level, pay in zip(hidden, levels, pays, strict=True):
      total += jnp.sum(token_logprobs(params, h, level.tokens)[0] * pay)
    return total

  questions, tails, wanted = [], [], []
  for number, (level, pay) in enumerate(zip(levels, pays, strict=True)):
    for q, n in np.ndindex(*level.tokens.shape[:2]):
      path = node_path(levels, number, q, n)
      tail = [token for node in path for token in node]
      questions.append(q)
      tails.append(tail)
      own = len(path[-1])
      wanted.append((len(tail) - own, pay[q, n, :own]))
  batch = extend(prompts, questions, tails, 11)
  start = np.asarray(prompts.mask).sum(axis=1)[questions]
  weights = np.zeros(batch.tokens.shape)
  for i, (before, pay) in enumerate(wanted):
    at = start[i] + before
    weights[i, at : at + len(pay)] = pay

  def flat_loss(params):
    logprobs = jax.nn.log_softmax(flat_logits(params, config, batch))
    chosen = jnp.take_along_axis(
      logprobs[:, :-1], jnp.asarray(batch.tokens)[:, 1:, None], axis=-1
    )
    return jnp.sum(chosen[..., 0] * weights[:, 1:])

  got, want = (
    jax.jit(jax.value_and_grad(loss))(params) for loss in (tree_loss, flat_loss)
  )
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)

  def same(path, g, w):
    scale = float(jnp.abs(w).max())
    # A key's bias shifts all logits of a query alike: its gradient is 0.
    assert scale > 1e-3 or "'k'" in str(path), path
    np.testing.assert_allclose(g, w, atol=1e-5 * max(scale, 1.0))

  jax.tree_util.tree_map_with_path(same, got[1], want[1])


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("block", [written.BLOCK, 2])
def test_prefill_and_decode_steps_equal_the_tree(
  config, levels, block, scan, monkeypatch
):
  """Two levels token by token, the second below ragged parents."""
  config = dataclasses.replace(config, scan_decode=scan)
  monkeypatch.setattr(written, "BLOCK", block)
  decode_jit.clear_cache()
  params, prompts = tiny.random_params(config), tiny.random_prompts(config)
  want = tree_logits(params, prompts, levels, config)
  ready = prefill_jit(params, config, prompts)
  ancestors = tuple((segment,) for segment in ready.segments)
  starts = start_positions(jnp.asarray(prompts.next_position), levels)
  first = jnp.repeat(ready.hidden, 4, axis=1)
  for number, level in enumerate(levels[:2]):
    b, r, t = level.tokens.shape
    cache = empty_cache(config, b, r, t)
    hidden, states = first, []
    for step in range(t):
      states.append(hidden)
      hidden, cache = decode_jit(
        params,
        config,
        level.tokens[:, :, step],
        starts[number] + step,
        jnp.asarray(step),
        ancestors,
        cache,
      )
    states.append(hidden)
    states = jnp.stack(states, axis=2)
    got = head_logits(params["text"], states[:, :, :-1])
    np.testing.assert_allclose(
      real(got, level.mask), real(want[number], level.mask), atol=1e-5
    )
    below = levels[number + 1]
    index = below.parent
    length = jnp.sum(level.mask, axis=-1)
    ends = jnp.take_along_axis(states, length[:, :, None, None], axis=2)
    fanout = below.tokens.shape[1] // index.shape[1]
    first = jnp.repeat(gather_nodes(ends[:, :, 0], index), fanout, axis=1)
    ancestors = tuple(
      (*above, Segment(*(gather_nodes(x, index) for x in (k, v, level.mask))))
      for above, k, v in zip(ancestors, cache.keys, cache.values, strict=True)
    )


def test_what_padding_holds_changes_no_bit(params, prompts, levels):
  rng = np.random.default_rng(0)

  def junk(x, keep, low, high):
    noise = rng.integers(low, high, x.shape).astype(np.asarray(x).dtype)
    return jnp.asarray(np.where(keep, x, noise))

  mask, patch = np.asarray(prompts.mask), np.asarray(prompts.patch_image) > 0
  other = prompts.replace(
    tokens=junk(prompts.tokens, mask, 0, 64),
    positions=junk(prompts.positions, mask[:, None], 0, 99),
    patches=junk(prompts.patches, patch[..., None], -9, 9),
    patch_hw=junk(prompts.patch_hw, patch[..., None], 0, 9),
    patch_grid=junk(prompts.patch_grid, patch[..., None], 0, 9),
  )
  noisy = tuple(
    x._replace(tokens=junk(x.tokens, np.asarray(x.mask), 0, 64)) for x in levels
  )
  assert (other.patches != prompts.patches).any()
  for got, want, level in zip(
    tree_logits(params, other, noisy),
    tree_logits(params, prompts, levels),
    levels,
    strict=True,
  ):
    np.testing.assert_array_equal(real(got, level.mask), real(want, level.mask))


def test_wider_padding_changes_nothing(params, prompts, levels):
  wide = tiny.random_prompts(CONFIG, 0, patch_slots=80, prompt_length=40)
  assert wide.tokens.shape[1] > prompts.tokens.shape[1]
  wider = tuple(
    x._replace(
      tokens=jnp.pad(x.tokens, ((0, 0), (0, 0), (0, 3))),
      mask=jnp.pad(x.mask, ((0, 0), (0, 0), (0, 3))),
    )
    for x in levels
  )
  for got, want, level in zip(
    tree_logits(params, wide, wider),
    tree_logits(params, prompts, levels),
    levels,
    strict=True,
  ):
    got = got[:, :, : level.tokens.shape[2]]
    np.testing.assert_allclose(
      real(got, level.mask), real(want, level.mask), atol=1e-5
    )


def test_the_image_matters(params, prompts, levels):
  other = prompts.replace(patches=-prompts.patches)
  got, want = (tree_logits(params, p, levels)[0] for p in (other, prompts))
  change = np.abs(np.asarray(got - want)).max(axis=(1, 2, 3))
  assert change[0] > 0.01
  assert change[1] > 0.01
  assert change[2] == 0.0  # has none


@pytest.mark.parametrize("name", CONFIGS)
def test_remat_recomputes_and_changes_no_result(name):
  config = CONFIGS[name]
  params = tiny.random_params(config)
  prompts = tiny.random_prompts(config)
  levels = tiny.random_nodes(0, 3, ((1, 2, 4),))

  def loss(params, remat):
    hidden = tree_hidden(params, config, prompts, levels, remat=remat)
    return jnp.sum(hidden[0] ** 2)

  gradients = [lambda p, r=remat: jax.grad(loss)(p, r) for remat in REMAT]
  # The scanned decoder once, and blocks of the tower (or their scans) each.
  tower = {"one group": 2, "scanned groups": 2, "irregular blocks": 3}[name]
  work = []
  for function, want in zip(gradients, (0, 1 + tower, 1 + tower), strict=True):
    text = str(jax.make_jaxpr(function)(params))
    assert len(re.findall(r"(?:checkpoint|remat\d?)\[", text)) == want
    work.append(jax.jit(function).lower(params).cost_analysis()["flops"])
  # `full` makes the products again, `cheap` only what stands between them.
  assert work[0] < work[1] < work[0] + 0.3 * (work[2] - work[0])
  if name == "irregular blocks":  # one compilation suffices
    want, *others = (jax.jit(function)(params) for function in gradients)
    for got in others:
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
          a, b, atol=1e-5 * float(jnp.abs(b).max()) + 1e-5
        ),
        got,
        want,
      )


def test_given_embeddings_are_used(params, prompts, levels):
  embedded = embed_jit(params, CONFIG, prompts, jnp.float32)
  run = jax.jit(
    lambda e: tree_hidden(params, CONFIG, prompts, levels, embedded=e)[0]
  )
  mask = np.asarray(levels[0].mask)
  want = tree_logits(params, prompts, levels)[0][mask]
  opposite = jax.tree.map(jnp.negative, embedded)
  got = [
    head_logits(params["text"], run(e)[mask]) for e in (embedded, opposite)
  ]
  np.testing.assert_allclose(got[0], want, atol=1e-5)
  assert not np.allclose(got[1], want, atol=1e-2)


def test_bfloat16_activations_stay_near_float32(params, prompts, levels):
  half, full = (
    jax.jit(
      lambda d=dtype: tree_hidden(params, CONFIG, prompts, levels[:1], d)
    )()
    for dtype in (jnp.bfloat16, jnp.float32)
  )
  assert half[0].dtype == jnp.bfloat16
  delta = real(half[0].astype(jnp.float32) - full[0], levels[0].mask)
  assert np.sqrt(np.mean(delta**2)) < 0.05  # states are about 1


def test_a_level_without_parents_is_refused():
  levels = tiny.random_nodes(0, 2, SHAPE[:2])
  orphan = (levels[0], levels[1]._replace(parent=None))
  with pytest.raises(ValueError, match="level 2 needs the index"):
    ancestor_indices(orphan)


# Log-probs.


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_logits_are_shaped_as_the_sampler_does(temperature):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(3, 8)).astype(np.float32)
  banned = (1, 6)
  got = jax.nn.softmax(shape_logits(jnp.asarray(logits), temperature, banned))
  allowed = np.array([i not in banned for i in range(8)])
  weights = np.exp(logits / (temperature or 1.0)) * allowed
  want = weights / weights.sum(axis=-1, keepdims=True)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert (np.asarray(got)[:, list(banned)] == 0).all()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("budget", [1, 64 * 2 * 5, 64 * 2 * 7])
def test_chunked_logprobs_equal_direct_ones(tied, temperature, budget):
  config = tiny.tiny_config(tied=tied)
  params = {"text": tiny.random_params(config)["text"]}
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.normal(size=(2, 3, 4, 48)), jnp.float32)
  tokens = jnp.asarray(rng.integers(0, 58, (2, 3, 4)))
  pay = rng.normal(size=(2, 2, 3, 4))
  banned = config.banned_tokens

  def direct(params, hidden):
    logits = shape_logits(
      head_logits(params["text"], hidden), temperature, banned
    )
    logprobs = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(logprobs, tokens[..., None], -1)[..., 0]
    return chosen, -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)

  def chunked(params, hidden):
    found = token_logprobs(
      params, hidden, tokens, temperature, banned, budget=budget
    )
    return found.logprob, found.entropy

  def loss(function, *args):
    logprob, entropy = function(*args)
    return jnp.sum(logprob * pay[0]) + jnp.sum(entropy * pay[1])

  got, want = (
    jax.jit(lambda p, h, f=f: (f(p, h), jax.grad(loss, (1, 2))(f, p, h)))(
      params, hidden
    )
    for f in (chunked, direct)
  )
  assert got[0][0].shape == (2, 3, 4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want
  )
