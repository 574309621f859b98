from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import graph as graphs
from edgeopt import saving
from edgeopt.graph import op_histogram
from edgeopt.passes import affine_layers
from edgeopt.passes.affine_paths import Channels
from edgeopt.passes.fold_affine_before import FoldAffineBefore
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import Breakage, Patch, assert_caught, scaled
from tests.passes.tables import assert_fires, assert_left_alone, graph

RULE = FoldAffineBefore()
BN = "float[4] g, float[4] b, float[4] m, float[4] var"
W = "float[5,4,3,3] w"
C = "float[4,1,1] c, float[4,1,1] d"
X = "float[2,4,6,6] x"
NORM = "BatchNormalization(x, g, b, m, var)"
QDQ = "float s = {0.1}, int8 z = {0}"


def net(body: str, weights: str = f"{W}, {C}", x: str = X, y: str = "float[] y", opset: int = 17) -> str:
    return graph(f"g ({x}) => ({y}) <{weights}> {{ {body} }}", opset)


def mat(body: str, weights: str = "float[5,4] w, float[5] c, float[5] d", x: str = "float[3,5] x") -> str:
    return net(body, weights, x)


FOLDS: dict[str, tuple[str, dict[str, int]]] = {
    "1 BatchNormalization, Conv": (net(f"h = {NORM} y = Conv(h, w)", f"{W}, {BN}"), {"Conv": 1}),
    "1 with a bias": (net(f"h = {NORM} y = Conv(h, w, e)", f"{W}, {BN}, float[5] e"), {"Conv": 1}),
    "1 Mul": (net("h = Mul(x, c) y = Conv(h, w)"), {"Conv": 1}),
    "1 Mul, padded": (net("h = Mul(c, x) y = Conv<pads=[1,1,1,1]>(h, w)"), {"Conv": 1}),
    "1 Div, padded by auto_pad": (net('h = Div(x, c) y = Conv<auto_pad="SAME_UPPER">(h, w)'), {"Conv": 1}),
    "1 Add": (net("h = Add(x, c) y = Conv(h, w)"), {"Conv": 1}),
    "1 Add, auto_pad VALID": (net('h = Add(x, c) y = Conv<auto_pad="VALID">(h, w)'), {"Conv": 1}),
    "1 constant - x": (net("h = Sub(c, x) y = Conv<strides=[2,2], dilations=[2,2]>(h, w)"), {"Conv": 1}),
    "1 -x": (net("h = Neg(x) y = Conv<pads=[1,1,1,1]>(h, w)"), {"Conv": 1}),
    "1 one number": (net("h = Mul(x, c) y = Conv<pads=[1,1,1,1]>(h, w)", f"{W}, float c = {{3.0}}"), {"Conv": 1}),
    "1 (x - mean) / std": (net("k = Sub(x, c) h = Div(k, d) y = Conv(h, w)"), {"Conv": 1}),
    "1 x / 255, mean and std of one number": (
        net(
            "p = Div(x, r) k = Sub(p, a) h = Div(k, e) y = Conv(h, w)",
            f"{W}, float r = {{255.0}}, float a = {{0.5}}, float e = {{0.25}}",
        ),
        {"Conv": 1},
    ),
    "edge 27: Mul, grouped": (net("h = Mul(x, c) y = Conv<group=2>(h, w)", f"float[6,2,3,3] w, {C}"), {"Conv": 1}),
    "1 BatchNormalization, grouped": (
        net(f"h = {NORM} y = Conv<group=2>(h, w, e)", f"float[6,2,3,3] w, float[6] e, {BN}"),
        {"Conv": 1},
    ),
    "1 depthwise": (net(f"h = {NORM} y = Conv<group=4>(h, w)", f"float[4,1,3,3] w, {BN}"), {"Conv": 1}),
    "1 Conv of one axis": (
        net("h = Mul(x, c) k = Add(h, c) y = Conv(k, w)", "float[5,4,3] w, float[4,1] c", "float[2,4,6] x"),
        {"Conv": 1},
    ),
    "1 Conv of three axes": (
        net("h = Add(x, c) y = Conv(h, w)", "float[5,4,2,2,2] w, float[4,1,1,1] c", "float[1,4,3,3,3] x"),
        {"Conv": 1},
    ),
    "1 open batch and size": (net(f"h = {NORM} y = Conv(h, w)", f"{W}, {BN}", "float[N,4,H,W] x"), {"Conv": 1}),
    "1 ConvTranspose, grouped": (
        net("h = Mul(x, c) y = ConvTranspose<group=2, strides=[2,2]>(h, w)", f"float[4,3,3,3] w, {C}"),
        {"ConvTranspose": 1},
    ),
    "1 Gemm": (
        mat(
            "h = BatchNormalization(x, c, d, c, var) y = Gemm(h, w, e)",
            "float[5,4] w, float[5] c, float[5] d, float[4] e, float[5] var",
        ),
        {"Gemm": 1},
    ),
    "edge 17: Gemm, alpha, beta, transB": (
        mat(
            "h = Mul(x, c) k = Add(h, d) y = Gemm<alpha=0.5, beta=2.0, transB=1>(k, w, e)",
            "float[4,5] w, float[5] c, float[5] d, float[4] e",
        ),
        {"Gemm": 1},
    ),
    "edge 17: Gemm, no C": (mat("h = Sub(x, c) y = Gemm<alpha=2.0>(h, w)"), {"Gemm": 1}),
    "edge 17: Gemm, C of one number": (
        mat("h = Sub(x, c) y = Gemm(h, w, e)", "float[5,4] w, float[5] c, float e = {2.0}"),
        {"Gemm": 1},
    ),
    "edge 17: Gemm, C by rows": (
        mat("h = Sub(x, c) y = Gemm<beta=0.5>(h, w, e)", "float[5,4] w, float[5] c, float[3,1] e"),
        {"Gemm": 1},
    ),
    "1 MatMul": (mat("h = Mul(x, c) y = MatMul(h, w)"), {"MatMul": 1}),
    "1 MatMul, 3-D": (mat("h = Div(x, c) y = MatMul(h, w)", x="float[2,3,5] x"), {"MatMul": 1}),
    "1 MatMul, 1-D": (mat("h = Mul(x, c) y = MatMul(h, w)", x="float[5] x"), {"MatMul": 1}),
    "1 MatMul, the weight on the left": (
        mat("h = Mul(x, c) y = MatMul(w, h)", "float[4,5] w, float[5,1] c", "float[2,5,3] x"),
        {"MatMul": 1},
    ),
    "1 MatMul, the weight on the left, one number": (
        mat("h = Mul(x, c) y = MatMul(w, h)", "float[4,5] w, float c = {0.5}", "float[2,5,3] x"),
        {"MatMul": 1},
    ),
    "2 GlobalAveragePool, Flatten, Gemm": (
        net(f"h = {NORM} p = GlobalAveragePool(h) f = Flatten(p) y = Gemm(f, w)", f"float[4,5] w, {BN}"),
        {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1},
    ),
    "2 Flatten of several pixels": (
        net(f"h = {NORM} f = Flatten(h) y = Gemm(f, w)", f"float[144,5] w, {BN}"),
        {"Flatten": 1, "Gemm": 1},
    ),
    "2 ReduceMean over tokens": (
        mat("h = Mul(x, c) p = ReduceMean<axes=[1], keepdims=0>(h) y = Gemm(p, w)", x="float[2,3,5] x"),
        {"ReduceMean": 1, "Gemm": 1},
    ),
    "2 Relu": (
        net("h = Mul(x, var) r = Relu(h) y = Conv<pads=[1,1,1,1]>(r, w)", f"{W}, float[4,1,1] var"),
        {"Relu": 1, "Conv": 1},
    ),
    "2 MaxPool": (
        net("h = Mul(x, var) k = Add(h, c) p = MaxPool<kernel_shape=[2,2]>(k) y = Conv(p, w)", f"{W}, {C}, float[4,1,1] var"),
        {"MaxPool": 1, "Conv": 1},
    ),
    "2 Transpose": (
        net("h = Mul(x, c) t = Transpose<perm=[0,3,1,2]>(h) y = Conv(t, w)", f"{W}, float[4] c", "float[2,6,6,4] x"),
        {"Transpose": 1, "Conv": 1},
    ),
    "2 Resize": (
        net(f'h = {NORM} r = Resize<mode="linear">(h, , s) y = Conv(r, w)', f"{W}, {BN}, float[4] s = {{1.0,1.0,2.0,2.0}}"),
        {"Resize": 1, "Conv": 1},
    ),
    "2 Pad": (
        net('h = Add(x, c) p = Pad<mode="reflect">(h, a) y = Conv(p, w)', f"{W}, {C}, int64[8] a = {{0,0,1,1,0,0,1,1}}"),
        {"Pad": 1, "Conv": 1},
    ),
    "edge 27: 3 two readers": (
        net(f"h = {NORM} p = Conv(h, w) q = Conv(h, w) y = Mul(p, q)", f"{W}, {BN}"),
        {"Conv": 2, "Mul": 1},
    ),
    "3 two readers, one behind a pool": (
        net(f"h = {NORM} p = Conv(h, w) a = GlobalAveragePool(h) q = Conv(a, v) y = Mul(p, q)", f"{W}, float[5,4,1,1] v, {BN}"),
        {"Conv": 2, "GlobalAveragePool": 1, "Mul": 1},
    ),
    "4 (x - mean) / std, padded": (
        net("k = Sub(x, c) h = Div(k, d) y = Conv<pads=[1,1,1,1]>(h, w)"),
        {"Add": 1, "Conv": 1},
    ),
    "4 two BatchNormalizations, padded": (
        net(f"k = {NORM} h = BatchNormalization(k, b, g, m, var) y = Conv<pads=[1,1,1,1]>(h, w)", f"{W}, {BN}"),
        {"Add": 1, "Conv": 1},
    ),
    "5 a shift before a MatMul of two matrices": (mat("h = Sub(x, c) y = MatMul(h, w)"), {"Gemm": 1}),
    "5 a map of two nodes before a MatMul": (
        mat("h = Sub(x, c) k = Div(h, d) y = MatMul(k, w)", x="float[2,3,5] x"),
        {"MatMul": 1, "Add": 1},
    ),
    "5 a map of two nodes, the weight on the left": (
        mat("h = Sub(x, c) k = Div(h, d) y = MatMul(w, k)", "float[4,5] w, float[5,1] c, float[5,1] d", "float[2,5,3] x"),
        {"MatMul": 1, "Add": 1},
    ),
    "6 in a branch of an If": (
        graph(
            f"g (float[2,4,6,6] x, bool a) => (float[2,5,4,4] y) <{W}, {C}> {{ z = Relu(x) y = If(a) <"
            "then_branch = p () => (float[2,5,4,4] t) { h = Mul(z, c) t = Conv(h, w) },"
            "else_branch = q () => (float[2,5,4,4] e) { e = Conv(z, w) }> }"
        ),
        {"Relu": 1, "Conv": 2, "If": 1},
    ),
    "8 of what a DequantizeLinear gives": (
        net("q = QuantizeLinear(x, s, z) i = DequantizeLinear(q, s, z) h = Mul(i, c) y = Conv(h, w)", f"{W}, {C}, {QDQ}"),
        {"QuantizeLinear": 1, "DequantizeLinear": 1, "Conv": 1},
    ),
    "9 the part of a chain that is a map per channel": (
        net("k = Mul(x, e) h = Mul(k, c) y = Conv(h, w)", f"{W}, {C}, float[6] e"),
        {"Mul": 1, "Conv": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name: str) -> None:
    text, ops = FOLDS[name]
    assert_fires(RULE, text, ops)


@pytest.mark.parametrize("dtype", ["float16", "double"])
@pytest.mark.parametrize("name", ["1 BatchNormalization, Conv", "1 Mul, padded", "edge 17: Gemm, no C", "1 MatMul"])
def test_other_types(name: str, dtype: str) -> None:
    text, ops = FOLDS[name]
    model = loaded(text.replace("float", dtype))
    result, report = checked(RULE, model)
    assert report.rolled_back == []
    assert op_histogram(result) == ops
    if dtype == "float16":
        assert_same(model, result, 1e-2)
    elif "Conv" not in ops:  # onnxruntime has no kernel for Conv of double
        assert_same(model, result, 1e-9)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 21])
