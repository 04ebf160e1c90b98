"""MI against direct computation on full sequences."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.information.estimators import (
  MI,
  from_config,
  mixture_logprobs,
  reduce_tokens,
  score_nodes,
)
from mirl_jax.testing_flat import flat_node_logits

CONFIG = tiny.tiny_config()
SHAPE = ((1, 4, 6), (2, 2, 5))


def stack(*prompts):
  return jax.tree.map(lambda *x: jnp.stack(x), *prompts)


# Other pictures and words of one shape, and text alone of another.
VIEWS = {
  "one other": stack(tiny.random_prompts(CONFIG, 1)),
  "three others": stack(*(tiny.random_prompts(CONFIG, i) for i in (1, 2, 3))),
  "text only": stack(tiny.random_prompts(CONFIG, 4, ((), (), ()))),
}


@functools.partial(jax.jit, static_argnums=0)
def run(mi, params, prompts, views, levels, mask, sampler=None):
  return score_nodes(params, CONFIG, mi, prompts, views, levels, mask, sampler)


@pytest.fixture(scope="module")
def setting():
  params = tiny.random_params(CONFIG)
  prompts = tiny.random_prompts(CONFIG)
  levels = tiny.random_nodes(0, 3, SHAPE)
  return params, prompts, levels


@pytest.fixture(scope="module")
def flat_logits_of(setting):
  """Raw logits of the last level's nodes under each set of prompts."""
  params, prompts, levels = setting

  @functools.cache
  def logits(view):
    if view == "clean":
      chosen = [prompts]
    else:
      count = VIEWS[view].tokens.shape[0]
      chosen = [
        jax.tree.map(lambda x, m=m: x[m], VIEWS[view]) for m in range(count)
      ]
    return [flat_node_logits(params, CONFIG, p, levels)[-1] for p in chosen]

  return logits


def scored_mask(level, seed=0):
  """Drops some last tokens, as forced closing tags are."""
  mask = np.asarray(level.mask)
  size = mask.sum(axis=-1, keepdims=True)
  drop = np.random.default_rng(seed).integers(0, 2, size.shape)
  # At least one token stays, except in the very first node: none at all.
  keep = np.maximum(size - drop, 1)
  keep[0, 0] = 0
  return jnp.asarray(np.arange(mask.shape[-1]) < keep)


def direct(mi, clean, others, level, mask):
  """Node by node in float64, straight from the definition."""
  tokens, mask = np.asarray(level.tokens), np.asarray(mask)

  def logprobs(logits):
    logits = np.asarray(logits, np.float64) / mi.temperature
    logits[..., list(CONFIG.banned_tokens)] = -np.inf
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)

  clean, others = logprobs(clean), [logprobs(x) for x in others]
  out = {name: np.zeros(mask.shape[:2]) for name in ("mi", "clean", "prior")}
  for place in np.ndindex(*mask.shape[:2]):
    terms, total, prior_before = [], 0.0, 0.0
    sums = np.zeros(len(others))
    for t in np.flatnonzero(mask[place]):
      token = tokens[place][t]
      here = clean[place][t]
      sums += [x[place][t][token] for x in others]
      prior = np.log(np.mean(np.exp(sums)))
      term = here[token] - mi.prior_weight * (prior - prior_before)
      prior_before = prior
      if np.exp(here[token]) < mi.plausible * np.exp(here.max()):
        term = min(term, 0.0)
      if mi.clip:
        term = min(max(term, -mi.clip), mi.clip)
      terms.append(term)
      total += here[token]
    if terms:
      mean = np.mean(terms)
      out["mi"][place] = mean if mi.reduction == "mean" else np.sum(terms)
      out["clean"][place], out["prior"][place] = total, prior_before
  return out


def mi_of(view, **changes):
  count = VIEWS[view].tokens.shape[0]
  kind = "removed" if view == "text only" else "other"
  return MI(view=kind, views=count, **changes)


CASES = [
  *itertools.product(VIEWS, [{}]),
  ("one other", {"prior_weight": 0.4, "reduction": "sum"}),
  ("three others", {"prior_weight": 0.7, "clip": 0.5}),
  ("three others", {"plausible": 0.3, "temperature": 0.8}),
  ("one other", {"prior_weight": 0.0}),
]


@pytest.mark.parametrize(("view", "changes"), CASES)
def test_scores_equal_direct_computation(
  setting, flat_logits_of, view, changes
):
  params, prompts, levels = setting
  mi = mi_of(view, **changes)
  mask = scored_mask(levels[-1])
  got = run(mi, params, prompts, VIEWS[view], levels, mask)
  want = direct(
    mi, flat_logits_of("clean")[0], flat_logits_of(view), levels[-1], mask
  )
  assert got.keys() == want.keys()
  for name, x in want.items():
    # Sums of up to five float32 log-probs of about 5 nats.
    np.testing.assert_allclose(got[name], x, atol=3e-5, err_msg=name)
    assert np.isfinite(got[name]).all()
    assert got[name][0, 0] == 0  # the node without tokens
  assert np.std(np.asarray(got["mi"])) > 0.05


