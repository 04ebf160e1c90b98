"""`--mode=eval` from eval.sets to its files, with a scripted policy."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from mirl_jax import evaluate as ev
from mirl_jax import inspection
from mirl_jax import testing_runs as runs
from mirl_jax.evaluation import run
from mirl_jax.testing_scripted import Scripted, response

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(
  not SHARED.is_dir(), reason="needs the shared data"
)
csv.field_size_limit(sys.maxsize)


class Guesses(Scripted):
  """Answers each question with the letter of a seeded guess."""

  def __init__(self, processor, seed, count):
    self.processor, self.program = processor, ()
    self.seed, self.count, self.batches = seed, count, []

  @property
  def texts(self):
    return self

  def __getitem__(self, question):
    rng = np.random.default_rng([self.seed, question])
    return [response("ABCD"[i]) for i in rng.integers(4, size=self.count)]

  @property
  def row(self):
    return self.Any()

  class Any:
    """Every question's number is its hash."""

    def __getitem__(self, question):
      return question


@pytest.fixture
def evaluated(monkeypatch):
  """Evaluates in one go; returns eval.json and what was drawn."""

  def go(workdir, *flags, seed=0):
    made = []

    def strategies(policy, program, mi, n, screen):
      made.extend(
        ev.Strategy(name, Guesses(policy.processor, seed, count), False)
        for name, count in (("greedy", 1), ("sampled", n))
      )
      return made

    monkeypatch.setattr(run, "make_strategies", strategies)
    assert inspection.eval(runs.small_config(*flags), str(workdir)) == 0
    record = json.loads((workdir / "eval.json").read_text())
    return record, [len(s.rollout.batches) for s in made]

  return go


@needs_data
def test_a_tsv_is_evaluated_resumed_and_compared(evaluated, tmp_path, capsys):
  source = SHARED / "bench_tsv" / "mcq_puzzlevqa.tsv"
  flags = (f"--config.eval.sets={source}", "--config.eval.samples=3")
  one = tmp_path / "one"
  record, drawn = evaluated(one, *flags, "--config.eval.limit=12")
  assert drawn == [2, 2]  # batches of eight
  assert record["eval/mcq_puzzlevqa/questions"] == 12
  assert 0 <= record["eval/mcq_puzzlevqa/greedy/accuracy"] <= 1
  # More questions: only these are drawn.
  record, drawn = evaluated(one, *flags)
  assert record["eval/mcq_puzzlevqa/questions"] == 40
  assert drawn == [4, 4]
  folder = one / "eval" / "mcq_puzzlevqa"
  before = (folder / "sampled.jsonl").read_bytes()
  again, drawn = evaluated(one, *flags)
  assert drawn == [0, 0]
  assert again == record
  assert (folder / "sampled.jsonl").read_bytes() == before
  # What VLMEvalKit scores by exact matching is what we report.
  with (folder / "one-greedy_mcq_puzzlevqa.tsv").open(newline="") as file:
    rows = list(csv.DictReader(file, delimiter="\t"))
  assert [row["index"] for row in rows] == [str(i) for i in range(40)]
  hits = np.mean([row["prediction"] == row["answer"] for row in rows])
  assert hits == record["eval/mcq_puzzlevqa/greedy/accuracy"]
  capsys.readouterr()
  # Another policy on the same questions.
  against = f"--config.eval.against={one}"
  evaluated(tmp_path / "two", *flags, against, seed=1)
  out = capsys.readouterr().out
  assert "greedy/accuracy" in out
  assert "McNemar" in out
  assert (tmp_path / "two/eval/mcq_puzzlevqa/against.json").is_file()


@needs_data
def test_several_sets_have_tables_of_their_own(evaluated, tmp_path, capsys):
  vqa = SHARED / "vqa"
  sets = f"--config.eval.sets={vqa / 'nlvr'},pz={vqa / 'puzzlevqa'}"
  record, _ = evaluated(tmp_path, sets, "--config.eval.limit=16")
  assert record["eval/nlvr/questions"] == record["eval/pz/questions"] == 16
  out = capsys.readouterr().out
  assert "nlvr: 16 questions" in out
  assert "pz: 16 questions" in out
  assert "accuracy by category" in out  # puzzlevqa has several
  assert {f.name for f in (tmp_path / "eval").iterdir()} == {"nlvr", "pz"}


def test_the_other_run_is_asked_for_before_anything_is_drawn(
  evaluated, tmp_path
):
  with pytest.raises(ValueError, match="no evaluation of set 'held_out'"):
    evaluated(tmp_path, f"--config.eval.against={tmp_path / 'none'}")
  assert not (tmp_path / "eval" / "held_out" / "greedy.jsonl").exists()


def test_a_negative_limit_is_refused(evaluated, tmp_path):
  with pytest.raises(ValueError, match="eval.limit=-1"):
    evaluated(tmp_path, "--config.eval.limit=-1")


def test_held_out_questions_are_those_of_the_loop(evaluated, tmp_path):
  record, _ = evaluated(tmp_path)
  assert record["questions"] == 8
  assert "eval/greedy/accuracy" in record
  ids = json.loads((tmp_path / "eval/held_out/set.json").read_text())["digests"]
  assert len(ids) == 8
