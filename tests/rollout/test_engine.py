"""Whole programs on the device against independent sequences."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.information.estimators import MI, score_nodes
from mirl_jax.parallel.mesh import make_mesh
from mirl_jax.policy.logprobs import shape_logits
from mirl_jax.rollout.engine import Rollout, cut
from mirl_jax.rollout.program import Keep, Sample
from mirl_jax.rollout.shared import shared
from mirl_jax.rollout.tree import flat, nodes
from mirl_jax.testing_flat import flat_node_logits

CONFIG = tiny.tiny_config()
STOPS = {
  "describe": tiny.tiny_stop("</d>"),
  "check": tiny.tiny_stop("</d>"),
  "answer": tiny.tiny_stop("</a>"),
}
DESCRIBE = Sample("describe", 4, 6, "</d>")
CHECK = Sample("check", 3, 4, "</d>", temperature=0.7)
ANSWER = Sample("answer", 2, 5, "</a>")
THREE = (DESCRIBE, Keep(2, "mi"), CHECK, Keep(2, "random"), ANSWER)
MI_BY_REFERENCE = MI(stage="describe", scorer="reference", prior_weight=0.4)


def rollout(program, mi=None, config=CONFIG):
  mesh = make_mesh("data:1", jax.devices()[:1])
  return Rollout(config, program, STOPS, mesh, mi)


def views_of(seed):
  """Text-only views of the questions, [1, B, …]."""
  removed = tiny.random_prompts(CONFIG, seed + 100, ((), (), ()))
  return jax.tree.map(lambda x: x[None], removed)


def make_roles():
  return {
    "policy": tiny.random_params(CONFIG, 0),
    "reference": tiny.random_params(CONFIG, 1),
  }


@pytest.fixture(scope="module")
def roles():
  return make_roles()


@pytest.fixture(scope="module")
def three(roles):
  """The three-stage program, and its trees for a few questions and keys."""
  engine = rollout(THREE, MI_BY_REFERENCE)
  trees = [
    engine(
      roles,
      tiny.random_prompts(CONFIG, seed),
      views_of(seed),
      jax.random.key(seed),
    )
    for seed in range(4)
  ]
  return engine, trees


@pytest.fixture(scope="module")
def cut_in_two():
  return rollout((DESCRIBE, Keep(2, "oracle"), ANSWER))


def brute_order(scores, finished):
  return sorted(
    range(len(scores)), key=lambda i: (not finished[i], -scores[i], i)
  )


def assert_flat(params, tree, temperatures):
  """Every sampled and forced token's log-prob is a full sequence's."""
  raw = flat_node_logits(params, CONFIG, tree.prompts, nodes(tree.levels))
  for level, logits, t in zip(tree.levels, raw, temperatures, strict=True):
    shaped = shape_logits(jnp.asarray(logits), t, CONFIG.banned_tokens)
    want = np.asarray(jax.nn.log_softmax(shaped))
    tokens = np.asarray(flat(level.tokens))
    want = np.take_along_axis(want, tokens[..., None], axis=-1)[..., 0]
    mask = np.asarray(flat(level.mask))
    np.testing.assert_allclose(
      np.asarray(flat(level.logprobs))[mask], want[mask], atol=1e-5
    )


def test_three_levels_read_the_right_ancestors(three, roles):
  for tree in three[1]:
    shapes = [level.finished.shape for level in tree.levels]
    assert shapes == [(3, 1, 4), (3, 2, 3), (3, 2, 2)]
    assert_flat(roles["policy"], tree, (1.0, 0.7, 1.0))


def test_scanned_layers_sample_the_same_trees(three, roles):
  """With rows that are gathered into a smaller loop, too."""
  config = dataclasses.replace(CONFIG, scan_decode=True)
  program = tuple(
    dataclasses.replace(stage, halvings=1)
    if isinstance(stage, Sample)
    else stage
    for stage in THREE
  )
  engine = rollout(program, MI_BY_REFERENCE, config)
  for seed, want in enumerate(three[1]):
    got = engine(
      roles,
      tiny.random_prompts(CONFIG, seed),
      views_of(seed),
      jax.random.key(seed),
    )
    for one, other in zip(got.levels, want.levels, strict=True):
      np.testing.assert_array_equal(one.tokens, other.tokens)
      np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)


def test_kernels_can_be_lowered_where_nothing_is_cut(roles):
  """Splash is refused while the compiler has an axis of the mesh for itself."""
  config = dataclasses.replace(CONFIG, attention="splash")
  engine = rollout((Sample("answer", 2, 5, "</a>"),), None, config)
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
    (roles, tiny.random_prompts(CONFIG, 0), None, jax.random.key(0)),
  )
  roles, *rest = abstract
  traced = engine.parts[0].trace(shared(roles), *rest, None, None)
  text = traced.lower(lowering_platforms=("tpu",)).as_text()
  assert "tpu_custom_call" in text


def test_keep_marks_the_parents_of_the_next_level(three):
  for tree in three[1]:
    for level, below in zip(tree.levels, tree.levels[1:], strict=False):
      kept = np.asarray(flat(level.kept))
      for q in range(3):
        parents = np.asarray(below.parent)[q]
        assert sorted(np.flatnonzero(kept[q])) == sorted(parents)
    assert np.asarray(tree.levels[-1].kept).all()


def test_keep_by_mi_takes_the_best_finished_nodes(three):
  seen = set()
  for tree in three[1]:
    level = tree.levels[0]
    scores = np.asarray(flat(level.scores["mi"]))
    finished = np.asarray(flat(level.finished))
    for q in range(3):
      order = brute_order(scores[q], finished[q])
      assert np.asarray(tree.levels[1].parent)[q].tolist() == order[:2]
      seen.add(tuple(order[:2]))
  assert len(seen) > 2


def test_scores_are_the_named_scorers(three, roles):
  def score(params, tree, views):
    first = tree.levels[:1]
    found = score_nodes(
      params,
      CONFIG,
      MI_BY_REFERENCE,
      tree.prompts,
      views,
      nodes(first),
      flat(first[0].sampled),
      None,
    )
    return found["mi"]

  score = jax.jit(score)
  for seed, tree in enumerate(three[1][:2]):
    got = flat(tree.levels[0].scores["mi"])
    want, other = (
      score(roles[role], tree, views_of(seed))
      for role in ("reference", "policy")
    )
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert not np.allclose(got, other, atol=1e-2)


def test_one_trace_serves_every_batch_of_a_shape(three, roles):
  engine, _ = three
  assert engine.compiles == 1
  again = engine(
    roles,
    tiny.random_prompts(CONFIG, 9),
    views_of(9),
    jax.random.key(9),
  )
  assert engine.compiles == 1
  assert again.levels[0].tokens.shape == (3, 1, 4, 8)


def test_the_device_program_never_asks_the_host(three, roles):
  engine, _ = three
  (part,) = engine.parts
  args = (shared(roles), tiny.random_prompts(CONFIG, 9), views_of(9))
  text = part.lower(*args, jax.random.key(9), None, None).as_text()
  assert "while" in text  # the decode loops are in it
  for word in ("callback", "infeed", "outfeed", "send", "recv"):
    assert not re.search(rf"\b[\w.]*{word}\w*\(", text), word


def test_the_same_key_gives_the_same_tree(three, roles):
  engine, trees = three
  args = (roles, tiny.random_prompts(CONFIG, 0), views_of(0))
  again = engine(*args, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, again, trees[0])
  other = engine(*args, jax.random.key(1))
  assert (other.levels[0].tokens != trees[0].levels[0].tokens).any()


def test_a_question_keeps_its_tree_in_another_place(three, roles):
  engine, trees = three
  order = np.array([2, 0, 0])
  prompts = tiny.random_prompts(CONFIG, 0)
  moved = jax.tree.map(lambda x: x[order], prompts)
  views = jax.tree.map(lambda x: x[:, order], views_of(0))
  tree = engine(roles, moved, views, jax.random.key(0))
  for got, want in zip(tree.levels, trees[0].levels, strict=True):
    np.testing.assert_array_equal(got.tokens, want.tokens[order])
    np.testing.assert_array_equal(got.parent, want.parent[order])


# A Keep that the host decides.


def test_cut_splits_before_host_rules_only():
  program = (DESCRIBE, Keep(2, "oracle"), CHECK, Keep(1, "mi"), ANSWER)
  parts = cut(program)
  assert [[number for number, _ in part] for part in parts] == [
    [0],
    [1, 2, 3, 4],
  ]
  assert len(cut(THREE)) == 1


def test_the_hosts_score_decides(cut_in_two, roles):
  seen = []

  def by_host(levels):
    (level,) = levels
    finished = np.asarray(flat(level.finished))
    scores = np.random.default_rng(len(seen)).normal(size=finished.shape)
    scores[0, 1] = np.nan
    seen.append((levels, scores, finished))
    return scores

  for seed in range(3):
    tree = cut_in_two(
      roles,
      tiny.random_prompts(CONFIG, seed),
      None,
      jax.random.key(seed),
      by_host,
    )
    levels, scores, finished = seen[-1]
    # What the host saw is what the tree holds.
    np.testing.assert_array_equal(levels[0].tokens, tree.levels[0].tokens)
    for q in range(3):
      clean = np.where(np.isnan(scores[q]), -np.inf, scores[q])
      want = brute_order(clean, finished[q])[:2]
      assert np.asarray(tree.levels[1].parent)[q].tolist() == want
      kept = np.asarray(flat(tree.levels[0].kept))[q]
      assert sorted(want) == np.flatnonzero(kept).tolist()
    assert_flat(roles["policy"], tree, (1.0, 1.0))
  assert len(seen) == 3
  assert cut_in_two.compiles == 2  # two device programs, each traced once


def test_the_cut_changes_no_draw(cut_in_two, three, roles):
  """The first stage is that of any program with the same key."""
  tree = cut_in_two(
    roles,
    tiny.random_prompts(CONFIG, 0),
    None,
    jax.random.key(0),
    lambda levels: np.zeros((3, 4)),
  )
  got, want = tree.levels[0], three[1][0].levels[0]
  np.testing.assert_array_equal(got.tokens, want.tokens)
  np.testing.assert_array_equal(got.finished, want.finished)


def test_a_host_rule_without_a_host_score_is_refused(cut_in_two, roles):
  with pytest.raises(ValueError, match="keeps by a score of the host's"):
    cut_in_two(roles, tiny.random_prompts(CONFIG, 0), None, jax.random.key(0))


def test_a_later_stage_is_scored_by_the_policy_that_sampled_it(roles):
  """Keep by likelihood above, MI of the leaves below their parents."""
  mi = MI(stage="answer", prior_weight=0.7, reduction="sum")
  engine = rollout((DESCRIBE, Keep(2, "likelihood"), ANSWER), mi)
  prompts, views = tiny.random_prompts(CONFIG, 5), views_of(5)
  tree = engine(roles, prompts, views, jax.random.key(5))
  first, second = tree.levels
  assert set(first.scores) == {"likelihood"}
  likelihood = np.asarray(flat(first.scores["likelihood"]))
  finished = np.asarray(flat(first.finished))
  for q in range(3):
    want = brute_order(likelihood[q], finished[q])[:2]
    assert np.asarray(second.parent)[q].tolist() == want
  # The sampler's own log-probs served as the first term; computed anew here.
  want = jax.jit(
    lambda params, levels, mask: score_nodes(
      params, CONFIG, mi, prompts, views, levels, mask, None
    )
  )(roles["policy"], nodes(tree.levels), flat(second.sampled))
  for name, x in want.items():
    np.testing.assert_allclose(flat(second.scores[name]), x, atol=3e-5)


def test_keep_by_a_score_that_nobody_computes_is_refused(roles):
  engine = rollout((DESCRIBE, Keep(2, "mi"), ANSWER))
  with pytest.raises(ValueError, match="needs the score 'mi'"):
    engine(roles, tiny.random_prompts(CONFIG, 0), None, jax.random.key(0))
