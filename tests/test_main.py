import json
import shutil
import subprocess
import sys
from importlib import resources

import pytest

from mirl_jax import main, train
from mirl_jax import testing_runs as runs
from mirl_jax.data.source import TooManyBadRows


def refused(capsys, *argv, code=main.BAD_ARGUMENT):
  """The one line that a command line is answered with."""
  assert main.run(argv) == code
  out, err = capsys.readouterr()
  assert out == ""
  assert err.startswith("error: ")
  assert err.count("\n") == 1
  assert "Traceback" not in err
  return err


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (["--bogus=1"], "bogus"),
    (["extra"], "unexpected argument 'extra'"),
    (["--mode=trian"], "train|sft|eval|sample|report"),
    (["--config.train.stpes=3"], "nearest is config.train.steps"),
    (["--config.train.steps=abc"], "config.train.steps=abc: invalid"),
    (["--config.train.steps=1.5"], "config.train.steps=1.5: invalid"),
    (["--config.eval.screen=maybe"], "Non-boolean"),
    (["--config.train=3"], "config.train is a section"),
    (["--config.method=x"], "config file's choice"),
    (["--config=nowhere.py"], "there is no file nowhere.py"),
    (["--config.mesh=rows:1"], "axes"),
    (["--config.policy.path=nowhere"], "no such model directory: nowhere"),
    (["--config.policy.dtype=float8"], "policy.dtype='float8'"),
    (["--config.policy.param_dtype=int8"], "policy.param_dtype='int8'"),
    (["--config.policy.attention=flash"], "policy.attention='flash'"),
    (["--config.policy.attention=cudnn"], "'cudnn' runs on NVIDIA GPUs"),
    (["--mode=sft", "--config.export.dtype=x"], "export.dtype='x'"),
    (["--mode=sft", "--config.export.shard_gb=-1"], "export.shard_gb=-1"),
    (["--out=here"], "--out=here goes with --mode=export only"),
    (["--mode=export"], "--mode=export needs --out=DIR"),
    (["--config.data.train=nowhere"], "nowhere"),
    (["--config.data.prompt_buckets=(64,48)"], "data.prompt_buckets"),
    (["--config.program.keep.k=11"], "Keep k=11 must lie in 1..6"),
    (["--config.program.keep.by=mii"], "did you mean 'mi'"),
    (["--config.program.reason.top_p=0.9"], "top_p and top_k are for eval"),
    (["--config.program.reason.top_k=5"], "top_p and top_k are for eval"),
    (["--config.program.reason.temperature=0"], "greedy sampling cannot"),
    (["--config.reward.file=nowhere.py"], "no stage is paid by it"),
    (["--config.mi.view=blnk"], "did you mean 'blank'"),
    (["--config.mi.stage=reson"], "no stage 'reson'"),
    (["--config.train.questions=0"], "train.questions=0"),
    (["--config.train.keep=0"], "keep"),
    (["--config.optimizer.schedule=x"], "optimizer.schedule='x'"),
    (["--config.loss.old_logprob=x"], "loss.old_logprob='x'"),
    (["--config.loss.reduction=x"], "reduction"),
    (["--config.loss.ratio=x"], "ratio"),
    (["--config.loss.kl_kind=x"], "kl"),
    (["--mode=eval", "--config.policy.path=nowhere"], "nowhere"),
  ],
)
def test_a_bad_argument_is_one_clear_line(capsys, tmp_path, flags, said):
  workdir = tmp_path / "run"
  # Should a value be taken after all, the test soon ends.
  brief = ("--config.train.steps=0", "--config.eval.final_questions=0")
  argv = [f"--workdir={workdir}", *brief, *flags]
  assert said in refused(capsys, *argv)
  assert not (workdir / "config.json").exists()


def test_bad_flags_are_answered_without_jax():
  """In a process of its own: exit code, no traceback, and quickly."""
  program = (
    "import sys; sys.argv = ['x', '--config.train.stpes=3']\n"
    "from mirl_jax import main\n"
    "try: main.main()\n"
    "except SystemExit as end: print(end.code, 'jax' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
  )
  assert done.stdout.split() == ["2", "False"], done.stderr
  assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
  ("error", "code"),
  [
    (TooManyBadRows("9 of 10"), 4),
    (RuntimeError("RESOURCE_EXHAUSTED: out of memory"), 3),
    (MemoryError("no room"), 3),
    (FileNotFoundError("no such file"), 2),
  ],
)
def test_errors_of_a_run_have_their_codes(
  capsys, monkeypatch, tmp_path, error, code
):
  def fail(*_):
    raise error

  monkeypatch.setattr(train, "train", fail)
  said = refused(capsys, f"--workdir={tmp_path}", code=code)
  assert str(error) in said


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch, tmp_path):
  def fail(*_):
    raise KeyError("a bug")

  monkeypatch.setattr(train, "train", fail)
  with pytest.raises(KeyError):
    main.run([f"--workdir={tmp_path}"])


