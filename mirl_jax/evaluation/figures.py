"""From the files of an evaluation to its figures and tables.

A pure function of WORKDIR/eval/SET: no policy, no device, no draw.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirl_jax import statistics
from mirl_jax.evaluation.items import Item, Sample, read_items
from mirl_jax.runs.files import from_json, to_json, write_atomic
from mirl_jax.runs.summary import format_figure, is_share
from mirl_jax.statistics import Estimate

FOLDER = "eval"
SET_FILE, FIGURES_FILE = "set.json", "figures.json"
STRATEGIES = ("greedy", "sampled", "screen")  # in the order of tables
# Samples of these are independent, so that pass@k is defined.
_INDEPENDENT = ("sampled",)

Figures = dict[str, Estimate]


@dataclass(frozen=True)
class SetRecord:
  """What was evaluated: set.json.

  Attributes:
    name: of the set.
    path: what was opened.
    preset: its name, empty for questions as they stand.
    note: of the preset.
    bad_rows: rows that could not be used.
    policy: what is evaluated, as every strategy's fingerprint has it.
    digests: of the questions, by id.
  """

  name: str
  path: str
  preset: str
  note: str
  bad_rows: int
  policy: Mapping[str, Any]
  digests: Mapping[str, str]


@dataclass(frozen=True)
class Evaluated:
  """One set as its files hold it.

  Attributes:
    record: what was evaluated.
    items: by strategy, of the record's questions and in their order.
  """

  record: SetRecord
  items: Mapping[str, tuple[Item, ...]]


def set_folder(workdir: str | Path, name: str) -> Path:
  """Where a set's files lie."""
  return Path(workdir) / FOLDER / name


def write_set(folder: Path, record: SetRecord) -> None:
  """Writes set.json."""
  text = to_json(dataclasses.asdict(record), indent=2)
  write_atomic(folder / SET_FILE, text + "\n")


def read_set_files(folder: Path) -> Evaluated:
  """Reads a set's files.

  A strategy that lacks some questions, or was drawn by another policy, is left
  out.

  Raises:
    FileNotFoundError: where there is no set.json.
    ValueError: for a damaged file.
  """
  file = folder / SET_FILE
  if not file.is_file():
    raise FileNotFoundError(f"{file} does not exist: the set was not evaluated")
  try:
    record = SetRecord(**from_json(file.read_bytes()))
  except TypeError as error:
    raise ValueError(
      f"{file} was written by another version; evaluate the set again"
    ) from error
  found = {}
  for strategy in STRATEGIES:
    made, items = read_items(folder / f"{strategy}.jsonl")
    if any(made.get(name) != x for name, x in record.policy.items()):
      continue
    own = [items.get(name) for name in record.digests]
    whole = tuple(
      item
      for item, digest in zip(own, record.digests.values(), strict=True)
      if item is not None and item.digest == digest
    )
    if whole and len(whole) == len(own):
      found[strategy] = whole
  return Evaluated(record, found)


def group_labels(items: Sequence[Item]) -> np.ndarray:
  """A label per item: its group, or one of its own where it has none."""
  return np.array([f"g {x.group}" if x.group else f"q {x.id}" for x in items])


def correctness(items: Sequence[Item]) -> np.ndarray:
  """[Q, n] verdicts; NaN where no reference answer is known."""
  return np.array(
    [
      [np.nan if s.correct is None else s.correct for s in item.samples]
      for item in items
    ],
    np.float64,
  )


def _all_right(items: Sequence[Item], correct: np.ndarray) -> Figures:
  """Share of groups of questions of which all answers are right, per sample
  and averaged."""
  found: Figures = {}
  for name in sorted({name for item in items for name in item.joint}):
    members: dict[str, list[int]] = {}
    for i, item in enumerate(items):
      if name in item.joint:
        members.setdefault(item.joint[name], []).append(i)
    labels = group_labels(items)
    shares = [correct[rows].all(axis=0).mean() for rows in members.values()]
    owners = np.array([labels[rows[0]] for rows in members.values()])
    found[f"all_of_{name}"] = statistics.mean_and_error(
      np.array(shares), owners
    )
  return found


