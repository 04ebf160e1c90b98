"""What is made of a pool of answers, against loops question by question."""

import dataclasses
import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.testtime import report
from benchmarks.testtime import strategies as st
from benchmarks.testtime.pool import (
  NONE,
  Pool,
  numbered,
  pool_program,
  sample_pool,
)
from mirl_jax import batching, build, statistics
from mirl_jax.config import get_config
from mirl_jax.evaluate import Strategy, draw
from mirl_jax.information.estimators import MI
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.selection import rank

ROOT = Path(__file__).parents[2]
SEEDS = range(5)
SHAPES = [(1, 1, 1), (4, 1, 1), (4, 4, 1), (5, 2, 3), (5, 3, 2), (6, 6, 3)]


def random_pool(seed, questions=7, descriptions=6, forks=3):
  """A pool with ties, silence and truncation; verdicts go by the answer."""
  rng = np.random.default_rng(seed)
  flat = questions, descriptions
  answers = rng.integers(NONE, 4, (*flat, forks))
  finished = rng.random(flat) < 0.8
  # As in a world: what has no end is not exact.
  exact = ((rng.random(flat) < 0.5) & finished).astype(np.float32)
  # Few values, so that scores tie.
  scores = {name: rng.integers(0, 4, flat) / 2 for name in st.KEEPS}
  scores["oracle"] = exact
  scores["random"] = np.zeros(flat)
  return Pool(
    answers=answers,
    correct=(answers == 1).astype(np.float32),
    ended=finished[..., None] & (rng.random(answers.shape) < 0.9),
    likelihood=rng.integers(-3, 0, answers.shape).astype(float),
    reasoned=rng.integers(1, 50, answers.shape),
    described=rng.integers(1, 20, flat),
    finished=finished,
    exact=exact,
    scores=scores,
  )


def best_first(scores, finished):
  """Indices by end, then score, then place."""
  return sorted(
    range(len(scores)), key=lambda i: (not finished[i], -scores[i], i)
  )


def told_vote(answers, correct):
  votes = Counter(a for a in answers if a != NONE)
  winners = [a for a in votes if votes[a] == max(votes.values())]
  credit = [
    np.mean([c for a, c in zip(answers, correct, strict=True) if a == winner])
    for winner in winners
  ]
  return np.mean(credit) if credit else 0.0


def told_screen(pool, q, shape, by):
  """Accuracy, tokens and exactness of one question, step by step."""
  n, k, forks = shape
  kept = best_first(pool.scores[by][q, :n], pool.finished[q, :n])[:k]
  answers, correct, tokens = [], [], sum(pool.described[q, :n])
  for i in kept:
    for f in range(forks):
      answers.append(pool.answers[q, i, f])
      correct.append(pool.correct[q, i, f])
      tokens += pool.reasoned[q, i, f]
  return told_vote(answers, correct), tokens, pool.exact[q, kept].mean()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_a_vote_is_that_of_the_statistics(seed, n):
  rng = np.random.default_rng(seed)
  answers = rng.integers(NONE, 3, (50, n))
  # Not by the answer: the credit of an answer is a mean over its samples.
  correct = rng.random((50, n))
  found = st.vote(answers, correct)
  texts = [[None if a == NONE else f"{a}" for a in row] for row in answers]
  want = [
    statistics.majority_at_k(texts[q : q + 1], correct[q : q + 1], n).mean
    for q in range(50)
  ]
  np.testing.assert_allclose(found, want)
  np.testing.assert_allclose(
    found, [told_vote(*rows) for rows in zip(answers, correct, strict=True)]
  )


def test_silence_has_no_vote():
  answers = np.array([[NONE, NONE, 2], [NONE, NONE, NONE], [0, 0, 1]])
  correct = np.array([[0, 0, 1], [1, 1, 1], [0, 0, 1]])
  assert st.vote(answers, correct).tolist() == [1, 0, 0]


