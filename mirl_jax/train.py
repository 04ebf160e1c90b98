"""The training loop, told from top to bottom.

One step: (1) prefill the prompts, (2) describe, (3) score by MI, (4) keep,
(5) fork, (6) reward, (7) credit, (8) update.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mirl_jax import accounting, batching, build, diagnostics
from mirl_jax.checks import check_batch, check_best, check_same_run
from mirl_jax.data.pipeline import batches
from mirl_jax.data.share import Rows, ids
from mirl_jax.evaluate import FIRST, Stopped, evaluate, make_strategies
from mirl_jax.learning import credit
from mirl_jax.learning.optimizer import make_optimizer
from mirl_jax.learning.state import new_state, roles
from mirl_jax.learning.update import build_update
from mirl_jax.parallel.mesh import batch_sharding, data_shards
from mirl_jax.parallel.processes import (
  agreed,
  on_host,
  own_name,
  own_part,
  put_rows,
)
from mirl_jax.programs import jit_update
from mirl_jax.rewards.assess import heard_mean
from mirl_jax.rewards.own import FAILED, own_fault, own_metrics
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import complete_trajectories, samples
from mirl_jax.runs.best import better
from mirl_jax.runs.checkpoints import Checkpoints
from mirl_jax.runs.config_files import write_config
from mirl_jax.runs.dump import dump_rollouts
from mirl_jax.runs.memory import memory
from mirl_jax.runs.metrics import MetricsWriter
from mirl_jax.runs.profile import Profile
from mirl_jax.runs.progress import Progress
from mirl_jax.runs.report import write_report
from mirl_jax.runs.signals import StopSignals
from mirl_jax.runs.summary import table, write_summary
from mirl_jax.runs.watchdog import Watchdog
from mirl_jax.sampling import Part, collect, launch
from mirl_jax.start import abstract, place_state, start_params


@dataclass(frozen=True)
class Drawn:
  """A step's questions, and the position in the data after them."""

  examples: Rows
  position: dict[str, Any]


def train(
  config: ConfigDict, workdir: str, profile: tuple[int, int] | None = None
) -> int:
  """Runs or resumes training; returns the exit code.

  Args:
    config: of the run.
    workdir: of the run.
    profile: first step to trace and the one to stop before.

  Raises:
    ValueError: for a config that cannot run, or that differs from the one
      that the work directory was started with.
  """
  with StopSignals() as signals:
    return _train(config, workdir, profile, signals)


