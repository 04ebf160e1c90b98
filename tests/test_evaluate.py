import numpy as np
import pytest

from mirl_jax import batching, build
from mirl_jax import evaluate as ev
from mirl_jax import testing_runs as runs
from mirl_jax.data.example import Example
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import Keep, Sample, samples
from mirl_jax.rollout.tree import Level, Tree

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


class Scripted(Rollout):
  """Writes given texts: [question number][sample] -> text."""

  def __init__(self, processor, texts, examples):
    self.processor, self.texts = processor, texts
    hashes = [processor.encode(e).question for e in examples]
    self.row = {h: i for i, h in enumerate(hashes)}
    self.batches = []

  def __call__(self, roles, prompts, views, key, host_score=None):
    rows = [self.row[int(h)] for h in np.asarray(prompts.question)]
    self.batches.append(rows)
    n = len(self.texts[0])
    tokens = np.zeros((len(rows), 1, n, 60), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for b, row in enumerate(rows):
      for i, text in enumerate(self.texts[row]):
        ids = self.processor.encode_text(text)
        tokens[b, 0, i, : len(ids)] = ids
        mask[b, 0, i, : len(ids)] = True
    shape = tokens.shape[:3]
    level = Level(
      tokens=tokens,
      mask=mask,
      sampled=mask,
      logprobs=np.zeros(tokens.shape, np.float32),
      parent=np.zeros((len(rows), 1), np.int32),
      finished=mask.any(-1),
      kept=np.ones(shape, bool),
      scores={},
    )
    return Tree(prompts, (level,))


def response(answer):
  return (
    "<description> x</description>\n<think> y</think>\n"
    f"<answer> {answer}</answer>"
  )


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
  size = [len(batcher.policy.processor.encode_text(response(4)))] * 2
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
