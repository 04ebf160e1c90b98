import types

import numpy as np
import pytest

from mirl_jax.data.example import Example, Facts
from mirl_jax.rewards.assess import LEAF_REWARDS, assess, heard_mean
from mirl_jax.rewards.judges import Judges

SEE = ["<description> a</description>\n", "<description> b</description>\n"]
THINK = [
  "<think> t</think>\n<answer> 3</answer>",
  "<think> t</think>\n<answer> 4</answer>",
  "no tags",
]
TEXTS = [*SEE, *THINK]


def facts(text):
  wrong = int(text != "a")
  return Facts(true=1, false=wrong, missing=0, irrelevant=0)


def example(answer="3", check=facts):
  return Example("q", (), "?", answer, check=check)


def level(ids, parent):
  """ids [B, K, F] of texts; a token is a text, and garbage follows it."""
  ids = np.asarray(ids)
  tokens = np.stack([ids, np.full_like(ids, 99)], axis=-1)
  mask = np.zeros(tokens.shape, bool)
  mask[..., 0] = True
  return types.SimpleNamespace(
    tokens=tokens, mask=mask, parent=np.asarray(parent)
  )


def decode(ids):
  return "".join(TEXTS[i] for i in ids)


@pytest.fixture
def levels():
  # Two questions; of two descriptions the second, then the first is forked.
  return (
    level([[[0, 1]], [[1, 0]]], [[0], [0]]),
    level([[[2, 3], [4, 2]], [[3, 3], [2, 4]]], [[1, 0], [1, 0]]),
  )


def test_paths_follow_the_parents(levels):
  read = assess([example(), example()], levels, decode)
  assert read[0].texts == read[0].paths == [SEE, SEE[::-1]]
  assert read[1].texts[0] == [THINK[0], THINK[1], THINK[2], THINK[0]]
  assert read[1].paths[0] == [
    SEE[1] + THINK[0],
    SEE[1] + THINK[1],
    SEE[0] + THINK[2],
    SEE[0] + THINK[0],
  ]
  assert read[1].paths[1][0] == SEE[0] + THINK[1]
  assert read[1].parsed[0][0].answer == "3"
  assert read[1].parsed[0][0].description == "b"


def test_rewards_are_those_of_each_path(levels):
  first, last = assess([example(), example("4")], levels, decode)
  assert first.rewards.keys() == {"exact"}
  np.testing.assert_array_equal(first.rewards["exact"], [[[1, 0]], [[0, 1]]])
  assert last.rewards.keys() == {"exact", *LEAF_REWARDS}
  np.testing.assert_array_equal(
    last.rewards["correct"], [[[1, 0], [0, 1]], [[1, 1], [0, 0]]]
  )
  # A leaf inherits the exactness of its description.
  np.testing.assert_array_equal(
    last.rewards["exact"], [[[0, 0], [1, 1]], [[1, 1], [0, 0]]]
  )
  assert (last.rewards["format"] == 1).sum() == 6
  assert last.rewards["correct"].dtype == np.float32
  assert heard_mean(last.rewards["correct"]) == pytest.approx(0.5)


def test_what_is_not_known_abstains(levels):
  read = assess([example("", None), example()], levels, decode)
  for name in ("correct", "exact"):
    assert np.isnan(read[1].rewards[name][0]).all()
    assert np.isfinite(read[1].rewards[name][1]).all()
  assert heard_mean(read[1].rewards["correct"]) == pytest.approx(1 / 4)
  silent = assess([example("", None)] * 2, levels, decode)
  assert np.isnan(heard_mean(silent[1].rewards["correct"]))


def test_one_stage_is_both_first_and_last():
  whole = level([[[2, 3, 4]]], [[0]])
  (read,) = assess([example()], (whole,), decode)
  np.testing.assert_array_equal(read.rewards["correct"], [[[1, 0, 0]]])
  assert read.rewards["format"][0, 0, 2] == 0


def test_scores_have_degrees_where_the_type_has():
  boxes = Example("b", (), "?", "[0, 0, 10, 10]", "box", check=facts)
  text = "<answer>[0, 0, 10, 6]</answer>"
  whole = level([[[2, 3]], [[2, 3]]], [[0], [0]])
  read = assess(
    [boxes, example()],
    (whole,),
    lambda ids: text if ids[0] == 2 else THINK[0],
    step=7,
  )[-1]
  np.testing.assert_allclose(read.rewards["score"][:, 0, 0], [0.6, 0])
  np.testing.assert_array_equal(read.rewards["correct"][:, 0], [[1, 0], [0, 1]])
  with Judges(iou="0:0.5,7:0.75") as judges:
    for step, right in ((6, 1), (7, 0)):
      (again,) = assess(
        [boxes], (level([[[2]]], [[0]]),), lambda _: text, step, judges
      )
      assert again.rewards["correct"].item() == right


def test_where_a_judge_abstains_there_is_no_reward():
  free = Example("f", (), "?", "a cat sits", "judged")
  (read,) = assess([free], (level([[[2, 4]]], [[0]]),), decode)
  for name in ("correct", "score"):
    assert np.isnan(read.rewards[name]).tolist() == [[[True, False]]]
