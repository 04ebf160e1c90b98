import threading

import pytest

from mirl_jax.runs.watchdog import Watchdog


class Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


def test_a_phase_is_reported_each_time_it_lasts_as_long_again():
  clock, told = Clock(), []
  watchdog = Watchdog(10.0, "process 1 of 2: ", told.append, clock)
  watchdog.phase("sampling of step 3", [f"q{i}" for i in range(10)])
  for clock.now in (5.0, 9.9, 10.0, 15.0, 20.0):
    watchdog.look()
  assert told == [
    "process 1 of 2: sampling of step 3 has lasted 10 s; questions q0, q1, q2,"
    " q3, q4, q5, q6, q7 and 2 more",
    "process 1 of 2: sampling of step 3 has lasted 20 s; questions q0, q1, q2,"
    " q3, q4, q5, q6, q7 and 2 more",
  ]


def test_another_phase_has_its_own_time():
  clock, told = Clock(), []
  watchdog = Watchdog(10.0, report=told.append, clock=clock)
  for clock.now in (9.0, 18.0, 27.0):
    watchdog.phase(f"phase at {clock.now:.0f}")
    watchdog.look()
  assert told == []
  clock.now = 40.0
  watchdog.look()
  assert told == ["phase at 27 has lasted 13 s"]


@pytest.mark.parametrize("patience", [0.0, 0.02])
def test_the_thread_reports_by_itself_and_ends(patience):
  told = threading.Event()
  before = threading.active_count()
  with Watchdog(patience, report=lambda text: told.set()):
    assert told.wait(5.0 if patience else 0.1) == (patience > 0)
  assert threading.active_count() == before


def test_the_report_shows_where_threads_stand(capfd):
  Watchdog(1.0)._print("update of step 2 has lasted 60 s")
  shown = capfd.readouterr().err
  assert "stuck? update of step 2 has lasted 60 s" in shown
  assert "test_the_report_shows_where_threads_stand" in shown
