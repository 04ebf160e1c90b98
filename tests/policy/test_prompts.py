import numpy as np
import pytest

from mirl_jax.policy import prompts as pr
from mirl_jax.testing import tiny_config

CONFIG = tiny_config()


def rope_oracle(family):
  """transformers' get_rope_index on a weightless model."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  config = getattr(transformers, f"{family}Config")(
    text_config={
      "num_hidden_layers": 1,
      "hidden_size": 16,
      "num_attention_heads": 2,
      "num_key_value_heads": 1,
      "head_dim": 8,
      "intermediate_size": 8,
      "vocab_size": 300,
      "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10.0,
        "mrope_section": [1, 1, 2],
      },
    },
    vision_config={
      "depth": 1,
      "hidden_size": 16,
      "num_heads": 2,
      "out_hidden_size": 16,
      "intermediate_size": 8,
      "spatial_merge_size": 2,
    },
  )
  with torch.device("meta"):
    model = getattr(transformers, f"{family}Model")(config)

  def positions(placeholder, grids):
    kinds = torch.tensor(placeholder, dtype=torch.int32)[None]
    # Real images are always fenced by text, so groups never touch.
    thw = torch.tensor([[1, 2 * r, 2 * c] for r, c in grids]).reshape(-1, 3)
    where, delta = model.get_rope_index(
      torch.zeros(kinds.shape, dtype=torch.long), kinds, image_grid_thw=thw
    )
    return where[:, 0].numpy(), int(delta[0]) + len(placeholder)

  return positions


@pytest.mark.parametrize("family", ["Qwen2_5_VL", "Qwen3VL"])
def test_positions_equal_transformers(family):
  oracle = rope_oracle(family)
  rng = np.random.default_rng(0)
  for _ in range(40):
    placeholder, grids = [False] * int(rng.integers(1, 9)), []
    for _ in range(rng.integers(0, 4)):
      rows, columns = (int(x) for x in rng.integers(1, 8, 2))
      grids.append((rows, columns))
      placeholder += [True] * (rows * columns)
      placeholder += [False] * int(rng.integers(1, 9))
    want, following = oracle(placeholder, grids)
    got, next_position = pr.mrope_positions(placeholder, grids)
    np.testing.assert_array_equal(got, want)
    assert next_position == following == got.max() + 1


def test_bucket_is_the_smallest_that_holds():
  sizes = (256, 64, 128)
  assert [pr.bucket(n, sizes) for n in (1, 64, 65, 256)] == [64, 64, 128, 256]
  with pytest.raises(ValueError, match=r"257 fits none.*at least 257"):
    pr.bucket(257, sizes)


def test_question_hash_is_stable_and_32_bit():
  # The check value that CRC-32 is published with.
  assert pr.question_hash("123456789") == 0xCBF43926
  hashes = {pr.question_hash(f"q{i}") for i in range(5000)}
  assert len(hashes) == 5000
  assert all(0 <= h < 2**32 for h in hashes)


def encoded(name, tokens, slots, seed=0):
  """A prompt of a given length whose units fill every second merged slot."""
  rng = np.random.default_rng(seed)
  units = np.arange(0, slots // 4, 2)
  image_slot = np.full(tokens, -1)
  image_slot[1 : 1 + len(units)] = units
  return pr.Encoded(
    id=name,
    question=pr.question_hash(name),
    tokens=rng.integers(0, 290, tokens),
    positions=rng.integers(0, 99, (3, tokens)),
    next_position=tokens,
    image_slot=image_slot,
    patches=rng.normal(size=(len(units), 4, 12)).astype(np.float32),
    patch_hw=rng.integers(0, 9, (len(units), 4, 2)),
    patch_image=rng.integers(1, 3, len(units)),
    unit_slots=units,
    slots=slots,
  )


def test_collate_pads_and_loses_nothing():
  rows = [encoded("a", 9, 32), encoded("b", 14, 16, 1), encoded("c", 3, 0, 2)]
  batch = pr.collate(rows, CONFIG, 16, 48)
  shapes = {k: v.shape for k, v in vars(batch).items()}
  assert shapes == {
    "tokens": (3, 16),
    "mask": (3, 16),
    "positions": (3, 3, 16),
    "next_position": (3,),
    "image_slot": (3, 16),
    "patches": (3, 48, 12),
    "patch_hw": (3, 48, 2),
    "patch_grid": (3, 48, 2),
    "patch_image": (3, 48),
    "question": (3,),
  }
  kinds = {k: v.dtype for k, v in vars(batch).items()}
  assert kinds.pop("mask") == np.bool_
  assert kinds.pop("patches") == np.float32
  assert kinds.pop("question") == np.uint32
  assert set(kinds.values()) == {np.dtype(np.int32)}
  for i, row in enumerate(rows):
    n = len(row.tokens)
    np.testing.assert_array_equal(batch.mask[i], np.arange(16) < n)
    np.testing.assert_array_equal(batch.tokens[i, :n], row.tokens)
    np.testing.assert_array_equal(batch.tokens[i, n:], CONFIG.pad_token)
    np.testing.assert_array_equal(batch.positions[i, :, :n], row.positions)
    np.testing.assert_array_equal(batch.positions[i, :, n:], 0)
    np.testing.assert_array_equal(batch.image_slot[i, n:], -1)
    units = batch.patches[i].reshape(12, 4, 12)
    np.testing.assert_array_equal(units[row.unit_slots], row.patches)
    numbers = batch.patch_image[i].reshape(12, 4)
    np.testing.assert_array_equal(
      numbers[row.unit_slots], np.repeat(row.patch_image[:, None], 4, 1)
    )
    padding = np.setdiff1d(np.arange(12), row.unit_slots)
    assert not numbers[padding].any()
    assert not units[padding].any()
    places = batch.patch_hw[i].reshape(12, 4, 2)
    np.testing.assert_array_equal(places[row.unit_slots], row.patch_hw)
    grids = batch.patch_grid[i].reshape(12, 4, 2)
    assert not grids[padding].any()
    for slot, number in zip(row.unit_slots, row.patch_image, strict=True):
      outer = row.patch_hw[row.patch_image == number].reshape(-1, 2).max(0)
      np.testing.assert_array_equal(grids[slot], np.tile(outer + 1, (4, 1)))
  assert batch.question[1] == pr.question_hash("b")


def test_a_batch_without_images_needs_no_slots():
  batch = pr.collate([encoded("c", 3, 0)], CONFIG, 8, 0)
  assert batch.patches.shape == (1, 0, 12)


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ((8, 32), "example 'long' needs 9 prompt tokens.*length is 8;.*least 9"),
    ((9, 16), "example 'long' needs 32 patch slots.*slots is 16;.*least 32"),
    ((9, 40), "patch_slots 40 is not a multiple of the 16 slots"),
  ],
)
def test_what_does_not_fit_is_named(sizes, message):
  rows = [encoded("short", 4, 16), encoded("long", 9, 32)]
  with pytest.raises(ValueError, match=message):
    pr.collate(rows, CONFIG, *sizes)


def test_an_empty_batch_is_refused():
  with pytest.raises(ValueError, match="at least one example"):
    pr.collate([], CONFIG, 8, 0)
