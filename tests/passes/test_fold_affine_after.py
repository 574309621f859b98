from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import graph as graphs
from edgeopt import saving
from edgeopt.graph import constant, op_histogram
from edgeopt.passes import affine_layers, fold_affine_after
from edgeopt.passes.affine_paths import Channels
from edgeopt.passes.fold_affine_after import FoldAffineAfter
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import Breakage, Patch, assert_caught, scaled, wired_to_its_input
from tests.passes.tables import assert_fires, assert_left_alone, graph

RULE = FoldAffineAfter()
BN = "float[4] g, float[4] b, float[4] m, float[4] var"
W = "float[4,3,3,3] w"
C = "float[4,1,1] c, float[4,1,1] d"
NORM = "BatchNormalization(h, g, b, m, var)"


def net(
    body: str, weights: str = f"{W}, {C}", x: str = "float[2,3,6,6] x", y: str = "float[] y", opset: int = 17
) -> str:
    return graph(f"g ({x}) => ({y}) <{weights}> {{ {body} }}", opset)


def mat(body: str, weights: str = "float[5,4] w, float[4] c, float[4] d", x: str = "float[3,5] x") -> str:
    return net(body, weights, x)


ONE = {"Conv": 1}

FOLDS: dict[str, tuple[str, dict[str, int]]] = {
    "1 Conv * c": (net("h = Conv(x, w) y = Mul(h, c)"), ONE),
    "1 c * Conv": (net("h = Conv(x, w) y = Mul(c, h)"), ONE),
    "1 Conv / c": (net("h = Conv(x, w) y = Div(h, c)"), ONE),
    "1 Conv + c, no bias": (net("h = Conv(x, w) y = Add(h, c)"), ONE),
    "1 Conv + c, with bias": (net("h = Conv(x, w, e) y = Add(h, c)", f"{W}, {C}, float[4] e"), ONE),
    "1 Conv - c": (net("h = Conv(x, w) y = Sub(h, c)"), ONE),
    "1 c - Conv": (net("h = Conv(x, w, e) y = Sub(c, h)", f"{W}, {C}, float[4] e"), ONE),
    "1 -Conv": (net("h = Conv(x, w) y = Neg(h)", W), ONE),
    "1 Conv * scalar": (net("h = Conv(x, w) y = Mul(h, c)", f"{W}, float c = {{3.0}}"), ONE),
    "1 Conv * c with the batch axis": (net("h = Conv(x, w) y = Mul(h, c)", f"{W}, float[1,4,1,1] c"), ONE),
    "edge 26: Conv + [1,1,1,1]": (net("h = Conv(x, w) y = Add(h, c)", f"{W}, float[1,1,1,1] c"), ONE),
    "1 Conv, padded and strided": (
        net("h = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w) k = Mul(h, c) y = Add(k, d)"),
        ONE,
    ),
    "1 Conv, depthwise": (net("h = Conv<group=3>(x, w) y = Mul(h, c)", "float[3,1,3,3] w, float[3,1,1] c"), ONE),
    "1 Conv, grouped": (net("h = Conv<group=3>(x, w) y = Mul(h, c)", "float[6,1,3,3] w, float[6,1,1] c"), ONE),
    "1 Conv of one axis": (
        net("h = Conv(x, w) y = Mul(h, c)", "float[4,3,3] w, float[4,1] c", "float[2,3,6] x"),
        ONE,
    ),
    "1 Conv of three axes": (
        net("h = Conv(x, w) y = Mul(h, c)", "float[4,3,2,2,2] w, float[4,1,1,1] c", "float[1,3,4,4,4] x"),
        ONE,
    ),
    "1 Conv, open batch and size": (net("h = Conv(x, w) y = Mul(h, c)", x="float[N,3,H,W] x"), ONE),
    "1 ConvTranspose * c + d": (
        net("h = ConvTranspose(x, w) k = Mul(h, c) y = Add(k, d)", f"float[3,4,3,3] w, {C}"),
        {"ConvTranspose": 1},
    ),
    "edge 16: ConvTranspose, grouped, with output padding": (
        net(
            "h = ConvTranspose<group=2, strides=[2,2], output_padding=[1,1]>(x, w, e) k = Mul(h, c) y = Add(k, d)",
            f"float[4,2,3,3] w, float[4] e, {C}",
            "float[1,4,5,5] x",
        ),
        {"ConvTranspose": 1},
    ),
    "1 Gemm * c": (mat("h = Gemm(x, w) y = Mul(h, c)"), {"Gemm": 1}),
    "edge 17: Gemm, alpha, beta, transB": (
        mat(
            "h = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, c) y = Mul(h, d)",
            "float[4,5] w, float[4] c, float[4] d",
        ),
        {"Gemm": 1},
    ),
    "edge 17: Gemm, transA": (mat("h = Gemm<transA=1>(x, w, c) y = Div(h, d)", x="float[5,3] x"), {"Gemm": 1}),
    "edge 17: Gemm, a bias of one number": (
        mat("h = Gemm(x, w, e) y = Mul(h, d)", "float[5,4] w, float e = {2.0}, float[4] d"),
        {"Gemm": 1},
    ),
    "edge 17: Gemm, a bias by rows": (
        mat("h = Gemm<beta=0.5>(x, w, e) k = Mul(h, d) y = Add(k, d)", "float[5,4] w, float[3,1] e, float[4] d"),
        {"Gemm": 1},
    ),
    "1 MatMul * c": (mat("h = MatMul(x, w) y = Mul(h, c)"), {"MatMul": 1}),
    "1 MatMul * c, 3-D": (mat("h = MatMul(x, w) y = Mul(h, c)", x="float[2,3,5] x"), {"MatMul": 1}),
    "1 MatMul * c, 1-D": (mat("h = MatMul(x, w) y = Mul(h, c)", x="float[5] x"), {"MatMul": 1}),
    "1 MatMul * scalar": (mat("h = MatMul(x, w) y = Mul(h, s)", "float[5,4] w, float s = {0.125}"), {"MatMul": 1}),
    "1 MatMul, the weight on the left, * rows": (
        mat("h = MatMul(w, x) y = Mul(h, c)", "float[4,5] w, float[4,1] c", "float[2,5,3] x"),
        {"MatMul": 1},
    ),
    "2 AveragePool": (
        net("h = Conv(x, w) p = AveragePool<kernel_shape=[2,2]>(h) k = Mul(p, c) y = Add(k, d)"),
        {"Conv": 1, "AveragePool": 1},
    ),
    "2 Relu, positive factors": (
        net("h = Conv(x, w) p = Relu(h) y = Mul(p, var)", f"{W}, float[4,1,1] var"),
        {"Conv": 1, "Relu": 1},
    ),
    "2 PRelu": (
        net("h = Conv(x, w) p = PRelu(h, c) y = Mul(p, var)", f"{W}, {C}, float[4,1,1] var"),
        {"Conv": 1, "PRelu": 1},
    ),
    "2 MaxPool, positive factors": (
        net("h = Conv(x, w) p = MaxPool<kernel_shape=[2,2]>(h) k = Mul(p, var) y = Sub(k, c)", f"{W}, {C}, float[4,1,1] var"),
        {"Conv": 1, "MaxPool": 1},
    ),
    "2 GlobalAveragePool, Flatten": (
        net(
            "h = Conv(x, w) p = GlobalAveragePool(h) f = Flatten(p) k = Mul(f, c) y = Add(k, d)",
            f"{W}, float[4] c, float[4] d",
        ),
        {"Conv": 1, "GlobalAveragePool": 1, "Flatten": 1},
    ),
    "2 Transpose": (
        net("h = Conv(x, w) p = Transpose<perm=[0,2,3,1]>(h) y = Mul(p, c)", f"{W}, float[4] c"),
        {"Conv": 1, "Transpose": 1},
    ),
    "2 Resize": (
        net(
            f'z = Conv(x, w) h = Resize<mode="nearest">(z, , s) y = {NORM}',
            f"{W}, {BN}, float[4] s = {{1.0,1.0,2.0,2.0}}",
        ),
        {"Conv": 1, "Resize": 1},
    ),
    "2 DepthToSpace": (
        net(
            f"z = Conv(x, w) h = DepthToSpace<blocksize=2>(z) y = {NORM}",
            f"float[16,3,3,3] w, {BN}",
        ),
        {"Conv": 1, "DepthToSpace": 1},
    ),
    "2 attention: the scale of heads goes into the projection": (
        mat(
            "h = MatMul(x, w) k = Add(h, c) r = Reshape(k, s) t = Transpose<perm=[0,2,1,3]>(r) y = Mul(t, f)",
            "float[5,4] w, float[4] c, int64[4] s = {2,3,2,2}, float f = {0.7}",
            "float[2,3,5] x",
        ),
        {"MatMul": 1, "Add": 1, "Reshape": 1, "Transpose": 1},
    ),
    "3 Concat of the channels": (
        net(
            f"p = Conv(x, w) q = Conv<pads=[1,1,1,1]>(z, u) h = Concat<axis=1>(p, q) y = {NORM}",
            f"float[1,3,3,3] w, float[3,3,3,3] u, {BN}",
            "float[2,3,6,6] x, float[2,3,4,4] z",
        ),
        {"Conv": 2, "Concat": 1},
    ),
    "3 Concat of another axis": (
        net(f"p = Conv(x, w) q = Conv(x, w) h = Concat<axis=-1>(p, q) y = {NORM}", f"{W}, {BN}"),
        {"Conv": 2, "Concat": 1},
    ),
    "3 Concat with a constant": (
        net(f"p = Conv(x, w) h = Concat<axis=1>(p, q) y = {NORM}", f"float[1,3,3,3] w, float[2,3,4,4] q, {BN}"),
        {"Conv": 1, "Concat": 1},
    ),
    "3 Concat, pools in the branches": (
        net(
            "z = Conv(x, w) p = MaxPool<kernel_shape=[2,2]>(z) r = Conv(x, w) q = AveragePool<kernel_shape=[2,2]>(r)"
            " h = Concat<axis=1>(p, q) y = Mul(h, var)",
            f"{W}, float[8,1,1] var",
        ),
        {"Conv": 2, "MaxPool": 1, "AveragePool": 1, "Concat": 1},
    ),
    "4 Add of two layers": (
        net(f"p = Conv(x, w) q = Conv(z, u) h = Add(p, q) y = {NORM}", f"{W}, float[4,3,3,3] u, {BN}", "float[2,3,6,6] x, float[2,3,6,6] z"),
        {"Conv": 2, "Add": 1},
    ),
    "4 Sum of three layers": (
        net(
            "p = Conv(x, w) q = Conv(x, u) r = Conv(x, v) h = Sum(p, q, r) k = Mul(h, c) y = Sub(k, d)",
            f"{W}, float[4,3,3,3] u, float[4,3,3,3] v, {C}",
        ),
        {"Conv": 3, "Sum": 1},
    ),
    "4 a shift of a sum with a residual goes into the layer": (
        net(
            "p = Conv<pads=[1,1,1,1]>(x, w) h = Add(x, p) y = Add(h, c)",
            "float[3,3,3,3] w, float[3,1,1] c",
        ),
        {"Conv": 1, "Add": 1},
    ),
    "5 maps in a row": (
        net(f"z = Conv(x, w) h = Mul(z, c) k = {NORM} n = Neg(k) y = Sub(n, d)", f"{W}, {C}, {BN}"),
        ONE,
    ),
    "5 maps in a row, of one number and of channels": (
        net("h = Conv(x, w) k = Add(h, s) y = Mul(k, c)", f"{W}, {C}, float s = {{3.0}}"),
        ONE,
    ),
    "6 MatMul * c + d": (mat("h = MatMul(x, w) k = Mul(h, c) y = Add(k, d)"), {"MatMul": 1, "Add": 1}),
    "6 BatchNormalization of a MatMul": (
        mat("h = MatMul(x, w) y = BatchNormalization(h, c, d, d, var)", "float[5,4] w, float[4] c, float[4] d, float[4] var"),
        {"MatMul": 1, "Add": 1},
    ),
    "6 MatMul + c + d": (mat("h = MatMul(x, w) k = Add(h, c) y = Sub(k, d)"), {"MatMul": 1, "Add": 1}),
    "7 the map itself may have several readers and be an output": (
        net("h = Conv(x, w) k = Mul(h, c) y = Relu(k) z = Neg(k)", y="float[] y, float[] k, float[] z"),
        {"Conv": 1, "Relu": 1, "Neg": 1},
    ),
    "7 in a branch of an If": (
        graph(
            "g (float[2,3,6,6] x, bool b) => (float[2,4,4,4] y) <float[4,3,3,3] w, float[4,1,1] c> { y = If(b) <"
            "then_branch = p () => (float[2,4,4,4] t) { h = Conv(x, w) t = Mul(h, c) },"
            "else_branch = q () => (float[2,4,4,4] e) { e = Conv(x, w) }> }"
        ),
        {"Conv": 2, "If": 1},
    ),
    "8 activations from a DequantizeLinear": (
        net(
            "q = QuantizeLinear(x, s, z) i = DequantizeLinear(q, s, z) h = Conv(i, w) y = Mul(h, c)",
            f"{W}, {C}, float s = {{0.1}}, int8 z = {{0}}",
        ),
        {"Conv": 1, "DequantizeLinear": 1, "QuantizeLinear": 1},
    ),
    "14 constants that only move": (
        net("h = Conv(x, w) k = Add(h, e) y = Sub(k, f)", f"{W}, float e = {{30.0}}, float f = {{29.0}}"),
        ONE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name: str) -> None:
    text, ops = FOLDS[name]
    assert_fires(RULE, text, ops)


@pytest.mark.parametrize("dtype", ["float16", "double"])
@pytest.mark.parametrize("name", ["1 Conv * c", "1 Conv - c", "1 Gemm * c", "5 maps in a row", "2 AveragePool"])
def test_other_types(name: str, dtype: str) -> None:
    text, ops = FOLDS[name]
    text = text.replace("float", dtype)
    if dtype == "float16" or "Conv" in ops:  # onnxruntime has no kernel for Conv of double
        model = loaded(text)
        result, report = checked(RULE, model)
        assert report.rolled_back == []
        assert op_histogram(result) == dict(sorted(ops.items()))
        if dtype == "float16":
            assert_same(model, result, 1e-2)
    else:
        assert_fires(RULE, text, ops)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 21])
