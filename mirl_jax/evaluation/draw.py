"""Draws the items that a set's files lack."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mirl_jax.batching import Batcher
from mirl_jax.data.example import Example
from mirl_jax.evaluate import Strategy, draw, filled
from mirl_jax.evaluation.items import (
  Item,
  Sample,
  append_items,
  digest_of,
  start_items,
  vote_of,
)
from mirl_jax.evaluation.presets import JOINT, Preset
from mirl_jax.evaluation.sets import QuestionSet, unanswered
from mirl_jax.information.estimators import MI
from mirl_jax.parallel.mesh import data_shards, replicated
from mirl_jax.parallel.processes import agreed, on_host
from mirl_jax.rewards.assess import Assessed
from mirl_jax.rewards.extract import extract_answer
from mirl_jax.rollout.tree import Level

_LONG_GROUP = 64


def _checksum(x: jax.Array) -> jax.Array:
  """Weighted sum of an array's bits mod 2^32; whole numbers, in any order."""
  width = jnp.dtype(x.dtype).itemsize * 8
  bits = jax.lax.bitcast_convert_type(x, f"uint{width}").astype(jnp.uint32)
  place = jnp.ones((), jnp.uint32)
  for axis in range(x.ndim):
    at = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    place = place * jnp.uint32(2654435761) + 2 * at
  return jnp.sum(bits * (place | 1), dtype=jnp.uint32)


