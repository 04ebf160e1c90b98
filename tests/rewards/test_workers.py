import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mirl_jax.rewards.workers import Outcome, Workers

FAULTS = """
import ctypes, os, signal, subprocess, sys, time

mark = []

def set_up(word):
  mark.append(word)

def do(what, *args):
  return globals()[what](*args)

def double(x):
  return 2 * x

def marked():
  return list(mark)

def whoami():
  return os.getpid()

def modules():
  return sorted(sys.modules)

def leave(code):
  os._exit(code)

def segfault():
  ctypes.string_at(0)

def killed():
  os.kill(os.getpid(), signal.SIGKILL)

def sleep(seconds):
  time.sleep(seconds)
  return seconds

def stubborn():
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  while True:
    try:
      time.sleep(1000)
    except BaseException:
      pass

def hog():
  held = []
  while True:
    held.append(bytearray(50_000_000))

def hold(megabytes):
  return len(bytearray(megabytes * 10**6))

def fail(text):
  raise ValueError(text)

def mute():
  class Mute(Exception):
    def __str__(self):
      raise RuntimeError
  raise Mute

def stop(code):
  sys.exit(code)

def interrupt():
  raise KeyboardInterrupt

def deep():
  return deep()

def unpicklable():
  return lambda: 0

def huge():
  return bytes(70_000_000)

def noise():
  print("noise", flush=True)
  os.write(1, b"more noise\\n")
  return "said"

def child(path):
  process = subprocess.Popen(["sleep", "1000"])
  with open(path, "w") as file:
    file.write(str(process.pid))
  time.sleep(1000)

class Here:
  def __reduce__(self):
    return eval, ("1/0",)

def poison():
  return Here()
"""
KILLS = [
  (("leave", 3), "worker died (exit code 3)"),
  (("leave", 0), "worker died (exit code 0)"),
  (("segfault",), "worker died (signal 11)"),
  (("killed",), "worker died (signal 9)"),
  (("stubborn",), "deadline of 1 s"),
  (("hog",), "memory limit of 300 MB"),
  (("poison",), "answer cannot be read: ZeroDivisionError: division by zero"),
]
RAISED = [
  (("fail", "no\nsuch  thing"), "ValueError: no such thing"),
  (("fail", "x" * 5000), "ValueError: " + "x" * 288),
  (("mute",), "Mute: no message"),
  (("stop", 7), "SystemExit: 7"),
  (("interrupt",), "KeyboardInterrupt"),
  (("deep",), "RecursionError: maximum recursion depth exceeded"),
  (("nothing",), "KeyError: 'nothing'"),
]


@pytest.fixture
def faults(tmp_path, monkeypatch):
  """Makes `faults` a module that workers can import; its name."""
  (tmp_path / "faults.py").write_text(FAULTS)
  monkeypatch.syspath_prepend(str(tmp_path))
  return "faults:do"


@pytest.fixture
def pool(faults):
  with Workers(faults, count=2, deadline_s=1.0, memory_mb=300) as made:
    yield made


def processes(group_leader):
  """Live processes of a session, from /proc."""
  found = []
  for folder in Path("/proc").iterdir():
    with contextlib.suppress(OSError, ValueError):
      state, _, _, session = (
        (folder / "stat").read_text().rpartition(") ")[2].split()[:4]
      )
      if int(session) == group_leader and state not in "ZX":
        found.append(int(folder.name))
  return found


def lives(pid):
  with contextlib.suppress(OSError):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
  return False


def until(true, seconds=20.0):
  """Whether something becomes true in time."""
  end = time.monotonic() + seconds
  while not true() and time.monotonic() < end:
    time.sleep(0.05)
  return true()


def test_values_come_back_in_the_order_of_the_calls(pool):
  rng = np.random.default_rng(0)
  waits = rng.uniform(0, 0.05, 20).tolist()
  assert pool.map([("sleep", s) for s in waits]) == [Outcome(s) for s in waits]
  words = [bytes(rng.bytes(n)) for n in (0, 1, 70_000, 3_000_000)]
  found = pool.map([("double", word) for word in words])
  assert [outcome.value for outcome in found] == [2 * word for word in words]
  assert pool.map([]) == []
  assert pool.restarts == 0


@pytest.mark.parametrize(("call", "failure"), KILLS)
def test_a_lost_worker_fails_its_call_alone(pool, call, failure):
  calls = [("double", 1), call, ("double", 2), ("double", 3)]
  expected = [Outcome(2), Outcome(None, failure), Outcome(4), Outcome(6)]
  assert pool.map(calls) == expected
  assert pool.restarts == 1


@pytest.mark.parametrize(("call", "failure"), RAISED)
def test_what_a_call_raises_is_named_and_costs_no_worker(pool, call, failure):
  (before,) = pool.map([("whoami",)])
  found = pool.map([call, ("double", 1)])
  assert found == [Outcome(None, failure), Outcome(2)]
  assert pool.restarts == 0
  assert before in pool.map([("whoami",)] * 4)


