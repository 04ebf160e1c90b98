"""Scaling over slices: its arithmetic, from reports of a made-up compiler."""

import pytest

from benchmarks.pods import scaling as pods
from mirl_jax.full_size import full_size

BASE = full_size("Qwen/Qwen2.5-VL-3B-Instruct", {"": {}}, "")


def report(chips, refused=False):
  """Half of the sampler's time does not become less with more chips."""
  seconds = 1.0 + 16.0 / chips

  def program(name, per_step, tflops):
    return {
      "name": name,
      "per_step": per_step,
      "fits": True,
      "peak_gb": 9.0,
      "tflops": tflops,
      "hbm_gb": 10.0,
      "collectives": {"all-gather": {"gb": 0.5}, "all-reduce": {"gb": 0.25}},
      "bound": "hbm",
      "roofline_s": {"compute": 0.1, "hbm": seconds, "interconnect": 0.2},
    }

  rows = [program("sample", 4, 2.0), program("update", 1, 7.0)]
  step = {"roofline_s": 5 * seconds, "busy_s": {}, "bound": "hbm"}
  if refused:
    rows[1] = {"name": "update", "fits": False, "refused": "too large"}
    step = {}
  return {
    "topology": f"v5e:{chips}",
    "devices": chips,
    "mesh": "m",
    "programs": rows,
    "step": step,
  }


def test_questions_are_shared_out_over_the_data_shards():
  c = pods.sized(BASE, 32, 4, 64, 4)
  assert c.mesh == "data:1,fsdp:8,tensor:4"
  assert (c.train.questions, c.train.sample_parts) == (64, 2)
  assert c.loss.micro_batches == 8
  assert pods.sized(BASE, 256, 4, 64, 4).train.sample_parts == 1
  # Parameters are cut by a number that divides them.
  largest = pods.sized(BASE, 8960, 4, 8 * 2240, 4)
  assert largest.mesh == "data:35,fsdp:64,tensor:4"
  assert BASE.mesh == full_size("a", {"": {}}, "").mesh  # not changed
  for chips, questions in ((30, 64), (32, 60)):
    with pytest.raises(ValueError, match="that the data shards divide"):
      pods.sized(BASE, chips, 4, questions, 4)


def test_a_chips_work_is_that_of_all_runs_in_a_step():
  found = pods.summary(report(8), 64)
  assert found["sample"]["tflop"] == 4 * 2.0
  assert found["sample"]["sent_gb"] == 4 * 0.75
  assert found["sample"]["roofline_s"] == 4 * 3.0
  assert found["update"]["hbm_gb"] == 10.0
  assert found["step_s"] == 15.0
  assert found["fits"]
  lost = pods.summary(report(8, refused=True), 64)
  assert not lost["fits"]
  assert "step_s" not in lost


def test_efficiency_is_against_the_smallest_slice_that_fits():
  small, large, lost = (
    pods.summary(report(8), 64),
    pods.summary(report(16), 64),
    pods.summary(report(4, refused=True), 64),
  )
  pods.efficiencies([lost, small, large])
  assert small["efficiency"] == 1.0
  assert large["efficiency"] == pytest.approx(8 * 15 / (16 * 10))
  assert "efficiency" not in lost
  # Weak scaling: twice the questions in the same time are no loss.
  twice = pods.summary({**report(16), "step": {"roofline_s": 15.0}}, 128)
  pods.efficiencies([small, twice])
  assert twice["efficiency"] == 1.0


def test_a_slice_is_compiled_once(tmp_path, monkeypatch):
  asked = []

  def analyse(config, name, wanted):
    asked.append((config.mesh, config.train.questions, name, wanted))
    return report(pods.chips(name.partition(":")[2]))

  monkeypatch.setattr(pods, "analyse", analyse)
  slices = pods.Slices(BASE, "3b", "v5e", 4, 4, tmp_path)
  first = pods.scale(slices, ["2x4", "4x4"], 64, 8)
  programs = ("sample", "update")
  assert asked == [
    ("data:1,fsdp:2,tensor:4", 64, "v5e:2x4", programs),
    ("data:1,fsdp:4,tensor:4", 64, "v5e:4x4", programs),
    ("data:1,fsdp:2,tensor:4", 16, "v5e:2x4", programs),
    ("data:1,fsdp:4,tensor:4", 32, "v5e:4x4", programs),
  ]
  assert [row["questions"] for row in first["weak"]] == [16, 32]
  assert first["strong"][1]["efficiency"] == pytest.approx(0.75)
  assert pods.scale(slices, ["2x4", "4x4"], 64, 8) == first
  assert len(asked) == 4
  assert pods.scale(slices, ["2x4"], 0, 8).keys() == {"weak"}
  assert pods.scale(slices, ["2x4"], 64, 0).keys() == {"strong"}
