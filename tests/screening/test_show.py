"""The table and the picture of a screening."""

import re
import xml.etree.ElementTree as tree

import numpy as np
import pytest

from mirl_jax.screening.chart import LABELS, screening_chart
from mirl_jax.screening.figures import screening_figures
from mirl_jax.screening.observe import Observed
from mirl_jax.screening.table import screening_table, shown

SVG = "{http://www.w3.org/2000/svg}"


def record(
  exact_known=True, kinds=("count", "<odd> & even"), questions=60, right=0.5
):
  rng = np.random.default_rng(0)
  share = (rng.random((questions, 4)) < right).astype(float)
  flat = np.zeros_like(share)
  data = Observed(
    scores={
      "mi": share + 0.1 * rng.normal(size=share.shape),
      "blank, lambda=0.8": share + rng.normal(size=share.shape),
      "likelihood, mean": rng.normal(size=share.shape),
      "length": flat,
      "shuffled": rng.normal(size=share.shape),
    },
    length=flat,
    finished=np.ones(share.shape, bool),
    exact=share if exact_known else np.full_like(share, np.nan),
    correct=share,
    category=np.resize(np.array(kinds), questions),
    group=np.arange(questions),
  )
  return screening_figures(data, 2)


def marks(drawn):
  """[score, column] -> x of its mark, of those that are drawn."""
  found = {}
  for circle in tree.fromstring(drawn).iter(f"{SVG}circle"):
    name = circle.find(f"{SVG}title").text.split(":")[0]
    found.setdefault(name, []).append(float(circle.get("cx")))
  return found


@pytest.mark.parametrize("exact_known", [True, False])
def test_the_picture_holds_a_mark_for_each_figure(exact_known):
  drawn = screening_chart(record(exact_known))
  root = tree.fromstring(drawn)
  width, height = float(root.get("width")), float(root.get("height"))
  found = marks(drawn)
  columns = 4 if exact_known else 2
  assert {len(x) for x in found.values()} == {columns}
  assert "length" not in found  # it says nothing here
  assert drawn.count("n/a (0)") == columns
  assert ("oracle (exact)" in found) == exact_known
  for element in root.iter():
    for name, end in (("cx", width), ("x1", width), ("x2", width),
                      ("cy", height), ("y", height)):  # fmt: skip
      if element.get(name) is not None and element.tag != f"{SVG}rect":
        assert 0 <= float(element.get(name)) <= end, element.attrib
  assert all(x > LABELS for xs in found.values() for x in xs)
  assert "nan" not in drawn


def test_what_separates_better_is_drawn_further_right_of_chance():
  drawn = screening_chart(record())
  found = marks(drawn)
  lines = tree.fromstring(drawn).iter(f"{SVG}line")
  chance = [float(x.get("x1")) for x in lines if x.get("class") == "chance"]
  for column, middle in enumerate(chance):
    best, second = found["MI, as configured"], found["blank, λ = 0.8"]
    assert best[column] > second[column] > middle
  control = re.findall(r'<circle class="control"', drawn)
  assert len(control) == len(chance) == 4


def test_the_picture_asks_for_nothing():
  drawn = screening_chart(record())
  assert "<script" not in drawn
  assert "href" not in drawn
  assert "url(" not in drawn


def test_the_table_says_what_the_record_says():
  found = record()
  text = screening_table(found)
  of = found["scores"]["blank, lambda=0.8"]["exact"]
  line = next(x for x in text.splitlines() if "blank, λ = 0.8" in x)
  cells = re.split(r"  +", line.strip())
  assert cells == [
    "blank, λ = 0.8",
    shown(of["auc"]),
    str(of["auc"]["questions"]),
    shown(of["auc_over_likelihood"]),
    shown(of["auc_length_removed"]),
    shown(of["kept"]["difference"], 100),
    shown(of["first"]["difference"], 100),
    "n/a (0)",
  ]
  assert "best 2 less other 2" in text
  assert "<odd> & even" in text
  lengths = {len(x) for x in text.splitlines() if "±" in x and "  " in x[2:]}
  assert len(lengths) <= 4  # columns line up within each of the four tables


def test_the_table_says_what_is_left_out():
  text = screening_table(record(exact_known=False, kinds=("",)))
  assert "exact description: left out" in text
  assert "by kind" not in text


def test_a_target_without_both_kinds_has_no_rows_and_no_column():
  found = record(right=1.1)
  lines = screening_table(found).splitlines()
  assert lines[1:] == [
    f"{title}: 100.0 ± 0.0 % of 60 questions; none has both kinds"
    for title in ("exact description", "right answer")
  ]
  assert marks(screening_chart(found)) == {}


@pytest.mark.parametrize(
  ("mean", "se", "scale", "text"),
  [
    (0.5, 0.25, 1, "0.500 ± 0.250"),
    (0.5, 0.25, 100, "50.0 ± 25.0"),
    (0.5, None, 1, "0.500"),
    (None, None, 1, "n/a (3)"),
  ],
)
def test_a_figure_is_shown_with_its_error(mean, se, scale, text):
  assert shown({"mean": mean, "se": se, "questions": 3}, scale) == text
