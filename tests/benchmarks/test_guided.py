"""Guided decoding against the ordinary sampler and full-vocabulary sums."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.guided import figure, table
from benchmarks.guided.decode import Tilt
from benchmarks.headline.setting import Setting
from mirl_jax import batching, build
from mirl_jax.evaluate import sampled_program
from mirl_jax.information.estimators import MI
from mirl_jax.policy.logprobs import shape_logits
from mirl_jax.rollout.engine import Rollout
from mirl_jax.rollout.tree import flat, nodes
from mirl_jax.start import load_roles
from mirl_jax.testing_flat import flat_node_logits

ORDINARY = Tilt(0.0, 0.0, 0.0)
STRONG = Tilt(2.5, 1.0, 0.0)
CUT = STRONG._replace(plausible=0.1)
TILTS = (ORDINARY, Tilt(0.5, 0.4, 0.0), STRONG, CUT)
# Some descriptions end by themselves, others are closed.
ROOM = 14


@dataclasses.dataclass
class Case:
  """Three questions, and what decodes them."""

  config: Any
  policy: build.Policy
  params: Any
  prompts: Any
  views: Any
  key: jax.Array
  respond: dict

  def levels(self, tilt, mode="sampled"):
    respond = self.respond[mode]
    levels = respond(self.params, self.prompts, self.views, self.key, tilt)
    return jax.device_get(levels)


def make_case(view):
  config = Setting().config("mirl-10-6-1")
  config.program.describe.max_tokens = ROOM
  config.program.reason.max_tokens = 6
  config.data.prompt_buckets, config.data.patch_buckets = (64,), (36,)
  policy = build.make_policy(config)
  batcher = batching.make_batcher(config, policy, MI(view=view))
  examples = list(build.first_examples(build.make_source(config, "test"), 3))
  return Case(
    config,
    policy,
    load_roles(config, "", policy)[0]["policy"],
    *batcher.batch(examples),
    build.place_key(0, policy),
    table.responders(config, policy),
  )


@pytest.fixture(scope="module")
def case():
  return make_case("blank")


@pytest.fixture(scope="module")
def decoded(case):
  """Both levels of each tilt, sampled."""
  return {tilt: case.levels(tilt) for tilt in TILTS}


def logprobs_of_all(case, prompts, levels):
  """Log-probs of the whole vocabulary at each token of the last level."""
  logits = flat_node_logits(case.params, case.policy.config, prompts, levels)
  shaped = shape_logits(
    jnp.asarray(logits[-1], jnp.float32), 1.0, case.policy.config.banned_tokens
  )
  return np.asarray(jax.nn.log_softmax(shaped), np.float64)


def oracle(case, described):
  """Log-probs [B, R, T, V] with the image and without it."""
  levels = nodes((described,))
  without = jax.tree.map(lambda x: x[0], case.views)
  return (
    logprobs_of_all(case, case.prompts, levels),
    logprobs_of_all(case, without, levels),
  )


def tilted(seen, unseen, tilt):
  """The distribution that a description is drawn from, in float64."""
  beta, weight, plausible = tilt
  score = (1 + beta) * seen - beta * weight * unseen
  allowed = np.exp(seen) >= plausible * np.exp(seen).max(-1, keepdims=True)
  score = np.where(allowed, score, -np.inf)
  score -= score.max(-1, keepdims=True)
  return score - np.log(np.exp(score).sum(-1, keepdims=True))


def chosen(described, values):
  """Values of the sampled tokens, one after another."""
  tokens = flat(described.tokens)[..., None]
  found = np.take_along_axis(values, tokens, axis=-1)[..., 0]
  return found[flat(described.sampled)]


def test_no_tilt_is_the_ordinary_sampler(case, decoded):
  program = build.make_program(case.config, True)
  stages = sampled_program(program, 4)
  stops = build.make_stops(program, case.policy.processor)
  rollout = Rollout(
    case.policy.config, stages, stops, case.policy.mesh, dtype=jnp.float32
  )
  want = rollout({"policy": case.params}, case.prompts, None, case.key).levels
  for ours, theirs in zip(decoded[ORDINARY], want, strict=True):
    for name in ("tokens", "mask", "sampled", "parent", "finished", "kept"):
      np.testing.assert_array_equal(
        getattr(ours, name), getattr(theirs, name), err_msg=name
      )
    np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-5)


def test_descriptions_of_both_kinds_are_tested(decoded):
  finished = np.stack([described.finished for described, _ in decoded.values()])
  assert finished.any()
  assert not finished.all()


@pytest.mark.parametrize("tilt", TILTS)
def test_logprobs_are_those_of_the_tilted_distribution(case, decoded, tilt):
  described, _ = decoded[tilt]
  seen, unseen = oracle(case, described)
  np.testing.assert_allclose(
    flat(described.logprobs)[flat(described.sampled)],
    chosen(described, tilted(seen, unseen, tilt)),
    atol=2e-4,
  )


def test_a_text_prompt_may_stand_in_for_the_image():
  removed = make_case("removed")
  described, _ = removed.levels(STRONG)
  want = tilted(*oracle(removed, described), STRONG)
  got = flat(described.logprobs)[flat(described.sampled)]
  np.testing.assert_allclose(got, chosen(described, want), atol=2e-4)


def test_greedy_takes_the_best_of_the_tilted_distribution(case):
  described, _ = case.levels(STRONG, "greedy")
  best = tilted(*oracle(case, described), STRONG).argmax(-1)
  sampled = flat(described.sampled)
  np.testing.assert_array_equal(flat(described.tokens)[sampled], best[sampled])


def test_the_cut_leaves_only_plausible_tokens(case, decoded):
  shares = {}
  for tilt in (STRONG, CUT):
    described, _ = decoded[tilt]
    seen, _ = oracle(case, described)
    shares[tilt] = np.exp(chosen(described, seen - seen.max(-1, keepdims=True)))
  assert shares[CUT].min() >= 0.1 * (1 - 1e-4)
  assert shares[STRONG].min() < 0.1  # without it, others were chosen


def test_a_large_beta_changes_what_is_written(case, decoded):
  plain, strong = decoded[ORDINARY][0], decoded[STRONG][0]
  differs = (plain.tokens != strong.tokens).any(-1)
  assert differs.mean() > 0.5
  # With λ = 0 there is nothing but sharpening, in the end to the best token.
  sharp, _ = case.levels(Tilt(1e4, 0.0, 0.0))
  greedy, _ = case.levels(ORDINARY, "greedy")
  np.testing.assert_array_equal(
    sharp.tokens, np.repeat(greedy.tokens, 4, axis=2)
  )


def test_reasonings_are_ordinary_ones_under_the_image(case, decoded):
  described, reasoned = decoded[STRONG]
  assert (reasoned.parent == np.arange(4)).all()
  want = logprobs_of_all(case, case.prompts, nodes((described, reasoned)))
  np.testing.assert_allclose(
    flat(reasoned.logprobs)[flat(reasoned.sampled)],
    chosen(reasoned, want),
    atol=1e-4,
  )


def test_all_tilts_share_a_program(case, decoded):
  assert len(decoded) == len(TILTS)
  assert case.respond["sampled"]._cache_size() == 1


def test_the_cells():
  cells = table.cells()
  assert len(cells) == len(set(cells))
  for mode in table.MODES:
    own = [cell.tilt for cell in cells if cell.mode == mode]
    assert own[0] == ORDINARY
    # Every λ is one at β = 0, with the cut and without.
    more = len(table.BETAS) - 1
    assert len(own) == 2 * (1 + more * len(table.LAMBDAS))


def test_rows_tell_rates_errors_and_paired_changes():
  ordinary = table.Cell("sampled", ORDINARY)
  other = table.Cell("sampled", CUT)
  zero = {name: np.zeros((4, 2)) for name in table.FIGURES}
  up = {**zero, "exact": np.array([[1, 1], [1, 0], [0, 0], [0, 0]])}
  rows = list(table.rows({ordinary: zero, other: up}, np.arange(4)))
  assert rows[0]["exact_change"] == {"mean": 0, "se": 0}
  error = round(np.std([1, 0.5, 0, 0], ddof=1) / 2, 4)
  assert rows[1]["exact"] == rows[1]["exact_change"]
  assert rows[1]["exact"] == {"mean": 0.375, "se": error}
  assert (rows[1]["beta"], rows[1]["lambda"]) == (2.5, 1.0)
  assert rows[1]["plausible"] == 0.1


def test_the_figure(tmp_path):
  cells = [
    {
      "mode": mode,
      "beta": tilt.beta,
      "lambda": tilt.prior_weight,
      "plausible": tilt.plausible,
      "exact": {"mean": 0.5, "se": 0.1},
      "tokens": {"mean": 15.0, "se": 0.1},
    }
    for mode, tilt in itertools.product(table.MODES, TILTS)
  ]
  path = tmp_path / "figure.png"
  figure.draw({"cells": cells}, path)
  assert path.stat().st_size > 10_000
