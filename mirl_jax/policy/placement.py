"""Where a policy's parameters lie on a mesh."""

from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.tree_util import keystr

from mirl_jax.parallel.mesh import spec
from mirl_jax.policy.abstract import Params, abstract_params, logical_axes
from mirl_jax.policy.configs import VLMConfig


def leaf_sharding(
  config: VLMConfig,
  mesh: Mesh | AbstractMesh,
  path: str,
  axes: tuple[str | None, ...],
  shape: tuple[int, ...],
) -> NamedSharding:
  """Where one parameter lies.

  A key/value head is never cut: where there are fewer than the tensor axis
  wants, every device has all of them.

  Raises:
    ValueError: naming the parameter that no rule fits.
  """
  units = {"kv_heads": config.text.head_dim}
  try:
    return NamedSharding(mesh, spec(axes, shape, mesh, units))
  except ValueError as error:
    raise ValueError(f"parameter {path}: {error}") from error


def param_shardings(config: VLMConfig, mesh: Mesh | AbstractMesh) -> Params:
  """A NamedSharding for every parameter.

  Raises:
    ValueError: as `leaf_sharding`.
  """

  def place(path: Any, leaf: Any, axes: tuple[str | None, ...]) -> Any:
    name = keystr(path, simple=True, separator="/")
    return leaf_sharding(config, mesh, name, axes, leaf.shape)

  return jax.tree_util.tree_map_with_path(
    place, abstract_params(config), logical_axes(config)
  )
