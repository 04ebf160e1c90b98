"""The policy against transformers, and its parts against each other."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.abstract import abstract_params
from mirl_jax.policy.attention import Segment
from mirl_jax.policy.configs import from_hf
from mirl_jax.policy.forward import (
  ancestor_indices,
  decode_step,
  embed_prompts,
  empty_cache,
  gather_nodes,
  prefill,
  shape_logits,
  start_positions,
  token_logprobs,
  tree_hidden,
)
from mirl_jax.policy.text import head_logits
from mirl_jax.policy.vision import encode_images
from mirl_jax.policy.weights import save_params
from mirl_jax.testing_flat import (
  extend,
  flat_logits,
  flat_node_logits,
  node_path,
)

QWEN = Path(__file__).parents[3] / "shared" / "data" / "qwen"
CONFIG = tiny.tiny_config()
# Blocks of the tower: one group, two scanned groups (here with an untied head
# and stills doubled in time), and irregular ones.
CONFIGS = {
  "one group": CONFIG,
  "scanned groups": tiny.tiny_config(
    tied=False, depth=4, full_blocks=(1, 3), layers=3, temporal_patch=2
  ),
  "irregular blocks": tiny.tiny_config(depth=3, full_blocks=(0,)),
}
# Two unequal images, grids that the 2 x 2 window does not divide, no image.
GRIDS = (((1, 3), (4, 2)), ((3, 3),), (), ((2, 2), (1, 1)), ((5, 2),))
SHAPE = ((1, 4, 6), (2, 2, 5), (3, 1, 4))


@functools.partial(jax.jit, static_argnames=("config", "remat"))
def tree_logits(params, prompts, levels, config=CONFIG, remat=False):
  hidden = tree_hidden(params, config, prompts, levels, remat=remat)
  return tuple(head_logits(params["text"], h) for h in hidden)


prefill_jit = jax.jit(prefill, static_argnums=1)
decode_jit = jax.jit(decode_step, static_argnums=1)
embed_jit = jax.jit(embed_prompts, static_argnums=(1, 3))
encode_jit = jax.jit(encode_images, static_argnums=1)


@pytest.fixture(scope="module")
def params():
  return tiny.random_params(CONFIG)


@pytest.fixture(scope="module")
def prompts():
  return tiny.random_prompts(CONFIG)


@pytest.fixture(scope="module")
def levels():
  return tiny.random_nodes(0, 3, SHAPE)


def real(x, mask):
  return np.asarray(x)[np.asarray(mask)]


# Against transformers.


def hf_config(config):
  """A `config.json` of this config."""
  vision, text = config.vision, config.text
  return {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "hidden_size": text.width,
    "intermediate_size": text.mlp,
    "num_hidden_layers": text.layers,
    "num_attention_heads": text.heads,
    "num_key_value_heads": text.kv_heads,
    "vocab_size": text.vocab,
    "rms_norm_eps": text.rms_eps,
    "rope_theta": text.rope_theta,
    "rope_scaling": {"type": "mrope", "mrope_section": [*text.mrope_section]},
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "use_sliding_window": False,
    "tie_word_embeddings": text.tied,
    "image_token_id": config.image_token,
    "video_token_id": config.video_token,
    "vision_start_token_id": config.vision_start_token,
    "vision_end_token_id": config.vision_end_token,
    "eos_token_id": config.eos_tokens[0],
    "pad_token_id": config.pad_token,
    "torch_dtype": "float32",
    "vision_config": {
      "depth": vision.depth,
      "hidden_size": vision.width,
      "num_heads": vision.heads,
      "intermediate_size": vision.mlp,
      "out_hidden_size": vision.out_width,
      "patch_size": vision.patch,
      "spatial_patch_size": vision.patch,
      "temporal_patch_size": vision.temporal_patch,
      "spatial_merge_size": vision.merge,
      "window_size": vision.window,
      "fullatt_block_indexes": [*vision.full_blocks],
      "in_chans": vision.channels,
      "hidden_act": "silu",
      "tokens_per_second": 2,
    },
  }


def torch_model(config, params, folder):
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  (folder / "config.json").write_text(json.dumps(hf_config(config)))
  save_params(folder, params, config)
  kind = transformers.Qwen2_5_VLForConditionalGeneration
  model = kind.from_pretrained(folder, attn_implementation="eager")
  return model.float().eval()


def pictures(config, prompts):
  """The batch's images as transformers wants them: patches of all images in
  row-major order of merge units, the grids, and each patch's slot."""
  merge = config.vision.merge
  pixels, grids, places = [], [], []
  image = np.asarray(prompts.patch_image)
  for b in range(len(image)):
    for number in range(1, image[b].max(initial=0) + 1):
      slots = np.flatnonzero(image[b] == number)
      hw = np.asarray(prompts.patch_hw)[b, slots]
      row, column = hw.T
      order = np.lexsort((column, row, column // merge, row // merge))
      pixels.append(np.asarray(prompts.patches)[b, slots[order]])
      grids.append([1, row.max() + 1, column.max() + 1])
      places += [(b, slot) for slot in slots[order]]
  return np.concatenate(pixels), np.array(grids), places


def torch_inputs(config, prompts):
  import torch

  tokens = torch.tensor(np.asarray(prompts.tokens), dtype=torch.long)
  inputs = {
    "input_ids": tokens,
    "attention_mask": torch.tensor(np.asarray(prompts.mask)).long(),
    "mm_token_type_ids": (tokens == config.image_token).int(),
  }
  if np.asarray(prompts.patch_image).any():
    pixels, grids, _ = pictures(config, prompts)
    inputs["pixel_values"] = torch.tensor(pixels)
    inputs["image_grid_thw"] = torch.tensor(grids)
  return inputs


@pytest.mark.parametrize("name", CONFIGS)
def test_everything_equals_transformers(name, tmp_path):
  config = CONFIGS[name]
  assert from_hf(hf_config(config)) == config
  params = tiny.random_params(config, 1)
  model = torch_model(config, params, tmp_path)
  import torch

  for seed in range(3):
    prompts = tiny.random_prompts(config, seed, GRIDS)
    b = len(GRIDS)
    levels = tiny.random_nodes(seed, b, ((1, 1, 7),))
    tails = [node_path(levels, 0, q, 0)[0] for q in range(b)]
    batch = extend(prompts, range(b), tails, 7)
    with torch.no_grad():
      out = model(
        **torch_inputs(config, batch),
        output_hidden_states=True,
        use_cache=True,
      )
    # Logits after every token, through the dense oracle and the tree.
    logits = out.logits.numpy()
    mask = np.asarray(batch.mask)
    dense = flat_logits(params, config, batch)
    np.testing.assert_allclose(real(dense, mask), logits[mask], atol=1e-4)
    tree = np.asarray(tree_logits(params, prompts, levels, config)[0])
    for q in range(b):
      end, count = mask[q].sum() - 1, len(tails[q])
      np.testing.assert_allclose(
        tree[q, 0, :count], logits[q, end - count : end], atol=1e-4
      )
    # Every layer's keys and values (already rotated).
    ready = prefill_jit(params, config, batch)
    for segment, layer in zip(
      ready.segments, out.past_key_values.layers, strict=True
    ):
      for ours, theirs in (
        (segment.keys, layer.keys),
        (segment.values, layer.values),
      ):
        ours = np.asarray(ours[:, 0]).swapaxes(1, 2)
        theirs = theirs.numpy().swapaxes(1, 2)
        np.testing.assert_allclose(ours[mask], theirs[mask], atol=1e-4)
    last = out.hidden_states[-1].numpy()[np.arange(b), mask.sum(1) - 1]
    np.testing.assert_allclose(ready.hidden[:, 0], last, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_visual_features_equal_transformers(name, tmp_path):
  config = CONFIGS[name]
  params = tiny.random_params(config, 2)
  model = torch_model(config, params, tmp_path)
  import torch

  for seed in range(3):
    prompts = tiny.random_prompts(config, seed, GRIDS)
    pixels, grids, places = pictures(config, prompts)
    with torch.no_grad():
      want = model.model.get_image_features(
        torch.tensor(pixels), torch.tensor(grids)
      )
    want = torch.cat(list(want.pooler_output)).numpy()
    got = np.asarray(
      encode_jit(
        params["vision"],
        config.vision,
        prompts.patches,
        prompts.patch_hw,
        prompts.patch_image,
      )
    )
    unit = config.vision.merge_unit
    got = np.stack([got[b, slot // unit] for b, slot in places[::unit]])
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_text_only_batches_equal_transformers(tmp_path):
  params = tiny.random_params(CONFIG, 3)
  model = torch_model(CONFIG, params, tmp_path)
  import torch

  prompts = tiny.random_prompts(CONFIG, 0, ((),) * 4)
  assert prompts.patches.shape[1] == 0
  batch = extend(prompts, range(4), [[1], [2, 3, 4], [], [5] * 9], 9)
  with torch.no_grad():
    want = model(**torch_inputs(CONFIG, batch)).logits.numpy()
  got = flat_logits(params, CONFIG, batch)
  np.testing.assert_allclose(
    real(got, batch.mask), want[np.asarray(batch.mask)], atol=1e-4
  )


# Against each other.


@pytest.mark.parametrize("seed", range(3))
def test_tree_equals_independent_sequences(params, seed):
  prompts = tiny.random_prompts(CONFIG, seed)
  levels = tiny.random_nodes(seed, 3, SHAPE)
  got = tree_logits(params, prompts, levels)
  want = flat_node_logits(params, CONFIG, prompts, levels)
  for g, w, level in zip(got, want, levels, strict=True):
    # Float32 sums in another order; logits are about 1.
    np.testing.assert_allclose(
      real(g, level.mask), real(w, level.mask), atol=1e-5
    )


def test_tree_gradients_equal_those_of_independent_sequences(params, prompts):
  levels = tiny.random_nodes(5, 3, SHAPE[:2])
  rng = np.random.default_rng(0)
  pays = [rng.normal(size=x.tokens.shape) * np.asarray(x.mask) for x in levels]

  def tree_loss(params):
    hidden = tree_hidden(params, CONFIG, prompts, levels)
    total = 0.0
    for h, level, pay in zip(hidden, levels, pays, strict=True):
      total += jnp.sum(token_logprobs(params, h, level.tokens)[0] * pay)
    return total

  questions, tails, wanted = [], [], []
  for number, (level, pay) in enumerate(zip(levels, pays, strict=True)):
    for q, n in np.ndindex(*level.tokens.shape[:2]):
      path = node_path(levels, number, q, n)
      tail = [token for node in path for token in node]
      questions.append(q)
      tails.append(tail)
      own = len(path[-1])
      wanted.append((len(tail) - own, pay[q, n, :own]))
  batch = extend(prompts, questions, tails, 11)
  start = np.asarray(prompts.mask).sum(axis=1)[questions]
  weights = np.zeros(batch.tokens.shape)
  for i, (before, pay) in enumerate(wanted):
    at = start[i] + before
    weights[i, at : at + len(pay)] = pay

  def flat_loss(params):
    logprobs = jax.nn.log_softmax(flat_logits(params, CONFIG, batch))
    chosen = jnp.take_along_axis(
      logprobs[:, :-1], jnp.asarray(batch.tokens)[:, 1:, None], axis=-1
    )
    return jnp.sum(chosen[..., 0] * weights[:, 1:])

  got, want = (
    jax.jit(jax.value_and_grad(loss))(params) for loss in (tree_loss, flat_loss)
  )
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)

  def same(path, g, w):
    scale = float(jnp.abs(w).max())
    # A key's bias shifts all logits of a query alike: its gradient is 0.
    assert scale > 1e-3 or "'k'" in str(path), path
    np.testing.assert_allclose(g, w, atol=1e-5 * max(scale, 1.0))

  jax.tree_util.tree_map_with_path(same, got[1], want[1])


def test_prefill_and_decode_steps_equal_the_tree(params, prompts, levels):
  """Two levels token by token, the second below ragged parents."""
  want = tree_logits(params, prompts, levels)
  ready = prefill_jit(params, CONFIG, prompts)
  ancestors = tuple((segment,) for segment in ready.segments)
  starts = start_positions(jnp.asarray(prompts.next_position), levels)
  first = jnp.repeat(ready.hidden, 4, axis=1)
  for number, level in enumerate(levels[:2]):
    b, r, t = level.tokens.shape
    cache = empty_cache(CONFIG, b, r, t)
    hidden, states = first, []
    for step in range(t):
      states.append(hidden)
      hidden, cache = decode_jit(
        params,
        CONFIG,
        level.tokens[:, :, step],
        starts[number] + step,
        jnp.asarray(step),
        ancestors,
        cache,
      )
    states.append(hidden)
    states = jnp.stack(states, axis=2)
    got = head_logits(params["text"], states[:, :, :-1])
    np.testing.assert_allclose(
      real(got, level.mask), real(want[number], level.mask), atol=1e-5
    )
    below = levels[number + 1]
    index = below.parent
    length = jnp.sum(level.mask, axis=-1)
    ends = jnp.take_along_axis(states, length[:, :, None, None], axis=2)
    fanout = below.tokens.shape[1] // index.shape[1]
    first = jnp.repeat(gather_nodes(ends[:, :, 0], index), fanout, axis=1)
    ancestors = tuple(
      (*above, Segment(*(gather_nodes(x, index) for x in (k, v, level.mask))))
      for above, k, v in zip(ancestors, cache.keys, cache.values, strict=True)
    )


def test_what_padding_holds_changes_no_bit(params, prompts, levels):
  rng = np.random.default_rng(0)

  def junk(x, keep, low, high):
    noise = rng.integers(low, high, x.shape).astype(np.asarray(x).dtype)
    return jnp.asarray(np.where(keep, x, noise))

  mask, patch = np.asarray(prompts.mask), np.asarray(prompts.patch_image) > 0
  other = prompts.replace(
    tokens=junk(prompts.tokens, mask, 0, 64),
    positions=junk(prompts.positions, mask[:, None], 0, 99),
    patches=junk(prompts.patches, patch[..., None], -9, 9),
    patch_hw=junk(prompts.patch_hw, patch[..., None], 0, 9),
  )
  noisy = tuple(
    x._replace(tokens=junk(x.tokens, np.asarray(x.mask), 0, 64)) for x in levels
  )
  assert (other.patches != prompts.patches).any()
  for got, want, level in zip(
    tree_logits(params, other, noisy),
    tree_logits(params, prompts, levels),
    levels,
    strict=True,
  ):
    np.testing.assert_array_equal(real(got, level.mask), real(want, level.mask))


def test_wider_padding_changes_nothing(params, prompts, levels):
  wide = tiny.random_prompts(CONFIG, 0, patch_slots=80, prompt_length=40)
  assert wide.tokens.shape[1] > prompts.tokens.shape[1]
  wider = tuple(
    x._replace(
      tokens=jnp.pad(x.tokens, ((0, 0), (0, 0), (0, 3))),
      mask=jnp.pad(x.mask, ((0, 0), (0, 0), (0, 3))),
    )
    for x in levels
  )
  for got, want, level in zip(
    tree_logits(params, wide, wider),
    tree_logits(params, prompts, levels),
    levels,
    strict=True,
  ):
    got = got[:, :, : level.tokens.shape[2]]
    np.testing.assert_allclose(
      real(got, level.mask), real(want, level.mask), atol=1e-5
    )


def test_the_image_matters(params, prompts, levels):
  other = prompts.replace(patches=-prompts.patches)
  got, want = (tree_logits(params, p, levels)[0] for p in (other, prompts))
  change = np.abs(np.asarray(got - want)).max(axis=(1, 2, 3))
  assert change[0] > 0.01
  assert change[1] > 0.01
  assert change[2] == 0.0  # has none


@pytest.mark.parametrize("name", CONFIGS)
def test_remat_recomputes_and_changes_no_result(name):
  config = CONFIGS[name]
  params = tiny.random_params(config)
  prompts = tiny.random_prompts(config)
  levels = tiny.random_nodes(0, 3, ((1, 2, 4),))

  def loss(params, remat):
    hidden = tree_hidden(params, config, prompts, levels, remat=remat)
    return jnp.sum(hidden[0] ** 2)

  plain, recomputing = (
    lambda p, r=remat: jax.grad(loss)(p, r) for remat in (False, True)
  )
  # The scanned decoder once, and blocks of the tower (or their scan) each.
  tower = {"one group": 2, "scanned groups": 1, "irregular blocks": 3}[name]
  for function, want in ((plain, 0), (recomputing, 1 + tower)):
    text = str(jax.make_jaxpr(function)(params))
    assert len(re.findall(r"(?:checkpoint|remat\d?)\[", text)) == want
  if name == "irregular blocks":  # one compilation suffices
    g, rg = jax.jit(plain)(params), jax.jit(recomputing)(params)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(
        a, b, atol=1e-5 * float(jnp.abs(b).max()) + 1e-5
      ),
      rg,
      g,
    )


def test_given_embeddings_are_used(params, prompts, levels):
  embedded = embed_jit(params, CONFIG, prompts, jnp.float32)
  run = jax.jit(
    lambda e: tree_hidden(params, CONFIG, prompts, levels, embedded=e)[0]
  )
  mask = np.asarray(levels[0].mask)
  want = tree_logits(params, prompts, levels)[0][mask]
  got = [
    head_logits(params["text"], run(e)[mask]) for e in (embedded, -embedded)
  ]
  np.testing.assert_allclose(got[0], want, atol=1e-5)
  assert not np.allclose(got[1], want, atol=1e-2)


def test_bfloat16_activations_stay_near_float32(params, prompts, levels):
  half, full = (
    jax.jit(
      lambda d=dtype: tree_hidden(params, CONFIG, prompts, levels[:1], d)
    )()
    for dtype in (jnp.bfloat16, jnp.float32)
  )
  assert half[0].dtype == jnp.bfloat16
  delta = real(half[0].astype(jnp.float32) - full[0], levels[0].mask)
  assert np.sqrt(np.mean(delta**2)) < 0.05  # states are about 1


def test_a_level_without_parents_is_refused():
  levels = tiny.random_nodes(0, 2, SHAPE[:2])
  orphan = (levels[0], levels[1]._replace(parent=None))
  with pytest.raises(ValueError, match="level 2 needs the index"):
    ancestor_indices(orphan)


# Log-probs.


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_logits_are_shaped_as_the_sampler_does(temperature):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(3, 8)).astype(np.float32)
  banned = (1, 6)
  got = jax.nn.softmax(shape_logits(jnp.asarray(logits), temperature, banned))
  allowed = np.array([i not in banned for i in range(8)])
  weights = np.exp(logits / (temperature or 1.0)) * allowed
  want = weights / weights.sum(axis=-1, keepdims=True)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert (np.asarray(got)[:, list(banned)] == 0).all()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("budget", [1, 64 * 2 * 5, 64 * 2 * 7])
def test_chunked_logprobs_equal_direct_ones(tied, temperature, budget):
  config = tiny.tiny_config(tied=tied)
  params = {"text": tiny.random_params(config)["text"]}
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.normal(size=(2, 3, 4, 48)), jnp.float32)
  tokens = jnp.asarray(rng.integers(0, 58, (2, 3, 4)))
  pay = rng.normal(size=(2, 2, 3, 4))
  banned = config.banned_tokens

  def direct(params, hidden):
    logits = shape_logits(
      head_logits(params["text"], hidden), temperature, banned
    )
    logprobs = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(logprobs, tokens[..., None], -1)[..., 0]
    return chosen, -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)

  def chunked(params, hidden):
    return token_logprobs(params, hidden, tokens, temperature, banned, budget)

  def loss(function, *args):
    logprob, entropy = function(*args)
    return jnp.sum(logprob * pay[0]) + jnp.sum(entropy * pay[1])

  got, want = (
    jax.jit(lambda p, h, f=f: (f(p, h), jax.grad(loss, (1, 2))(f, p, h)))(
      params, hidden
    )
    for f in (chunked, direct)
  )
  assert got[0][0].shape == (2, 3, 4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want
  )


# Full size, nothing allocated.


def qwen_config(size):
  if not QWEN.is_dir():
    pytest.skip(f"no {QWEN}")
  file = QWEN / "qwen2.5-vl-7b-instruct" / "config.json"
  config = json.loads(file.read_text())
  if size == "3b":
    file = QWEN / "param_tables" / "qwen2.5-vl-3b.hparams.json"
    config |= json.loads(file.read_text())
  return from_hf(config)


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_full_size_models_have_the_right_shapes(size):
  config = qwen_config(size)
  params = abstract_params(config)
  small = dataclasses.replace(
    tiny.tiny_config(),
    vision=dataclasses.replace(config.vision, patch=2, window=16),
  )
  prompts = tiny.random_prompts(small, 0, (((4, 5),), ((9, 2), (1, 1))))
  b, slots = prompts.patch_image.shape
  prompts = prompts.replace(
    patches=jax.ShapeDtypeStruct(
      (b, slots, config.vision.patch_dim), jnp.float32
    )
  )
  levels = tiny.random_nodes(0, b, SHAPE[:2])
  text = config.text
  hidden = jax.eval_shape(
    lambda p, x: tree_hidden(p, config, x, levels, jnp.bfloat16),
    params,
    prompts,
  )
  for h, level in zip(hidden, levels, strict=True):
    assert h.shape == (*level.tokens.shape, text.width)
    assert h.dtype == jnp.bfloat16
  logprob, _ = jax.eval_shape(
    lambda p, h: token_logprobs(p, h, levels[0].tokens), params, hidden[0]
  )
  assert logprob.shape == levels[0].tokens.shape
  ready = jax.eval_shape(
    lambda p, x: prefill(p, config, x, jnp.bfloat16), params, prompts
  )
  length = prompts.tokens.shape[1]
  shape = (b, 1, text.kv_heads, length, text.head_dim)
  assert {s.keys.shape for s in ready.segments} == {shape}
  assert len(ready.segments) == text.layers

  def one(params, ready):
    cache = empty_cache(config, b, 4, 6, jnp.bfloat16)
    tokens = jnp.zeros((b, 4), jnp.int32)
    above = tuple((s,) for s in ready.segments)
    return decode_step(
      params, config, tokens, tokens, jnp.zeros((), jnp.int32), above, cache
    )

  state, cache = jax.eval_shape(one, params, ready)
  assert state.shape == (b, 4, text.width)
  assert {k.shape for k in cache.keys} == {
    (b, 4, text.kv_heads, 6, text.head_dim)
  }
