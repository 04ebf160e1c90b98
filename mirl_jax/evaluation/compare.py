"""Paired tests between two evaluations of the same questions."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mirl_jax import statistics
from mirl_jax.evaluation.figures import (
  SET_FILE,
  Evaluated,
  correctness,
  group_labels,
  read_set_files,
  set_folder,
)
from mirl_jax.evaluation.items import Item
from mirl_jax.runs.files import to_json, write_atomic
from mirl_jax.runs.summary import format_figure
from mirl_jax.statistics import Estimate, McNemar

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
  """One score, of one evaluation less another's.

  Attributes:
    name: strategy and score.
    ours: its mean here.
    theirs: and there.
    difference: paired, with its clustered standard error.
    interval: of the difference, from the cluster bootstrap.
    mcnemar: where every question is either right or wrong in both.
  """

  name: str
  ours: float
  theirs: float
  difference: Estimate
  interval: tuple[float, float]
  mcnemar: McNemar | None


def check_same_questions(
  ours: Evaluated, theirs: Evaluated, other: str
) -> None:
  """Refuses sets that do not hold the same questions.

  Raises:
    ValueError: naming how many differ, and the fix.
  """
  here, there = ours.record.digests, theirs.record.digests
  faults = [
    (len(here.keys() - there.keys()), "questions are only here"),
    (len(there.keys() - here.keys()), "only there"),
    (
      sum(here[x] != there[x] for x in here.keys() & there.keys()),
      "have another text, picture or reference answer",
    ),
  ]
  said = ", ".join(f"{count} {what}" for count, what in faults if count)
  if said:
    raise ValueError(
      f"set {ours.record.name}: {len(here)} questions here and {len(there)} in"
      f" {other} cannot be paired: {said}; evaluate both with the same"
      " eval.sets and eval.limit"
    )


def _scores(items: Sequence[Item], votes: bool) -> np.ndarray:
  """[Q] mean correctness of the samples, or that of the majority."""
  correct = correctness(items)
  if not votes:
    return correct.mean(axis=1)
  n = correct.shape[1]
  return np.array(
    [
      statistics.majority_at_k([[s.vote for s in item.samples]], row, n).mean
      for item, row in zip(items, correct[:, None], strict=True)
    ]
  )


def paired(
  name: str,
  ours: np.ndarray,
  theirs: np.ndarray,
  groups: np.ndarray,
  seed: int,
) -> Difference:
  """Compares two scores of the same questions.

  Args:
    name: of the score.
    ours: by question, in 0..1.
    theirs: likewise.
    groups: labels of dependent questions.
    seed: of the bootstrap.
  """
  verdicts = np.isin([ours, theirs], (0, 1)).all()
  return Difference(
    name,
    float(ours.mean()),
    float(theirs.mean()),
    statistics.paired_difference(ours, theirs, groups),
    statistics.bootstrap_interval(ours - theirs, groups, CONFIDENCE, seed=seed),
    statistics.mcnemar(ours, theirs) if verdicts else None,
  )


def differences(
  ours: Evaluated, theirs: Evaluated, seed: int
) -> list[Difference]:
  """Every score that both evaluations have, over questions with a verdict."""
  found = []
  for strategy, items in ours.items.items():
    others = theirs.items.get(strategy)
    if others is None:
      continue
    # In our order: the files name their questions.
    by_id = {item.id: item for item in others}
    others = tuple(by_id[item.id] for item in items)
    known = np.isfinite(correctness(items)).all(axis=1)
    if not known.any():
      continue
    groups = group_labels(items)[known]
    several = all(len(x[0].samples) > 1 for x in (items, others))
    for votes in (False, True) if several else (False,):
      name = f"{strategy}/{'majority' if votes else 'accuracy'}"
      first, second = (_scores(x, votes)[known] for x in (items, others))
      found.append(paired(name, first, second, groups, seed))
  return found


def _line(found: Difference) -> str:
  text = format_figure(
    found.difference.mean, found.difference.error, True, signed=True
  )
  low, high = (
    format_figure(x, None, True, signed=True) for x in found.interval
  )
  test = ""
  if found.mcnemar is not None:
    m = found.mcnemar
    test = f", McNemar {m.first_only}:{m.second_only} p = {m.p:.3g}"
  return (
    f"  {found.name}: {found.ours:.1%} against {found.theirs:.1%}, difference"
    f" {text}, bootstrap {CONFIDENCE:.0%} {low} to {high}{test}"
  )


def check_other(other: str, names: Sequence[str]) -> None:
  """Refuses a run to compare with that lacks one of these sets.

  Raises:
    ValueError: naming the set, and the fix.
  """
  for name in names:
    if not (set_folder(other, name) / SET_FILE).is_file():
      raise ValueError(
        f"eval.against: {other} has no evaluation of set {name!r}; run"
        f" --mode=eval --workdir={other} with the same eval.sets first"
      )


def compare(workdir: str, other: str, names: Sequence[str], seed: int) -> str:
  """Compares sets with another run's, and writes eval/SET/against.json.

  Args:
    workdir: of the run.
    other: of the run to compare with.
    names: of the sets.
    seed: of the bootstrap.

  Returns:
    What was found, as text.

  Raises:
    ValueError: where a set of the other run holds other questions.
  """
  lines = []
  for name in names:
    ours, theirs = (
      read_set_files(set_folder(x, name)) for x in (workdir, other)
    )
    check_same_questions(ours, theirs, other)
    found = differences(ours, theirs, seed)
    lines += [f"{name}: this run against {other}", *map(_line, found)]
    left = [x for x in ours.items if x not in theirs.items]
    if left:
      lines.append(f"  not in {other}: {', '.join(left)}")
    record = {
      "against": str(Path(other).resolve()),
      "questions": len(ours.record.digests),
      "differences": [dataclasses.asdict(x) for x in found],
    }
    path = set_folder(workdir, name) / "against.json"
    write_atomic(path, to_json(record, indent=2) + "\n")
  return "\n".join(lines)
