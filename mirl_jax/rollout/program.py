"""Rollout programs: an ordered list of Sample and Keep stages, as data."""

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

KEEP_RULES = ("mi", "likelihood", "random", "oracle", "stratified", "all")
# Rules whose scores the host computes: the program is cut in two there.
HOST_RULES = ("oracle",)
_HALVINGS = 4


@dataclass(frozen=True)
class Sample:
  """Draw `fanout` children of every node that is alive.

  Attributes:
    name: of the stage, unique in its program.
    fanout: children per parent.
    max_tokens: most tokens a child may have, its stop included.
    stop: the text that ends a child.
    temperature: of sampling; 0 is greedy.
    top_p: keep the smallest set of tokens with this probability (1 = all).
    top_k: keep this many most probable tokens (0 = all).
    halvings: how often decoding goes on with half of the rows once the others
      have ended, see compact.py; no draw depends on it.
  """

  name: str
  fanout: int
  max_tokens: int
  stop: str
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  halvings: int = 0


@dataclass(frozen=True)
class Keep:
  """Keep k of the nodes alive; the next stage forks only these.

  Attributes:
    k: how many; ignored by the rule `all`.
    by: `mi`, `likelihood`, `random`, `oracle`, `stratified` (evenly spaced
      ranks of the MI score, best and worst included) or `all`.
  """

  k: int
  by: str = "mi"


Stage = Sample | Keep
Program = tuple[Stage, ...]


def _fail(message: str) -> None:
  raise ValueError(f"program: {message}")


def validate(program: Program, training: bool) -> Program:
  """Returns the program, or raises ValueError naming the stage and the fix.

  Args:
    program: stages in order.
    training: truncated sampling (top-p, top-k) is refused, since an update
      can push a sampled token out of the support.
  """
  if not program or not isinstance(program[0], Sample):
    _fail("the first stage must be a Sample")
  names: set[str] = set()
  alive = 1
  previous: Stage | None = None
  for stage in program:
    if isinstance(stage, Keep):
      if not isinstance(previous, Sample):
        _fail("a Keep must follow a Sample")
      if stage.by not in KEEP_RULES:
        near = difflib.get_close_matches(stage.by, KEEP_RULES, 1, 0)
        _fail(f"unknown Keep rule {stage.by!r}; did you mean {near[0]!r}?")
      if stage.by != "all":
        if not 1 <= stage.k <= alive:
          _fail(f"Keep k={stage.k} must lie in 1..{alive}, the nodes alive")
        alive = stage.k
    else:
      if stage.name in names:
        _fail(f"two stages are named {stage.name!r}")
      names.add(stage.name)
      if stage.fanout < 1 or stage.max_tokens < 1:
        _fail(f"{stage.name}: fanout and max_tokens must be at least 1")
      if not stage.stop:
        _fail(f"{stage.name}: stop must not be empty")
      if not 0 <= stage.halvings <= _HALVINGS:
        _fail(
          f"{stage.name}: halvings={stage.halvings} must lie in 0..{_HALVINGS};"
          " each compiles a loop more"
        )
      if stage.temperature < 0 or not 0 < stage.top_p <= 1 or stage.top_k < 0:
        _fail(
          f"{stage.name}: temperature >= 0, 0 < top_p <= 1 and top_k >= 0,"
          f" got {stage.temperature}, {stage.top_p}, {stage.top_k}"
        )
      if training and (stage.top_p < 1 or stage.top_k > 0):
        _fail(
          f"{stage.name}: top_p and top_k are for evaluation; in training"
          " set top_p=1 and top_k=0"
        )
      if training and stage.temperature == 0:
        _fail(f"{stage.name}: greedy sampling cannot be trained on")
      alive *= stage.fanout
    previous = stage
  if isinstance(program[-1], Keep):
    _fail("the last stage must be a Sample")
  return program


def from_config(stages: Mapping[str, Mapping[str, Any]]) -> Program:
  """Builds a program from named stages in order.

  A stage with a `by` is a Keep, any other a Sample whose name is its key.

  Raises:
    ValueError: for an unknown field, with the nearest one, or a missing one.
  """
  program: list[Stage] = []
  for name, given in stages.items():
    values = dict(given)
    kind: Any = Keep if "by" in values else Sample
    known = [f.name for f in fields(kind)]
    for field in values:
      if field not in known:
        near = difflib.get_close_matches(field, known, 1, 0)
        _fail(f"{name}.{field} is unknown; did you mean {near[0]!r}?")
    if kind is Sample:
      values["name"] = name
    for f in fields(kind):
      if f.name not in values and f.default is MISSING:
        _fail(f"{name} lacks {f.name!r}")
    program.append(kind(**values))
  return tuple(program)


def samples(program: Program) -> tuple[Sample, ...]:
  """The Sample stages: one level of the tree each."""
  return tuple(stage for stage in program if isinstance(stage, Sample))


def sampled_slots(program: Program) -> int:
  """Most tokens that are sampled for a question."""
  alive, slots = 1, 0
  for stage in program:
    if isinstance(stage, Sample):
      alive *= stage.fanout
      slots += alive * stage.max_tokens
    elif stage.by != "all":
      alive = stage.k
  return slots


def complete_trajectories(program: Program) -> int:
  """Leaves per question."""
  alive = 1
  for stage in program:
    if isinstance(stage, Sample):
      alive *= stage.fanout
    elif stage.by != "all":
      alive = stage.k
  return alive
