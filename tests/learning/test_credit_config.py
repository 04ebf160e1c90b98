"""Credit's terms as a configuration writes them."""

import pytest

from mirl_jax.learning import credit
from mirl_jax.learning.credit import Term


def test_terms_from_config():
  terms = credit.terms_from_config(
    {
      "see": {
        "mi": {"weight": 0.5, "std": False},
        "children_correct": {"weight": 0.25, "baseline": "batch"},
        "format": {"weight": 0.0},
      },
      "think": {"correct": {}},
    }
  )
  assert terms == [
    Term("see", "mi", 0.5, std=False),
    Term("see", "children:correct", 0.25, "batch"),
    Term("think", "correct"),
  ]


@pytest.mark.parametrize(
  ("values", "match"),
  [
    ({"wieght": 1.0}, "credit.see.mi.wieght.*weight"),
    ({"baseline": "sibling"}, "credit.see.mi.baseline='sibling'.*siblings"),
  ],
)
def test_terms_from_config_names_the_nearest(values, match):
  with pytest.raises(ValueError, match=match):
    credit.terms_from_config({"see": {"mi": values}})
