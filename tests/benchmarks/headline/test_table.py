import functools
import multiprocessing
import os
import time

import pytest

from benchmarks.headline import table
from benchmarks.headline.table import Busy, Table, gather


def test_a_row_is_made_once(tmp_path):
  made = []

  def make():
    made.append(1)
    return {"value": len(made)}

  own = Table(tmp_path)
  assert own.get(("a", 1), make) == {"value": 1}
  assert Table(tmp_path).get(("a", 1), make) == {"value": 1}
  assert own.get(("a", 2), make) == {"value": 2}


def test_a_row_that_failed_is_made_again(tmp_path):
  own = Table(tmp_path)

  def fail():
    raise RuntimeError("no")

  with pytest.raises(RuntimeError):
    own.get("a", fail)
  assert own.get("a", dict) == {}


def _hold(folder, started, end):
  def make():
    started.set()
    end.wait()
    return {"by": "other"}

  Table(folder).get("a", make)


@pytest.fixture
def other(tmp_path):
  """A process that makes row "a" until it is told to end."""
  context = multiprocessing.get_context("spawn")
  started, end = context.Event(), context.Event()
  process = context.Process(target=_hold, args=(tmp_path, started, end))
  process.start()
  assert started.wait(60)
  yield process, end
  process.kill()
  process.join()


def test_rows_of_another_process_are_waited_for(tmp_path, other, monkeypatch):
  _, end = other
  own, mine = Table(tmp_path), []
  with pytest.raises(Busy):
    own.get("a", dict)
  monkeypatch.setattr(table, "_POLL", 0.01)
  tried = []

  def last():
    mine.append("b")
    return {"by": "me"}

  def first():
    tried.append(time.monotonic())
    if len(tried) == 3:
      end.set()
    return own.get("a", lambda: {"by": "me"})

  rows = gather([first, functools.partial(own.get, "b", last)])
  assert rows == [{"by": "other"}, {"by": "me"}]
  assert mine == ["b"]


def test_a_dead_process_lets_go_of_its_row(tmp_path, other):
  process, _ = other
  os.kill(process.pid, 9)
  process.join()
  assert Table(tmp_path).get("a", lambda: {"by": "me"}) == {"by": "me"}
