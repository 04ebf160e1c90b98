"""How public benchmarks are asked, read and judged here, one entry each.

A preset takes a row as the readers open it, from the TSV of VLMEvalKit or from
the benchmark's own files, and makes it a question: its options, the type of its
answer, its category. All wording that a preset adds is ours; it says what an
answer is, not where it stands, so a policy keeps the format it was trained to,
and the answer is found by `extract`. No preset asks a model to extract or to
judge: figures are of rules alone, and lower than those of a lenient judge.
"""

import ast
import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mirl_jax.data.example import Example
from mirl_jax.data.rows import with_options
from mirl_jax.rewards.numbers import read_number
from mirl_jax.rewards.verify import (
  LETTERS,
  Verdict,
  read_letters,
  verify_all,
)

# Of a batch: what was extracted (None where nothing was) with its question.
Pairs = Sequence[tuple[str | None, Example]]
Judge = Callable[[Pairs], list[Verdict]]

JOINT = "joint"  # in Example.extra: labels of figures over several questions

LETTER = "Answer with the letter of one option."
YES_NO = "Answer yes or no."
SHORT = "Answer with a number or a few words, as short as possible."
HINTS = {
  "integer": "Answer with an integer.",
  "float": "Answer with a decimal number.",
  "list": "Answer with a list such as [1, 2, 3].",
}
RELAXED = Fraction(5, 100)

# An option that stands in the question's text: "A: 2", "(B) 3", "C. 4".
_OPTION_LINE = re.compile(r"^\s*\(?([A-Z])[).:]\s*(\S.*?)\s*$", re.MULTILINE)


def _column(example: Example, *names: str) -> str:
  """The first of some further columns that holds something, as text."""
  for name in names:
    value = example.extra.get(name)
    if value is not None and str(value).strip().lower() not in ("", "nan"):
      return str(value).strip()
  return ""


def _listed(text: str) -> list[str]:
  """The texts of a list that is written as text; none where it is no list."""
  try:
    value = ast.literal_eval(text)
  # MemoryError, RecursionError: thousands of nested brackets.
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return []
  return [str(x) for x in value] if isinstance(value, list | tuple) else []


def _options(example: Example) -> tuple[str, ...]:
  """Choices of a row: the reader's, a `choices` column's, or those that the
  question lists from A on."""
  if example.options:
    return example.options
  choices = example.extra.get("choices", example.extra.get("options"))
  if isinstance(choices, list | tuple):
    return tuple(map(str, choices))
  if found := _listed(str(choices)):
    return tuple(found)
  lines = _OPTION_LINE.findall(example.question)
  if len(lines) > 1 and [x for x, _ in lines] == list(LETTERS[: len(lines)]):
    return tuple(text for _, text in lines)
  return ()


def _shown(question: str, options: tuple[str, ...]) -> str:
  """The question with its options, unless it holds them all."""
  if all(option in question for option in options):
    return question
  return with_options(question, options)


def _asked(example: Example, instruction: str, **changes: Any) -> Example:
  """The example with changes and an instruction after its question; one that
  begins with a hint of what an answer is stays as it is."""
  example = dataclasses.replace(example, **changes)
  question = _shown(example.question, example.options)
  if not question.lower().startswith("hint:"):
    question = f"{question}\n{instruction}"
  return dataclasses.replace(example, question=question)


def _choice(example: Example, answer: str, category: str) -> Example:
  options = _options(example)
  letters = read_letters(answer)
  is_letter = letters is not None and (
    not options or max(letters) < len(options)
  )
  return _asked(
    example,
    LETTER,
    options=options,
    answer=answer,
    answer_type="choice_letter" if is_letter else "choice_text",
    category=category,
  )


def plain(example: Example) -> Example:
  """The row as it stands."""
  return example


def mathvista(example: Example) -> Example:
  category = _column(example, "task") or example.category
  kind = _column(example, "answer_type") or example.answer_type
  if _column(example, "question_type") == "multi_choice" or _options(example):
    answer = _column(example, "answer_option") or example.answer
    return _choice(example, answer, category)
  types = {
    "integer": "number",
    "float": "number",
    "list": "list",
  }
  return _asked(
    example,
    HINTS.get(kind, SHORT),
    answer_type=types.get(kind, "text"),
    category=category,
  )


def _metadata(example: Example) -> dict[str, Any]:
  found = example.extra.get("metadata")
  if isinstance(found, dict):
    return found
  try:
    found = json.loads(str(found).replace("'", '"'))
  except (ValueError, RecursionError):
    return {}
  return found if isinstance(found, dict) else {}


def mathverse(example: Example) -> Example:
  inner = _metadata(example)
  version = _column(example, "problem_version") or str(
    inner.get("problem_version", example.category)
  )
  problem = _column(example, "problem_index")
  example = dataclasses.replace(example, group=problem or example.group)
  if _column(example, "question_type").startswith("multi"):
    return _choice(example, example.answer, version)
  kind = "math"
  return _asked(example, SHORT, answer_type=kind, category=version)


def mathvision(example: Example) -> Example:
  if _options(example):
    return _choice(example, example.answer, example.category)
  kind = "math"
  return _asked(example, SHORT, answer_type=kind)


def mmmu(example: Example) -> Example:
  subject = example.category or _column(example, "subfield")
  if _column(example, "question_type") != "open" and _options(example):
    return _choice(example, example.answer, subject)
  return _asked(example, SHORT, answer_type="free_form", category=subject)


def chartqa(example: Example) -> Example:
  answers = _listed(example.answer)
  if len(answers) == 1:
    example = dataclasses.replace(example, answer=answers[0])
  number = read_number(example.answer) is not None
  return _asked(
    example,
    SHORT,
    answer_type="number" if number else "text",
    category=example.category or _column(example, "split", "type"),
  )


