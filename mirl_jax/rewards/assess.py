"""From sampled tokens to texts, verdicts and rewards, on the host.

Knows nothing of devices: levels come as numpy arrays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mirl_jax.data.example import Example
from mirl_jax.rewards.judges import Judges
from mirl_jax.rewards.parse import Parsed, parse_response
from mirl_jax.rewards.terms import make_term
from mirl_jax.rewards.verify import verify_all

# Rewards of the last stage's nodes; `exact` is for metrics and oracle keeps.
# `score` is how right an answer is where its type has degrees, as the IoU of
# boxes; elsewhere it equals `correct`.
LEAF_REWARDS = ("correct", "format", "score")


@dataclass(frozen=True)
class Assessed:
  """One level of a batch, read.

  Attributes:
    texts: [B][R] what each node wrote.
    paths: [B][R] the same with its ancestors' texts before it.
    parsed: [B][R] the paths, parsed.
    rewards: name -> [B, K, F] float32; NaN abstains.
  """

  texts: list[list[str]]
  paths: list[list[str]]
  parsed: list[list[Parsed]]
  rewards: dict[str, np.ndarray]


def heard_mean(values: np.ndarray) -> float:
  """Mean of a reward over the nodes that have it; NaN if none has."""
  heard = np.isfinite(values)
  return float(values[heard].mean()) if heard.any() else float("nan")


def assess(
  examples: Sequence[Example],
  levels: Sequence[Any],
  decode: Callable[[np.ndarray], str],
  step: int = 0,
  judges: Judges | None = None,
) -> list[Assessed]:
  """Reads every level of a batch of trees.

  Args:
    examples: the B questions.
    levels: of the tree, as numpy.
    decode: token ids to text.
    step: of training, for reward terms that change with it.
    judges: of answers that take more than reading; the process's own if None.

  Returns:
    One entry per level. Every level has `exact`, where a checker is known;
    the last has the rewards of LEAF_REWARDS.
  """
  done: list[Assessed] = []
  for number, level in enumerate(levels):
    b, k, fanout, t = level.tokens.shape
    tokens = np.asarray(level.tokens).reshape(b, k * fanout, t)
    lengths = np.asarray(level.mask).reshape(b, k * fanout, t).sum(-1)
    parent = np.asarray(level.parent)
    leaf = number + 1 == len(levels)
    names = ("exact", "format") if leaf else ("exact",)
    values = {
      name: np.full((b, k * fanout), np.nan, np.float32) for name in names
    }
    texts: list[list[str]] = []
    paths: list[list[str]] = []
    parsed: list[list[Parsed]] = []
    for i, example in enumerate(examples):
      texts.append([])
      paths.append([])
      parsed.append([])
      for r in range(k * fanout):
        text = decode(tokens[i, r, : lengths[i, r]])
        above = ""
        if number > 0:
          above = done[-1].paths[i][int(parent[i, r // fanout])]
        path = above + text
        read = parse_response(path)
        texts[i].append(text)
        paths[i].append(path)
        parsed[i].append(read)
        for name in names:
          value = make_term(name)(example, text, path, read, step)
          if value is not None:
            values[name][i, r] = value
    if leaf:
      values |= _verdicts(examples, parsed, judges, step)
    shaped = {name: x.reshape(b, k, fanout) for name, x in values.items()}
    done.append(Assessed(texts, paths, parsed, shaped))
  return done


def _verdicts(
  examples: Sequence[Example],
  parsed: Sequence[Sequence[Parsed]],
  judges: Judges | None,
  step: int,
) -> dict[str, np.ndarray]:
  """`correct` and `score` [B, R] of all answers, judged as one batch.

  NaN where there is no reference answer or the verifier abstains.
  """
  pairs = [
    (read.answer, example)
    for example, row in zip(examples, parsed, strict=True)
    for read in row
  ]
  verdicts = verify_all(pairs, judges, step)
  values = np.full((2, len(pairs)), np.nan, np.float32)
  for i, (verdict, (_, example)) in enumerate(
    zip(verdicts, pairs, strict=True)
  ):
    if example.answer.strip() and not verdict.abstains:
      values[:, i] = verdict.correct, verdict.graded
  shape = (len(examples), -1)
  return {
    "correct": values[0].reshape(shape),
    "score": values[1].reshape(shape),
  }


def joined(parts: Sequence[Sequence[Assessed]]) -> list[Assessed]:
  """Levels of several batches' questions, one batch after the other."""
  return [
    Assessed(
      texts=[row for part in level for row in part.texts],
      paths=[row for part in level for row in part.paths],
      parsed=[row for part in level for row in part.parsed],
      rewards={
        name: np.concatenate([part.rewards[name] for part in level])
        for name in level[0].rewards
      },
    )
    for level in zip(*parts, strict=True)
  ]
