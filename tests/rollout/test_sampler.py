"""The sampler against full, independent sequences and plain Python."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.attention import attend, segment
from mirl_jax.policy.forward import (
  decode_step,
  empty_cache,
  prefill,
  shape_logits,
  token_logprobs,
  tree_hidden,
)
from mirl_jax.policy.rope import text_angles
from mirl_jax.policy.text import TextBlock, embed_tokens, final_norm
from mirl_jax.rollout.program import Sample
from mirl_jax.rollout.sampler import draw, keep, restrict, sample_stage, start
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


def test_draws_follow_the_distribution():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=12) * 1.5
  logits[3] = -np.inf
  count = 40_000
  tokens = draw(
    jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (count, 12)),
    jax.random.uniform(jax.random.key(0), (count,)),
  )
  seen = np.bincount(np.asarray(tokens), minlength=12)
  probs = np.exp(logits) / np.exp(logits).sum()
  assert seen[3] == 0
  possible = probs > 0
  expected = count * probs[possible]
  # 99.9 % quantile of chi-square with 10 degrees of freedom is 29.6.
  assert ((seen[possible] - expected) ** 2 / expected).sum() < 29.6


@pytest.mark.parametrize("size", [5, 1000, 152_064])
def test_a_token_of_probability_zero_is_never_drawn(size):
  """Prefix sums of many floats may rise at a zero; aim right there."""
  rng = np.random.default_rng(0)
  possible = rng.random(size) < 0.2
  possible[[0, -1]] = False
  possible[size // 2] = True
  logits = np.where(possible, rng.normal(size=size) * 3, -1e30)
  logits = jnp.asarray(logits, jnp.float32)
  cumulative = np.asarray(jnp.cumsum(jnp.exp(logits - logits.max())))
  edges = cumulative[np.flatnonzero(np.diff(cumulative) != 0) + 1]
  aims = np.nextafter(edges, 0, dtype=np.float32) / cumulative[-1]
  aims = rng.permutation(aims)[:400]
  flat_spots = np.flatnonzero((np.diff(cumulative) > 0) & ~possible[1:])
  aims = np.concatenate([aims, cumulative[flat_spots[:100]] / cumulative[-1]])
  aims = np.concatenate([aims, [0.0, 1 - 2.0**-23]])
  aims = jnp.asarray(np.clip(aims, 0, 1 - 2.0**-23), jnp.float32)
  tokens = np.asarray(jax.lax.map(lambda u: draw(logits, u), aims))
  assert possible[tokens].all()


# Truncated sampling.


def brute_restrict(logits, top_p, top_k):
  """The surviving ids of one row."""
  order = sorted(range(len(logits)), key=lambda i: -logits[i])
  if top_k > 0:
    border = logits[order[min(top_k, len(order)) - 1]]
    order = [i for i in order if logits[i] >= border]
  weights = np.exp(logits[order] - logits[order[0]])
  probs = weights / weights.sum()
  total, size = 0.0, 0
  while size < len(order) and (size == 0 or total < top_p or top_p == 1):
    total += probs[size]
    size += 1
  border = logits[order[size - 1]]
  return {i for i in order if logits[i] >= border}


@pytest.mark.parametrize(
  ("top_p", "top_k"),
  [(p, k) for p in (0.01, 0.5, 0.9, 1.0) for k in (0, 1, 5, 99)],
)
def test_top_p_and_top_k_equal_brute_force(top_p, top_k):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(40, 16)).astype(np.float32) * 2
  logits[20:] = np.round(logits[20:])  # ties
  logits[:, 3] = -1e30  # banned
  got = np.asarray(restrict(jnp.asarray(logits), top_p, top_k))
  for row, out in zip(logits, got, strict=True):
    want = brute_restrict(row.astype(np.float64), top_p, top_k)
    # A banned token may stay, at probability zero.
    assert set(np.flatnonzero(out > -np.inf)) - {3} == want - {3}
    for i in want:
      assert out[i] == row[i]


def test_a_restricted_stage_stays_inside_and_reports_whole_logprobs():
  stage = dataclasses.replace(DESCRIBE, top_p=0.6, top_k=8)
  params = tiny.random_params(CONFIG, 2)
  prompts = tiny.random_prompts(CONFIG, 2)

  @jax.jit
  def run(keys):
    frontier = start(prefill(params, CONFIG, prompts))
    return sample_stage(
      params, CONFIG, stage, STOP, frontier, keys, has_children=True
    )[0]

  outside = 0
  for seed in range(3):
    level = run(question_keys(prompts, seed))
    (raw,) = flat_node_logits(params, CONFIG, prompts, nodes((level,)))
    logits = np.asarray(
      shape_logits(jnp.asarray(raw), 1.0, CONFIG.banned_tokens)
    )
    sampled = np.asarray(flat(level.sampled))
    tokens = np.asarray(flat(level.tokens))[sampled]
    for token, row in zip(tokens, logits[sampled], strict=True):
      # Float32 of the sampler may round a border either way.
      wider = brute_restrict(row.astype(np.float64), 0.6 + 1e-4, 8)
      assert token in wider
      outside += len(row) - len(wider)
    want = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))[sampled]
    got = np.asarray(flat(level.logprobs))[sampled]
    np.testing.assert_allclose(
      got, want[np.arange(len(tokens)), tokens], atol=1e-5
    )
  assert outside > 0


# The cache is written in place.


def loop_of(step_of, ready, cache):
  """Five decode steps in a loop, as the sampler's."""
  ancestors = tuple((s,) for s in ready.segments)
  tokens = jnp.zeros((3, 4), jnp.int32)

  def body(carry):
    step, _, cache = carry
    position = jnp.broadcast_to(ready.position, (3, 4)) + step
    hidden, cache = step_of(tokens, position, step, ancestors, cache)
    return step + 1, hidden, cache

  begin = (jnp.zeros((), jnp.int32), jnp.zeros((3, 4, 48)), cache)
  return jax.lax.while_loop(lambda c: c[0] < 5, body, begin)


