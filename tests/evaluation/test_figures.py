"""Figures are those of the statistics, from the files alone."""

import dataclasses
import json

import numpy as np
import pytest

from mirl_jax import statistics as st
from mirl_jax.evaluation import figures as fig
from mirl_jax.evaluation.items import Item, Sample, append_items, start_items


def make_items(seed, questions=12, n=3, unknown=()):
  """Random items; groups of two questions, three categories."""
  rng = np.random.default_rng(seed)
  made = []
  for q in range(questions):
    samples = tuple(
      Sample(
        text=f"text {q} {r}",
        answer=str(answer),
        vote=str(answer) if answer else None,
        correct=None if q in unknown else float(answer == 1),
        reason="",
        exact=float(rng.random() < 0.5) if q % 2 else None,
        tags=bool(rng.random() < 0.7),
        finished=bool(rng.random() < 0.8),
        tokens=int(rng.integers(1, 9)),
      )
      for r, answer in enumerate(rng.integers(0, 3, n))
    )
    made.append(
      Item(
        id=f"q{q}",
        digest=f"d{q}",
        category="abc"[q % 3],
        group=f"g{q // 2}",
        question="?",
        options=(),
        answer="1",
        type="number",
        tokens=int(rng.integers(5, 50)),
        samples=samples,
      )
    )
  return made


def write(folder, **strategies):
  """Writes a set's files; the record's questions are greedy's."""
  for name, items in strategies.items():
    path = folder / f"{name}.jsonl"
    start_items(path, {"of": name})
    append_items(path, items)
  first = next(iter(strategies.values()))
  record = fig.SetRecord(
    folder.name, "p", "", "", 2, {}, {item.id: item.digest for item in first}
  )
  fig.write_set(folder, record)
  return record


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_the_statistics_of_the_samples(seed):
  items = make_items(seed)
  found = fig.figures("sampled", items)
  groups = np.array([item.group for item in items])
  correct = np.array([[s.correct for s in item.samples] for item in items])
  assert found["accuracy"] == st.avg_at_n(correct, groups)
  for k in (1, 2, 3):
    assert found[f"pass_at_{k}"] == st.pass_at_k(correct, k, groups)
  assert found["pass_at_1"].mean == pytest.approx(found["accuracy"].mean)
  votes = [[s.vote for s in item.samples] for item in items]
  assert found["majority_at_3"] == st.majority_at_k(votes, correct, 3, groups)
  voted = np.array([[v is not None for v in row] for row in votes])
  assert found["coverage"].mean == pytest.approx(voted.mean())
  cut = np.array([[not s.finished for s in item.samples] for item in items])
  assert found["truncated"].mean == pytest.approx(cut.mean())
  tokens = np.array([float(item.tokens) for item in items])
  assert found["tokens"] == st.mean_and_error(tokens, groups)
  # Only questions with a checker say how exact descriptions are.
  exact = [s.exact for item in items[1::2] for s in item.samples]
  assert found["exact"].mean == pytest.approx(np.mean(exact))


def test_a_question_without_a_reference_is_drawn_but_not_judged():
  items = make_items(0, unknown=(2, 7))
  known = [item for i, item in enumerate(items) if i not in (2, 7)]
  found, alone = (fig.figures("sampled", x) for x in (items, known))
  for name in ("accuracy", "pass_at_2", "majority_at_3"):
    assert found[name] == alone[name]
  assert found["tokens"].count == alone["tokens"].count
  nothing = fig.figures("sampled", make_items(0, unknown=range(12)))
  assert "accuracy" not in nothing
  assert {"coverage", "tokens"} <= nothing.keys()


def test_pass_at_k_needs_independent_samples():
  """The reasonings of one description are no independent draws."""
  items = make_items(1)
  assert "pass_at_2" not in fig.figures("screen", items)
  any_right = [max(s.correct for s in item.samples) for item in items]
  found = fig.figures("screen", items)["pass_at_3"]
  assert found.mean == pytest.approx(np.mean(any_right))
  greedy = [dataclasses.replace(x, samples=x.samples[:1]) for x in items]
  assert (
    not {"pass_at_1", "majority_at_1"} & fig.figures("greedy", greedy).keys()
  )


