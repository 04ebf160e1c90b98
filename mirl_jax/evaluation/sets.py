"""The sets of questions that an evaluation is asked for."""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from mirl_jax.build import Policy, make_mi, make_program
from mirl_jax.data import buckets
from mirl_jax.data.example import Example
from mirl_jax.data.open import open_source
from mirl_jax.data.pipeline import Quarantine
from mirl_jax.data.source import BadRow, Mapped, Shuffled, Source
from mirl_jax.evaluation.presets import PLAIN, PRESETS, Preset
from mirl_jax.rollout.program import sampled_slots

HELD_OUT = "held_out"


@dataclass(frozen=True)
class Named:
  """One entry of `eval.sets`."""

  name: str
  path: str
  preset: Preset


@dataclass(frozen=True)
class QuestionSet:
  """Questions to evaluate on.

  Attributes:
    name: of its folder and its figures.
    path: what was opened.
    preset: how answers are extracted and judged.
    examples: the questions.
    bad: rows that could not be used.
  """

  name: str
  path: str
  preset: Preset
  examples: tuple[Example, ...]
  bad: int


def _file_name(text: str) -> str:
  return re.sub(r"[^\w.-]+", "_", text).strip("._")


def _named(entry: str) -> Named:
  label, equals, path = entry.partition("=")
  if not equals or "/" in label:
    label, path = "", entry
  if not path.strip():
    raise ValueError(f"eval.sets: {entry!r} has no path")
  given, _, own = label.partition(":")
  preset = PRESETS.get(given.strip().lower(), PLAIN)
  if own and preset is PLAIN:
    raise ValueError(
      f"eval.sets: {given!r} in {entry!r} is no preset; there are"
      f" {', '.join(PRESETS)}"
    )
  file = Path(path.strip())
  plain = file.parent.name if file.stem == "data" else file.stem
  name = _file_name(own or label or plain)
  if not name:
    raise ValueError(f"eval.sets: name the set {entry!r}: NAME={path.strip()}")
  return Named(name, path.strip(), preset)


def parse_sets(text: str) -> list[Named]:
  """Reads `eval.sets`: PATH, NAME=PATH, PRESET=PATH or PRESET:NAME=PATH.

  Commas stand between several.

  Raises:
    ValueError: naming an entry without a path, an unknown preset, or a name
      that two sets have.
  """
  found = [_named(entry) for entry in text.split(",") if entry.strip()]
  names = [named.name for named in found]
  for name in names:
    if names.count(name) > 1 or name == HELD_OUT:
      raise ValueError(
        f"eval.sets: two sets are named {name!r}; name them apart: NAME=PATH"
      )
  return found


def open_questions(named: Named) -> Source:
  """All rows of a set, as the readers open them.

  Raises:
    FileNotFoundError, ValueError: as `open_source`.
  """
  # A preset shows options itself; predictions are found by a TSV's index.
  ids = ("id=index", "") if named.path.lower().endswith(".tsv") else ("",)
  layouts = [
    ",".join(part for part in (own, given) if part)
    for given in named.preset.columns
    for own in (ids if "id=" not in given else ("",))
  ]
  for columns in layouts[:-1]:
    with contextlib.suppress(ValueError):
      return _opened(named, columns)
  return _opened(named, layouts[-1])


def _opened(named: Named, columns: str) -> Source:
  options = named.preset is PLAIN
  return open_source(named.path, columns=columns, show_options=options)


def read_set(
  named: Named, policy: Policy, limit: int, quarantine: Quarantine
) -> QuestionSet:
  """The usable questions of a set, pictures encoded in memory.

  Their order is a fair one whatever the file's, so that the first `limit` are
  a sample of it, and a larger limit only adds to them.

  Args:
    named: which set.
    policy: whose processor must take the prompts.
    limit: most questions; 0 = all.
    quarantine: of rows that cannot be used.

  Raises:
    FileNotFoundError, ValueError: as the reader; and where no row is usable.
  """
  opened = open_questions(named)
  source = Mapped(opened, named.preset.read)
  rows = Shuffled(source)
  found: dict[str, Example] = {}
  bad = 0
  for index in range(len(rows)):
    if limit and len(found) == limit:
      break
    try:
      example = rows[index]
      if example.id in found:
        raise BadRow(example.id, "another row has this id")
      try:
        policy.processor.measure(example)
      except ValueError as error:
        raise BadRow(example.id, str(error)) from error
      if str(example.extra.get("split", "")) in named.preset.leaves_out:
        continue
    except BadRow as row:
      bad += 1
      quarantine.add(row)
      continue
    found[example.id] = example
  if not found:
    raise ValueError(
      f"eval.sets: none of the {len(rows)} rows of {named.path} can be used;"
      f" {quarantine.path} says why"
    )
  return QuestionSet(
    named.name, named.path, named.preset, tuple(found.values()), bad
  )


def with_buckets(
  config: ConfigDict, policy: Policy, examples: Sequence[Example]
) -> ConfigDict:
  """The config with buckets that hold every question of a set.

  Those of training were chosen for other prompts.

  Raises:
    ValueError: for a bad `mi` section.
  """
  measure, mi = policy.processor.measure, make_mi(config)
  sizes = [measure(example) for example in examples]
  lengths, slots = [n for n, _ in sizes], [n for _, n in sizes]
  if mi is not None and mi.view == "other_same_question":
    # The longest question may be shown with the largest picture.
    texts = [measure(example, "removed")[0] for example in examples]
    pictures = [n - t for n, t in zip(lengths, texts, strict=True)]
    lengths.append(max(texts) + max(pictures))
  count, batch = config.data.buckets, config.eval.batch
  rest = sampled_slots(make_program(config, False))
  good = functools.partial(
    buckets.round_patches, window=policy.config.vision.window_patches
  )
  config = config.copy_and_resolve_references()
  config.data.prompt_buckets = buckets.choose(
    lengths, batch, buckets.round_prompt, count, rest
  ).sizes
  config.data.patch_buckets = buckets.choose(slots, batch, good, count).sizes
  return config


def unanswered(examples: Sequence[Example]) -> list[Example]:
  """The questions without their reference answers, which `assess` leaves
  unjudged: an evaluation judges by its own rule of extraction."""
  return [dataclasses.replace(example, answer="") for example in examples]