@pytest.mark.parametrize("seed", SEEDS)
def test_ranks_are_those_of_the_device(seed):
  rng = np.random.default_rng(seed)
  values = [np.nan, -np.inf, -1.0, 0.0, 1.0]
  scores = rng.choice(values, (40, 9)).astype(np.float32)
  finished = rng.random((40, 9)) < 0.7
  np.testing.assert_array_equal(
    st.ranked(scores, finished),
    rank(jnp.asarray(scores), jnp.asarray(finished)),
  )


def test_ties_go_by_place_and_what_is_truncated_is_last():
  scores = np.array([[1.0, 9.0, 2.0, 2.0, np.nan]])
  finished = np.array([[True, False, True, True, True]])
  assert st.ranked(scores, finished).tolist() == [[2, 3, 0, 4, 1]]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("by", st.KEEPS)
def test_screening_step_by_step(seed, shape, by):
  pool = random_pool(seed)
  found = st.screen(pool, shape, by)
  for q in range(len(pool.exact)):
    want = told_screen(pool, q, shape, by)
    got = found.accuracy[q], found.tokens[q], found.exact[q]
    assert got == pytest.approx(want)
  described = pool.described[:, : shape[0]].sum(1)
  read = by in st.MI_NAMES
  np.testing.assert_array_equal(found.scored, described if read else 0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [1, 3, 6])
def test_to_keep_all_is_the_majority(seed, n):
  pool = random_pool(seed)
  votes = st.majority(pool, n)
  for by in st.KEEPS:
    all_kept = st.screen(pool, (n, n, 1), by)
    for field in ("accuracy", "tokens", "exact"):
      np.testing.assert_allclose(
        getattr(all_kept, field), getattr(votes, field), rtol=1e-6
      )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(4, 1, 1), (5, 2, 3), (6, 4, 1)])
def test_nothing_keeps_more_exact_ones_than_the_oracle(seed, shape):
  pool = random_pool(seed, questions=50)
  oracle = st.screen(pool, shape, "oracle").exact
  for by in st.KEEPS:
    assert (oracle >= st.screen(pool, shape, by).exact).all()
  assert oracle.mean() > st.screen(pool, shape, "random").exact.mean()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [1, 2, 6])
def test_the_best_step_by_step(seed, n):
  pool = random_pool(seed)
  for by in st.BESTS:
    found = st.best(pool, n, by)
    for q in range(len(pool.exact)):
      whole = by == "likelihood"
      scores = pool.likelihood[q, :n, 0] if whole else pool.scores[by][q, :n]
      ended = pool.ended[q, :n, 0] if whole else pool.finished[q, :n]
      top = best_first(scores, ended)[0]
      assert found.accuracy[q] == pool.correct[q, top, 0]
      assert found.exact[q] == pool.exact[q, top]
      tokens = sum(
        pool.described[q, i] + pool.reasoned[q, i, 0] for i in range(n)
      )
      assert found.tokens[q] == tokens
    if by != "likelihood":
      alone = st.screen(pool, (n, 1, 1), by)
      np.testing.assert_array_equal(found.accuracy, alone.accuracy)
      np.testing.assert_array_equal(found.scored, alone.scored)
      assert (found.tokens >= alone.tokens).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_shuffle_moves_descriptions_with_all_that_is_theirs(seed):
  pool = random_pool(seed)
  moved = st.shuffled(pool, np.random.default_rng(seed))

  forks = ("answers", "correct", "ended", "likelihood", "reasoned")

  def records(pool, q):
    """Descriptions as a sorted list, each with its reasonings sorted."""
    return sorted(
      (
        *(x[q, d] for x in (pool.described, pool.finished, pool.exact)),
        *(pool.scores[name][q, d] for name in sorted(pool.scores)),
        *sorted(
          tuple(getattr(pool, name)[q, d, f] for name in forks)
          for f in range(pool.correct.shape[2])
        ),
      )
      for d in range(pool.exact.shape[1])
    )

  for q in range(len(pool.exact)):
    assert records(moved, q) == records(pool, q)
  assert (moved.described != pool.described).any()


