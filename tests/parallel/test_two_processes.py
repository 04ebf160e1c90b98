"""Two real processes are one run; one that dies ends the other; the run goes on
on another number of processes and devices."""

import sys
import time

import pytest

from launch import local
from mirl_jax import testing_runs as runs
from mirl_jax.runs.metrics import read_metrics


@pytest.fixture(scope="module")
def flags(lossy_folder):
  folder = lossy_folder("question", "answer", "answer_type", "options")
  return (
    *runs.SMALL,
    *runs.UNMEASURED,
    f"--config.data.train={folder}",
    "--config.data.max_bad_share=0.5",
    "--config.data.prompt_buckets=(48,)",
    "--config.data.patch_buckets=(36,)",
    "--config.train.questions=8",
    "--config.train.save_every=3",
    "--config.mi.view=other",  # of other processes' questions too
  )


@pytest.fixture(scope="module")
def alone(tmp_path_factory, flags):
  """The run that nothing disturbs: one process, one device."""
  workdir = tmp_path_factory.mktemp("alone")
  process = runs.spawn(workdir, *flags)
  _, err = process.communicate(timeout=900)
  assert process.returncode == 0, err
  return workdir


def quarantined(workdir):
  return set((workdir / "quarantine.jsonl").read_text().splitlines())


@pytest.fixture
def two(tmp_path, monkeypatch, flags):
  """Two processes with four devices each, until they are stopped."""
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  argv = [sys.executable, "-m", "mirl_jax.main", f"--workdir={tmp_path}"]
  more = ("--config.train.steps=1000", "--config.mesh=data:2,fsdp:4")
  children = local.start([*argv, *flags, *more], 2, 4)
  yield children
  for child in children:
    child.kill()


def test_one_of_two_is_killed_and_the_run_goes_on_as_one(
  alone, two, tmp_path, capfd, flags
):
  threads = local.echo(two)
  committed = tmp_path / "checkpoints" / "3" / "COMMITTED"
  came = runs.wait_for(two[0], committed.exists, timeout=900.0)
  killed = time.monotonic()
  two[1].kill()
  code = local.watch(two, local.GRACE_S)
  took = time.monotonic() - killed
  for thread in threads:
    thread.join()
  shown = capfd.readouterr()
  assert came, shown.out
  assert code == 128 + 9
  assert took < 60
  assert shown.err.startswith("process 1 of 2 was killed by SIGKILL\n")
  assert "did not follow" not in shown.err  # it noticed by itself

  again = runs.spawn(tmp_path, *flags)
  _, err = again.communicate(timeout=900)
  assert again.returncode == 0, err
  wanted, got = (
    {row["step"]: row for row in runs.untimed_metrics(folder)}
    for folder in (alone, tmp_path)
  )
  assert got.keys() == wanted.keys() == set(range(7))
  for step, row in wanted.items():
    assert got[step].keys() == row.keys()
    for name, value in row.items():
      if name.startswith("idle/"):  # a shard waits for its own longest only
        continue
      # The same draws; sums over 8 devices round otherwise.
      assert got[step][name] == pytest.approx(value, rel=2e-3, abs=2e-4), name
  # The first names what the second found, too.
  assert wanted[6]["skipped/bad_rows"] >= 4
  assert quarantined(alone) <= quarantined(tmp_path)


@pytest.mark.slow
def test_a_stop_of_one_ends_both_and_the_first_writes(two, tmp_path):
  """A stop signal to one of them ends both at the same step."""
  metrics = tmp_path / "metrics.jsonl"
  came = runs.wait_for(
    two[0],
    lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 1,
    timeout=900.0,
  )
  two[1].terminate()
  outs = [child.communicate(timeout=300)[0] for child in two]
  assert came, outs
  assert [child.returncode for child in two] == [143, 143]
  assert "resumable" in outs[0]
  assert "step" not in outs[1]
  steps = [row["step"] for row in read_metrics(tmp_path)]
  assert steps == list(range(len(steps)))