def scanned_step(params, tokens, positions, step, ancestors, cache):
  """A decode step as it must not be: the cache goes through a layer scan."""
  text = CONFIG.text
  x = embed_tokens(params["text"], tokens, jnp.float32)
  three = jnp.broadcast_to(positions[:, None], (3, 3, 4))
  angles = text_angles(
    three, text.mrope_section, text.head_dim, text.rope_theta
  )
  keys, values = jnp.stack(cache.keys), jnp.stack(cache.values)
  above = jax.tree.map(lambda *x: jnp.stack(x), *[a[0] for a in ancestors])

  def layer(x, xs):
    block, k_cache, v_cache, above = xs
    made = []

    def read(q, k, v):
      at = (0, 0, 0, step, 0)
      new = [
        jax.lax.dynamic_update_slice(c, y[:, :, :, None], at)
        for c, y in ((k_cache, k), (v_cache, v))
      ]
      made.extend(new)
      written = jnp.broadcast_to(
        jnp.arange(new[0].shape[3]) <= step, (3, 4, new[0].shape[3])
      )
      own = type(above)(*new, written)
      return attend(q[:, :, None], (above, own))[:, :, 0]

    x = TextBlock(text).apply({"params": block}, x, angles, read)
    return x, tuple(made)

  x, (keys, values) = jax.lax.scan(
    layer, x, (params["text"]["blocks"], keys, values, above)
  )
  cache = type(cache)(tuple(keys), tuple(values))
  return final_norm(params["text"], text, x), cache


def positions_first_step(params, tokens, positions, step, ancestors, cache):
  """A decode step as it must not be: the cache's positions before its heads,
  which the matrix products of the CPU back end want the other way round."""
  text = CONFIG.text
  x = embed_tokens(params["text"], tokens, jnp.float32)
  three = jnp.broadcast_to(positions[:, None], (3, 3, 4))
  angles = text_angles(
    three, text.mrope_section, text.head_dim, text.rope_theta
  )
  keys, values = list(cache.keys), list(cache.values)
  for i in range(text.layers):

    def read(q, k, v, i=i):
      at = (0, 0, step, 0, 0)
      update = jax.lax.dynamic_update_slice
      keys[i] = update(keys[i], k[:, :, None], at)
      values[i] = update(values[i], v[:, :, None], at)
      size = keys[i].shape[2]
      written = jnp.broadcast_to(jnp.arange(size) <= step, (3, 4, size))
      own = segment(keys[i], values[i], written)
      return attend(q[:, :, None], (*ancestors[i], own))[:, :, 0]

    layer = jax.tree.map(lambda p, i=i: p[i], params["text"]["blocks"])
    x = TextBlock(text).apply({"params": layer}, x, angles, read)
  cache = type(cache)(tuple(keys), tuple(values))
  return final_norm(params["text"], text, x), cache