def test_no_prior_weight_is_the_mean_likelihood_whatever_the_view(setting):
  params, prompts, levels = setting
  mask = levels[-1].mask
  (a, b) = (
    run(mi_of("one other", prior_weight=0.0), params, prompts, v, levels, mask)
    for v in (
      VIEWS["one other"],
      VIEWS["one other"].replace(patches=-VIEWS["one other"].patches),
    )
  )
  np.testing.assert_array_equal(a["mi"], b["mi"])
  assert (a["prior"] != b["prior"]).any()
  mean = np.asarray(a["clean"]) / np.asarray(mask).sum(axis=-1)
  np.testing.assert_allclose(a["mi"], mean, rtol=1e-5)


def test_the_same_picture_carries_no_information(setting):
  params, prompts, levels = setting
  mi = mi_of("one other")
  got = run(mi, params, prompts, stack(prompts), levels, levels[-1].mask)
  np.testing.assert_allclose(got["mi"], 0, atol=1e-5)


def test_the_samplers_logprobs_replace_the_first_term(setting):
  params, prompts, levels = setting
  mi, view, mask = mi_of("one other"), VIEWS["one other"], levels[-1].mask
  plain = run(mi, params, prompts, view, levels, mask)
  given = jnp.asarray(
    np.random.default_rng(0).normal(size=mask.shape), jnp.float32
  )
  got = run(mi, params, prompts, view, levels, mask, given)
  want = np.where(mask, given, 0).sum(axis=-1)
  np.testing.assert_allclose(got["clean"], want, atol=1e-5)
  np.testing.assert_allclose(got["prior"], plain["prior"], atol=1e-5)
  delta = (want - np.asarray(plain["prior"])) / np.asarray(mask).sum(axis=-1)
  np.testing.assert_allclose(got["mi"], delta, atol=1e-5)
  # The guard needs the whole distribution, so it computes its own.
  guarded = mi_of("one other", plausible=1e-9)
  got = run(guarded, params, prompts, view, levels, mask, given)
  np.testing.assert_allclose(got["clean"], plain["clean"], atol=1e-4)


def test_the_scorer_is_whose_parameters_are_given(setting):
  _, prompts, levels = setting
  mi, view, mask = mi_of("one other"), VIEWS["one other"], levels[-1].mask
  other = tiny.random_params(CONFIG, 7)
  got = run(mi, other, prompts, view, levels, mask)
  logits = [
    flat_node_logits(other, CONFIG, p, levels)[-1]
    for p in (prompts, jax.tree.map(lambda x: x[0], view))
  ]
  want = direct(mi, logits[0], logits[1:], levels[-1], mask)
  np.testing.assert_allclose(got["mi"], want["mi"], atol=3e-5)


# Guards flip outcomes.


def guard_pair(clean_a, clean_b, prior_a, prior_b, **changes):
  """MI of two nodes from handmade per-token log-probs, and peaks of 0."""
  from mirl_jax.information.estimators import _token_terms

  mi = MI(**changes)
  clean = jnp.asarray([[clean_a, clean_b]], jnp.float32)
  prior = jnp.asarray([[prior_a, prior_b]], jnp.float32)
  implausible = clean < jnp.log(mi.plausible) if mi.plausible else None
  terms = _token_terms(clean, prior, implausible, mi)
  out = reduce_tokens(terms, jnp.ones(clean.shape, bool), mi.reduction)
  return np.asarray(out)[0]


def test_the_plausibility_cut_flips_which_node_is_better():
  """A token that is rare with the image and rarer without it must not win."""
  rare, sound = ([-6.0, -0.1], [-0.2, -0.2])
  rarer, less = ([-12.0, -0.1], [-1.0, -1.0])
  loose = guard_pair(rare, sound, rarer, less)
  guarded = guard_pair(rare, sound, rarer, less, plausible=0.1)
  assert loose[0] > loose[1]
  assert guarded[0] < guarded[1]
  np.testing.assert_allclose(guarded, [0.0, 0.8], atol=1e-6)


def test_the_plausibility_cut_keeps_punishing():
  got = guard_pair([-6.0], [-0.1], [-1.0], [-0.1], plausible=0.1)
  np.testing.assert_allclose(got, [-5.0, 0.0], atol=1e-6)