def test_values_that_cannot_come_back_are_failures(pool):
  odd, big, fine = pool.map([("unpicklable",), ("huge",), ("double", 1)])
  assert odd.failure.startswith("cannot be returned: ")
  assert big.failure.endswith(" bytes; at most 67108864")
  assert fine == Outcome(2)
  assert pool.restarts == 0


def test_arguments_that_cannot_be_pickled_are_failures(pool):
  odd, fine = pool.map([("double", lambda: 0), ("double", 1)])
  assert odd.failure.startswith("arguments cannot be pickled: ")
  assert fine == Outcome(2)


def test_no_worker_is_lost_for_good(pool):
  rng = np.random.default_rng(1)
  deadly = [KILLS[i] for i in rng.integers(0, 4, 50)]
  calls = [call for kill, _ in deadly for call in (kill, ("double", 1))]
  began = time.monotonic()
  found = pool.map(calls)
  each = (time.monotonic() - began) / 50
  assert [x.failure for x in found[::2]] == [failure for _, failure in deadly]
  assert found[1::2] == [Outcome(2)] * 50
  assert pool.restarts == 50
  assert each < 0.5  # a fork, not an interpreter and its imports
  together = pool.map([("sleep", 0.3)] * 2)
  assert together == [Outcome(0.3)] * 2


def test_each_call_has_its_own_deadline(pool):
  # Six of .4 s on two workers last longer than a second.
  assert pool.map([("sleep", 0.4)] * 6) == [Outcome(0.4)] * 6
  began = time.monotonic()
  late = pool.map([("stubborn",)] * 4)
  assert late == [Outcome(None, "deadline of 1 s")] * 4
  assert 2.0 <= time.monotonic() - began < 10.0


def test_memory_up_to_the_limit_can_be_had(pool, faults):
  assert pool.map([("hold", 200)]) == [Outcome(200_000_000)]
  (over,) = pool.map([("hold", 400)])
  assert over == Outcome(None, "memory limit of 300 MB")
  with Workers(faults, memory_mb=0) as unlimited:
    assert unlimited.map([("hold", 400)]) == [Outcome(400_000_000)]


def test_workers_import_neither_jax_nor_the_main_module(pool):
  (found,) = pool.map([("modules",)])
  assert "mirl_jax.rewards.worker_process" in found.value
  assert not {"jax", "numpy", "mirl_jax.main", "pytest"} & set(found.value)


def test_verifiers_can_be_imported_without_jax():
  target = "mirl_jax.rewards.verify:normalise"
  with Workers(target, preload=["mirl_jax.rewards.verify"]) as pool:
    assert pool.map([("Two Circles.",)]) == [Outcome("2 circles")]
  with Workers("builtins:eval", preload=["mirl_jax.rewards.verify"]) as pool:
    (found,) = pool.map([("list(__import__('sys').modules)",)])
  assert "mirl_jax.rewards.verify" in found.value
  assert not {"jax", "mirl_jax.main"} & set(found.value)


def test_every_worker_is_set_up_once(faults):
  with Workers(faults, setup=("faults:set_up", "here")) as pool:
    assert pool.map([("marked",)] * 4) == [Outcome(["here"])] * 4
    pool.map([("leave", 1)] * 2)
    assert pool.map([("marked",)] * 4) == [Outcome(["here"])] * 4


@pytest.mark.parametrize(
  ("target", "options", "said"),
  [
    ("nowhere:do", {}, "ModuleNotFoundError: No module named 'nowhere'"),
    ("faults:missing", {}, "AttributeError: .*'missing'"),
    ("faults:do", {"preload": ["nowhere"]}, "No module named 'nowhere'"),
    ("faults:do", {"setup": ("faults:fail", "bad")}, "ValueError: bad"),
    ("faults:do", {"setup": ("faults:leave", 4)}, r"died \(exit code 4\)"),
    ("faults:do", {"count": 0}, "count=0"),
    ("faults:do", {"deadline_s": 0.0}, "deadline_s=0.0"),
    ("faults:do", {"deadline_s": float("nan")}, "deadline_s=nan"),
    ("faults:do", {"memory_mb": -1}, "memory_mb=-1"),
  ],
)
def test_a_pool_that_cannot_work_is_refused(faults, target, options, said):
  with pytest.raises(ValueError, match=said):
    Workers(target, **options)


def test_workers_that_cannot_start_any_more_fail_their_calls(
  tmp_path, monkeypatch
):
  """A setup that works once: the pool answers, and neither hangs nor dies."""
  (tmp_path / "once.py").write_text(
    "import os\n"
    "def set_up(path):\n"
    "  os.mkdir(path)\n"
    "def leave():\n"
    "  os._exit(1)\n"
  )
  monkeypatch.syspath_prepend(str(tmp_path))
  setup = ("once:set_up", str(tmp_path / "made"))
  with Workers("once:leave", count=1, setup=setup) as pool:
    first, *others = pool.map([()] * 3)
    assert first.failure == "worker died (exit code 1)"
    for other in others:
      assert other.failure.startswith("no worker could start: FileExistsError")
    (tmp_path / "made").rmdir()
    assert pool.map([()]) == [first]


