"""What a verifier says, and what it asks of others."""

from collections.abc import Callable
from dataclasses import dataclass

from mirl_jax.data.example import Example


@dataclass(frozen=True)
class Verdict:
  """Whether an answer is right, and why, in one line.

  Attributes:
    correct: whether it is; False where the verifier abstains.
    reason: one line.
    score: in 0..1 how right it is, for types that have degrees; else None.
    abstains: nobody could tell: no reward, which is not the same as zero.
  """

  correct: bool
  reason: str
  score: float | None = None
  abstains: bool = False

  @property
  def graded(self) -> float:
    """The score; where the type has no degrees, 1 for right, 0 for wrong."""
    return float(self.correct) if self.score is None else self.score


@dataclass(frozen=True)
class Ask:
  """A question for a worker process, in place of a verdict.

  Attributes:
    judge: "math", or "judge" for a user's own.
    prediction: the answer to judge.
    answer: the reference.
    question: what was asked; for "judge" alone.
  """

  judge: str
  prediction: str
  answer: str
  question: str = ""


Verifier = Callable[[str, Example], Verdict | Ask]
