import pytest

from mirl_jax import testing_runs as runs
from mirl_jax.checks import check_batch, check_same_run
from mirl_jax.runs.config_files import write_config


def test_a_run_may_go_on_with_more_steps_only(tmp_path):
  config = runs.small_config()
  write_config(tmp_path, config)
  longer = runs.small_config(
    "--config.train.steps=99",
    "--config.train.keep=5",
    "--config.export.dtype=bfloat16",
  )
  check_same_run(longer, str(tmp_path), "train", "train")
  other = runs.small_config("--config.optimizer.lr=1.0")
  with pytest.raises(ValueError, match=r"optimizer\.lr: .* -> 1\.0"):
    check_same_run(other, str(tmp_path), "train", "train")
  with pytest.raises(ValueError, match="--mode=sft, not of --mode=train"):
    check_same_run(config, str(tmp_path), "sft", "train")


@pytest.mark.parametrize(
  ("questions", "fits"), [(8, True), (16, True), (4, False), (12, False)]
)
def test_questions_are_shared_out_evenly(questions, fits):
  config = runs.small_config(f"--config.train.questions={questions}")
  if fits:
    check_batch(config, 8)
    return
  with pytest.raises(ValueError, match=f"questions={questions}: .* of 8"):
    check_batch(config, 8)
