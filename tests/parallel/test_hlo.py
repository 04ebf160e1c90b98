"""Costs read from HLO text, against hand counts and unrolled programs."""

import jax
import jax.numpy as jnp
import pytest

from mirl_jax.parallel import hlo

WIDTH, ROWS, DEPTH = 64, 24, 7


def text_of(function, *shapes):
  arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  return jax.jit(function).lower(*arguments).compile().as_text()


def scanned(w, x):
  def layer(x, w):
    y = x @ w
    scores = jnp.einsum("bqd,bkd->bqk", y, y)
    return jnp.tanh(jnp.einsum("bqk,bkd->bqd", scores, y)), None

  return jax.lax.scan(layer, x, w)[0]


def unrolled(w, x):
  for i in range(w.shape[0]):
    y = x @ w[i]
    scores = jnp.einsum("bqd,bkd->bqk", y, y)
    x = jnp.tanh(jnp.einsum("bqk,bkd->bqd", scores, y))
  return x


def test_a_scan_costs_what_its_unrolled_layers_do():
  shapes = (DEPTH, WIDTH, WIDTH), (3, ROWS, WIDTH)
  wanted = DEPTH * 2 * 3 * (ROWS * WIDTH**2 + 2 * ROWS**2 * WIDTH)
  for function in (scanned, unrolled):
    assert hlo.cost(text_of(function, *shapes), 1).flops == wanted
  whole = jax.jit(unrolled).lower(
    *[jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  )
  # XLA's own count has the tanh and what its rewriting adds, too.
  own = whole.compile().cost_analysis()["flops"]
  assert wanted <= own < 1.1 * wanted


def test_gradients_are_counted_through_both_scans():
  def loss(w, x):
    return jnp.sum(jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0])

  shapes = (DEPTH, WIDTH, WIDTH), (ROWS, WIDTH)
  found = hlo.cost(text_of(jax.grad(loss), *shapes), 1)
  one = 2 * ROWS * WIDTH**2
  # Forward, and both gradients; nobody wants the last layer's output, nor the
  # first one's input gradient, which a compiler may leave out.
  assert 3 * (DEPTH - 1) * one <= found.flops <= 3 * DEPTH * one


def test_a_loop_that_may_end_early_is_counted_to_its_bound():
  def decode(w, x):
    def more(carry):
      return (carry[0] < 50) & jnp.any(carry[1] < 1e9)

    return jax.lax.while_loop(
      more, lambda carry: (carry[0] + 1, carry[1] @ w), (0, x)
    )[1]

  found = hlo.cost(text_of(decode, (WIDTH, WIDTH), (ROWS, WIDTH)), 1)
  assert found.flops == 50 * 2 * ROWS * WIDTH**2


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_counter_may_rise_by_more_than_one(step):
  def decode(w, x):
    def more(carry):
      return (carry[0] < 50) & jnp.any(carry[1] < 1e9)

    return jax.lax.while_loop(
      more, lambda carry: (carry[0] + step, carry[1] @ w), (0, x)
    )[1]

  found = hlo.cost(text_of(decode, (WIDTH, WIDTH), (ROWS, WIDTH)), 1)
  assert found.flops == -(-50 // step) * 2 * ROWS * WIDTH**2


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
  ("raised", "trips"),
  [("add(%i, %two)", 4), ("add(%two, %i)", 4), ("multiply(%i, %two)", 8)],
)
def test_a_windowed_product_takes_several_windows_a_turn(fused, raised, trips):
  """The loops that a partitioner makes of a product beside its gather have no
  known count; where a counter's step is not plain, it counts as one."""
  line = f"%next = u32[] {raised}"
  piece = ""
  if fused:
    piece = (
      "%raise (i: u32[], two: u32[]) -> u32[] {\n"
      "  %i = u32[] parameter(0)\n  %two = u32[] parameter(1)\n"
      f"  ROOT {line}\n}}\n\n"
    )
    line = "%next = u32[] fusion(%i, %two), kind=kLoop, calls=%raise"
  text = module(
    "%a = f32[8,8]{1,0} parameter(0)",
    "%z = u32[] constant(0)",
    "%n = (u32[], f32[8,8]{1,0}) tuple(%z, %a)",
    "%l = (u32[], f32[8,8]{1,0}) while(%n), condition=%c, body=%b",
    "ROOT %r = f32[8,8]{1,0} get-tuple-element(%l), index=1",
  ).replace(
    "ENTRY",
    f"""{piece}%c (s: (u32[], f32[8,8])) -> pred[] {{
  %s = (u32[], f32[8,8]{{1,0}}) parameter(0)
  %i = u32[] get-tuple-element(%s), index=0
  %n = u32[] constant(8)
  ROOT %m = pred[] compare(%i, %n), direction=LT
}}

%b (s: (u32[], f32[8,8])) -> (u32[], f32[8,8]) {{
  %s = (u32[], f32[8,8]{{1,0}}) parameter(0)
  %i = u32[] get-tuple-element(%s), index=0
  %x = f32[8,8]{{1,0}} get-tuple-element(%s), index=1
  %two = u32[] constant(2)
  %y = f32[8,8]{{1,0}} dot(%x, %x), lhs_contracting_dims={{1}}
  {line}
  ROOT %t = (u32[], f32[8,8]{{1,0}}) tuple(%next, %y)
}}

ENTRY""",
  )
  assert hlo.cost(text, 1).flops == trips * 2 * 8**3