def test_shuffles_average_to_the_expectation():
  pool = random_pool(3, questions=4, descriptions=3, forks=2)
  shapes = [(2, 1, 1), (3, 2, 1), (2, 2, 2)]
  # Questions are shuffled each for itself: copies stand for shuffles.
  copies, shuffles = 1500, 2
  many = jax.tree.map(lambda x: np.repeat(x, copies, axis=0), pool)
  found = st.mean_outcomes(many, 3, shapes, shuffles, 0)
  # Every order of the descriptions with every order of their reasonings.
  every: dict = {}
  for order in itertools.permutations(range(3)):
    for forks in itertools.product([[0, 1], [1, 0]], repeat=3):
      index = np.ix_(range(4), order)
      swap = np.array(forks)[None, :, :]
      fields = {}
      for field in dataclasses.fields(Pool):
        value = getattr(pool, field.name)
        if isinstance(value, dict):
          fields[field.name] = {k: x[index] for k, x in value.items()}
        else:
          value = value[index]
          if value.ndim == 3:
            value = np.take_along_axis(value, swap, 2)
          fields[field.name] = value
      for name, outcome in st.outcomes(Pool(**fields), 3, shapes):
        every.setdefault(name, []).append(outcome)
  assert set(every) == set(found)
  for name, wanted in every.items():
    for field in ("accuracy", "tokens", "scored", "exact"):
      values = np.stack([getattr(o, field) for o in wanted]).astype(float)
      error = values.std(0) / np.sqrt(copies * shuffles)
      mean = getattr(found[name], field).reshape(4, copies).mean(1)
      gap = np.abs(mean - values.mean(0))
      assert (gap <= 5 * error + 1e-9).all(), (name, field)


def outcome(accuracy, tokens):
  accuracy = np.asarray(accuracy, float)
  tokens = np.full(len(accuracy), float(tokens))
  return st.Outcome(accuracy, tokens, 0 * tokens, 0 * accuracy)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_line_is_met_between_its_points(seed):
  rng = np.random.default_rng(seed)
  level, slope = rng.normal(size=(2, 9))
  costs = np.cumsum(rng.uniform(5, 80, 6))
  points = [outcome(level + slope * np.log(c), c) for c in costs]
  for tokens in (*rng.uniform(costs[0], costs[-1], 20), *costs):
    np.testing.assert_allclose(
      st.at_tokens(tokens, points), level + slope * np.log(tokens)
    )
  assert st.at_tokens(0.99 * costs[0], points) is None
  assert st.at_tokens(1.01 * costs[-1], points) is None


def test_only_the_two_neighbours_count():
  points = [outcome([0.5], 10), outcome([0.6], 20), outcome([0.0], 40)]
  assert st.at_tokens(10 * 2**0.5, points) == pytest.approx(0.55)
  assert st.at_tokens(20 * 2**0.5, points) == pytest.approx(0.3)


def test_curves_go_by_count():
  pool = random_pool(0, descriptions=12)
  found = st.mean_outcomes(pool, 12, [], 1, 0)
  tokens = [x.tokens.mean() for x in st.curve(found, "majority", "")]
  assert len(tokens) == 12
  assert tokens == sorted(tokens)


