"""The model in the package is an ordinary Hugging Face directory."""

from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import batching, build
from mirl_jax.config import get_config
from mirl_jax.evaluate import Strategy, draw, make_strategies
from mirl_jax.policy.forward import Nodes, tree_hidden
from mirl_jax.policy.text import head_logits

COUNT = 8


@pytest.fixture(scope="module")
def ours():
  config = get_config()
  policy = build.make_policy(config)
  params = build.load_policy_params(config, policy)
  examples = list(
    build.first_examples(build.make_source(config, "test"), COUNT)
  )
  return config, policy, params, examples


@pytest.fixture(scope="module")
def theirs():
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  with resources.as_file(resources.files("mirl_jax") / "tiny") as folder:
    kind = transformers.Qwen2_5_VLForConditionalGeneration
    model = kind.from_pretrained(folder, attn_implementation="eager")
  return model.float().eval()


def torch_inputs(policy, example, response=()):
  """One question as transformers takes it: patches in row-major merge units."""
  import torch

  encoded = policy.processor.encode(example)
  tokens = torch.tensor([[*encoded.tokens.tolist(), *response]])
  rows, columns = np.asarray(encoded.patch_hw).reshape(-1, 2).max(0) + 1
  patches = np.asarray(encoded.patches)
  return {
    "input_ids": tokens,
    "attention_mask": torch.ones_like(tokens),
    "mm_token_type_ids": (tokens == policy.config.image_token).int(),
    "pixel_values": torch.tensor(patches.reshape(-1, patches.shape[-1])),
    "image_grid_thw": torch.tensor([[1, rows, columns]]),
  }


def greedy(ours):
  """Our greedy responses: token ids and text of each question."""
  config, policy, params, examples = ours
  program = build.make_program(config, training=False)
  strategy = make_strategies(policy, program, None, 1, False)[0]
  assert isinstance(strategy, Strategy)
  tree, read = draw(
    strategy,
    {"policy": params},
    batching.make_batcher(config, policy, None),
    examples,
    build.place_key(0, policy),
  )
  ids = []
  for i in range(COUNT):
    real = [level.tokens[i][level.mask[i]] for level in tree.levels]
    ids.append(np.concatenate(real).tolist())
  return ids, [paths[0] for paths in read[-1].paths]


def test_the_directory_is_small():
  folder = resources.files("mirl_jax") / "tiny"
  assert sum(len(f.read_bytes()) for f in folder.iterdir()) <= 6e6


def test_greedy_text_and_logits_equal_transformers(ours, theirs):
  import torch

  _config, policy, params, examples = ours
  for example, response, text in zip(examples, *greedy(ours), strict=True):
    assert text.startswith("<description>")
    with torch.no_grad():
      generated = theirs.generate(
        **torch_inputs(policy, example),
        do_sample=False,
        max_new_tokens=len(response),
      )[0, -len(response) :].tolist()
      logits = theirs(**torch_inputs(policy, example, response)).logits[0]
    assert policy.processor.decode(np.array(generated)) == text
    encoded = policy.processor.encode(example)
    prompts = policy.processor.prompts(
      [example], len(encoded.tokens), encoded.slots
    )
    prompts = jax.tree.map(jnp.asarray, prompts)
    prompts = jax.tree.map(jnp.asarray, prompts)
    ids = jnp.asarray([[response]], jnp.int32)
    level = Nodes(ids, jnp.ones(ids.shape, bool), None)
    hidden = tree_hidden(params, policy.config, prompts, (level,))[0]
    mine = np.asarray(head_logits(params["text"], hidden))[0, 0]
    # The state before each response token predicts it.
    want = logits[-len(response) - 1 : -1].numpy()
    np.testing.assert_allclose(mine, want, atol=1e-4 * np.abs(want).max())
