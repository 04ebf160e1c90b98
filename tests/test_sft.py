import os
import signal

import numpy as np
import pytest

from mirl_jax import build
from mirl_jax import sft as mode
from mirl_jax import testing_runs as runs
from mirl_jax.data.source import TooManyBadRows
from mirl_jax.policy.loading import load_params
from mirl_jax.runs.checkpoints import Checkpoints
from mirl_jax.runs.metrics import MetricsWriter, read_metrics

FLAGS = (
  "--config.sft.steps=3",
  "--config.sft.batch=4",
  "--config.sft.log_every=1",
  "--config.sft.save_every=2",
)


def small(workdir, *overrides):
  return mode.sft(runs.small_config(*FLAGS, *overrides), str(workdir))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("sft")
  assert small(workdir) == 0
  return workdir


@pytest.fixture
def stop_at(monkeypatch):
  def arm(step):
    write, armed = MetricsWriter.write, [True]

    def writing(self, number, values):
      write(self, number, values)
      if number == step and armed:
        armed.clear()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricsWriter, "write", writing)

  return arm


def test_the_result_is_a_model_directory(whole):
  config = runs.small_config(f"--config.policy.path={whole / 'model'}")
  policy = build.make_policy(config)
  embedded = build.make_policy(runs.small_config())
  assert policy.config == embedded.config
  params = load_params(whole / "model", policy.config)
  saved = runs.saved_arrays(whole, 3)
  name = "['params']['text']['embed']['embedding']"
  np.testing.assert_array_equal(
    params["text"]["embed"]["embedding"], saved[name]
  )
  start = build.load_policy_params(runs.small_config(), embedded)
  assert not np.array_equal(
    params["text"]["embed"]["embedding"], start["text"]["embed"]["embedding"]
  )
  rows = read_metrics(whole)
  assert [row["step"] for row in rows] == [1, 2, 3]
  assert {"sft/nll", "sft/naming", "loss/total", "grad_norm"} <= rows[0].keys()
  assert Checkpoints(whole, 2).steps() == [2, 3]


@pytest.mark.parametrize("step", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stopped_run_resumes_to_the_same_bits(whole, tmp_path, stop_at, step):
  stop_at(step)
  assert small(tmp_path) == 143
  assert not (tmp_path / "model").exists()
  assert Checkpoints(tmp_path, 1).latest() == step
  assert small(tmp_path) == 0
  assert runs.different_arrays(whole, tmp_path) == []
  assert runs.untimed_metrics(whole) == runs.untimed_metrics(tmp_path)
  for file in (whole / "model").iterdir():
    assert file.read_bytes() == (tmp_path / "model" / file.name).read_bytes()


def test_a_finished_run_writes_its_model_again(whole, monkeypatch):
  before = (whole / "model" / "model.safetensors").read_bytes()
  (whole / "model" / "model.safetensors").unlink()
  lines = (whole / "metrics.jsonl").read_bytes()
  assert small(whole) == 0
  assert (whole / "model" / "model.safetensors").read_bytes() == before
  assert (whole / "metrics.jsonl").read_bytes() == lines


def test_from_scratch_makes_a_model_of_its_own(tmp_path, monkeypatch, stop_at):
  monkeypatch.setattr(mode, "_TOKENIZER_EXAMPLES", 200)
  fresh = "--config.sft.from_scratch=true"
  # What a kill left of an earlier attempt does not count.
  (tmp_path / "base.tmp").mkdir()
  (tmp_path / "base.tmp" / "config.json").write_text("{")
  stop_at(2)
  assert small(tmp_path, fresh) == 143
  base = {f.name: f.read_bytes() for f in (tmp_path / "base").iterdir()}
  assert "model.safetensors" not in base
  assert small(tmp_path, fresh) == 0
  assert base == {f.name: f.read_bytes() for f in (tmp_path / "base").iterdir()}
  path = tmp_path / "model"
  policy = build.make_policy(runs.small_config(f"--config.policy.path={path}"))
  # Random weights, not those of the embedded model.
  first = read_metrics(tmp_path)[0]
  assert first["sft/nll"] > 0.8 * np.log(policy.config.text.vocab)


def test_another_seed_shows_other_demonstrations_blank(whole, tmp_path):
  assert small(tmp_path, "--config.seed=1", "--config.sft.steps=1") == 0
  assert read_metrics(tmp_path)[0] != read_metrics(whole)[0]


def test_a_response_that_does_not_fit_is_a_bad_row(tmp_path):
  with pytest.raises(TooManyBadRows, match=r"quarantine\.jsonl"):
    small(tmp_path, "--config.sft.response_length=5")
  said = (tmp_path / "quarantine.jsonl").read_text()
  assert "response tokens, more than 5; raise sft.response_length" in said


def test_a_run_of_another_mode_is_refused(tmp_path):
  from mirl_jax.runs.config_files import write_config

  write_config(tmp_path, runs.small_config(*FLAGS))
  Checkpoints(tmp_path, 1).save(2, {"x": np.zeros(1)}, {"mode": "train"})
  with pytest.raises(ValueError, match="--mode=train, not of --mode=sft"):
    small(tmp_path)


def test_new_weights_are_trained_in_full(tmp_path):
  flags = ("--config.sft.from_scratch=true", "--config.policy.train.text=lora")
  with pytest.raises(ValueError, match=r"needs policy\.train\.text=full"):
    mode.sft(runs.small_config(*flags), str(tmp_path))
