"""The rollout part of a report: pictures, descriptions and their forks."""

import base64
import io
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from mirl_jax.runs.report_page import absent, esc, number, section
from mirl_jax.runs.rollouts import PROMPT, Node, read_rollouts, rollout_steps

# What a file raises whose JSON is torn, or is not what a run writes.
DAMAGE = (ValueError, TypeError, AttributeError, KeyError, OSError)

QUESTIONS = 6  # shown per dump
OPEN = 2  # of them unfolded
LONGEST = 4000  # characters of one node's text
LARGEST = 512  # pixels of a picture's longer side
SMALL = 160  # pictures up to this size are shown with square pixels

_TAGS = re.compile(r"&lt;/?(?:description|think|answer)&gt;")


def _said(text: str) -> str:
  """Sampled text, escaped, its known tags dimmed, cut where it is endless."""
  cut = len(text) - LONGEST
  shown = esc(text[:LONGEST])
  shown = _TAGS.sub(lambda m: f'<span class="tag">{m[0]}</span>', shown)
  if cut > 0:
    shown += f' <span class="soft">… {cut:,} more characters</span>'
  return shown


def _truth(value: Any) -> bool | None:
  """Whether a verdict is positive; None where it says neither."""
  if isinstance(value, bool | int | float):
    return None if math.isnan(value) else value > 0.5
  return None


def _mark(value: Any, yes: str, no: str) -> str:
  truth = _truth(value)
  if truth is None:
    return f'<span class="soft">{esc(value)}</span>' if value else ""
  kind, sign, word = ("good", "✓", yes) if truth else ("bad", "✗", no)
  return f'<span class="{kind}">{sign}&nbsp;{word}</span>'


def _verdict(node: Node) -> str:
  value = node.extra.get("verdict", node.rewards.get("correct"))
  return _mark(value, "right", "wrong")


def _signed(value: float | int) -> str:
  """Two decimals, which line up in a column; small numbers in full."""
  if not math.isfinite(value) or 0 < abs(value) < 0.01:
    return number(value, signed=True)
  return f"{value:+.2f}".replace("-", "\u2212")


def _advantage(node: Node) -> str:
  if node.advantage is None:
    return ""
  kind = "good" if node.advantage > 0 else "bad" if node.advantage < 0 else ""
  return f'<span class="{kind}">{_signed(node.advantage)}</span>'


def _score(node: Node) -> tuple[str, float | int] | None:
  """The score to show: MI where there is one, else the first."""
  if not node.scores:
    return None
  name = "mi" if "mi" in node.scores else min(node.scores)
  return name, node.scores[name]


def _by_score(node: Node) -> tuple[float | int, int]:
  score = _score(node)
  known = score is not None and not math.isnan(score[1])
  return (-score[1] if score and known else math.inf), node.node


def picture(path: Path) -> str:
  """An <img> with the picture inside; a sentence where it cannot be read."""
  try:
    with PILImage.open(path) as image:
      image.load()
      small = max(image.size) <= SMALL
      image.thumbnail((LARGEST, LARGEST))
      buffer = io.BytesIO()
      if small:
        image.save(buffer, "PNG")
      else:
        image.convert("RGB").save(buffer, "JPEG", quality=85)
  except (OSError, ValueError, PILImage.DecompressionBombError) as error:
    return f'<span class="soft">picture not readable: {esc(error)}</span>'
  kind = "png" if small else "jpeg"
  data = base64.b64encode(buffer.getvalue()).decode()
  style = ' class="small"' if small else ""
  return f'<img{style} alt="" src="data:image/{kind};base64,{data}">'


class _Tree:
  """The nodes of one question by stage and parent."""

  def __init__(self, nodes: Sequence[Node]):
    self.stages = list(
      dict.fromkeys(n.stage for n in nodes if n.stage != PROMPT)
    )
    self._under: Mapping[tuple[str, int], list[Node]] = defaultdict(list)
    for node in nodes:
      self._under[node.stage, node.parent].append(node)

  def roots(self) -> list[Node]:
    """The first stage, best score first, so that a selection reads downward."""
    if not self.stages:
      return []
    return sorted(self._under.get((self.stages[0], -1), []), key=_by_score)

  def children(self, node: Node) -> list[Node]:
    """The next stage's nodes under one node."""
    place = self.stages.index(node.stage) + 1
    if place == len(self.stages):
      return []
    return self._under.get((self.stages[place], node.node), [])


def _forks(tree: _Tree, node: Node) -> str:
  items = []
  for child in tree.children(node):
    rewards = [f"{n} {number(v)}" for n, v in child.rewards.items()]
    figures = [_verdict(child), *map(esc, rewards)]
    if child.advantage is not None:
      figures.append(f"advantage {_advantage(child)}")
    figures.append(f"{child.tokens} tokens")
    if child.truncated:
      figures.append('<span class="bad">truncated</span>')
    items.append(
      f'<li><span class="figures num">{" · ".join(filter(None, figures))}'
      f'</span><br><span class="said">{_said(child.text)}</span>'
      f"{_forks(tree, child)}</li>"
    )
  return f'<ul class="forks">{"".join(items)}</ul>' if items else ""


