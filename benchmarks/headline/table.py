"""The run table: a file per finished row, shared by several processes."""

import contextlib
import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

_POLL = 1.0  # seconds


class Busy(Exception):
  """Another process makes this row."""


@contextlib.contextmanager
def _claimed(file: Path) -> Iterator[None]:
  """Holds a row; a process that dies lets go of it."""
  with file.open("w") as held:
    try:
      fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise Busy from None
    yield


class Table:
  """Rows of finished runs, a file each.

  Args:
    folder: of the files; made where it is missing.
  """

  def __init__(self, folder: Path):
    self._folder = folder
    folder.mkdir(parents=True, exist_ok=True)

  def name(self, key: Any) -> str:
    """Of a key's file, without its ending."""
    return hashlib.sha256(repr(key).encode()).hexdigest()[:16]

  def get(self, key: Any, make: Callable[[], dict[str, Any]]) -> Any:
    """The row of a key; made and written where there is none.

    Raises:
      Busy: where another process is making it.
    """
    name = self.name(key)
    file = self._folder / f"{name}.json"
    if not file.is_file():
      with _claimed(self._folder / f"{name}.lock"):
        if not file.is_file():  # made while we came here
          unfinished = file.with_suffix(".part")
          unfinished.write_text(json.dumps(make(), indent=1))
          unfinished.rename(file)
    return json.loads(file.read_text())


def gather(rows: Sequence[Callable[[], Any]]) -> list[Any]:
  """All rows in order; those that other processes make are waited for."""
  found: dict[int, Any] = {}
  while True:
    before = len(found)
    for number, row in enumerate(rows):
      if number not in found:
        with contextlib.suppress(Busy):
          found[number] = row()
    if len(found) == len(rows):
      return [found[number] for number in range(len(rows))]
    if len(found) == before:
      time.sleep(_POLL)
