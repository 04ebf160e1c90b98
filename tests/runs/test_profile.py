import gzip
import json

import pytest

from mirl_jax import testing_runs as runs
from mirl_jax.command_line import parse_steps
from mirl_jax.runs.profile import Profile
from mirl_jax.train import train


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("3", "give START:STOP"),
    ("a:b", "give START:STOP"),
    ("0:2", "0 < START < STOP"),
    ("4:4", "0 < START < STOP"),
  ],
)
def test_bad_steps_are_named(text, message):
  with pytest.raises(ValueError, match=message):
    parse_steps(text)
  assert parse_steps("2:14") == (2, 14)


def test_a_run_traces_the_steps_asked_for(tmp_path, capsys):
  config = runs.small_config("--config.train.steps=4", *runs.UNMEASURED)
  assert train(config, str(tmp_path), (2, 4)) == 0
  (file,) = (tmp_path / "profile").glob("**/perfetto_trace.json.gz")
  assert str(file) in capsys.readouterr().err
  with gzip.open(file) as trace:
    events = json.load(trace)["traceEvents"]
  # The device program of an update and the host's own work are in it, the
  # former as often as steps were traced.
  names = [event.get("name", "") for event in events]
  assert names.count("PjitFunction(update)") in (2, 4)  # begin and end, or both
  assert any("assess" in name for name in names)


def test_nothing_is_traced_unasked(tmp_path):
  tracer = Profile(tmp_path, None)
  assert tracer.at(1) is None
  tracer.close()
  assert not (tmp_path / "profile").exists()
