import dataclasses

import numpy as np
import pytest

from mirl_jax import batching, build
from mirl_jax import testing_runs as runs
from mirl_jax.data.example import Example
from mirl_jax.evaluate import Strategy, draw
from mirl_jax.information.estimators import MI
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.program import Keep, Sample
from mirl_jax.screening import observe as ob
from mirl_jax.start import load_roles

N = 4  # of the small run
SEE, THINK = Sample("see", 6, 9, "</d>"), Sample("think", 2, 9, "</a>")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
  """An observer of batches of 4, parameters by role, and 6 questions."""
  # Scored at another temperature than sampled, so that the clean log-probs
  # are not the sampler's.
  config = runs.small_config("--config.mi.temperature=0.9")
  policy = build.make_policy(config)
  workdir = str(tmp_path_factory.mktemp("none"))
  roles, _ = load_roles(config, workdir, policy)
  questions = build.held_out(config, policy, 6, workdir)
  return make_observer(config, policy, True), roles, questions


def make_observer(config, policy, with_mi):
  mi = build.make_mi(config) if with_mi else None
  return ob.make_observer(
    policy,
    batching.make_batcher(config, policy, mi),
    build.make_program(config, False),
    mi,
    4,
  )


def observed(parts, questions=None):
  observer, roles, held = parts
  key = build.place_key(3, observer.policy)
  return ob.observe(observer, roles, questions or held, key)


@pytest.fixture(scope="module")
def data(parts):
  return observed(parts)


def test_shapes_and_names(data):
  for name in ("length", "finished", "exact", "correct"):
    assert getattr(data, name).shape == (6, N)
  views = {name.split(",")[0] for name in data.scores}
  assert views == {*ob.VIEWS, "mi", "likelihood", "length", "shuffled"}
  assert len(data.scores) == len(ob.VIEWS) * (len(ob.LAMBDAS) + 1) + 5
  for name, score in data.scores.items():
    np.testing.assert_array_equal(np.isnan(score), ~data.finished, name)
  assert data.finished.any()
  assert set(data.exact.ravel()) <= {0, 1}


def test_scores_are_those_that_a_program_keeps_by(parts, data):
  """The engine scores the same draws to the same MI and likelihood."""
  observer, roles, questions = parts
  policy = observer.policy
  rollout = Rollout(
    policy.config,
    observer.rollout.program,
    build.make_stops(observer.rollout.program, policy.processor),
    policy.mesh,
    observer.mi,
    policy.dtype,
  )
  tree, read = draw(
    Strategy("test", rollout, True),
    roles,
    observer.batchers[observer.mi.view],
    questions[:4],
    build.place_key(3, policy),
  )
  level, finished = tree.levels[0], data.finished[:4]
  tokens = np.maximum(level.sampled.sum(-1), 1).reshape(4, N)
  clean, prior = (level.scores[x].reshape(4, N) for x in ("clean", "prior"))
  for name, wanted in (
    ("mi", level.scores["mi"].reshape(4, N)),
    ("likelihood, mean", level.scores["likelihood"].reshape(4, N)),
    ("blank, lambda=0.4", (clean - 0.4 * prior) / tokens),
    ("blank, sum", clean - prior),
  ):
    np.testing.assert_allclose(
      data.scores[name][:4][finished], wanted[finished], atol=2e-4
    )
  np.testing.assert_array_equal(data.length[:4], tokens)
  np.testing.assert_array_equal(
    data.correct[:4], read[-1].rewards["correct"].reshape(4, N, -1).mean(-1)
  )


def test_batches_do_not_matter_where_no_other_question_stands_in(parts, data):
  """The last two questions again, alone in a batch that is filled with them."""
  _, _, questions = parts
  small = observed(parts, questions[4:])
  for name, score in data.scores.items():
    if name.startswith("other") or name == "shuffled":
      continue
    np.testing.assert_allclose(small.scores[name], score[4:], atol=2e-5)
  np.testing.assert_array_equal(small.correct, data.correct[4:])
  # Three stand-ins of two questions show each its own picture.
  assert np.isnan(small.scores["other, lambda=1"]).all()
  assert np.isfinite(small.scores["shuffled"][small.finished]).all()


