"""Looking at a policy without training it: eval, sample, report."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mirl_jax import build
from mirl_jax.evaluate import Strategy, draw, evaluate, make_strategies
from mirl_jax.learning.optimizer import make_optimizer
from mirl_jax.learning.state import new_state
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import samples
from mirl_jax.runs.checkpoints import Checkpoints
from mirl_jax.runs.dump import dump_rollouts
from mirl_jax.runs.files import write_atomic
from mirl_jax.runs.report import write_report


def load_roles(
  config: ConfigDict, workdir: str, policy: build.Policy
) -> tuple[dict[str, Any], int | None]:
  """Parameters of the run's last checkpoint, or of policy.path without one.

  The reference is always the policy's own directory.
  """
  start = build.load_policy_params(config, policy)
  checkpoints = Checkpoints(workdir, config.train.keep)
  step = checkpoints.latest()
  roles = {"policy": start, "reference": start, "ema": start}
  if step is not None:
    trained = checkpoints.meta(step)["mode"] == "train"
    loss, mi = build.make_loss(config), build.make_mi(config)
    scorer = mi.scorer if mi else "policy"
    state = build.place_state(
      new_state(
        start,
        make_optimizer(config.optimizer.to_dict(), config.train.steps),
        reference=trained and (loss.needs_reference or scorer == "reference"),
        ema=trained and scorer == "ema",
      ),
      policy,
    )
    state, _ = checkpoints.restore(step, build.abstract(state))
    roles["policy"] = state.params
    roles["ema"] = state.ema if state.ema is not None else state.params
  return roles, step


def eval(config: ConfigDict, workdir: str) -> int:
  """Evaluates the run's last checkpoint and writes eval.json."""
  policy = build.make_policy(config)
  roles, step = load_roles(config, workdir, policy)
  program, mi = build.make_program(config, False), build.make_mi(config)
  questions = build.held_out(
    config, policy, config.eval.final_questions, workdir
  )
  figures = evaluate(
    make_strategies(
      policy, program, mi, config.eval.samples, config.eval.screen
    ),
    roles,
    build.make_batcher(config, policy, mi),
    questions,
    config.eval.batch,
    build.place_key(config.eval.seed, policy),
  )
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
  policy = build.make_policy(config)
  roles, step = load_roles(config, workdir, policy)
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
    build.make_batcher(config, policy, mi),
    questions,
    build.place_key(config.eval.seed, policy),
  )
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
