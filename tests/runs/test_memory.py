import sys

import numpy as np
import pytest

from mirl_jax.runs.memory import memory


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_array_shows():
  before = memory()["memory/host_mb"]
  held = np.ones(25_000_000)
  now = memory()
  assert 190 < now["memory/host_mb"] - before < 260
  assert held.size
  assert "memory/device_mb" not in now  # these are the host's own
