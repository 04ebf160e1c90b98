"""A run that is stopped anywhere and resumed equals one that was not."""

import os
import random
import shutil
import signal
import time

import pytest

from mirl_jax import batching, sampling
from mirl_jax import testing_runs as runs
from mirl_jax import train as loop
from mirl_jax.config import from_saved
from mirl_jax.evaluate import FIRST, evaluate
from mirl_jax.runs.best import read_best
from mirl_jax.runs.checkpoints import MARKER, Checkpoints
from mirl_jax.runs.config_files import load_config
from mirl_jax.runs.metrics import MetricsWriter, read_metrics
from mirl_jax.runs.summary import read_summary
from mirl_jax.start import load_roles

slow = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def traced_once():
  with runs.traced_once():
    yield


def small(workdir, *overrides):
  return loop.train(runs.small_config(*overrides), str(workdir))


def assert_same_run(one, other):
  assert runs.different_arrays(one, other) == []
  assert runs.untimed_metrics(one) == runs.untimed_metrics(other)
  assert runs.dumps(one) == runs.dumps(other)
  first, second = read_summary(one), read_summary(other)
  assert first["before"] == second["before"]
  assert first["after"] == second["after"]
  assert first["best"] == second["best"]
  assert read_best(one) == read_best(other)
  assert Checkpoints(one, 1).steps() == Checkpoints(other, 1).steps()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that nothing disturbed, in this process."""
  workdir = tmp_path_factory.mktemp("whole")
  assert small(workdir) == 0
  return workdir


@pytest.fixture
def at_step(monkeypatch):
  """Does something when the metrics of a step have been written, once."""

  def arm(step, action):
    write = MetricsWriter.write
    armed = [action]

    def writing(self, number, values):
      write(self, number, values)
      if number == step and armed:
        armed.pop()()

    monkeypatch.setattr(MetricsWriter, "write", writing)

  return arm


def stop():
  os.kill(os.getpid(), signal.SIGTERM)


class Killed(BaseException):
  """Leaves the loop without any of its goodbyes, as far as a test can."""


def kill():
  raise Killed


def test_a_run_writes_all_that_the_contract_names(whole):
  rows = read_metrics(whole)
  assert [row["step"] for row in rows] == list(range(7))
  keys = rows[-1].keys()
  for name in (
    "wall_s generated_tokens scored_tokens complete_trajectories grad_norm"
    " tokens_per_s tree_token_ratio reward/correct mi/mean loss/total"
    " eval/greedy/accuracy eval/greedy/accuracy_se time/step_s"
    " skipped/nonfinite skipped/bad_rows skipped/no_contrast_steps"
    " padding/prompt padding/patches padding/describe padding/reason"
    " idle/describe idle/reason"
  ).split():
    assert name in keys, name
  # Evaluated before, in the loop, and after.
  assert [row["step"] for row in rows if "eval/greedy/accuracy" in row] == [
    0,
    3,
    6,
  ]
  trained = rows[1:]
  per_step = [row["tokens/step"] for row in trained]
  assert [row["generated_tokens"] for row in trained] == [
    sum(per_step[: i + 1]) for i in range(6)
  ]
  assert [r["complete_trajectories"] for r in trained] == [
    4 * 2 * n for n in range(1, 7)
  ]
  assert all(row["scored_tokens"] > row["generated_tokens"] for row in trained)
  assert all(row["tree_token_ratio"] > 1 for row in trained)
  assert all(row["compiles"] == 2 for row in trained)  # rollout, update
  assert runs.dumps(whole).keys() == {f"{n}.jsonl" for n in (1, 2, 4, 6)}
  summary = read_summary(whole)
  assert summary["after"].items() <= rows[-1].items()
  assert summary["scored_tokens"] == rows[-1]["scored_tokens"]
  for name in ("config.json", "report.html"):
    assert (whole / name).stat().st_size > 0
  best = summary["best"]["step"]
  assert Checkpoints(whole, 2).steps() == sorted({best, 4, 6})
  assert Checkpoints(whole, 2).best() == best


def test_killed_and_stopped_processes_resume_to_the_same_bits(tmp_path):
  """SIGKILL while a checkpoint is written and at random moments, SIGTERM;
  every process starts where the last committed step was."""
  rng = random.Random(0)
  undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "killed"
  process = runs.spawn(undisturbed, *runs.SMALL)
  out, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  assert "sampled accuracy" in out

  def torn():
    folders = [*(workdir / "checkpoints").glob("2*")]
    return bool(folders) and not (folders[0] / MARKER).exists()

  def logged(step):
    rows = (workdir / "metrics.jsonl").read_bytes().count(b"\n")
    return rows > step

  started = runs.spawn(workdir, *runs.SMALL)
  assert runs.wait_for(started, torn)
  started.kill()
  started.communicate()

  for step in (2, 4):
    started = runs.spawn(workdir, *runs.SMALL)
    metrics = workdir / "metrics.jsonl"
    assert runs.wait_for(
      started, lambda m=metrics, s=step: m.exists() and logged(s)
    )
    time.sleep(rng.uniform(0, 0.3))
    started.kill()
    started.communicate()

  started = runs.spawn(workdir, *runs.SMALL)
  before = (workdir / "metrics.jsonl").stat().st_mtime_ns
  metrics = workdir / "metrics.jsonl"
  if runs.wait_for(started, lambda: metrics.stat().st_mtime_ns > before):
    started.terminate()
  _, err = started.communicate(timeout=600)
  assert started.returncode in (143, 0), err
  if started.returncode == 143:
    assert "resumable" in err

  last = runs.spawn(workdir, *runs.SMALL)
  _, err = last.communicate(timeout=600)
  assert last.returncode == 0, err
  assert_same_run(undisturbed, workdir)


@pytest.mark.parametrize(
  "step",
  [pytest.param(1, marks=slow), 3, pytest.param(5, marks=slow)],
)
def test_a_stop_signal_saves_and_the_rest_is_as_without_it(
  whole, tmp_path, at_step, capfd, step
):
  at_step(step, stop)
  assert small(tmp_path) == 143
  assert f"saved step {step}, resumable" in capfd.readouterr().err
  assert Checkpoints(tmp_path, 1).latest() == step
  assert small(tmp_path) == 0
  assert_same_run(whole, tmp_path)


@pytest.mark.parametrize(
  "step",
  [0, pytest.param(2, marks=slow), 3, pytest.param(6, marks=slow)],
)
def test_a_run_that_died_goes_on_from_the_committed_step(
  whole, tmp_path, at_step, step
):
  at_step(step, kill)
  with pytest.raises(Killed):
    small(tmp_path)
  # Written before the checkpoint: those lines are cut back.
  assert read_metrics(tmp_path)[-1]["step"] == step
  assert small(tmp_path) == 0
  assert_same_run(whole, tmp_path)


@pytest.mark.parametrize(
  "call",
  [pytest.param(0, marks=slow), 1, pytest.param(2, marks=slow)],
)
def test_an_evaluation_that_is_stopped_is_done_after_the_resume(
  whole, tmp_path, monkeypatch, call
):
  calls = []

  def stopping(*args, **keywords):
    calls.append(1)
    if len(calls) == call + 1:
      stop()
    return evaluate(*args, **keywords)

  monkeypatch.setattr(loop, "evaluate", stopping)
  assert small(tmp_path) == 143
  assert Checkpoints(tmp_path, 1).latest() == (None, 3, 6)[call]
  evaluated = [
    row["step"]
    for row in read_metrics(tmp_path)
    if "eval/greedy/accuracy" in row
  ]
  assert evaluated == [0, 3][:call]
  # A second stop before the next checkpoint finds the figures written.
  assert small(tmp_path) == 0
  assert_same_run(whole, tmp_path)


def test_an_evaluation_owed_twice_is_written_once(
  whole, tmp_path, monkeypatch, at_step
):
  calls = []

  def stopping(*args, **keywords):
    calls.append(1)
    if len(calls) == 2:
      stop()
    return evaluate(*args, **keywords)

  monkeypatch.setattr(loop, "evaluate", stopping)
  assert small(tmp_path) == 143
  at_step(3, kill)  # after the line, and no new checkpoint of that step
  with pytest.raises(Killed):
    small(tmp_path)
  assert small(tmp_path) == 0
  assert_same_run(whole, tmp_path)


def test_a_finished_run_is_not_trained_again(
  whole, tmp_path, monkeypatch, capsys
):
  workdir = tmp_path / "copy"
  shutil.copytree(whole, workdir)
  lines = (workdir / "metrics.jsonl").read_bytes()
  monkeypatch.setattr(
    loop, "evaluate", lambda *a, **k: pytest.fail("evaluated again")
  )
  assert small(workdir) == 0
  assert "sampled accuracy" in capsys.readouterr().out
  assert (workdir / "metrics.jsonl").read_bytes() == lines
  assert_same_run(whole, workdir)


def test_buckets_are_chosen_once_in_a_run(
  whole, tmp_path, monkeypatch, at_step, capsys
):
  at_step(2, stop)
  assert small(tmp_path, *runs.OPEN) == 143
  assert "buckets: prompt 48 (padding" in capsys.readouterr().out
  config = from_saved(load_config(tmp_path))
  assert config.data.prompt_buckets == (48, 96)
  assert config.data.patch_buckets == (36, 72)
  monkeypatch.setattr(
    batching.buckets, "sample_rows", lambda *a: pytest.fail("measured")
  )
  assert small(tmp_path, *runs.OPEN) == 0
  assert "buckets:" not in capsys.readouterr().out
  assert from_saved(load_config(tmp_path)).to_dict() == config.to_dict()
  assert_same_run(whole, tmp_path)  # to which they were given


@pytest.fixture
def scored(monkeypatch):
  """Gives evaluations these accuracies, in turn, of the loop's questions."""

  def arm(values):
    left = list(values)

    def evaluated(*args, **keywords):
      return {NAME: 0.5, FIRST + NAME: left.pop(0)}

    monkeypatch.setattr(loop, "evaluate", evaluated)

  return arm