def writes_in_loops(hlo):
  """Elements that each instruction inside of a while body writes.

  An update in place counts as what it updates, a fusion as its root.
  """
  computations, name = {}, None
  for line in hlo.splitlines():
    head = re.match(r"(?:ENTRY )?%(\S+) \(.*\{$", line)
    if head:
      name = head[1]
      computations[name] = []
    found = re.match(
      r"\s+(ROOT )?%(\S+) = (\([^=]*\)|\S+) ([\w-]+)\((.*)", line
    )
    if found and name is not None:
      computations[name].append(found.groups())

  def size(shape):
    dims = re.match(r"\w+\[([\d,]*)\]", shape)
    return int(np.prod([int(d) for d in dims[1].split(",") if d] or [1]))

  def written(name, opcode, shape, rest):
    shapes = {n: s for _, n, s, _, _ in computations[name]}
    if opcode == "dynamic-update-slice":
      operands = re.findall(r"%([\w.-]+)", rest.split(")")[0])
      return size(shapes[operands[1]])
    if opcode == "fusion":
      inner = re.search(r"calls=%([\w.-]+)", rest)[1]
      root = next(x for x in computations[inner] if x[0])
      while root[3] == "bitcast":
        operand = re.findall(r"%([\w.-]+)", root[4])[0]
        root = next(x for x in computations[inner] if x[1] == operand)
      return written(inner, root[3], root[2], root[4])
    return 0 if shape.startswith("(") else size(shape)

  free = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}
  todo = re.findall(r"body=%([\w.-]+)", hlo)
  writes, seen = [], set()
  while todo:
    name = todo.pop()
    if name in seen:
      continue
    seen.add(name)
    for _, _, shape, opcode, rest in computations[name]:
      if opcode in ("call", "while", "conditional"):
        todo += re.findall(r"(?:to_apply|body)=%([\w.-]+)", rest)
      elif opcode not in free:
        writes.append(written(name, opcode, shape, rest))
  return writes


def largest_write(step_of, size, positions_first=False):
  """The largest write of a decode step, over the elements of one layer's keys
  of one cached position of all nodes."""
  params = tiny.random_params(CONFIG)
  prompts = tiny.random_prompts(CONFIG)
  ready = jax.jit(prefill, static_argnums=1)(params, CONFIG, prompts)
  cache = empty_cache(CONFIG, 3, 4, size)
  if positions_first:
    cache = jax.tree.map(lambda x: jnp.swapaxes(x, 2, 3), cache)
  function = jax.jit(
    lambda params, ready, cache: loop_of(
      functools.partial(step_of, params), ready, cache
    ),
    donate_argnums=2,
  )
  hlo = function.lower(params, ready, cache).compile().as_text()
  text = CONFIG.text
  one_position = 3 * 4 * text.kv_heads * text.head_dim
  return max(writes_in_loops(hlo)) / one_position


def in_place_step(params, *args):
  return decode_step(params, CONFIG, *args)


def test_a_decode_step_writes_no_cache_but_the_new_position():
  """Attention weights (one number per head and key) are all that may grow."""
  share = CONFIG.text.heads / (CONFIG.text.kv_heads * CONFIG.text.head_dim)
  assert largest_write(in_place_step, 1024) <= 1024 * share


@pytest.mark.parametrize("kind", ["scanned", "positions first"])
def test_that_test_sees_a_cache_that_is_rewritten(kind):
  bad = scanned_step if kind == "scanned" else positions_first_step
  assert largest_write(bad, 1024, kind == "positions first") >= 1024
