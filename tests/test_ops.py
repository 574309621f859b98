"""Facts about operators, and the size of whole models."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.ops import bodies, count, is_random, is_shape_only, is_view, node_key
from tests.models import model


def node(text: str) -> ir.Node:
    return next(n for n in model(text).graph if n.op_type != "Constant")


def test_views_and_shape_readers() -> None:
    assert is_view(node("g (float[2,3] x) => (y) { y = Flatten(x) }"))
    assert not is_view(node("g (float[2,3] x) => (y) { y = Transpose(x) }"))
    assert not is_view(
        node('<ir_version: 8, opset_import: ["" : 17, "x" : 1]> g (float[2] x) => (y) { y = x.Flatten(x) }')
    )
    assert is_shape_only(node("g (float[2,3] x) => (y) { y = Shape(x) }"))
    assert not is_shape_only(node("g (int64[2] x) => (y) { y = ConstantOfShape(x) }"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = RandomUniform<shape=[2], seed=1.0>()", True),
        ("y = RandomNormalLike(x)", True),
        ("y = Bernoulli(x)", True),
        ("y = Multinomial<sample_size=3>(x)", True),
        ("y = Relu(x)", False),
        ("y = Dropout(x)", False),
        ("on = Constant<value = bool {1}>() r = Constant<value_float=0.5>() y = Dropout(x, r, on)", True),
        ("on = Constant<value = bool {0}>() r = Constant<value_float=0.5>() y = Dropout(x, r, on)", False),
        ("y = Dropout(x, , flag)", True),  # decided by whoever runs it
    ],
)
def test_randomness(body: str, expected: bool) -> None:
    assert is_random(node(f"g (float[2,3] x, bool flag) => (y) {{ {body} }}")) is expected


def test_randomness_of_bodies_and_of_what_is_unknown() -> None:
    branch = "y = If(c) <then_branch = a () => (p) {{ p = {0}(x) }}, else_branch = b () => (q) {{ q = Neg(x) }}>"
    text = "g (float[2,3] x, bool c) => (y) {{ {0} }}"
    assert is_random(node(text.format(branch.format("Bernoulli"))))
    assert not is_random(node(text.format(branch.format("Relu"))))
    other = '<ir_version: 8, opset_import: ["" : 17, "x" : 1]> g (float[2] x) => (y) { y = x.Odd(x) }'
    assert is_random(node(other))


def test_bodies() -> None:
    text = """g (float[2] x, bool c) => (y)
    { y = If(c) <then_branch = a () => (p) { p = Relu(x) }, else_branch = b () => (q) { q = Neg(x) }> }"""
    assert [g.name for g in bodies(node(text))] == ["a", "b"]
    assert list(bodies(node("g (float[2] x) => (y) { y = Relu(x) }"))) == []
    holder = ir.node("Many", [], attributes={"graphs": [ir.Graph([], [], nodes=[], name="only")]})
    assert [g.name for g in bodies(holder)] == ["only"]


def test_node_key() -> None:
    m = model("g (float[2] x) => (y) { [first] h = Relu(x)  y = Neg(h) }")
    assert [node_key(n) for n in m.graph] == ["first", "y"]
    assert node_key(ir.Node("", "Nothing", [], num_outputs=0)) == "Nothing"


CONV = """g (float[N,1,H,W] x) => (y)
<float[2,1,1,3] w = {1,2,3,4,5,6}, float[2] b = {1,2}>
{ [conv] c = Conv<pads=[0,1,0,1]>(x, w, b) y = Relu(c) }"""


def test_count_of_a_convolution() -> None:
    found = count(model(CONV), {"H": 10, "W": 12})
    assert found.macs == 2 * 10 * 12 * 3
    assert found.by_node == {"conv": found.macs}
    assert (found.params, found.weight_bytes) == (6 + 2, 4 * 8)
    assert found.assumed_dims == {"N": 1, "H": 10, "W": 12}
    assert found.unknown == []


def test_open_dimensions_are_assumed_and_told() -> None:
    found = count(model(CONV))
    assert found.macs == 2 * 96 * 96 * 3
    assert found.assumed_dims == {"N": 1, "H": 96, "W": 96}


def test_bodies_are_counted_once_each() -> None:
    text = """g (float[2,3] x, int64 trips, bool go) => (y, z)
    <float[3,3] w = {1,0,0,0,1,0,0,0,1}>
    { y = If(go) <then_branch = a () => (p) { [left] p = MatMul(x, w) }, else_branch = b () => (q) { q = Neg(x) }>
      z = Loop(trips, go, x) <body = l (int64 i, bool ci, float[2,3] s) => (bool co, float[2,3] t)
        { co = Identity(ci) [again] t = MatMul(s, w) }> }"""
    assert count(model(text)).by_node == {"left": 18, "again": 18}


def test_nodes_that_share_a_key_are_added_and_unknown_ones_are_listed() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "x" : 1]>
    g (float[2,3] x, float[3,3] w) => (y)
    { [n] a = MatMul(x, w) [n] b = MatMul(a, w) c = x.Odd(b) [m] y = MatMul(c, w) }"""
    found = count(model(text))
    assert found.by_node == {"n": 36}
    assert found.unknown == ["c", "m"]