NAME = "eval/greedy/accuracy"
# Evaluated before and after steps 3 and 6; only the last is kept beside.
ONE = ("--config.train.keep=1", "--config.train.save_every=0")


def test_the_best_step_is_kept_though_later_ones_are_saved(
  scored, tmp_path, capsys
):
  scored([0.3, 0.9, 0.1])
  assert small(tmp_path, *ONE) == 0
  assert Checkpoints(tmp_path, 1).steps() == [3, 6]
  best = {"name": NAME, "step": 3, "value": 0.9}
  assert read_summary(tmp_path)["best"] == read_best(tmp_path) == best
  assert all(row.get(NAME, 0.5) == 0.5 for row in read_metrics(tmp_path))
  assert not any(FIRST + NAME in row for row in read_metrics(tmp_path))
  assert f"best checkpoint: step 3, {NAME} 0.9" in capsys.readouterr().out
  config = runs.small_config("--config.eval.checkpoint=best")
  policy = loop.build.make_policy(config)
  assert load_roles(config, str(tmp_path), policy)[1] == 3
  assert load_roles(runs.small_config(), str(tmp_path), policy)[1] == 6
  with pytest.raises(ValueError, match="'latest' or 'best'"):
    load_roles(
      runs.small_config("--config.eval.checkpoint=bst"), str(tmp_path), policy
    )


