import pytest

from mirl_jax import testing_runs as runs
from mirl_jax.checks import (
  check_batch,
  check_same_run,
  check_sft_batch,
  recall_buckets,
)
from mirl_jax.runs.config_files import write_config


def test_a_run_may_go_on_with_more_steps_only(tmp_path):
  config = runs.small_config()
  write_config(tmp_path, config)
  longer = runs.small_config(
    "--config.train.steps=99",
    "--config.train.keep=5",
    "--config.export.dtype=bfloat16",
    "--config.reward.deadline_s=60",
    "--config.reward.memory_mb=0",
    "--config.reward.workers=5",
  )
  check_same_run(longer, str(tmp_path), "train", "train")
  other = runs.small_config("--config.optimizer.lr=1.0")
  with pytest.raises(ValueError, match=r"optimizer\.lr: .* -> 1\.0"):
    check_same_run(other, str(tmp_path), "train", "train")
  other = runs.small_config("--config.reward.file=mine.py")
  with pytest.raises(ValueError, match=r"reward\.file: '' -> 'mine\.py'"):
    check_same_run(other, str(tmp_path), "train", "train")
  with pytest.raises(ValueError, match="--mode=sft, not of --mode=train"):
    check_same_run(config, str(tmp_path), "sft", "train")


def test_a_run_goes_on_with_the_buckets_that_it_chose(tmp_path):
  write_config(tmp_path, runs.small_config())
  for given in ((), runs.OPEN, runs.OPEN[:1]):
    config = runs.small_config(*given)
    found = check_same_run(config, str(tmp_path), "train", "train")
    assert found.data.prompt_buckets == (48, 96)
    assert found.data.patch_buckets == (36, 72)
    assert found.is_locked
  other = runs.small_config("--config.data.prompt_buckets=(64,96)")
  with pytest.raises(ValueError, match=r"prompt_buckets\.0: 48 -> 64"):
    check_same_run(other, str(tmp_path), "train", "train")


def test_buckets_are_recalled_for_the_same_prompts_only(tmp_path):
  open_ones = runs.small_config(*runs.OPEN)
  assert recall_buckets(open_ones, str(tmp_path)) is open_ones
  write_config(tmp_path, runs.small_config())
  another = runs.small_config(*runs.OPEN, "--config.train.questions=8")
  assert recall_buckets(another, str(tmp_path)).data.patch_buckets == (36, 72)
  for field in (
    "data.seed=3",
    "world.length=9",
    "policy.max_pixels=100",
    "policy.path=there",
    "policy.instruction=look",
  ):
    other = runs.small_config(*runs.OPEN, f"--config.{field}")
    assert recall_buckets(other, str(tmp_path)).data.patch_buckets == ()


@pytest.mark.parametrize(
  ("questions", "fits"), [(8, True), (16, True), (4, False), (12, False)]
)
@pytest.mark.parametrize(
  ("field", "check"),
  [("train.questions", check_batch), ("sft.batch", check_sft_batch)],
)
def test_questions_are_shared_out_evenly(questions, fits, field, check):
  config = runs.small_config(f"--config.{field}={questions}")
  if fits:
    check(config, 8)
    return
  with pytest.raises(ValueError, match=rf"{field}={questions}: .* of 8"):
    check(config, 8)
