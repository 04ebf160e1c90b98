"""The report of --mode=compile."""

import jax
import jax.numpy as jnp
import pytest

from mirl_jax import aot, build
from mirl_jax import testing_runs as runs
from mirl_jax.parallel import hlo, topology
from mirl_jax.programs import DeviceProgram

CHIP = topology.Chip(1e9, 1e12, 1e9, 1e8)


def done(name="sample", per_step=1, **values):
  cost = hlo.Cost(
    2 * 10**12, 10**9, {"all-gather": 3}, {"all-gather": 10**9}, 0
  )
  return aot.Compiled(name, per_step, 1.5, cost=cost, **values)


def test_memory_is_what_lies_there_at_once():
  row = aot.record(
    done(
      arguments=10**8,
      outputs=10**8,
      temporaries=10**8,
      code=10**8,
      beside=5 * 10**8,
    ),
    CHIP,
  )
  assert row["peak_gb"] == pytest.approx(0.9)
  assert row["fits"]
  row = aot.record(done(live=10**8, beside=2 * 10**8), CHIP)
  assert row["live_gb"] == pytest.approx(0.3)
  row = aot.record(done(arguments=10**8, beside=10**9), CHIP)
  assert not row["fits"]
  assert aot.record(done(beside=10**15), None)["fits"]  # no chip, no limit


def test_the_slowest_resource_is_the_bound():
  row = aot.record(done(), CHIP)
  assert row["roofline_s"] == {"compute": 2, "hbm": 1, "interconnect": 10}
  assert row["bound"] == "interconnect"
  assert row["collectives"] == {"all-gather": {"count": 3, "gb": 1.0}}


def test_a_step_is_its_programs_one_after_the_other():
  rows = [
    aot.record(done(per_step=4), CHIP),
    aot.record(done("update"), CHIP),
    aot.record(done("evaluate greedy", per_step=0), CHIP),
  ]
  step = aot.step_record(rows)
  assert step["roofline_s"] == 5 * 10
  assert step["busy_s"] == {"compute": 10, "hbm": 5, "interconnect": 50}
  assert step["bound"] == "interconnect"
  lost = aot.record(aot.Compiled("update", 1, 0.1, refused="too large"), CHIP)
  assert aot.step_record([rows[0], lost]) == {}
  assert aot.step_record([aot.record(done(), None)]) == {}


def test_what_does_not_fit_is_named_with_what_to_turn():
  rows = [
    aot.record(done(), CHIP),
    aot.record(done("update", beside=3 * 10**9), CHIP),
    aot.record(
      aot.Compiled("evaluate greedy", 0, 0.1, refused="needs 2G of 1G HBM"),
      CHIP,
    ),
  ]
  first, second = aot.advice(rows, 1.0)
  assert "update needs 3.00 of 1.00 GB" in first
  assert "loss.micro_batches" in first
  assert "evaluate greedy needs 2G of 1G HBM" in second
  assert "eval.batch" in second


def test_the_compilers_message_in_a_few_words():
  text = "RESOURCE_EXHAUSTED: … Used 36.20G of 15.75G hbm. Exceeded by"
  assert aot.out_of_memory(text) == "needs 36.20G of 15.75G HBM"
  text = (
    "Ran out of memory on HBM, the total memory required for HLO temporaries"
    " (360.00G) exceeds available HBM (15.75G)."
  )
  assert aot.out_of_memory(text) == "needs 360.00G of 15.75G HBM"


def test_a_program_that_does_not_fit_is_no_error_of_ours():
  class Full:
    def lower(self, *args):
      raise RuntimeError("Ran out of memory in memory space hbm.")

  class Broken:
    def lower(self, *args):
      raise RuntimeError("no such thing")

  row = aot.compile_program(DeviceProgram("update", Full(), (), 1, 5), 1)
  assert row.refused.startswith("Ran out of memory")
  with pytest.raises(RuntimeError, match="no such thing"):
    aot.compile_program(DeviceProgram("update", Broken(), (), 1, 5), 1)


def test_a_compiled_program_has_its_memory_and_cost():
  x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
  program = DeviceProgram("sample", jax.jit(jnp.matmul), (x, x), 1, 7)
  found = aot.compile_program(program, 1)
  assert found.arguments == 2 * 64 * 64 * 4
  assert found.outputs == 64 * 64 * 4
  assert found.cost.flops == 2 * 64**3
  assert found.peak >= found.arguments + found.outputs + 7
  assert found.live > 0


@pytest.mark.parametrize("text", ["", "v9:2x2", "v5e", "v5e:0x2", "cpu:x"])
def test_a_bad_topology_is_refused(text):
  with pytest.raises(ValueError, match="topology"):
    aot.compile(runs.small_config(), "", text, False)


def test_sizes_are_those_of_the_directory_or_of_the_hub():
  config = runs.small_config()
  found = aot.model_sizes(config)
  assert found.text == build.make_policy(config).config.text
  config.policy.path = "Qwen/Qwen3-VL-2B-Instruct"
  assert aot.model_sizes(config).text.width == 2048
  config.policy.path = "nowhere"
  with pytest.raises(ValueError, match="'nowhere' is neither a directory"):
    aot.model_sizes(config)