def test_a_killed_run_keeps_the_same_best_step(scored, tmp_path, at_step):
  """Killed when the best step's line was written, before it was saved, and
  again after a later one."""
  undisturbed = tmp_path / "undisturbed"
  scored([0.3, 0.9, 0.9])
  assert small(undisturbed, *ONE) == 0
  workdir = tmp_path / "killed"
  for step, values in ((3, [0.3, 0.9]), (5, [0.3, 0.9])):
    scored(values)
    at_step(step, kill)
    with pytest.raises(Killed):
      small(workdir, *ONE)
  assert Checkpoints(workdir, 1).steps() == [3]
  scored([0.9])
  assert small(workdir, *ONE) == 0
  assert Checkpoints(workdir, 1).best() == 3
  assert_same_run(undisturbed, workdir)


def test_no_best_step_is_kept_where_none_is_wanted(scored, tmp_path):
  scored([0.3, 0.9, 0.1])
  assert small(tmp_path, *ONE, "--config.eval.keep_best=") == 0
  assert Checkpoints(tmp_path, 1).steps() == [6]
  assert read_summary(tmp_path)["best"] is None
  config = runs.small_config("--config.eval.checkpoint=best")
  policy = loop.build.make_policy(config)
  with pytest.raises(ValueError, match="kept no best step; train it with"):
    load_roles(config, str(tmp_path), policy)


def test_a_figure_that_no_evaluation_has_is_refused(tmp_path):
  with pytest.raises(ValueError, match="did you mean 'eval/greedy/accuracy'"):
    small(tmp_path, "--config.eval.keep_best=eval/greedy/acuracy")


