"""Verifiers of boxes and points in a picture.

A box is x1, y1, x2, y2 with x1 < x2 and y1 < y2, a point x, y, both in the
units of the reference. Predictions and references are matched one to one, so
that listing many boxes costs what it gains.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mirl_jax.data.example import Example
from mirl_jax.rewards.assignment import assign
from mirl_jax.rewards.spans import read_json
from mirl_jax.rewards.texts import normalise
from mirl_jax.rewards.verdict import Verdict

MAX_SHAPES = 100
MAX_COORDINATE = 1e6
DEFAULT_IOU = 0.5
DEFAULT_RADIUS = 10.0  # of a point, in the units of the coordinates

_KEYS = ("bbox_2d", "bbox", "box", "point_2d", "point", "position")
_CONFIDENCE = ("confidence", "score")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,9}(?:\.\d{0,12})?|\.\d{1,12})")
_AROUND = re.compile(r"<\|(?:box|point)_(?:start|end)\|>|</?(?:box|point)>")


@dataclass(frozen=True)
class Shape:
  """A box of four numbers or a point of two.

  Attributes:
    place: its coordinates.
    label: what it shows, normalised; "" where none is given.
    confidence: in it; 1 where none is given.
  """

  place: tuple[float, ...]
  label: str = ""
  confidence: float = 1.0


def _shape(value: Any, size: int) -> Shape:
  """One shape of a JSON value; raises ValueError in a clause."""
  label, confidence = "", 1.0
  if isinstance(value, dict):
    place = next((value[key] for key in _KEYS if key in value), None)
    label = normalise(str(value.get("label", "")))
    given = next((value[k] for k in _CONFIDENCE if k in value), 1.0)
    if not isinstance(given, int | float) or not 0 <= given <= 1:
      raise ValueError("a confidence outside of 0..1")
    value, confidence = place, float(given)
  if not isinstance(value, list) or len(value) != size:
    raise ValueError(f"a shape that is not {size} numbers")
  for number in value:
    if isinstance(number, bool) or not isinstance(number, int | float):
      raise ValueError(f"a shape that is not {size} numbers")
    if not abs(number) <= MAX_COORDINATE:
      raise ValueError(f"a coordinate beyond {MAX_COORDINATE:g}")
  if size == 4 and not (value[0] < value[2] and value[1] < value[3]):
    raise ValueError("a box without area")
  return Shape(tuple(map(float, value)), label, confidence)


def read_shapes(text: str, size: int) -> list[Shape]:
  """The boxes (size 4) or points (size 2) that a text lists.

  JSON: one list of numbers, a list of such lists, or objects with `bbox_2d`,
  `bbox` or `box`, `point_2d` or `point`, and optionally `label`, `confidence`.
  Or plain numbers with nothing but brackets and commas between them.

  Raises:
    ValueError: where it lists none or they are malformed; in a clause.
  """
  try:
    value = read_json(text)
  except ValueError:
    bare = _AROUND.sub(" ", text)
    if re.search(r"[^()\[\]{},;\s]", _NUMBER.sub("", bare)):
      raise ValueError("neither JSON nor plain coordinates") from None
    numbers = [float(number) for number in _NUMBER.findall(bare)]
    if not numbers or len(numbers) % size:
      raise ValueError(f"not a multiple of {size} coordinates") from None
    value = [numbers[i : i + size] for i in range(0, len(numbers), size)]
  if isinstance(value, dict) or (
    isinstance(value, list) and value and not isinstance(value[0], list | dict)
  ):
    value = [value]
  if not isinstance(value, list):
    raise ValueError("neither JSON nor plain coordinates")
  if len(value) > MAX_SHAPES:
    raise ValueError(f"more than {MAX_SHAPES} shapes")
  return [_shape(one, size) for one in value]


def iou(
  left: Float[np.ndarray, "n 4"], right: Float[np.ndarray, "m 4"]
) -> Float[np.ndarray, "n m"]:
  """Intersection over union of every box with every other."""
  low = np.maximum(left[:, None, :2], right[None, :, :2])
  high = np.minimum(left[:, None, 2:], right[None, :, 2:])
  inside = np.prod(np.maximum(high - low, 0), axis=-1)
  area = [np.prod(x[:, 2:] - x[:, :2], axis=-1) for x in (left, right)]
  return inside / (area[0][:, None] + area[1][None, :] - inside)


def _places(shapes: list[Shape], size: int) -> np.ndarray:
  return np.array([shape.place for shape in shapes], float).reshape(-1, size)


def overlaps(given: list[Shape], expected: list[Shape]) -> np.ndarray:
  """IoU of every pair [given, expected]; 0 where both labels differ."""
  found = iou(_places(given, 4), _places(expected, 4))
  for i, one in enumerate(given):
    for j, other in enumerate(expected):
      if one.label and other.label and one.label != other.label:
        found[i, j] = 0.0
  return found


def match(
  quality: Float[np.ndarray, "n m"], threshold: float
) -> list[tuple[int, int]]:
  """Pairs, one to one, of quality at or above the threshold.

  As many as there can be, and of those the best in total.
  """
  allowed = quality >= threshold
  # One pair more outweighs any gain in quality.
  value = np.where(allowed, min(quality.shape, default=0) + 1.0 + quality, 0.0)
  return [(i, j) for i, j in assign(value) if allowed[i, j]]


def average_precision(
  given: list[Shape], expected: list[Shape], threshold: float
) -> float:
  """Area under the precision-recall curve of one picture's boxes.

  By falling confidence, each box takes the free reference of the largest IoU
  at or above the threshold; precision is made monotone and summed over all
  recall points (Everingham et al. 2010). Equal confidences keep their order.
  """
  if not expected:
    return float(not given)
  quality = overlaps(given, expected)
  order = sorted(range(len(given)), key=lambda i: -given[i].confidence)
  free = np.ones(len(expected), bool)
  hits = []
  for i in order:
    scores = np.where(free, quality[i], -1.0)
    best = int(np.argmax(scores))
    hit = bool(scores[best] >= threshold)
    free[best] &= not hit
    hits.append(hit)
  true = np.cumsum(hits)
  precision = true / np.arange(1, len(hits) + 1)
  monotone = np.maximum.accumulate(precision[::-1])[::-1]
  return float(np.sum(monotone * np.array(hits, float)) / len(expected))


def _setting(example: Example, name: str, default: float) -> float:
  value = example.extra.get(name, default)
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise ValueError(f"{name}={value!r} of the row is no number")
  if not math.isfinite(value) or value <= 0:
    raise ValueError(f"{name}={value!r} of the row is not above 0")
  return float(value)


def _read(
  prediction: str, example: Example, size: int
) -> tuple[list[Shape], list[Shape]] | Verdict:
  try:
    expected = read_shapes(example.answer, size)
  except ValueError as error:
    return Verdict(False, f"the reference is {error}")
  try:
    return read_shapes(prediction, size), expected
  except ValueError as error:
    return Verdict(False, str(error), 0.0)


def box_verifier(prediction: str, example: Example) -> Verdict:
  """Every reference box is found, and nothing else.

  Args:
    prediction: one box or a list of them.
    example: `answer`, and `extra["iou"]`, the least IoU of a match, are read.

  Returns:
    The score is the IoU of the matches over the larger number of boxes.
  """
  read = _read(prediction, example, 4)
  if isinstance(read, Verdict):
    return read
  given, expected = read
  try:
    least = _setting(example, "iou", DEFAULT_IOU)
  except ValueError as error:
    return Verdict(False, str(error))
  quality = overlaps(given, expected)
  pairs = match(quality, least)
  most = max(len(given), len(expected))
  if most == 0:
    return Verdict(True, "no box, as expected", 1.0)
  score = float(sum(quality[i, j] for i, j in pairs)) / most
  reason = f"{len(pairs)} of {len(expected)} boxes at IoU {least:g}"
  if len(given) > len(pairs):
    reason += f", {len(given) - len(pairs)} beside them"
  return Verdict(len(pairs) == most, reason, min(score, 1.0))


def detection_verifier(prediction: str, example: Example) -> Verdict:
  """Boxes as by `box_verifier`; the score is the mean AP over the labels.

  The row's `extra["iou"]` is the threshold. Boxes without a label are a label
  of their own.
  """
  verdict = box_verifier(prediction, example)
  read = _read(prediction, example, 4)
  if isinstance(read, Verdict) or verdict.score is None:
    return verdict
  given, expected = read
  labels = sorted({shape.label for shape in (*given, *expected)})
  if not labels:
    return verdict
  least = _setting(example, "iou", DEFAULT_IOU)
  scores = [
    average_precision(
      [shape for shape in given if shape.label == label],
      [shape for shape in expected if shape.label == label],
      least,
    )
    for label in labels
  ]
  return Verdict(
    verdict.correct, verdict.reason, float(np.clip(np.mean(scores), 0, 1))
  )


def point_verifier(prediction: str, example: Example) -> Verdict:
  """Every reference is hit by one point, and no point stands elsewhere.

  The reference lists points, which are hit from within the row's
  `extra["radius"]` (else `DEFAULT_RADIUS`), or boxes, hit from inside. The
  score is the F1 of hits.
  """
  try:
    size = 4 if _is_boxes(example.answer) else 2
    expected = read_shapes(example.answer, size)
    radius = _setting(example, "radius", DEFAULT_RADIUS)
  except ValueError as error:
    return Verdict(False, f"the reference: {error}")
  try:
    given = read_shapes(prediction, 2)
  except ValueError as error:
    return Verdict(False, str(error), 0.0)
  points, places = _places(given, 2)[:, None], _places(expected, size)[None]
  if size == 4:
    hit = np.all((points >= places[..., :2]) & (points <= places[..., 2:]), -1)
  else:
    hit = np.linalg.norm(points - places, axis=-1) <= radius
  pairs = match(hit.astype(float), 1.0)
  total = len(given) + len(expected)
  score = 2 * len(pairs) / total if total else 1.0
  reason = f"{len(pairs)} of {len(expected)} hit by {len(given)} points"
  return Verdict(2 * len(pairs) == total, reason, score)


def _is_boxes(answer: str) -> bool:
  """Whether a reference lists boxes as JSON; plain coordinates are points."""
  try:
    read_json(answer)
    read_shapes(answer, 4)
  except ValueError:
    return False
  return True
