"""glibc's allocator, set for a program whose arrays live in host memory.

By default glibc maps every large array anew and gives it back when freed, so
that each step pays for the same page faults again. Here they stay in the heap;
`python -m benchmarks.update --allocator=default` shows what that saves.
"""

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

# Parameters of mallopt(3), by their numbers in malloc.h.
_SETTINGS = {
  -4: 0,  # M_MMAP_MAX: large arrays come from the heap too
  -1: -1,  # M_TRIM_THRESHOLD: and stay there when freed
  -2: 256 << 20,  # M_TOP_PAD: the heap grows in such steps, in bytes
  -8: 1,  # M_ARENA_MAX: one heap, whose free blocks serve all threads
}
_ACCELERATORS = ("dev/nvidia0", "dev/nvidiactl", "dev/accel0", "dev/vfio/0")


def computes_on_host(
  environment: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> bool:
  """Whether JAX will compute on the CPU, told without starting it.

  Args:
    environment: whose JAX_PLATFORMS decides, where it is set.
    root: of the file system whose device files are looked for otherwise.
  """
  platforms = environment.get("JAX_PLATFORMS", "").strip()
  if platforms:
    return platforms.split(",")[0] == "cpu"
  return not any((root / device).exists() for device in _ACCELERATORS)


def tune_allocator() -> bool:
  """Sets the allocator of this process; False where it is not glibc's.

  To be called before the first large array and before threads start.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return False
  answers = [mallopt(name, value) for name, value in _SETTINGS.items()]
  return all(answer == 1 for answer in answers)