def _train(
  config: ConfigDict,
  workdir: str,
  profile: tuple[int, int] | None,
  signals: StopSignals,
) -> int:
  began = time.monotonic()
  primary = jax.process_index() == 0
  steps = config.train.steps
  checkpoints = Checkpoints(workdir, config.train.keep, primary)
  resumed = checkpoints.latest()
  meta: dict[str, Any] = {
    "mode": "train",
    "before": {},  # figures of the evaluation before training
    "after": {},  # and of the one after the last step
    "length": {},  # of each stage at the first step
    "said": [],  # warnings
    "counts": accounting.new_counts(),
    "owed": {},  # metrics of a step whose evaluation was stopped
    "best": {},  # the step that eval.keep_best found best so far
    "wall_s": 0.0,
  }
  if resumed is not None:
    meta |= checkpoints.meta(resumed)
    config = check_same_run(config, workdir, meta["mode"], "train")

  # Set up: policy, data, programs.
  policy = build.make_policy(config)
  shards = data_shards(policy.mesh)
  check_batch(config, shards)
  program = build.make_program(config, training=True)
  stages = samples(program)
  names = tuple(stage.name for stage in stages)
  mi, loss = build.make_mi(config), build.make_loss(config)
  own_reward = build.make_own(config)
  config, buckets = batching.settled(config, policy)
  report = "" if resumed is not None else build.data_report(config, policy)
  batcher = batching.make_batcher(config, policy, mi)
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
  check_best(config.eval.keep_best, strategies, config.eval.samples)
  optimizer = make_optimizer(
    config.optimizer.to_dict(), steps * loss.minibatches
  )
  pure_update, traces = counted(
    build_update(
      policy.config,
      stages,
      build.make_terms(config),
      credit.Guards(**config.guards.to_dict()),
      loss,
      optimizer,
      config.optimizer.ema_decay,
      policy.dtype,
    )
  )
  data = batches(
    build.make_source(config, "train", policy),
    config.train.questions,
    seed=config.data.seed,
    quarantine=Path(workdir) / "quarantine.jsonl" if primary else None,
    max_bad_share=config.data.max_bad_share,
    share=batcher.share(config.train.questions, config.train.sample_parts),
  )
  held_out = build.held_out(
    config,
    policy,
    max(config.eval.final_questions, config.eval.questions),
    workdir,
  )
  key = build.place_key(config.seed, policy)
  eval_key = build.place_key(config.eval.seed, policy)

  # Start or resume: our own committed checkpoint, else the policy's weights.
  scorer = mi.scorer if mi else "policy"
  trained, frozen = start_params(config, policy)
  state = new_state(
    trained,
    optimizer,
    reference=loss.needs_reference or scorer == "reference",
    ema=scorer == "ema",
  )
  state = place_state(state, policy)
  update = jit_update(pure_update, state, policy)
  if resumed is not None:
    state, _ = checkpoints.restore(resumed, abstract(state))
    data.set_state(meta["data"])
  write_config(workdir, config, primary)
  for line in filter(None, (buckets, report)):
    if primary:
      print(line, flush=True)
  step = resumed or 0
  wall = float(meta["wall_s"])
  started = resumed is not None  # there is something to save
  stop_signal = 0
  if step < steps:
    meta["after"] = {}  # a finished run may be made longer

  with (
    own_reward or contextlib.nullcontext(),
    contextlib.closing(data),
    contextlib.closing(Profile(workdir, profile, primary)) as tracer,
    MetricsWriter(workdir, resumed, primary) as writer,
    Progress(steps, initial=step, primary=primary) as progress,
    Watchdog(config.train.stuck_after_s, own_name()) as watchdog,
  ):

    def seconds() -> float:
      return wall + time.monotonic() - began

    def told_to_stop() -> bool:
      """Whether any process was; the answer is the same on all."""
      nonlocal stop_signal
      stop_signal = int(agreed(signals.received or 0))
      return stop_signal > 0

    def measure(questions: int) -> tuple[dict[str, float], float]:
      """Figures, and that of `eval.keep_best` on the questions of the loop,
      of which every evaluation has all; nan where it is unknown."""
      watchdog.phase(f"evaluation at step {step}")
      found = evaluate(
        strategies,
        roles(state, frozen),
        batcher,
        held_out[:questions],
        config.eval.batch,
        eval_key,
        stop=told_to_stop,
        first=config.eval.questions,
      )
      ranked = config.eval.keep_best
      value = found.get(FIRST + ranked, found.get(ranked, float("nan")))
      own = {n: x for n, x in found.items() if not n.startswith(FIRST)}
      return own, value

    def draw() -> Drawn:
      """The questions of the next step."""
      return Drawn(next(data), data.get_state())

    def start_batch(drawn: Drawn) -> list[Part]:
      """Steps 1-5 of the next step, started with the policy as it is now."""
      return launch(
        rollout,
        roles(state, frozen),
        batcher,
        drawn.examples,
        jax.random.fold_in(key, step),
        config.train.sample_parts,
      )

    def say(name: str, sentence: str | None) -> None:
      """Says a warning, once in a run."""
      if sentence and name not in meta["said"]:
        progress.note(f"warning, step {step}: {sentence}")
        meta["said"].append(name)

    def save() -> None:
      watchdog.phase(f"checkpoint of step {step}")
      checkpoints.save(step, state, {**meta, "wall_s": seconds()}, meta["best"])

    def finish(row: dict[str, Any]) -> None:
      """What follows a step: evaluation, its line of metrics, a checkpoint."""
      every, saves = config.eval.every, config.train.save_every
      last = step == steps
      if last or (every and step % every == 0):
        tick = time.monotonic()
        meta["owed"] = row
        wanted = config.eval.final_questions if last else config.eval.questions
        figures, value = measure(wanted)
        meta["best"] = better(meta["best"], config.eval.keep_best, step, value)
        row = {**row, **figures, "time/eval_s": time.monotonic() - tick}
        meta["after"] = figures if last else {}
        meta["owed"] = {}
      meta["length"] = meta["length"] or {n: row[f"length/{n}"] for n in names}
      start = diagnostics.Start(
        meta["length"], meta["before"].get("eval/greedy/exact", float("nan"))
      )
      for name, sentence in diagnostics.warnings(start, step, row).items():
        row[name] = 1.0
        say(name, sentence)
      idle = accounting.idle_note(meta["counts"])
      if idle:
        progress.note(f"warning, step {step}: {idle}")
      if writer.last < step:
        writer.write(step, {**row, "wall_s": seconds()})
      progress.update(step, headline(row, names))
      is_best = meta["best"].get("step") == step
      if last or is_best or (saves and step % saves == 0):
        save()

    def trace(following: int) -> None:
      """Starts or ends the trace before a step."""
      file = tracer.at(following)
      if file is not None:
        progress.note(f"trace: {file} (open it in ui.perfetto.dev)")

    try:
      if resumed is None:
        meta["before"], _ = measure(config.eval.final_questions)
        started = True
        writer.write(0, {**meta["before"], "wall_s": seconds()})
        tags = meta["before"].get("eval/sampled/tags", 1.0)
        say("tags", diagnostics.tag_warning(tags))
      elif meta["owed"]:
        finish(meta["owed"])

      told_to_stop()
      drawn = draw() if step < steps else None
      parts = start_batch(drawn) if drawn else []
      while step < steps and not stop_signal:
        tick = time.monotonic()
        trace(step + 1)
        assert drawn is not None
        examples, meta["data"] = drawn.examples, drawn.position
        questions = ids(examples)

        # 1-5. prefill, describe, score, keep, fork: one device program, which
        # runs already. 6. Reward: texts and verdicts, part by part.
        watchdog.phase(f"sampling of step {step + 1}", questions)
        tree, sampled = collect(parts, policy, step, own_reward)
        parts = []  # what they hold on the device is in the tree
        rewards = {
          name: put_rows(
            level.rewards, batch_sharding(policy.mesh), len(examples)
          )
          for name, level in zip(names, sampled.read, strict=True)
        }
        earned = on_host(rewards)
        # Several processes ask each other here, where the devices are idle.
        told_to_stop()
        drawn = draw() if step + 1 < steps else None

        # 7-8. Credit and update: one device program. The next batch is put
        # behind it before its metrics are waited for, so that the device goes
        # on while the host evaluates, writes and saves.
        watchdog.phase(f"update of step {step + 1}", questions)
        updated_at = time.monotonic()
        state, metrics, advantages = update(state, tree, rewards, frozen)
        del tree  # freed when the update is done
        step += 1
        parts = start_batch(drawn) if drawn else []
        row = {name: float(value) for name, value in metrics.items()}
        now = time.monotonic()

        meta["counts"] = accounting.count(
          meta["counts"],
          row,
          accounting.scored_tokens(
            sampled.slots, sampled.levels, stages, mi, loss
          ),
          len(examples) * complete_trajectories(program),
        )
        row |= {
          **reward_metrics(names, earned),
          **own_metrics(earned),
          **accounting.padding(sampled.slots, sampled.levels, names),
          **accounting.idle(
            sampled.levels, names, shards * config.train.sample_parts
          ),
          **accounting.counted(meta["counts"]),
          "skipped/bad_rows": meta["data"]["bad"],
          "time/sample_s": sampled.waited,
          "time/reward_s": sampled.judged,
          "time/update_s": now - updated_at,
          "time/step_s": now - tick,
          "tokens_per_s": row["tokens/step"] / (now - tick),
          "compiles": rollout.compiles + len(traces),
          **memory(),
        }
        say("own", own_fault(row, sampled.fault))
        dump = config.train.dump_every
        if dump and (step % dump == 0 or step == 1) and primary:
          shown = sampled.own[: config.train.dump_questions]
          dump_rollouts(
            workdir,
            step,
            names,
            [examples[i] for i in shown],
            sampled.own_levels,
            sampled.read,
            own_part(advantages),
          )
        finish(row)
        if jax.process_count() == 1:
          told_to_stop()
      # A run that was finished before is not measured anew.
      if step >= steps and not meta["after"]:
        meta["after"], _ = measure(config.eval.final_questions)
      trace(step + 1)
      finished = step >= steps
    except Stopped:  # by a signal: the evaluation is done after a resume
      finished = False
    if not finished:
      if started:
        save()
      where = f"saved step {step}" if started else "nothing done yet"
      progress.note(f"stopped by a signal; {where}, resumable")
      return 128 + stop_signal

  write_summary(
    workdir,
    meta["before"],
    meta["after"],
    {
      "steps": step,
      "generated_tokens": meta["counts"]["generated_tokens"],
      "scored_tokens": meta["counts"]["scored_tokens"],
      "complete_trajectories": meta["counts"]["complete_trajectories"],
      "skipped_nonfinite": int(state.skipped),
      "no_contrast_steps": meta["counts"]["no_contrast_steps"],
      "wall_s": seconds(),
      "best": meta["best"] or None,
    },
    primary,
  )
  if primary:
    print(table(meta["before"], meta["after"]))
    if meta["best"]:
      print(
        "best checkpoint: step {step}, {name} {value:.4f}".format(
          **meta["best"]
        )
      )
    print(f"report: {write_report(workdir)}")
  return 0