def hallusionbench(example: Example) -> Example:
  parts = example.id.split("_")
  kind = _column(example, "l2-category", "subcategory") or example.category
  marks = [
    _column(example, column) or (parts[at] if len(parts) > at else "")
    for column, at in (("set_id", 3), ("figure_id", 4), ("question_id", 5))
  ]
  if not all(marks):
    raise ValueError(
      "neither columns set_id, figure_id and question_id nor an index that"
      " ends in these three"
    )
  owner, figure, question = marks
  answer = {"0": "no", "1": "yes"}.get(example.answer, example.answer)
  joint = {
    "figures": f"{kind}_{owner}_{figure}",
    "questions": f"{kind}_{owner}_{question}",
  }
  return _asked(
    example,
    YES_NO,
    answer=answer,
    answer_type="yes_no",
    group=f"{kind}_{owner}",
    extra={**example.extra, JOINT: joint},
  )


def relaxed(pairs: Pairs) -> list[Verdict]:
  """Right within 5 % of a number, else as `verify` says (Masry et al., arXiv
  2203.10244, section 5.1).

  A unit that stands on one side only is left out of account; there, "28 %" is
  .28 and differs from "28".
  """
  return [
    Verdict(True, "within 5 %")
    if not verdict.correct and _near(prediction, example)
    else verdict
    for verdict, (prediction, example) in zip(
      verify_all(pairs), pairs, strict=True
    )
  ]


def _near(prediction: str | None, example: Example) -> bool:
  expected = read_number(example.answer)
  given = None if prediction is None else read_number(prediction)
  if given is None or expected is None:
    return False
  if given.unit and expected.unit and given.unit != expected.unit:
    return False
  return abs(given.value - expected.value) <= RELAXED * abs(expected.value)


def any_of(pairs: Pairs) -> list[Verdict]:
  """Right if any answer of a list of them is given, else as `verify` says."""
  every = [
    (prediction, dataclasses.replace(example, answer=answer))
    for prediction, example in pairs
    for answer in _listed(example.answer) or [example.answer]
  ]
  verdicts = iter(verify_all(every))
  found = []
  for _, example in pairs:
    own = [next(verdicts) for _ in _listed(example.answer) or [""]]
    found.append(next((v for v in own if v.correct), own[0]))
  return found


@dataclass(frozen=True)
class Preset:
  """How a benchmark is asked, read and judged.

  Attributes:
    name: of the benchmark; empty for questions as they stand.
    source: where it is described, and which files are read.
    read: the row as a question; a ValueError makes it a bad row.
    note: what its figures mean and how they differ from the official ones.
    extract: where the final answer stands, see `extract_answer`.
    judge: of an extracted answer.
    columns: as `open_source` takes them, the first that fit: which column is
      what, where the names alone may be read in two ways.
    leaves_out: values of the column `split` that are not scored.
  """

  name: str
  source: str
  read: Callable[[Example], Example]
  note: str
  extract: str = "auto"
  judge: Judge = verify_all
  columns: tuple[str, ...] = ("",)
  leaves_out: tuple[str, ...] = ()


# The format that the policy is trained to and the verdicts of training.
PLAIN = Preset("", "", plain, "", extract="tags")

PRESETS = {
  preset.name: preset
  for preset in (
    Preset(
      "mathvista",
      "arXiv 2310.02255; MathVista_MINI.tsv, or testmini of AI4Math/MathVista",
      mathvista,
      "Accuracy, by `task`. Choices by letter or text, integers and decimals by"
      " value, lists by their members, texts as written. Officially a model"
      " extracts.",
      # The type is of another list of names; the hub's pictures are decoded.
      columns=(
        "question=question,answer=answer,images=decoded_image,answer_type=",
        "question=question,answer=answer,answer_type=",
      ),
    ),
    Preset(
      "mathverse",
      "arXiv 2403.14624; MathVerse_MINI*.tsv, or testmini of AI4Math/MathVerse",
      mathverse,
      "Accuracy, by `problem_version`; the versions of a problem are one group"
      " of the standard errors. The official judge is a model.",
      columns=("question=question,answer=answer",),
    ),
    Preset(
      "mathvision",
      "arXiv 2402.14804; MathVision.tsv and MathVision_MINI.tsv, or"
      " MathLLMs/MathVision",
      mathvision,
      "Accuracy, by subject (`category`). Choices by letter, the rest as"
      " mathematical expressions.",
      columns=(
        "question=question,answer=answer,images=decoded_image",
        "question=question,answer=answer",
      ),
    ),
    Preset(
      "mmmu",
      "arXiv 2311.16502; MMMU_DEV_VAL.tsv, or MMMU/MMMU",
      mmmu,
      "Accuracy of all questions of the validation split, by subject"
      " (`category`). <image 1> in a text names the first picture; pictures"
      " stand before the text. An open question may list several answers, each"
      " right. No answer is drawn by lot where none is found, as officially.",
      judge=any_of,
      columns=("question=question,answer=answer",),
      leaves_out=("dev",),
    ),
    Preset(
      "chartqa",
      "arXiv 2203.10244; ChartQA_TEST.tsv, lmms-lab/ChartQA, and sets like it",
      chartqa,
      "Relaxed accuracy: numbers, years too, within 5 %, texts as written; by"
      " human and augmented questions.",
      judge=relaxed,
    ),
    Preset(
      "hallusionbench",
      "arXiv 2310.14566; HallusionBench.tsv",
      hallusionbench,
      "aAcc is `accuracy`. fAcc, `all_of_figures`, and qAcc,"
      " `all_of_questions`, are shares of figures and of questions of which all"
      " answers are right.",
      # Its question_id is no id of a row.
      columns=("question=question,answer=answer,id=index", "id="),
    ),
  )
}