@pytest.mark.parametrize(
    "body",
    [
        "h = Conv(x, w) k = Mul(h, c) y = Add(k, d)",
        "h = Conv(x, w) p = AveragePool<kernel_shape=[2,2]>(h) k = Div(p, c) y = Sub(d, k)",
        "h = Conv(x, w) p = Relu(h) q = GlobalAveragePool(p) y = Mul(q, var)",
        "h = Conv(x, w) k = Concat<axis=1>(h, h2) y = BatchNormalization(k, g, b, m, v) h2 = Conv(x, w)",
    ],
)
def test_opsets(body: str, opset: int) -> None:
    if "h2" in body:
        body = "h2 = Conv(x, w) " + body.replace(" h2 = Conv(x, w)", "")
    stored = f"{W}, {C}, float[4,1,1] var, float[8] g, float[8] b, float[8] m, float[8] v".replace(
        "float[8] v", "float[8] var2"
    )
    result, report = checked(RULE, loaded(net(body.replace(", v)", ", var2)"), stored, opset=opset)))
    assert report.rolled_back == []
    assert report.hits
    assert not {"Mul", "Div", "Sub", "Add", "BatchNormalization"} & set(op_histogram(result))


def test_opset_6_has_no_broadcasting_by_numpys_rules() -> None:
    text = net("h = Conv(x, w) y = Mul<broadcast=1, axis=1>(h, c)", f"{W}, float[4] c", opset=6)
    assert_left_alone(RULE, text)
    text = mat(
        "h = MatMul(x, w) y = BatchNormalization<is_test=1>(h, c, d, d, var)",
        "float[5,4] w, float[4] c, float[4] d, float[4] var",
    ).replace(": 17", ": 6")
    assert_left_alone(RULE, text)