def test_debug_shows_where_an_error_came_from():
  with pytest.raises(ValueError, match="nowhere"):
    main.run(["--debug", "--config=nowhere.py"])


def test_help_shows_the_flags_and_runs_nothing(capsys):
  assert main.run(["--help"]) == 0
  out = capsys.readouterr().out
  for flag in ("--workdir", "--mode", "--config", "--[no]debug"):
    assert flag in out


@pytest.mark.parametrize("mode", main.MODES)
def test_a_mode_gets_the_config_and_the_workdir(monkeypatch, mode):
  called = []
  module = main.importlib.import_module(main.MODES[mode])
  monkeypatch.setattr(module, mode, lambda *given: called.append(given) or 7)
  flags, more = {
    "export": (["--out=there"], ["there"]),
    "train": (["--profile=2:4"], [(2, 4)]),
    "compile": (["--topology=cpu:2", "--json"], ["cpu:2", True]),
  }.get(mode, ([], []))
  argv = [f"--mode={mode}", "--config.seed=5", "--workdir=here", *flags]
  assert main.run(argv) == 7
  config, *rest = called[0]
  assert config.seed == 5
  assert rest == ["here", *more]


def test_processes_join_before_the_mode_runs(monkeypatch):
  order = []
  module = main.importlib.import_module("mirl_jax.parallel.processes")
  monkeypatch.setattr(module, "join", order.append)
  train = main.importlib.import_module(main.MODES["train"])
  monkeypatch.setattr(train, "train", lambda *given: order.append("train") or 0)
  assert main.run(["--processes=here:1,2,0"]) == 0
  assert order == ["here:1,2,0", "train"]
  order.clear()
  assert main.run([]) == 0
  assert order == ["train"]


@pytest.mark.parametrize("mode", ["eval", "export"])
@pytest.mark.parametrize("fault", ["config", "weights", "shard"])
def test_a_broken_model_directory_is_one_clear_line(
  capsys, tmp_path, mode, fault
):
  model = tmp_path / "model"
  shutil.copytree(str(resources.files("mirl_jax") / "tiny"), model)
  config, weights = model / "config.json", model / "model.safetensors"
  if fault == "config":
    config.write_text(json.dumps({"model_type": "llama"}))
    said = f"{config}: model_type 'llama' is not supported; expected one of"
  elif fault == "weights":
    raw = json.loads(config.read_text())
    config.write_text(json.dumps({**raw, "hidden_size": 48}))
    said = f"{model} does not fit its config: "
  else:
    weights.write_bytes(weights.read_bytes()[:-9])
    said = f"{weights} is not a whole safetensors file"
  argv = [
    f"--mode={mode}",
    f"--workdir={tmp_path / 'run'}",
    f"--config.policy.path={model}",
  ]
  if mode == "export":
    argv.append(f"--out={tmp_path / 'out'}")
  assert said in refused(capsys, *argv)
  assert not (tmp_path / "out").exists()


def test_a_workdir_of_another_run_is_refused(capsys, tmp_path):
  """Another config, more fields than one line can name, another mode."""
  from mirl_jax.runs.checkpoints import Checkpoints
  from mirl_jax.runs.config_files import write_config

  write_config(tmp_path, runs.small_config())
  state = {"x": runs.np.zeros(2)}
  Checkpoints(tmp_path, 1).save(3, state, {"mode": "train"})
  flags = [f"--workdir={tmp_path}", *runs.SMALL]
  said = refused(capsys, *flags, "--config.loss.clip_low=0.1")
  assert "loss.clip_low: 0.2 -> 0.1" in said
  assert "another --workdir" in said
  said = refused(capsys, *flags[:1], "--config=configs/grpo.py")
  assert " more." in said
  assert len(said) < 700
  said = refused(capsys, *flags, "--mode=sft")
  assert "--mode=train, not of --mode=sft" in said
