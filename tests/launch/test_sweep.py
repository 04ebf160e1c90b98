import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from launch import sweep

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "configs" / "sweeps").glob("*.py"))

CONFIG = """
from mirl_jax.config import get_config as method_config

def get_config(arg="grpo"):
  return method_config(arg)
"""
HYPER = """
def get_hyper(hyper):
  return hyper.sweep("seed", (0, 1, 2))
"""


def write(folder: Path, *parts: str) -> str:
  path = folder / "config.py"
  path.write_text("".join(textwrap.dedent(part) for part in parts))
  return str(path)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.stem)
def test_shipped_sweeps_load(file):
  assert len(sweep.load_points(str(file), [])) > 1


@pytest.mark.parametrize(
  ("parts", "overrides", "message"),
  [
    ((CONFIG,), [], "no get_hyper"),
    ((CONFIG, HYPER.replace("seed", "sead")), [], "config.sead.*config.seed"),
    ((CONFIG, HYPER.replace("(0,", "('a',")), [], "seed"),
    ((CONFIG, HYPER.replace("1, 2", "1, 1")), [], "seed=1 stands twice"),
    ((CONFIG, HYPER), ["--config.seed=3"], "config.seed is set by the sweep"),
    ((CONFIG, HYPER), ["--config.trian.steps=3"], "config.train.steps"),
  ],
)
def test_a_bad_sweep_is_answered_before_any_run(
  tmp_path, capsys, parts, overrides, message
):
  config = write(tmp_path, *parts)
  with pytest.raises(ValueError, match=message):
    sweep.load_points(config, overrides)
  flags = [f"--config={config}", f"--workdir={tmp_path / 'out'}", *overrides]
  assert sweep.run(flags) == 2
  assert capsys.readouterr().err.startswith("error: ")
  assert not (tmp_path / "out").exists()


def test_words_and_missing_flags_are_refused(tmp_path, capsys):
  config = write(tmp_path, CONFIG, HYPER)
  assert sweep.run([f"--config={config}"]) == 2
  assert sweep.run([f"--config={config}", "--workdir=x", "more"]) == 2
  assert "unexpected argument 'more'" in capsys.readouterr().err


def test_list_names_the_points(tmp_path, capsys):
  config = write(tmp_path, CONFIG, HYPER)
  assert sweep.run([f"--config={config}", "--workdir=x", "--list"]) == 0
  assert capsys.readouterr().out.split() == ["seed=0", "seed=1", "seed=2"]


def test_points_run_in_order_and_only_once(tmp_path, monkeypatch, capsys):
  config, out = write(tmp_path, CONFIG, HYPER), tmp_path / "out"
  codes = {"seed=0": 0, "seed=1": 3, "seed=2": 0}
  runs = []

  def run_one(argv):
    found = dict(word[2:].split("=", 1) for word in argv[3:])
    assert argv[1:3] == ["-m", "mirl_jax.main"]
    assert found["config"] == f"{config}:mirl"
    assert found["config.train.steps"] == "5"
    folder = Path(found["workdir"])
    assert folder.name == f"seed={found['config.seed']}"
    runs.append(folder.name)
    if codes[folder.name] == 0:
      folder.mkdir(parents=True)
      (folder / "summary.json").write_text("{}")
    return codes[folder.name]

  monkeypatch.setattr(sweep, "run_one", run_one)
  flags = [f"--config={config}:mirl", f"--workdir={out}"]
  flags.append("--config.train.steps=5")
  # A failure does not keep the others from running, and is the exit code.
  assert sweep.run(flags) == 3
  assert runs == ["seed=0", "seed=1", "seed=2"]
  assert "exit code 3: seed=1" in capsys.readouterr().err
  # Only what has no summary runs again.
  codes["seed=1"] = 0
  assert sweep.run(flags) == 0
  assert runs[3:] == ["seed=1"]


def test_a_stopped_point_ends_the_sweep(tmp_path, monkeypatch):
  config = write(tmp_path, CONFIG, HYPER)
  runs = []
  monkeypatch.setattr(sweep, "run_one", lambda argv: runs.append(argv) or 143)
  assert sweep.run([f"--config={config}", f"--workdir={tmp_path}"]) == 143
  assert len(runs) == 1


def test_run_one_gives_the_exit_code():
  for code in (0, 4):
    argv = [sys.executable, "-c", f"import sys; sys.exit({code})"]
    assert sweep.run_one(argv) == code
  killed = "import os; os.kill(os.getpid(), 9)"
  assert sweep.run_one([sys.executable, "-c", killed]) == 128 + 9


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signals_reach_the_run_once(tmp_path, number):
  child = textwrap.dedent(
    """
    import signal, sys, time
    seen = []
    for n in (signal.SIGTERM, signal.SIGINT):
      signal.signal(n, lambda n, _: seen.append(n))
    open(sys.argv[1], "w").close()
    while not seen:
      time.sleep(0.01)
    time.sleep(0.2)
    sys.exit(100 + len(seen))
    """
  )
  ready = tmp_path / "ready"
  argv = [sys.executable, "-c", child, str(ready)]
  parent = subprocess.Popen(
    [
      sys.executable,
      "-c",
      f"from launch import sweep; exit(sweep.run_one({argv!r}))",
    ],
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    start_new_session=True,
  )
  deadline = time.monotonic() + 60
  while not ready.exists():
    assert time.monotonic() < deadline
    time.sleep(0.02)
  # To the whole group, as a terminal's Ctrl-C goes.
  os.killpg(parent.pid, number)
  assert parent.wait(timeout=60) == 101
