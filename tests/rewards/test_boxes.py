"""Boxes and points: reading, matching, scores."""

import json
import random

import numpy as np
import pytest

from mirl_jax.data.example import Example
from mirl_jax.rewards.boxes import (
  Shape,
  average_precision,
  iou,
  match,
  read_shapes,
)
from mirl_jax.rewards.verify import verify

TWO = "[[0, 0, 10, 10], [20, 20, 40, 40]]"


def judge(kind, answer, prediction, **extra):
  return verify(prediction, Example("x", (), "?", answer, kind, extra=extra))


@pytest.mark.parametrize(
  "text",
  [
    "[1, 2, 30, 40]",
    "[[1, 2, 30, 40]]",
    "(1,2),(30,40)",
    "1, 2, 30, 40",
    "<|box_start|>(1,2),(30,40)<|box_end|>",
    '{"bbox_2d": [1, 2, 30, 40], "label": "cat"}',
    '```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "Cat"}]\n```',
  ],
)
def test_a_box_is_read_in_every_spelling(text):
  (shape,) = read_shapes(text, 4)
  assert shape.place == (1, 2, 30, 40)
  assert shape.label in ("", "cat")


@pytest.mark.parametrize(
  ("text", "fault"),
  [
    ("[1, 2, 3]", "4 numbers"),
    ("[3, 3, 1, 1]", "without area"),
    ("[0, 0, NaN, 1]", "neither"),
    ("[0, 0, 1e400, 1]", "beyond"),
    ("1 2 3", "multiple"),
    ("the box is big", "neither"),
    (json.dumps([[0, 0, 1, 1]] * 101), "more than 100"),
    ('[{"bbox": [0, 0, 1, 1], "confidence": 7}]', "confidence"),
    ('[{"label": "cat"}]', "4 numbers"),
  ],
)
def test_what_is_no_box_is_said_in_a_clause(text, fault):
  verdict = judge("box", TWO, text)
  assert not verdict.correct
  assert fault in verdict.reason


@pytest.mark.parametrize(
  ("prediction", "right", "score"),
  [
    (TWO, True, 1.0),
    ("[[20, 20, 40, 40], [0, 0, 10, 10]]", True, 1.0),
    ("[[0, 0, 10, 8], [20, 20, 40, 40]]", True, 0.9),
    ("[[0, 0, 10, 4], [20, 20, 40, 40]]", False, 0.5),
    ("[0, 0, 10, 10]", False, 0.5),
    # The same box twice counts once, and against.
    ("[[0, 0, 10, 10], [0, 0, 10, 10]]", False, 0.5),
    ("[[0, 0, 10, 10], [20, 20, 40, 40], [5, 5, 6, 6]]", False, 2 / 3),
    ("[]", False, 0.0),
  ],
)
def test_boxes_are_matched_one_to_one(prediction, right, score):
  verdict = judge("box", TWO, prediction)
  assert verdict.correct is right, verdict.reason
  assert verdict.score == pytest.approx(score)


def test_the_rows_threshold_decides():
  prediction = "[[0, 0, 10, 8], [20, 20, 40, 40]]"
  assert judge("box", TWO, prediction, iou=0.75).correct
  assert not judge("box", TWO, prediction, iou=0.85).correct
  assert "'much'" in judge("box", TWO, prediction, iou="much").reason


def test_iou_is_what_counting_pixels_gives():
  rng = np.random.default_rng(0)
  for _ in range(50):
    boxes = []
    for _ in range(2):
      low = rng.integers(0, 10, 2)
      boxes.append([*low, *(low + rng.integers(1, 8, 2))])
    grids = []
    for x1, y1, x2, y2 in boxes:
      grid = np.zeros((20, 20), bool)
      grid[y1:y2, x1:x2] = True
      grids.append(grid)
    both, either = grids[0] & grids[1], grids[0] | grids[1]
    found = iou(np.array(boxes[:1], float), np.array(boxes[1:], float))
    assert found[0, 0] == pytest.approx(both.sum() / either.sum())


def test_a_match_has_as_many_pairs_as_there_can_be():
  # The best single pair would leave the others without one.
  quality = np.array([[0.99, 0.6], [0.6, 0.0]])
  assert match(quality, 0.5) == [(0, 1), (1, 0)]
  assert match(quality, 0.7) == [(0, 0)]
  assert match(np.zeros((0, 2)), 0.5) == []


def test_average_precision_of_a_worked_example():
  gold = [Shape((10.0 * i, 0.0, 10.0 * i + 5, 5.0)) for i in range(3)]
  far = Shape((500.0, 500.0, 510.0, 510.0), confidence=0.8)
  given = [
    Shape(gold[0].place, confidence=0.9),
    far,
    Shape(gold[1].place, confidence=0.7),
  ]
  # Hits at ranks 1 and 3 of 3 references: (1 + 2/3) / 3.
  assert average_precision(given, gold, 0.5) == pytest.approx(5 / 9)
  assert average_precision(gold, gold, 0.5) == 1
  assert average_precision([], gold, 0.5) == 0
  assert average_precision([], [], 0.5) == 1
  assert average_precision(given, [], 0.5) == 0


def test_detections_are_scored_by_label():
  gold = json.dumps(
    [
      {"bbox_2d": [0, 0, 10, 10], "label": "cat"},
      {"bbox_2d": [20, 20, 40, 40], "label": "dog"},
    ]
  )
  assert judge("detection", gold, gold).score == 1
  swapped = gold.replace("cat", "fox")
  verdict = judge("detection", gold, swapped)
  assert not verdict.correct
  assert verdict.score == pytest.approx(1 / 3)  # of cat, dog and fox


@pytest.mark.parametrize(
  ("answer", "prediction", "right", "score"),
  [
    ("[[10, 10], [50, 50]]", "[[52, 50], [10, 12]]", True, 1.0),
    ("[[10, 10], [50, 50]]", "(10, 10)", False, 2 / 3),
    ("[[10, 10]]", "[[10, 10], [11, 10]]", False, 2 / 3),
    ("[10, 10]", "[30, 10]", False, 0.0),
    ("[[0, 0, 20, 20]]", "[19, 19]", True, 1.0),
    ("[[0, 0, 20, 20]]", '{"point_2d": [21, 19]}', False, 0.0),
    ("[[10, 10]]", "ten", False, 0.0),
  ],
)
def test_points_hit_points_or_boxes(answer, prediction, right, score):
  verdict = judge("point", answer, prediction)
  assert verdict.correct is right, verdict.reason
  assert verdict.score == pytest.approx(score)


def test_a_radius_of_the_row_widens_the_hit():
  assert judge("point", "[10, 10]", "[30, 10]", radius=20).correct


def test_a_grid_of_boxes_earns_less_than_one_right_box():
  rng = random.Random(0)
  grid = [
    [x, y, x + 10, y + 10] for x in range(0, 100, 10) for y in range(0, 100, 10)
  ]
  for _ in range(20):
    gold = json.dumps([rng.choice(grid)])
    assert judge("box", gold, json.dumps(grid)).score == pytest.approx(0.01)
    assert judge("box", gold, gold).score == 1
