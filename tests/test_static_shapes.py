"""Every dimension that can be known becomes a number, and what was assumed for that is told."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from edgeopt.graph import graphs, static_shape
from edgeopt.static_shapes import dims_of_feed, resolve
from tests.models import model


def shape_of(text: str, name: str, assumed: dict[str, int] | None = None) -> tuple[int, ...] | None:
    resolved = resolve(model(text), assumed).model
    found = {v.name: v for g in graphs(resolved) for n in g for v in n.outputs}
    return static_shape(found[name])


def test_the_batch_is_one_and_a_symbol_at_axis_0_is_the_batch_everywhere() -> None:
    m = model("g (float[N,3] x, float[2,N,3] state) => (float[N,3] y, float[2,N,3] z) { y = Relu(x) z = Relu(state) }")
    resolved = resolve(m)
    assert resolved.assumed_dims == {"N": 1}
    assert [static_shape(v) for v in resolved.model.graph.outputs] == [(1, 3), (2, 1, 3)]


def test_images_in_both_layouts_and_sequences() -> None:
    assert resolve(model("g (float[N,3,H,W] x) => (y) { y = Relu(x) }")).assumed_dims == {"N": 1, "H": 96, "W": 96}
    assert resolve(model("g (float[N,H,W,3] x) => (y) { y = Relu(x) }")).assumed_dims == {"N": 1, "H": 96, "W": 96}
    assert resolve(model("g (float[N,C,H,W] x) => (y) { y = Relu(x) }")).assumed_dims["C"] == 3
    assert resolve(model("g (float[N,T] x) => (y) { y = Relu(x) }")).assumed_dims == {"N": 1, "T": 128}


def test_dimensions_without_a_name_are_told_by_input_and_axis() -> None:
    m = model("g (float[?,?] x) => (y) { y = Relu(x) }")
    assert resolve(m).assumed_dims == {"x[0]": 1, "x[1]": 128}
    assert static_shape(resolve(m, {"x[1]": 7}).model.graph.outputs[0]) == (1, 7)


def test_given_sizes_win_and_fixed_dimensions_stay() -> None:
    m = model("g (float[N,3,H,W] x) => (y) { y = Relu(x) }")
    resolved = resolve(m, {"H": 32, "N": 4, "unused": 9})
    assert resolved.assumed_dims == {"N": 4, "H": 32, "W": 96}
    assert static_shape(resolved.model.graph.outputs[0]) == (4, 3, 32, 96)


def test_the_model_given_is_not_changed() -> None:
    m = model("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    resolve(m)
    assert str(m.graph.inputs[0].shape) == "[N,3]"
    assert str(m.graph.outputs[0].shape) == "[N,3]"


def test_shapes_that_the_graph_calculates() -> None:
    # padding made of a Shape, as PyTorch exports it: ONNX's inference alone stops at ConstantOfShape
    text = """g (float[N,3,8,8] x) => (y)
    <int64[1] four = {4}, int64[4] front = {0,1,0,1}>
    { s = Shape(x)  n = Shape(s)  zeros = ConstantOfShape<value = int64[1] {0}>(n)
      pads = Concat<axis=0>(front, zeros)  wide = Pad(x, pads)  y = Relu(wide) }"""
    assert shape_of(text, "y") == (1, 4, 8, 9)


@pytest.mark.parametrize(
    "arithmetic",
    [
        "n = Size(x)  two = Constant<value_ints=[2]>()  h = Div(n, two)  t = Concat<axis=0>(two, h)",
        "s = Shape<start=0, end=1>(x)  t = Concat<axis=0>(s, rest)",
        "one = Constant<value_int=1>()  three = Constant<value_int=3>() t0 = Range(one, three, one)"
        " four = Constant<value_ints=[2,3]>() t = Mul(t0, four)",
    ],
)
def test_kinds_of_shape_arithmetic(arithmetic: str) -> None:
    text = f"g (float[2,6] x) => (y) <int64[1] rest = {{6}}> {{ {arithmetic} y = Reshape(x, t) }}"
    assert shape_of(text, "y") == (2, 6)


@pytest.mark.parametrize(
    "node",
    [
        "big = ConstantOfShape(huge)",
        "big = Expand(small, huge)",
        "big = Tile(small, huge)",
        "zero = Constant<value_int=0>() one = Constant<value_int=1>() top = Constant<value_int=1000000000000>()"
        " big = Range(zero, top, one)",
    ],
)
def test_constants_too_large_for_a_shape_are_not_made(node: str) -> None:
    # 10¹² elements: evaluating any of them would end the process
    text = (
        "g (float[N,2] x) => (y, z) <int64[1] huge = {1000000000000}, int64[1] small = {1}> "
        f"{{ {node} y = NonZero(big)  z = Relu(x) }}"
    )
    assert shape_of(text, "z") == (1, 2)


def test_a_condition_known_from_shapes_leaves_only_the_branch_that_runs() -> None:
    text = """g (float[N,1,4] x) => (y)
    <int64[1] one = {1}, int64 axis = {1}>
    { s = Shape(x)  d = Gather(s, axis)  c = Equal(d, one)
      y = If(c) <then_branch = a () => (p) { p = Squeeze(x, one) }, else_branch = b () => (q) { q = Identity(x) }> }"""
    resolved = resolve(model(text)).model
    assert [n.op_type for n in resolved.graph if n.op_type in ("If", "Squeeze", "Identity")] == ["Squeeze"]
    assert static_shape(resolved.graph.outputs[0]) == (1, 4)


def test_an_unknown_condition_keeps_both_branches() -> None:
    text = """g (float[N,4] x, bool c) => (float[N,4] y)
    { y = If(c) <then_branch = a () => (p) { p = Relu(x) }, else_branch = b () => (q) { q = Neg(x) }> }"""
    resolved = resolve(model(text)).model
    assert [n.op_type for n in resolved.graph] == ["If"]
    assert {static_shape(n.outputs[0]) for g in resolved.graph.subgraphs() for n in g} == {(1, 4)}


def test_shapes_inside_a_body_that_come_from_calculated_shapes_outside() -> None:
    text = """g (float[2,6] x, bool c) => (y)
    <int64[1] three = {3}>
    { n = Size(x)  h = Div(n, three)  t = Concat<axis=0>(three, h)
      y = If(c) <then_branch = a () => (p) { p = Reshape(x, t) }, else_branch = b () => (q) { q = Reshape(x, t) }> }"""
    assert shape_of(text, "p") == (3, 4)


def test_local_functions_are_inlined() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    g (float[N,4] x) => (y) { y = local.twice(x) }
    <domain: "local", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }"""
    resolved = resolve(model(text)).model
    assert [n.op_type for n in resolved.graph] == ["Add"]
    assert static_shape(resolved.graph.outputs[0]) == (1, 4)


