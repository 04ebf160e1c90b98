"""The frame of report.html: escaping, style and the page around a body.

The page asks the network for nothing and runs no script; its content security
policy forbids both, so that sampled text stays text even where escaping fails.
"""

import html

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f6f3; --card: #fff; --ink: #1d1e20; --soft: #62666d;
  --line: #e2e2dc; --fill: #f0f0eb; --good: #14713d; --bad: #b3261e;
  --warn: #8a5300; --warn-fill: #fdf3dc; --mark: #1f5fbf; --mark-fill: #eaf1fb;
  --s0: #1f5fbf; --s1: #c2570c; --s2: #14804a; --s3: #8b3fb5; --s4: #b0306a;
  --s5: #0b7c8c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131416; --card: #1c1e21; --ink: #e8e8e4; --soft: #9da2aa;
    --line: #2f3237; --fill: #26292d; --good: #63cf92; --bad: #ff8a80;
    --warn: #f0bd62; --warn-fill: #302712; --mark: #8ab6ff;
    --mark-fill: #1c2a40; --s0: #7fb0ff; --s1: #ff9f5c; --s2: #5fd39a;
    --s3: #cf9bf0; --s4: #f78fb8; --s5: #58c9d8;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1120px; padding: 28px 20px 64px;
  background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  overflow-wrap: anywhere; -webkit-text-size-adjust: 100%;
}
h1 { font-size: 26px; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 44px 0 12px; letter-spacing: -.005em; }
h3 { font-size: 15px; margin: 0; }
p { margin: 6px 0; }
a { color: var(--mark); text-decoration: none; }
a:hover { text-decoration: underline; }
.soft { color: var(--soft); }
.good { color: var(--good); }
.bad { color: var(--bad); }
.num, td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 10px 0 18px; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 16px 18px;
}
.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr));
  gap: 12px 20px; margin: 0;
}
.facts dt { color: var(--soft); font-size: 12.5px; }
.facts dd { margin: 0; font-weight: 550; }
details { margin-top: 12px; }
summary { cursor: pointer; color: var(--soft); }
pre {
  background: var(--fill); border-radius: 8px; padding: 12px 14px;
  margin: 10px 0 0; font-size: 12.5px; line-height: 1.45; overflow: auto;
  max-height: 460px; white-space: pre-wrap;
}
table { border-collapse: collapse; width: 100%; }
th {
  text-align: left; font-weight: 500; font-size: 12.5px; color: var(--soft);
  padding: 4px 10px 6px; border-bottom: 1px solid var(--line);
}
td { padding: 7px 10px; border-bottom: 1px solid var(--line); }
tr:last-child > td { border-bottom: 0; }
th.n, td.n { text-align: right; }
.result td:first-child { font-weight: 550; }
.warnings { padding-left: 18px; margin: 0; }
.alert { background: var(--warn-fill); border-color: transparent; }
.alert b { color: var(--warn); }
.plots {
  display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(310px, 100%), 1fr));
}
.plot { padding: 12px 14px 8px; min-width: 0; }
.legend {
  display: flex; flex-wrap: wrap; gap: 0 14px; font-size: 12.5px;
  color: var(--soft); min-height: 20px;
}
.legend b { color: var(--ink); font-weight: 600; }
.key {
  display: inline-block; width: 14px; height: 3px; border-radius: 2px;
  vertical-align: middle; margin-right: 5px;
}
svg { display: block; width: 100%; height: auto; margin-top: 4px; }
svg text { font-size: 11px; fill: var(--soft); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .band { opacity: .16; }
.question { margin-top: 12px; }
.question summary { list-style-position: outside; margin-left: 16px; }
.split {
  display: grid; grid-template-columns: 168px minmax(0, 1fr); gap: 18px;
  margin-top: 12px;
}
.pictures { display: flex; flex-direction: column; gap: 8px;
  position: sticky; top: 12px; align-self: start; }
.pictures img {
  width: 100%; border-radius: 6px; border: 1px solid var(--line);
  background: var(--fill);
}
.pictures img.small { image-rendering: pixelated; }
.ask { font-size: 16px; font-weight: 600; color: var(--ink); }
.said { unicode-bidi: isolate; white-space: pre-wrap; }
.tag { color: var(--soft); opacity: .75; font-size: .88em; }
.nodes td { vertical-align: top; }
.nodes th, .nodes td.n { white-space: nowrap; padding-left: 4px; }
.nodes th:first-child { width: 100%; }
.nodes tr.kept > td:first-child { box-shadow: inset 3px 0 var(--mark); }
.nodes tr.kept { background: var(--mark-fill); }
.nodes tr.kept > td { border-bottom-color: transparent; }
.nodes tr.under > td { padding: 0 10px 12px 22px; background: var(--mark-fill);
  box-shadow: inset 3px 0 var(--mark); }
.forks { list-style: none; margin: 0; padding: 0 0 0 14px;
  border-left: 1px solid var(--line); }
.forks li { margin: 6px 0; }
.forks .figures { font-size: 12.5px; color: var(--soft); white-space: normal; }
.pill {
  display: inline-block; border-radius: 99px; padding: 0 8px; font-size: 12px;
  line-height: 20px; background: var(--fill); color: var(--soft);
  white-space: nowrap;
}
.pill.on { background: var(--mark); color: var(--card); }
@media (max-width: 680px) {
  body { padding: 18px 12px 48px; }
  .card { padding: 13px 13px; }
  .split { grid-template-columns: minmax(0, 1fr); gap: 12px; }
  .pictures { flex-direction: row; position: static; }
  .pictures img { width: 132px; }
  .result th { display: none; }
  .result tr, .nodes tr { display: flex; flex-wrap: wrap; gap: 0 14px;
    padding: 8px 0; border-bottom: 1px solid var(--line); }
  .result tr:last-child { border-bottom: 0; }
  .result tr:first-child:has(th) { display: none; }
  .result td, .nodes td { border: 0; padding: 0; text-align: left; }
  .result td:first-child { flex-basis: 100%; }
  .nodes thead { display: none; }
  .nodes, .nodes tbody, .result, .result tbody { display: block; }
  .nodes tr.under > td { flex-basis: 100%; min-width: 0; }
  .nodes tr.kept, .nodes tr.under { border: 0; padding: 8px 10px 4px;
    box-shadow: inset 3px 0 var(--mark); background: var(--mark-fill); }
  .nodes tr.under { padding: 0 10px 10px; margin-bottom: 8px; }
  .nodes tr.under > td, .nodes tr.kept > td:first-child { box-shadow: none;
    padding: 0; background: none; }
  .nodes td.said { flex-basis: 100%; }
  .nodes td[data-label]::before, .result td[data-label]::before {
    content: attr(data-label) " "; color: var(--soft); font-size: 12.5px; }
}
@media print { .card { break-inside: avoid; } nav { display: none; } }
"""


def esc(value: object) -> str:
  """Any value as text for an element or a quoted attribute."""
  text = str(value).encode("utf-8", "replace").decode("utf-8")
  # Control characters other than white space are no HTML in any form.
  text = "".join(c if c >= " " or c in "\t\n" else "\ufffd" for c in text)
  return html.escape(text, quote=True)


def number(value: float | int, signed: bool = False) -> str:
  """Three significant digits, thousands apart."""
  if value != value or abs(value) == float("inf"):
    return str(value)
  if abs(value) >= 1000:
    return f"{value:{'+' if signed else ''},.0f}"
  text = f"{value:{'+' if signed else ''}.3g}"
  return text.replace("e-0", "e-").replace("-", "\u2212")  # as wide as +


def section(title: str, anchor: str, body: str, note: str = "") -> str:
  """A titled part of the page; `title` and `note` are escaped here."""
  said = f'<p class="soft">{esc(note)}</p>' if note else ""
  return f'<h2 id="{esc(anchor)}">{esc(title)}</h2>{said}{body}'


def absent(sentence: str) -> str:
  """What stands where a file is missing."""
  return f'<p class="card soft">{esc(sentence)}</p>'


def page(title: str, body: str) -> str:
  """The whole document; `body` is HTML, `title` is text."""
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{esc(title)}</title>\n<style>{STYLE}</style></head>\n"
    f"<body>\n{body}\n</body></html>\n"
  )