def _node_table(tree: _Tree) -> str:
  roots = tree.roots()
  if not roots:
    return '<p class="soft">No samples were dumped for this question.</p>'
  scores = [s[0] for s in map(_score, roots) if s]
  score = {"mi": "MI"}.get(scores[0], scores[0]) if scores else ""
  verdicts = tree.stages[1:] == [] and any(map(_verdict, roots))
  columns = {
    score: any(scores),
    "exact": any("exact" in n.extra for n in roots),
    "verdict": verdicts,
    "advantage": any(n.advantage is not None for n in roots),
    "tokens": True,
    "kept": any(n.kept is not None for n in roots),
  }
  names = [name for name, shown in columns.items() if shown]
  head = "".join(f'<th class="n">{esc(name)}</th>' for name in names)
  lines = [f"<thead><tr><th>{esc(tree.stages[0])}</th>{head}</tr></thead>"]
  for node in roots:
    value = _score(node)
    cells = {
      score: _signed(value[1]) if value else "",
      "exact": _mark(node.extra.get("exact"), "exact", "not exact"),
      "verdict": _verdict(node),
      "advantage": _advantage(node),
      "tokens": str(node.tokens)
      + (' <span class="bad">truncated</span>' if node.truncated else ""),
      "kept": '<span class="pill on">kept</span>' if node.kept else "",
    }
    labels = {"exact": "", "verdict": "", "kept": ""}
    figures = "".join(
      f'<td class="n" data-label="{esc(labels.get(n, n))}">{cells[n]}</td>'
      for n in names
      if cells[n] or n != "kept"
    )
    if not node.kept and columns["kept"]:
      figures += '<td class="n"></td>'
    kept = ' class="kept"' if node.kept else ""
    lines.append(
      f'<tr{kept}><td class="said">{_said(node.text)}</td>{figures}</tr>'
    )
    forks = _forks(tree, node)
    if forks:
      lines.append(
        f'<tr class="under"><td colspan="{len(names) + 1}">{forks}</td></tr>'
      )
  return f'<table class="nodes">{"".join(lines)}</table>'


def _tally(nodes: Sequence[Node]) -> str:
  """How many samples of a question were right and how many exact."""
  samples = [n for n in nodes if n.stage != PROMPT]
  verdicts = [n.extra.get("verdict", n.rewards.get("correct")) for n in samples]
  exact = [n.extra.get("exact") for n in samples]
  parts = []
  for word, values in (("right", verdicts), ("exact", exact)):
    known = [truth for truth in map(_truth, values) if truth is not None]
    if known:
      parts.append(f"{sum(known)} of {len(known)} {word}")
  return " · ".join(parts)


def _question(workdir: Path, nodes: Sequence[Node], is_open: bool) -> str:
  prompt = next((n for n in nodes if n.stage == PROMPT), None)
  name, pictures, answer = nodes[0].question_id, "", ""
  ask = name if prompt is None else prompt.text
  if prompt is not None:
    answer = f'Answer <b class="said">{_said(prompt.answer)}</b> · '
    # A dump may come from elsewhere: pictures are read below the workdir only.
    base = workdir.resolve()
    paths = [(workdir / image).resolve() for image in prompt.images]
    pictures = "".join(picture(p) for p in paths if p.is_relative_to(base))
  pictures = pictures or '<span class="soft">no picture dumped</span>'
  tally = _tally(nodes)
  return (
    f'<details class="card question"{" open" if is_open else ""}>'
    f'<summary><span class="ask said">{_said(ask)}</span><br>'
    f"{answer}{tally}{' · ' if tally else ''}{esc(name)}</summary>"
    f'<div class="split"><div class="pictures">{pictures}</div>'
    f"<div>{_node_table(_Tree(nodes))}</div></div></details>"
  )


def _load(workdir: Path, step: int) -> dict[str, list[Node]]:
  questions: dict[str, list[Node]] = defaultdict(list)
  for node in read_rollouts(workdir, step):
    questions[node.question_id].append(node)
  return questions


def rollout_section(workdir: Path) -> str:
  """Questions of the first and the last dump, the same ones where they recur.

  They are taken in the order of the dump, not chosen by their outcome.
  """
  steps = rollout_steps(workdir)
  if not steps:
    return section("Rollouts", "rollouts", absent("No rollouts were dumped."))
  steps = sorted({steps[0], steps[-1]})
  parts, seen = [], {}
  for step in steps:
    try:
      seen[step] = _load(workdir, step)
    except DAMAGE as error:
      parts.append(absent(f"The rollouts of step {step} are damaged: {error}"))
  both = set.intersection(*map(set, seen.values())) if seen else set()
  for step, questions in seen.items():
    order = sorted(questions, key=lambda question: question not in both)
    try:
      cards = [
        _question(workdir, questions[question], place < OPEN)
        for place, question in enumerate(order[:QUESTIONS])
      ]
    except DAMAGE as error:
      parts.append(absent(f"The rollouts of step {step} are damaged: {error}"))
      continue
    parts.append(
      f'<h3 style="margin-top:26px">Step {step} '
      f'<span class="soft" style="font-weight:400">· {len(cards)} of '
      f"{len(questions)} questions</span></h3>{''.join(cards)}"
    )
  note = (
    "Questions in the order of the dump, not chosen by outcome; samples by "
    "falling score, the ones that were kept with what was forked from them."
  )
  return section("Rollouts", "rollouts", "".join(parts), note)
