import os
import signal
import threading

import pytest

from mirl_jax.runs.signals import StopSignals


def _handlers():
  return [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_flag(number):
  before = _handlers()
  with StopSignals() as stop:
    assert stop.received is None
    os.kill(os.getpid(), number)
    assert stop.received == number
  assert _handlers() == before
  assert stop.received == number


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_after_a_signal_raises_at_once(first):
  before = _handlers()

  def loop():
    with StopSignals() as stop:
      os.kill(os.getpid(), first)
      os.kill(os.getpid(), signal.SIGTERM)  # a second one changes nothing
      assert stop.received == first
      os.kill(os.getpid(), signal.SIGINT)
      pytest.fail("was not interrupted")

  with pytest.raises(KeyboardInterrupt):
    loop()
  assert _handlers() == before


def test_handlers_are_restored_after_an_error():
  before = _handlers()
  with pytest.raises(ZeroDivisionError), StopSignals():
    _ = 1 / 0
  assert _handlers() == before


def test_another_thread_is_refused():
  faults = []

  def enter():
    try:
      with StopSignals():
        pass
    except RuntimeError as error:
      faults.append(str(error))

  thread = threading.Thread(target=enter)
  thread.start()
  thread.join()
  assert "main thread" in faults[0]
