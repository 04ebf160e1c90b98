import dataclasses

import numpy as np
import pytest

from mirl_jax import build
from mirl_jax import testing_runs as runs
from mirl_jax.data.example import Example
from mirl_jax.data.pipeline import Quarantine
from mirl_jax.data.source import BadRow, Mapped, TooManyBadRows
from mirl_jax.information.estimators import MI
from mirl_jax.rewards.assess import Assessed
from mirl_jax.testing_data import picture, write_parquet
from mirl_jax.worlds.dials import BROKEN


@pytest.fixture
def config():
  return runs.small_config()


@pytest.fixture(scope="module")
def policy():
  return build.make_policy(runs.small_config())


@pytest.fixture(scope="module")
def examples():
  source = build.make_source(runs.small_config(), "train")
  return list(build.first_examples(source, 3))


def test_the_embedded_model_is_the_policy_by_default(config, tmp_path):
  assert build.policy_path(config).name == "tiny"
  config.policy.path = str(tmp_path)
  assert build.policy_path(config) == str(tmp_path)


def test_the_policy_attends_as_the_config_says(config, policy):
  assert policy.config.attention == "auto"
  assert policy.config.mesh == policy.mesh.abstract_mesh
  config.policy.attention = "xla"
  assert build.make_policy(config).config.attention == "xla"


def test_decoding_scans_the_layers_where_the_config_says(config, policy):
  assert not policy.config.scan_decode  # auto, on CPUs
  config.policy.decode = "scan"
  assert build.make_policy(config).config.scan_decode
  config.policy.decode = "loop"
  with pytest.raises(ValueError, match="policy.decode='loop' is not one of"):
    build.make_policy(config)


def test_the_dials_of_the_config_are_the_worlds(config):
  found = build.make_dials(config)  # a config sorts the kinds by name
  assert dict(found.kinds) == dict(BROKEN.kinds)
  assert dataclasses.replace(found, kinds=BROKEN.kinds) == BROKEN
  config.world.prior = 0.25
  assert build.make_dials(config).prior == 0.25


def test_the_splits_of_the_world_share_no_picture(config):
  train = build.first_examples(build.make_source(config, "train"), 20)
  test = build.first_examples(build.make_source(config, "test"), 20)
  bits = [{np.asarray(e.images[0]).tobytes() for e in s} for s in (train, test)]
  assert not bits[0] & bits[1]


def test_stages_that_the_program_lacks_are_named(config):
  for section, build_it in (
    ("mi", build.make_mi),
    ("loss", build.make_loss),
    ("credit", build.make_terms),
  ):
    wrong = runs.small_config()
    with wrong.unlocked():
      if section == "mi":
        wrong.mi.stage = "se"
      elif section == "loss":
        wrong.loss.kl.se = 0.1
      else:
        wrong.credit.se = {}
    with pytest.raises(ValueError, match="no stage 'se'.*describe, reason"):
      build_it(wrong)
    build_it(config)


def test_every_field_of_the_loss_reaches_it(config):
  values = {
    "ratio": "sequence",
    "reduction": "sequence",
    "kl_kind": "k1",
    "old_logprob": "recomputed",
    "remat": "full",
  }
  start = build.make_loss(config)
  for name in config.loss:
    before = config.loss[name]
    if name == "kl":
      config.loss.kl.describe = config.loss.kl.describe + 0.5
    else:
      config.loss[name] = values.get(name, 3)
    assert build.make_loss(config) != start, name
    if name == "kl":
      config.loss.kl.describe = config.loss.kl.describe - 0.5
    else:
      config.loss[name] = before
  assert build.make_loss(config) == start


@pytest.fixture
def paid(config, tmp_path):
  """A config whose reasonings are paid by a file of the user's."""
  file = tmp_path / "reward.py"
  file.write_text("def score(example, text, siblings): return len(text)")
  with config.unlocked():
    config.credit.reason.own = {"weight": 0.0}
    config.reward.file = str(file)
  return config


