"""The policy against transformers on random weights."""

import functools
import json

import jax
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.configs import from_hf
from mirl_jax.policy.forward import (
  prefill,
  tree_hidden,
)
from mirl_jax.policy.text import head_logits
from mirl_jax.policy.vision import encode_images
from mirl_jax.policy.weights import save_params
from mirl_jax.testing_flat import (
  extend,
  flat_logits,
  node_path,
)

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


@functools.partial(jax.jit, static_argnames=("config", "remat"))
def tree_logits(params, prompts, levels, config=CONFIG, remat=False):
  hidden = tree_hidden(params, config, prompts, levels, remat=remat)
  return tuple(head_logits(params["text"], h) for h in hidden)


prefill_jit = jax.jit(prefill, static_argnums=1)
encode_jit = jax.jit(encode_images, static_argnums=1)


def real(x, mask):
  return np.asarray(x)[np.asarray(mask)]


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
