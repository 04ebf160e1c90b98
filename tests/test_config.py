import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from mirl_jax import config as cf
from mirl_jax.command_line import fields, load_config
from mirl_jax.default import get_config as default
from mirl_jax.runs.config_files import resolved
from mirl_jax.worlds.dials import Dials

ROOT = Path(__file__).parents[1]


def test_an_unknown_method_names_the_nearest():
  with pytest.raises(ValueError, match="did you mean 'grpo'"):
    cf.get_config("grop")


def test_the_default_is_mirl():
  assert default().to_dict() == cf.get_config("mirl").to_dict()
  assert default().method == "mirl"


@pytest.mark.parametrize("method", cf.method_names())
def test_a_config_is_locked_plain_and_new_each_time(method):
  config = cf.get_config(method)
  assert config.is_locked
  assert config.method == method
  assert resolved(config)["method"] == method  # JSON can hold it
  config.train.steps = -1
  assert cf.get_config(method).train.steps != -1


def test_a_method_lies_over_the_defaults_and_keeps_the_rest(monkeypatch):
  fragment = {"loss": {"entropy": 0.5, "kl": {"a": 0.1}}, "new": {"x": (1,)}}
  module = cf.importlib.import_module("mirl_jax.methods.grpo")
  monkeypatch.setattr(module, "fragment", lambda: fragment)
  config, base = cf.get_config("grpo"), cf.base()
  assert config.loss.entropy == 0.5
  assert config.loss.clip_low == base.loss.clip_low
  assert config.loss.kl.to_dict() == {"a": 0.1}
  assert config.new.x == (1,)


def test_the_world_section_has_every_dial():
  section = cf.world_section(Dials())
  assert set(section) == {*vars(Dials()), "length"}
  assert section.kinds.to_dict() == dict(Dials().kinds)


@pytest.mark.parametrize("method", cf.method_names())
def test_every_field_is_read_somewhere(method):
  """A field that nothing reads is an option that does nothing.

  Sections that a dataclass takes whole (the world, MI, stages, credit, guards,
  optimizer) have their fields in that dataclass.
  """
  text = "".join(
    path.read_text(encoding="utf-8")
    for path in (ROOT / "mirl_jax").rglob("*.py")
    if path.name not in ("config.py",) and path.parent.name != "methods"
  )
  whole = ("program.", "credit.", "loss.kl.", "world.kinds.")
  for name in fields(cf.get_config(method)):
    if name == "method" or name.startswith(whole):
      continue  # see tests/methods
    leaf = name.rsplit(".", 1)[-1]
    found = (
      f".{name}" in text
      or f".{leaf}" in text
      or f'"{leaf}"' in text
      or f"  {leaf}: " in text
    )
    assert found, f"nothing reads config.{name}"


def test_the_baseline_takes_its_group_size():
  grpo = load_config(f"{ROOT / 'configs' / 'grpo.py'}:8")
  assert grpo.program.response.fanout == 8


def saved(config):
  """What config.json holds of a config, read back."""
  return json.loads(json.dumps(resolved(config)))


@pytest.mark.parametrize("method", cf.method_names())
def test_a_saved_config_is_the_one_that_was(method):
  config = cf.get_config(method)
  config.unlock()
  config.world.kinds = ConfigDict({"count": 2.0})
  config.data.patch_buckets = (36, 72)
  config.train.steps = 7
  config.lock()
  again = cf.from_saved(saved(config))
  assert again.to_dict() == config.to_dict()
  assert again.is_locked
  assert isinstance(again.data.prompt_buckets, tuple)


def test_a_field_that_a_run_did_not_know_has_its_default():
  values = saved(cf.get_config())
  del values["export"]
  del values["policy"]["param_dtype"]
  again = cf.from_saved(values)
  assert again.to_dict() == cf.get_config().to_dict()
  values["loss"]["klip"] = 1.0
  with pytest.raises(ValueError, match=r"there is no field loss\.klip"):
    cf.from_saved(values)
