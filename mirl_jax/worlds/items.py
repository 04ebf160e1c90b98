"""Items of the world, each a pure function of (seed, index, dials, split)."""

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mirl_jax.data.example import Example
from mirl_jax.worlds.demonstrate import demonstrate
from mirl_jax.worlds.describe import (
  Item,
  check_description,
  describe,
  true_facts,
)
from mirl_jax.worlds.dials import Dials
from mirl_jax.worlds.draw import draw, place, sample_look
from mirl_jax.worlds.questions import (
  YES_NO,
  Draft,
  Form,
  Question,
  draft,
  sample_cell,
)
from mirl_jax.worlds.scene import (
  CELLS,
  Bar,
  Scene,
  Thing,
  cell_words,
  scene_from_dict,
)

# Which quarters of all scenes, by a hash of their content, a split owns.
SPLITS = {"train": (0, 1), "tune": (2,), "test": (3,)}

_INDEX_BITS = 62  # the split's number takes the other two bits of a key


def _streams(
  seed: int, index: int, split: str
) -> tuple[np.random.Generator, np.random.Generator, np.random.Generator]:
  """Random streams of an item: content, look, demonstration.

  They are apart so that no dial of perception or of the teacher changes what
  a picture holds or what is asked.
  """
  if split not in SPLITS:
    raise ValueError(f"split={split!r}: give one of {tuple(SPLITS)}")
  if not 0 <= seed < 2**64:
    raise ValueError(f"seed={seed}: give 0 <= seed < 2**64")
  if not 0 <= index < 2**_INDEX_BITS:
    raise ValueError(f"index={index}: give 0 <= index < 2**{_INDEX_BITS}")
  number = tuple(SPLITS).index(split)
  key = np.array([seed, number << _INDEX_BITS | index], np.uint64)
  content, look, demonstration = (
    np.random.Generator(
      np.random.Philox(key=key, counter=np.array([0, 0, 0, i], np.uint64))
    )
    for i in range(3)
  )
  return content, look, demonstration


def quarter(
  cells: tuple[Form | None, ...], bars: tuple[tuple[str, int], ...]
) -> int:
  """Hashes what a picture holds, wherever within its cells, to 0, 1, 2 or 3."""
  content = repr(([tuple(cell or ()) for cell in cells], bars))
  return hashlib.blake2b(content.encode(), digest_size=1).digest()[0] & 3


def _cells(
  sketch: Draft, dials: Dials, rng: np.random.Generator
) -> tuple[Form | None, ...]:
  """What the region must hold and, as distractors, whatever in other cells."""
  if sketch.bars:
    return ()
  asked = dict(zip(sketch.question.places, sketch.forms, strict=True))
  return tuple(
    asked[cell] if cell in asked else sample_cell(rng, dials.prior)
    for cell in CELLS
  )


def _content(
  rng: np.random.Generator, dials: Dials, split: str
) -> tuple[Item, str]:
  while True:
    sketch = draft(rng, dials)
    cells = _cells(sketch, dials, rng)
    if quarter(cells, sketch.bars) in SPLITS[split]:
      break
  if sketch.bars:
    bars = tuple(Bar(i, *bar) for i, bar in enumerate(sketch.bars))
    return Item(Scene("chart", bars=bars), sketch.question), sketch.answer
  things = tuple(
    Thing(CELLS[i], *form, place(i, form.shape, form.size, rng))
    for i, form in enumerate(cells)
    if form is not None
  )
  return Item(Scene("shapes", things), sketch.question), sketch.answer


def item_from_extra(extra: Mapping[str, Any]) -> Item:
  """The scene and question of an example, from its `extra` or from JSON."""
  question = Question(extra["kind"], extra["region"], tuple(extra["args"]))
  return Item(scene_from_dict(extra["scene"]), question)


def _relevant_boxes(item: Item) -> list[list[int]]:
  if item.scene.kind == "chart":
    return [list(bar.box) for bar in item.scene.bars]
  places = item.question.places
  return [list(t.box) for t in item.scene.things if t.cell in places]


def make_item(seed: int, index: int, dials: Dials, split: str) -> Example:
  """Makes one example; equal arguments give equal bits.

  Splits share no picture content: a scene belongs to the split that owns the
  hash of its content (colours, shapes, sizes and cells; colours and heights
  of bars), and others are drawn again. This holds across seeds and dials.

  Returns:
    An example with one uint8 [48, 48, 3] image. `answer` is true;
    `description` and `reasoning` are the teacher's and may be wrong, with
    `extra["demonstrated_answer"]` to go with them. `extra` further holds
    scene, kind, region, args, true_description, boxes (of what is asked
    about), hallucinated, slipped, sigma and occluded (grey boxes).

  Raises:
    ValueError: for a split, seed or index out of range.
  """
  content_rng, look_rng, teacher_rng = _streams(seed, index, split)
  item, answer = _content(content_rng, dials, split)
  look = sample_look(item.scene, dials, look_rng)
  shown = demonstrate(item, dials, teacher_rng)
  question = item.question
  return Example(
    id=f"world/{split}/{seed}/{index}",
    images=(draw(item.scene, look, look_rng),),
    question=question.text,
    answer=answer,
    answer_type="yes_no" if question.kind in YES_NO else "text",
    category=question.kind,
    description=shown.description,
    reasoning=shown.reasoning,
    regions=cell_words(item.scene),
    check=functools.partial(check_description, item=item),
    extra={
      "scene": item.scene.to_dict(),
      "kind": question.kind,
      "region": question.region,
      "args": list(question.args),
      "true_description": describe(
        true_facts(item), sized=question.kind == "size"
      ),
      "demonstrated_answer": shown.answer,
      "hallucinated": shown.hallucinated,
      "slipped": shown.slipped,
      "boxes": _relevant_boxes(item),
      "sigma": look.sigma,
      "occluded": [list(box) for box, _ in look.patches],
    },
  )
