"""Draws descriptions and scores them in every way: the data of a screening.

Every description is forked, whatever the program keeps, so that a score can be
held against what came of each. All scores are of the same draws.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Shaped

from mirl_jax.batching import Batcher
from mirl_jax.build import Policy, make_stops
from mirl_jax.data.example import Example
from mirl_jax.evaluate import groups_of
from mirl_jax.information.estimators import MI, score_nodes
from mirl_jax.parallel.mesh import batch_sharding, data_shards
from mirl_jax.parallel.processes import on_host
from mirl_jax.policy.inputs import Prompts
from mirl_jax.rewards.assess import Assessed, assess
from mirl_jax.rewards.verify import normalise
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import Keep, Program, Sample, samples
from mirl_jax.rollout.tree import Level, flat, nodes

VIEWS = {"blank": 1, "removed": 1, "masked": 2, "other": 4}  # mixed of each
LAMBDAS = (0.4, 0.8, 1.0)
SHUFFLED = "shuffled"  # the control, and the key of its view

Scores = dict[str, Float[np.ndarray, "q n"]]


@dataclass(frozen=True)
class Observed:
  """What was drawn for Q questions, N descriptions of each.

  Attributes:
    scores: by name; NaN for a truncated description, which every Keep ranks
      last, and for a whole question that the score does not apply to.
    length: sampled tokens.
    finished: descriptions that ended with their stop.
    exact: 1 or 0, NaN where neither a checker nor a description is known.
    correct: share of right answers among a description's reasonings, NaN where
      no answer is known.
    category: of each question.
    group: questions with one label depend on each other.
  """

  scores: Scores
  length: Float[np.ndarray, "q n"]
  finished: Bool[np.ndarray, "q n"]
  exact: Float[np.ndarray, "q n"]
  correct: Float[np.ndarray, "q n"]
  category: Shaped[np.ndarray, " q"]
  group: Shaped[np.ndarray, " q"]


def scored_stage(program: Program, mi: MI | None) -> int:
  """Which level of the tree is scored: MI's, or the first."""
  names = [stage.name for stage in samples(program)]
  return names.index(mi.stage) if mi else 0


def forked_program(program: Program) -> Program:
  """The program with nothing kept back: every node is forked."""
  return tuple(
    Keep(stage.k, "all") if isinstance(stage, Keep) else stage
    for stage in program
  )


