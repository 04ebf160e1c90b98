"""Two processes are one supervised run, which a signal to one of them stops."""

import sys

import pytest

from launch import local
from mirl_jax import testing_runs as runs
from mirl_jax.sft import sft

COLUMNS = ("question", "answer", "answer_type", "description", "reasoning")


@pytest.fixture(scope="module")
def flags(lossy_folder):
  return (
    f"--config.data.train={lossy_folder(*COLUMNS)}",
    "--config.data.max_bad_share=0.5",
    "--config.data.prompt_buckets=(128,)",
    "--config.data.patch_buckets=(36,)",
    "--config.sft.response_length=128",
    "--config.sft.steps=8",
    "--config.sft.batch=8",
    "--config.sft.warmup=2",
    "--config.sft.log_every=1",
    "--config.sft.save_every=0",
  )


@pytest.mark.parametrize(
  "from_scratch", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_a_stop_of_one_ends_both_and_the_run_goes_on_as_one(
  tmp_path, monkeypatch, flags, from_scratch
):
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  flags = (*flags, f"--config.sft.from_scratch={from_scratch}")
  alone, both = tmp_path / "alone", tmp_path / "both"
  argv = [sys.executable, "-m", "mirl_jax.main", "--mode=sft"]
  more = (f"--workdir={both}", "--config.mesh=data:2,fsdp:2")
  two = local.start([*argv, *runs.SMALL, *flags, *more], 2, 2)
  try:
    metrics = both / "metrics.jsonl"
    came = runs.wait_for(
      two[0],
      lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 2,
      timeout=900.0,
    )
    two[1].terminate()
    outs = [child.communicate(timeout=300)[0] for child in two]
  finally:
    for child in two:
      child.kill()
  assert came, outs
  assert [child.returncode for child in two] == [143, 143], outs
  assert "resumable" in outs[0]
  assert "step" not in outs[1]

  for workdir in (both, alone):
    assert sft(runs.small_config(*flags), str(workdir)) == 0
    assert (workdir / "model" / "model.safetensors").is_file()
  got, wanted = (runs.untimed_metrics(folder) for folder in (both, alone))
  assert len(got) == len(wanted) == 8
  for row, expected in zip(got, wanted, strict=True):
    # The same draws; sums over 4 devices round otherwise.
    assert row == pytest.approx(expected, rel=2e-3, abs=2e-4)
  said = [(x / "quarantine.jsonl").read_text() for x in (alone, both)]
  lines = [set(text.splitlines()) for text in said]
  assert len(lines[0]) == 6
  assert lines[0] == lines[1]
