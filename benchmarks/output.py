"""What a benchmark prints."""

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def tell(result: Mapping[str, Any], path: str | Path = "") -> None:
  """Prints a result as one JSON object.

  Args:
    result: the object.
    path: of a file that gets the same; none where empty.
  """
  text = json.dumps(result, indent=1)
  if path:
    Path(path).write_text(text + "\n", encoding="utf-8")
  print(text)


def versions(*names: str) -> dict[str, str]:
  return {name: importlib.metadata.version(name) for name in names}
