"""The dials of the procedural world: how hard it is to see and to trust."""

import math
from dataclasses import dataclass, fields

KINDS = (
  "exist",
  "attribute",
  "size",
  "relation",
  "count",
  "compare",
  "add",
  "odd",
  "chart",
)
REASONINGS = ("short", "long")

_RATES = ("occlusion", "lighting", "prior", "hallucinate", "slip")


@dataclass(frozen=True)
class Dials:
  """What makes perception uncertain and the warm start unreliable.

  Attributes:
    noise: low and high end of the per-image standard deviation of the pixel
      noise, in units of the full pixel range.
    occlusion: probability that a thing is partly covered by a grey patch.
    clutter: largest number of coloured specks in a picture.
    lighting: strength of the gain and of the gradient over the picture: .2
      changes each by up to 20 %.
    prior: probability that a shape in a picture takes its usual colour, see
      `scene.USUAL`; otherwise its colour is uniform.
    hallucinate: probability that a demonstrated description which could say
      a usual colour instead of a true one does so, for one thing.
    slip: probability that a demonstrated reasoning makes one mistake.
    reasoning: "short" or "long" demonstrated reasonings.
    kinds: weight of each kind of question; kinds left out are never asked.

  Raises:
    ValueError: for a value out of range, by name.
  """

  noise: tuple[float, float] = (0.05, 0.2)
  occlusion: float = 0.1
  clutter: int = 6
  lighting: float = 0.2
  prior: float = 0.0
  hallucinate: float = 0.0
  slip: float = 0.0
  reasoning: str = "long"
  kinds: tuple[tuple[str, float], ...] = tuple((kind, 1.0) for kind in KINDS)

  def __post_init__(self) -> None:
    low, high = self.noise
    if not 0 <= low <= high <= 1:
      raise ValueError(f"noise={self.noise}: give 0 <= low <= high <= 1")
    for name in _RATES:
      value = getattr(self, name)
      if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: give a number from 0 to 1")
    if not 0 <= self.clutter <= 1000:
      raise ValueError(f"clutter={self.clutter}: give 0 to 1000 specks")
    if self.reasoning not in REASONINGS:
      raise ValueError(
        f"reasoning={self.reasoning!r}: give one of {REASONINGS}"
      )
    names = [name for name, _ in self.kinds]
    unknown = sorted(set(names) - set(KINDS))
    if unknown:
      raise ValueError(f"kinds={unknown} are unknown: give some of {KINDS}")
    if len(set(names)) < len(names):
      raise ValueError(f"kinds={names} repeats a kind: give each one once")
    weights = [weight for _, weight in self.kinds]
    if not all(math.isfinite(w) and w >= 0 for w in weights) or not sum(
      weights
    ):
      raise ValueError(
        f"kinds={self.kinds}: give weights >= 0, at least one of them > 0"
      )


def dials_from_dict(values: dict) -> Dials:
  """Dials from plain JSON values, as `dataclasses.asdict` writes them.

  Raises:
    ValueError: for a name that is not a dial.
  """
  known = [field.name for field in fields(Dials)]
  unknown = sorted(set(values) - set(known))
  if unknown:
    raise ValueError(f"{unknown} are no dials: give some of {known}")
  values = dict(values)
  if "noise" in values:
    low, high = values["noise"]
    values["noise"] = (float(low), float(high))
  if "kinds" in values:
    values["kinds"] = tuple((str(k), float(w)) for k, w in values["kinds"])
  return Dials(**values)


# Demonstrations for the warm start: misleading pictures, unreliable teacher.
WARM = Dials(prior=0.6, hallucinate=0.35, slip=0.25)

# Training by reward and evaluation: the pictures break the prior.
BROKEN = Dials(noise=(0.1, 0.2))
