"""Multiply-accumulates of one node, each formula against a count done by hand."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from edgeopt.macs import node_macs
from tests.models import model


def macs(text: str, assumed: dict[str, int] | None = None) -> int | None:
    return node_macs(model(text).graph[0], assumed or {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # out 1·8·6·6, C_in / group = 4 / 2, kernel 3·3
        (
            "g (float[1,4,8,8] x, float[8,2,3,3] w) => (float[1,8,6,6] y) { y = Conv<group=2>(x, w) }",
            8 * 36 * 2 * 9,
        ),
        # depthwise: one input channel for each output channel
        (
            "g (float[1,4,8,8] x, float[4,1,3,3] w) => (float[1,4,6,6] y) { y = Conv<group=4>(x, w) }",
            4 * 36 * 9,
        ),
        # 1-D, batch 2
        ("g (float[2,3,10] x, float[5,3,4] w) => (float[2,5,7] y) { y = Conv(x, w) }", 2 * 5 * 7 * 3 * 4),
        # every input element is multiplied by C_out / group · kernel weights
        (
            "g (float[1,4,5,5] x, float[4,6,2,2] w) => (float[1,6,6,6] y) { y = ConvTranspose(x, w) }",
            4 * 25 * 6 * 4,
        ),
        ("g (float[3,4] a, float[4,5] b) => (float[3,5] y) { y = Gemm(a, b) }", 60),
        ("g (float[4,3] a, float[5,4] b) => (float[3,5] y) { y = Gemm<transA=1, transB=1>(a, b) }", 60),
        ("g (float[2,3,4] a, float[4,5] b) => (float[2,3,5] y) { y = MatMul(a, b) }", 2 * 60),
        ("g (float[4] a, float[4] b) => (float y) { y = MatMul(a, b) }", 4),
        ("g (uint8[3,4] a, int8[4,5] b) => (int32[3,5] y) { y = MatMulInteger(a, b) }", 60),
        (
            "g (uint8[1,4,8,8] x, int8[8,4,3,3] w) => (int32[1,8,6,6] y) { y = ConvInteger(x, w) }",
            8 * 36 * 4 * 9,
        ),
        (
            "g (uint8[3,4] a, float s, uint8 z, int8[4,5] b) => (uint8[3,5] y)"
            " { y = QLinearMatMul(a, s, z, b, s, z, s, z) }",
            60,
        ),
        (
            "g (uint8[1,4,8,8] x, float s, uint8 z, int8[8,4,3,3] w) => (uint8[1,8,6,6] y)"
            " { y = QLinearConv(x, s, z, w, s, z, s, z) }",
            8 * 36 * 4 * 9,
        ),
        # i, j, k are 3, 4, 5: one product for each triple
        ('g (float[3,4] a, float[4,5] b) => (float[3,5] y) { y = Einsum<equation="ij,jk->ik">(a, b) }', 60),
        # batch behind "...", three operands: two products for each index tuple
        (
            "g (float[2,3,4] a, float[4,5] b, float[5] c) => (float[2,3] y)"
            ' { y = Einsum<equation="...ij,jk,k->...i">(a, b, c) }',
            2 * 3 * 4 * 5 * 2,
        ),
        # steps 7, batch 2, input 3, hidden 5
        (
            "g (float[7,2,3] x, float[1,20,3] w, float[1,20,5] r) => (float[7,1,2,5] y)"
            " { y = LSTM<hidden_size=5>(x, w, r) }",
            7 * 2 * 4 * 5 * (3 + 5),
        ),
        (
            "g (float[7,2,3] x, float[2,15,3] w, float[2,15,5] r) => (float[7,2,2,5] y)"
            ' { y = GRU<hidden_size=5, direction="bidirectional">(x, w, r) }',
            7 * 2 * 2 * 3 * 5 * (3 + 5),
        ),
        (
            "g (float[7,2,3] x, float[1,5,3] w, float[1,5,5] r) => (float[7,1,2,5] y)"
            " { y = RNN<hidden_size=5>(x, w, r) }",
            7 * 2 * 5 * (3 + 5),
        ),
        # nothing to multiply and add up
        ("g (float[3,4] a) => (float[3,4] y) { y = Relu(a) }", 0),
        ("g (float[3,4] a, float[3,4] b) => (float[3,4] y) { y = Mul(a, b) }", 0),
        ("g (float[1,4,8,8] x) => (float[1,4,4,4] y) { y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x) }", 0),
    ],
)
def test_formula(text: str, expected: int) -> None:
    assert macs(text) == expected


OPSET_23 = '<ir_version: 10, opset_import: ["" : 23]>\n'


def test_attention_with_four_dimensions() -> None:
    text = OPSET_23 + (
        "g (float[2,4,6,8] q, float[2,4,10,8] k, float[2,4,10,16] v) => (float[2,4,6,16] y) { y = Attention(q, k, v) }"
    )
    assert macs(text) == 2 * 4 * 6 * 10 * (8 + 16)


def test_attention_with_three_dimensions_and_shared_heads() -> None:
    # 4 query heads of 8, 2 key/value heads of 8 and 16: the values are used by two query heads each
    text = OPSET_23 + (
        "g (float[2,6,32] q, float[2,10,16] k, float[2,10,32] v) => (float[2,6,64] y)"
        " { y = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v) }"
    )
    assert macs(text) == 2 * 4 * 6 * 10 * (8 + 16)


def test_attention_counts_past_keys() -> None:
    text = OPSET_23 + (
        "g (float[1,1,1,8] q, float[1,1,1,8] k, float[1,1,1,8] v, float[1,1,9,8] pk, float[1,1,9,8] pv)"
        " => (float[1,1,1,8] y) { y = Attention(q, k, v, , pk, pv) }"
    )
    assert macs(text) == 10 * (8 + 8)


def test_symbols_are_replaced_and_unknown_ones_make_the_count_unknown() -> None:
    text = "g (float[N,4] a, float[4,5] b) => (float[N,5] y) { y = MatMul(a, b) }"
    assert macs(text, {"N": 3}) == 60
    assert macs(text) is None


def test_a_rank_that_the_operator_does_not_allow_is_unknown() -> None:
    assert macs("g (float[3] x, float[1,4,3] w, float[1,4,1] r) => (float[1] y) { y = LSTM(x, w, r) }") is None
    assert macs('g (float[3] a, float[4,5] b) => (float[3,5] y) { y = Einsum<equation="ij,jk->ik">(a, b) }') is None


def test_shape_of_a_weight_without_value_info_comes_from_its_tensor() -> None:
    tensor = ir.tensor([[1.0, 2.0], [3.0, 4.0]], name="w")
    weight = ir.Value(name="w", const_value=tensor)
    x = ir.Value(name="x", shape=ir.Shape([3, 2]))
    node = ir.node("MatMul", [x, weight])
    node.outputs[0].shape = ir.Shape([3, 2])
    assert node_macs(node, {}) == 12
    swapped = ir.node("MatMul", [weight, x])
    swapped.outputs[0].shape = ir.Shape([2, 2])
    assert node_macs(swapped, {}) == 8


def contrib(op: str, domain: str, *shapes: list[int], out: list[int], **attributes: object) -> ir.Node:
    values = [ir.Value(name=f"v{i}", shape=ir.Shape(s)) for i, s in enumerate(shapes)]
    node = ir.node(op, values, attributes=attributes, domain=domain)  # type: ignore[arg-type]
    node.outputs[0].shape = ir.Shape(out)
    return node


def test_operators_of_onnxruntime() -> None:
    assert node_macs(contrib("FusedMatMul", "com.microsoft", [4, 3], [4, 5], out=[3, 5], transA=1), {}) == 60
    assert node_macs(contrib("FusedConv", "com.microsoft", [1, 2, 4, 4], [3, 2, 1, 1], out=[1, 3, 4, 4]), {}) == 96
    assert node_macs(contrib("QLinearAdd", "com.microsoft", [3], out=[3]), {}) == 0


@pytest.mark.parametrize(
    ("op", "domain"),
    [
        ("Attention", "com.microsoft"),  # other inputs than ONNX's
        ("MultiHeadAttention", "com.microsoft"),
        ("DynamicQuantizeLSTM", "com.microsoft"),
        ("SVMClassifier", "ai.onnx.ml"),
        ("Anything", "example.custom"),
    ],
)
def test_what_has_no_formula_is_unknown_not_free(op: str, domain: str) -> None:
    assert node_macs(contrib(op, domain, [1, 4, 8], [1, 4, 8], [1, 4, 8], out=[1, 4, 8]), {}) is None


def test_linear_models_of_the_ml_domain() -> None:
    proto = onnx.helper.make_node("LinearRegressor", ["x"], ["y"], domain="ai.onnx.ml", coefficients=[1.0, 2.0, 3.0])
    node = ir.from_proto(proto)
    node.inputs[0].shape = ir.Shape([5, 3])  # type: ignore[union-attr]
    node.outputs[0].shape = ir.Shape([5, 1])
    assert node_macs(node, {}) == 15
