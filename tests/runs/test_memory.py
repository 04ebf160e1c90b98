import json
import os
import subprocess
import sys

import pytest

# A process of its own: one that ran other tests may give memory back meanwhile.
SCRIPT = """
import json
import numpy as np
from mirl_jax.runs.memory import memory
memory()
before = memory()
held = np.ones(25_000_000)
print(json.dumps([before, memory(), held.size]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_array_shows():
  out = subprocess.run(
    [sys.executable, "-c", SCRIPT],
    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  before, now, _ = json.loads(out)
  assert 190 < now["memory/host_mb"] - before["memory/host_mb"] < 260
  assert "memory/device_mb" not in now  # these are the host's own