def weights_digest(params: Any, mesh: jax.sharding.Mesh) -> str:
  """Names parameters by their bits; the same on every mesh."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  sums = jax.jit(
    lambda xs: jnp.stack([_checksum(x) for x in xs]),
    out_shardings=replicated(mesh),
  )([x for _, x in leaves])
  text = [
    f"{jax.tree_util.keystr(path)} {x.shape} {x.dtype} {int(total)}"
    for (path, x), total in zip(leaves, on_host(sums), strict=True)
  ]
  return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


def common_print(
  config: ConfigDict, preset: Preset, roles: Mapping[str, Any], batcher: Batcher
) -> dict[str, Any]:
  """What the draws of every strategy, and their verdicts, depend on, questions
  apart."""
  policy = batcher.policy
  return {
    "weights": weights_digest(roles["policy"], policy.mesh),
    "dtype": str(jnp.dtype(policy.dtype)),
    "seed": config.eval.seed,
    "system": config.policy.system,
    "instruction": policy.processor.instruction,
    "pixels": [config.policy.min_pixels, config.policy.max_pixels],
    "preset": preset.name,
    "extract": preset.extract,
  }


def fingerprint(
  config: ConfigDict,
  strategy: Strategy,
  common: Mapping[str, Any],
  mi: MI | None,
  roles: Mapping[str, Any],
  batcher: Batcher,
) -> dict[str, Any]:
  """What the draws of one strategy depend on: `common_print`, and its own."""
  found = dict(common)
  found["program"] = [dataclasses.asdict(s) for s in strategy.rollout.program]
  if mi is not None and strategy.needs_views:
    found["mi"] = dataclasses.asdict(mi)
    found["scorer"] = weights_digest(roles[mi.scorer], batcher.policy.mesh)
    if mi.view.startswith("other"):  # then a batch's questions matter
      found["batch"] = config.eval.batch
      found["view_seed"] = config.seed
  return found


def _path_tokens(levels: Sequence[Level]) -> np.ndarray:
  """[B, R] sampled tokens of each leaf and its ancestors."""
  above = np.zeros((len(levels[0].tokens), 1), int)
  for level in levels:
    own = np.asarray(level.sampled).sum(-1)  # [B, K, F]
    parent = np.take_along_axis(above, np.asarray(level.parent), axis=1)
    above = (own + parent[..., None]).reshape(len(own), -1)
  return above


def to_items(
  examples: Sequence[Example],
  levels: Sequence[Level],
  read: Assessed,
  preset: Preset,
) -> list[Item]:
  """The first questions of a batch with their samples, judged.

  Args:
    examples: the questions, with their reference answers.
    levels: of the tree, as numpy.
    read: its last level, read.
    preset: extracts and judges.
  """
  tokens = _path_tokens(levels)
  leaf = levels[-1]
  finished = np.asarray(leaf.finished).reshape(len(tokens), -1)
  exact = read.rewards["exact"].reshape(len(tokens), -1)
  total = sum(
    np.asarray(x.sampled).reshape(len(tokens), -1).sum(1) for x in levels
  )
  pairs = [
    (extract_answer(text, preset.extract), example)
    for example, texts in zip(examples, read.paths, strict=False)
    for text in texts
  ]
  verdicts = iter(zip(pairs, preset.judge(pairs), strict=True))
  items = []
  for i, example in enumerate(examples):
    samples = []
    for r, text in enumerate(read.paths[i]):
      (answer, _), verdict = next(verdicts)
      known = bool(example.answer.strip()) and not verdict.abstains
      samples.append(
        Sample(
          text=text,
          answer=answer,
          vote=vote_of(answer, example),
          correct=float(verdict.correct) if known else None,
          reason=verdict.reason,
          exact=float(exact[i, r]) if np.isfinite(exact[i, r]) else None,
          tags=read.parsed[i][r].tags_ok,
          finished=bool(finished[i, r]),
          tokens=int(tokens[i, r]),
        )
      )
    items.append(
      Item(
        id=example.id,
        digest=digest_of(example),
        category=example.category,
        group=_short(example.group),
        question=example.question,
        options=example.options,
        answer=example.answer,
        type=example.answer_type,
        tokens=int(np.asarray(total)[i]),
        samples=tuple(samples),
        joint=_joint(example),
      )
    )
  return items


def _joint(example: Example) -> Mapping[str, str]:
  found = example.extra.get(JOINT)
  return found if isinstance(found, dict) else {}


def _short(group: str) -> str:
  """A label, hashed where it is a whole picture."""
  if len(group) <= _LONG_GROUP:
    return group
  return hashlib.sha256(group.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def draw_missing(
  questions: QuestionSet,
  strategy: Strategy,
  path: Path,
  made: Mapping[str, Any],
  roles: dict[str, Any],
  batcher: Batcher,
  batch: int,
  key: jax.Array,
  say: Callable[[str], None],
) -> int:
  """Draws for the questions that a file lacks, and appends them to it.

  Batches are cut from the set's own order, whatever is missing, and a batch of
  which all is there is passed over: what a question draws does not depend on
  what was drawn before.

  Args:
    questions: the set.
    strategy: how to draw.
    path: the strategy's file; only the first process reads and writes it.
    made: its fingerprint.
    roles: parameters by role.
    batcher: builds the prompts.
    batch: questions per device batch.
    key: of the draws.
    say: called with what happened to the file.

  Returns:
    How many questions stood in the file.
  """
  examples = questions.examples
  primary = jax.process_index() == 0
  there = np.zeros(len(examples), np.int32)
  if primary:
    items, differing = start_items(path, made)
    if differing:
      shown = "; ".join(differing[:3])
      say(f"drawn anew, the old file is {path.name}.old: {shown}")
    there[:] = [
      e.id in items and items[e.id].digest == digest_of(e) for e in examples
    ]
  there = agreed(there).astype(bool)
  shards = data_shards(batcher.policy.mesh)
  batch = -(-min(batch, len(examples)) // shards) * shards
  for begin in range(0, len(examples), batch):
    chunk = examples[begin : begin + batch]
    done = there[begin : begin + batch]
    if done.all():
      continue
    tree, read = draw(
      strategy, roles, batcher, unanswered(filled(chunk, batch)), key
    )
    if primary:
      items_of = to_items(chunk, tree.levels, read[-1], questions.preset)
      append_items(
        path, [x for x, old in zip(items_of, done, strict=True) if not old]
      )
      say(f"{begin + len(chunk)} of {len(examples)}")
  return int(there.sum())
