import json

import jax
import pytest

from mirl_jax import batching, build, inspection
from mirl_jax import testing_runs as runs
from mirl_jax.learning.optimizer import make_optimizer
from mirl_jax.learning.state import new_state
from mirl_jax.runs.checkpoints import Checkpoints
from mirl_jax.runs.config_files import write_config
from mirl_jax.runs.rollouts import read_rollouts, rollout_steps

# As many questions as a training batch of the small run has: one compilation.
FLAGS = ("--config.train.dump_questions=4",)


def config(*overrides):
  return runs.small_config(*FLAGS, *overrides)


def checkpoint(workdir, step, mode="train", scale=0.0):
  """Saves a state whose parameters are the start's, scaled."""
  policy = build.make_policy(config())
  params = build.load_policy_params(config(), policy)
  params = jax.tree.map(lambda x: x * scale, params)
  state = new_state(
    params,
    make_optimizer(config().optimizer.to_dict(), 6),
    reference=mode == "train",  # MI's scorer
    ema=False,
  )
  Checkpoints(workdir, 2).save(step, state, {"mode": mode})


def test_eval_without_a_checkpoint_is_of_the_start(tmp_path, capsys):
  assert inspection.eval(config(), str(tmp_path / "new")) == 0
  record = json.loads((tmp_path / "new" / "eval.json").read_text())
  assert record["step"] is None
  assert record["questions"] == 8
  assert 0 <= record["eval/greedy/accuracy"] <= 1
  assert record["eval/greedy/tags"] > 0.5  # it was warmed up
  out = capsys.readouterr().out
  assert "the start policy on held_out: 8 questions" in out
  assert "pass@2" in out
  # Looking leaves nothing that a training run would take for its own.
  assert {f.name for f in (tmp_path / "new").iterdir()} == {"eval", "eval.json"}


@pytest.mark.parametrize("mode", ["train", "sft"])
def test_eval_is_of_the_last_checkpoint(tmp_path, capsys, mode):
  checkpoint(tmp_path, 2, mode, scale=1.0)
  checkpoint(tmp_path, 5, mode, scale=0.0)
  assert inspection.eval(config(), str(tmp_path)) == 0
  record = json.loads((tmp_path / "eval.json").read_text())
  assert record["step"] == 5
  # Weights of zero write no tags.
  assert record["eval/greedy/tags"] == 0
  assert record["eval/sampled/tags"] == 0
  assert "step 5 on held_out: 8 questions" in capsys.readouterr().out


def test_truncated_sampling_is_for_evaluation(tmp_path):
  """In training it is refused; here it makes sampling greedy."""
  one = ("--config.program.describe.top_k=1", "--config.program.reason.top_k=1")
  assert inspection.eval(config(*one), str(tmp_path)) == 0
  record = json.loads((tmp_path / "eval.json").read_text())
  assert record["eval/sampled/accuracy"] == record["eval/greedy/accuracy"]


def test_sample_shows_trees_and_leaves_the_dumps_of_training(tmp_path, capsys):
  dumped = tmp_path / "rollouts" / "0.jsonl"
  dumped.parent.mkdir()
  dumped.write_text("of training\n")
  assert inspection.sample(config(), str(tmp_path)) == 0
  out = capsys.readouterr().out
  assert out.count("right") + out.count("wrong") >= 4 * 2
  assert "<description>" in out
  assert dumped.read_text() == "of training\n"
  samples = tmp_path / "samples"
  assert rollout_steps(samples) == [0]
  nodes = read_rollouts(samples, 0)
  counts = {
    stage: sum(n.stage == stage for n in nodes)
    for stage in ("prompt", "describe", "reason")
  }
  assert counts == {"prompt": 4, "describe": 16, "reason": 8}
  assert all(n.advantage is None for n in nodes)
  assert sum(bool(n.kept) for n in nodes if n.stage == "describe") == 8


def test_looking_at_a_run_takes_its_buckets(tmp_path, monkeypatch, capsys):
  """Also with a config file that leaves them open."""
  own = (
    "--config.data.prompt_buckets=(64,96)",
    "--config.data.patch_buckets=(36,)",
  )
  write_config(tmp_path, config(*own))
  made = []
  make = batching.Batcher
  monkeypatch.setattr(
    batching, "Batcher", lambda *a: made.append(a[1:3]) or make(*a)
  )
  left_open = config(*runs.OPEN)
  assert inspection.sample(left_open, str(tmp_path)) == 0
  assert "buckets:" not in capsys.readouterr().out
  assert inspection.sample(left_open, str(tmp_path / "new")) == 0
  assert "buckets: prompt 48 (padding" in capsys.readouterr().out
  assert made == [((64, 96), (36,)), ((48, 96), (36, 72))]


def test_report_is_made_of_what_a_run_left(tmp_path, capsys):
  (tmp_path / "metrics.jsonl").write_text(
    "".join(f'{{"step": {n}, "grad_norm": {n}.5}}\n' for n in (1, 2, 3))
  )
  assert inspection.report(config(), str(tmp_path)) == 0
  path = tmp_path / "report.html"
  assert str(path) in capsys.readouterr().out
  assert "Gradient norm" in path.read_text()
