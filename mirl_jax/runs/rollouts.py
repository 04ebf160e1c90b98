"""Rollout dumps: rollouts/STEP.jsonl, one line per node of the tree."""

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from mirl_jax.data.example import Image
from mirl_jax.runs.files import PathLike, local_path, read_jsonl, to_json
from mirl_jax.runs.files import write_atomic as _write

FOLDER = "rollouts"
PROMPT = "prompt"


@dataclass(frozen=True)
class Node:
  """One node of a rollout tree.

  Attributes:
    question_id: the example's id.
    stage: the stage's name, or "prompt" for the question itself.
    node: index among the question's nodes of this stage.
    parent: index of the parent in the stage before, -1 under the prompt.
    text: as sampled; of a prompt, the question.
    tokens: real tokens of this node.
    scores: by name, e.g. mi and likelihood; nats.
    rewards: reward terms by name; a term that abstained is absent.
    advantage: None where none was computed.
    kept: None where the stage had no selection.
    truncated: whether it ended without its stop.
    extra: JSON-able; the report knows `verdict` (is the answer right) and
      `exact` (is the description exact).
    answer: of a prompt, the reference answer.
    images: of a prompt, picture files relative to the work directory.
  """

  question_id: str
  stage: str
  node: int
  parent: int
  text: str
  tokens: int = 0
  scores: Mapping[str, float | int] = field(default_factory=dict)
  rewards: Mapping[str, float | int] = field(default_factory=dict)
  advantage: float | int | None = None
  kept: bool | None = None
  truncated: bool = False
  extra: Mapping[str, Any] = field(default_factory=dict)
  answer: str = ""
  images: tuple[str, ...] = ()


def prompt_node(
  question_id: str, question: str, answer: str, tokens: int = 0
) -> Node:
  """The line of a question itself."""
  return Node(question_id, PROMPT, 0, -1, question, tokens, answer=answer)


def _safe_name(question_id: str) -> str:
  """A file name for any id; ids that differ get names that differ."""
  if re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,79}", question_id):
    return question_id
  # Upper case counts as unsafe: some file systems would merge "A" and "a".
  stem = re.sub(r"[^a-z0-9_-]+", "-", question_id.lower()).strip("-")[:48]
  digest = hashlib.sha256(question_id.encode("utf-8", "surrogatepass"))
  return f"{stem or 'id'}~{digest.hexdigest()[:16]}"


def _png(image: Image, name: str) -> bytes:
  if isinstance(image, bytes) and image.startswith(b"\x89PNG\r\n\x1a\n"):
    return image
  try:
    if isinstance(image, bytes):
      picture = PILImage.open(io.BytesIO(image)).convert("RGB")
    else:
      picture = PILImage.fromarray(np.asarray(image))
  except Exception as error:
    raise ValueError(f"the picture of question {name!r}: {error}") from error
  buffer = io.BytesIO()
  picture.save(buffer, "PNG")
  return buffer.getvalue()


def _save_images(
  workdir: Path, question_id: str, images: Sequence[Image]
) -> tuple[str, ...]:
  paths = []
  for index, image in enumerate(images):
    suffix = f"+{index}" if index else ""
    path = f"{FOLDER}/images/{_safe_name(question_id)}{suffix}.png"
    if not (workdir / path).exists():
      _write(workdir / path, _png(image, question_id))
    paths.append(path)
  return tuple(paths)


def _line(node: Node) -> str:
  record = asdict(node)
  if node.stage != PROMPT:
    del record["answer"], record["images"]
  return to_json(record) + "\n"


def write_rollouts(
  workdir: PathLike,
  step: int,
  nodes: Sequence[Node],
  images: Mapping[str, Sequence[Image]] | None = None,
  primary: bool = True,
) -> Path | None:
  """Dumps the nodes of one step, replacing an earlier dump of that step.

  Args:
    workdir: the run's directory.
    step: names the file.
    nodes: in any order; a question's prompt is a node too.
    images: by question id, encoded or decoded. Each is saved as
      rollouts/images/ID.png when it is seen first, and its prompt's `images`
      name it.
    primary: any other process writes nothing.

  Returns:
    The file, None where not primary.

  Raises:
    ValueError: naming a question whose picture cannot be decoded.
  """
  if not primary:
    return None
  folder = local_path(workdir)
  images = images or {}
  lines = []
  for node in nodes:
    if node.stage == PROMPT and node.question_id in images:
      pictures = images[node.question_id]
      saved = _save_images(folder, node.question_id, pictures)
      node = Node(**{**vars(node), "images": saved})
    lines.append(_line(node))
  return _write(folder / FOLDER / f"{step}.jsonl", "".join(lines))


def rollout_steps(workdir: PathLike) -> list[int]:
  """The steps that were dumped, in order."""
  files = (local_path(workdir) / FOLDER).glob("*.jsonl")
  return sorted(int(f.stem) for f in files if f.stem.isdecimal())


def read_rollouts(workdir: PathLike, step: int) -> list[Node]:
  """The nodes of one dump, as they were written.

  Raises:
    FileNotFoundError: naming the steps that were dumped.
    ValueError: naming a damaged line.
  """
  path = local_path(workdir) / FOLDER / f"{step}.jsonl"
  if not path.exists():
    steps = rollout_steps(workdir)
    raise FileNotFoundError(f"{path}: no such dump; steps dumped: {steps}")
  known = {f.name for f in fields(Node)}
  nodes = []
  for number, record in enumerate(read_jsonl(path), 1):
    record["images"] = tuple(record.get("images", ()))
    try:
      nodes.append(Node(**{k: v for k, v in record.items() if k in known}))
    except TypeError as error:
      raise ValueError(f"{path}, line {number}: {error}") from error
  return nodes


def cut_rollouts(workdir: PathLike, resume_step: int | None) -> None:
  """Removes dumps after `resume_step`; all of them and the pictures if None."""
  folder = local_path(workdir) / FOLDER
  for step in rollout_steps(workdir):
    if resume_step is None or step > resume_step:
      (folder / f"{step}.jsonl").unlink()
  if resume_step is None:
    for picture in (folder / "images").glob("*.png"):
      picture.unlink()
