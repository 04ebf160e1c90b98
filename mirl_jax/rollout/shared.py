"""Parameters by role, in which an array of two roles stands once."""

from dataclasses import dataclass
from typing import Any

import jax

# "policy" samples; "reference" and "ema" may score.
Roles = dict[str, Any]


@dataclass(frozen=True)
class Shared:
  """Trees by role as the list of their different arrays.

  Given as trees, what two roles share would be two arguments of a program, and
  the compiler would count, gather and convert it twice: a LoRA policy's
  reference is its own base.

  Attributes:
    arrays: each once, in the order of the trees.
    index: of every leaf of the trees, its array.
    shape: of the trees.
  """

  arrays: list[Any]
  index: tuple[int, ...]
  shape: Any

  @property
  def roles(self) -> Roles:
    """The trees."""
    leaves = [self.arrays[i] for i in self.index]
    return jax.tree.unflatten(self.shape, leaves)


jax.tree_util.register_dataclass(
  Shared, data_fields=["arrays"], meta_fields=["index", "shape"]
)


def shared(roles: Roles) -> Shared:
  """Finds the arrays that stand in several places, by identity."""
  leaves, shape = jax.tree.flatten(roles)
  place: dict[int, int] = {}
  for leaf in leaves:
    place.setdefault(id(leaf), len(place))
  arrays = list({id(leaf): leaf for leaf in leaves}.values())
  return Shared(arrays, tuple(place[id(leaf)] for leaf in leaves), shape)
