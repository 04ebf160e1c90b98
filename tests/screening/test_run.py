import json
import sys

import pytest

from launch import local
from mirl_jax import inspection
from mirl_jax import testing_runs as runs
from mirl_jax.config import get_config
from mirl_jax.screening.chart import screening_chart
from mirl_jax.screening.table import screening_table

FILE = "eval/held_out/screening.json"


def test_eval_screens_and_writes_what_it_finds(tmp_path, capsys):
  config = runs.small_config("--config.eval.screen=true")
  assert inspection.eval(config, str(tmp_path)) == 0
  record = json.loads((tmp_path / FILE).read_text())
  assert record["step"] is None
  assert record["questions"] == record["groups"] == 8
  assert (record["descriptions"], record["kept"]) == (4, 2)
  assert set(record["targets"]) == {"exact", "correct"}
  oracle = record["scores"]["oracle"]["exact"]["auc"]
  assert oracle["mean"] == 1
  assert oracle["questions"] == record["targets"]["exact"]["contrast"] > 0
  out = capsys.readouterr().out
  assert screening_table(record) in out
  drawn = (tmp_path / FILE).with_suffix(".svg")
  assert drawn.read_text() == screening_chart(record)
  # The strategy that screens at test time is measured beside it.
  assert "eval/screen/accuracy" in json.loads(
    (tmp_path / "eval.json").read_text()
  )


@pytest.mark.slow
def test_a_program_of_one_stage_is_screened_too(tmp_path):
  config = get_config("grpo")
  with config.unlocked():
    config.program.response.fanout = 4
    config.eval.screen = True
    config.eval.final_questions = config.eval.batch = 8
    config.eval.samples = 2
  assert inspection.eval(config, str(tmp_path)) == 0
  record = json.loads(
    (tmp_path / "eval" / "held_out" / "screening.json").read_text()
  )
  assert "mi" not in record["scores"]
  assert record["kept"] == 2
  assert record["targets"]["correct"]["mean"] > 0.2


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path, monkeypatch):
  flags = (*runs.SMALL, "--mode=eval", "--config.eval.screen=true")
  alone, both = tmp_path / "alone", tmp_path / "both"
  process = runs.spawn(alone, *flags)
  _, err = process.communicate(timeout=900)
  assert process.returncode == 0, err
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  argv = [sys.executable, "-m", "mirl_jax.main", f"--workdir={both}", *flags]
  children = local.start([*argv, "--config.mesh=data:2,fsdp:2"], 2, 2)
  try:
    outs = [child.communicate(timeout=1800)[0] for child in children]
  finally:
    for child in children:
      child.kill()
  assert [child.returncode for child in children] == [0, 0], outs
  one, two = (
    json.loads((folder / FILE).read_text()) for folder in (alone, both)
  )
  assert two["targets"] == one["targets"]
  for name, score in one["scores"].items():
    for target in ("exact", "correct"):
      got = two["scores"][name][target]["auc"]
      assert got == pytest.approx(score[target]["auc"], abs=1e-6), name