def test_the_report_pairs_questions():
  pool = random_pool(1, questions=30)
  found = st.mean_outcomes(pool, 6, [(4, 4, 1), (4, 1, 1)], 3, 0)
  table = report.strategies_report(pool, found, [(4, 4, 1), (4, 1, 1)], 5.0)
  # To keep all costs as much as the majority, and is it.
  for row in table["screen"]["4/4x1"].values():
    assert row["over_majority"] == {"mean": 0, "se": 0}
    assert row["tokens"] == table["majority"]["4"]["tokens"]
  for by, row in table["screen"]["4/1x1"].items():
    own = found["screen", by, (4, 1, 1)]
    other = st.at_tokens(own.tokens.mean(), st.curve(found, "majority", ""))
    gap = own.accuracy - other
    error = gap.std(ddof=1) / np.sqrt(30)
    assert row["over_majority"]["mean"] == pytest.approx(gap.mean(), abs=1e-4)
    assert row["over_majority"]["se"] == pytest.approx(error, abs=1e-4)
    paid = own.scored.mean() + 5.0 if own.scored.any() else 0.0
    dearer = st.at_tokens(
      own.tokens.mean() + paid, st.curve(found, "majority", "")
    )
    assert row["over_majority_scored"]["mean"] == pytest.approx(
      (own.accuracy - dearer).mean(), abs=1e-4
    )
  assert table["screen"]["4/1x1"]["random"]["over_random"]["mean"] == 0
  assert table["sample"]["accuracy"]["mean"] == pytest.approx(
    pool.correct.mean(), abs=1e-4
  )


def test_equal_answers_of_a_question_have_equal_numbers():
  found = numbered([["a", None, "b", "a"], [None, None, "b", "c"]])
  assert found.tolist() == [[0, NONE, 1, 0], [NONE, NONE, 0, 1]]


@pytest.mark.slow
def test_a_pool_holds_what_the_device_scored():
  config = get_config("mirl")
  config.data.buckets = 1
  policy = build.make_policy(config)
  roles = {"policy": build.load_policy_params(config, policy)}
  mi = MI(view="blank", prior_weight=0.4)
  batcher = batching.make_batcher(config, policy, mi)
  source = build.make_source(config, "test", policy)
  examples = list(build.first_examples(source, 5))
  program = pool_program(build.make_program(config, True), 4, 2)
  # The last batch is filled up; no draw depends on its batch.
  pool = sample_pool(policy, roles, batcher, program, examples, 3, 11)
  stops = build.make_stops(program, policy.processor)
  rollout = Rollout(
    policy.config, program, stops, policy.mesh, mi, policy.dtype
  )
  key = build.place_key(11, policy)
  tree, read = draw(
    Strategy("all", rollout, True), roles, batcher, examples, key
  )
  first, last = tree.levels
  for name, device in (("mi, lambda=0.4", "mi"), ("likelihood",) * 2):
    np.testing.assert_allclose(
      pool.scores[name], first.scores[device].reshape(5, 4), atol=1e-4
    )
  np.testing.assert_array_equal(pool.finished, first.finished.reshape(5, 4))
  np.testing.assert_array_equal(pool.correct, read[1].rewards["correct"])
  np.testing.assert_array_equal(
    pool.exact, read[0].rewards["exact"].reshape(5, 4)
  )
  generated = first.sampled.sum() + last.sampled.sum()
  assert pool.described.sum() + pool.reasoned.sum() == generated
  for q, d, f in np.ndindex(5, 4, 2):
    whole = [*first.logprobs[q, 0, d][first.sampled[q, 0, d]]]
    whole += [*last.logprobs[q, d, f][last.sampled[q, d, f]]]
    assert pool.likelihood[q, d, f] == pytest.approx(np.mean(whole), abs=1e-4)
    answer = read[1].parsed[q][2 * d + f].answer
    assert (pool.answers[q, d, f] == NONE) == (answer is None)


@pytest.mark.slow
def test_the_command_prints_one_object(tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, "-m", "benchmarks.testtime", "--questions=6"),
      *("--descriptions=4", "--reasonings=2", "--shuffles=3"),
      *(f"--out={tmp_path}/out.json", f"--figure={tmp_path}/out.png"),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads(done.stdout)
  assert found == json.loads((tmp_path / "out.json").read_text())
  assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
  assert set(found["screen"]) == {"4/1x1"}
  assert set(found["screen"]["4/1x1"]) == set(st.KEEPS)
  assert list(found["majority"]) == ["1", "2", "3", "4"]
  for row in found["screen"]["4/1x1"].values():
    one, four = (found["majority"][n]["tokens"] for n in "14")
    assert one < row["tokens"] < four
