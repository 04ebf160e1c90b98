"""The training loop, told from top to bottom.

One step: (1) prefill the prompts, (2) describe, (3) score by MI, (4) keep,
(5) fork, (6) reward, (7) credit, (8) update.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mirl_jax import build, diagnostics
from mirl_jax.data.example import Example
from mirl_jax.data.pipeline import batches
from mirl_jax.evaluate import evaluate, host_oracle, make_strategies
from mirl_jax.learning import credit
from mirl_jax.learning.optimizer import make_optimizer
from mirl_jax.learning.state import new_state
from mirl_jax.learning.update import build_update
from mirl_jax.rewards.assess import assess
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import complete_trajectories, samples
from mirl_jax.runs.checkpoints import Checkpoints
from mirl_jax.runs.config_files import write_config
from mirl_jax.runs.dump import dump_rollouts
from mirl_jax.runs.metrics import MetricsWriter
from mirl_jax.runs.progress import Progress
from mirl_jax.runs.report import write_report
from mirl_jax.runs.signals import StopSignals
from mirl_jax.runs.summary import table, write_summary

def train(config: ConfigDict, workdir: str) -> int:
  """Runs or resumes training; returns the exit code.

  Raises:
    ValueError: for a config that cannot run, or that differs from the one
      that the work directory was started with.
  """
  began = time.monotonic()
  primary = jax.process_index() == 0

  # Set up: policy, data, programs.
  policy = build.make_policy(config)
  program = build.make_program(config, training=True)
  stages = samples(program)
  names = tuple(stage.name for stage in stages)
  mi, loss = build.make_mi(config), build.make_loss(config)
  batcher = build.make_batcher(config, policy, mi)
  rollout = Rollout(
    policy.config,
    program,
    build.make_stops(program, policy.processor),
    policy.mesh,
    mi,
    policy.dtype,
  )
  strategies = make_strategies(
    policy, program, mi, config.eval.samples, config.eval.screen
  )
  optimizer = make_optimizer(
    config.optimizer, config.train.steps * loss.minibatches
  )
  update = jax.jit(
    build_update(
      policy.config,
      stages,
      tuple(credit.terms_from_config(config.credit)),
      credit.Guards(**config.guards.to_dict()),
      loss,
      optimizer,
      config.optimizer.ema_decay,
      policy.dtype,
    ),
    donate_argnums=0,
  )
  data = batches(
    build.make_source(config, "train"),
    config.train.questions,
    seed=config.data.seed,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    quarantine=Path(workdir) / "quarantine.jsonl",
    max_bad_share=config.data.max_bad_share,
  )
  held_out = test_examples(config, config.eval.final_questions)
  key = build.place_key(config.seed, policy)
  eval_key = build.place_key(config.eval.seed, policy)

  # Start or resume: our own committed checkpoint, else the policy's weights.
  checkpoints = Checkpoints(workdir, config.train.keep, primary)
  resumed = checkpoints.latest()
  build.check_same_config(config, workdir, resumed)
  write_config(workdir, config, primary)
  scorer = mi.scorer if mi else "policy"
  state = new_state(
    build.load_policy_params(config, policy),
    optimizer,
    reference=loss.needs_reference or scorer == "reference",
    ema=scorer == "ema",
  )
  state = build.place_state(state, policy)
  meta: dict[str, Any] = {"before": {}, "length": {}, "wall_s": 0.0}
  if resumed is not None:
    state, meta = checkpoints.restore(resumed, build.abstract(state))
    data.set_state(meta["data"])
  step = resumed or 0

  with (
    MetricsWriter(workdir, resumed, primary) as writer,
    Progress(config.train.steps, initial=step, primary=primary) as progress,
    StopSignals() as signals,
  ):

    def roles() -> dict[str, Any]:
      found = {"policy": state.params}
      if state.reference is not None:
        found["reference"] = state.reference
      if state.ema is not None:
        found["ema"] = state.ema
      return found

    def measure(questions: int) -> dict[str, float]:
      return evaluate(
        strategies,
        roles(),
        batcher,
        held_out[:questions],
        config.eval.batch,
        eval_key,
      )

    def save() -> None:
      meta.update(
        data=data.get_state(),
        wall_s=wall + time.monotonic() - began,
      )
      checkpoints.save(step, state, meta)

    wall = float(meta["wall_s"])
    if resumed is None:
      meta["before"] = measure(config.eval.final_questions)
      writer.write(0, {**meta["before"], "wall_s": time.monotonic() - began})
      warning = diagnostics.tag_warning(meta["before"]["eval/sampled/tags"])
      if warning:
        progress.note(f"warning: {warning}")

    pending: tuple[int, dict[str, Any]] | None = None
    said: set[str] = set()

    def flush() -> None:
      """Writes the metrics of the step before: its arrays are ready by now."""
      nonlocal pending
      if pending is None:
        return
      at, metrics = pending
      pending = None
      row = {name: float(value) for name, value in metrics.items()}
      row["wall_s"] = wall + time.monotonic() - began
      if not meta["length"]:
        meta["length"] = {name: row[f"length/{name}"] for name in names}
      start = diagnostics.Start(
        meta["length"], meta["before"].get("eval/greedy/exact", float("nan"))
      )
      for name, sentence in diagnostics.warnings(start, at, row).items():
        row[name] = 1.0
        if name not in said:
          progress.note(f"warning, step {at}: {sentence}")
          said.add(name)
      writer.write(at, row)
      progress.update(at, headline(row, names))

    while step < config.train.steps and signals.received is None:
      tick = time.monotonic()
      examples = next(data)
      prompts, views = batcher.prompts(examples), batcher.views(examples)

      # 1-5. prefill, describe, score, keep, fork: one device program.
      tree = rollout(
        roles(),
        prompts,
        views,
        jax.random.fold_in(key, step),
        host_oracle(examples, policy),
      )
      flush()

      # 6. Reward: texts, verdicts.
      levels = jax.device_get(tree.levels)
      sampled_at = time.monotonic()
      read = assess(examples, levels, policy.processor.decode, step)
      rewards = {
        name: build.place_batch(level.rewards, policy)
        for name, level in zip(names, read, strict=True)
      }
      rewarded_at = time.monotonic()

      # 7-8. Credit and update: one device program.
      state, metrics, advantages = update(state, tree, rewards)
      step += 1

      dump = config.train.dump_every
      if dump and (step % dump == 0 or step == 1) and primary:
        shown = config.train.dump_questions
        dump_rollouts(
          workdir, step, names, examples[:shown], levels, read,
          jax.device_get(advantages),
        )
      pending = step, {
        **metrics,
        **reward_metrics(names, read),
        "generated_tokens": state.generated + 0,
        "complete_trajectories": step
        * config.train.questions
        * complete_trajectories(program),
        "skipped/bad_rows": data.bad,
        "time/sample_s": sampled_at - tick,
        "time/reward_s": rewarded_at - sampled_at,
        "time/step_s": time.monotonic() - tick,
        "compiles": rollout.compiles,
      }
      saves = config.train.save_every
      if config.eval.every and step % config.eval.every == 0 and (
        step < config.train.steps
      ):
        pending[1].update(measure(config.eval.questions))
      if saves and step % saves == 0 and step < config.train.steps:
        flush()
        save()

    if signals.received is not None:
      flush()
      save()
      progress.note(f"stopped by a signal; saved step {step}, resumable")
      return signals.exit_code

    # The end: the same questions as before training, then the report.
    after = measure(config.eval.final_questions)
    if pending is not None:
      pending[1].update(after)
    flush()
    save()

  write_summary(
    workdir,
    meta["before"],
    after,
    {
      "steps": step,
      "generated_tokens": int(state.generated),
      "skipped_nonfinite": int(state.skipped),
      "wall_s": wall + time.monotonic() - began,
    },
    primary,
  )
  if primary:
    print(table(meta["before"], after))
    print(f"report: {write_report(workdir)}")
  return 0


def test_examples(config: ConfigDict, count: int) -> list[Example]:
  """The first held-out examples, bad rows left out."""
  return list(build.first_examples(build.make_source(config, "test"), count))


def reward_metrics(
  names: Sequence[str], read: Sequence[Any]
) -> dict[str, float]:
  """Mean rewards of the leaves and exactness of every stage."""
  out = {
    f"reward/{name}": read[-1].mean(name)
    for name in read[-1].rewards
  }
  for name, level in zip(names[:-1], read[:-1], strict=True):
    out[f"reward/exact/{name}"] = level.mean("exact")
  return {name: value for name, value in out.items() if np.isfinite(value)}


def headline(
  row: Mapping[str, float], names: Sequence[str]
) -> dict[str, float]:
  """The few figures of the progress line."""
  wanted = {
    "correct": "reward/correct",
    "exact": "reward/exact",
    "mi": "mi/mean",
    "length": f"length/{names[0]}",
    "grad": "grad_norm",
  }
  return {label: row[name] for label, name in wanted.items() if name in row}
