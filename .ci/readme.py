"""The commands of the README that are run by continuous integration.

    python .ci/readme.py README.md MARK

prints the code below each line `<!-- check: MARK -->`, in order.
"""

import re
import sys
from pathlib import Path

_MARKED = re.compile(
  r"^<!-- check: (?P<mark>[\w-]+) -->\n+```\w*\n(?P<code>.*?)^```$",
  re.MULTILINE | re.DOTALL,
)


def blocks(text: str) -> list[tuple[str, str]]:
  """Mark and code of every marked block, in order.

  Raises:
    ValueError: for a mark without a code block below it.
  """
  found = [(m["mark"], m["code"]) for m in _MARKED.finditer(text)]
  marks = re.findall(r"^<!-- check: ([\w-]+) -->$", text, re.MULTILINE)
  if marks != [mark for mark, _ in found]:
    raise ValueError("a check mark of the README stands over no code block")
  return found


def main(readme: str, mark: str) -> int:
  """Prints the code with this mark; 1 where there is none."""
  text = Path(readme).read_text("utf-8")
  code = [code for name, code in blocks(text) if name == mark]
  if not code:
    print(f"{readme} has no code marked {mark!r}", file=sys.stderr)
    return 1
  print("".join(code), end="")
  return 0


if __name__ == "__main__":
  sys.exit(main(*sys.argv[1:]))
