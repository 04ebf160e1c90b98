"""Questions written in every format that is read, for tests.

Each writer takes a folder and questions, and returns the path to open.
"""

import base64
import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as pil


@dataclass(frozen=True)
class Asked:
  """A question as every format can hold it."""

  id: str
  question: str
  answer: str
  pictures: tuple[bytes, ...]


def picture(seed: int, side: int = 6, kind: str = "PNG") -> bytes:
  """An encoded picture of random colours."""
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
  file = io.BytesIO()
  pil.fromarray(pixels).save(file, kind)
  return file.getvalue()


def questions(count: int, seed: int = 0) -> list[Asked]:
  """Random sums, each about a picture of its own."""
  rng = np.random.default_rng(seed)
  out = []
  for i in range(count):
    a, b = (int(x) for x in rng.integers(0, 50, 2))
    shown = (picture(1000 * seed + i, kind=("PNG", "JPEG")[i % 2]),)
    out.append(Asked(f"q{i}", f'What is "{a}" + {b}?', str(a + b), shown))
  return out


def save_pictures(folder: Path, item: Asked) -> list[str]:
  """Writes the pictures of a question; paths from the folder."""
  (folder / "images").mkdir(parents=True, exist_ok=True)
  names = []
  for number, data in enumerate(item.pictures):
    names.append(f"images/{item.id}_{number}.png")
    (folder / names[-1]).write_bytes(data)
  return names


def write_parquet(
  path: Path, rows: Sequence[dict[str, Any]], group_rows: int = 4
) -> Path:
  """Rows as parquet, in small row groups."""
  path.parent.mkdir(parents=True, exist_ok=True)
  table = pa.Table.from_pylist(list(rows))
  pq.write_table(table, path, row_group_size=group_rows)
  return path


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
  """Rows as one JSON object per line."""
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  path.write_text(lines, encoding="utf-8")
  return path


