"""Supervised warm start: `--mode=sft`.

Teaches a policy the tagged format on demonstrations, and is how the embedded
tiny model was made. The result is an ordinary Hugging Face directory,
WORKDIR/model, to be named in `policy.path`.
"""

import collections
import contextlib
import shutil
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mirl_jax import batching, build
from mirl_jax.checks import check_same_run, check_sft_batch
from mirl_jax.data.folder import demonstrated
from mirl_jax.data.pipeline import batches
from mirl_jax.data.share import Share, ids
from mirl_jax.data.source import Mapped
from mirl_jax.export import check_export, write_model
from mirl_jax.learning.optimizer import make_optimizer
from mirl_jax.learning.state import new_state, roles
from mirl_jax.learning.supervised import (
  Demonstrations,
  DemonstrationSizes,
  build_supervised_update,
  demonstrations,
  response_fitting,
  response_text,
)
from mirl_jax.parallel.mesh import batch_sharding, data_shards, replicated
from mirl_jax.parallel.processes import (
  agreed,
  gathered,
  own_name,
  own_rows,
  put_rows,
)
from mirl_jax.policy.abstract import init_params
from mirl_jax.policy.lora import merge
from mirl_jax.policy.parts import split
from mirl_jax.policy.prompts import bucket
from mirl_jax.policy.tokenizer import write_tiny_directory
from mirl_jax.runs.checkpoints import Checkpoints
from mirl_jax.runs.config_files import write_config
from mirl_jax.runs.metrics import MetricsWriter
from mirl_jax.runs.progress import Progress
from mirl_jax.runs.signals import StopSignals
from mirl_jax.runs.watchdog import Watchdog
from mirl_jax.start import abstract, place_state, start_params

_TOKENIZER_EXAMPLES = 3000
_AHEAD = 3  # steps whose demonstrations are made while an earlier one runs


@dataclass(frozen=True)
class Drawn:
  """Demonstrations of one step.

  Attributes:
    ids: of the questions that this process has.
    position: in the data after them.
    made: what the device takes of them, made by a thread.
  """

  ids: list[str]
  position: dict[str, Any]
  made: Future[Demonstrations]