def test_contradictions_and_foreign_operators_leave_shapes_unknown(caplog: pytest.LogCaptureFixture) -> None:
    m = model(
        '<ir_version: 8, opset_import: ["" : 17, "x" : 1]> g (float[N,4] x) => (y, z) { y = x.Odd(x) z = Relu(x) }'
    )
    with caplog.at_level(logging.WARNING):
        resolved = resolve(m).model
    assert [static_shape(v) for v in resolved.graph.outputs] == [None, (1, 4)]
    broken = model("g (float[2,3] a, float[4,5] b) => (y) { y = MatMul(a, b) }")
    assert static_shape(resolve(broken).model.graph.outputs[0]) is None
    assert not caplog.records  # onnx_ir would log a traceback


def test_arithmetic_that_the_reference_refuses_stays_unknown() -> None:
    text = "g (float[2,6] x) => (y) <int64[2] a = {1,2}, int64[3] b = {1,2,3}> { t = Add(a, b) y = Reshape(x, t) }"
    assert static_shape(resolve(model(text)).model.graph.outputs[0]) is None


@pytest.mark.parametrize(
    "node",
    ["t = Range(pair, pair, pair)", "a = Constant<value_int=0>() b = Constant<value_int=3>() t = Range(a, b, a)"],
)
def test_invalid_ranges_do_no_harm(node: str) -> None:
    text = f"g (float[2,6] x) => (y, z) <int64[2] pair = {{1,2}}> {{ {node} y = Reshape(x, t) z = Softmax(x) }}"
    assert static_shape(resolve(model(text)).model.graph.outputs[1]) == (2, 6)


def test_inputs_of_unknown_rank_are_not_assumed() -> None:
    m = model("g (float[N,4] x) => (y) { y = Relu(x) }")
    m.graph.inputs[0].shape = None
    assert resolve(m).assumed_dims == {}


def test_dims_of_a_feed() -> None:
    m = model("g (float[N,?] x, float[3] fixed, float[M] absent) => (y) { y = Relu(x) }")
    assert dims_of_feed(m, {"x": np.zeros((5, 7)), "fixed": np.zeros(3)}) == {"N": 5, "x[1]": 7}
