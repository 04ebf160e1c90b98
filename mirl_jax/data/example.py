"""The one record that every data source yields: an image question."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Encoded bytes (PNG, JPEG, …) or a decoded uint8 [height, width, 3] array.
Image = bytes | np.ndarray


@dataclass(frozen=True)
class Facts:
  """What a checker says of one description: counts of facts by verdict.

  Attributes:
    true: stated, right and relevant to the question.
    false: stated and wrong.
    missing: relevant and not stated.
    irrelevant: stated and right, but not asked about.
  """

  true: int
  false: int
  missing: int
  irrelevant: int

  @property
  def exact(self) -> bool:
    """Whether every relevant fact is stated and nothing is wrong."""
    return self.false == 0 and self.missing == 0 and self.irrelevant == 0


@dataclass(frozen=True)
class Example:
  """One question about zero or more images.

  Attributes:
    id: unique and stable within its source.
    images: in the order in which the prompt shows them.
    question: the user's text, without image placeholders.
    answer: the reference answer.
    answer_type: one of `rewards.verify.VERIFIERS`.
    options: choices for the choice types, else empty.
    category: for tables by category.
    group: label that questions share which depend on each other, as those
      about one picture do; empty where a question stands alone.
    description: a true description (inside of the tag), where known.
    reasoning: a reference reasoning (inside of the tag), where known.
    regions: words that each merged visual token should name, row-major over
      all images; empty where unknown. Used by the supervised auxiliary loss.
    check: scores a description's facts against ground truth, where known.
    min_pixels, max_pixels: limits on height x width of its pictures after
      resizing, in place of the policy's; None keeps these.
    extra: any further columns, JSON-able.
  """

  id: str
  images: tuple[Image, ...]
  question: str
  answer: str
  answer_type: str = "text"
  options: tuple[str, ...] = ()
  category: str = ""
  group: str = ""
  description: str = ""
  reasoning: str = ""
  regions: tuple[tuple[str, ...], ...] = ()
  check: Callable[[str], Facts] | None = None
  min_pixels: int | None = None
  max_pixels: int | None = None
  extra: Mapping[str, Any] = field(default_factory=dict)
