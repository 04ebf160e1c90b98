"""Bad rows and bad scores cost themselves, not the run."""

import io
import json
import math
import os
import random
import struct
import zlib

from PIL import Image

from mirl_jax import main
from mirl_jax import testing_runs as runs
from mirl_jax.config import get_config
from mirl_jax.runs.metrics import read_metrics
from mirl_jax.worlds.dials import BROKEN
from mirl_jax.worlds.source import WorldSource

# The world's own sizes: the rollouts are those of other tests.
SIZES = (
  "--config.data.prompt_buckets=(48,)",
  "--config.data.patch_buckets=(36,)",
)

# A fault on every hundredth call, of each kind in turn; the log has a byte per
# call.
REWARD = """
import fcntl, os, time

def score(example, text, siblings):
  assert len(siblings) in (1, 3)
  print("noise")
  with open({log!r}, "ab") as log:
    fcntl.flock(log, fcntl.LOCK_EX)
    log.write(b".")
    log.flush()
    hundreds, rest = divmod(log.tell(), 100)
  if rest:
    return {{"short": -len(text) / 100, "tags": text.count("<")}}
  if hundreds % 3 == 0:
    time.sleep(1000)
  if hundreds % 3 == 1:
    os._exit(1)
  return float("nan")
"""
CONFIG = """
from mirl_jax.config import get_config as method_config

PAID = {{"weight": 0.1, "baseline": "question", "std": True}}

def get_config():
  c = method_config("mirl")
  with c.unlocked():
    c.reward.file = {file!r}
    c.credit.describe["own/short"] = PAID
    c.credit.describe["children_own/tags"] = PAID
    c.credit.reason["own/tags"] = PAID
  return c
"""


def png(size=(48, 48), mode="RGB", **options):
  out = io.BytesIO()
  Image.new(mode, size).save(out, **{"format": "PNG", **options})
  return out.getvalue()


def of_size(width, height):
  """A small file whose header tells of so many pixels."""
  header = b"IHDR" + struct.pack(">II", width, height) + b"\x08\x02\0\0\0"
  data = png()
  checksum = struct.pack(">I", zlib.crc32(header))
  return data[:12] + header + checksum + data[12 + len(header) + 4 :]


def picture_fault(content):
  def spoil(folder, row):
    (folder / row["image"]).write_bytes(content)

  return spoil


def changed(**columns):
  return lambda folder, row: row.update(columns)


def lost(folder, row):
  (folder / row["image"]).unlink()


def escaping(folder, row):
  (folder.parent / "outside.png").write_bytes(png())
  row["image"] = "../outside.png"


def unreadable(folder, row):
  (folder / row["image"]).unlink()
  (folder / row["image"]).mkdir()


def endless(folder, row):
  """A pipe that nobody writes to: who reads it waits for ever."""
  (folder / row["image"]).unlink()
  os.mkfifo(folder / row["image"])


# Fault -> how a row comes by it, and a word of the reason.
FAULTS = {
  "unreadable": (unreadable, "cannot be read"),
  "endless": (endless, "cannot be read"),
  "truncated": (picture_fault(png(size=(480, 480))[:-300]), "truncated"),
  "no-bytes": (picture_fault(b""), "empty"),
  "no-width": (picture_fault(of_size(0, 48)), "pic"),
  "gigapixel": (picture_fault(of_size(60_000, 60_000)), "pixels"),
  "no-picture": (picture_fault(b"import os" * 99), "pic"),
  "missing": (lost, "missing"),
  "escaping": (escaping, "leaves the data folder"),
  "overlong": (changed(question="Is it red? " * 50), "prompt tokens"),
  "no-question": (changed(question=" "), "empty question"),
  "no-answer": (lambda folder, row: row.pop("answer"), "answer"),
}
# Modes that are not RGB, and formats that hold them: none of these is bad.
MODES = {
  "grey": {"mode": "L"},
  "grey-alpha": {"mode": "LA"},
  "palette": {"mode": "P"},
  "alpha": {"mode": "RGBA"},
  "deep": {"mode": "I;16"},
  "bits": {"mode": "1"},
  "print": {"mode": "CMYK", "format": "JPEG"},
}


def write(folder, prefix, count, spoils, seed):
  """A folder of the world's questions of which some rows are spoiled.

  Args:
    folder: made.
    prefix: of the ids.
    count: of rows.
    spoils: what is done to a row, by what its id ends with.
    seed: of the questions and of the order.
  """
  (folder / "images").mkdir(parents=True)
  source = WorldSource(seed, BROKEN, "train", count)
  rows, names = [], [*spoils, *range(count - len(spoils))]
  for number, name in enumerate(names):
    example = source[number]
    row = {
      "id": f"{prefix}-{name}",
      "image": f"images/{number}.png",
      "question": example.question,
      "answer": example.answer,
      "answer_type": example.answer_type,
      "options": list(example.options),
    }
    Image.fromarray(example.images[0]).save(folder / row["image"])
    if name in spoils:
      spoils[name](folder, row)
    rows.append(row)
  random.Random(seed).shuffle(rows)
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "data.jsonl").write_text(lines)