def counted(function: Callable[..., Any]) -> tuple[Callable[..., Any], list]:
  """A function to be jitted, and a list with an entry for each tracing."""
  traces: list[None] = []

  @functools.wraps(function)
  def counting(*args: Any) -> Any:
    traces.append(None)
    return function(*args)

  return counting, traces


def reward_metrics(
  names: Sequence[str], rewards: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, float]:
  """Mean rewards of the leaves, the share of them with a verdict, and
  exactness of every stage.

  Args:
    names: of the stages, the leaves' last.
    rewards: by stage and name, [B, K, F] as numpy; NaN abstains.
  """
  leaf = rewards[names[-1]]
  out = {f"reward/{name}": heard_mean(values) for name, values in leaf.items()}
  out.pop(f"reward/{FAILED}", None)  # `own_metrics` counts these
  if "correct" in leaf:
    out["reward/verified"] = float(np.isfinite(leaf["correct"]).mean())
  for stage in names[:-1]:
    for name, values in rewards[stage].items():
      if name != FAILED:
        out[f"reward/{name}/{stage}"] = heard_mean(values)
  return {name: value for name, value in out.items() if np.isfinite(value)}


def headline(
  row: Mapping[str, float | int], names: Sequence[str]
) -> dict[str, float | int]:
  """The few figures of the progress line."""
  wanted = {
    "correct": "reward/correct",
    "exact": "reward/exact",
    "mi": "mi/mean",
    "length": f"length/{names[0]}",
    "grad": "grad_norm",
  }
  return {label: row[name] for label, name in wanted.items() if name in row}