QDQ = """g (float[1,3] x) => (y)
<float s = {0.1}, uint8 z = {128}, int8[3,3] w = {1,2,3,4,5,6,7,8,9}, float[3] ws = {0.1,0.1,0.1}, int8[3] wz = {0,0,0},
 int32[3] bias = {1,2,3}, float[3] bs = {0.01,0.01,0.01}, int64[2] shape = {3,1}>
{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
  dw = DequantizeLinear<axis=1>(w, ws, wz)  db = DequantizeLinear<axis=0>(bias, bs)
  [gemm] m = Gemm(d, dw, db)  y = Reshape(m, shape) }"""


def test_quantized_models_have_as_many_parameters_as_float_ones() -> None:
    found = count(model(QDQ))
    assert found.params == 9 + 3  # weights and bias; no scale, zero point or shape
    assert found.macs == 9
    assert found.weight_bytes == 9 + 3 * 4 + (1 + 3 + 3) * 4 + 1 + 3 + 2 * 8


def test_integer_operators_and_weights_that_are_unused() -> None:
    text = """g (uint8[2,3] x) => (y)
    <float s = {0.1}, uint8 z = {0}, int8[3,3] w = {1,2,3,4,5,6,7,8,9}, int8 wz = {0}, float[2] spare = {1,2}>
    { y = QLinearMatMul(x, s, z, w, s, wz, s, z) }"""
    assert count(model(text)).params == 9 + 2


def test_constants_of_nodes_count_but_for_scalars() -> None:
    text = """g (float[2] x) => (y)
    { a = Constant<value_floats=[1.0,2.0]>() b = Constant<value_float=2.0>() c = Add(x, a) y = Mul(c, b) }"""
    found = count(model(text))
    assert (found.params, found.weight_bytes) == (2, 12)


def test_sub_byte_types_are_counted_packed() -> None:
    m = model('<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (y) { y = Relu(x) }')
    tensor = ir.Tensor(np.ones(9, dtype=ml_dtypes.int4), dtype=ir.DataType.INT4, name="w")
    value = ir.Value(name="w", const_value=tensor, shape=ir.Shape([9]), type=ir.TensorType(ir.DataType.INT4))
    m.graph.register_initializer(value)
    assert count(m).weight_bytes == 5


def test_weights_of_local_functions_count() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    g (float[N,2] x) => (y) { y = local.layer(x) }
    <domain: "local", opset_import: ["" : 17]> layer (a) => (b)
    { w = Constant<value = float[2,2] {1,2,3,4}>() b = MatMul(a, w) }"""
    found = count(model(text))
    assert (found.params, found.macs) == (4, 4)


def test_real_models(shared: Path) -> None:
    listed = json.loads((shared / "data" / "models.json").read_text())
    assert listed
    for name, entry in listed.items():
        found = count(ir.load(shared / "data" / entry["file"]))
        assert found.unknown == [], name
        assert found.params == entry["params"], name
        if entry["macs"] is not None:
            assert found.macs == entry["macs"], name


def test_every_file_of_the_corpus_can_be_counted(shared: Path) -> None:
    files = sorted((shared / "data" / "corpus").glob("*.onnx"))
    assert files
    for path in files:
        found = count(ir.load(path))
        assert found.macs >= 0, path.name
        assert found.weight_bytes <= path.stat().st_size, path.name
