import dataclasses
import json
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from mirl_jax import batching, build
from mirl_jax import testing_runs as runs
from mirl_jax.data import buckets
from mirl_jax.data.folder import fitting
from mirl_jax.data.share import OwnRows
from mirl_jax.data.source import BadRow, Mapped
from mirl_jax.information.estimators import MI
from mirl_jax.policy import images, processing


@pytest.fixture
def config():
  return runs.small_config(*runs.OPEN)


@pytest.fixture(scope="module")
def policy():
  return build.make_policy(runs.small_config())


@pytest.fixture(scope="module")
def examples():
  source = build.make_source(runs.small_config(), "train")
  return list(build.first_examples(source, 3))


def same(tree, other):
  jax.tree.map(np.testing.assert_array_equal, tree, other)


def batcher(policy, mi=None, seed=0):
  return batching.Batcher(policy, (32, 48, 96), (36, 144), mi, seed)


def test_prompts_are_padded_to_the_smallest_bucket(policy, examples):
  batch, views = batcher(policy).batch(examples)
  longest = max(len(policy.processor.encode(e).tokens) for e in examples)
  bucket = min(size for size in (32, 48, 96) if size >= longest)
  assert batch.tokens.shape == (3, bucket)
  assert batch.patches.shape[:2] == (3, 36)
  assert views is None
  _, unwanted = batcher(policy, MI()).batch(examples, views=False)
  assert unwanted is None


def views(policy, examples, seed=0, **fields):
  _, found = batcher(policy, MI(**fields), seed).batch(examples)
  assert found is not None
  return jax.device_get(found)


def test_views_stand_in_for_the_image(policy, examples):
  clean = jax.device_get(batcher(policy).batch(examples)[0])
  image = policy.config.image_token
  removed = views(policy, examples, view="removed")
  assert removed.tokens.shape[:2] == (1, 3)
  assert not (removed.tokens == image).any()
  blank = views(policy, examples, view="blank")
  np.testing.assert_array_equal(blank.tokens[0], clean.tokens)
  assert not np.array_equal(blank.patches[0], clean.patches)
  other = views(policy, examples, view="other", views=2)
  for m in range(2):
    for i in range(3):
      j = (i + m + 1) % 3
      np.testing.assert_array_equal(other.patches[m, i], clean.patches[j])
      real = clean.mask[j].sum()
      np.testing.assert_array_equal(
        other.tokens[m, i, :real], clean.tokens[j, :real]
      )
  same = views(policy, examples, view="other_same_question")
  np.testing.assert_array_equal(same.patches[0], np.roll(clean.patches, -1, 0))
  for i in range(3):
    real = clean.mask[i].sum()
    np.testing.assert_array_equal(
      same.tokens[0, i, :real], clean.tokens[i, :real]
    )


def test_a_question_may_be_longest_with_anothers_picture(policy, examples):
  """Then its view gets a size of its own; prompts keep theirs."""
  wide = np.concatenate([examples[1].images[0]] * 2, axis=1)
  rows = [
    dataclasses.replace(examples[0], question="how many are there? " * 3),
    dataclasses.replace(examples[1], images=(wide,)),
  ]
  lengths = [policy.processor.measure(row)[0] for row in rows]
  made = batching.Batcher(
    policy, (max(lengths),), (72,), MI(view="other_same_question"), 0
  )
  prompts, stand_ins = made.batch(rows)
  assert stand_ins is not None
  assert prompts.tokens.shape == (2, max(lengths))
  text = dataclasses.replace(rows[0], images=(wide,))
  needed = policy.processor.measure(text)[0]
  assert needed > max(lengths)
  assert stand_ins.mask[0, 0].sum() == needed
  assert stand_ins.tokens.shape[2] == buckets.round_prompt(needed)


def test_masks_depend_on_the_rate_and_the_seed(policy, examples):
  def masked(seed, rate, count=1):
    return views(
      policy, examples, seed, view="masked", mask_rate=rate, views=count
    ).patches

  np.testing.assert_array_equal(masked(0, 0.5), masked(0, 0.5))
  assert not np.array_equal(masked(0, 0.5), masked(1, 0.5))
  assert not np.array_equal(masked(0, 0.5), masked(0, 0.2))
  two = masked(0, 0.5, 2)
  assert not np.array_equal(two[0], two[1])


