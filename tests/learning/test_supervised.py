"""Demonstrations on the host, and their loss against a dense forward."""

import dataclasses
import re
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mirl_jax.data.example import Example
from mirl_jax.learning.state import new_state
from mirl_jax.learning.supervised import (
  Demonstrations,
  DemonstrationSizes,
  build_supervised_update,
  demonstrations,
  region_words,
  response_fitting,
  response_text,
  supervised_loss,
)
from mirl_jax.policy.images import ImageSettings
from mirl_jax.policy.processing import Processor
from mirl_jax.rollout.program import Sample
from mirl_jax.rollout.tree import Level, Tree
from mirl_jax.testing import ORDINARY, random_params, random_prompts

PLACEHOLDER = "\N{WHITE SQUARE}"


@dataclass
class Words:
  """A tokenizer of tags, words behind a space, and single characters."""

  image_token: int
  ids: dict = field(default_factory=dict)

  def encode(self, text, add_special_tokens=False):
    found = []
    for piece in re.findall(r"</?\w+>|\s\w+|.|\n", text):
      if piece == PLACEHOLDER:
        found.append(self.image_token)
      else:
        found.append(self.ids.setdefault(piece, len(self.ids)))
    assert len(self.ids) <= ORDINARY
    return found

  def apply_chat_template(self, messages, **_):
    return "".join(
      PLACEHOLDER if part["type"] == "image" else part["text"]
      for part in messages[-1]["content"]
    )


@pytest.fixture
def processor(small):
  vision = small.vision
  settings = ImageSettings(
    patch=vision.patch,
    temporal_patch=vision.temporal_patch,
    merge=vision.merge,
    window_units=2,
    min_pixels=1,
    max_pixels=4096,
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
  )
  return Processor(small, settings, Words(small.image_token), "", ())


def example(seed=0, **changes):
  rng = np.random.default_rng(seed)
  values = {
    "id": f"q{seed}",
    "images": (rng.integers(0, 256, (8, 8, 3), np.uint8),),  # 2 x 2 units
    "question": "how many",
    "answer": "2",
    "description": "red circle",
    "reasoning": "one and one",
    "regions": (("red", "circle"), ("empty",), ("blue", "square"), ("empty",)),
  }
  return Example(**{**values, **changes})


SIZES = DemonstrationSizes(prompt=12, patches=16, response=24)


def make(examples, processor, blank=None, **changes):
  sizes = dataclasses.replace(SIZES, **changes)
  blank = [False] * len(examples) if blank is None else blank
  return demonstrations(examples, processor, sizes, blank)


def test_response_text_is_the_tagged_format():
  see, reason = response_text(example())
  assert see == "<description> red circle</description>\n"
  assert reason == "<think> one and one</think>\n<answer> 2</answer>"
  slip = example(extra={"demonstrated_answer": "3"})
  assert response_text(slip)[1].endswith("<answer> 3</answer>")


def test_tokens_masks_and_weights(processor):
  batch = make([example(), example(1, reasoning="so")], processor)
  see, reason = response_text(example())
  ids = processor.encode_text(see + reason)
  first, n = len(processor.encode_text(see)), len(ids)
  np.testing.assert_array_equal(batch.tokens[0, :n], ids)
  np.testing.assert_array_equal(batch.mask[0], np.arange(24) < n)
  want = np.zeros(24)
  want[:first], want[first:n] = 1, 2
  np.testing.assert_array_equal(batch.weight[0], want)
  assert batch.mask[1].sum() < n
  other = make([example()], processor, reasoning_weight=5.0)
  assert other.weight.max() == 5


def test_region_words_stand_at_their_placeholders(processor):
  e = example()
  batch = make([e], processor)
  tokens = batch.prompts.tokens[0]
  places = np.flatnonzero(tokens == processor.config.image_token)
  assert len(places) == 4

  def first(word):
    return int(processor.encode_text(f" {word}")[0])

  for place, names in zip(places, e.regions, strict=True):
    want = [first(name) for name in names] + [-1] * (2 - len(names))
    assert batch.words[0, place].tolist() == want
  elsewhere = np.setdiff1d(np.arange(12), places)
  assert (batch.words[0, elsewhere] == -1).all()
  narrow = make([e], processor, words=1)
  np.testing.assert_array_equal(narrow.words[0], batch.words[0, :, :1])


@pytest.mark.parametrize("regions", [(), (("red",),) * 3])
def test_regions_that_do_not_match_the_picture_teach_no_words(
  processor, regions
):
  e = example(regions=regions)
  tokens = processor.encode(e).tokens
  assert (region_words(e, processor, tokens, 2) == -1).all()


def test_blank_pictures(processor):
  examples = [example(i) for i in range(6)]
  wanted = np.array([True, False, False, True, True, False])
  clean = make(examples, processor)
  some = make(examples, processor, wanted)

  def blank(batch):
    return np.asarray(batch.prompts.patches).std(axis=(1, 2)) < 1e-6

  assert not blank(clean).any()
  np.testing.assert_array_equal(blank(some), wanted)
  # A grey picture teaches no words; the response stays.
  taught = (some.words >= 0).any(axis=(1, 2))
  np.testing.assert_array_equal(taught, ~wanted)
  np.testing.assert_array_equal(some.tokens, clean.tokens)


