import jax
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.abstract import abstract_params
from mirl_jax.policy.parts import Training, join, part_of, split

CONFIGS = (tiny.tiny_config(), tiny.tiny_qwen3())


def paths(tree):
  return {
    "/".join(key.key for key in path)
    for path, _ in jax.tree_util.tree_leaves_with_path(tree)
  }


@pytest.mark.parametrize(
  ("path", "part"),
  [
    ("vision/blocks/attn/qkv/kernel", "vision"),
    ("vision/patch_embed/kernel", "vision"),
    ("vision/positions/embedding", "vision"),
    ("vision/merger/fc1/bias", "merger"),
    ("vision/deep_mergers/norm/scale", "merger"),
    ("text/blocks/mlp/up/kernel", "text"),
    ("text/embed/embedding", "text"),
  ],
)
def test_every_path_has_its_part(path, part):
  assert part_of(path) == part


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.family)
@pytest.mark.parametrize("frozen", ["vision", "merger", "text"])
def test_split_takes_one_part_out_and_join_puts_it_back(config, frozen):
  params = abstract_params(config)
  trained, rest = split(params, Training(**{frozen: "frozen"}))
  assert {part_of(path) for path in paths(rest)} == {frozen}
  assert frozen not in {part_of(path) for path in paths(trained)}
  assert jax.tree.structure(join(trained, rest)) == jax.tree.structure(params)
  assert join(params, None) == params
  assert split(params, Training())[1] == {}


def test_bad_settings_are_named():
  with pytest.raises(ValueError, match=r"policy\.train\.merger='half' is not"):
    Training(merger="half")
  with pytest.raises(ValueError, match="nothing would learn"):
    Training("frozen", "frozen", "frozen")