def test_the_loss_of_the_parent_of_workers_is_survived(pool):
  (before,) = pool.map([("whoami",)])
  nursery = os.getsid(before.value)
  os.kill(nursery, signal.SIGKILL)
  assert until(lambda: not processes(nursery))
  assert pool.map([("double", 1)] * 3) == [Outcome(2)] * 3

  (after,) = pool.map([("whoami",)])
  nursery = os.getsid(after.value)
  threading.Timer(0.2, os.kill, (nursery, signal.SIGKILL)).start()
  (lost,) = pool.map([("sleep", 0.4)])
  assert lost.failure == "worker died (its parent process is gone)"
  assert pool.map([("double", 1)] * 3) == [Outcome(2)] * 3


def test_a_worker_that_dies_while_idle_costs_no_call(pool):
  (found,) = pool.map([("whoami",)])
  os.kill(found.value, signal.SIGKILL)
  time.sleep(0.1)
  assert pool.map([("double", 1)] * 3) == [Outcome(2)] * 3
  assert pool.restarts == 1


def test_what_a_worker_started_ends_with_it(pool, tmp_path):
  (late,) = pool.map([("child", str(tmp_path / "pid"))])
  assert late.failure == "deadline of 1 s"
  pid = int((tmp_path / "pid").read_text())
  assert until(lambda: not lives(pid))


def test_threads_share_a_pool(pool):
  found = {}

  def work(i):
    found[i] = pool.map([("double", 100 * i + j) for j in range(20)])

  threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for i in range(4):
    assert found[i] == [Outcome(2 * (100 * i + j)) for j in range(20)]


def test_closing_ends_every_process(faults):
  with Workers(faults) as pool:
    (found,) = pool.map([("whoami",)])
    nursery = os.getsid(found.value)
    assert len(processes(nursery)) == 2
  assert processes(nursery) == []
  pool.close()
  with pytest.raises(ValueError, match="closed"):
    pool.map([("double", 1)])


def test_an_interrupted_map_leaves_no_stale_answers(pool, monkeypatch):
  waits = pool._wait

  def interrupted(busy):
    monkeypatch.setattr(pool, "_wait", waits)
    raise KeyboardInterrupt

  monkeypatch.setattr(pool, "_wait", interrupted)
  with pytest.raises(KeyboardInterrupt):
    pool.map([("double", 1)])
  assert pool.map([("double", 2)]) == [Outcome(4)]


PARENT = """
import os, signal, sys, time
from mirl_jax.rewards.workers import Workers
if __name__ == "__main__":
  # A shell's background jobs are started with SIGINT ignored.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  pool = Workers("faults:do", deadline_s=1000.0)
  print(os.getsid(pool.map([("whoami",)])[0].value), flush=True)
  print(pool.map([("noise",)])[0].value, flush=True)
  {then}
"""


@pytest.mark.parametrize(
  ("then", "send"),
  [
    ("pass", None),
    ("os._exit(3)", None),
    ("raise ValueError", None),
    ("pool.map([('stubborn',)] * 3)", signal.SIGKILL),
    ("pool.map([('stubborn',)] * 3)", signal.SIGTERM),
    ("pool.map([('stubborn',)] * 3)", signal.SIGINT),
  ],
)
def test_no_process_outlives_the_one_that_made_the_pool(
  faults, tmp_path, then, send
):
  script = tmp_path / "parent.py"
  script.write_text(textwrap.dedent(PARENT).format(then=then))
  path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
  with subprocess.Popen(
    [sys.executable, str(script)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONPATH": path},
  ) as parent:
    nursery = int(parent.stdout.readline())
    # Nothing but the parent's own lines: workers' noise goes elsewhere.
    assert parent.stdout.readline() == "said\n"
    if send is not None:
      assert until(lambda: len(processes(nursery)) == 3)
      parent.send_signal(send)
    said, errors = parent.communicate(timeout=120)
  assert said == ""
  assert "noise\nmore noise\n" in errors
  assert until(lambda: not processes(nursery))


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_process_without_streams_has_workers_too(faults, tmp_path, closed):
  out = tmp_path / "out"
  script = tmp_path / "parent.py"
  script.write_text(
    "import sys\n"
    f"sys.path[:0] = [{str(tmp_path)!r}]\n"
    "from mirl_jax.rewards.workers import Workers\n"
    "with Workers('faults:do') as pool:\n"
    "  found = pool.map([('noise',), ('leave', 1), ('double', 1)])\n"
    f"open({str(out)!r}, 'w').write(str([x.value for x in found]))\n"
  )
  path = os.pathsep.join(filter(None, sys.path))
  command = f"exec {sys.executable} {script} {closed}"
  environment = {**os.environ, "PYTHONPATH": path}
  assert subprocess.run(command, shell=True, env=environment).returncode == 0
  assert out.read_text() == "['said', None, 2]"
