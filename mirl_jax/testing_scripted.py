"""A rollout that writes given texts, for tests that need no policy."""

from typing import Any

import numpy as np

from mirl_jax.policy.processing import Processor
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.tree import Level, Tree


def response(answer: str) -> str:
  """A whole response in the tag format."""
  return (
    "<description> x</description>\n<think> y</think>\n"
    f"<answer> {answer}</answer>"
  )


class Scripted(Rollout):
  """Writes given texts: [question number][sample] -> text.

  Attributes:
    batches: the questions of each call, by number.
  """

  def __init__(self, processor: Processor, texts: Any, examples: Any):
    self.program = ()
    self.processor, self.texts = processor, texts
    hashes = [processor.encode(e).question for e in examples]
    self.row = {h: i for i, h in enumerate(hashes)}
    self.batches: list[list[int]] = []

  def __call__(
    self,
    roles: Any,
    prompts: Any,
    views: Any,
    key: Any,
    host_score: Any = None,
  ) -> Tree:
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
