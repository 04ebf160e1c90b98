import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from mirl_jax.runs.rollouts import (
  Node,
  prompt_node,
  read_rollouts,
  rollout_steps,
  write_rollouts,
)


def _picture(seed, size=(6, 5)):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (*size, 3)).astype(np.uint8)


def _encoded(array, kind):
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, kind)
  return buffer.getvalue()


def _nodes():
  return [
    prompt_node("q/1", "how many?\u2028really", "3", tokens=12),
    Node(
      "q/1",
      "description",
      0,
      -1,
      "<description>é \ud83d</description>",
      9,
      {"mi": 0.5, "likelihood": -math.inf},
      {"mi": 0.5},
      advantage=-1.25,
      kept=True,
      extra={"exact": False},
    ),
    Node("q/1", "reasoning", 0, 0, "<answer>3", 40, truncated=True),
  ]


def test_nodes_round_trip(tmp_path):
  write_rollouts(tmp_path, 7, _nodes())
  assert read_rollouts(tmp_path, 7) == _nodes()
  lines = (tmp_path / "rollouts/7.jsonl").read_text().rstrip("\n").split("\n")
  records = [json.loads(line) for line in lines]
  assert records[0]["answer"] == "3"
  assert records[0]["stage"] == "prompt"
  assert "answer" not in records[1]
  assert records[1]["scores"] == {"mi": 0.5, "likelihood": None}


def test_a_later_dump_replaces_and_steps_are_listed_in_order(tmp_path):
  for step in (10, 9, 100, 9):
    write_rollouts(tmp_path, step, _nodes()[: step % 4])
  assert rollout_steps(tmp_path) == [9, 10, 100]
  assert len(read_rollouts(tmp_path, 9)) == 1
  with pytest.raises(FileNotFoundError, match=r"\[9, 10, 100\]"):
    read_rollouts(tmp_path, 8)


@pytest.mark.parametrize("kind", ["array", "PNG", "BMP"])
def test_pictures_are_saved_once_without_loss(tmp_path, kind):
  array = _picture(0)
  image = array if kind == "array" else _encoded(array, kind)
  for step in (0, 1):
    write_rollouts(tmp_path, step, _nodes(), {"q/1": [image, _picture(1)]})
    # A second dump must not write the picture again.
    image = b"never decoded" if step == 0 else image
  for step in (0, 1):
    prompt = read_rollouts(tmp_path, step)[0]
    first, second = (np.array(Image.open(tmp_path / p)) for p in prompt.images)
    np.testing.assert_array_equal(first, array)
    np.testing.assert_array_equal(second, _picture(1))


def test_hostile_ids_stay_in_their_folder_and_apart(tmp_path):
  ids = [
    "../../evil", "..", "", "a/b", "a-b", "A-b", "a b", "/etc/passwd",
    "x" * 300, "é", "a\0b", "\ud83d", "con.png", "a" * 79 + "bc",
  ]  # fmt: skip
  nodes = [prompt_node(i, "?", "!") for i in ids]
  images = {i: [_picture(n)] for n, i in enumerate(ids)}
  write_rollouts(tmp_path, 0, nodes, images)
  folder = (tmp_path / "rollouts/images").resolve()
  paths = [tmp_path / n.images[0] for n in read_rollouts(tmp_path, 0)]
  assert len({p.name.lower() for p in paths}) == len(ids)
  assert all(p.resolve().parent == folder for p in paths)
  for number, path in enumerate(paths):
    np.testing.assert_array_equal(np.array(Image.open(path)), _picture(number))


def test_a_broken_picture_names_its_question(tmp_path):
  with pytest.raises(ValueError, match="'q/1'"):
    write_rollouts(tmp_path, 0, _nodes(), {"q/1": [b"no picture"]})
  assert rollout_steps(tmp_path) == []


def test_secondary_processes_write_nothing(tmp_path):
  assert write_rollouts(tmp_path, 0, _nodes(), primary=False) is None
  assert list(tmp_path.iterdir()) == []
