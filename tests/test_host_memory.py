import subprocess
import sys

import pytest

from mirl_jax.host_memory import computes_on_host

# Frees a large array again and again; counts the page faults of doing so.
FAULTS = """
import resource, sys
import numpy as np
from mirl_jax.host_memory import tune_allocator
if sys.argv[1] == "tuned":
  assert tune_allocator()
def touch():
  np.ones(8_000_000)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
  touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
  done = subprocess.run(
    [sys.executable, "-c", FAULTS, how],
    capture_output=True,
    text=True,
    check=True,
  )
  return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_arrays_are_used_again_without_page_faults():
  assert faults("tuned") < 0.05 * faults("default")


@pytest.mark.parametrize(
  ("platforms", "device", "want"),
  [
    ("cpu", "dev/nvidia0", True),
    ("cuda", None, False),
    ("cuda,cpu", None, False),
    ("", None, True),
    ("", "dev/nvidia0", False),
    ("", "dev/accel0", False),
  ],
)
def test_the_platform_is_told_before_jax_starts(
  tmp_path, platforms, device, want
):
  if device:
    (tmp_path / device).parent.mkdir(parents=True)
    (tmp_path / device).touch()
  environment = {"JAX_PLATFORMS": platforms} if platforms else {}
  assert computes_on_host(environment, tmp_path) == want
