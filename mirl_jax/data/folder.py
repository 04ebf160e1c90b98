"""The examples of a user's data, as a configuration describes them."""

import difflib
from collections.abc import Callable

from ml_collections import ConfigDict

from mirl_jax.data.describe import DESCRIBERS
from mirl_jax.data.example import Example
from mirl_jax.data.open import open_source
from mirl_jax.data.source import Mapped, Shuffled, Source


def folder_source(data: ConfigDict, split: str) -> Source:
  """The train or the test split of `data.train`, or all of `data.test`.

  The test split stands in a shuffled order, so that its first rows are a fair
  sample of it.

  Args:
    data: the config's section.
    split: train or test.

  Raises:
    FileNotFoundError: if there is nothing at the path.
    ValueError: for an unknown `describe`, and as `open_source`.
  """
  if data.describe and data.describe not in DESCRIBERS:
    near = difflib.get_close_matches(data.describe, DESCRIBERS, 1, 0)[0]
    raise ValueError(
      f"data.describe={data.describe!r} is none of {', '.join(DESCRIBERS)};"
      f" did you mean {near!r}? Leave it empty for data of your own"
    )
  own = bool(data.test)
  training = split == "train"
  source = open_source(
    data.test if own and not training else data.train,
    split="all" if own else split,
    columns=data.columns,
    image_folder=data.image_folder,
    test_share=data.test_share,
    group=data.group,
    group_pattern=data.group_pattern,
    need_answer=not data.unanswered,
    # What is hard or weighty is a matter of training, not of its measure.
    difficulty=data.difficulty if training else "",
    weight_column=data.weight_column if training else "",
  )
  if data.describe:
    source = Mapped(source, DESCRIBERS[data.describe])
  return Shuffled(source) if split == "test" else source


def demonstrated(example: Example) -> Example:
  """An example that can be demonstrated, as supervised training needs it.

  Raises:
    ValueError: if it has no description or no answer.
  """
  if not example.description or not example.answer:
    missing = "answer" if example.description else "description"
    raise ValueError(f"no {missing} to demonstrate; fill that column")
  return example


def fitting(
  measure: Callable[[Example], tuple[int, int]], tokens: int, patches: int
) -> Callable[[Example], Example]:
  """A check that an example's prompt fits the largest buckets.

  Args:
    measure: prompt tokens and patch slots of an example.
    tokens: the most prompt tokens.
    patches: the most patch slots.
  """

  def fits(example: Example) -> Example:
    """The example itself; ValueError where it does not fit."""
    size = measure(example)
    limits = (tokens, patches)
    for needed, limit, field, what in zip(
      size,
      limits,
      ("prompt_buckets", "patch_buckets"),
      ("prompt tokens", "patch slots"),
      strict=True,
    ):
      if needed > limit:
        raise ValueError(
          f"needs {needed} {what}, more than {limit}; add to data.{field}, or"
          " lower policy.max_pixels"
        )
    return example

  return fits
