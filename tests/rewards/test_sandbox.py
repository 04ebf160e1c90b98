"""What a locked process may not do."""

import subprocess
import sys

import pytest

LOCK = """
import os, socket, subprocess, sys
import sympy
from mirl_jax.rewards import sandbox, symbolic
symbolic.set_up()
try:
  {deed}
except PermissionError as error:
  print("refused", sandbox.refused[-1], error)
else:
  print("done")
"""


def lock_and(deed: str) -> str:
  done = subprocess.run(
    [sys.executable, "-c", LOCK.format(deed=deed)],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


@pytest.mark.parametrize(
  "deed",
  [
    "open({path!r}, 'w')",
    "os.open({path!r}, os.O_CREAT | os.O_WRONLY)",
    "open('/etc/passwd')",
    "socket.socket()",
    "socket.getaddrinfo('localhost', 80)",
    "subprocess.run(['true'])",
    "os.system('true')",
    "os.remove({path!r})",
    "os.kill(os.getpid(), 9)",
    # SymPy's own readers evaluate a string as Python.
    "sympy.sympify({evil!r})",
  ],
)
def test_deeds_are_refused(deed, tmp_path):
  path = tmp_path / "file"
  evil = f"__import__('os').system('touch {path}')"
  said = lock_and(deed.format(path=str(path), evil=evil))
  assert said.startswith("refused")
  assert not path.exists()


def test_mathematics_goes_on():
  deed = "print(symbolic.equal('$x+x$', '$2x$'), 'jax' in sys.modules)"
  assert lock_and(deed).startswith("(True, 'mathematically equal') False")