def kept_count(program: Program, level: int, nodes: int) -> int:
  """How many of a level's nodes the program keeps; half where it keeps all."""
  number = program.index(samples(program)[level])
  following = program[number + 1 : number + 2]
  for stage in following:
    if isinstance(stage, Keep) and stage.by != "all" and stage.k < nodes:
      return stage.k
  return max(1, nodes // 2)


def dealt(examples: Sequence[Example]) -> list[Example]:
  """The examples with those of one group far apart.

  First one of each group, then the second of each, …: what stands in for a
  picture is the next questions' pictures, which should be other ones.
  """
  seen: dict[str, int] = {}
  ranks = []
  for label in groups_of(examples):
    seen[label] = seen.get(label, -1) + 1
    ranks.append(seen[label])
  return [examples[i] for i in np.argsort(ranks, kind="stable")]


def estimators(configured: MI, batch: int) -> dict[str, MI]:
  """One estimator per view, and the control's, by name.

  The configured one stands for its own view. What needs other questions is
  left out of a batch of one.

  Args:
    configured: of the run, or MI of the scored stage.
    batch: questions of a batch.
  """
  made = {}
  for view, count in VIEWS.items():
    count = min(count, batch - 1) if view == "other" else count
    if count:
      made[view] = dataclasses.replace(
        configured, view=view, views=count, clip=0.0, plausible=0.0
      )
  made[configured.view] = configured
  if batch > 1:
    made[SHUFFLED] = dataclasses.replace(
      made["blank"], view="other_same_question", views=1
    )
  return made


def make_scorer(policy: Policy, mi: MI) -> Callable[..., Any]:
  """`score_nodes` of one estimator, jitted for the policy's mesh; the last
  argument says whether the sampler's log-probs are its first term."""

  def score(
    params: Any,
    prompts: Prompts,
    views: Prompts,
    levels: tuple[Level, ...],
    reuse: bool,
  ) -> dict[str, jax.Array]:
    level = levels[-1]
    return score_nodes(
      params,
      policy.config,
      mi,
      prompts,
      views,
      nodes(levels),
      flat(level.sampled),
      flat(level.logprobs) if reuse else None,
      policy.dtype,
    )

  return jax.jit(
    score, static_argnums=4, out_shardings=batch_sharding(policy.mesh)
  )


@dataclass(frozen=True)
class Observer:
  """What draws and scores a batch.

  Attributes:
    policy: that describes.
    stage: whose nodes are scored.
    level: of these nodes.
    rollout: of the forked program.
    mi: the configured estimator, and whether it is the run's own.
    own: whether `mi` is the run's, and hence a score of its own.
    batch: questions of a batch.
    batchers: by estimator, see `estimators`.
    scorers: by estimator.
  """

  policy: Policy
  stage: Sample
  level: int
  rollout: Rollout
  mi: MI
  own: bool
  batch: int
  batchers: dict[str, Batcher]
  scorers: dict[str, Callable[..., Any]]

  def __call__(
    self,
    roles: dict[str, Any],
    examples: Sequence[Example],
    group: Shaped[np.ndarray, " b"],
    key: jax.Array,
  ) -> Observed:
    """Draws for a batch of questions and scores what was drawn."""
    batchers = self.batchers
    first, *others = sorted(batchers, key=lambda name: name != self.mi.view)
    prompts, views = batchers[first].batch(examples)
    tree = self.rollout(roles, prompts, None, key)
    levels = tree.levels[: self.level + 1]
    reuse = self.mi.reuses_sampler(self.stage.temperature)
    params = roles[self.mi.scorer]
    found = {first: self.scorers[first](params, prompts, views, levels, reuse)}
    for name in others:
      prompts, views = batchers[name].batch(examples)
      # Only the second term is read of these: any first one will do.
      found[name] = self.scorers[name](params, prompts, views, levels, True)
    held = on_host(tree.levels)
    read = assess(examples, held, self.policy.processor.decode)
    return self._read(examples, group, held, read, on_host(found))

  def _read(
    self,
    examples: Sequence[Example],
    group: np.ndarray,
    levels: tuple[Level, ...],
    read: list[Assessed],
    found: dict[str, dict[str, np.ndarray]],
  ) -> Observed:
    level = levels[self.level]
    finished, rows = flat(level.finished), len(examples)
    sampled = flat(level.sampled)
    length = sampled.sum(-1).astype(np.float64)
    correct = read[-1].rewards["correct"].astype(np.float64)
    scores = {
      **self._mi_scores(found, length, group),
      "likelihood, mean": flat(level.scores["likelihood"]),
      "likelihood, sum": (flat(level.logprobs) * sampled).sum(-1),
      "length": length,
    }
    return Observed(
      scores={
        name: np.where(finished, score, np.nan).astype(np.float64)
        for name, score in scores.items()
      },
      length=length,
      finished=finished,
      exact=_exact(examples, read[self.level]),
      correct=correct.reshape(rows, length.shape[1], -1).mean(-1),
      category=np.array([example.category for example in examples]),
      group=group,
    )

  def _mi_scores(
    self,
    found: dict[str, dict[str, np.ndarray]],
    length: np.ndarray,
    group: np.ndarray,
  ) -> Scores:
    """Estimators by name; NaN where a stand-in shows the question's picture."""
    tokens = np.maximum(length, 1)
    clean = found[self.mi.view]["clean"]
    scores = {"mi": found[self.mi.view]["mi"]} if self.own else {}
    for view in [name for name in self.batchers if name != SHUFFLED]:
      prior = found[view]["prior"]
      for weight in LAMBDAS:
        scores[score_name(view, weight)] = (clean - weight * prior) / tokens
      scores[f"{view}, sum"] = clean - prior
    if SHUFFLED in found:
      gain = found[SHUFFLED]["prior"] - found["blank"]["prior"]
      scores[SHUFFLED] = gain / tokens
    for name, score in scores.items():
      view = self.mi.view if name == "mi" else name.split(",")[0]
      mi = self.batchers[view].mi
      assert mi is not None
      if mi.view.startswith("other"):
        next_ones = [np.roll(group, -m - 1) for m in range(mi.views)]
        same = np.any([group == other for other in next_ones], axis=0)
        scores[name] = np.where(same[:, None], np.nan, score)
    return scores


def score_name(view: str, weight: float) -> str:
  """Of the mean over tokens of log p(d | v, q) - λ log p(d | view, q)."""
  return f"{view}, lambda={weight:g}"


def _exact(
  examples: Sequence[Example], read: Assessed
) -> Float[np.ndarray, "b n"]:
  """The checker's word; without one, whether the words are a reference's."""
  values = read.rewards["exact"].astype(np.float64)
  values = values.reshape(len(examples), -1)
  for i, example in enumerate(examples):
    if example.check is None and example.description:
      wanted = normalise(example.description)
      values[i] = [
        p.description is not None and normalise(p.description) == wanted
        for p in read.parsed[i]
      ]
  return values


def make_observer(
  policy: Policy, batcher: Batcher, program: Program, mi: MI | None, batch: int
) -> Observer:
  """What draws and scores batches of a policy.

  Args:
    policy: that describes.
    batcher: of its prompts.
    program: whose descriptions are scored.
    mi: of the run; None scores the first stage by the live policy.
    batch: questions of a batch, rounded up to a multiple of the shards.
  """
  shards = data_shards(policy.mesh)
  batch = -(-batch // shards) * shards
  level = scored_stage(program, mi)
  stage = samples(program)[level]
  configured = mi or MI(stage=stage.name)
  made = estimators(configured, batch)
  # Another's picture under the longest question: room that no prompt needs.
  units = max(batcher.patch_buckets, default=0)
  units //= policy.config.vision.merge_unit
  longest = max(batcher.prompt_buckets) + units
  room = (*batcher.prompt_buckets, longest)
  return Observer(
    policy=policy,
    stage=stage,
    level=level,
    rollout=Rollout(
      policy.config,
      forked_program(program),
      make_stops(program, policy.processor),
      policy.mesh,
      None,
      policy.dtype,
    ),
    mi=configured,
    own=mi is not None,
    batch=batch,
    batchers={
      name: dataclasses.replace(batcher, mi=one, prompt_buckets=room)
      for name, one in made.items()
    },
    scorers={name: make_scorer(policy, one) for name, one in made.items()},
  )


def joined(parts: Sequence[Observed]) -> Observed:
  """Several batches' questions, one batch after the other."""
  names = [f.name for f in dataclasses.fields(Observed) if f.name != "scores"]
  return Observed(
    scores={
      name: np.concatenate([part.scores[name] for part in parts])
      for name in parts[0].scores
    },
    **{
      name: np.concatenate([getattr(part, name) for part in parts])
      for name in names
    },
  )


def cut(data: Observed, count: int) -> Observed:
  """The first questions."""
  parts = dict(vars(data))
  scores = {name: x[:count] for name, x in parts.pop("scores").items()}
  return Observed(scores, **{name: x[:count] for name, x in parts.items()})


def observe(
  observer: Observer,
  roles: dict[str, Any],
  examples: Sequence[Example],
  key: jax.Array,
) -> Observed:
  """Draws for every question, in batches that are filled up and cut.

  Args:
    observer: from `make_observer`.
    roles: parameters by role.
    examples: the questions, one at least.
    key: of the draws; a draw depends on no other question.

  Returns:
    The questions in the order of `dealt`.
  """
  order = dealt(examples)
  group = groups_of(order)
  parts = []
  for begin in range(0, len(order), observer.batch):
    at = (begin + np.arange(observer.batch)) % len(order)
    rows = [order[i] for i in at]
    part = observer(roles, rows, group[at], key)
    parts.append(cut(part, len(order) - begin))
  return joined(parts)