def test_other_numbers_of_a_condition_are_no_bounds():
  """Those that something but the counter is compared with, or that it is
  multiplied with."""

  def read(w, x, end):
    def more(carry):
      number, x = carry
      live = jnp.sum(x > 0)
      return (number < 5) & (number * 128 <= end[0]) & (live > 3)

    return jax.lax.while_loop(
      more, lambda carry: (carry[0] + 1, carry[1] @ w), (0, x)
    )[1]

  text = text_of(read, (WIDTH, WIDTH), (ROWS, WIDTH), (1,))
  assert hlo.cost(text, 1).flops == 5 * 2 * ROWS * WIDTH**2


def test_a_loop_without_a_bound_is_refused():
  text = text_of(
    lambda x: jax.lax.while_loop(lambda x: jnp.any(x < x[::-1]), jnp.sin, x),
    (4,),
  )
  with pytest.raises(ValueError, match="no constant bound"):
    hlo.cost(text, 1)


def test_a_layer_reads_its_own_weights_only():
  """Bytes of a scan grow with the layers, not with their square."""

  def moved(depth):
    text = text_of(scanned, (depth, WIDTH, WIDTH), (3, ROWS, WIDTH))
    return hlo.cost(text, 1).bytes

  assert moved(4 * DEPTH) < 4.5 * moved(DEPTH)
  assert moved(DEPTH) > DEPTH * 4 * WIDTH**2


def module(*lines):
  body = "\n".join(f"  {line}" for line in lines)
  return f"HloModule m\n\nENTRY %main (a: f32[]) -> f32[] {{\n{body}\n}}\n"