@pytest.mark.slow
def test_a_finished_run_is_made_longer(whole, tmp_path):
  workdir, straight = tmp_path / "copy", tmp_path / "straight"
  shutil.copytree(whole, workdir)
  assert small(workdir, "--config.train.steps=8") == 0
  assert small(straight, "--config.train.steps=8") == 0
  assert runs.different_arrays(workdir, straight) == []
  longer = runs.untimed_metrics(workdir)
  assert longer[7:] == runs.untimed_metrics(straight)[7:]
  assert longer[:7] == runs.untimed_metrics(whole)
  assert read_summary(workdir)["before"] == read_summary(whole)["before"]
  assert read_summary(workdir)["steps"] == 8
  assert read_summary(workdir)["after"] == read_summary(straight)["after"]


def test_a_torn_checkpoint_does_not_count(whole, tmp_path):
  workdir = tmp_path / "copy"
  shutil.copytree(whole, workdir)
  (workdir / "checkpoints" / "6" / MARKER).unlink()
  shutil.rmtree(workdir / "checkpoints" / "6" / "meta")
  assert small(workdir) == 0
  assert_same_run(whole, workdir)


def test_another_seed_gives_other_bits_and_the_same_seed_the_same(
  whole, tmp_path
):
  short = "--config.train.steps=2"
  assert small(tmp_path / "a", short) == 0
  assert small(tmp_path / "b", short, "--config.seed=1") == 0
  first = runs.saved_arrays(tmp_path / "a", 2)
  second = runs.saved_arrays(tmp_path / "b", 2)
  moved = [n for n in first if first[n].tobytes() != second[n].tobytes()]
  assert any("embedding" in name for name in moved)
  # The same seed: the first two steps of the longer run.
  a, w = runs.untimed_metrics(tmp_path / "a"), runs.untimed_metrics(whole)
  assert a[:2] == w[:2]
  assert w[2].items() <= a[2].items()
  assert runs.dumps(tmp_path / "a")["2.jsonl"] == runs.dumps(whole)["2.jsonl"]
  assert runs.dumps(tmp_path / "a") != runs.dumps(tmp_path / "b")


def test_warnings_are_said_once_in_a_run(tmp_path, monkeypatch, at_step, capfd):
  monkeypatch.setattr(
    loop.diagnostics, "warnings", lambda *a: {"warn/x": "a sentence"}
  )
  at_step(2, stop)
  four = (*runs.UNMEASURED, "--config.train.steps=4")
  assert small(tmp_path, *four) == 143
  assert small(tmp_path, *four) == 0
  assert capfd.readouterr().err.count("a sentence") == 1
  assert [row.get("warn/x") for row in read_metrics(tmp_path)] == [
    None,
    *[1.0] * 4,
  ]


def test_a_run_without_contrast_says_so(tmp_path, monkeypatch, capfd):
  """Every answer is called right: correctness cannot teach anything."""
  read = sampling.assess

  def all_right(*args):
    levels = read(*args)
    levels[-1].rewards["correct"][:] = 1.0
    return levels

  monkeypatch.setattr(sampling, "assess", all_right)
  assert small(tmp_path, *runs.UNMEASURED) == 0
  counts = [r["skipped/no_contrast_steps"] for r in read_metrics(tmp_path)[1:]]
  assert counts == [1, 2, 3, 4, 5, 6]
  assert read_summary(tmp_path)["no_contrast_steps"] == 6
  err = capfd.readouterr().err
  assert err.count("correctness teaches nothing") == 1
  assert "step 5" in err


def test_a_nonfinite_gradient_is_skipped_and_counted(tmp_path, monkeypatch):
  monkeypatch.setattr(
    loop.credit, "centre", lambda values, *rest: values * float("nan")
  )
  assert small(tmp_path, *runs.UNMEASURED, "--config.train.steps=2") == 0
  assert [r["skipped/nonfinite"] for r in read_metrics(tmp_path)[1:]] == [1, 2]
  start = loop.build.load_policy_params(
    runs.small_config(), loop.build.make_policy(runs.small_config())
  )
  kept = runs.saved_arrays(tmp_path)
  name = "['params']['text']['embed']['embedding']"
  assert (kept[name] == start["text"]["embed"]["embedding"]).all()
