"""Credit against loops, and the properties that decoupling promises."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import jit

from mirl_jax.learning import credit
from mirl_jax.learning.credit import Guards, Term, centre, compute
from mirl_jax.rollout.tree import Level

NAMES = ("see", "think")
B, N, K, F, T = 3, 5, 3, 2, 4
# Sums of a dozen float32 values of order one.
CLOSE = 1e-5


def make_level(rng, k, f, parent, kept=None, scores=None, finished=None):
  length = rng.integers(1, T + 1, (B, k, f))
  mask = np.arange(T) < length[..., None]
  return Level(
    tokens=jnp.zeros((B, k, f, T), jnp.int32),
    mask=jnp.asarray(mask),
    sampled=jnp.asarray(mask),
    logprobs=jnp.zeros((B, k, f, T)),
    parent=jnp.asarray(parent, jnp.int32),
    finished=jnp.ones((B, k, f), bool) if finished is None else finished,
    kept=jnp.ones((B, k, f), bool) if kept is None else jnp.asarray(kept),
    scores={n: jnp.asarray(s, jnp.float32) for n, s in (scores or {}).items()},
  )


def make_tree(seed, scores=None, finished=None):
  """Five descriptions, the first three of a random order kept, two forks."""
  rng = np.random.default_rng(seed)
  order = np.argsort(rng.random((B, N)), axis=1)
  parent = order[:, :K]
  kept = np.zeros((B, N), bool)
  np.put_along_axis(kept, parent, True, axis=1)
  if scores is None:
    scores = {
      "mi": rng.normal(size=(B, 1, N)),
      "likelihood": rng.normal(size=(B, 1, N)),
    }
  levels = (
    make_level(rng, 1, N, np.zeros((B, 1)), kept[:, None], scores, finished),
    make_level(rng, K, F, parent, scores={"likelihood": np.zeros((B, K, F))}),
  )
  correct = rng.integers(0, 2, (B, K, F)).astype(np.float32)
  return levels, {"see": {}, "think": {"correct": jnp.asarray(correct)}}


def run(levels, rewards, *terms, guards=None, memory=None):
  return compute(
    levels,
    NAMES,
    rewards,
    terms,
    guards or Guards(),
    memory or credit.empty_memory(),
  )


def zscore(values):
  """Of one group of finite values, by hand."""
  values = np.asarray(values, np.float64)
  spread = values.std()
  if spread < 1e-5:
    return np.zeros_like(values)
  return (values - values.mean()) / (spread + 1e-6)


GROUPS = {
  "question": lambda b, k, f: b,
  "siblings": lambda b, k, f: (b, k),
  "batch": lambda b, k, f: 0,
}


@pytest.mark.parametrize("group", sorted(GROUPS))
@pytest.mark.parametrize("std", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_centre_matches_a_loop(group, std, seed):
  rng = np.random.default_rng(seed)
  values = rng.normal(size=(B, K, F + 1)).astype(np.float32)
  values[0, 0] = 0.5  # one group of siblings without spread
  valid = rng.random(values.shape) < 0.7
  values[~valid] = rng.choice([np.nan, np.inf, -np.inf, 1e30])
  expected = np.zeros(values.shape)
  cells = list(np.ndindex(*values.shape))
  for key in {GROUPS[group](*c) for c in cells}:
    mine = [c for c in cells if GROUPS[group](*c) == key and valid[c]]
    if not mine:
      continue
    found = np.array([values[c] for c in mine], np.float64)
    off = zscore(found) if std else found - found.mean()
    for c, value in zip(mine, off, strict=True):
      expected[c] = value
  got = centre(jnp.asarray(values), jnp.asarray(valid), group, std)
  np.testing.assert_allclose(got, expected, atol=CLOSE)


def test_group_none_leaves_values_and_silences_abstainers():
  values = jnp.asarray([[[1.0, np.nan], [3.0, 4.0]]])
  got = centre(values, jnp.isfinite(values), "none", False)
  np.testing.assert_array_equal(got, [[[1, 0], [3, 4]]])


def test_no_spread_gives_zero_even_when_rounding_moves_the_mean():
  # .1 has no exact float32 form: the mean of seven differs in the last bit.
  values = jnp.full((1, 1, 7), 0.1, jnp.float32)
  ok = jnp.ones(values.shape, bool)
  np.testing.assert_array_equal(centre(values, ok, "question", True), 0)


def test_children_mean_matches_a_loop_and_leaves_out_abstainers():
  levels, rewards = make_tree(3)
  correct = np.array(rewards["think"]["correct"])
  correct[0, 0] = np.nan  # all of one parent's children abstain
  correct[1, 2, 0] = np.nan
  got = credit.children_mean(
    levels[0].kept, levels[1].parent, jnp.asarray(correct)
  )
  expected = np.full((B, 1, N), np.nan)
  for b in range(B):
    for k in range(K):
      heard = correct[b, k][~np.isnan(correct[b, k])]
      if len(heard):
        expected[b, 0, int(levels[1].parent[b, k])] = heard.mean()
  np.testing.assert_allclose(got, expected)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_children_term_is_standardised_over_the_kept_and_zero_elsewhere(seed):
  levels, rewards = make_tree(seed)
  adv, _, _ = run(levels, rewards, Term("see", "children:correct", 0.5))
  expected = np.zeros((B, 1, N))
  for b in range(B):
    means = np.asarray(rewards["think"]["correct"])[b].mean(axis=1)
    expected[b, 0, np.asarray(levels[1].parent)[b]] = 0.5 * zscore(means)
  np.testing.assert_allclose(adv[0], expected, atol=CLOSE)
  np.testing.assert_array_equal(adv[0][~np.asarray(levels[0].kept)], 0)
  np.testing.assert_array_equal(adv[1], 0)


def test_children_term_is_zero_where_all_parents_do_equally_well():
  levels, rewards = make_tree(0)
  rewards["think"]["correct"] = jnp.tile(jnp.asarray([1.0, 0.0]), (B, K, 1))
  adv, _, _ = run(levels, rewards, Term("see", "children:correct"))
  np.testing.assert_array_equal(adv[0], 0)


MIRL = (
  Term("see", "mi", 0.7),
  Term("think", "correct", 1.3),
)


@pytest.mark.parametrize("seed", [0, 1])
def test_decoupled_mi_never_moves_reasonings_nor_correctness_descriptions(seed):
  levels, rewards = make_tree(seed)
  base, _, _ = run(levels, rewards, *MIRL)
  rng = np.random.default_rng(seed + 100)
  other_mi = {**levels[0].scores, "mi": jnp.asarray(rng.normal(size=(B, 1, N)))}
  moved = (levels[0].replace(scores=other_mi), levels[1])
  adv, _, _ = run(moved, rewards, *MIRL)
  np.testing.assert_array_equal(adv[1], base[1])
  assert np.abs(np.asarray(adv[0] - base[0])).max() > 0.1
  flipped = {"think": {"correct": 1 - rewards["think"]["correct"]}}
  adv, _, _ = run(levels, flipped, *MIRL)
  np.testing.assert_array_equal(adv[0], base[0])
  np.testing.assert_allclose(adv[1], -base[1], atol=CLOSE)


def test_eta_couples_and_terms_add_after_normalising():
  levels, rewards = make_tree(1)
  eta = Term("see", "children:correct", 0.4)
  mi, child = (run(levels, rewards, t)[0][0] for t in (MIRL[0], eta))
  both = run(levels, rewards, MIRL[0], eta)[0][0]
  np.testing.assert_allclose(both, mi + child, atol=CLOSE)
  assert np.abs(np.asarray(child)).max() > 0.1
  # Normalising precedes the sum: the scale of a reward is immaterial.
  loud = {**levels[0].scores, "mi": 1000 * levels[0].scores["mi"] + 7}
  scaled = (levels[0].replace(scores=loud), levels[1])
  got = run(scaled, rewards, MIRL[0], eta)[0][0]
  np.testing.assert_allclose(got, both, atol=1e-4)


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_baselines_of_the_reasonings(group):
  levels, rewards = make_tree(5)
  adv, _, _ = run(levels, rewards, Term("think", "correct", 1.0, group))
  correct = np.asarray(rewards["think"]["correct"])
  expected = np.zeros(correct.shape)
  if group == "batch":
    expected = zscore(correct)
  for b in range(B):
    if group == "question":
      expected[b] = zscore(correct[b])
    for k in range(K):
      if group == "siblings":
        expected[b, k] = zscore(correct[b, k])
  np.testing.assert_allclose(adv[1], expected, atol=CLOSE)


def test_baseline_none_keeps_the_level_of_the_reward():
  levels, rewards = make_tree(5)
  correct = np.asarray(rewards["think"]["correct"])
  plain = Term("think", "correct", 2.0, "none", std=False)
  adv, _, _ = run(levels, rewards, plain)
  np.testing.assert_array_equal(adv[1], 2 * correct)
  adv, _, _ = run(levels, rewards, Term("think", "correct", 1.0, "none"))
  for b in range(B):
    spread = correct[b].std()
    want = correct[b] / (spread + 1e-6) if spread > 0 else 0 * correct[b]
    np.testing.assert_allclose(adv[1][b], want, atol=CLOSE)


def test_nan_abstains_and_leaves_the_others_as_if_it_were_not_there():
  levels, rewards = make_tree(6)
  correct = np.array(rewards["think"]["correct"])
  correct[0] = [[1, 0], [np.nan, 1], [0, np.nan]]
  adv, _, metrics = run(
    levels,
    {"think": {"correct": jnp.asarray(correct)}},
    Term("think", "correct"),
  )
  z = zscore([1, 0, 1, 0])
  want = [[z[0], z[1]], [0, z[2]], [z[3], 0]]
  np.testing.assert_allclose(adv[1][0], want, atol=CLOSE)
  assert all(np.isfinite(v).all() for v in metrics.values())


def test_a_question_whose_nodes_all_abstain_or_agree_teaches_nothing():
  levels, _ = make_tree(6)
  correct = np.zeros((B, K, F), np.float32)
  correct[0] = np.nan
  correct[1] = 1
  correct[2, 0, 0] = 1
  adv, _, metrics = run(
    levels, {"think": {"correct": jnp.asarray(correct)}}, *MIRL
  )
  np.testing.assert_array_equal(adv[1][:2], 0)
  assert np.abs(np.asarray(adv[1][2])).max() > 1
  assert metrics["no_contrast/think"] == pytest.approx(2 / 3)


def test_length_cap_gives_overlong_nodes_the_questions_lowest_mi():
  levels, rewards = make_tree(7)
  mi = np.asarray(levels[0].scores["mi"])[:, 0]
  length = np.asarray(levels[0].sampled).sum(-1)[:, 0]
  assert (length > 2).any()
  assert (length <= 2).any()
  term = Term("see", "mi")
  free = run(levels, rewards, term)[0][0]
  adv = run(levels, rewards, term, guards=Guards(length_cap=2))[0][0]
  for b in range(B):
    capped = np.where(length[b] > 2, mi[b].min(), mi[b])
    np.testing.assert_allclose(adv[b, 0], zscore(capped), atol=CLOSE)
  best = mi.argmax(axis=1)
  long_best = [b for b in range(B) if length[b, best[b]] > 2]
  assert long_best, "choose a seed where the best node is overlong"
  for b in long_best:  # the guard flips the sign of what the best one earns
    assert free[b, 0, best[b]] > 0 > adv[b, 0, best[b]]


def test_truncated_nodes_get_the_questions_lowest_mi():
  rng = np.random.default_rng(0)
  finished = jnp.asarray(rng.random((B, 1, N)) < 0.6)
  levels, rewards = make_tree(8, finished=finished)
  mi = np.asarray(levels[0].scores["mi"])[:, 0]
  adv = run(levels, rewards, Term("see", "mi"))[0][0]
  for b in range(B):
    capped = np.where(np.asarray(finished)[b, 0], mi[b], mi[b].min())
    np.testing.assert_allclose(adv[b, 0], zscore(capped), atol=CLOSE)


def test_guards_leave_other_scores_alone():
  levels, rewards = make_tree(8, finished=jnp.zeros((B, 1, N), bool))
  term = Term("see", "likelihood")
  guarded = Guards(length_cap=1, trust=True)
  np.testing.assert_array_equal(
    run(levels, rewards, term, guards=guarded)[0][0],
    run(levels, rewards, term)[0][0],
  )


def test_a_non_finite_mi_spoils_no_other_node():
  levels, rewards = make_tree(9)
  mi = np.array(levels[0].scores["mi"])
  mi[0, 0, 1], mi[1, 0, 2] = np.nan, -np.inf
  finished = np.ones((B, 1, N), bool)
  finished[:, :, 0] = False
  level = levels[0].replace(
    scores={"mi": jnp.asarray(mi)}, finished=jnp.asarray(finished)
  )
  adv = run((level, levels[1]), rewards, Term("see", "mi"))[0][0]
  assert np.isfinite(adv).all()
  assert adv[0, 0, 1] == adv[1, 0, 2] == 0
  for b in range(B):
    fine = np.isfinite(mi[b, 0])
    value = mi[b, 0][fine]
    value[0] = value.min()
    np.testing.assert_allclose(adv[b, 0][fine], zscore(value), atol=CLOSE)


@pytest.mark.parametrize(
  ("auc", "share"), [(0.3, 0), (0.5, 0), (0.55, 0.5), (0.6, 1), (0.9, 1)]
)
def test_trust_scales_the_mi_term_by_its_record(auc, share):
  levels, rewards = make_tree(10)
  memory = credit.empty_memory().replace(auc=jnp.asarray(auc, jnp.float32))
  terms = (MIRL[0], Term("see", "likelihood", 0.1))
  free = run(levels, rewards, MIRL[0], memory=memory)[0][0]
  rest = run(levels, rewards, terms[1])[0][0]
  adv = run(levels, rewards, *terms, guards=Guards(trust=True), memory=memory)[
    0
  ][0]
  np.testing.assert_allclose(adv, share * free + rest, atol=CLOSE)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pair_auc_against_every_pair(seed):
  rng = np.random.default_rng(seed)
  scores = rng.integers(0, 4, (B, 6)).astype(np.float32)  # with ties
  labels = rng.integers(0, 3, (B, 6)).astype(np.float32) / 2
  valid = rng.random((B, 6)) < 0.8
  wins = pairs = 0.0
  for b in range(B):
    for i in range(6):
      for j in range(6):
        if valid[b, i] and valid[b, j] and labels[b, i] > labels[b, j]:
          pairs += 1
          wins += 1.0 if scores[b, i] > scores[b, j] else 0.0
          wins += 0.5 if scores[b, i] == scores[b, j] else 0.0
  got = credit.pair_auc(*(jnp.asarray(x) for x in (scores, labels, valid)))
  assert (float(got[0]), float(got[1])) == (wins, pairs)


def expected_auc(levels, rewards):
  mi = np.asarray(levels[0].scores["mi"])[:, 0]
  mi = np.take_along_axis(mi, np.asarray(levels[1].parent), axis=1)
  label = np.asarray(rewards["think"]["correct"]).mean(-1)
  return [
    float(x)
    for x in credit.pair_auc(
      jnp.asarray(mi), jnp.asarray(label), jnp.ones(mi.shape, bool)
    )
  ]


def test_memory_carries_a_forgetting_auc_across_steps():
  memory = credit.empty_memory()
  wins = pairs = 0.0
  for seed in range(4):
    levels, rewards = make_tree(seed)
    _, memory, metrics = run(levels, rewards, *MIRL, memory=memory)
    new_wins, new_pairs = expected_auc(levels, rewards)
    wins, pairs = 0.9 * wins + new_wins, 0.9 * pairs + new_pairs
    assert float(memory.auc) == pytest.approx(wins / pairs, abs=1e-6)
    assert float(memory.auc_weight) == pytest.approx(pairs, rel=1e-6)
    assert metrics["mi/auc_correct"] == memory.auc


def test_steps_without_a_pair_leave_the_auc_where_it_is():
  levels, rewards = make_tree(0)
  _, memory, _ = run(levels, rewards, *MIRL)
  before = float(memory.auc)
  rewards["think"]["correct"] = jnp.ones((B, K, F))
  for _ in range(60):  # long enough to forget the evidence, not the value
    _, memory, _ = run(levels, rewards, *MIRL, memory=memory)
  assert float(memory.auc_weight) < 0.1
  assert float(memory.auc) == pytest.approx(before, abs=1e-4)


def test_auc_stays_at_chance_before_any_evidence():
  levels, rewards = make_tree(0)
  rewards["think"]["correct"] = jnp.zeros((B, K, F))
  _, memory, _ = run(levels, rewards, *MIRL)
  assert (float(memory.auc), float(memory.auc_weight)) == (0.5, 0.0)


def numpy_features(levels):
  level = levels[0]
  length = np.asarray(level.sampled).sum(-1)[:, 0]
  columns = [
    np.asarray(level.scores["mi"])[:, 0],
    np.asarray(level.scores["likelihood"])[:, 0],
    length,
  ]
  x = np.stack([np.stack([zscore(r) for r in c]) for c in columns], axis=-1)
  return np.take_along_axis(x, np.asarray(levels[1].parent)[..., None], axis=1)


def test_regression_baseline_is_numpy_ridge_on_earlier_steps_only():
  """The paid reward less the question's mean less the ridge's prediction."""
  memory = credit.empty_memory()
  gram, moment = np.zeros((3, 3)), np.zeros(3)
  term = Term("think", "correct", 1.0, "regression", std=False)
  moved = 0.0
  for seed in range(5):
    levels, rewards = make_tree(seed)
    correct = np.asarray(rewards["think"]["correct"])
    x = numpy_features(levels)
    guess = x @ np.linalg.solve(gram + 10 * np.eye(3), moment)
    off = correct - correct.mean(axis=(1, 2), keepdims=True)
    contrast = np.abs(off).max(axis=(1, 2), keepdims=True) > 0
    expected = np.where(contrast, off - guess[..., None], 0)
    adv, memory, metrics = run(levels, rewards, term, memory=memory)
    np.testing.assert_allclose(adv[1], expected, atol=CLOSE)
    y = correct.mean(-1)
    y = y - y.mean(axis=1, keepdims=True)
    r2 = 1 - ((y - guess) ** 2).sum() / (y**2).sum()
    assert float(metrics["baseline/r2"]) == pytest.approx(r2, abs=1e-4)
    rows = x.reshape(-1, 3)
    gram = 0.9 * gram + rows.T @ rows
    moment = 0.9 * moment + rows.T @ y.reshape(-1)
    moved = max(moved, float(np.abs(guess).max()))
  assert moved > 0.02  # the prediction did something


def test_this_steps_rewards_do_not_reach_its_own_prediction():
  """With one reasoning changed, its siblings move by the mean alone."""
  levels, rewards = make_tree(0)
  _, memory, _ = run(levels, rewards, *MIRL)
  term = Term("think", "correct", 1.0, "regression", std=False)
  levels, rewards = make_tree(1)
  base = run(levels, rewards, term, memory=memory)[0][1]
  correct = rewards["think"]["correct"].at[0, 0, 0].add(10.0)
  moved = run(levels, {"think": {"correct": correct}}, term, memory=memory)
  shift = np.asarray(moved[0][1] - base)
  mean = 10.0 / (K * F)
  want = np.full((K, F), -mean)
  want[0, 0] = 10.0 - mean
  np.testing.assert_allclose(shift[0], want, atol=CLOSE)
  np.testing.assert_allclose(shift[1:], 0, atol=CLOSE)


def test_regression_learns_what_descriptions_predict():
  """Where correctness follows MI, the baseline explains it after a while."""
  memory = credit.empty_memory()
  term = Term("think", "correct", 1.0, "regression", std=False)
  r2 = []
  for seed in range(25):
    levels, rewards = make_tree(seed)
    x = numpy_features(levels)[..., 0]
    rewards["think"]["correct"] = jnp.asarray(
      np.repeat(x[..., None], F, axis=2), jnp.float32
    )
    _, memory, metrics = run(levels, rewards, term, memory=memory)
    r2.append(float(metrics["baseline/r2"]))
  assert abs(r2[0]) < 1e-6
  assert r2[-1] > 0.5


def test_compute_is_pure_and_traceable():
  levels, rewards = make_tree(2)
  terms = (*MIRL, Term("see", "children:correct"))
  eager = run(levels, rewards, *terms)
  traced = jit(
    lambda levels, rewards, memory: compute(
      levels, NAMES, rewards, terms, Guards(), memory
    )
  )(levels, rewards, credit.empty_memory())
  for a, b in zip(eager[0], traced[0], strict=True):
    np.testing.assert_allclose(a, b, atol=CLOSE)


def test_one_stage_grpo_is_the_group_zscore():
  rng = np.random.default_rng(0)
  level = make_level(rng, 1, N, np.zeros((B, 1)))
  correct = rng.integers(0, 2, (B, 1, N)).astype(np.float32)
  adv, memory, _ = compute(
    (level,),
    ("respond",),
    {"respond": {"correct": jnp.asarray(correct)}},
    (Term("respond", "correct"),),
    Guards(),
    credit.empty_memory(),
  )
  for b in range(B):
    np.testing.assert_allclose(adv[0][b, 0], zscore(correct[b, 0]), atol=CLOSE)
  assert float(memory.auc_weight) == 0


@pytest.mark.parametrize(
  ("terms", "match"),
  [
    ((Term("sea", "mi"),), "sea.*see"),
    ((Term("see", "mu"),), "mu.*likelihood.*mi"),
    ((Term("think", "children:correct"),), "no children"),
    ((Term("see", "children:corect"),), "corect.*correct"),
    ((Term("see", "mi", 1.0, "regression"),), "needs a parent"),
  ],
)
def test_unknown_names_are_errors(terms, match):
  levels, rewards = make_tree(0)
  with pytest.raises(ValueError, match=match):
    run(levels, rewards, *terms)
