"""report.html: what a run did, on one page that needs nothing else."""

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mirl_jax.runs.config_files import flatten, load_config
from mirl_jax.runs.files import PathLike, local_path, read_jsonl, write_atomic
from mirl_jax.runs.metrics import read_metrics
from mirl_jax.runs.report_curves import plots
from mirl_jax.runs.report_page import absent, esc, number, page, section
from mirl_jax.runs.report_rollouts import DAMAGE, rollout_section
from mirl_jax.runs.summary import read_summary, rows

REPORT_FILE = "report.html"
SCREENING_FILE = "screening.svg"

# Config fields that say what a run was, by the last part of their name.
ESSENTIALS = (
  "method", "name", "model", "init", "world", "path", "seed", "steps",
  "questions", "batch_size", "fanout", "k", "learning_rate", "lr", "kl",
  "temperature", "prior_weight", "eta",
)  # fmt: skip
_MOST_FACTS = 12


def _facts(pairs: Sequence[tuple[str, Any]]) -> str:
  items = []
  for name, value in pairs:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    shown = number(value) if numeric else str(value)
    items.append(
      f"<div><dt>{esc(name.replace('_', ' '))}</dt><dd>{esc(shown)}</dd></div>"
    )
  return f'<dl class="facts">{"".join(items)}</dl>' if items else ""


def _is_plain(value: Any) -> bool:
  return isinstance(value, str | int | float) and value != ""


def essentials(config: dict[str, Any]) -> list[tuple[str, Any]]:
  """The few fields that say what a run was: the known names, then top-level."""
  leaves = {k: v for k, v in flatten(config).items() if _is_plain(v)}
  found = [
    (name, value)
    for known in ESSENTIALS
    for name, value in leaves.items()
    if name.rsplit(".", 1)[-1] == known
  ]
  found += [(k, v) for k, v in leaves.items() if "." not in k]
  return list(dict(found).items())[:_MOST_FACTS]


def _try(read: Callable[[], Any]) -> tuple[Any, str]:
  """What a reader gives, or the sentence that says why it gives nothing."""
  try:
    return read(), ""
  except FileNotFoundError as error:
    return None, str(error)
  except DAMAGE as error:
    return None, f"Not readable: {error}"


def _header(workdir: Path) -> str:
  config, _ = _try(lambda: load_config(workdir))
  links = (("result", "Result"), ("warnings", "Warnings"),
           ("curves", "Curves"), ("rollouts", "Rollouts"))  # fmt: skip
  nav = "".join(f'<a href="#{a}">{title}</a>' for a, title in links)
  name = workdir.resolve().name
  head = f"<header><h1>{esc(name)}</h1><nav>{nav}</nav>"
  if config is None:
    return (
      head + absent("No readable config.json in this folder.") + "</header>"
    )
  text = json.dumps(config, indent=2, ensure_ascii=False)
  return (
    f'{head}<div class="card">{_facts(essentials(config))}<details>'
    f"<summary>The whole config</summary><pre>{esc(text)}</pre></details></div>"
    "</header>"
  )


def _outcome(workdir: Path) -> str:
  summary = read_summary(workdir)
  before, after = summary.pop("before", {}), summary.pop("after", {})
  lines = [
    '<tr><th></th><th class="n">before</th><th class="n">after</th>'
    '<th class="n">change</th></tr>'
  ]
  for row in rows(before, after):
    lines.append(
      f"<tr><td>{esc(row.label)}</td>"
      f'<td class="n" data-label="before">{esc(row.before)}</td>'
      f'<td class="n" data-label="after">{esc(row.after)}</td>'
      f'<td class="n" data-label="change">{esc(row.change)}</td></tr>'
    )
  table = f'<table class="result">{"".join(lines)}</table>'
  facts = _facts([(k, v) for k, v in flatten(summary).items() if _is_plain(v)])
  rest = f'<div class="card" style="margin-top:14px">{facts}</div>'
  return f'<div class="card">{table}</div>' + (rest if facts else "")


