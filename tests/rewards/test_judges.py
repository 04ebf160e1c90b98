"""Mathematics and a user's judge, in worker processes."""

import textwrap
import time

import pytest

from mirl_jax import main
from mirl_jax.config import get_config
from mirl_jax.data.example import Example
from mirl_jax.rewards.judge import load
from mirl_jax.rewards.judges import (
  Judges,
  default_judges,
  make_judges,
  prepare,
  serving,
)
from mirl_jax.rewards.verdict import Ask, Verdict
from mirl_jax.rewards.verify import verify, verify_all


@pytest.fixture(scope="module")
def judges():
  with Judges(count=1) as found:
    yield found


def example(answer, kind="math"):
  return Example("x", (), "What?", answer, kind)


@pytest.mark.parametrize(
  ("kind", "answer", "prediction", "right"),
  [
    ("math", "\\frac{x+2}{7}", "\\frac{x}{7}+\\frac{2}{7}", True),
    ("math", "x+1", "x+2", False),
    ("math", "2x+3", "2y+3", False),
    ("math", "$2x+4y-3=0$", "$y=-\\frac{1}{2}x+\\frac{3}{4}$", True),
    ("math", "x \\geq 5", "x \\leq 5", False),
    ("math", "\\frac{1}{12}", "$0.0833333333333333$", True),
    ("math", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "(1,2)", False),
    ("math", "5", "4 or 5", False),
    ("math", "5", "\\boxed{4}, \\boxed{5}", False),
    ("math", "$\\{1,2\\}$", "\\boxed{2, 1}", True),
    ("free_form", "2√{3}", "2\\sqrt3", True),
    ("free_form", "2√{3}", "\\sqrt{12}", True),
    ("free_form", "2√{3}", "2", False),
    ("free_form", "2√{3}cm", "2√3", True),
    ("free_form", "2√{3}cm", "2√3 kg", False),
    ("free_form", "2", "\\sqrt{4}", True),
    ("free_form", "6", "2\\cdot 3", True),
    ("free_form", "5", "between 4 and 5", False),
    ("free_form", "3 circles", "3 squares", False),
    ("free_form", "3 circles", "3 circle", True),
    ("free_form", "3 circles", "3", True),
    ("free_form", "3 cm", "3 centimetres", True),
    ("free_form", "\\text{Evelyn}", "Evelyn", True),
  ],
)
def test_verdicts(judges, kind, answer, prediction, right):
  verdict = verify(prediction, example(answer, kind), judges)
  assert verdict.correct is right, verdict.reason


def test_a_batch_is_in_order_and_judges_each_question_once(judges):
  pairs = [("x+x", example("2x")), ("3x", example("2x")), ("7", example("7"))]
  verdicts = verify_all(pairs * 3, judges)
  assert [verdict.correct for verdict in verdicts] == [True, False, True] * 3
  assert verdicts[0] == verdicts[3]
  start = time.perf_counter()
  verify_all(pairs * 300, judges)  # nothing is computed again
  assert time.perf_counter() - start < 2


def test_a_judge_of_another_signature_abstains_with_its_error():
  with Judges(count=1, judge="time:sleep") as judges:
    (verdict,) = verify_all([("x", example("y", "judged"))], judges)
  assert verdict.abstains
  assert "TypeError" in verdict.reason


def test_costly_texts_never_reach_a_worker():
  prepared = prepare(Ask("math", "9^{9^{9}}", "5"))
  assert isinstance(prepared, Verdict)
  assert "power" in prepared.reason
  prepared = prepare(Ask("math", "5", "9^{9^{9}}"))
  assert isinstance(prepared, Verdict)
  assert "reference" in prepared.reason
  assert prepare(Ask("math", "2x", "x+x")) == ("$2x$", "$x+x$")


JUDGE = """
import time
def score(prediction, answer, question):
  if prediction == "hang":
    time.sleep(60)
  if prediction == "fail":
    raise RuntimeError("broken")
  if prediction == "unsure":
    return None
  if prediction == "much":
    return 7
  return 0.75 if question == "What?" and answer in prediction else 0.0
"""


