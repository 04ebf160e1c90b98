import dataclasses
import json

import ml_collections
import numpy as np
import pytest

from mirl_jax.runs import config_files


@dataclasses.dataclass(frozen=True)
class Sample:
  name: str
  fanout: int = 10
  stop: tuple[str, ...] = ("</description>",)


def _config():
  config = ml_collections.ConfigDict()
  config.lr = 1.5e-4
  config.clip = float("inf")
  config.text = ml_collections.ConfigDict({"width": 96, "sections": (2, 3, 3)})
  config.head = config.text.get_ref("width")
  config.program = (Sample("description"), Sample("reasoning", 2))
  config.none = None
  config.method = _config
  return config


def test_configs_round_trip_and_references_are_resolved(tmp_path):
  path = config_files.write_config(tmp_path, _config())
  assert json.loads(path.read_text())["head"] == 96
  loaded = config_files.load_config(tmp_path)
  assert loaded["clip"] == float("inf")
  assert loaded["text"]["sections"] == [2, 3, 3]
  assert loaded["program"][1]["fanout"] == 2
  assert loaded["program"][1]["type"] == "Sample"
  assert loaded["method"].endswith("_config")
  assert config_files.differing_fields(loaded, _config()) == []


def test_every_difference_is_named():
  new = _config()
  new.lr = 3e-4
  new.text.width = 128
  new.program = (Sample("description", 12), Sample("reasoning", 2))
  new.extra = True
  del new.none
  assert config_files.differing_fields(_config(), new) == [
    "extra: absent -> True",
    "head: 96 -> 128",
    "lr: 0.00015 -> 0.0003",
    "none: None -> absent",
    "program.0.fanout: 10 -> 12",
    "text.width: 96 -> 128",
  ]


def test_nan_equals_itself_and_one_is_not_true():
  nan = {"x": float("nan")}
  assert config_files.differing_fields(nan, dict(nan)) == []
  assert config_files.differing_fields({"x": 1}, {"x": True}) != []
  assert config_files.differing_fields({"x": np.int64(1)}, {"x": 1}) == []


def test_faults_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="no run"):
    config_files.load_config(tmp_path)
  with pytest.raises(TypeError, match=r"config\.a\.b"):
    config_files.write_config(tmp_path, {"a": {"b": object()}})
  (tmp_path / "config.json").write_text('{"a":')
  with pytest.raises(ValueError, match="damaged"):
    config_files.load_config(tmp_path)


def test_secondary_processes_write_nothing(tmp_path):
  assert config_files.write_config(tmp_path, {}, primary=False) is None
  assert list(tmp_path.iterdir()) == []
