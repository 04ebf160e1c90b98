import textwrap

import numpy as np
import pytest

from mirl_jax.data.example import Example
from mirl_jax.rewards.assess import Assessed
from mirl_jax.rewards.own import (
  OwnReward,
  own_fault,
  own_metrics,
  own_names,
)

PICTURE = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
EXAMPLES = [
  Example("p", (PICTURE,), "?", "3", extra={"n": 5}, check=lambda text: None),
  Example("q", (b"encoded",), "?", "4"),
]
TEXTS = [["a", "bb", "ccc"], ["dddd", "eeeee", "ffffff"]]
NAN = float("nan")


def level(texts=TEXTS):
  shape = (len(texts), 1, len(texts[0]))
  rewards = {"exact": np.full(shape, NAN, np.float32)}
  return Assessed(texts=texts, paths=texts, parsed=[], rewards=rewards)


@pytest.fixture
def own(tmp_path):
  """Makes a reward of a file's text; closes it after the test."""
  made = []

  def make(code, names=(("own", "own_failed"),), **options):
    file = tmp_path / f"reward{len(made)}.py"
    file.write_text(textwrap.dedent(code))
    settings = {"workers": 2, "deadline_s": 1.0, "memory_mb": 300, **options}
    made.append(OwnReward(str(file), names, **settings))
    return made[-1]

  yield make
  for reward in made:
    reward.close()


def scored(reward, levels=None):
  found, fault = reward.add(EXAMPLES, levels or [level()])
  return {name: x.tolist() for name, x in found[-1].rewards.items()}, fault


def test_a_number_for_each_node(own):
  found, fault = scored(own("def score(e, text, siblings): return len(text)"))
  assert found["own"] == [[[1, 2, 3]], [[4, 5, 6]]]
  assert found["own_failed"] == [[[0, 0, 0]], [[0, 0, 0]]]
  assert fault == ""
  assert "exact" in found


@pytest.mark.parametrize("batch", [False, True])
def test_what_a_score_is_given(own, batch):
  one = "score(example, text, siblings)"
  many = (
    "def score_batch(examples, texts, siblings):\n"
    "  assert len(texts) == 6\n"
    f"  return [one{one[5:]} for example, text, siblings"
    " in zip(examples, texts, siblings)]"
  )
  code = f"""
def {one.replace("score", "one" if batch else "score")}:
  assert example.check is None
  if example.id == "p":
    assert example.images[0].tolist() == {PICTURE.tolist()}
    assert example.extra == {{"n": 5}}
  else:
    assert example.images == (b"encoded",)
  return {{
    "answer": float(example.answer),
    "siblings": sum(2 ** len(s) for s in siblings),
    "none": None,
    "unpaid": 1.0,
  }}
{many if batch else ""}
"""
  names = ("own/answer", "own/none", "own/siblings", "own_failed")
  found, fault = scored(own(code, (names,)))
  assert fault == ""
  assert set(found) == {"exact", *names}
  assert found["own/answer"] == [[[3, 3, 3]], [[4, 4, 4]]]
  others = [[12, 10, 6], [96, 80, 48]]
  assert found["own/siblings"] == [[row] for row in others]
  assert np.isnan(found["own/none"]).all()


def test_a_level_without_own_rewards_is_left_alone(own):
  code = "def score(e, text, siblings): return 1.0"
  reward = own(code, ((), ("own", "own_failed")))
  first, second = level(), level([["x"], ["y"]])
  found, _ = reward.add(EXAMPLES, [first, second])
  assert found[0] is first
  assert found[1].rewards["own"].shape == (2, 1, 1)


FAULTY = """
import os, time

def score(example, text, siblings):
  if text == "a":
    os._exit(1)
  if text == "bb":
    time.sleep(1000)
  if text == "ccc":
    return float("nan")
  if text == "dddd":
    return [0] * 10**10
  if text == "eeeee":
    return undefined
  return 6.0
"""