def _result(workdir: Path) -> str:
  body, fault = _try(lambda: _outcome(workdir))
  if body is not None:
    return section("Result", "result", body, "± one standard error.")
  if "does not exist" in fault:
    fault = "No summary.json yet: the run has not finished, or it was stopped."
  return section("Result", "result", absent(fault))


def raised(metrics: Sequence[dict[str, Any]]) -> list[str]:
  """One sentence per warning, skip or non-finite figure in the metrics."""
  found: dict[str, list[tuple[int, float | int]]] = {}
  for row in metrics:
    for name, value in row.items():
      if not isinstance(value, int | float) or name == "step":
        continue
      finite = abs(value) < float("inf")  # False for NaN too
      if not finite:
        found.setdefault(f"{name} is not finite", []).append(
          (row["step"], value)
        )
      elif name.startswith(("warn/", "skipped/")) and value:
        found.setdefault(name, []).append((row["step"], value))
  sentences = []
  for name, hits in sorted(found.items()):
    (first, _), (last, value) = hits[0], hits[-1]
    when = (
      f"at step {first}"
      if len(hits) == 1
      else f"at {len(hits)} logged steps, from {first} to {last}"
    )
    sentences.append(f"{name}: {when}, last value {number(value)}")
  return sentences


def _warnings(workdir: Path, metrics: Sequence[dict[str, Any]]) -> str:
  sentences = raised(metrics)
  bad_rows, _ = _try(lambda: read_jsonl(workdir / "quarantine.jsonl"))
  if bad_rows:
    sentences.append(f"quarantine: {len(bad_rows)} data rows, see its file")
  if not sentences:
    body = absent("No warning was raised." if metrics else "Nothing logged.")
    return section("Warnings", "warnings", body)
  items = []
  for sentence in sentences:
    name, _, rest = sentence.partition(":")
    items.append(f"<li><b>{esc(name)}</b>:{esc(rest)}</li>")
  body = (
    f'<div class="card alert"><ul class="warnings">{"".join(items)}</ul></div>'
  )
  return section("Warnings", "warnings", body)


def _screening(workdir: Path) -> str:
  """The pictures that --mode=eval drew, where it screened."""
  body = ""
  for path in sorted((workdir / "eval").rglob(SCREENING_FILE)):
    data = base64.b64encode(path.read_bytes()).decode()
    name = path.parent.relative_to(workdir / "eval").as_posix()
    title = "" if name == "." else f"<h3>{esc(name)}</h3>"
    body += (
      f'<div class="card">{title}<img style="width:100%" alt="AUC of each '
      f'score" src="data:image/svg+xml;base64,{data}"></div>'
    )
  if not body:
    return ""
  note = "How well each score tells right from wrong within a question."
  return section("Screening", "screening", body, note)


def _curves(metrics: Sequence[dict[str, Any]], fault: str) -> str:
  if not metrics:
    why = fault or "No metrics.jsonl yet: no step was logged."
    return section("Curves", "curves", absent(why))
  note = (
    f"By step, {len(metrics)} logged up to step {metrics[-1]['step']}; bands "
    "are ± one standard error."
  )
  return section("Curves", "curves", plots(metrics), note)


def write_report(workdir: PathLike) -> Path:
  """Builds report.html from whatever the work directory holds.

  The page is self-contained: no script, no request, pictures and curves inside.
  Files that are missing or damaged leave a sentence in their place.

  Raises:
    FileNotFoundError: where the work directory itself does not exist.
  """
  folder = local_path(workdir)
  if not folder.is_dir():
    raise FileNotFoundError(f"{folder} does not exist; give a run's directory")
  metrics, fault = _try(lambda: read_metrics(folder))
  metrics = [row for row in metrics or [] if isinstance(row.get("step"), int)]
  body = "\n".join(
    (
      _header(folder),
      _result(folder),
      _warnings(folder, metrics),
      _curves(metrics, fault),
      _screening(folder),
      f"<section>{rollout_section(folder)}</section>",
    )
  )
  return write_atomic(folder / REPORT_FILE, page(folder.resolve().name, body))
