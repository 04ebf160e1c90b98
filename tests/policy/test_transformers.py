"""The policy against transformers on random weights, family by family."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.families import family, from_hf
from mirl_jax.policy.forward import prefill, tree_hidden
from mirl_jax.policy.logprobs import token_logprobs
from mirl_jax.policy.remat import REMAT
from mirl_jax.policy.saving import tensor_pieces
from mirl_jax.policy.text import head_logits
from mirl_jax.policy.weights import weight_table
from mirl_jax.testing_flat import extend, flat_logits, node_path
from mirl_jax.testing_torch import (
  hf_config,
  pictures,
  slot_features,
  torch_inputs,
  torch_model,
)

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

# Blocks of the tower: one group, two scanned groups (here with an untied head
# and stills doubled in time), and irregular ones; DeepStack from the first and
# the last block, from none, and into every layer of the decoder.
CONFIGS = {
  "one group": tiny.tiny_config(),
  "scanned groups": tiny.tiny_config(
    tied=False, depth=6, full_blocks=(2, 5), layers=3, temporal_patch=2
  ),
  "irregular blocks": tiny.tiny_config(depth=3, full_blocks=(0,)),
  "qwen3": tiny.tiny_qwen3(),
  "qwen3 tied": tiny.tiny_qwen3(
    tied=True, depth=4, deep_blocks=(1, 2), layers=2, temporal_patch=2
  ),
  "qwen3 plain": tiny.tiny_qwen3(depth=2, deep_blocks=(), layers=2),
}
# Two unequal images, grids that the 2 x 2 window does not divide, no image.
GRIDS = (((1, 3), (4, 2)), ((3, 3),), (), ((2, 2), (1, 1)), ((5, 2),))
SEEDS = range(5)
TAIL = 7


@functools.partial(jax.jit, static_argnums=1)
def tree_logits(params, config, prompts, levels):
  hidden = tree_hidden(params, config, prompts, levels)
  return tuple(head_logits(params["text"], h) for h in hidden)


prefill_jit = jax.jit(prefill, static_argnums=1)


@functools.partial(jax.jit, static_argnums=1)
def encode(params, config, prompts):
  return family(config).encode_images(params["vision"], config.vision, prompts)


def real(x, mask):
  return np.asarray(x)[np.asarray(mask)]


def close(got, want, tolerance=1e-4):
  """Both are of order 1; float32 leaves about 1e-6 per layer."""
  np.testing.assert_allclose(np.asarray(got), want, atol=tolerance)


def batch(config, seed):
  """Prompts, one response each, and the two joined; and their lengths."""
  prompts = tiny.random_prompts(config, seed, GRIDS)
  b = len(GRIDS)
  levels = tiny.random_nodes(seed, b, ((1, 1, TAIL),))
  tails = [node_path(levels, 0, q, 0)[0] for q in range(b)]
  return prompts, levels, extend(prompts, range(b), tails, TAIL), tails


def responses(logits, joined, tails):
  """The rows of [B, N, V] that predict each response's tokens."""
  ends = np.asarray(joined.mask).sum(1) - 1
  return [
    logits[q, end - len(tail) : end]
    for q, (end, tail) in enumerate(zip(ends, tails, strict=True))
  ]


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, tmp_path_factory):
  config = CONFIGS[request.param]
  folder = tmp_path_factory.mktemp("model")
  return config, lambda seed: models(config, seed, folder)


def models(config, seed, folder):
  params = tiny.random_params(config, seed)
  return params, torch_model(config, params, folder)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_json_is_read_back(name):
  assert from_hf(hf_config(CONFIGS[name])) == CONFIGS[name]


@pytest.mark.parametrize("seed", SEEDS)
def test_logits_keys_and_values_equal_transformers(case, seed):
  config, make = case
  params, model = make(seed)
  prompts, levels, joined, tails = batch(config, seed)
  with torch.no_grad():
    out = model(
      **torch_inputs(config, joined), output_hidden_states=True, use_cache=True
    )
  # Logits after every token by the dense oracle, and through the tree.
  logits = out.logits.numpy()
  mask = np.asarray(joined.mask)
  close(real(flat_logits(params, config, joined), mask), logits[mask])
  tree = np.asarray(tree_logits(params, config, prompts, levels)[0])
  for q, want in enumerate(responses(logits, joined, tails)):
    close(tree[q, 0, : len(tails[q])], want)
  # Every layer's keys and values (already rotated).
  ready = prefill_jit(params, config, joined)
  for segment, layer in zip(
    ready.segments, out.past_key_values.layers, strict=True
  ):
    for ours, theirs in (
      (segment.keys, layer.keys),
      (segment.values, layer.values),
    ):
      ours = np.asarray(ours[:, 0]).swapaxes(1, 2)
      close(ours[mask], theirs.numpy().swapaxes(1, 2)[mask])
  last = out.hidden_states[-1].numpy()[np.arange(len(mask)), mask.sum(1) - 1]
  close(ready.hidden[:, 0], last)


def test_every_layers_states_equal_transformers(case):
  """A decoder cut after any layer still gives the same logits."""
  config, make = case
  params, model = make(0)
  prompts, levels, joined, tails = batch(config, 0)
  decoder = model.model.language_model
  for layers in range(config.text.layers, 0, -1):
    decoder.layers = decoder.layers[:layers]
    with torch.no_grad():
      logits = model(**torch_inputs(config, joined), use_cache=False).logits
    text = dataclasses.replace(config.text, layers=layers)
    short = dataclasses.replace(config, text=text)
    blocks = jax.tree.map(lambda x, n=layers: x[:n], params["text"]["blocks"])
    cut = {**params, "text": {**params["text"], "blocks": blocks}}
    tree = np.asarray(tree_logits(cut, short, prompts, levels)[0])
    for q, want in enumerate(responses(logits.numpy(), joined, tails)):
      close(tree[q, 0, : len(tails[q])], want)


