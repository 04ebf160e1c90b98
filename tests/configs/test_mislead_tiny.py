import pytest

from configs import mislead_tiny


def test_the_argument_turns_dials():
  plain = mislead_tiny.get_config()
  assert plain.world.hallucinate == 0.8
  turned = mislead_tiny.get_config("hallucinate=.1,slip=0,reasoning=short")
  assert turned.world.hallucinate == 0.1
  assert turned.world.slip == 0
  assert turned.world.reasoning == "short"
  assert turned.world.prior == plain.world.prior


@pytest.mark.parametrize(
  ("argument", "said"),
  [
    ("halucinate=.1", "did you mean 'hallucinate'"),
    ("slip=2", "slip=2.0: give a number from 0 to 1"),
    ("reasoning=none", "reasoning='none'"),
  ],
)
def test_bad_arguments_are_named(argument, said):
  with pytest.raises(ValueError, match=said):
    mislead_tiny.get_config(argument)