@pytest.mark.parametrize(
  "view", ["removed", "blank", "masked", "other", "other_same_question"]
)
def test_every_picture_is_decoded_once(policy, examples, view, monkeypatch):
  """And the views are those that each question encoded alone would give."""
  two = [
    dataclasses.replace(e, images=(e.images[0], 255 - e.images[0]))
    for e in examples
  ]
  count = 1 if view in ("removed", "blank") else 2
  mi = MI(view=view, views=count)
  processor = policy.processor

  def alone(m, i):
    other = two[(i + m + 1) % 3]
    if view == "other":
      return processor.encode(other)
    if view == "other_same_question":
      return processor.encode(dataclasses.replace(two[i], images=other.images))
    return processor.encode(
      two[i], "masked:0.5" if view == "masked" else view, 7 + m
    )

  rows = [[alone(m, i) for i in range(3)] for m in range(count)]
  decoded, decode = [], images.decode
  monkeypatch.setattr(
    images, "decode", lambda image: decoded.append(image) or decode(image)
  )
  prompts, stacked = batcher(policy, mi, seed=7).batch(two)
  asked = [id(x) for e in two for x in e.images]
  assert sorted(map(id, decoded)) == sorted(asked)
  sizes = stacked.tokens.shape[-1], stacked.patches.shape[-2]
  for m in range(count):
    want = processor.collate(rows[m], *sizes)
    for got, expected in zip(
      jax.tree.leaves(stacked), jax.tree.leaves(want), strict=True
    ):
      np.testing.assert_array_equal(got[m], expected)
  sizes = prompts.tokens.shape[-1], prompts.patches.shape[-2]
  clean = processor.collate([processor.encode(e) for e in two], *sizes)
  for got, expected in zip(
    jax.tree.leaves(prompts), jax.tree.leaves(clean), strict=True
  ):
    np.testing.assert_array_equal(got, expected)


def test_contradictory_pixel_limits_make_a_bad_row(policy, examples):
  rows = [
    dataclasses.replace(examples[0], max_pixels=1),
    dataclasses.replace(examples[1], min_pixels=10**12, max_pixels=10**13),
    examples[2],
  ]
  check = fitting(policy.processor.measure, 96, 144)
  source = Mapped(rows, check)
  with pytest.raises(
    BadRow, match="more than max_pixels 1; change both"
  ) as bad:
    source[0]
  assert bad.value.row == examples[0].id
  with pytest.raises(BadRow, match="prompt tokens, more than 96"):
    source[1]
  assert source[2] is examples[2]


def test_other_pictures_need_a_batch_of_more(policy, examples):
  with pytest.raises(ValueError, match=r"raise train\.questions"):
    views(policy, examples[:2], view="other", views=2)


@pytest.mark.parametrize("sizes", [(64, 48), (48, 48), (0, 4), ("a",)])
def test_buckets_grow(config, policy, sizes):
  config.data.patch_buckets = sizes
  with pytest.raises(ValueError, match=r"data\.patch_buckets"):
    batching.make_batcher(config, policy, None)


def folder(path, sides, questions):
  """A folder of rows: each has a square picture and a question."""
  path.mkdir()
  for i, (side, question) in enumerate(zip(sides, questions, strict=True)):
    Image.new("RGB", (side, side)).save(path / f"{i}.png")
    row = {"id": str(i), "image": f"{i}.png", "question": question}
    with (path / "data.jsonl").open("a") as file:
      file.write(json.dumps({**row, "answer": "1"}) + "\n")
  return runs.small_config(
    *runs.OPEN,
    f"--config.data.train={path}",
    f"--config.data.test={path}",
    "--config.policy.min_pixels=1",
    "--config.train.questions=1",
    "--config.program.describe.fanout=1",
    "--config.program.keep.k=1",
    "--config.program.describe.max_tokens=1",
    "--config.program.reason.max_tokens=1",
  )


def test_buckets_are_those_of_the_data(tmp_path):
  """And every row has room in them, under every view and in every batch."""
  questions = ["how many?" if i % 2 else "how many? " * 60 for i in range(12)]
  sides = [24 + 24 * (i % 3) for i in range(12)]
  config = folder(tmp_path / "data", sides, questions)
  policy = build.make_policy(config)
  chosen, line = batching.settled(config, policy)
  assert (config.data.prompt_buckets, config.data.patch_buckets) == ((), ())
  assert chosen.is_locked
  source = build.make_source(chosen, "train", policy)
  rows = [source[i] for i in range(12)]
  sizes = [policy.processor.measure(row) for row in rows]
  lengths, slots = ([size[i] for size in sizes] for i in range(2))
  window = policy.config.vision.window_patches
  for found, needed, good in (
    (chosen.data.prompt_buckets, lengths, buckets.round_prompt),
    (
      chosen.data.patch_buckets,
      slots,
      lambda n: buckets.round_patches(n, window),
    ),
  ):
    assert len(found) > 2  # of one question each, so several pay
    assert set(found[:-1]) <= {good(n) for n in needed}
    assert found[-2] >= max(needed)
    assert found[-1] >= 2 * max(needed)
  assert "of 12 measured prompts" in line
  assert ", ".join(map(str, chosen.data.prompt_buckets[:-1])) in line
  # The same anew; nothing to choose where all is chosen.
  assert batching.settled(config, policy) == (chosen, line)
  assert batching.settled(chosen, policy) == (chosen, "")
  config.data.buckets = 1
  assert len(batching.settled(config, policy)[0].data.prompt_buckets) == 2
  for view in ("removed", "blank", "other", "other_same_question"):
    config.mi.view = view
    built = batching.make_batcher(config, policy, build.make_mi(config))
    assert built.prompt_buckets[-2] >= max(lengths)
    for begin in range(0, 12, 4):
      batch, views = built.batch(rows[begin : begin + 4])
      assert batch.tokens.shape[1] in built.prompt_buckets
      assert views.tokens.shape[2] in built.prompt_buckets


