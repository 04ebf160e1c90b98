"""The embedded policy and a strategy that writes given texts."""

import numpy as np
import pytest

from mirl_jax import batching, build
from mirl_jax import evaluate as ev
from mirl_jax import testing_runs as runs
from mirl_jax.data.example import Example
from mirl_jax.testing_scripted import Scripted, response


@pytest.fixture(scope="session")
def batcher():
  config = runs.small_config()
  return batching.make_batcher(config, build.make_policy(config), None)


@pytest.fixture
def scripted(batcher):
  """Makes a strategy of answers [question][sample], and its questions.

  None is a text without tags.
  """

  def make(answers, name="sampled"):
    picture = np.zeros((48, 48, 3), np.uint8)
    examples = [
      Example(
        id=f"q{i}",
        question="How many?",
        answer=str(i),
        answer_type="number",
        images=(picture,),
        group=f"pair {i // 2}",
      )
      for i in range(len(answers))
    ]
    texts = [
      ["no tags" if a is None else response(a) for a in row] for row in answers
    ]
    rollout = Scripted(batcher.policy.processor, texts, examples)
    return ev.Strategy(name, rollout, False), examples

  return make
