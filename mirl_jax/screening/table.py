"""A screening's figures as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from mirl_jax.screening.figures import TARGETS

TITLES = {"exact": "exact description", "correct": "right answer"}
# Of the table by kind of question: more would not fit a line.
SHORT = ("mi", "blank, lambda=0.8", "likelihood, mean", "length", "shuffled")


def label(name: str) -> str:
  """A score's name as it is shown."""
  shown = {
    "mi": "MI, as configured",
    "shuffled": "MI, other picture",
    "oracle": "oracle (exact)",
  }
  return shown.get(name, name.replace("lambda=", "λ = "))


def shown(figure: Mapping[str, Any], scale: float | int = 1) -> str:
  """Mean ± standard error; "n/a (0)" where no question says anything.

  Args:
    figure: as `figures.figure` makes it.
    scale: 1 for a share or correlation, 100 for points.
  """
  if figure["mean"] is None:
    return f"n/a ({figure['questions']})"
  digits = 1 if scale == 100 else 3
  text = f"{scale * figure['mean']:.{digits}f}"
  error = figure["se"]
  return text if error is None else f"{text} ± {scale * error:.{digits}f}"


def _counted(figure: Mapping[str, Any]) -> str:
  """A figure that may rest on few questions, with their number."""
  text = shown(figure)
  return text if figure["mean"] is None else f"{text} ({figure['questions']})"


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    "  "
    + row[0].ljust(widths[0])
    + "".join(
      "  " + cell.rjust(width)
      for cell, width in zip(row[1:], widths[1:], strict=True)
    )
    for row in rows
  ]


def _target(record: Mapping[str, Any], target: str) -> list[str]:
  about, k = record["targets"][target], record["kept"]
  title = f"{TITLES[target]}: {shown(about, 100)} % of"
  if not about["contrast"]:
    return [f"{title} {about['questions']} questions; none has both kinds"]
  rest = record["descriptions"] - k
  rows = [
    (
      "score",
      "AUC",
      "questions",
      "over likelihood",
      "length removed",
      f"best {k} less other {rest}",
      f"best 1 less other {record['descriptions'] - 1}",
      "length correlation",
    )
  ]
  for name, score in record["scores"].items():
    of = score[target]
    rows.append(
      (
        label(name),
        shown(of["auc"]),
        str(of["auc"]["questions"]),
        shown(of["auc_over_likelihood"]),
        shown(of["auc_length_removed"]),
        shown(of["kept"]["difference"], 100),
        shown(of["first"]["difference"], 100),
        _counted(score["length_correlation"]),
      )
    )
  return [
    f"{title} {about['questions']} questions; {about['contrast']} have both"
    " kinds",
    *_lines(rows),
    *_by_category(record, target),
  ]


def _by_category(record: Mapping[str, Any], target: str) -> list[str]:
  names = [name for name in SHORT if name in record["scores"]]
  found = [record["scores"][name][target].get("by_category") for name in names]
  if not all(found):
    return []
  rows = [("AUC by kind of question", *map(label, names), "questions")]
  for kind in found[0]:
    count = max(score[kind]["questions"] for score in found)
    cells = [shown(score[kind]) for score in found]
    rows.append((kind or "none", *cells, str(count)))
  return _lines(rows)


def screening_table(record: Mapping[str, Any]) -> str:
  """The table of a record of `screening_figures`.

  Differences are in points, paired by question; each figure with its standard
  error.
  """
  lines = [
    f"screening: {record['questions']} questions with"
    f" {record['descriptions']} descriptions each,"
    f" {shown(record['truncated'], 100)} % truncated"
  ]
  for target in TARGETS:
    if target in record["targets"]:
      lines += _target(record, target)
    else:
      lines.append(f"{TITLES[target]}: left out, no question says what it is")
  return "\n".join(lines)