def _drawn(
  config: ConfigDict,
  policy: build.Policy,
  workdir: str,
  first: int,
  position: dict[str, Any] | None,
) -> Generator[Drawn, None, None]:
  """This process's demonstrations of step `first` and later, a function of seed
  and step, a few steps ahead.

  Several processes tell each other of bad rows and lengths where a step is
  asked for. What no other process is needed for is left to a thread.
  """
  c, primary = config.sft, jax.process_index() == 0
  rows = own_rows(policy.mesh, c.batch)
  source = Mapped(build.make_source(config, "train", policy), demonstrated)
  data = batches(
    Mapped(source, response_fitting(policy.processor, c.response_length)),
    c.batch,
    seed=config.data.seed,
    quarantine=Path(workdir) / "quarantine.jsonl" if primary else None,
    max_bad_share=config.data.max_bad_share,
    share=Share(tuple(rows), gathered) if jax.process_count() > 1 else None,
  )
  window = policy.config.vision.window_patches
  slots = [0, *(-(-n // window) * window for n in config.data.patch_buckets)]

  def draw(step: int) -> Drawn:
    drawn = next(data)
    examples = [drawn[row] for row in rows]
    sizes = [policy.processor.measure(example) for example in examples]
    prompt, patches = agreed(np.max(sizes, axis=0)).tolist()
    blank = np.random.default_rng([config.seed, step]).random(c.batch)
    made = pool.submit(
      demonstrations,
      examples,
      policy.processor,
      DemonstrationSizes(
        prompt=bucket(prompt, config.data.prompt_buckets),
        patches=bucket(patches, slots),
        response=c.response_length,
        reasoning_weight=c.reasoning_weight,
      ),
      blank[rows] < c.blank_share,
    )
    return Drawn(ids(drawn), data.get_state(), made)

  if position is not None:
    data.set_state(position)
  waiting: collections.deque[Drawn] = collections.deque()
  with contextlib.closing(data), ThreadPoolExecutor(1) as pool:
    for step in range(first, c.steps):
      waiting.append(draw(step))
      if len(waiting) > _AHEAD:
        yield waiting.popleft()
    yield from waiting


def new_tiny(config: ConfigDict, out: Path) -> None:
  """Writes a tiny Qwen2.5-VL without weights: sizes, and a tokenizer trained
  on the demonstrations that it will see."""

  def texts() -> Iterator[str]:
    source = build.make_source(config, "train")
    for example in build.first_examples(source, _TOKENIZER_EXAMPLES):
      yield example.question
      yield "".join(response_text(example))

  write_tiny_directory(out, texts())


def optimizer_values(config: ConfigDict) -> dict[str, Any]:
  """The optimiser's section, with the learning rate of this mode if set."""
  values = config.optimizer.to_dict()
  if config.sft.lr:
    values.update({k: config.sft[k] for k in ("lr", "schedule", "warmup")})
  return values


def sft(config: ConfigDict, workdir: str) -> int:
  """Runs or resumes supervised training; returns the exit code.

  Raises:
    ValueError: for a config that cannot run, or that differs from the one
      that the work directory was started with.
  """
  with StopSignals() as signals:
    return _sft(config, workdir, signals)


def _sft(config: ConfigDict, workdir: str, signals: StopSignals) -> int:
  began = time.monotonic()
  c = config.sft
  primary = jax.process_index() == 0
  checkpoints = Checkpoints(workdir, config.train.keep, primary)
  resumed = checkpoints.latest()
  meta: dict[str, Any] = {"mode": "sft", "data": None, "wall_s": 0.0}
  if c.from_scratch:
    others = [p for p, how in config.policy.train.items() if how != "full"]
    if others:
      raise ValueError(
        f"sft.from_scratch needs policy.train.{others[0]}=full: new weights"
        " that are not trained teach nothing"
      )
    base = Path(workdir) / "base"
    if primary and not base.is_dir():
      draft = Path(workdir) / "base.tmp"  # a kill leaves no half of it
      shutil.rmtree(draft, ignore_errors=True)
      new_tiny(config, draft)
      draft.rename(base)
    agreed(0)  # the others read what the first has written
    config = config.copy_and_resolve_references()
    config.policy.path = str(base)
  if resumed is not None:
    meta |= checkpoints.meta(resumed)
    config = check_same_run(config, workdir, meta["mode"], "sft")
  check_export(config)
  policy = build.make_policy(config)
  check_sft_batch(config, data_shards(policy.mesh))
  config, buckets = batching.settled(config, policy, sft=True)
  report = "" if resumed is not None else build.data_report(config, policy)
  optimizer = make_optimizer(optimizer_values(config), c.steps)
  if c.from_scratch:
    new = init_params(policy.config, jax.random.key(config.seed))
    trained, frozen = split(policy.place(new), policy.training)
  else:
    trained, frozen = start_params(config, policy)
  state = place_state(
    new_state(trained, optimizer, reference=False, ema=False), policy
  )
  update = jax.jit(
    build_supervised_update(
      policy.config, optimizer, c.region_weight, policy.dtype
    ),
    donate_argnums=0,
    out_shardings=(
      jax.tree.map(lambda x: x.sharding, state),
      replicated(policy.mesh),
    ),
  )
  write_config(workdir, config, primary)
  for line in filter(None, (buckets, report)):
    if primary:
      print(line, flush=True)
  if resumed is not None:
    state, _ = checkpoints.restore(resumed, abstract(state))
  step = resumed or 0
  wall = float(meta["wall_s"])

  def seconds() -> float:
    return wall + time.monotonic() - began

  def save() -> None:
    checkpoints.save(step, state, {**meta, "wall_s": seconds()})

  with (
    contextlib.closing(
      _drawn(config, policy, workdir, step, meta["data"])
    ) as steps,
    MetricsWriter(workdir, resumed, primary) as writer,
    Progress(c.steps, initial=step, primary=primary) as progress,
    Watchdog(config.train.stuck_after_s, own_name()) as watchdog,
  ):
    for drawn in steps:
      watchdog.phase(f"step {step + 1}", drawn.ids)
      batch = put_rows(
        drawn.made.result(), batch_sharding(policy.mesh), c.batch
      )
      state, metrics = update(state, batch, frozen)
      step, meta["data"] = step + 1, drawn.position
      if step % c.log_every == 0 or step == c.steps:
        row = {name: float(value) for name, value in metrics.items()}
        row["wall_s"] = seconds()
        writer.write(step, row)
        progress.update(step, {k: row[k] for k in ("sft/nll", "loss/total")})
      if step == c.steps or (c.save_every and step % c.save_every == 0):
        save()
      # Of any process; the answer is the same on all.
      stop_signal = int(agreed(signals.received or 0))
      if stop_signal and step < c.steps:
        save()
        progress.note(f"stopped by a signal; saved step {step}, resumable")
        return 128 + stop_signal
  out = Path(workdir) / "model"
  if primary:
    shutil.rmtree(out, ignore_errors=True)
  write_model(config, policy, merge(roles(state, frozen)["policy"]), out)
  if primary:
    print(f"model: {out}")
  return 0
