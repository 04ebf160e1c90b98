"""Looking at a policy without training it: eval, sample, report."""

import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mirl_jax import batching, build
from mirl_jax.checks import recall_buckets
from mirl_jax.evaluate import Strategy, draw, evaluate, filled, make_strategies
from mirl_jax.parallel.mesh import data_shards
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import samples
from mirl_jax.runs.dump import dump_rollouts
from mirl_jax.runs.files import write_atomic
from mirl_jax.runs.report import write_report
from mirl_jax.screening.run import run_screening
from mirl_jax.start import load_roles


def _load(
  config: ConfigDict, workdir: str
) -> tuple[ConfigDict, build.Policy, dict[str, Any], int | None]:
  """The config with the run's buckets, or with new ones; the policy, its
  parameters by role, and the step that they are of."""
  config = recall_buckets(config, workdir)
  policy = build.make_policy(config)
  config, buckets = batching.settled(config, policy)
  roles, step = load_roles(config, workdir, policy)
  if buckets and jax.process_index() == 0:
    print(buckets)
  return config, policy, roles, step


def eval(config: ConfigDict, workdir: str) -> int:
  """Evaluates the run's last checkpoint and writes eval.json."""
  config, policy, roles, step = _load(config, workdir)
  program, mi = build.make_program(config, False), build.make_mi(config)
  questions = build.held_out(
    config, policy, config.eval.final_questions, workdir
  )
  figures = evaluate(
    make_strategies(
      policy, program, mi, config.eval.samples, config.eval.screen
    ),
    roles,
    batching.make_batcher(config, policy, mi),
    questions,
    config.eval.batch,
    build.place_key(config.eval.seed, policy),
  )
  if config.eval.screen and questions:
    folder = Path(workdir) / "eval"
    run_screening(config, policy, roles, questions, step, folder)
  if jax.process_index():
    return 0
  record = {"step": step, "questions": len(questions), **figures}
  Path(workdir).mkdir(parents=True, exist_ok=True)
  out = write_atomic(
    Path(workdir) / "eval.json", json.dumps(record, indent=2) + "\n"
  )
  where = "the start policy" if step is None else f"step {step}"
  print(f"{where} on {len(questions)} questions")
  for name, value in figures.items():
    if not name.endswith("_se"):
      error = figures.get(f"{name}_se")
      print(f"  {name:28s} {value:8.4f}" + (f" ± {error:.4f}" if error else ""))
  print(f"written: {out}")
  return 0


def sample(config: ConfigDict, workdir: str) -> int:
  """Samples trees for a few held-out questions, prints and dumps them."""
  config, policy, roles, step = _load(config, workdir)
  program, mi = build.make_program(config, False), build.make_mi(config)
  names = tuple(stage.name for stage in samples(program))
  questions = build.held_out(
    config, policy, config.train.dump_questions, workdir
  )
  stops = build.make_stops(program, policy.processor)
  rollout = Rollout(
    policy.config, program, stops, policy.mesh, mi, policy.dtype
  )
  tree, read = draw(
    Strategy("sample", rollout, mi is not None),
    roles,
    batching.make_batcher(config, policy, mi),
    filled(questions, data_shards(policy.mesh)),
    build.place_key(config.eval.seed, policy),
  )
  if jax.process_index():
    return 0
  for i, example in enumerate(questions):
    print(f"\n{example.question}  [{example.answer}]")
    for r, path in enumerate(read[-1].paths[i]):
      right = read[-1].rewards["correct"][i].reshape(-1)[r]
      print(f"  {'right' if right == 1 else 'wrong'}  {' '.join(path.split())}")
  # Apart from the dumps of training, which these are not.
  out = Path(workdir) / "samples"
  dump_rollouts(str(out), step or 0, names, questions, tree.levels, read, None)
  print(f"\nwritten: {out / 'rollouts' / f'{step or 0}.jsonl'}")
  return 0


def report(config: ConfigDict, workdir: str) -> int:
  """Writes report.html anew from the work directory's files."""
  print(f"report: {write_report(workdir)}")
  return 0