# As a TPU writes batched products: batches are spatial dimensions.
CONVOLUTIONS = {
  "plain": (
    "bf16[4,128,256]",
    "bf16[1,256,96]",
    "bf16[4,128,96]",
    "window={size=1}, dim_labels=0bf_0io->0bf",
    2 * 4 * 128 * 256 * 96,
  ),
  "batched by dilation": (
    "bf16[4,2,128,64]",
    "bf16[4,2,64,96]",
    "bf16[4,2,128,96]",
    "window={size=4x2 stride=3x1 lhs_dilate=4x2}, dim_labels=01bf_01io->01bf",
    2 * 4 * 2 * 128 * 64 * 96,
  ),
  "a picture": (
    "f32[2,8,8,3]",
    "f32[3,3,3,16]",
    "f32[2,8,8,16]",
    "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f",
    2 * 2 * 3 * 16 * 22**2,  # 22 of 24 taps are inside, on either axis
  ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_products_written_as_convolutions(name):
  left, right, out, attributes, wanted = CONVOLUTIONS[name]
  text = module(
    f"%a = {left}{{2,1,0}} parameter(0)",
    f"%b = {right}{{2,1,0}} parameter(1)",
    f"ROOT %c = {out}{{2,1,0}} convolution(%a, %b), {attributes}",
  )
  assert hlo.cost(text, 1).flops == wanted


def test_a_picture_is_counted_as_xla_does():
  def convolve(x, w):
    return jax.lax.conv_general_dilated(
      x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  text = text_of(convolve, (2, 8, 8, 3), (3, 3, 3, 16))
  assert hlo.cost(text, 1).flops == CONVOLUTIONS["a picture"][-1]


SENT = {
  "all-reduce(%a), replica_groups=[4,2]<=[8]": 2 * 400 // 2,
  "all-reduce(%a), replica_groups={{0,1,2,3},{4,5,6,7}}": 2 * 400 * 3 // 4,
  "all-gather(%a), replica_groups=[2,4]<=[8], dimensions={0}": 400 * 3 // 4,
  "reduce-scatter(%a), replica_groups=[1,8]<=[8]": 8 * 400 * 7 // 8,
  "all-to-all(%a), replica_groups=mesh['x'=2,'y'=4] {'y'}": 400 * 3 // 4,
  "collective-permute(%a), source_target_pairs={{0,1}}": 400,
}


@pytest.mark.parametrize("line", SENT)
def test_bytes_that_a_collective_sends(line):
  text = module(
    "%a = f32[100]{0} parameter(0)", f"ROOT %r = f32[100]{{0}} {line}"
  )
  found = hlo.cost(text, 8)
  (kind,) = found.collectives
  assert line.startswith(kind)
  assert found.collectives[kind] == 1
  assert found.sent[kind] == SENT[line]


def test_a_collective_in_two_halves_is_one():
  text = module(
    "%a = f32[100]{0} parameter(0)",
    "%s = (f32[100]{0}, f32[400]{0}) all-gather-start(%a),"
    " replica_groups=[2,4]<=[8], dimensions={0}",
    "ROOT %d = f32[400]{0} all-gather-done(%s)",
  )
  found = hlo.cost(text, 8)
  assert found.collectives == {"all-gather": 1}
  assert found.sent == {"all-gather": 1600 * 3 // 4}


def test_what_lies_on_the_chip_costs_no_memory_traffic():
  text = module(
    "%a = f32[100]{0:T(128)} parameter(0)",
    "%b = f32[100]{0:T(128)S(1)} negate(%a)",
    "ROOT %c = f32[100]{0:T(128)} negate(%b)",
  )
  assert hlo.cost(text, 1).bytes == 800


def test_an_array_on_its_way_is_moved_once():
  text = module(
    "%a = f32[100]{0:T(128)} parameter(0)",
    "%s = ((f32[100]{0:T(128)}), f32[10]{0:T(128)S(1)}, s32[]{:S(2)})"
    " slice-start(%a), slice={[0:10]}",
    "%d = f32[10]{0:T(128)S(1)} slice-done(%s)",
    "%t = (f32[10]{0:T(128)}, f32[10]{0:T(128)S(1)}, u32[]{:S(2)})"
    " copy-start(%d)",
    "ROOT %r = f32[10]{0:T(128)} copy-done(%t)",
  )
  assert hlo.cost(text, 1).bytes == 40 + 40


def test_a_slice_in_a_fusion_of_a_fusion_is_all_that_is_read():
  inner = """%slice (p: f32[6,100], i: s32[]) -> f32[100] {
  %p = f32[6,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  %s = f32[1,100]{1,0} dynamic-slice(%p, %i, %z), dynamic_slice_sizes={1,100}
  ROOT %b = f32[100]{0} bitcast(%s)
}

%view (w: f32[6,100]) -> f32[600] {
  %w = f32[6,100]{1,0} parameter(0)
  ROOT %v = f32[600]{0} bitcast(%w)
}

%outer (p0: f32[6,100], p1: s32[], p2: f32[6,100]) -> f32[100] {
  %p0 = f32[6,100]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[6,100]{1,0} parameter(2)
  %one = f32[100]{0} fusion(%p0, %p1), kind=kLoop, calls=%slice
  %all = f32[600]{0} fusion(%p2), kind=kLoop, calls=%view
  %sum = f32[] reduce(%all, %all), dimensions={0}, to_apply=%add
  %wide = f32[100]{0} broadcast(%sum), dimensions={}
  ROOT %r = f32[100]{0} add(%one, %wide)
}

"""
  text = module(
    "%a = f32[6,100]{1,0} parameter(0)",
    "%n = s32[]{:S(6)} parameter(1)",
    "%c = f32[6,100]{1,0} parameter(2)",
    "ROOT %r = f32[100]{0} fusion(%a, %n, %c), kind=kLoop, calls=%outer",
  ).replace("ENTRY", inner + "ENTRY")
  # One row of the first, all of the other, and the result.
  assert hlo.cost(text, 1).bytes == 400 + 2400 + 400


def test_a_collective_beside_a_loops_fusions_is_one():
  """Begun before a loop, it goes on beside the fusions of each turn."""

  def piece(name):
    chain = 'dimensions={0}, frontend_attributes={chain_id="7"}'
    return f"""%{name} (p: f32[100], q: f32[400]) -> (f32[50]) {{
  %p = f32[100]{{0}} parameter(0)
  %q = f32[400]{{0}} parameter(1)
  %g = f32[400]{{0}} all-gather(%p), replica_groups=[2,4]<=[8], {chain}
  %c = f32[] constant(0)
  %w = f32[50]{{0}} broadcast(%c), dimensions={{}}
  ROOT %t = (f32[100]{{0}}, f32[400]{{0}}, f32[50]{{0}}) tuple(%p, %g, %w)
}}

"""

  def call(name, state):
    return (
      f"%{name} = (f32[100]{{0}}, f32[400]{{0}}, f32[50]{{0}}) fusion(%a, %b),"
      f" kind=kCustom, calls=%{state}"
    )

  loop = f"""%body (s: (s32[])) -> (s32[]) {{
  %s = (s32[], f32[100]{{0}}, f32[400]{{0}}) parameter(0)
  %a = f32[100]{{0}} get-tuple-element(%s), index=1
  %b = f32[400]{{0}} get-tuple-element(%s), index=2
  {call("r", "middle")}
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %t = (s32[], f32[100]{{0}}, f32[400]{{0}}) tuple(%i, %a, %b)
}}

"""
  text = module(
    "%a = f32[100]{0} parameter(0)",
    "%b = f32[400]{0} parameter(1)",
    "%z = s32[] constant(0)",
    call("first", "begin"),
    "%n = (s32[], f32[100]{0}, f32[400]{0}) tuple(%z, %a, %b)",
    "%l = (s32[], f32[100]{0}, f32[400]{0}) while(%n), condition=%c,"
    ' body=%body, backend_config={"known_trip_count":{"n":"9"}}',
    "ROOT %r = f32[400]{0} get-tuple-element(%l), index=2",
  ).replace("ENTRY", piece("begin") + piece("middle") + loop + "ENTRY")
  found = hlo.cost(text, 8)
  assert found.collectives == {"all-gather": 1}
  assert found.sent == {"all-gather": 1600 * 3 // 4}
  # What is handed on moves nothing: a fusion writes its own result only.
  assert found.bytes == 10 * 200


def test_kernels_that_say_nothing_are_counted():
  text = module(
    "%a = f32[100]{0} parameter(0)",
    '%k = f32[100]{0} custom-call(%a), custom_call_target="tpu_custom_call"',
    "ROOT %l = f32[100]{0} custom-call(%k),"
    ' custom_call_target="tpu_custom_call",'
    ' backend_config={"cost_estimate":{"flops":"1234"}}',
  )
  found = hlo.cost(text, 1)
  assert (found.kernels, found.flops) == (1, 1234)


def test_splash_attention_is_counted_from_its_shapes():
  """Ten rows of 16 heads, 384 queries and 256 keys of 128 numbers."""
  text = module(
    "%a = s8[1,3,2]{2,1,0} parameter(0)",
    "%q = bf16[10,16,384,128]{3,2,1,0} parameter(1)",
    "%k = bf16[10,8,256,128]{3,2,1,0} parameter(2)",
    "%splash_mha_fwd_segmented_residuals.1 = (f32[384,128]{1,0},"
    " bf16[10,16,384,128]{3,2,1,0}) custom-call(%a, %q, %k, %k),"
    ' custom_call_target="tpu_custom_call", operand_layout_constraints='
    "{s8[1,3,2]{2,1,0}, bf16[10,16,384,128]{3,2,1,0},"
    " bf16[10,8,256,128]{3,2,1,0}, bf16[10,8,256,128]{3,2,1,0},"
    " s32[10,384]{1,0}}",
  )
  found = hlo.cost(text, 1)
  products = 10 * 16 * 2 * (384 * 256 * 128)
  assert (found.kernels, found.flops) == (0, 2 * products)