def test_the_control_is_another_pictures_gain(parts, data):
  """Where all pictures are one, it is MI itself."""
  _, _, questions = parts
  first = questions[0]
  alike = [
    dataclasses.replace(first, id=f"copy {i}", group=f"{i}") for i in range(6)
  ]
  same = observed(parts, alike)
  mine = same.scores["blank, lambda=1"]
  np.testing.assert_allclose(same.scores["shuffled"], mine, atol=2e-5)
  away = np.abs(data.scores["shuffled"] - data.scores["blank, lambda=1"])
  assert np.nanmean(away) > 0.05


def test_a_stand_in_never_shows_the_questions_own_group(parts):
  _, _, questions = parts
  grouped = [
    dataclasses.replace(e, group="one" if i < 4 else f"{i}")
    for i, e in enumerate(questions)
  ]
  data = observed(parts, grouped)
  order = ob.dealt(grouped)
  # One of each group first, so that only the rest of "one" stand together.
  assert [e.group for e in order] == ["one", "4", "5", "one", "one", "one"]
  # The fourth is followed by the first; the last two by one another.
  mixed = np.isnan(data.scores["shuffled"]).all(1)
  assert mixed.tolist() == [False, False, False, True, True, True]
  assert np.isfinite(data.scores["mi"][data.finished]).all()


def test_without_mi_the_first_stage_is_scored_by_the_policy(parts):
  observer, roles, questions = parts
  config = runs.small_config()
  bare = make_observer(config, observer.policy, False)
  names = bare.mi.view, "blank"  # as much as is looked at here
  bare = dataclasses.replace(
    bare,
    rollout=observer.rollout,
    batchers={name: bare.batchers[name] for name in names},
    scorers={name: bare.scorers[name] for name in names},
  )
  data = observed((bare, roles, questions[:4]))
  assert "mi" not in data.scores
  # A policy scores its own draws to what its sampler said: λ = 0 in effect.
  total = data.scores["likelihood, sum"]
  gain = data.scores["blank, sum"]
  prior = (total - gain) / data.length
  wanted = (total - 0.4 * (total - gain)) / data.length
  np.testing.assert_allclose(
    data.scores["blank, lambda=0.4"], wanted, atol=1e-4
  )
  assert np.nanmean(prior) < np.nanmean(total / data.length)


def test_a_reference_is_taken_at_its_word_where_no_checker_is_known(parts):
  _, _, questions = parts
  bare = [dataclasses.replace(e, check=None) for e in questions]
  known = observed(parts, bare)
  assert set(known.exact.ravel()) == {0, 1}
  nothing = [dataclasses.replace(e, description="") for e in bare]
  assert np.isnan(observed(parts, nothing).exact).all()


def test_examples_are_dealt_out_by_group():
  def example(i, group):
    return Example(f"{i}", (), "?", "", group=group)

  given = [example(i, g) for i, g in enumerate("aabca")]
  given.append(example(5, ""))
  order = [e.id for e in ob.dealt(given)]
  assert order == ["0", "2", "3", "5", "1", "4"]


@pytest.mark.parametrize(
  ("stages", "level", "kept"),
  [
    ((SEE, Keep(4), THINK), 0, 4),
    ((SEE, Keep(4), THINK), 1, 3),
    ((SEE, Keep(6), THINK), 0, 3),
    ((SEE, Keep(2, "all"), THINK), 0, 3),
    ((SEE, THINK), 0, 3),
    ((THINK,), 0, 3),
  ],
)
def test_how_many_are_kept(stages, level, kept):
  assert ob.kept_count(stages, level, 6) == kept
  forked = ob.forked_program(stages)
  assert all(s.by == "all" for s in forked if isinstance(s, Keep))
  assert len(forked) == len(stages)


def test_the_scored_stage_is_that_of_mi():
  program = (SEE, Keep(4), THINK)
  assert ob.scored_stage(program, None) == 0
  assert ob.scored_stage(program, MI(stage="think")) == 1


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_configured_estimator_stands_for_its_view(batch):
  own = MI(view="masked", views=3, prior_weight=0.3, clip=2.0, scorer="ema")
  made = ob.estimators(own, batch)
  assert made["masked"] is own
  assert {mi.scorer for mi in made.values()} == {"ema"}
  assert made["blank"].clip == 0
  assert ("other" in made) == ("shuffled" in made) == (batch > 1)
  if batch > 1:
    assert made["other"].views == min(4, batch - 1)
    assert (made["shuffled"].view, made["shuffled"].views) == (
      "other_same_question",
      1,
    )