def test_questions_of_a_figure_are_right_together():
  items = make_items(2, n=2)
  joint = [
    dataclasses.replace(item, joint={"figures": f"f{i // 3}"})
    for i, item in enumerate(items)
  ]
  correct = fig.correctness(items).reshape(4, 3, 2)
  found = fig.figures("sampled", joint)["all_of_figures"]
  assert found.mean == pytest.approx(correct.all(axis=1).mean())
  assert "all_of_figures" not in fig.figures("sampled", items)


def test_categories_add_up():
  items = make_items(3)
  split = fig.by_category("sampled", items)
  assert {name: count for name, (count, _) in split.items()} == {
    "a": 4,
    "b": 4,
    "c": 4,
  }
  mean = np.mean([found["accuracy"].mean for _, found in split.values()])
  assert fig.figures("sampled", items)["accuracy"].mean == pytest.approx(mean)


def test_figures_are_made_of_the_files_again(tmp_path):
  folder = tmp_path / "shapes"
  items = make_items(4)
  write(
    folder,
    greedy=[dataclasses.replace(x, samples=x.samples[:1]) for x in items],
    sampled=items[::-1],
  )
  evaluated = fig.write_figures(folder)
  assert evaluated.items["sampled"] == tuple(items)  # in the record's order
  first = (folder / fig.FIGURES_FILE).read_bytes()
  (folder / fig.FIGURES_FILE).unlink()
  fig.write_figures(folder)
  assert (folder / fig.FIGURES_FILE).read_bytes() == first
  record = json.loads(first)
  assert (record["questions"], record["bad_rows"]) == (12, 2)
  found = record["strategies"]["sampled"]
  assert found["figures"]["accuracy"]["mean"] == pytest.approx(
    fig.correctness(items).mean()
  )
  assert found["categories"]["b"]["questions"] == 4
  text = fig.table(evaluated)
  assert "shapes: 12 questions in 6 groups, 2 bad rows" in text
  assert "pass@3" in text
  assert "accuracy by category" in text


def test_only_the_records_questions_count(tmp_path):
  """More were drawn before, under a larger limit; one has another text now."""
  folder = tmp_path / "set"
  items = make_items(5)
  write(folder, sampled=items)
  fewer = {item.id: item.digest for item in items[:5]}
  record = fig.SetRecord("set", "p", "", "", 0, {}, fewer)
  fig.write_set(folder, record)
  assert fig.read_set_files(folder).items["sampled"] == tuple(items[:5])
  fig.write_set(
    folder, dataclasses.replace(record, digests={**fewer, "q1": "other"})
  )
  assert fig.read_set_files(folder).items == {}


def test_a_strategy_that_another_policy_drew_is_left_out(tmp_path):
  """An earlier step was screened, too; this one was not."""
  folder = tmp_path / "set"
  items = make_items(5)
  write(folder, sampled=items, screen=items)
  digests = {item.id: item.digest for item in items}
  record = fig.SetRecord("set", "p", "", "", 0, {"of": "sampled"}, digests)
  fig.write_set(folder, record)
  assert list(fig.read_set_files(folder).items) == ["sampled"]


def test_a_set_that_was_not_evaluated_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="was not evaluated"):
    fig.read_set_files(tmp_path / "set")
  (tmp_path / "set").mkdir()
  (tmp_path / "set" / fig.SET_FILE).write_text('{"name": "set"}')
  with pytest.raises(ValueError, match="evaluate the set again"):
    fig.read_set_files(tmp_path / "set")


def test_where_all_are_alike_an_error_of_zero_is_not_shown(tmp_path):
  items = [
    dataclasses.replace(
      item,
      group="",
      samples=(dataclasses.replace(item.samples[0], correct=0.0),),
    )
    for item in make_items(6)
  ]
  write(tmp_path / "set", greedy=items)
  text = fig.table(fig.read_set_files(tmp_path / "set"))
  _, high = st.wilson_interval(0, 12)
  assert f"0.0 in 0.0..{100 * high:.1f} %" in text