@pytest.mark.parametrize(
    ("body", "ops"),
    [
        (f"h = {NORM} y = Conv(h, w)", {"Conv": 1}),
        ("h = Sub(x, c) k = Div(h, d) y = Conv<pads=[1,1,1,1]>(k, w)", {"Add": 1, "Conv": 1}),
        ("h = Mul(x, var2) r = Relu(h) p = MaxPool<kernel_shape=[2,2]>(r) y = Conv(p, w)", {"Relu": 1, "MaxPool": 1, "Conv": 1}),
        ("h = Add(x, c) p = GlobalAveragePool(h) f = Flatten(p) y = MatMul(f, v)", {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}),
    ],
)  # fmt: skip
def test_opsets(body: str, ops: dict[str, int], opset: int) -> None:
    assert_fires(RULE, net(body, f"{W}, {C}, {BN}, float[4,1,1] var2, float[4,5] v", opset=opset), ops)


def test_opset_6_has_no_broadcasting_by_numpys_rules() -> None:
    norm = "BatchNormalization<is_test=1>(x, c, d, c, var)"
    stored = "float[5,4] w, float[5] c, float[5] d, float[5] var"
    assert_left_alone(RULE, net(f"h = {norm} y = MatMul(h, w)", stored, "float[3,5] x", opset=6), "no bias")
    text = net("h = BatchNormalization<is_test=1>(x, g, b, m, var) y = Conv(h, w)", f"{W}, {BN}", opset=6)
    result, report = checked(RULE, loaded(text))  # onnxruntime has no kernel for this BatchNormalization
    assert report.rolled_back == []
    assert op_histogram(result) == {"Conv": 1}