def test_clipping_flips_which_node_is_better():
  one_loud = ([-1.0, -1.0, -1.0], [-9.0, -1.0, -1.0])
  all_sound = ([-1.0, -1.0, -1.0], [-2.0, -2.0, -2.0])
  args = (one_loud[0], all_sound[0], one_loud[1], all_sound[1])
  loose, clipped = guard_pair(*args), guard_pair(*args, clip=2.0)
  assert loose[0] > loose[1]
  assert clipped[0] < clipped[1]
  np.testing.assert_allclose(clipped, [2 / 3, 1.0], atol=1e-6)
  np.testing.assert_allclose(
    guard_pair([-9.0], [-1.0], [-1.0], [-9.0], clip=2.0), [-2.0, 2.0]
  )


def test_sum_and_mean_rank_long_nodes_differently():
  values = jnp.asarray([[[0.5, 0.5, 0.5, 0.5], [0.9, 9.0, 9.0, 9.0]]])
  mask = jnp.asarray([[[True] * 4, [True, False, False, False]]])
  np.testing.assert_allclose(reduce_tokens(values, mask, "sum"), [[2.0, 0.9]])
  np.testing.assert_allclose(reduce_tokens(values, mask, "mean"), [[0.5, 0.9]])


# The mixture.


@pytest.mark.parametrize("count", [1, 2, 5])
def test_mixture_terms_sum_to_the_log_of_the_mean_probability(count):
  rng = np.random.default_rng(0)
  logprobs = -rng.exponential(3.0, size=(count, 2, 3, 7))
  mask = np.arange(7) < rng.integers(0, 8, (2, 3, 1))
  mask[0, 0] = False
  junk = np.where(mask, logprobs, np.nan)  # what lies in padding is not read
  got = np.asarray(
    mixture_logprobs(jnp.asarray(junk, jnp.float32), jnp.asarray(mask))
  )
  for upto in range(1, 8):  # for every prefix: the chain rule
    sums = np.where(mask, logprobs, 0)[..., :upto].sum(axis=-1)
    want = np.log(np.mean(np.exp(sums), axis=0))
    np.testing.assert_allclose(
      got[..., :upto].sum(axis=-1), want, rtol=1e-5, atol=1e-5
    )
  assert (got[~mask] == 0).all()


def test_mixtures_of_long_sequences_do_not_underflow():
  logprobs = jnp.full((3, 1, 1, 400), -5.0).at[0].add(-1.0)
  got = mixture_logprobs(logprobs, jnp.ones((1, 1, 400), bool))
  assert np.isfinite(got).all()
  np.testing.assert_allclose(got.sum(), -2000 + np.log(2 / 3), rtol=1e-5)


def test_expected_score_is_the_mutual_information_of_a_known_world():
  """Three equally likely pictures v, each with p(d|v) over two-token texts.

  With all pictures as views, the prior is the exact marginal p(d), and the
  mean of log p(d|v) - log p(d) over the world is I(d; v).
  """
  rng = np.random.default_rng(0)
  first = rng.dirichlet(np.ones(3), size=3)  # p(a | v)
  second = rng.dirichlet(np.ones(2), size=(3, 3))  # p(b | v, a)
  joint = first[:, :, None] * second / 3  # p(v, a, b)
  marginal = joint.sum(axis=0)
  truth = np.sum(joint * np.log(joint / (marginal / 3)))
  texts = list(itertools.product(range(3), range(2)))
  logprobs = np.array(
    [
      [[np.log(first[v, a]), np.log(second[v, a, b])] for a, b in texts]
      for v in range(3)
    ]
  )[:, None]  # [views, 1, texts, 2]
  mask = jnp.ones((1, len(texts), 2), bool)
  prior = mixture_logprobs(jnp.asarray(logprobs, jnp.float32), mask)
  found = 0.0
  for v in range(3):
    score = reduce_tokens(
      jnp.asarray(logprobs[v], jnp.float32) - prior, mask, "sum"
    )
    found += np.sum(joint[v].reshape(-1) * np.asarray(score)[0])
  np.testing.assert_allclose(found, truth, rtol=1e-5)
  assert truth > 0.05


# Configuration.


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"view": "blanc"}, "mi.view='blanc'; did you mean 'blank'"),
    ({"reduction": "meen"}, "mi.reduction='meen'; did you mean 'mean'"),
    ({"scorer": "refrence"}, "did you mean 'reference'"),
    ({"views": 0}, "mi.views=0"),
    ({"view": "removed", "views": 2}, "mi.views=2.*'removed'"),
    ({"view": "blank", "views": 2}, "mi.views=2.*'blank'"),
    ({"prior_wieght": 1.0}, "mi.prior_wieght .* mean 'prior_weight'"),
  ],
)
def test_bad_settings_are_refused_by_name(values, message):
  with pytest.raises(ValueError, match=message):
    from_config(values)


def test_settings_are_read():
  got = from_config({"view": "masked", "views": 4, "prior_weight": 0.4})
  assert got == MI(view="masked", views=4, prior_weight=0.4)
