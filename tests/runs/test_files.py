import json
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax.runs import files


def _records():
  return [
    {"a": 1, "b": [1.5, None, True], "c": {"d": "é\u2028\x85\n"}},
    {"a": float("nan"), "b": [float("inf"), 2.0], "c": {"d": -float("inf")}},
    {"text": "half \ud83d of a pair", "deep": [{"x": [float("nan")]}]},
  ]


@pytest.mark.parametrize("record", _records())
def test_json_round_trips_and_is_strict(record):
  text = files.to_json(record)
  text.encode("utf-8")

  def refuse(name):
    raise AssertionError(f"{name} is not JSON")

  json.loads(text, parse_constant=refuse)
  assert repr(files.from_json(text)) == repr(record)  # repr: NaN != NaN


def test_json_takes_array_scalars_and_refuses_objects():
  record = {
    "np": np.float32(0.5),
    "jax": jnp.int32(3),
    "half": jnp.bfloat16(0.25),
    "array": np.arange(3),
  }
  assert files.from_json(files.to_json(record)) == {
    "np": 0.5,
    "jax": 3,
    "half": 0.25,
    "array": [0, 1, 2],
  }
  with pytest.raises(TypeError, match=r"record\.a\.b"):
    files.to_json({"a": {"b": object()}})
  with pytest.raises(ValueError, match="reserved"):
    files.to_json({"nonfinite": 1})


def test_every_cut_of_a_file_reads_as_its_whole_lines(tmp_path):
  rows = [{"step": 1, "x": "a\u2028b"}, {"step": 2, "x": "é"}, {"step": 3}]
  whole = "".join(files.to_json(r) + "\n" for r in rows).encode()
  path = tmp_path / "rows.jsonl"
  for size in range(len(whole) + 1):
    path.write_bytes(whole[:size])
    seen = files.read_jsonl(path)
    complete = whole[:size].count(b"\n")
    # A last line may have lost its newline only.
    assert seen in (rows[:complete], rows[: complete + 1])
    assert len(seen) >= complete


def test_damage_before_the_end_is_named(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
  with pytest.raises(ValueError, match="line 2"):
    files.read_jsonl(path)
  path.write_text('{"step": 1}\n[1]\n')
  with pytest.raises(ValueError, match="line 2"):
    files.read_jsonl(path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, call):
  path = files.write_atomic(tmp_path / "deep" / "file", "old")

  def fail(*_):
    raise OSError("no space")

  monkeypatch.setattr(os, call, fail)
  with pytest.raises(OSError, match="no space"):
    files.write_atomic(path, "new")
  assert path.read_text() == "old"


def test_urls_are_refused():
  with pytest.raises(ValueError, match="mount"):
    files.local_path("gs://bucket/run")


def test_infinities_keep_their_sign():
  back = files.from_json(files.to_json({"x": [-math.inf, math.inf]}))
  assert back == {"x": [-math.inf, math.inf]}