def test_a_response_fits_where_its_batch_takes_it(processor):
  one = example()
  (needed,) = make([one], processor).mask.sum(axis=1).tolist()
  assert response_fitting(processor, needed)(one) is one
  with pytest.raises(ValueError, match=f"needs {needed} response tokens, more"):
    response_fitting(processor, needed - 1)(one)


def test_what_cannot_be_demonstrated_is_an_error(processor):
  with pytest.raises(
    ValueError, match="'q0' needs .* sft.response_length is 5"
  ):
    make([example()], processor, response=5)
  for missing in ("description", "answer"):
    with pytest.raises(
      ValueError, match="'q0' has no description or no answer"
    ):
      make([example(**{missing: ""})], processor)


B, T, W = 3, 5, 2
# GRIDS of mirl_jax.testing: one picture, two pictures, none.


@pytest.fixture(scope="module")
def batch(small):
  rng = np.random.default_rng(0)
  prompts = jax.tree.map(jnp.asarray, random_prompts(small, 0))
  mask = np.arange(T) < rng.integers(1, T + 1, (B, 1))
  words = rng.integers(-1, ORDINARY, (*prompts.tokens.shape, W))
  words = np.where(np.asarray(prompts.image_slot)[..., None] >= 0, words, -1)
  return Demonstrations(
    prompts=prompts,
    tokens=jnp.asarray(rng.integers(0, ORDINARY, (B, T)), jnp.int32),
    mask=jnp.asarray(mask),
    # Weights under the mask are garbage: they may not count.
    weight=jnp.asarray(rng.uniform(0.5, 2, (B, T)), jnp.float32),
    words=jnp.asarray(words, jnp.int32),
  )


def by_hand(params, config, batch, paths_of, flat_scores, dense_naming):
  """Both losses from a dense forward of each demonstration by itself."""
  shape = (B, 1, 1)
  level = Level(
    tokens=batch.tokens.reshape(*shape, T),
    mask=batch.mask.reshape(*shape, T),
    sampled=batch.mask.reshape(*shape, T),
    logprobs=jnp.zeros((*shape, T)),
    parent=jnp.zeros((B, 1), jnp.int32),
    finished=jnp.ones(shape, bool),
    kept=jnp.ones(shape, bool),
    scores={},
  )
  tree = Tree(batch.prompts, (level,))
  paths = paths_of(tree)
  stages = (Sample("respond", 1, T, "</a>"),)
  named = np.argwhere(np.asarray(batch.words) >= 0)

  def loss(params, region_weight):
    scores = flat_scores(params, config, tree, paths, stages)[0][0][:, 0]
    top = bottom = 0.0
    for b, t in np.argwhere(np.asarray(batch.mask)):
      top = top - scores[b, t] * batch.weight[b, t]
      bottom = bottom + batch.weight[b, t]
    says = jax.nn.log_softmax(dense_naming(params, config, batch.prompts))
    naming = 0.0
    for b, p, w in named:
      naming = naming - says[b, p, batch.words[b, p, w]]
    return top / bottom + region_weight * naming / len(named)

  return loss


@pytest.mark.parametrize("region_weight", [0.0, 0.7])
def test_loss_and_gradient_by_hand(
  small,
  batch,
  region_weight,
  paths_of,
  flat_scores,
  dense_naming,
  close,
  quick_jit,
):
  params = random_params(small, 0)
  (value, parts), grads = quick_jit(
    jax.value_and_grad(
      lambda p, b: supervised_loss(p, small, b, region_weight), has_aux=True
    )
  )(params, batch)
  hand = by_hand(params, small, batch, paths_of, flat_scores, dense_naming)
  want, want_grads = quick_jit(
    jax.value_and_grad(lambda p: hand(p, region_weight))
  )(params)
  assert float(value) == pytest.approx(float(want), rel=1e-5)
  assert float(parts["loss/total"]) == float(value)
  assert ("sft/naming" in parts) == (region_weight > 0)
  close(grads, want_grads)


def test_updates_lower_the_loss(small, batch, quick_jit):
  optimizer = optax.adam(3e-3)
  run = quick_jit(build_supervised_update(small, optimizer, 0.5))
  state = new_state(random_params(small, 0), optimizer, False, False)
  found = []
  for _ in range(12):
    state, metrics = run(state, batch)
    found.append({name: float(x) for name, x in metrics.items()})
  assert found[-1]["sft/nll"] < 0.7 * found[0]["sft/nll"]
  assert found[-1]["sft/naming"] < 0.9 * found[0]["sft/naming"]
  assert found[0]["grad_norm"] > 0
  assert int(state.step) == 12
  assert int(state.skipped) == 0
