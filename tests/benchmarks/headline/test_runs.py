import pytest

from benchmarks.headline import runs, setting
from benchmarks.headline.bench import compare
from benchmarks.speed.cost import Branch, question_flops
from mirl_jax import build

LENGTHS = {"describe": 15.2, "reason": 35.9, "response": 51.0}


@pytest.fixture
def policy():
  return build.make_policy(setting.Setting().config("grpo-8")).config


@pytest.mark.parametrize(
  ("name", "describe_passes", "tree_passes"),
  [
    ("mirl-10-6-2", 2, 2),
    # The sampler's log-probs are MI's first term.
    ("mirl-10-6-2 mi.scorer=policy mi.plausible=0", 1, 2),
    ("mirl-10-6-2 loss.kl.reason=0.1", 2, 3),
    ("mirl-10-6-2 loss.old_logprob=recomputed", 2, 3),
    ("mirl-10-6-2 mi.view=other mi.views=3", 4, 2),
  ],
)
def test_operations_of_a_tree(policy, name, describe_passes, tree_passes):
  config = setting.Setting().config(name)
  one, two = Branch(10, 15), Branch(12, 36, above=15)
  want = describe_passes * question_flops(policy, 36, 30, [one])
  want += tree_passes * question_flops(policy, 36, 30, [one, two])
  found = runs.step_flops(config, policy, 36, 30, LENGTHS)
  assert found == config.train.questions * want


def test_operations_of_a_group(policy):
  config = setting.Setting().config("grpo-8")
  want = 2 * question_flops(policy, 36, 30, [Branch(8, 51)])
  found = runs.step_flops(config, policy, 36, 30, LENGTHS)
  assert found == config.train.questions * want


def test_tokens_of_a_step(monkeypatch):
  monkeypatch.setattr(runs, "start_lengths", lambda setting: (10.0, 30.0))
  own = setting.Setting()
  assert runs.step_tokens(own, "mirl-10-6-2") == 16 * (10 * 10 + 12 * 30)
  assert runs.step_tokens(own, "grpo-8") == 16 * 8 * 40


def test_a_budget_ends_at_the_last_step_within():
  assert runs.within([10, 20, 30], 29) == 2
  assert runs.within([10, 20, 30], 30) == 3
  assert runs.within([10, 20, 30], 5) == 1
  assert runs.within([10, 20, 30], 99) == 3


@pytest.mark.slow
def test_a_comparison_from_end_to_end(tmp_path):
  own = setting.Setting(tokens=6000, questions=8)
  arms = ["mirl-4-2-1", "grpo-2"]

  def again():
    return compare(
      tmp_path, own, arms, [0, 1], [1e-4, 2e-4], ["tokens", "flops", "seconds"]
    )

  found = again()
  for budget, limit in found["budgets"].items():
    for name, cells in found["tables"][budget].items():
      cost = {"tokens": "generated_tokens"}.get(budget, budget)
      assert 0 < cells[cost] <= limit, (budget, name)
      assert cells["seeds"] == [0, 1]
  assert set(found["differences"]["flops"]) == {"mirl-4-2-1"}
  assert set(found["rates"]) == set(arms)
  assert not list(tmp_path.glob("training-*"))
  assert again() == found  # rows are read, not made
