"""Keeps a process from files, the network and other processes.

An audit hook (PEP 578) sees what Python code does and cannot be taken away
again. It is a second wall behind the rules of `limits`: against a mistake in
a library that evaluates strings, not against machine code.
"""

import os
import sys
import sysconfig

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_REFUSED = (
  "socket.",
  "subprocess.",
  "shutil.",
  "tempfile.",
  "ctypes.",
  "urllib.",
  "http.",
  "ftplib.",
  "smtplib.",
  "webbrowser.",
  "pty.",
  "mmap.",
  "signal.",
  "os.system",
  "os.exec",
  "os.fork",
  "os.posix_spawn",
  "os.spawn",
  "os.startfile",
  "os.remove",
  "os.rename",
  "os.rmdir",
  "os.mkdir",
  "os.chmod",
  "os.chown",
  "os.chflags",
  "os.link",
  "os.symlink",
  "os.truncate",
  "os.utime",
  "os.kill",
  "os.putenv",
  "os.unsetenv",
  "os.chdir",
)

# What was tried and refused in this process; the audit hook's only memory.
refused: list[str] = []


def lock() -> None:
  """Refuses from now on all but reading Python's own and imported files."""
  roots = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
  roots |= {os.path.dirname(os.path.dirname(os.path.dirname(__file__)))}
  allowed = tuple(os.path.join(os.path.realpath(root), "") for root in roots)

  def may_read(path: object) -> bool:
    if not isinstance(path, str | bytes):
      return False
    return os.path.realpath(os.fsdecode(path)).startswith(allowed)

  def hook(event: str, arguments: tuple) -> None:
    if event == "open":
      path, _, flags = arguments
      bad = bool((flags or 0) & _WRITING) or not may_read(path)
    else:
      bad = event.startswith(_REFUSED)
    if bad:
      refused.append(event)
      raise PermissionError(f"{event} is refused in this process")

  sys.addaudithook(hook)
