"""Greedy trees against transformers' generate, token for token."""

import jax
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.parallel.mesh import make_mesh
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import Sample
from mirl_jax.rollout.stop import compile_stop
from mirl_jax.rollout.tree import flat
from mirl_jax.testing_flat import extend
from mirl_jax.testing_torch import torch_inputs, torch_model

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

CONFIGS = {
  "qwen2_5_vl": tiny.tiny_config(tied=False),
  "qwen3_vl": tiny.tiny_qwen3(),
}
# Several sizes in one batch, two images, none: prompts of unequal lengths.
GRIDS = (((1, 3), (4, 2)), ((3, 3),), (), ((2, 2), (1, 1)), ((5, 2),))
WORDS = tiny.vocabulary()
FIRST, SECOND = 9, 7


def generate(config, model, prompts, count):
  """The next `count` greedy ids of every prompt, whatever ends them."""
  with torch.no_grad():
    out = model.generate(
      **torch_inputs(config, prompts, left=True),
      do_sample=False,
      max_new_tokens=count,
      min_new_tokens=count,
      suppress_tokens=[*config.banned_tokens],
      pad_token_id=config.pad_token,
      eos_token_id=None,
    )
  return out[:, -count:].tolist()


def text(ids):
  return b"".join(WORDS[i] for i in ids)


def until(ids, stop, eos):
  """Ids up to the one that completes the stop or ends the text."""
  for n in range(1, len(ids) + 1):
    if stop in text(ids[:n]):
      return [*ids[:n]], True
    if ids[n - 1] == eos:
      return [*ids[:n]], False
  return [*ids], False


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(5))
def test_greedy_trees_equal_generate(name, seed, tmp_path):
  config = CONFIGS[name]
  params = tiny.random_params(config, seed)
  model = torch_model(config, params, tmp_path)
  prompts = tiny.random_prompts(config, seed, GRIDS)
  eos = config.eos_tokens[0]
  first = generate(config, model, prompts, FIRST)
  # A stop that some row writes before its end, of bytes that are words.
  stop = next(
    pair
    for row in first
    for pair in (text(row[: FIRST - 2])[-2:], text(row[:4])[-2:])
    if all(bytes([byte]) in WORDS for byte in pair)
  )
  close = [WORDS.index(bytes([byte])) for byte in stop]
  compiled = compile_stop(stop.decode(), WORDS, close)
  last_stop = compile_stop("</a>", WORDS, tiny.tiny_stop("</a>").close)
  rollout = Rollout(
    config,
    (
      Sample("see", 1, FIRST, stop.decode(), 0.0),
      Sample("reason", 1, SECOND, "</a>", 0.0),
    ),
    {"see": compiled, "reason": last_stop},
    make_mesh("data:1", jax.devices()[:1]),
  )
  roles = {"policy": params}
  tree = rollout(roles, prompts, None, jax.random.key(seed))
  seen, reasoned = tree.levels
  finished = np.asarray(flat(seen.finished))[:, 0]
  tails, stops = [], 0
  for q, ids in enumerate(first):
    want, stopped = until(ids, stop, eos)
    mask = np.asarray(flat(seen.sampled))[q, 0]
    assert np.asarray(flat(seen.tokens))[q, 0][mask].tolist() == want
    assert finished[q] == stopped
    stops += stopped and len(want) < FIRST
    tails.append(want if stopped else [*want, *close])
  assert stops  # some rows stop early, while others go on
  # The second stage continues each row after its stop, forced or its own.
  longer = extend(prompts, range(len(GRIDS)), tails, FIRST + 2)
  for q, ids in enumerate(generate(config, model, longer, SECOND)):
    want, _ = until(ids, b"</a>", eos)
    mask = np.asarray(flat(reasoned.sampled))[q, 0]
    assert np.asarray(flat(reasoned.tokens))[q, 0][mask].tolist() == want
