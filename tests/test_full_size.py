"""Configs of the published models and their named slices."""

import runpy
from pathlib import Path

import pytest

from mirl_jax import aot, build
from mirl_jax.checks import check_batch
from mirl_jax.full_size import full_size
from mirl_jax.parallel.mesh import parse_mesh
from mirl_jax.parallel.topology import parse
from mirl_jax.rollout.program import complete_trajectories

ROOT = Path(__file__).parents[1]
FILES = {p.stem: p for p in sorted(ROOT.glob("configs/qwen*.py"))}
CASES = [
  (name, where)
  for name, file in FILES.items()
  for where in runpy.run_path(str(file))["SLICES"]
]


def test_all_are_there():
  sizes = "2_5_vl_3b 2_5_vl_7b 2_5_vl_32b 2_5_vl_72b 3_vl_2b 3_vl_8b"
  assert FILES.keys() == {f"qwen{size}" for size in sizes.split()}


@pytest.mark.parametrize(("name", "where"), CASES)
def test_a_slice_runs_the_papers_shape_at_real_lengths(name, where):
  config = runpy.run_path(str(FILES[name]))["get_config"](where)
  program = build.make_program(config, training=True)
  assert (program[0].fanout, program[1].k, program[2].fanout) == (10, 6, 2)
  assert (program[0].max_tokens, program[2].max_tokens) == (256, 768)
  assert complete_trajectories(program) == 12
  kind, _, sizes = where.partition("-")
  _, chips = parse(f"{kind}:{sizes}")
  count = 1
  for n in chips:
    count *= n
  mesh = parse_mesh(config.mesh, count)
  check_batch(config, mesh["data"] * mesh["fsdp"])
  vlm = aot.model_sizes(config)
  assert vlm.text.heads % mesh["tensor"] == 0
  assert config.train.questions % config.loss.micro_batches == 0


def test_the_first_slice_is_the_default_and_others_are_refused():
  slices = {"a-1": {"mesh": "data:1"}, "b-2": {"mesh": "data:2"}}
  path = "Qwen/Qwen3-VL-2B-Instruct"
  assert full_size(path, slices, "").mesh == "data:1"
  assert full_size(path, slices, "b-2").mesh == "data:2"
  with pytest.raises(ValueError, match="'c' is none of the slices a-1, b-2"):
    full_size(path, slices, "c")