def write_tsv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
  """Rows as pandas writes them with tabs."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(
      file, list(rows[0]), delimiter="\t", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
  return path


def _structs(item: Asked) -> list[dict[str, Any]]:
  return [{"bytes": data, "path": None} for data in item.pictures]


def _text(data: bytes) -> str:
  return base64.b64encode(data).decode()


def _marked(item: Asked) -> str:
  return "<image>" * len(item.pictures) + item.question


def _ours(folder: Path, items: Sequence[Asked]) -> Path:
  rows = [
    {
      "id": item.id,
      "image": save_pictures(folder, item),
      "question": item.question,
      "answer": item.answer,
    }
    for item in items
  ]
  write_jsonl(folder / "data.jsonl", rows)
  return folder


def _geometry3k(folder: Path, items: Sequence[Asked]) -> Path:
  rows = [
    {"images": _structs(x), "problem": _marked(x), "answer": x.answer}
    for x in items
  ]
  return write_parquet(folder / "geometry3k.parquet", rows)


def _verl(folder: Path, items: Sequence[Asked]) -> Path:
  rows = [
    {
      "data_source": "sums",
      "prompt": [{"role": "user", "content": _marked(item)}],
      "images": _structs(item),
      "ability": "math",
      "reward_model": {"style": "rule", "ground_truth": item.answer},
      "extra_info": {
        "split": "train",
        "index": i,
        "answer": f"so it is {item.answer}",
        "question": item.question,
      },
    }
    for i, item in enumerate(items)
  ]
  return write_parquet(folder / "verl.parquet", rows)


def _trl(folder: Path, items: Sequence[Asked]) -> Path:
  rows = [
    {
      "prompt": item.question,
      "images": _structs(item),
      "solution": f"<answer> {item.answer} </answer>",
    }
    for item in items
  ]
  return write_parquet(folder / "trl.parquet", rows)


def _r1v(folder: Path, items: Sequence[Asked]) -> Path:
  rows = [
    {
      "image": _structs(item)[0],
      "problem": item.question,
      "solution": f"<answer> {item.answer} </answer>",
    }
    for item in items
  ]
  return write_parquet(folder / "r1v.parquet", rows)


def _virl39k(folder: Path, items: Sequence[Asked]) -> Path:
  rows = [
    {
      "question": _marked(item),
      "answer": f"\\boxed{{{item.answer}}}",
      "qid": item.id,
      "category": "sums",
      "source": "here",
      "image": save_pictures(folder, item),
      "PassRate_7B": 0.5,
      "PassRate_32B": 0.75,
    }
    for item in items
  ]
  return write_parquet(folder / "virl39k.parquet", rows)


def _llava(folder: Path, items: Sequence[Asked]) -> Path:
  rows = [
    {
      "id": item.id,
      "image": save_pictures(folder, item)[0],
      "conversations": [
        {"from": "human", "value": f"<image>\n{item.question}"},
        {"from": "gpt", "value": item.answer},
      ],
    }
    for item in items
  ]
  path = folder / "llava.json"
  path.write_text(json.dumps(rows), encoding="utf-8")
  return path


def _sharegpt(folder: Path, items: Sequence[Asked]) -> Path:
  rows = [
    {
      "system": "Be brief.",
      "conversation": [{"human": _marked(item), "assistant": item.answer}],
      "images": save_pictures(folder, item),
    }
    for item in items
  ]
  return write_jsonl(folder / "sharegpt.jsonl", rows)


def _swift(folder: Path, items: Sequence[Asked]) -> Path:
  rows = [
    {
      "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": _marked(item)},
      ],
      "images": save_pictures(folder, item),
      "solution": item.answer,
    }
    for item in items
  ]
  return write_jsonl(folder / "swift.jsonl", rows)


def _openai(folder: Path, items: Sequence[Asked]) -> Path:
  rows = []
  for item in items:
    blocks: list[dict[str, Any]] = [
      {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{_text(data)}"},
      }
      for data in item.pictures
    ]
    blocks.append({"type": "text", "text": item.question})
    messages = [
      {"role": "user", "content": blocks},
      {"role": "assistant", "content": item.answer},
    ]
    rows.append({"messages": messages})
  return write_jsonl(folder / "openai.jsonl", rows)


def _anthropic(folder: Path, items: Sequence[Asked]) -> Path:
  rows = []
  for item in items:
    blocks: list[dict[str, Any]] = [
      {
        "type": "image",
        "source": {
          "type": "base64",
          "media_type": "image/png",
          "data": _text(data),
        },
      }
      for data in item.pictures
    ]
    blocks.append({"type": "text", "text": item.question})
    messages = [{"role": "user", "content": blocks}]
    rows.append({"messages": messages, "label": item.answer})
  return write_jsonl(folder / "anthropic.jsonl", rows)


def _openrlhf(folder: Path, items: Sequence[Asked]) -> Path:
  rows = []
  for item in items:
    blocks: list[dict[str, Any]] = [{"type": "image"} for _ in item.pictures]
    blocks.append({"type": "text", "text": item.question})
    rows.append(
      {
        "prompt": [{"role": "user", "content": blocks}],
        "images": save_pictures(folder, item),
        "label": item.answer,
        "datasource": "sums",
      }
    )
  return write_jsonl(folder / "openrlhf.jsonl", rows)


def _vlmevalkit(folder: Path, items: Sequence[Asked]) -> Path:
  """Pictures that come again are given by the index of their first row."""
  first: dict[tuple[bytes, ...], int] = {}
  rows = []
  for i, item in enumerate(items):
    holder = first.setdefault(item.pictures, i)
    texts = [_text(data) for data in item.pictures]
    value = texts[0] if len(texts) == 1 else str(texts)
    rows.append(
      {
        "index": i,
        "image": value if holder == i else str(holder),
        "question": item.question,
        "answer": item.answer,
        "category": "sums",
      }
    )
  return write_tsv(folder / "vlmevalkit.tsv", rows)


WRITERS: dict[str, Callable[[Path, Sequence[Asked]], Path]] = {
  "our jsonl": _ours,
  "Geometry3K": _geometry3k,
  "verl": _verl,
  "TRL": _trl,
  "R1-V": _r1v,
  "ViRL39K": _virl39k,
  "LLaVA": _llava,
  "ShareGPT": _sharegpt,
  "ms-swift": _swift,
  "OpenAI": _openai,
  "Anthropic": _anthropic,
  "OpenRLHF": _openrlhf,
  "VLMEvalKit": _vlmevalkit,
}
# These show one picture for a question.
SINGLE = ("R1-V", "LLaVA")
