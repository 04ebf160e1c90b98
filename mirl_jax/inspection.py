"""Looking at a policy without training it: eval, sample, report."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mirl_jax import batching, build
from mirl_jax.checks import recall_buckets
from mirl_jax.evaluate import Strategy, draw, filled
from mirl_jax.evaluation.compare import check_other, compare
from mirl_jax.evaluation.figures import figures, flat, set_folder, table
from mirl_jax.evaluation.run import draw_set, own_config, sets_of, write_outputs
from mirl_jax.evaluation.sets import HELD_OUT
from mirl_jax.parallel.mesh import data_shards
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import samples
from mirl_jax.runs.dump import dump_rollouts
from mirl_jax.runs.files import to_json, write_atomic
from mirl_jax.runs.report import write_report
from mirl_jax.screening.run import run_screening
from mirl_jax.start import load_roles


def _load(
  config: ConfigDict, workdir: str, settle: bool = True
) -> tuple[ConfigDict, build.Policy, dict[str, Any], int | None]:
  """The config with the run's buckets, or with new ones if they are to be
  settled; the policy, its parameters by role, and the step that they are of."""
  config = recall_buckets(config, workdir)
  policy = build.make_policy(config)
  buckets = ""
  if settle:
    config, buckets = batching.settled(config, policy)
  roles, step = load_roles(config, workdir, policy)
  if buckets and jax.process_index() == 0:
    print(buckets)
  return config, policy, roles, step


def eval(config: ConfigDict, workdir: str) -> int:
  """Evaluates a checkpoint of the run on sets of questions.

  Writes eval.json and, of every set, its items, figures and predictions under
  eval/; what stands there of the same policy is not drawn again.
  """
  config, policy, roles, step = _load(config, workdir, not config.eval.sets)
  primary = jax.process_index() == 0
  where = "the start policy" if step is None else f"step {step}"
  record: dict[str, Any] = {"step": step}
  sets = sets_of(config, policy, workdir)
  names = [questions.name for questions, _ in sets]
  if config.eval.against:
    check_other(config.eval.against, names)
  for questions, bad in sets:
    own = own_config(config, policy, questions)
    draw_set(own, policy, roles, questions, workdir)
    if primary:
      evaluated = write_outputs(questions, bad, workdir)
      held_out = questions.name == HELD_OUT
      prefix = "eval" if held_out else f"eval/{questions.name}"
      count = "questions" if held_out else f"{prefix}/questions"
      record[count] = len(questions.examples)
      for strategy, items in evaluated.items.items():
        record |= flat(f"{prefix}/{strategy}", figures(strategy, items))
      print(f"{where} on {table(evaluated)}\n")
    if config.eval.screen:
      folder = set_folder(workdir, questions.name)
      examples = questions.examples
      run_screening(own, policy, roles, examples, step, folder)
  if primary:
    if config.eval.against:
      seed = config.eval.seed
      print(compare(workdir, config.eval.against, names, seed) + "\n")
    text = to_json(record, indent=2) + "\n"
    print(f"written: {write_atomic(Path(workdir) / 'eval.json', text)}")
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