LEFT: dict[str, tuple[str, str | None]] = {
    "no map": (net("h = Relu(x) y = Conv(h, w)"), None),
    "edge 25: c / x": (net("h = Div(c, x) y = Conv(h, w)"), None),
    "edge 27: 6 read by something else too": (
        net("h = Mul(x, c) p = Conv<pads=[1,1,1,1]>(h, w) q = Relu(h) r = ReduceSum(q) y = Add(p, r)"),
        "is also read by Relu 'Relu_q'",
    ),
    "6 an output of the graph": (
        net("h = Mul(x, c) y = Conv(h, w)", y="float[] y, float[] h"),
        "is an output of the graph",
    ),
    "6 captured by a branch": (
        graph(
            f"g (float[2,4,6,6] x, bool a) => (float[2,5,4,4] y, float[2,4,6,6] k) <{W}, {C}> {{"
            " h = Mul(x, c) y = Conv(h, w) k = If(a) <"
            "then_branch = p () => (float[2,4,6,6] t) { t = Neg(h) },"
            "else_branch = q () => (float[2,4,6,6] e) { e = Abs(h) }> }"
        ),
        "is also read by",
    ),
    "6 the map lies in another graph": (
        graph(
            f"g (float[2,4,6,6] x, bool a) => (float[2,5,4,4] y) <{W}, {C}> {{ h = Mul(x, c) y = If(a) <"
            "then_branch = p () => (float[2,5,4,4] t) { t = Conv(h, w) },"
            "else_branch = q () => (float[2,5,4,4] e) { k = Neg(h) j = Neg(k) i = Exp(j) e = Conv(i, w) }> }"
        ),
        None,
    ),
    "6 a second reader that is padded": (
        net(f"h = {NORM} p = Conv(h, w) q = Conv<pads=[1,1,1,1]>(h, w) r = ReduceSum(q) y = Add(p, r)", f"{W}, {BN}"),
        "is also read by Conv 'Conv_q'",
    ),
    "6 a second reader without a bias": (
        net("h = Add(x, c) p = Conv(h, w) q = MatMul(h, v) r = ReduceSum(q) y = Add(p, r)", f"{W}, float c = {{2.0}}, float[6,2] v"),
        "read by MatMul 'MatMul_q'",
    ),
    "7 a value between is read elsewhere": (
        net("h = Mul(x, var) k = Relu(h) p = Conv<pads=[1,1,1,1]>(k, w) r = ReduceSum(k) y = Add(p, r)", f"{W}, float[4,1,1] var"),
        None,
    ),
    "8 edge 15: weights that are computed": (
        net("h = Mul(x, c) y = Conv(h, w)", C, f"{X}, {W}"),
        "are not constant",
    ),
    "8 edge 19: quantized weights": (
        net("w = DequantizeLinear(q, s, z) h = Mul(x, c) y = Conv(h, w)", f"int8[5,4,3,3] q, {QDQ}, {C}"),
        "are not constant",
    ),
    "8 edge 63: Q and DQ between": (
        net("h = Mul(x, c) q = QuantizeLinear(h, s, z) i = DequantizeLinear(q, s, z) y = Conv(i, w)", f"{W}, {C}, {QDQ}"),
        None,
    ),
    "8 the data of a MatMul on both sides": (
        mat("h = Mul(x, c) y = MatMul(h, w)", "float c = {2.0}", "float[3,5] x, float[5,4] w"),
        None,
    ),
    "9 edge 20: a constant [W] with W == C": (
        net("h = Mul(x, c) y = Conv(h, w)", f"{W}, float[4] c", "float[2,4,6,4] x"),
        "another axis than the channels",
    ),
    "9 edge 22: spatial extent": (
        net("h = Mul(x, c) y = Conv(h, w)", f"{W}, float[4,6,6] c"),
        "varies along several axes",
    ),
    "9 edge 22: batch extent": (
        net("h = Mul(x, c) y = Conv(h, w)", f"{W}, float[2,1,1,1] c"),
        "another axis than the channels",
    ),
    "9 edge 23: one channel times [4,1,1]": (
        net("h = Mul(x, c) y = Conv(h, w)", f"{W}, {C}", "float[2,1,6,6] x"),
        "or enlarges it",
    ),
    "9 edge 23: one normalized channel times [4,1,1]": (
        net("k = BatchNormalization(x, e, e, e, var) h = Mul(k, c) y = Conv(h, w)", f"{W}, {C}, float[1] e, float[1] var", "float[2,1,6,6] x"),
        "or enlarges it",
    ),
    "9 perhaps one channel times [4,1,1]": (
        net("h = Mul(x, c) y = Conv(h, w)", f"{W}, {C}", "float[2,K,6,6] x"),
        "or enlarges it",
    ),
    "9 edge 21: one element, higher rank": (
        net("h = Mul(x, c) y = Conv(h, w)", "float[5,4,3,3,3] w, float[1,1,1,1,1] c", "float[4,5,5,5] x"),
        "or enlarges it",
    ),
    "9 rows of a Gemm": (mat("h = Mul(x, c) y = Gemm(h, w)", "float[5,4] w, float[3,1] c"), "than Gemm 'Gemm_y' sums over"),
    "9 transA": (mat("h = Mul(x, c) y = Gemm<transA=1>(h, w)", "float[5,4] w, float[5,1] c", "float[5,3] x"), "transposed"),
    "12 integers": (mat("h = Mul(x, c) y = MatMul(h, w)", "int32[5,4] w, int32[5] c", "int32[3,5] x"), None),
    "edge 18: 13 a BatchNormalization before padding": (
        net(f"h = {NORM} y = Conv<pads=[1,1,1,1]>(h, w)", f"{W}, {BN}"),
        "zeros at its border",
    ),
    "edge 18: 13 before auto_pad": (
        net(f'h = {NORM} y = Conv<auto_pad="SAME_LOWER">(h, w)', f"{W}, {BN}"),
        "zeros at its border",
    ),
    "13 a shift before padding": (net("h = Sub(x, c) y = Conv<pads=[0,0,0,1]>(h, w)"), "zeros at its border"),
    "13 a shift before a ConvTranspose": (
        net(f"h = {NORM} y = ConvTranspose(h, w)", f"float[4,5,3,3] w, {BN}"),
        "zeros at its border",
    ),
    "13 a chain with another reader before padding": (
        net("k = Sub(x, c) h = Div(k, d) p = Conv<pads=[1,1,1,1]>(h, w) q = Conv<pads=[1,1,1,1]>(h, w) y = Mul(p, q)"),
        "also read by",
    ),
    "5 a shift before a MatMul of more axes": (mat("h = Sub(x, c) y = MatMul(h, w)", x="float[2,3,5] x"), "no bias"),
    "14 scale of a LayerNorm": (
        mat(
            "u = ReduceMean<axes=[-1]>(x) d2 = Sub(x, u) q = Mul(d2, d2) v = ReduceMean<axes=[-1]>(q) r = Sqrt(v)"
            " n = Div(d2, r) k = Mul(n, c) h = Add(k, d) y = MatMul(h, w)"
        ),
        "belongs to a normalization",
    ),
    "14 scale of an RMSNorm": (
        mat(
            "q = Mul(x, x) v = ReduceMean<axes=[-1]>(q) r = Sqrt(v) i = Reciprocal(r) n = Mul(x, i) h = Mul(n, c)"
            " y = MatMul(h, w)"
        ),
        "belongs to a normalization",
    ),
    "14 scale of a GroupNorm": (
        net(
            "r = Reshape(x, a) n = InstanceNormalization(r, e, f) k = Reshape(n, i) h = Mul(k, c) y = Conv(h, w)",
            f"{W}, {C}, int64[3] a = {{2,2,72}}, int64[4] i = {{2,4,6,6}}, float[2] e, float[2] f",
        ),
        "belongs to a normalization",
    ),
    "constants that round": (
        net("k = Add(x, e) h = Sub(k, e) y = Conv(h, w)", f"{W}, float e = {{12582912.0}}"),
        "rounds on purpose",
    ),
    "edge 11: training": (
        net(f"h, rm, rv = {NORM} y = Conv(h, w)".replace("tion(", "tion<training_mode=1>("), f"{W}, {BN}"),
        "training mode",
    ),
    "edge 8: a constant that callers may override": (
        net("h = Mul(x, c) y = Conv(h, w)", f"{W}, float[4,1,1] c", f"{X}, float[4,1,1] c"),
        None,
    ),
    "2 negative factors": (
        net("h = Neg(x) r = Relu(h) y = Conv(r, w)"),
        "positive factors only",
    ),
    "2 zeros of a Pad": (
        net("h = Add(x, c) p = Pad(h, a) y = Conv(p, w)", f"{W}, {C}, int64[8] a = {{0,0,1,1,0,0,1,1}}"),
        "the border that Pad 'Pad_p' adds would change",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    text, reason = LEFT[name]
    assert_left_alone(RULE, text, reason)


def test_a_match_without_a_rewrite_leaves_no_reader_behind() -> None:
    for name, (text, _) in LEFT.items():
        model = loaded(text)
        inside = {n for g in graphs.graphs(model) for n in g}
        for node in list(inside):
            RULE.match(node, 17)
        assert {n for node in inside for v in node.outputs for n in v.consumers()} <= inside, name


def test_10_large_shared_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_SHARED_LIMIT_BYTES", 100)
    text = net("h = Mul(x, c) p = Conv(h, w) n = Exp(x) q = Conv(n, w) y = Add(p, q)")
    assert_left_alone(RULE, text, "'w' is shared with 1 other nodes")


def test_11_overflow() -> None:
    model = loaded(net("h = Mul(x, c) y = Conv(h, w)", f"{W}, float[1] c").replace("float", "float16"))
    model.graph.initializers["c"].const_value = ir.tensor(np.full(1, 6e4, np.float16))
    model.graph.initializers["w"].const_value = ir.tensor(np.full((5, 4, 3, 3), 2, np.float16))
    result, report = checked(RULE, model)
    assert result is model
    assert "overflow float16" in report.skips[0].reason


def test_weights_that_are_not_finite() -> None:
    model = loaded(net("h = Add(x, c) y = Conv(h, w)"))
    weight = np.ones((5, 4, 3, 3), np.float32)
    weight[2, 1] = np.inf
    model.graph.initializers["w"].const_value = ir.tensor(weight)
    result, report = checked(RULE, model)
    assert result is model
    assert "infinite or NaN" in report.skips[0].reason


def test_the_layer_keeps_its_name_and_the_output_its_name() -> None:
    result, _ = checked(RULE, loaded(net("h = Mul(x, c) [layer] k = Conv<pads=[1,1,1,1]>(h, w) y = Relu(k)")))
    node = next(iter(result.graph))
    assert (node.name, node.outputs[0].name) == ("layer", "k")
    assert list(node.attributes["pads"].as_ints()) == [1, 1, 1, 1]


def test_the_file_does_not_grow() -> None:
    for text, _ in FOLDS.values():
        model = loaded(text)
        result, _report = checked(RULE, model)
        assert len(saving.serialize(result)) < len(saving.serialize(model)) * 1.01 + 4096


_BEFORE = affine_layers.before


def reversed_channels(node: ir.Node, data: int, map_: Channels) -> affine_layers.Folded | str | None:
    return _BEFORE(node, data, Channels(map_.axis, map_.scale[::-1], map_.shift[::-1]))


def padded(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].attributes["pads"] = ir.AttrInt64s("pads", [1, 0, 0, 0])
    rewrite.replacement[0].outputs[0].shape = None
    return rewrite


def without_the_add(rewrite: Rewrite) -> Rewrite:
    layer = rewrite.replacement[0]
    return replace(rewrite, replacement=(layer,), outputs=((rewrite.outputs[0][0], layer.outputs[0]),))


SABOTAGE: dict[str, tuple[str, Breakage | Patch]] = {
    "a wrong input channel": (FOLDS["1 Mul"][0], scaled(1, 2, 1.01, axis=1)),
    "a wrong bias": (FOLDS["1 Add"][0], scaled(2, 0, 1.01)),
    "groups mixed up": (FOLDS["1 BatchNormalization, grouped"][0], Patch(affine_layers, "before", reversed_channels)),
    "rows mixed up": (FOLDS["edge 17: Gemm, no C"][0], Patch(affine_layers, "before", reversed_channels)),
    "no alpha": (FOLDS["edge 17: Gemm, no C"][0], scaled(2, 0, 0.5)),
    "a border that the shift does not reach": (
        LEFT["13 a shift before padding"][0].replace("pads=[0,0,0,1]", "pads=[0,0,0,0]"),
        padded,
    ),
    "4 the shift not divided by the scale": (FOLDS["4 (x - mean) / std, padded"][0], scaled(1, 0, 1.01)),
    "5 a MatMul without what it has to add": (
        FOLDS["5 a map of two nodes before a MatMul"][0],
        without_the_add,
    ),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_sabotage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[name]
    anchor = next(n.name for n in loaded(text).graph if n.outputs[0].name == "y")
    assert_caught(RULE, text, how, monkeypatch, anchor or "")
