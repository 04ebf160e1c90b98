import types

import numpy as np
import pytest

from mirl_jax.data.example import Example
from mirl_jax.rewards.assess import Assessed
from mirl_jax.rewards.parse import parse_response
from mirl_jax.runs.dump import dump_rollouts
from mirl_jax.runs.rollouts import read_rollouts

NAMES = ("see", "think")


def example(number):
  picture = np.full((4, 4, 3), number, np.uint8)
  return Example(
    id=f"q{number}",
    question=f"How many {number}?",
    answer="7",
    images=(picture,),
  )


def level(k, f, t, parent, rng, scores=()):
  shape = (2, k, f)
  mask = np.arange(t) < rng.integers(1, t + 1, (*shape, 1))
  return types.SimpleNamespace(
    tokens=np.zeros((*shape, t), np.int32),
    mask=mask,
    parent=np.asarray(parent),
    finished=rng.random(shape) < 0.5,
    kept=rng.random(shape) < 0.5,
    scores={name: rng.normal(size=shape) for name in scores},
  )


@pytest.fixture
def batch():
  """Two questions; three descriptions, of which (2, 0) and (1, 2) are kept."""
  rng = np.random.default_rng(0)
  levels = (
    level(1, 3, 5, [[0], [0]], rng, ("mi", "prior")),
    level(2, 2, 6, [[2, 0], [1, 2]], rng),
  )
  levels[0].scores["mi"][1, 0, 1] = np.nan  # abstains
  texts = [
    [
      [f"<description>{i}{r}</description>" for r in range(3)] for i in range(2)
    ],
    [[f"<answer>{6 + r % 2}</answer>" for r in range(4)] for _ in range(2)],
  ]
  nan = np.nan
  rewards = [
    {"exact": np.array([[[1, 0, nan]], [[0, 1, 1]]], np.float32)},
    {
      "correct": np.array([[[0, 1], [0, 1]]] * 2, np.float32),
      "exact": np.full((2, 2, 2), nan, np.float32),
    },
  ]
  read = [
    Assessed(t, t, [[parse_response(x) for x in row] for row in t], r)
    for t, r in zip(texts, rewards, strict=True)
  ]
  advantages = [rng.normal(size=(2, 1, 3)), rng.normal(size=(2, 2, 2))]
  return levels, read, advantages


def test_every_node_has_a_line_with_all_that_is_known(tmp_path, batch):
  levels, read, advantages = batch
  examples = [example(0), example(1)]
  dump_rollouts(str(tmp_path), 4, NAMES, examples, levels, read, advantages)
  nodes = read_rollouts(tmp_path, 4)
  assert len(nodes) == 2 * (1 + 3 + 4)
  by = {(n.question_id, n.stage, n.node): n for n in nodes}
  for i in range(2):
    prompt = by[f"q{i}", "prompt", 0]
    assert (prompt.text, prompt.answer) == (f"How many {i}?", "7")
    assert (tmp_path / prompt.images[0]).is_file()
    for r in range(3):
      node = by[f"q{i}", "see", r]
      assert node.text == f"<description>{i}{r}</description>"
      assert node.parent == -1
      assert node.tokens == levels[0].mask[i, 0, r].sum()
      assert node.advantage == advantages[0][i, 0, r]
      assert node.kept == levels[0].kept[i, 0, r]
      assert node.truncated != levels[0].finished[i, 0, r]
      exact = read[0].rewards["exact"][i, 0, r]
      assert node.extra.get("exact") == (
        None if np.isnan(exact) else bool(exact)
      )
      assert node.rewards == {}
    for r in range(4):
      node = by[f"q{i}", "think", r]
      assert node.parent == levels[1].parent[i, r // 2]
      assert node.rewards == {"correct": r % 2}
      assert node.extra["verdict"] == bool(r % 2)
      assert node.kept is None
      assert node.advantage == advantages[1][i, r // 2, r % 2]
  assert by["q0", "see", 1].scores.keys() == {"mi", "prior"}
  assert by["q1", "see", 1].scores.keys() == {"prior"}


def test_the_first_questions_can_be_dumped_alone(tmp_path, batch):
  dump_rollouts(str(tmp_path), 1, NAMES, [example(0)], *batch)
  assert {n.question_id for n in read_rollouts(tmp_path, 1)} == {"q0"}


def test_without_advantages_there_are_none(tmp_path, batch):
  dump_rollouts(str(tmp_path), 0, NAMES, [example(0)], *batch[:2], None)
  assert {n.advantage for n in read_rollouts(tmp_path, 0)} == {None}


def test_only_the_primary_process_writes(tmp_path, batch):
  dump_rollouts(str(tmp_path), 0, NAMES, [example(0)], *batch, primary=False)
  assert not list(tmp_path.iterdir())
