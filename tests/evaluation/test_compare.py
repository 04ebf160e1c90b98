"""Paired tests between two evaluations, against scipy and closed forms."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.stats

from mirl_jax.evaluation import compare as cp
from mirl_jax.evaluation import figures as fig
from mirl_jax.evaluation.items import Item, Sample, append_items, start_items


def make_items(correct, groups):
  """Items of given verdicts [Q, n]; every right answer gets the same vote."""
  return [
    Item(
      id=f"q{q}",
      digest=f"d{q}",
      category="",
      group=str(group),
      question="?",
      options=(),
      answer="1",
      type="number",
      tokens=5,
      samples=tuple(
        Sample(
          "", "1", "1" if x else f"w{r}", float(x), "", None, True, True, 5
        )
        for r, x in enumerate(row)
      ),
    )
    for q, (row, group) in enumerate(zip(correct, groups, strict=True))
  ]


def write(workdir, name="set", **strategies):
  folder = fig.set_folder(workdir, name)
  for strategy, items in strategies.items():
    start_items(folder / f"{strategy}.jsonl", {"of": strategy})
    append_items(folder / f"{strategy}.jsonl", items)
  first = next(iter(strategies.values()))
  digests = {item.id: item.digest for item in first}
  fig.write_set(folder, fig.SetRecord(name, "p", "", "", 0, {}, digests))


@pytest.fixture(params=range(3))
def two(request, tmp_path):
  """Two runs' verdicts [Q, 1], and their work directories."""
  rng = np.random.default_rng(request.param)
  groups = np.repeat(np.arange(20), 2)
  ours, theirs = rng.random((40, 1)) < 0.7, rng.random((40, 1)) < 0.5
  write(tmp_path / "a", greedy=make_items(ours, groups))
  # In another order: the files name their questions.
  write(tmp_path / "b", greedy=make_items(theirs, groups)[::-1])
  return ours[:, 0], theirs[:, 0], groups, tmp_path


def test_a_difference_is_paired_by_question(two):
  ours, theirs, _, tmp_path = two
  text = cp.compare(str(tmp_path / "a"), str(tmp_path / "b"), ["set"], 0)
  file = fig.set_folder(tmp_path / "a", "set") / "against.json"
  (found,) = json.loads(file.read_text())["differences"]
  delta = ours.astype(float) - theirs
  assert found["difference"]["mean"] == pytest.approx(delta.mean())
  # Twenty groups of two: their means are independent.
  error = scipy.stats.sem(delta.reshape(20, 2).mean(1))
  assert found["difference"]["error"] == pytest.approx(error)
  b, c = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
  p = scipy.stats.binomtest(b, b + c).pvalue
  assert found["mcnemar"] == {
    "first_only": b,
    "second_only": c,
    "p": pytest.approx(p),
  }
  low, high = found["interval"]
  assert low < delta.mean() < high
  assert high - low == pytest.approx(2 * 1.96 * error, rel=0.2)
  assert f"McNemar {b}:{c}" in text
  # The same seed, the same bytes.
  before = file.read_bytes()
  cp.compare(str(tmp_path / "a"), str(tmp_path / "b"), ["set"], 0)
  assert file.read_bytes() == before


def test_several_samples_compare_by_mean_and_by_majority():
  rng = np.random.default_rng(0)
  groups = np.arange(30)
  ours, theirs = rng.random((30, 5)) < 0.7, rng.random((30, 3)) < 0.5
  record = fig.SetRecord("set", "p", "", "", 0, {}, {})
  sides = [
    fig.Evaluated(record, {"sampled": tuple(make_items(x, groups))})
    for x in (ours, theirs)
  ]
  mean, majority = cp.differences(*sides, seed=0)
  assert (mean.name, majority.name) == ("sampled/accuracy", "sampled/majority")
  assert mean.difference.mean == pytest.approx(
    ours.mean(1).mean() - theirs.mean(1).mean()
  )
  assert mean.mcnemar is None  # no verdict but a share
  # A wrong answer of its own never outvotes two right ones.
  assert majority.ours >= (ours.sum(1) >= 2).mean()


def test_the_bootstrap_has_the_evaluations_seed():
  rng = np.random.default_rng(0)
  ours, theirs, groups = rng.random(30), rng.random(30), np.arange(30)
  one, same, other = (
    cp.paired("x", ours, theirs, groups, s) for s in (0, 0, 1)
  )
  assert one == same
  assert one.interval != other.interval


def test_a_run_against_itself_differs_in_nothing(two):
  *_, tmp_path = two
  text = cp.compare(str(tmp_path / "a"), str(tmp_path / "a"), ["set"], 0)
  assert "McNemar 0:0 p = 1" in text


def test_other_questions_are_refused_with_their_number(two, tmp_path):
  ours, _, groups, _ = two
  items = make_items(ours[:, None], groups)
  changed = [dataclasses.replace(items[0], digest="other"), *items[1:37]]
  write(tmp_path / "c", greedy=changed)
  with pytest.raises(
    ValueError,
    match="40 questions here and 37 in .*3 questions are only here, 1 have"
    " another text.*same eval.sets and eval.limit",
  ):
    cp.compare(str(tmp_path / "a"), str(tmp_path / "c"), ["set"], 0)
  with pytest.raises(ValueError, match="3 only there"):
    cp.compare(str(tmp_path / "c"), str(tmp_path / "a"), ["set"], 0)


def test_a_run_without_the_set_is_refused_with_the_fix(two):
  *_, tmp_path = two
  with pytest.raises(ValueError, match="no evaluation of set 'nlvr'; run"):
    cp.check_other(str(tmp_path / "b"), ["set", "nlvr"])
  cp.check_other(str(tmp_path / "b"), ["set"])


def test_a_strategy_that_only_one_has_is_said(two, tmp_path):
  ours, _, groups, _ = two
  items = make_items(ours[:, None], groups)
  write(tmp_path / "d", greedy=items, screen=items)
  text = cp.compare(str(tmp_path / "d"), str(tmp_path / "b"), ["set"], 0)
  assert "screen" in text.splitlines()[-1]
  assert "greedy/accuracy" in text
