"""What a decode step writes, read off the compiled program."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirl_jax import testing as tiny
from mirl_jax.policy.attention import attend, segment
from mirl_jax.policy.decode import decode_step, empty_cache
from mirl_jax.policy.forward import prefill
from mirl_jax.policy.rope import text_rotation
from mirl_jax.policy.text import TextBlock, embed_tokens, final_norm

CONFIG = tiny.tiny_config()


def loop_of(step_of, ready, cache):
  """Five decode steps in a loop, as the sampler's."""
  ancestors = tuple((s,) for s in ready.segments)
  tokens = jnp.zeros((3, 4), jnp.int32)

  def body(carry):
    step, _, cache = carry
    position = jnp.broadcast_to(ready.position, (3, 4)) + step
    hidden, cache = step_of(tokens, position, step, ancestors, cache)
    return step + 1, hidden, cache

  begin = (jnp.zeros((), jnp.int32), jnp.zeros((3, 4, 48)), cache)
  return jax.lax.while_loop(lambda c: c[0] < 5, body, begin)


def stacked_step(params, tokens, positions, step, ancestors, cache):
  """A decode step as it must not be: the cache goes through a layer scan as an
  input and an output of every layer, not as what it carries."""
  text = CONFIG.text
  x = embed_tokens(params["text"], tokens, jnp.float32)
  three = jnp.broadcast_to(positions[:, None], (3, 3, 4))
  turn = text_rotation(
    three, text.mrope_section, text.head_dim, text.rope_theta
  )
  keys, values = jnp.stack(cache.keys), jnp.stack(cache.values)
  above = jax.tree.map(lambda *x: jnp.stack(x), *[a[0] for a in ancestors])

  def layer(x, xs):
    block, k_cache, v_cache, above = xs
    made = []

    def read(q, k, v):
      at = (0, 0, 0, step, 0)
      new = [
        jax.lax.dynamic_update_slice(c, y[:, :, :, None], at)
        for c, y in ((k_cache, k), (v_cache, v))
      ]
      made.extend(new)
      written = jnp.broadcast_to(
        jnp.arange(new[0].shape[3]) <= step, (3, 4, new[0].shape[3])
      )
      own = type(above)(*new, written)
      return attend(q[:, :, None], (above, own))[:, :, 0]

    x = TextBlock(text).apply({"params": block}, x, turn, read)
    return x, tuple(made)

  x, (keys, values) = jax.lax.scan(
    layer, x, (params["text"]["blocks"], keys, values, above)
  )
  cache = type(cache)(tuple(keys), tuple(values))
  return final_norm(params["text"], text, x), cache


def positions_first_step(params, tokens, positions, step, ancestors, cache):
  """A decode step as it must not be: the cache's positions before its heads,
  which the matrix products of the CPU back end want the other way round."""
  text = CONFIG.text
  x = embed_tokens(params["text"], tokens, jnp.float32)
  three = jnp.broadcast_to(positions[:, None], (3, 3, 4))
  turn = text_rotation(
    three, text.mrope_section, text.head_dim, text.rope_theta
  )
  keys, values = list(cache.keys), list(cache.values)
  for i in range(text.layers):

    def read(q, k, v, i=i):
      at = (0, 0, step, 0, 0)
      update = jax.lax.dynamic_update_slice
      keys[i] = update(keys[i], k[:, :, None], at)
      values[i] = update(values[i], v[:, :, None], at)
      size = keys[i].shape[2]
      written = jnp.broadcast_to(jnp.arange(size) <= step, (3, 4, size))
      own = segment(keys[i], values[i], written)
      return attend(q[:, :, None], (*ancestors[i], own))[:, :, 0]

    layer = jax.tree.map(lambda p, i=i: p[i], params["text"]["blocks"])
    x = TextBlock(text).apply({"params": layer}, x, turn, read)
  cache = type(cache)(tuple(keys), tuple(values))
  return final_norm(params["text"], text, x), cache


def writes_in_loops(hlo):
  """Elements that each instruction inside of a while body writes.

  An update in place counts as what it updates, a fusion as its root.
  """
  computations, name = {}, None
  for line in hlo.splitlines():
    head = re.match(r"(?:ENTRY )?%(\S+) \(.*\{$", line)
    if head:
      name = head[1]
      computations[name] = []
    found = re.match(
      r"\s+(ROOT )?%(\S+) = (\([^=]*\)|\S+) ([\w-]+)\((.*)", line
    )
    if found and name is not None:
      computations[name].append(found.groups())

  def size(shape):
    dims = re.match(r"\w+\[([\d,]*)\]", shape)
    return int(np.prod([int(d) for d in dims[1].split(",") if d] or [1]))

  def written(name, opcode, shape, rest):
    shapes = {n: s for _, n, s, _, _ in computations[name]}
    if opcode == "dynamic-update-slice":
      operands = re.findall(r"%([\w.-]+)", rest.split(")")[0])
      return size(shapes[operands[1]])
    if opcode == "fusion":
      inner = re.search(r"calls=%([\w.-]+)", rest)[1]
      root = next(x for x in computations[inner] if x[0])
      while root[3] == "bitcast":
        operand = re.findall(r"%([\w.-]+)", root[4])[0]
        root = next(x for x in computations[inner] if x[1] == operand)
      return written(inner, root[3], root[2], root[4])
    return 0 if shape.startswith("(") else size(shape)

  free = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}
  todo = re.findall(r"body=%([\w.-]+)", hlo)
  writes, seen = [], set()
  while todo:
    name = todo.pop()
    if name in seen:
      continue
    seen.add(name)
    for _, _, shape, opcode, rest in computations[name]:
      if opcode in ("call", "while", "conditional"):
        todo += re.findall(r"(?:to_apply|body)=%([\w.-]+)", rest)
      elif opcode not in free:
        writes.append(written(name, opcode, shape, rest))
  return writes


def largest_write(step_of, size, positions_first=False, config=CONFIG):
  """The largest write of a decode step, over the elements of one layer's keys
  of one cached position of all nodes."""
  params = tiny.random_params(CONFIG)
  prompts = tiny.random_prompts(CONFIG)
  ready = jax.jit(prefill, static_argnums=1)(params, config, prompts)
  cache = empty_cache(config, 3, 4, size)
  if positions_first:
    cache = jax.tree.map(lambda x: jnp.swapaxes(x, 2, 3), cache)
  function = jax.jit(
    lambda params, ready, cache: loop_of(
      functools.partial(step_of, params), ready, cache
    ),
    donate_argnums=2,
  )
  hlo = function.lower(params, ready, cache).compile().as_text()
  text = CONFIG.text
  one_position = 3 * 4 * text.kv_heads * text.head_dim
  return max(writes_in_loops(hlo)) / one_position


@pytest.mark.parametrize("scan", [False, True])
def test_a_decode_step_writes_no_cache_but_the_new_position(scan):
  """Attention weights (one number per head and key) are all that may grow."""
  config = dataclasses.replace(CONFIG, scan_decode=scan)

  def in_place_step(params, *args):
    return decode_step(params, config, *args)

  share = CONFIG.text.heads / (CONFIG.text.kv_heads * CONFIG.text.head_dim)
  assert largest_write(in_place_step, 1024, config=config) <= 1024 * share


@pytest.mark.parametrize("kind", ["stacked", "positions first"])
def test_that_test_sees_a_cache_that_is_rewritten(kind):
  bad = stacked_step if kind == "stacked" else positions_first_step
  assert largest_write(bad, 1024, kind == "positions first") >= 1024
