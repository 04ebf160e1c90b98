"""How much memory a run holds, for its metrics."""

import os
from pathlib import Path

import jax

_MB = 1e6


def memory() -> dict[str, float]:
  """Megabytes in use now: of this process, and of its fullest device.

  The former is left out where the system does not tell, the latter on CPUs,
  whose arrays are the process's own.
  """
  found = {}
  statm = Path("/proc/self/statm")
  if statm.is_file():
    pages = int(statm.read_text(encoding="ascii").split()[1])
    found["memory/host_mb"] = pages * os.sysconf("SC_PAGE_SIZE") / _MB
  stats = [device.memory_stats() for device in jax.local_devices()]
  used = [each["bytes_in_use"] for each in stats if each]
  if used:
    found["memory/device_mb"] = max(used) / _MB
  return found
