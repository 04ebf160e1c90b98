import re

import grain
import numpy as np
import pytest

from mirl_jax.worlds.dials import BROKEN, WARM
from mirl_jax.worlds.items import make_item
from mirl_jax.worlds.source import WorldSource, corpus


def test_source_is_make_item():
  source = WorldSource(3, WARM, "tune", 10)
  assert len(source) == 10
  one, two = source[np.int64(7)], make_item(3, 7, WARM, "tune")
  assert (one.images[0] == two.images[0]).all()
  assert one.reasoning == two.reasoning


@pytest.mark.parametrize("index", [-1, 10])
def test_reading_past_an_end_fails(index):
  with pytest.raises(IndexError, match=str(index)):
    WorldSource(3, WARM, "tune", 10)[index]


def test_repr_names_all_that_items_depend_on():
  source = WorldSource(3, WARM, "tune", 10)
  assert repr(source) == repr(WorldSource(3, WARM, "tune", 10))
  others = [
    WorldSource(4, WARM, "tune", 10),
    WorldSource(3, BROKEN, "tune", 10),
    WorldSource(3, WARM, "test", 10),
    WorldSource(3, WARM, "tune", 11),
  ]
  assert repr(source) not in map(repr, others)


def test_grain_reads_it():
  source = WorldSource(3, BROKEN, "train", 16)
  data = grain.MapDataset.source(source).shuffle(seed=1)
  ids = [data[i].id for i in range(16)]
  assert sorted(ids) == sorted(source[i].id for i in range(16))


@pytest.mark.parametrize(
  ("arguments", "name"),
  [
    ((0, BROKEN, "valid", 1), "split"),
    ((-1, BROKEN, "train", 1), "seed"),
    ((0, BROKEN, "train", 0), "length"),
  ],
)
def test_bad_arguments_are_named(arguments, name):
  with pytest.raises(ValueError, match=name):
    WorldSource(*arguments)


def test_corpus_has_questions_and_tagged_replies():
  texts = list(corpus(WARM, 150))
  assert len(texts) == 300
  reply = re.compile(
    r"<description>[a-z ,]+</description>\n"
    r"<think>[a-z ,]+</think>\n<answer>[a-z]+</answer>"
  )
  assert all(text.endswith("?") for text in texts[0::2])
  assert all(reply.fullmatch(text) for text in texts[1::2])
  assert texts != list(corpus(WARM, 150, seed=1))


def test_the_vocabulary_is_small():
  """A small BPE can hold every word as one token."""
  words = set()
  for text in corpus(WARM, 500):
    words |= set(re.findall(r"[a-z]+", text))
  assert len(words) < 100
