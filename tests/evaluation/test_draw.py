"""Draws go to the file once, whatever interrupts them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import build
from mirl_jax import evaluate as ev
from mirl_jax.evaluation import draw as dr
from mirl_jax.evaluation import figures as fig
from mirl_jax.evaluation.items import read_items
from mirl_jax.evaluation.presets import PLAIN
from mirl_jax.evaluation.sets import QuestionSet
from mirl_jax.rollout.tree import Level

ANSWERS = [["0", "0"], ["1", "9"], ["8", "9"], ["3", None], ["4", "4"]]
PRINT = {"weights": "ab"}


@pytest.fixture
def drawn(batcher, scripted):
  """Draws into a file; returns what stood in it and what the strategy drew."""

  def run(path, answers=ANSWERS, batch=2, made=PRINT, examples=None, said=None):
    strategy, own = scripted(answers)
    questions = QuestionSet("set", "p", PLAIN, tuple(examples or own), 0)
    there = dr.draw_missing(
      questions,
      strategy,
      path,
      made,
      {},
      batcher,
      batch,
      build.place_key(0, batcher.policy),
      (said if said is not None else []).append,
    )
    return there, strategy.rollout.batches

  return run


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_every_question_is_an_item(drawn, tmp_path, batch):
  path = tmp_path / "sampled.jsonl"
  assert drawn(path, batch=batch)[0] == 0
  _, items = read_items(path)
  assert list(items) == ["q0", "q1", "q2", "q3", "q4"]
  assert [[s.correct for s in x.samples] for x in items.values()] == [
    [1, 1],
    [1, 0],
    [0, 0],
    [1, 0],
    [1, 1],
  ]
  last = items["q3"].samples
  assert (last[0].answer, last[0].vote, last[0].reason) == (
    "3",
    "3",
    "equal numbers",
  )
  assert (last[1].answer, last[1].vote, last[1].tags) == (None, None, False)
  assert items["q3"].tokens == last[0].tokens + last[1].tokens
  assert items["q3"].group == "pair 1"


def test_figures_of_the_file_are_those_of_the_loop(
  drawn, batcher, scripted, tmp_path
):
  path = tmp_path / "sampled.jsonl"
  drawn(path)
  items = list(read_items(path)[1].values())
  strategy, examples = scripted(ANSWERS)
  key = build.place_key(0, batcher.policy)
  loop = ev.evaluate([strategy], {}, batcher, examples, 2, key)
  found = fig.flat("eval/sampled", fig.figures("sampled", items))
  assert {name: found[name] for name in loop} == pytest.approx(loop)


@pytest.mark.parametrize("lines", range(1, 7))
def test_what_stands_in_the_file_is_not_drawn_again(drawn, tmp_path, lines):
  """`lines` of the file are left, the first of them the fingerprint."""
  path = tmp_path / "sampled.jsonl"
  drawn(path)
  whole = path.read_bytes()
  path.write_bytes(b"".join(whole.splitlines(keepends=True)[:lines]))
  there, batches = drawn(path)
  assert there == lines - 1
  assert path.read_bytes() == whole
  # Batches are cut as before: what they hold does not depend on the file.
  every = [[0, 1], [2, 3], [4, 4]]
  assert batches == every[(lines - 1) // 2 : 3 * (lines < 6)]


def test_a_larger_limit_adds_to_the_file(drawn, scripted, tmp_path):
  path = tmp_path / "sampled.jsonl"
  _, examples = scripted(ANSWERS)
  drawn(path, examples=examples[:2])
  before = path.read_bytes()
  assert drawn(path)[0] == 2
  assert path.read_bytes().startswith(before)
  assert len(read_items(path)[1]) == 5


def test_another_policy_draws_anew_and_says_so(drawn, tmp_path):
  path, said = tmp_path / "sampled.jsonl", []
  drawn(path)
  old = path.read_bytes()
  there, batches = drawn(path, made={"weights": "cd"}, said=said)
  assert there == 0
  assert len(batches) == 3
  assert said[0] == (
    "drawn anew, the old file is sampled.jsonl.old: weights: 'ab' -> 'cd'"
  )
  assert path.with_name("sampled.jsonl.old").read_bytes() == old


def test_a_question_that_changed_is_drawn_anew(drawn, scripted, tmp_path):
  path = tmp_path / "sampled.jsonl"
  drawn(path)
  _, examples = scripted(ANSWERS)
  examples[3] = dataclasses.replace(examples[3], answer="9")
  there, batches = drawn(path, examples=examples)
  assert there == 4
  assert batches == [[2, 3]]
  _, items = read_items(path)
  assert [s.correct for s in items["q3"].samples] == [0, 0]
  assert len(items) == 5


def test_tokens_of_a_path_are_its_ancestors_too():
  rng = np.random.default_rng(0)

  def level(k, fanout, parent):
    sampled = rng.random((2, k, fanout, 6)) < 0.5
    empty = np.zeros(sampled.shape)
    return Level(
      tokens=empty,
      mask=sampled,
      sampled=sampled,
      logprobs=empty,
      parent=np.array(parent),
      finished=empty[..., 0],
      kept=empty[..., 0],
      scores={},
    )

  top = level(1, 4, [[0], [0]])
  leaf = level(2, 3, [[3, 1], [0, 2]])
  found = dr._path_tokens((top, leaf))
  for b, r in np.ndindex(2, 6):
    k, f = divmod(r, 3)
    above = top.sampled[b, 0, leaf.parent[b, k]].sum()
    assert found[b, r] == above + leaf.sampled[b, k, f].sum()


def test_a_digest_of_weights_sees_every_bit(batcher):
  mesh = batcher.policy.mesh
  rng = np.random.default_rng(0)
  weights = {
    "a": rng.normal(size=(5, 3)).astype(np.float32),
    "b": {"c": rng.normal(size=(2, 3, 4)).astype(jnp.bfloat16)},
    "d": np.float32(2.0),
  }
  place = lambda x: jax.tree.map(jnp.asarray, x)  # noqa: E731
  first = dr.weights_digest(place(weights), mesh)
  assert dr.weights_digest(place(weights), mesh) == first
  seen = {first}
  for path in ("a", "b", "d"):
    for _ in range(8):
      other = jax.tree.map(np.copy, weights)
      leaf = other["b"]["c"] if path == "b" else np.atleast_1d(other[path])
      flat = leaf.reshape(-1).view(f"u{leaf.dtype.itemsize}")
      bit = rng.integers(leaf.dtype.itemsize * 8)
      flat[rng.integers(flat.size)] ^= flat.dtype.type(1 << int(bit))
      if path == "d":
        other["d"] = leaf.reshape(())
      seen.add(dr.weights_digest(place(other), mesh))
  # Two draws of 24 may have hit the same bit.
  assert len(seen) > 20
  swapped = {**weights, "a": weights["a"][[1, 0, 2, 3, 4]]}
  assert dr.weights_digest(place(swapped), mesh) not in seen
  renamed = {"z": weights["a"], "b": weights["b"], "d": weights["d"]}
  assert dr.weights_digest(place(renamed), mesh) not in seen