def figures(strategy: str, items: Sequence[Item]) -> Figures:
  """Figures of one strategy; standard errors are clustered by group.

  accuracy (avg@n), pass_at_k for k = 1..n, majority_at_n, exact descriptions,
  coverage (answers that were found), tags (format kept), truncated, tokens per
  question, and shares of groups of questions that are all right. Questions
  without a reference answer count in the last five alone.
  """
  groups = group_labels(items)

  def share(test: Callable[[Sample], bool]) -> Estimate:
    values = [[test(s) for s in item.samples] for item in items]
    return statistics.avg_at_n(np.array(values), groups)

  found: Figures = {}
  correct = correctness(items)
  known = np.isfinite(correct).all(axis=1)
  n = correct.shape[1]
  if known.any():
    judged = [
      item for item, is_known in zip(items, known, strict=True) if is_known
    ]
    right, labels = correct[known], groups[known]
    found["accuracy"] = statistics.avg_at_n(right, labels)
    if strategy in _INDEPENDENT:
      for k in range(1, n + 1):
        found[f"pass_at_{k}"] = statistics.pass_at_k(right, k, labels)
    elif n > 1:
      found[f"pass_at_{n}"] = statistics.pass_at_k(right, n, labels)
    if n > 1:
      votes = [[s.vote for s in item.samples] for item in judged]
      found[f"majority_at_{n}"] = statistics.majority_at_k(
        votes, right, n, labels
      )
    found.update(_all_right(judged, right))
  exact = [[s.exact for s in item.samples] for item in items]
  checked = np.array([None not in row for row in exact])
  if checked.any():
    values = np.array(
      [row for row, is_known in zip(exact, checked, strict=True) if is_known],
      np.float64,
    )
    found["exact"] = statistics.avg_at_n(values, groups[checked])
  found["coverage"] = share(lambda s: s.vote is not None)
  found["tags"] = share(lambda s: s.tags)
  found["truncated"] = share(lambda s: not s.finished)
  tokens = np.array([item.tokens for item in items], np.float64)
  found["tokens"] = statistics.mean_and_error(tokens, groups)
  return found


def by_category(
  strategy: str, items: Sequence[Item]
) -> dict[str, tuple[int, Figures]]:
  """Figures of each category, by name, with its number of questions."""
  found = {}
  for name in sorted({item.category for item in items}):
    own = [item for item in items if item.category == name]
    found[name] = (len(own), figures(strategy, own))
  return found


def flat(name: str, found: Figures) -> dict[str, float]:
  """Figures as metrics: `NAME/metric` and `NAME/metric_se`."""
  out: dict[str, float] = {}
  for metric, estimate in found.items():
    out[f"{name}/{metric}"] = estimate.mean
    out[f"{name}/{metric}_se"] = estimate.error
  return out


def _text(metric: str, estimate: Estimate | None) -> str:
  """A figure with its error. Where all are alike the error is 0, which says
  nothing: Wilson's interval of the groups then."""
  if estimate is None:
    return "-"
  share = is_share(metric)
  if share and estimate.mean in (0, 1) and estimate.count:
    hits = round(estimate.mean * estimate.count)
    low, high = statistics.wilson_interval(hits, estimate.count)
    return f"{100 * estimate.mean:.1f} in {100 * low:.1f}..{100 * high:.1f} %"
  return format_figure(estimate.mean, estimate.error, share)


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
  widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
  return [
    "  ".join(
      [row[0].ljust(widths[0])]
      + [x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True)]
    ).rstrip()
    for row in lines
  ]


def table(evaluated: Evaluated) -> str:
  """Figures of a set by strategy, and accuracies by category."""
  record, names = evaluated.record, list(evaluated.items)
  found = {name: figures(name, evaluated.items[name]) for name in names}
  groups = len(set(group_labels(evaluated.items[names[0]]))) if names else 0
  head = (
    f"{record.name}: {len(record.digests)} questions in {groups} groups,"
    f" {record.bad_rows} bad rows"
  )
  order = list(dict.fromkeys(m for f in found.values() for m in f))
  lines = [["", *names]]
  for metric in order:
    label = metric.replace("_at_", "@").replace("_", " ")
    lines.append([label, *(_text(metric, found[n].get(metric)) for n in names)])
  parts = [head, *_aligned(lines)]
  split = {name: by_category(name, evaluated.items[name]) for name in names}
  categories = list(next(iter(split.values()), {}))
  if len(categories) > 1:
    lines = [["accuracy by category", "questions", *names]]
    for category in categories:
      cells = [split[n][category][1].get("accuracy") for n in names]
      count = split[names[0]][category][0]
      label = category or "(none)"
      lines.append([label, str(count), *(_text("accuracy", c) for c in cells)])
    parts += ["", *_aligned(lines)]
  return "\n".join(parts)


def record_of(evaluated: Evaluated) -> dict[str, Any]:
  """All figures of a set, as figures.json holds them."""
  strategies = {}
  for name, items in evaluated.items.items():
    split = by_category(name, items)
    strategies[name] = {
      "figures": _plain(figures(name, items)),
      "categories": {
        category: {"questions": count, **_plain(found)}
        for category, (count, found) in split.items()
      },
    }
  record = evaluated.record
  return {
    "set": record.name,
    "path": record.path,
    "preset": record.preset,
    "note": record.note,
    "questions": len(record.digests),
    "bad_rows": record.bad_rows,
    "strategies": strategies,
  }


def _plain(found: Figures) -> dict[str, dict[str, float]]:
  return {name: dataclasses.asdict(x) for name, x in found.items()}


def write_figures(folder: Path) -> Evaluated:
  """Makes figures.json of a set's other files."""
  evaluated = read_set_files(folder)
  text = to_json(record_of(evaluated), indent=2)
  write_atomic(folder / FIGURES_FILE, text + "\n")
  return evaluated