def test_every_fault_costs_its_own_node_alone(own):
  found, fault = scored(own(FAULTY))
  expected = [[[NAN] * 3], [[NAN, NAN, 6]]]
  np.testing.assert_array_equal(found["own"], expected)
  assert found["own_failed"] == [[[1, 1, 1]], [[1, 1, 0]]]
  assert fault == "worker died (exit code 1)"


@pytest.mark.parametrize(
  ("line", "said"),
  [
    ("return float('nan')", "returned nan; give a finite number"),
    ("return [0] * 10**10", "memory limit of 300 MB"),
    ("return 1 / 0", "ZeroDivisionError: division by zero (line 2)"),
    ("raise SystemExit", "SystemExit"),
    ("import time; time.sleep(9)", "deadline of 1 s"),
  ],
)
@pytest.mark.parametrize("batch", [False, True])
def test_the_first_fault_is_told(own, line, said, batch):
  name = "score_batch" if batch else "score"
  line = line.replace("nan')", "nan')] * len(x)") if batch else line
  line = line.replace("return float", "return [float") if batch else line
  found, fault = scored(own(f"def {name}(e, x, s):\n  {line}"))
  assert fault.startswith(said)
  assert np.isnan(found["own"]).all()
  assert found["own_failed"] == [[[1, 1, 1]], [[1, 1, 1]]]


def test_a_file_may_import_its_neighbours(own, tmp_path):
  (tmp_path / "neighbour.py").write_text("WORTH = 7")
  code = "import neighbour\ndef score(e, t, s): return neighbour.WORTH"
  found, _ = scored(own(code))
  assert found["own"] == [[[7] * 3]] * 2


@pytest.mark.parametrize(
  ("code", "said"),
  [
    ("def score(:", r"reward0.py: SyntaxError: .*line 1"),
    ("import nowhere", "No module named 'nowhere'"),
    ("x = 1", "it defines neither"),
    ("score = 1", "it defines neither"),
    (
      "def score(): pass\ndef score_batch(): pass",
      "it defines score and score_batch",
    ),
    ("import os; os._exit(9)", r"died \(exit code 9\)"),
    ("raise SystemExit(2)", "SystemExit: 2"),
    ("x = [0] * 10**10", "memory limit of 300 MB"),
  ],
)
def test_a_file_that_cannot_score_is_refused(own, code, said):
  with pytest.raises(ValueError, match=said) as refused:
    own(code)
  assert "reward.file=" in str(refused.value)


def test_a_missing_file_is_refused():
  with pytest.raises(ValueError, match="reward.file=no.py: there is no such"):
    OwnReward("no.py", [("own",)], 1, 1.0, 100)


def test_credit_names_the_nodes_to_score():
  stages = ("describe", "reason")
  assert own_names({}, stages) == {}
  credit = {
    "describe": {"mi": {}, "own/seen": {}, "children_own": {}},
    "reason": {"correct": {}, "own/short": {"weight": 0.0}, "owner": {}},
    "elsewhere": {"own": {}},
  }
  assert own_names(credit, stages) == {
    "describe": ("own/seen", "own_failed"),
    "reason": ("own", "own/short", "own_failed"),
  }
  # Children of the last stage: credit refuses them.
  assert own_names({"reason": {"children_own": {}}}, stages) == {}


def test_metrics_count_failures_and_say_which_rewards_are_heard():
  def array(*values):
    return np.array(values, np.float32)[None, None]

  rewards = {
    "describe": {"own/a": array(NAN, NAN), "own_failed": array(1, 1)},
    "reason": {
      "correct": array(0, 0, 0, 0),
      "own": array(0, 1, NAN, 2),
      "own_failed": array(0, 0, 1, 0),
    },
  }
  assert own_metrics(rewards) == {
    "heard/own/a/describe": 0.0,
    "heard/own/reason": 0.75,
    "reward/own_failed": 3.0,
  }
  assert own_metrics({"reason": {"correct": array(0)}}) == {}
  assert own_fault({}, "") is None
  assert own_fault({"reward/own_failed": 0.0}, "") is None
  said = own_fault({"reward/own_failed": 3.0}, "deadline of 5 s")
  assert said.startswith("3 scores of the reward file failed, the first: dead")