def test_a_reward_file_scores_the_stages_that_credit_names(paid):
  assert build.own_names(paid) == {"reason": ("own", "own_failed")}
  read = [
    Assessed([], [["a", "bb"]], [], {"exact": np.zeros((1, 2, 1), np.float32)})
  ] * 2
  with build.make_own(paid) as own:
    (describe, reason), fault = own.add([Example("q", (), "?", "")], read)
  assert describe.rewards.keys() == {"exact"}
  assert reason.rewards["own"].tolist() == [[[1.0], [2.0]]]
  assert fault == ""


def test_no_reward_file_is_no_process(config):
  assert build.make_own(config) is None


def test_every_field_of_the_reward_reaches_its_workers(paid, monkeypatch):
  given = []
  monkeypatch.setattr(build.own, "OwnReward", lambda *x: given.append(x))
  build.make_own(paid)
  values = {"deadline_s": 9.0, "memory_mb": 99, "workers": 7, "file": "x.py"}
  assert set(values) == set(paid.reward)
  for name, value in values.items():
    paid.reward[name] = value
    build.make_own(paid)
    assert given[-1] != given[-2], name


def test_a_reward_without_a_file_and_a_file_without_pay_are_refused(paid):
  paid.reward.file = ""
  with pytest.raises(ValueError, match="own of stage 'reason' needs a file"):
    build.make_own(paid)
  paid.reward.file = "mine.py"
  with paid.unlocked():
    del paid.credit.reason["own"]
  with pytest.raises(ValueError, match="reward.file=mine.py: no stage is paid"):
    build.make_own(paid)


def test_every_field_of_mi_reaches_it(config):
  values = {
    "stage": "reason",
    "view": "masked",
    "reduction": "sum",
    "scorer": "ema",
  }
  config.mi.view = "other"
  start = build.make_mi(config)
  assert set(config.mi) == {f.name for f in dataclasses.fields(MI)}
  for name in config.mi:
    before = config.mi[name]
    config.mi[name] = values.get(name, 3)
    assert build.make_mi(config) != start, name
    config.mi[name] = before


def test_bad_rows_are_left_out_and_quarantined(config, tmp_path):
  def odd_is_bad(example):
    if int(example.id[2:]) % 2:
      raise BadRow(example.id, "odd")
    return example

  source = [
    dataclasses.replace(e, id=f"x-{i}")
    for i, e in enumerate(
      build.first_examples(build.make_source(config, "test"), 6)
    )
  ]
  path = tmp_path / "quarantine.jsonl"
  found = list(
    build.first_examples(Mapped(source, odd_is_bad), 2, Quarantine(path))
  )
  assert [e.id for e in found] == ["x-0", "x-2"]
  assert path.read_text().count("odd") == 1  # x-1; x-3 was never needed


def test_nothing_held_out_is_said(config, policy, tmp_path, monkeypatch):
  def bad(example):
    raise BadRow(example.id, "all are")

  rows = [Example(x, (), "?", "1") for x in "ab"]
  monkeypatch.setattr(build, "make_source", lambda *a: Mapped(rows, bad))
  with pytest.raises(ValueError, match="none of the 2 rows held out"):
    build.held_out(config, policy, 4, str(tmp_path))


def test_the_data_says_how_it_is_read_and_how_many_prompts_fit(
  config, policy, tmp_path
):
  assert build.data_report(config, policy) == ""  # the world
  rows = [
    {"problem": "<image>why?" + 300 * " why?" * (i < 2), "answer": "so"}
    | {"images": [{"bytes": picture(i), "path": None}]}
    for i in range(20)
  ]
  rows[7]["images"] = []
  config.data.train = str(write_parquet(tmp_path / "own.parquet", rows))
  config.data.test_share = 0.0
  config.data.prompt_buckets = (64,)
  said = build.data_report(config, policy).splitlines()
  assert said[0] == (
    "data: own: Geometry3K, question=problem, images=images, answer=answer;"
    " 20 of 20 rows of own.parquet"
  )
  assert said[1].startswith(
    "prompt lengths: 2 do not fit, of all 20 rows, 1 unusable; they are left"
    " out. The first: row "
  )
  assert "more than 64; add to data.prompt_buckets" in said[1]
  config.data.max_bad_share = 0.1
  with pytest.raises(TooManyBadRows, match="more than data.max_bad_share=0.1"):
    build.data_report(config, policy)
