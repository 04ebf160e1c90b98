import base64
from html.parser import HTMLParser

import numpy as np
import pytest

from mirl_jax.runs.config_files import write_config
from mirl_jax.runs.metrics import MetricsWriter
from mirl_jax.runs.report import essentials, raised, write_report
from mirl_jax.runs.rollouts import Node, prompt_node, write_rollouts
from mirl_jax.runs.summary import write_summary

HOSTILE = (
  "</style><script>alert('x')</script><img src=\"http://e.x/\" onload=x>"
)
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
  """Tags, attributes and text of a page; checks that tags are closed."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes, self.text, self._open = [], [], [], []
    self.feed(text)
    self.close()
    assert self._open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, *pair) for pair in attrs]
    if tag not in VOID:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, *pair) for pair in attrs]

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    if self._open[-1:] != ["style"]:
      self.text.append(data)


def _read(path):
  page = Page(path.read_text(encoding="utf-8"))
  assert "script" not in page.tags
  for tag, name, value in page.attributes:
    assert not name.startswith("on"), (tag, name)
    if name in ("src", "href"):
      assert value.startswith(("data:image/", "#")), (tag, value)
  return page


def _nodes(question, mark=""):
  yield prompt_node(question, f"how many? {mark}", f"3{mark}", 9)
  for index in range(4):
    yield Node(
      question,
      f"description{mark}",
      index,
      -1,
      f"<description>d{index} {mark}</description>",
      9,
      {"mi": 0.1 * index},
      {f"mi{mark}": 0.1},
      advantage=index - 1.5,
      kept=index > 1,
      extra={"exact": index == 3},
    )
  for index, parent in enumerate((2, 3, 3)):
    yield Node(
      question,
      f"reasoning{mark}",
      index,
      parent,
      f"<think>r{index}</think><answer>3{mark}</answer>",
      30,
      rewards={f"correct{mark}": 1.0},
      advantage=0.5,
      truncated=index == 1,
      extra={"verdict": index != 0},
    )


def _run(workdir, mark=""):
  write_config(workdir, {"steps": 3, f"note{mark}": mark, "reward": {"eta": 1}})
  with MetricsWriter(workdir, None) as writer:
    for step in range(3):
      values = {"eval/greedy/accuracy": 0.5, f"warn/drift{mark}": step > 0}
      writer.write(step, {**values, "loss/total": float("nan")})
  picture = np.zeros((8, 8, 3), np.uint8)
  for step in (0, 1, 2):
    questions = [f"q{i}{mark}" for i in range(3)]
    nodes = [node for q in questions for node in _nodes(q, mark)]
    write_rollouts(workdir, step, nodes, {q: [picture] for q in questions})
  figures = {"eval/greedy/accuracy": 0.5, f"odd{mark}": 1.0}
  write_summary(workdir, figures, figures, {"seconds": 3, "device": mark})
  return write_report(workdir)


def test_the_page_holds_what_the_run_left(tmp_path):
  page = _read(_run(tmp_path))
  text = " ".join(page.text)
  for part in (
    "greedy accuracy", "50.0 %", "seconds", "eta", "d3", "r2", "Step 0",
    "Step 2", "3 of 3 questions", "truncated", "not exact", "wrong", "right",
    "loss/total is not finite", "2 of 3 right", "1 of 4 exact",
  ):  # fmt: skip
    assert part in text, part
  assert "Step 1" not in text  # only the first and the last dump
  assert page.tags.count("svg") >= 1
  # Three questions in two dumps, one picture each.
  assert page.tags.count("img") == 6
  assert text.count("kept") == 6 * (2 + 1) + 1  # marks, headings, the note


def test_samples_fall_by_score_with_forks_under_their_parent(tmp_path):
  text = " ".join(_read(_run(tmp_path)).text)
  first = text[text.index("Step 0") :]
  order = [first.index(word) for word in ("d3", "r1", "r2", "d2", "r0")]
  assert order == sorted(order)


def test_hostile_text_stays_text(tmp_path):
  page = _read(_run(tmp_path, HOSTILE))
  text = "".join(page.text)
  # Config, metrics, summary, and each place of the rollouts.
  assert text.count(HOSTILE) > 40
  policy = [v for _, n, v in page.attributes if n == "content"]
  assert any("default-src 'none'" in value for value in policy)


@pytest.mark.parametrize("mark", ["\0\x1b[31m", "\ud83d", "\u202e", "x" * 9000])
def test_strange_text_does_not_break_the_page(tmp_path, mark):
  text = "".join(_read(_run(tmp_path, mark)).text)
  assert "\0" not in text
  assert "d3" in text
  assert ("more characters" in text) == (len(mark) > 4000)


def test_an_empty_directory_gives_sentences(tmp_path):
  text = " ".join(_read(write_report(tmp_path)).text)
  for part in ("No readable config", "No summary.json", "Nothing logged",
               "No metrics.jsonl", "No rollouts"):  # fmt: skip
    assert part in text
  with pytest.raises(FileNotFoundError, match="does not exist"):
    write_report(tmp_path / "nowhere")


FILES = ("config.json", "metrics.jsonl", "summary.json", "rollouts/0.jsonl",
         "rollouts/images/q0.png", "quarantine.jsonl")  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
  "content", [b"", b"{", b"{}\n{}\n", b"[1]", b'{"before": 3}\n{\n{}', b"\xff"]
)
def test_damaged_files_give_a_page(tmp_path, name, content):
  _run(tmp_path)
  (tmp_path / name).write_bytes(content)
  text = " ".join(_read(write_report(tmp_path)).text)
  assert "Step 2" in text


@pytest.mark.parametrize("name", FILES[:5])
def test_missing_files_give_a_page(tmp_path, name):
  _run(tmp_path)
  (tmp_path / name).unlink()
  assert "Step 2" in " ".join(_read(write_report(tmp_path)).text)


def test_wrong_types_in_a_dump_give_a_sentence(tmp_path):
  _run(tmp_path)
  nodes = [Node("q", "a", 0, -1, "t")]
  path = write_rollouts(tmp_path, 0, nodes)
  path.write_text(path.read_text().replace('"t"', "7"))
  assert "step 0 are damaged" in " ".join(_read(write_report(tmp_path)).text)


def test_pictures_outside_of_the_run_are_not_read(tmp_path):
  _run(tmp_path / "other")
  prompt = prompt_node("q", "?", "!")
  path = write_rollouts(tmp_path / "run", 0, [prompt])
  outside = "../other/rollouts/images/q0.png"
  path.write_text(
    path.read_text().replace('"images": []', f'"images": ["{outside}"]')
  )
  page = _read(write_report(tmp_path / "run"))
  assert "img" not in page.tags
  assert "no picture" in " ".join(page.text)


def test_one_stage_programs_show_their_verdicts(tmp_path):
  nodes = [prompt_node("q", "?", "!")]
  nodes += [
    Node("q", "response", i, -1, f"t{i}", rewards={"correct": float(i)})
    for i in range(2)
  ]
  write_rollouts(tmp_path, 0, nodes)
  text = " ".join(_read(write_report(tmp_path)).text)
  assert "right" in text
  assert "wrong" in text
  assert "1 of 2 right" in text


def test_warnings_say_when_and_zeros_are_no_warning():
  rows = [
    {"step": s, "warn/a": float(s > 2), "skipped/b": 0, "loss": 1.0}
    for s in range(5)
  ]
  assert raised(rows) == [
    "warn/a: at 2 logged steps, from 3 to 4, last value 1"
  ]
  assert raised(rows[:2]) == []


def test_essentials_prefer_known_names():
  config = {"zed": 1, "deep": {"seed": 3, "other": 2}, "steps": 5, "none": None}
  assert essentials(config) == [("deep.seed", 3), ("steps", 5), ("zed", 1)]


def test_a_screening_is_shown_where_one_was_drawn(tmp_path):
  assert "Screening" not in write_report(tmp_path).read_text()
  drawn = tmp_path / "eval" / "screening.svg"
  drawn.parent.mkdir()
  drawn.write_text("<svg>drawn</svg>")
  other = drawn.parent / "a set" / drawn.name
  other.parent.mkdir()
  other.write_text("<svg>of another</svg>")
  page = write_report(tmp_path).read_text()
  assert "<h3>a set</h3>" in page
  assert page.count("image/svg+xml") == 2
  inside = base64.b64encode(drawn.read_bytes()).decode()
  assert f'src="data:image/svg+xml;base64,{inside}"' in page
