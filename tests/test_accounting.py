import numpy as np
import pytest

from mirl_jax import accounting
from mirl_jax.information.estimators import MI
from mirl_jax.learning.update import Loss
from mirl_jax.rollout.program import Sample
from mirl_jax.rollout.tree import Level

STAGES = (Sample("see", 3, 4, "x"), Sample("think", 1, 5, "y"))


NONE = np.zeros((2, 0), bool)


def slots(prompt, patches=NONE, views=None):
  return accounting.Slots(prompt, patches, views)


def level(mask):
  return Level(
    mask=mask,
    scores={},
    **dict.fromkeys("tokens sampled logprobs parent finished kept".split()),
  )


@pytest.fixture
def batch():
  rng = np.random.default_rng(0)
  text, blind = rng.random((2, 7)) < 0.7, rng.random((2, 2, 6)) < 0.5
  levels = [rng.random((2, 1, 3, 4)) < 0.6, rng.random((2, 2, 1, 5)) < 0.6]
  return text, blind, levels


@pytest.mark.parametrize(
  ("mi", "loss", "tree_passes", "first_passes"),
  [
    (None, {}, 1, 0),
    (None, {"old_logprob": "recomputed"}, 2, 0),
    (None, {"kl": {"think": 0.1}}, 2, 0),
    (None, {"kl": {"see": 0.0}}, 1, 0),
    ({}, {}, 1, 0),
    ({"scorer": "reference"}, {}, 1, 1),
    ({"plausible": 0.1}, {}, 1, 1),
    ({"temperature": 0.5}, {}, 1, 1),
  ],
)
def test_scored_tokens_are_those_of_every_pass(
  batch, mi, loss, tree_passes, first_passes
):
  text, blind, levels = batch
  views = None
  if mi is not None:
    mi = MI(stage="see", view="other", views=2, **mi)
    views = blind
  tree = text.sum() + sum(x.sum() for x in levels)
  wanted = tree_passes * tree + first_passes * (text.sum() + levels[0].sum())
  if mi is not None:
    wanted += blind.sum() + 2 * levels[0].sum()
  part, none = slots(text, views=views), slots(np.zeros_like(text))
  assert accounting.scored_tokens(
    [part, none], [level(x) for x in levels], STAGES, mi, Loss(**loss)
  ) == int(wanted)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("loops", [1, 2, 4])
def test_idle_rows_are_counted_step_by_step(seed, loops):
  """Against loops that feed every row until none lives."""
  rng = np.random.default_rng(seed)
  shapes = {"see": (8, 1, 3, 7), "think": (8, 2, 2, 5)}
  levels = {
    name: level(
      np.arange(shape[-1]) < rng.integers(1, shape[-1] + 1, (*shape[:3], 1))
    )
    for name, shape in shapes.items()
  }
  found = accounting.idle(list(levels.values()), list(levels), loops)
  for name, sampled in levels.items():
    ended = fed = 0
    for shard in np.split(sampled.mask, loops):
      rows = shard.reshape(-1, shard.shape[-1])
      for step in range(rows.shape[1]):
        if rows[:, step].any():
          fed += len(rows)
          ended += int((~rows[:, step]).sum())
    assert found[f"idle/{name}"] == pytest.approx(ended / fed)


def test_rows_of_one_length_are_never_idle():
  even = level(np.ones((2, 1, 3, 4), bool))
  assert accounting.idle([even], ["see"], 2) == {"idle/see": 0.0}


def test_padding_is_told_by_place(batch):
  text, _, levels = batch
  rng = np.random.default_rng(1)
  numbers = rng.integers(0, 3, (2, 9))  # 0 is no picture's patch
  halves = [slots(text[i : i + 1], numbers[i : i + 1] > 0) for i in range(2)]
  found = accounting.padding(halves, [level(x) for x in levels], ["a", "b"])
  assert found == {
    "padding/prompt": pytest.approx((~text).mean()),
    "padding/patches": pytest.approx((numbers == 0).mean()),
    "padding/a": pytest.approx((~levels[0]).mean()),
    "padding/b": pytest.approx((~levels[1]).mean()),
  }
  found = accounting.padding([slots(text, NONE)], [], [])
  assert set(found) == {"padding/prompt"}


@pytest.mark.parametrize(
  ("row", "nothing"),
  [
    ({"no_contrast/a": 1.0, "advantage/abs/a": 0.5}, True),
    ({"no_contrast/a": 0.9, "advantage/abs/a": 0.5}, False),
    ({"advantage/abs/a": 0.0, "advantage/abs/b": 0.0}, True),
    ({"advantage/abs/a": 0.0, "advantage/abs/b": 0.1}, False),
  ],
)
def test_steps_that_teach_nothing(row, nothing):
  assert accounting.no_contrast(row) == nothing


def test_counts_add_up_and_idleness_is_said_once_in_a_stretch():
  counts = accounting.new_counts()
  busy = {"tokens/step": 10.0, "advantage/abs/a": 0.3}
  idle = {"tokens/step": 10.0, "advantage/abs/a": 0.0}
  said = []
  for number, row in enumerate([idle] * 7 + [busy] + [idle] * 5):
    counts = accounting.count(counts, row, scored=3, complete=2)
    if accounting.idle_note(counts):
      said.append(number)
  assert said == [4, 12]
  assert accounting.counted(counts) == {
    "generated_tokens": 130,
    "scored_tokens": 39,
    "complete_trajectories": 26,
    "skipped/no_contrast_steps": 12,
  }
