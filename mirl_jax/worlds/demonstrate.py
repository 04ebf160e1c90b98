"""Demonstrations for the warm start, with a teacher's two kinds of error."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mirl_jax.worlds.describe import Fact, Item, describe, true_facts
from mirl_jax.worlds.dials import Dials
from mirl_jax.worlds.questions import pick
from mirl_jax.worlds.reason import Slip, fallible_steps, reason
from mirl_jax.worlds.scene import USUAL


@dataclass(frozen=True)
class Demonstration:
  """What a teacher writes about an item.

  Attributes:
    description: true, or with one usual colour in place of the true one.
    reasoning: faithful to that description but for a slip.
    answer: what the reasoning arrives at; may be wrong.
    hallucinated: whether the description is wrong.
    slipped: whether the reasoning is.
  """

  description: str
  reasoning: str
  answer: str
  hallucinated: bool = False
  slipped: bool = False


def misleading(facts: Sequence[Fact]) -> tuple[int, ...]:
  """Which facts a usual colour would make false."""
  return tuple(
    index
    for index, fact in enumerate(facts)
    if fact.shape and fact.color != USUAL[fact.shape]
  )


def hallucinate(
  facts: tuple[Fact, ...], rate: float, rng: np.random.Generator
) -> tuple[Fact, ...]:
  """With probability `rate`, one thing gets its usual colour if it can."""
  wrong = misleading(facts)
  if not wrong or rng.random() >= rate:
    return facts
  index = pick(rng, wrong)
  fact = facts[index]
  false = dataclasses.replace(fact, color=USUAL[fact.shape])
  return (*facts[:index], false, *facts[index + 1 :])


def demonstrate(
  item: Item, dials: Dials, rng: np.random.Generator
) -> Demonstration:
  """Describes and reasons as the warm start's teacher does."""
  truth = true_facts(item)
  question = item.question
  facts = hallucinate(truth, dials.hallucinate, rng)
  slip = None
  if rng.random() < dials.slip:
    steps = fallible_steps(facts, question)
    slip = Slip(int(rng.random() * steps), int(rng.random() * 64))
  reasoning, answer = reason(facts, question, dials.reasoning, slip)
  slipped = (
    slip is not None
    and reasoning != reason(facts, question, dials.reasoning)[0]
  )
  return Demonstration(
    describe(facts, sized=question.kind == "size"),
    reasoning,
    answer,
    hallucinated=facts != truth,
    slipped=slipped,
  )