def test_a_users_judge_scores_abstains_or_fails(tmp_path):
  path = tmp_path / "own.py"
  path.write_text(textwrap.dedent(JUDGE))
  texts = ["a cat sits", "a dog", "unsure", "fail", "much", "hang", "cat"]
  with Judges(count=1, judge=f"{path}:score", judge_deadline_s=1.0) as judges:
    found = verify_all([(x, example("cat", "judged")) for x in texts], judges)
    assert judges.restarts >= 1
  assert [v.score for v in found] == [0.75, 0.0, None, None, None, None, 1.0]
  assert [v.correct for v in found] == [True, *[False] * 5, True]
  assert [v.abstains for v in found] == [False, False, *[True] * 4, False]
  assert "broken" in found[3].reason
  assert "0..1" in found[4].reason
  assert "deadline of 1 s" in found[5].reason


def test_without_a_judge_free_text_abstains():
  verdict = verify("a cat", example("the cat sat", "judged"), default_judges())
  assert verdict.abstains
  assert "no judge" in verdict.reason
  assert verify("The cat sat.", example("the cat sat", "judged")).correct


def test_a_judge_that_is_not_there_is_a_clear_error(tmp_path):
  (tmp_path / "own.py").write_text("x = 1")
  for target, said in (
    ("score", "MODULE:FUNCTION"),
    (f"{tmp_path}/own.py:score", "no function 'score'"),
  ):
    with pytest.raises(ValueError, match=said):
      load(target)
    with Judges(judge=target) as judges, pytest.raises(ValueError, match=said):
      verify("a", example("b", "judged"), judges)


def test_closed_judges_say_so():
  judges = Judges(count=1)
  judges.close()
  with pytest.raises(ValueError, match="closed"):
    verify("x+x", example("2x"), judges)


def test_thresholds_follow_the_step():
  gold = Example("x", (), "?", "[0, 0, 10, 10]", "box")
  pair = ("[0, 0, 10, 8]", gold)
  with Judges(iou="0:0.5,100:0.75,200:0.9") as judges:
    found = [verify_all([pair], judges, s)[0] for s in (0, 99, 100, 199, 200)]
  assert [v.correct for v in found] == [True, True, True, True, False]
  for bad in ("", "x", "2", "5:0.5", "0:0.5,0:0.6", "0:0.5,9", "0:0"):
    with pytest.raises(ValueError, match="iou="):
      Judges(iou=bad)


def test_the_config_makes_the_judges_that_serve(tmp_path):
  config = get_config()
  config.verifier.iou = "0.9"
  path = tmp_path / "own.py"
  path.write_text(textwrap.dedent(JUDGE))
  config.verifier.judge = f"{path}:score"
  config.verifier.judge_deadline_s = 0.5
  pairs = [
    ("[0, 0, 10, 8]", Example("x", (), "?", "[0, 0, 10, 10]", "box")),
    ("a cat sits", example("cat", "judged")),
    ("hang", example("cat", "judged")),
  ]
  with serving(make_judges(config)):
    found = verify_all(pairs)
  assert [verdict.correct for verdict in found] == [False, True, False]
  assert "0.5 s" in found[2].reason
  assert verify(*pairs[0]).correct  # the process's plain judges serve again
  config.verifier.iou = "high"
  with pytest.raises(ValueError, match="verifier.iou='high'"):
    make_judges(config)


@pytest.mark.parametrize(
  ("field", "value"), [("workers", 0), ("deadline_s", 0.0), ("memory_mb", -1)]
)
def test_every_number_of_the_config_reaches_the_workers(field, value):
  config = get_config()
  config.verifier[field] = value
  with (
    make_judges(config) as judges,
    pytest.raises(ValueError, match=str(value)),
  ):
    verify("x+x", example("2x"), judges)


def test_a_comparison_past_its_deadline_is_wrong_and_the_pool_lives():
  with Judges(count=1, deadline_s=1e-4) as judges:
    pair = ("\\sqrt{12}+x", example("2\\sqrt{3}+x"))
    (late,) = verify_all([pair], judges)
    assert not late.correct
    assert "deadline" in late.reason
    assert judges.restarts == 1
  with Judges(count=1) as judges:
    assert verify(*pair, judges).correct


def test_a_bad_verifier_ends_a_run_with_one_line(tmp_path, capsys):
  flags = [f"--workdir={tmp_path}", "--config.verifier.iou=high"]
  assert main.run(flags) == main.BAD_ARGUMENT
  assert capsys.readouterr().err.startswith("error: verifier.iou='high'")
  flags[1] = f"--config.verifier.judge={tmp_path}/none.py:score"
  assert main.run(flags) == main.BAD_ARGUMENT
  assert "none.py" in capsys.readouterr().err