@pytest.mark.parametrize("seed", SEEDS)
def test_visual_features_equal_transformers(case, seed):
  config, make = case
  params, model = make(seed)
  prompts = tiny.random_prompts(config, seed, GRIDS)
  pixels, grids, places = pictures(config, prompts)
  with torch.no_grad():
    want = model.model.get_image_features(
      torch.tensor(pixels), torch.tensor(grids)
    )
  got = encode(params, config, prompts)
  unit = config.vision.merge_unit
  close(
    slot_features(got.tokens, places, unit),
    torch.cat(list(want.pooler_output)).numpy(),
  )
  deep = getattr(want, "deepstack_features", ())
  assert len(got.deep) == len(deep)
  for ours, theirs in zip(got.deep, deep, strict=True):
    close(slot_features(ours, places, unit), torch.cat(list(theirs)).numpy())


def test_left_padding_equals_right_padding(case):
  config, make = case
  params, model = make(1)
  _, _, joined, _ = batch(config, 1)
  inputs = torch_inputs(config, joined, left=True)
  with torch.no_grad():
    want = model(**inputs).logits.numpy()
  got = np.asarray(flat_logits(params, config, joined))
  for q, count in enumerate(np.asarray(joined.mask).sum(1)):
    close(got[q, :count], want[q, -count:])


def test_text_only_batches_equal_transformers(case):
  config, make = case
  params, model = make(2)
  prompts = tiny.random_prompts(config, 0, ((),) * 4)
  assert prompts.patches.shape[1] == 0
  joined = extend(prompts, range(4), [[1], [2, 3, 4], [], [5] * 9], 9)
  with torch.no_grad():
    want = model(**torch_inputs(config, joined)).logits.numpy()
  mask = np.asarray(joined.mask)
  close(real(flat_logits(params, config, joined), mask), want[mask])
  ready = prefill_jit(params, config, joined)
  got = head_logits(params["text"], ready.hidden[:, 0])
  close(got, want[np.arange(4), mask.sum(1) - 1])


@functools.partial(jax.jit, static_argnums=(1, 4))
def mean_logprob_gradient(params, config, prompts, levels, remat):
  def mean(params):
    hidden = tree_hidden(params, config, prompts, levels, remat=remat)
    logprob = token_logprobs(params, hidden[0], levels[0].tokens).logprob
    mask = levels[0].mask
    return jnp.sum(jnp.where(mask, logprob, 0)) / jnp.sum(mask)

  return jax.value_and_grad(mean)(params)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_of_every_weight_equal_transformers(case, seed):
  config, make = case
  params, model = make(seed)
  prompts, levels, joined, tails = batch(config, seed)
  # What is computed again changes no gradient; each way has its configs.
  remat = REMAT[list(CONFIGS.values()).index(config) % len(REMAT)]
  value, ours = mean_logprob_gradient(params, config, prompts, levels, remat)
  logits = model(**torch_inputs(config, joined)).logits
  picked = [
    torch.log_softmax(rows, -1)[torch.arange(len(tail)), torch.tensor(tail)]
    for rows, tail in zip(responses(logits, joined, tails), tails, strict=True)
  ]
  mean = torch.cat(picked).mean()
  mean.backward()
  close(value, mean.item(), 1e-5)
  hub = family(config).hub_name
  theirs = {hub(name): p.grad for name, p in model.named_parameters()}
  flat = {
    "/".join(key.key for key in path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(ours)
  }
  used = set()
  for row in weight_table(config):
    leaf = flat[row.path]
    wants = [theirs[name].numpy() for name in row.names]
    # Of the largest gradient of that weight over the layers.
    scale = max(np.abs(want).max() for want in wants)
    for i, (name, want) in enumerate(zip(row.names, wants, strict=True)):
      pieces = tensor_pieces(row, leaf, i, leaf.dtype)
      got = np.concatenate([*pieces]).reshape(row.tensor_shape)
      np.testing.assert_allclose(
        got, want, atol=1e-3 * scale + 1e-9, err_msg=name
      )
      used.add(name)
  assert used == set(theirs)


def test_bfloat16_drifts_no_more_than_transformers(case, record_property):
  """Largest change of a logit by bfloat16 activations, of both programs.

  Theirs rounds the weights as ours rounds them at use. The bound has room for
  the chance in which of two roundings falls worse on a few hundred logits.
  """
  config, make = case
  params, model = make(3)
  prompts, levels, joined, tails = batch(config, 3)
  with torch.no_grad():
    inputs = torch_inputs(config, joined)
    exact = model(**inputs).logits.numpy()
    half = model.to(torch.bfloat16)(**inputs).logits.float().numpy()
  theirs = [
    np.abs(a - b).mean()
    for a, b in zip(
      responses(half, joined, tails),
      responses(exact, joined, tails),
      strict=True,
    )
  ]
  hidden = tree_hidden(params, config, prompts, levels, jnp.bfloat16)[0]
  got = np.asarray(head_logits(params["text"], hidden))
  ours = [
    np.abs(got[q, 0, : len(tails[q])] - want).mean()
    for q, want in enumerate(responses(exact, joined, tails))
  ]
  mine, his = float(np.mean(ours)), float(np.mean(theirs))
  record_property("drift", [mine, his])
  print(f"bfloat16 drift: ours {mine:.4f}, transformers {his:.4f}")
  assert 0 < mine <= 1.5 * his