def quarantined(workdir):
  lines = (workdir / "quarantine.jsonl").read_text().splitlines()
  entries = [json.loads(line) for line in lines]
  return {entry["row"]: entry["reason"] for entry in entries}


def test_a_run_on_poisoned_data_with_a_faulty_reward_ends_well(tmp_path):
  bad = {name: spoil for name, (spoil, _) in FAULTS.items()}
  odd = {name: picture_fault(png(**mode)) for name, mode in MODES.items()}
  write(tmp_path / "train", "train", 110, bad | odd, seed=0)
  write(tmp_path / "test", "test", 16, dict(list(bad.items())[:2]), seed=1)
  log = tmp_path / "log"
  (tmp_path / "reward.py").write_text(REWARD.format(log=str(log)))
  config = tmp_path / "config.py"
  config.write_text(CONFIG.format(file=str(tmp_path / "reward.py")))
  workdir = tmp_path / "run"
  process = runs.spawn(
    workdir,
    f"--config={config}",
    *runs.SMALL,
    *SIZES,
    f"--config.data.train={tmp_path / 'train'}",
    f"--config.data.test={tmp_path / 'test'}",
    "--config.train.steps=26",  # more questions than there are good rows
    "--config.train.dump_every=0",
    "--config.train.save_every=0",
    "--config.eval.every=0",
    "--config.reward.deadline_s=3.0",
  )
  out, err = process.communicate(timeout=900)
  assert process.returncode == 0, err
  assert "Traceback" not in err
  assert "noise" not in out

  reasons = quarantined(workdir)
  for name, (_, word) in FAULTS.items():
    assert word in reasons[f"train-{name}"], name
  expected = {f"train-{name}" for name in FAULTS}
  expected |= {f"test-{name}" for name in list(FAULTS)[:2]}
  assert reasons.keys() == expected

  rows = read_metrics(workdir)
  assert [row["step"] for row in rows] == list(range(27))
  for row in rows:
    for name, value in row.items():
      assert math.isfinite(value), (row["step"], name)
  assert rows[-1]["skipped/bad_rows"] >= len(FAULTS)
  assert rows[-1]["skipped/nonfinite"] == 0
  calls = 26 * 4 * (4 + 2)
  assert log.stat().st_size == calls
  assert sum(row.get("reward/own_failed", 0) for row in rows) == calls // 100
  assert "scores of the reward file failed, the first: worker died" in err
  assert all(row["heard/own/tags/reason"] > 0 for row in rows[1:])


def test_too_many_bad_rows_stop_a_run_with_a_message(tmp_path, capsys):
  names = list(FAULTS)
  spoils = {
    f"{number}-{names[number % len(names)]}": FAULTS[
      names[number % len(names)]
    ][0]
    for number in range(60)
  }
  write(tmp_path / "data", "row", 100, spoils, seed=2)
  workdir = tmp_path / "run"
  code = main.run(
    [
      *runs.SMALL,
      *runs.UNMEASURED,
      *SIZES,
      f"--workdir={workdir}",
      f"--config.data.train={tmp_path / 'data'}",
      f"--config.data.test={tmp_path / 'data'}",
      "--config.train.questions=16",
    ]
  )
  assert code == main.BAD_ROWS == 4
  err = capsys.readouterr().err
  assert "rows drawn are bad, more than the allowed share of 0.2" in err
  assert str(workdir / "quarantine.jsonl") in err
  assert len(quarantined(workdir)) > get_config().data.max_bad_share * 100


def test_a_reward_file_that_cannot_run_is_one_clear_line(tmp_path, capsys):
  file, config = tmp_path / "reward.py", tmp_path / "config.py"
  config.write_text(CONFIG.format(file=str(file)))
  workdir = tmp_path / "run"
  for code, said in (
    ("def score(:", "SyntaxError: "),
    ("def scores(e, t, s): return 1", "it defines neither"),
  ):
    file.write_text(code)
    argv = [f"--config={config}", *runs.SMALL, f"--workdir={workdir}"]
    assert main.run(argv) == main.BAD_ARGUMENT
    err = capsys.readouterr().err
    assert err.startswith(f"error: reward.file={file}: ")
    assert said in err
    assert err.count("\n") == 1
    assert not (workdir / "config.json").exists()