LEFT: dict[str, tuple[str, str | None]] = {
    "no layer": (net("h = Relu(x) y = Mul(h, c)", "float c = {2.0}"), None),
    "no constant": (net("h = Conv(x, w) y = Mul(h, z)", W, "float[2,3,6,6] x, float[4,1,1] z"), None),
    "edge 25: c / Conv": (net("h = Conv(x, w) y = Div(c, h)"), None),
    "7 edge 1: the product is read elsewhere": (
        net("h = Conv(x, w) k = Mul(h, c) r = Relu(h) y = Add(k, r)"),
        "the output of Conv 'Conv_h' is read elsewhere too",
    ),
    "7 edge 2: the product is an output": (
        net("h = Conv(x, w) y = Mul(h, c)", y="float[] y, float[] h"),
        "is read elsewhere too",
    ),
    "7 edge 3: the product is captured by a branch": (
        graph(
            f"g (float[2,3,6,6] x, bool b) => (float[2,4,4,4] y, float[2,4,4,4] k) <{W}, {C}> {{"
            " h = Conv(x, w) k = Mul(h, c) y = If(b) <"
            "then_branch = p () => (float[2,4,4,4] t) { t = Neg(h) },"
            "else_branch = q () => (float[2,4,4,4] e) { e = Abs(h) }> }"
        ),
        "is read elsewhere too",
    ),
    "7 the layer lies in another graph": (
        graph(
            f"g (float[2,3,6,6] x, bool b) => (float[2,4,4,4] y) <{W}, {C}> {{ h = Conv(x, w) y = If(b) <"
            "then_branch = p () => (float[2,4,4,4] t) { t = Mul(h, c) },"
            "else_branch = q () => (float[2,4,4,4] e) { e = Abs(x2) x2 = Neg(h2) h2 = Conv(x, w) }> }"
        ).replace("e = Abs(x2) x2 = Neg(h2) h2 = Conv(x, w)", "h2 = Conv(x, w) e = Abs(h2)"),
        "lies in another graph",
    ),
    "7 a value between is read elsewhere": (
        net("h = Conv(x, w) p = Relu(h) k = Mul(p, var) y = Add(k, p)", f"{W}, float[4,1,1] var"),
        None,
    ),
    "8 edge 15: weights that are computed": (
        net("h = Conv(x, w) y = Mul(h, c)", C, f"float[2,3,6,6] x, {W}"),
        "are not constant",
    ),
    "8 edge 15: a bias that is computed": (
        net("h = Conv(x, w, e) y = Mul(h, c)", f"{W}, {C}", "float[2,3,6,6] x, float[4] e"),
        "are not constant",
    ),
    "8 edge 19: quantized weights": (
        net(
            "w = DequantizeLinear(q, s, z) h = Conv(x, w) y = Mul(h, c)",
            f"int8[4,3,3,3] q, float s = {{0.1}}, int8 z = {{0}}, {C}",
        ),
        "are not constant",
    ),
    "8 quantized weights of a MatMul": (
        mat("w = DequantizeLinear(q, s, z) h = MatMul(x, w) y = Mul(h, c)", "int8[5,4] q, float s = {0.1}, int8 z = {0}, float[4] c"),
        "are not constant",
    ),
    "8 edge 63: Q and DQ between": (
        net(
            "h = Conv(x, w) q = QuantizeLinear(h, s, z) i = DequantizeLinear(q, s, z) y = Mul(i, c)",
            f"{W}, {C}, float s = {{0.1}}, int8 z = {{0}}",
        ),
        None,
    ),
    "8 two computed matrices": (mat("h = MatMul(x, z) y = Mul(h, c)", "float c = {2.0}", "float[3,5] x, float[5,4] z"), None),
    "9 edge 20: a constant [W] with W == C": (
        net("h = Conv(x, w) y = Mul(h, c)", f"{W}, float[4] c"),
        "another axis than the channels",
    ),
    "9 edge 22: a constant with spatial extent": (
        net("h = Conv(x, w) y = Add(h, c)", f"{W}, float[4,4,4] c"),
        "does not change one axis alone",
    ),
    "9 edge 22: a constant with batch extent": (
        net("h = Conv(x, w) y = Add(h, c)", f"{W}, float[2,1,1,1] c"),
        "another axis than the channels",
    ),
    "9 edge 21: a constant of higher rank": (
        net("h = Conv(x, w) y = Mul(h, c)", f"{W}, float[1,1,4,1,1] c"),
        "raises the rank",
    ),
    "9 edge 21: one element, higher rank": (
        net("h = Conv(x, w) y = Mul(h, c)", f"{W}, float[1,1,1,1,1] c"),
        "raises the rank",
    ),
    "9 edge 23: one channel times [6,1,1]": (
        net("h = Conv(x, w) y = Mul(h, c)", "float[1,3,3,3] w, float[6,1,1] c"),
        "another axis than the channels",
    ),
    "9 edge 23: a Concat of one channel times [6,1,1]": (
        net("h = Conv(x, w) p = Concat<axis=1>(h) y = Mul(p, c)", "float[1,3,3,3] w, float[6,1,1] c"),
        "enlarges its input",
    ),
    "9 rows of a Gemm": (
        mat("h = Gemm(x, w) y = Mul(h, c)", "float[5,4] w, float[3,1] c"),
        "another axis than the columns",
    ),
    "9 a MatMul of unknown rank": (
        mat("z = Reshape(x, s) h = MatMul(z, w) y = Mul(h, c)", "float[5,4] w, float[3,4] c", "float[3,5] x, int64[R] s"),
        "raises the rank",
    ),
    "12 integers": (
        mat("h = MatMul(x, w) y = Mul(h, c)", "int32[5,4] w, int32[4] c", "int32[3,5] x"),
        None,
    ),
    "13 the bias of a MatMul": (mat("h = MatMul(x, w) y = Add(h, c)"), None),
    "14 constants that round": (
        net("h = Conv(x, w) k = Add(h, e) y = Sub(k, e)", f"{W}, float e = {{12582912.0}}"),
        "rounds on purpose",
    ),
    "3 Concat with something else": (
        net(f"p = Conv(x, w) q = Sigmoid(z) h = Concat<axis=1>(p, q) y = {NORM}", f"float[1,3,3,3] w, {BN}", "float[2,3,6,6] x, float[2,3,4,4] z"),
        None,
    ),
    "4 the factor of a sum with something else": (
        net("p = Conv<pads=[1,1,1,1]>(x, w) h = Add(p, x) y = Mul(h, c)", "float[3,3,3,3] w, float[3,1,1] c"),
        None,
    ),
    "4 a sum that broadcasts": (
        net("p = Conv(x, w) q = Conv(z, u) h = Add(p, q) y = Mul(h, c)", f"{W}, float[4,3,3,3] u, {C}", "float[2,3,6,6] x, float[2,3,3,3] z"),
        None,
    ),
    "4 a value added to itself": (net("p = Conv(x, w) h = Add(p, p) y = Mul(h, c)"), "read elsewhere too"),
    "2 Relu, negative factors": (net("h = Conv(x, w) p = Relu(h) y = Neg(p)", W), None),
    "2 zeros of pads that count": (
        net("h = Conv(x, w) p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(h) y = Add(p, c)"),
        None,
    ),
    "edge 11: training": (
        net(f"h = Conv(x, w) y, rm, rv = {NORM}".replace("tion(", "tion<training_mode=1>("), f"{W}, {BN}"),
        "training mode",
    ),
    "edge 14: statistics that are computed": (
        net("h = Conv(x, w) e = Exp(z) y = BatchNormalization(h, e, b, m, var)", f"{W}, {BN}", "float[2,3,6,6] x, float[4] z"),
        "statistics are not constant",
    ),
    "edge 8: a constant that callers may override": (
        net("h = Conv(x, w) y = Mul(h, c)", f"{W}, float[4,1,1] c", "float[2,3,6,6] x, float[4,1,1] c"),
        None,
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
    text = net("h = Conv(x, w) k = Mul(h, c) n = Neg(x) q = Conv(n, w) y = Add(k, q)")
    assert_left_alone(RULE, text, "'w' is shared with 1 other nodes")


def test_11_overflow() -> None:
    model = loaded(net("h = Conv(x, w) y = Mul(h, c)", f"{W}, float[1] c").replace("float", "float16"))
    model.graph.initializers["c"].const_value = ir.tensor(np.full(1, 6e4, np.float16))
    model.graph.initializers["w"].const_value = ir.tensor(np.full((4, 3, 3, 3), 2, np.float16))
    result, report = checked(RULE, model)
    assert result is model
    assert "overflow float16" in report.skips[0].reason


def test_the_layer_keeps_its_name_and_attributes_and_the_output_its_name() -> None:
    result, _ = checked(RULE, loaded(net("[layer] h = Conv<pads=[1,1,1,1]>(x, w) k = Mul(h, c) y = Relu(k)")))
    node = next(iter(result.graph))
    assert (node.name, node.outputs[0].name) == ("layer", "k")
    assert list(node.attributes["pads"].as_ints()) == [1, 1, 1, 1]


def test_the_file_does_not_grow() -> None:
    for text, _ in FOLDS.values():
        model = loaded(text)
        result, _report = checked(RULE, model)
        assert len(saving.serialize(result)) < len(saving.serialize(model)) * 1.01 + 4096


def test_4_the_bias_of_the_first_layer_takes_the_whole_shift() -> None:
    text, _ = FOLDS["4 Add of two layers"]
    result, _report = checked(RULE, loaded(text))
    biases = [constant(n.inputs[2]) if len(n.inputs) > 2 else None for n in result.graph if n.op_type == "Conv"]
    assert sum(b is not None and bool(np.any(b)) for b in biases) == 1


_BEHIND = affine_layers.behind


def shifted(node: ir.Node, map_: Channels) -> affine_layers.Folded | str | None:
    return _BEHIND(node, Channels(map_.axis, map_.scale, map_.shift + 0.1))


def reversed_channels(node: ir.Node, map_: Channels) -> affine_layers.Folded | str | None:
    return _BEHIND(node, Channels(map_.axis, map_.scale[::-1], map_.shift[::-1]))


def without_the_add(rewrite: Rewrite) -> Rewrite:
    layer = rewrite.replacement[0]
    return replace(rewrite, replacement=(layer,), outputs=((rewrite.outputs[0][0], layer.outputs[0]),))


SABOTAGE: dict[str, tuple[str, Breakage | Patch]] = {
    "a wrong channel": (FOLDS["1 Conv * c"][0], scaled(1, 2, 1.01)),
    "a wrong bias": (FOLDS["1 Conv + c, no bias"][0], scaled(2, 0, 1.01)),
    "the map left out": (FOLDS["1 Conv * c"][0], wired_to_its_input),
    "groups mixed up": (
        net("h = ConvTranspose<group=2>(x, w) y = Mul(h, c)", "float[4,2,3,3] w, float[4,1,1] c", "float[1,4,5,5] x"),
        Patch(affine_layers, "behind", reversed_channels),
    ),
    "a shift into each term of a sum": (FOLDS["4 Add of two layers"][0], Patch(affine_layers, "behind", shifted)),
    "the parts of a Concat in another order": (
        FOLDS["3 Concat of the channels"][0],
        Patch(affine_layers, "behind", reversed_channels),
    ),
    "a shift through zeros of pads that count": (
        FOLDS["2 AveragePool"][0].replace("kernel_shape=[2,2]", "kernel_shape=[2,2], count_include_pad=1"),
        Patch(fold_affine_after, "through", lambda node, map_, up: Channels(map_.axis, map_.scale, map_.shift * 1.1)),
    ),
    "a MatMul that forgets the shift": (
        FOLDS["6 BatchNormalization of a MatMul"][0],
        without_the_add,
    ),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_sabotage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[name]
    anchor = next(n.name for n in loaded(text).graph if n.outputs[0].name == "y")
    assert_caught(RULE, text, how, monkeypatch, anchor or "")
