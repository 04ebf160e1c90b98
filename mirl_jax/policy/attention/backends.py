"""Who attends to one segment: plain XLA, cuDNN or Splash.

A kernel is a module with
  PLATFORM: the one it is lowered for, as `jax.lax.platform_dependent` names it;
  DEVICE: the platform's name as a device tells it, DEVICES in words;
  DTYPES: of the arrays it takes;
  refusal: why it cannot take arrays of these sizes, or "";
  pays: whether so many queries and keys are worth its padding;
  attend: (query [B, G, h, r, Q, D], keys and values [B, G, h, S, D],
    mask [B, G, S], causal) -> output as the query, log-sum-exp [B, G, h, r, Q].
It gives no gradients and needs none.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool

from mirl_jax.parallel.mesh import BATCH, data_shards
from mirl_jax.policy.attention import cudnn, plain, splash

KERNELS: dict[str, Any] = {"cudnn": cudnn, "splash": splash}
BACKENDS = ("auto", "xla", *KERNELS)

Part = tuple[Array, Array, Array]


def check_backend(
  backend: str, dtype: Any, head_dim: int, platform: str
) -> None:
  """Refuses what cannot run, before it starts.

  Args:
    backend: the value of policy.attention.
    dtype: of the activations.
    head_dim: of the decoder.
    platform: of the mesh's devices: cpu, gpu or tpu.

  Raises:
    ValueError: naming the value and the fix.
  """
  if backend not in BACKENDS:
    raise ValueError(
      f"policy.attention={backend!r} is not one of {', '.join(BACKENDS)}"
    )
  if backend not in KERNELS:
    return
  kernel = KERNELS[backend]
  if platform != kernel.DEVICE:
    raise ValueError(
      f"policy.attention={backend!r} runs on {kernel.DEVICES}, but the mesh is"
      f" made of {platform} devices; use policy.attention=auto"
    )
  _refuse(backend, dtype, head_dim)


def _refuse(backend: str, dtype: Any, head_dim: int) -> None:
  kernel, name = KERNELS[backend], jnp.dtype(dtype).name
  if name not in kernel.DTYPES:
    raise ValueError(
      f"policy.attention={backend!r} takes {' or '.join(kernel.DTYPES)}, not"
      f" {name}; set policy.dtype={kernel.DTYPES[0]}, or policy.attention=auto"
    )
  reason = kernel.refusal(head_dim)
  if reason:
    raise ValueError(
      f"policy.attention={backend!r} {reason}; use policy.attention=auto"
    )


def _fits(kernel: Any, query: Array, keys: Array, mask: Array) -> bool:
  """Whether `auto` takes the kernel."""
  return (
    mask.ndim == 3
    and jnp.dtype(query.dtype).name in kernel.DTYPES
    and not kernel.refusal(query.shape[-1])
    and kernel.pays(
      query.shape[1] // keys.shape[1] * query.shape[2], keys.shape[3]
    )
  )


def readable(mask: Bool[Array, "..."], causal: bool) -> Bool[Array, "..."]:
  """The mask [B, G, S], made [B, G, Q, S] where it is read causally."""
  return plain.causal_mask(mask) if causal else mask


def _plain(
  query: Array,
  keys: Array,
  values: Array,
  mask: Array,
  causal: bool,
  mesh: AbstractMesh | None,
) -> Part:
  return plain.attend_one(query, keys, values, readable(mask, causal), mesh)


def _per_device(
  run: Callable[..., Any],
  mesh: AbstractMesh | None,
  query: Array,
  kv_heads: int,
  repeat: int,
) -> Callable[..., Any]:
  """A kernel's function, mapped over what the compiler would have to cut.

  On one device that is nothing; inside of the sampler's `shard_map`, where the
  questions are cut already, it is the heads.
  """
  if mesh is None or mesh.size == 1:
    return run
  tensor, b = mesh.shape["tensor"], None
  around = jax.sharding.get_abstract_mesh()
  free = set(mesh.axis_names) - set(around.manual_axes)
  if "data" in free:
    b = BATCH[0] if query.shape[0] % data_shards(mesh) == 0 else None
  elif tensor == 1:
    return run
  h = "tensor" if kv_heads % tensor == 0 else None
  r = "tensor" if h is None and repeat % tensor == 0 else None
  rows, keys = P(b, None, h, r), P(b, None, h)
  return jax.shard_map(
    run,
    mesh=around if around.manual_axes else mesh,
    in_specs=(rows, keys, keys, P(b)),
    out_specs=(rows, rows),
    axis_names=free,
    check_vma=False,
  )


def _by_kernel(
  name: str,
  mesh: AbstractMesh | None,
  query: Array,
  keys: Array,
  values: Array,
  mask: Array,
  causal: bool,
) -> Part:
  b, nodes, t, heads, dim = query.shape
  groups, kv_heads = keys.shape[1:3]
  fanout, repeat = nodes // groups, heads // kv_heads
  rows = query.reshape(b, groups, fanout, t, kv_heads, repeat, dim)
  rows = rows.transpose(0, 1, 4, 5, 2, 3, 6)
  rows = rows.reshape(b, groups, kv_heads, repeat, fanout * t, dim)
  attend = functools.partial(KERNELS[name].attend, causal=causal)
  run = _per_device(attend, mesh, query, kv_heads, repeat)
  out, lse = run(rows, keys, values, mask)
  # What a kernel makes of a segment without any key is its own affair.
  some = jnp.any(mask, axis=-1)[:, :, None, None, None]
  out = jnp.where(some[..., None], out, 0)
  lse = jnp.where(some, lse, plain.MASKED)

  def back(x: Array) -> Array:
    x = x.reshape(b, groups, kv_heads, repeat, fanout, t, *x.shape[5:])
    x = jnp.moveaxis(x, (4, 5), (2, 3))
    return x.reshape(b, nodes, t, heads, *x.shape[6:])

  out, lse = back(out.astype(jnp.float32)), back(lse)
  return out, lse, jnp.ones_like(lse)


def attend_one(
  backend: str,
  mesh: AbstractMesh | None,
  query: Array,
  keys: Array,
  values: Array,
  mask: Array,
  causal: bool,
) -> Part:
  """Unnormalised output, maximum and weight sum of one segment.

  A kernel gives them with a sum of 1: its output is normalised already, and
  its log-sum-exp stands for the maximum.

  Args:
    backend: one of BACKENDS. `auto` decides by the platform it is lowered for:
      cuDNN on CUDA and Splash on TPUs, where dtype and sizes allow, and plain
      XLA anywhere else.
    mesh: that the arrays are cut over by the compiler; None on one device.
    query: [B, R, T, H, D].
    keys: [B, G, h, S, D].
    values: [B, G, h, S, D].
    mask: [B, G, S]; without a kernel also [B, G, Q, S].
    causal: whether query t reads keys up to t only.

  Returns:
    Shapes [B, R, T, H, D], [B, R, T, H], [B, R, T, H], all float32.

  Raises:
    ValueError: where a kernel that is asked for cannot take these arrays.
  """
  one = functools.partial(_plain, causal=causal, mesh=mesh)
  arrays = (query, keys, values, mask)
  if backend == "xla":
    return one(*arrays)
  if backend == "auto":
    fitting = {
      kernel.PLATFORM: functools.partial(_by_kernel, name, mesh, causal=causal)
      for name, kernel in KERNELS.items()
      if _fits(kernel, query, keys, mask)
    }
    if not fitting:
      return one(*arrays)
    return jax.lax.platform_dependent(*arrays, default=one, **fitting)
  if backend not in KERNELS:
    raise ValueError(
      f"attention {backend!r} is not one of {', '.join(BACKENDS)}"
    )
  _refuse(backend, query.dtype, query.shape[-1])
  if mask.ndim != 3:
    raise ValueError(
      f"attention {backend!r} takes masks [B, G, S] of keys, not one per query"
      f" {mask.shape}; use 'xla'"
    )
  return _by_kernel(backend, mesh, *arrays, causal=causal)
