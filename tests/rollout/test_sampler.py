"""The sampler against full, independent sequences and plain Python."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.forward import prefill, tree_hidden
from mirl_jax.policy.logprobs import shape_logits, token_logprobs
from mirl_jax.rollout.program import Sample
from mirl_jax.rollout.sampler import keep, sample_stage, start
from mirl_jax.rollout.tree import flat, nodes
from mirl_jax.testing_flat import flat_node_logits

CONFIG = tiny.tiny_config()
WORDS = tiny.vocabulary()
STOP, LAST_STOP = tiny.tiny_stop("</d>"), tiny.tiny_stop("</a>")
DESCRIBE = Sample("describe", 4, 7, "</d>")
ANSWER = Sample("answer", 2, 5, "</a>")
TEMPERATURES = (1.0, 0.6, 1.7, 0.0)
# Which of three questions make up the batch.
BATCHES = ((0, 1, 2), (2, 1, 0), (1, 1, 0))


def question_keys(prompts, seed=0):
  key = jax.random.key(seed)
  return jax.vmap(lambda q: jax.random.fold_in(key, q))(prompts.question)


@functools.partial(jax.jit, static_argnums=0)
def two_stages(temperature, params, prompts, keys):
  """Four descriptions, two of them forked: the longest and another one."""
  describe, answer = (
    dataclasses.replace(s, temperature=temperature) for s in (DESCRIBE, ANSWER)
  )
  frontier = start(prefill(params, CONFIG, prompts))
  first, frontier = sample_stage(
    params, CONFIG, describe, STOP, frontier, keys, has_children=True
  )
  longest = jnp.argmax(jnp.sum(flat(first.mask), axis=-1), axis=-1)
  index = jnp.stack([longest, (longest + 1) % 4], axis=1)
  below = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
  second, _ = sample_stage(
    params,
    CONFIG,
    answer,
    LAST_STOP,
    keep(frontier, index.astype(jnp.int32)),
    below,
    has_children=False,
  )
  return first, second


@dataclasses.dataclass
class Run:
  """One sampled batch beside its flat computation."""

  params: object
  prompts: object
  temperature: float
  levels: tuple
  logits: list  # shaped, per level [B, R, T, V]


def make_run(temperature, seed, batch=BATCHES[0], params=None):
  params = tiny.random_params(CONFIG, seed) if params is None else params
  prompts = tiny.random_prompts(CONFIG, seed)
  prompts = jax.tree.map(lambda x: x[np.array(batch)], prompts)
  levels = two_stages(temperature, params, prompts, question_keys(prompts))
  raw = flat_node_logits(params, CONFIG, prompts, nodes(levels))
  shaped = [
    np.asarray(shape_logits(jnp.asarray(x), temperature, CONFIG.banned_tokens))
    for x in raw
  ]
  return Run(params, prompts, temperature, levels, shaped)


@pytest.fixture(scope="module")
def runs():
  out = [make_run(t, seed) for t in TEMPERATURES for seed in range(3)]
  return out + [make_run(1.0, 0, batch) for batch in BATCHES[1:]]


def rows(level):
  """(tokens, mask, sampled, logprobs, finished) of every node, in NumPy."""
  parts = (level.tokens, level.mask, level.sampled, level.logprobs)
  arrays = [np.asarray(flat(x)) for x in parts]
  arrays.append(np.asarray(flat(level.finished)))
  for place in np.ndindex(arrays[-1].shape):
    yield place, tuple(x[place] for x in arrays)


def stop_index(tokens, stop):
  """Which token completes the stop, by plain search."""
  text = b""
  for i, token in enumerate(tokens):
    text += WORDS[token]
    if stop in text:
      return i
  return None


# Sampler = scorer.


def test_logprobs_equal_those_of_full_sequences(runs):
  """For every row, at every length; children of whatever closed last too."""
  for run in runs:
    for level, logits in zip(run.levels, run.logits, strict=True):
      want = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))
      tokens = np.asarray(flat(level.tokens))
      want = np.take_along_axis(want, tokens[..., None], axis=-1)[..., 0]
      mask = np.asarray(flat(level.mask))
      got = np.asarray(flat(level.logprobs))
      np.testing.assert_allclose(got[mask], want[mask], atol=1e-5)
      assert (got[~mask] == 0).all()


def test_logprobs_equal_the_tree_scorers(runs):
  @functools.partial(jax.jit, static_argnums=0)
  def score(temperature, params, prompts, levels):
    hidden = tree_hidden(params, CONFIG, prompts, levels)
    return [
      token_logprobs(params, h, x.tokens, temperature, CONFIG.banned_tokens)[0]
      for h, x in zip(hidden, levels, strict=True)
    ]

  for run in runs[:4]:  # two temperatures
    scored = score(run.temperature, run.params, run.prompts, nodes(run.levels))
    for level, want in zip(run.levels, scored, strict=True):
      mask = np.asarray(flat(level.mask))
      got = np.asarray(flat(level.logprobs))
      np.testing.assert_allclose(got[mask], want[mask], atol=1e-5)


def test_the_runs_hold_every_kind_of_node(runs):
  """Without these, the tests here would pass for want of cases."""
  kinds = set()
  for run in runs:
    first, second = run.levels
    parents = np.asarray(second.parent)
    lengths = np.asarray(flat(first.mask)).sum(axis=-1)
    for (q, n), (tokens, _, sampled, _, finished) in rows(first):
      own = tokens[sampled]
      ended = CONFIG.eos_tokens[0] in own
      kind = "stop" if finished else "end" if ended else "full"
      forked = n in parents[q]
      last = lengths[q, n] == lengths.max()
      kinds.add((kind, forked))
      if forked and last:
        kinds.add("a parent that the loop waited for")
      if finished and len(own) == DESCRIBE.max_tokens:
        kinds.add("a stop that just fits")
      if forked and len(own) == 1:
        kinds.add("a parent of one token")
    for _, (_, _, _, _, finished) in rows(second):
      kinds.add(("leaf", bool(finished)))
  assert kinds >= {
    ("stop", True),
    ("stop", False),
    ("full", True),
    ("end", True),
    ("leaf", True),
    ("leaf", False),
    "a parent that the loop waited for",
    "a stop that just fits",
    "a parent of one token",
  }


def test_greedy_takes_the_best_token_of_the_flat_computation(runs):
  greedy = [run for run in runs if run.temperature == 0]
  assert greedy
  for run in greedy:
    for level, logits in zip(run.levels, run.logits, strict=True):
      sampled = np.asarray(flat(level.sampled))
      tokens = np.asarray(flat(level.tokens))
      best = logits.argmax(axis=-1)
      np.testing.assert_array_equal(tokens[sampled], best[sampled])


# What a node looks like.


@pytest.mark.parametrize("number", [0, 1])
def test_nodes_end_at_their_stop_or_are_closed(runs, number):
  stage, stop = ((DESCRIBE, STOP), (ANSWER, LAST_STOP))[number]
  close = list(stop.close) if number == 0 else []  # leaves need no tag
  eos = CONFIG.eos_tokens[0]
  for run in runs:
    level = run.levels[number]
    assert level.tokens.shape[-1] == stage.max_tokens + len(close)
    for _, (tokens, mask, sampled, _, finished) in rows(level):
      tokens = tokens.tolist()
      end = stop_index(tokens[: stage.max_tokens], stage.stop.encode())
      ends = [i for i, t in enumerate(tokens[: stage.max_tokens]) if t == eos]
      first_end = ends[0] if ends else stage.max_tokens - 1
      stops = end is not None and end <= first_end
      own = (end if stops else first_end) + 1
      forced = [] if stops else close
      assert finished == stops
      assert sampled.tolist() == [i < own for i in range(len(tokens))]
      total = own + len(forced)
      assert mask.tolist() == [i < total for i in range(len(tokens))]
      assert tokens[own:total] == forced
      assert set(tokens[total:]) <= {CONFIG.pad_token}


def test_levels_name_their_parents_and_mean_likelihood(runs):
  for run in runs:
    first, second = run.levels
    assert first.parent.tolist() == [[0]] * 3
    longest = np.asarray(flat(first.mask)).sum(axis=-1).argmax(axis=-1)
    np.testing.assert_array_equal(
      second.parent, np.stack([longest, (longest + 1) % 4], axis=1)
    )
    for level in run.levels:
      assert np.asarray(level.kept).all()
      got = np.asarray(flat(level.scores["likelihood"]))
      for place, (_, _, sampled, logprobs, _) in rows(level):
        np.testing.assert_allclose(
          got[place], logprobs[sampled].mean(), rtol=1e-5
        )


def test_banned_tokens_are_never_sampled_however_likely():
  params = tiny.random_params(CONFIG, 1)
  embedding = params["text"]["embed"]["embedding"]
  banned = np.array(CONFIG.banned_tokens)
  loud = embedding.at[banned].multiply(40.0)
  params["text"]["embed"]["embedding"] = loud
  run = make_run(1.0, 1, params=params)
  raw = flat_node_logits(params, CONFIG, run.prompts, nodes(run.levels))
  wanted = 0
  for level, logits, plain in zip(run.levels, run.logits, raw, strict=True):
    sampled = np.asarray(flat(level.sampled))
    tokens = np.asarray(flat(level.tokens))[sampled]
    wanted += np.isin(plain[sampled].argmax(axis=-1), banned).sum()
    assert not np.isin(tokens, banned).any()
    logprobs = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))[sampled]
    got = np.asarray(flat(level.logprobs))[sampled]
    np.testing.assert_allclose(
      got, logprobs[np.arange(len(tokens)), tokens], atol=1e-5
    )
  assert wanted > 10


# Randomness.


def test_a_question_alone_draws_what_it_draws_among_others(runs):
  whole = runs[0]
  assert whole.temperature == 1.0
  for q in range(3):
    alone = jax.tree.map(lambda x, q=q: x[q : q + 1], whole.prompts)
    levels = two_stages(1.0, whole.params, alone, question_keys(alone))
    for got, want in zip(levels, whole.levels, strict=True):
      for name in ("tokens", "mask", "sampled", "parent", "finished"):
        np.testing.assert_array_equal(
          getattr(got, name)[0], getattr(want, name)[q], err_msg=name
        )
      np.testing.assert_allclose(got.logprobs[0], want.logprobs[q], atol=1e-5)


def test_a_row_does_not_depend_on_its_place_or_its_mates(runs):
  base, *others = [runs[0], *runs[-2:]]
  for run, batch in zip(others, BATCHES[1:], strict=True):
    for place, q in enumerate(batch):
      for got, want in zip(run.levels, base.levels, strict=True):
        np.testing.assert_array_equal(got.tokens[place], want.tokens[q])
        np.testing.assert_array_equal(got.parent[place], want.parent[q])


def test_the_same_key_gives_the_same_bits_and_another_one_other_tokens(runs):
  run = runs[0]
  again = two_stages(1.0, run.params, run.prompts, question_keys(run.prompts))
  jax.tree.map(np.testing.assert_array_equal, again, run.levels)
  other = two_stages(
    1.0, run.params, run.prompts, question_keys(run.prompts, 1)
  )
  for got, want in zip(other, run.levels, strict=True):
    for q in range(3):
      assert (got.tokens[q] != want.tokens[q]).any()
  # Siblings draw numbers of their own.
  first = np.asarray(run.levels[0].tokens)[:, 0]
  assert all(len({tuple(row) for row in group}) > 1 for group in first)