def test_given_buckets_stay_beside_chosen_ones(config, policy):
  config.data.patch_buckets = (36, 144)
  chosen, line = batching.settled(config, policy)
  assert chosen.data.patch_buckets == (36, 144)
  assert len(chosen.data.prompt_buckets) > 1
  assert "patch" not in line
  config.data.buckets = 0
  with pytest.raises(ValueError, match=r"data\.buckets=0: give at least 1"):
    batching.settled(config, policy)


def test_supervised_batches_have_buckets_of_their_own(config, policy):
  """A batch of one is often short; one of 64 never is."""
  config.train.questions, config.sft.batch = 64, 1
  config.sft.response_length = 1
  assert len(batching.settled(config, policy)[0].data.prompt_buckets) == 2
  found, _ = batching.settled(config, policy, sft=True)
  assert len(found.data.prompt_buckets) == 3


def test_a_row_longer_than_all_measured_is_taken_or_named(
  tmp_path, monkeypatch
):
  """One up to twice as long has room; another is a bad row, as ever."""
  questions = ["how? " * 20, "how? " * 30, "how? " * 200]
  config = folder(tmp_path / "data", [24] * 3, questions)
  policy = build.make_policy(config)
  monkeypatch.setattr(buckets, "sample_rows", lambda source: [source[0]])
  chosen, _ = batching.settled(config, policy)
  rows = build.make_source(chosen, "train", policy)
  batch, _ = batching.make_batcher(chosen, policy, None).batch([rows[1]])
  assert batch.tokens.shape[1] == chosen.data.prompt_buckets[-1]
  with pytest.raises(BadRow, match=r"prompt tokens.*data\.prompt_buckets"):
    rows[2]


def test_pictures_are_decoded_side_by_side(policy, examples, monkeypatch):
  """Two at a time here: one alone would wait for the other for ever."""
  monkeypatch.setattr(processing, "DECODERS", 2)
  meet, decode = threading.Barrier(2, timeout=30), images.decode

  def slow(image):
    meet.wait()
    return decode(image)

  plain = jax.device_get(batcher(policy).batch(examples[:2])[0])
  monkeypatch.setattr(images, "decode", slow)
  made = jax.device_get(batcher(policy).batch(examples[:2])[0])
  same(made, plain)


def test_a_picture_that_fails_names_its_question(policy, examples):
  bad = dataclasses.replace(examples[1], images=(b"no picture",))
  with pytest.raises(ValueError, match=bad.id):
    batcher(policy).batch([examples[0], bad, examples[2]])


@pytest.mark.parametrize("view", ["blank", "other", "other_same_question"])
def test_a_process_makes_its_part_from_what_it_needs(
  policy, examples, view, monkeypatch
):
  """The second of two processes, of which each has half of each part."""
  six = [examples[i % 3] for i in range(6)]
  six = [dataclasses.replace(e, id=str(i)) for i, e in enumerate(six)]
  made = batcher(policy, MI(view=view, views=2 if "other" in view else 1))
  whole = jax.device_get(made.batch(six))
  monkeypatch.setattr(batching, "own_rows", lambda mesh, size: [size - 1])
  monkeypatch.setattr(batching, "put_rows", lambda tree, sharding, size: tree)
  needs = made.needs(6, 2)
  assert needs == ([2, 5] if view == "blank" else [0, 1, 2, 3, 4, 5])
  own = made.parts(OwnRows({i: six[i] for i in needs}, 6), 2)
  prompts, stand_ins = (
    jax.tree.map(lambda *x, a=axis: np.concatenate(x, a), *parts)
    for axis, parts in enumerate(zip(*own, strict=True))
  )
  same(prompts, jax.tree.map(lambda x: x[[2, 5]], whole[0]))
  same(stand_ins, jax.tree.map(lambda x: x[:, [2, 5]], whole[1]))
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  share = made.share(6, 2)
  assert share is not None
  assert list(share.rows) == needs
