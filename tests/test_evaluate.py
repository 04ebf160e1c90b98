import numpy as np
import pytest

from mirl_jax import batching, build
from mirl_jax import evaluate as ev
from mirl_jax import testing_runs as runs
from mirl_jax.data.example import Example
from mirl_jax.rollout.program import Keep, Sample, samples
from mirl_jax.testing_scripted import Scripted, response

PROGRAM = (
  Sample("see", 5, 9, "</description>", temperature=0.7),
  Keep(2),
  Sample("think", 3, 9, "</answer>", temperature=0.7),
)


@pytest.fixture(scope="module")
def batcher():
  config = runs.small_config()
  return batching.make_batcher(config, build.make_policy(config), None)


def questions(count):
  picture = np.zeros((48, 48, 3), np.uint8)
  return [
    Example(
      id=f"q{i}",
      question="How many?",
      answer=str(i),
      images=(picture,),
      group=f"pair {i // 2}",
    )
    for i in range(count)
  ]


def scripted(batcher, answers):
  """A strategy that gives these answers, None for a text without tags."""
  examples = questions(len(answers))
  texts = [
    ["no tags" if a is None else response(a) for a in row] for row in answers
  ]
  rollout = Scripted(batcher.policy.processor, texts, examples)
  return ev.Strategy("scripted", rollout, False), examples


ANSWERS = [["0", "0"], ["1", "9"], ["8", "9"], ["3", None], ["4", "4"]]


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8])
def test_every_question_counts_once_in_any_batch_size(batcher, batch):
  strategy, examples = scripted(batcher, ANSWERS)
  key = build.place_key(0, batcher.policy)
  out = ev.run_strategy(strategy, {}, batcher, examples, batch, key)
  np.testing.assert_array_equal(
    out.correct, [[1, 1], [1, 0], [0, 0], [1, 0], [1, 1]]
  )
  assert out.answers == ANSWERS
  np.testing.assert_array_equal(out.tags, [[1, 1]] * 3 + [[1, 0], [1, 1]])
  assert np.isnan(out.exact).all()
  size = [len(batcher.policy.processor.encode_text(response("4")))] * 2
  assert out.tokens[4] == sum(size)
  sizes = {len(rows) for rows in strategy.rollout.batches}
  assert sizes == {min(batch, 5)}  # one shape, hence one compilation


def test_figures_are_means_with_errors_clustered_by_group(batcher):
  strategy, examples = scripted(batcher, ANSWERS)
  key = build.place_key(0, batcher.policy)
  out = ev.evaluate([strategy], {}, batcher, examples, 4, key)
  assert out["eval/scripted/accuracy"] == pytest.approx(0.6)
  # Three independent groups: (1, .5), (0, .5), (1).
  sums = np.array([1.5 - 1.2, 0.5 - 1.2, 1 - 0.6])
  error = np.sqrt(3 / 2 * (sums**2).sum()) / 5
  assert out["eval/scripted/accuracy_se"] == pytest.approx(error)
  assert out["eval/scripted/pass_at_2"] == pytest.approx(0.8)
  assert out["eval/scripted/tags"] == pytest.approx(0.9)
  assert out["eval/scripted/truncated"] == 0.0
  assert "eval/scripted/majority_at_2" in out
  assert "eval/scripted/exact" not in out  # no checker is known


def test_no_questions_no_figures(batcher):
  strategy, _ = scripted(batcher, ANSWERS)
  key = build.place_key(0, batcher.policy)
  assert ev.evaluate([strategy], {}, batcher, [], 4, key) == {}


def test_an_evaluation_stops_between_batches(batcher):
  strategy, examples = scripted(batcher, ANSWERS)
  key = build.place_key(0, batcher.policy)
  done = strategy.rollout.batches
  with pytest.raises(ev.Stopped):
    ev.evaluate(
      [strategy], {}, batcher, examples, 2, key, stop=lambda: len(done) == 2
    )
  assert len(done) == 2


def test_questions_without_a_group_stand_alone():
  examples = [*questions(3), *[Example("x", (), "?", "")] * 2]
  labels = ev.groups_of(examples)
  assert labels[0] == labels[1] != labels[2]
  assert len(set(labels)) == 4


def test_greedy_draws_every_stage_once():
  stages = ev.greedy_program(PROGRAM)
  assert [s.name for s in stages] == ["see", "think"]
  assert all(s.fanout == 1 and s.temperature == 0 for s in stages)


def test_sampled_draws_whole_responses():
  stages = ev.sampled_program(PROGRAM, 7)
  assert [(s.fanout, s.temperature) for s in stages] == [(7, 0.7), (1, 0.7)]


@pytest.mark.parametrize(
  ("program", "screen", "names"),
  [
    (PROGRAM, False, ["greedy", "sampled"]),
    (PROGRAM, True, ["greedy", "sampled", "screen"]),
    (samples(PROGRAM), True, ["greedy", "sampled"]),
  ],
)
def test_screening_needs_a_program_that_keeps(batcher, program, screen, names):
  found = ev.make_strategies(batcher.policy, program, None, 2, screen)
  assert [s.name for s in found] == names


def test_a_batch_is_filled_up_from_its_first_question():
  one, two, three = (Example(name, (), "?", "1") for name in "abc")
  assert ev.filled([one, two, three], 2) == [one, two, three, one]
  assert ev.filled([one, two], 5) == [one, two, one, two, one]
  assert ev.filled([one, two], 2) == [one, two]


@pytest.mark.parametrize("first", [0, 2, 3, 5])
def test_figures_of_the_first_questions_are_those_of_them_alone(batcher, first):
  strategy, examples = scripted(batcher, ANSWERS)
  key = build.place_key(0, batcher.policy)
  out = ev.evaluate([strategy], {}, batcher, examples, 5, key, first=first)
  whole = {n: x for n, x in out.items() if not n.startswith(ev.FIRST)}
  assert whole == ev.evaluate([strategy], {}, batcher, examples, 5, key)
  some = {
    n.removeprefix(ev.FIRST): x
    for n, x in out.items()
    if n.startswith(ev.FIRST)
  }
  if first in (0, 5):  # none, or the same ones
    assert some == {}
  else:
    alone = ev.evaluate([strategy], {}, batcher, examples[:first], 5, key)
    assert some == pytest.approx(alone, nan_ok=True)


def test_checkpoints_are_ranked_by_figures_that_evaluations_have(batcher):
  strategies = ev.make_strategies(batcher.policy, PROGRAM, None, 3, True)
  names = ev.rank_names(strategies, 3)
  assert "eval/greedy/accuracy" in names
  assert "eval/screen/accuracy" in names
  assert "eval/sampled/majority_at_3" in names
  assert "eval/greedy/majority_at_3" not in names
  strategy, examples = scripted(batcher, [[*row, "1"] for row in ANSWERS])
  sampled = ev.Strategy("sampled", strategy.rollout, False)
  key = build.place_key(0, batcher.policy)
  found = ev.evaluate([sampled], {}, batcher, examples, 5, key)
  wanted = {n for n in names if n.startswith("eval/sampled/")}
  assert wanted - {"eval/sampled/exact"} <= found.keys()
