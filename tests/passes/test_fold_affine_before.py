from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import files, graph, shapes
from edgeopt.graph import constant, op_histogram
from edgeopt.passes import affine_layers
from edgeopt.passes.affine_paths import Channels
from edgeopt.passes.fold_affine_before import FoldAffineBefore
from tests.models import assert_same, checked, filled, loaded
from tests.passes.rewriting import assert_rewritten
from tests.passes.sabotage import Breakage, Patch, assert_caught, scaled, wired_to_its_input

BN = "float[4] g, float[4] be, float[4] me, float[4] var"
CV = "float[4,1,1] c, float[4,1,1] d"
WEIGHTS = f"float[6,4,3,3] w, float[6] b, {CV}"
MATRIX = "float[4,6] w, float[6,4] wt, float[6] b, float[4] c, float[4] d, float e"
NORMALIZED = "h = BatchNormalization(x, g, be, me, var)"
_FREE = "ABCDEFGH"


def net(
    body: str,
    weights: str = WEIGHTS,
    *,
    x: str = "2,4,6,7",
    y: int | None = None,
    kind: str = "float",
    opset: int = 17,
    more: str = "",
) -> str:
    """x → body → y, of ``y`` axes (as many as x); ``more`` are further outputs."""
    ir_version = 10 if opset > 19 else 8
    dims = ",".join(_FREE[: x.count(",") + 1 if y is None else y])
    stored = weights.replace("float", kind)
    return (
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> '
        f"g ({kind}[{x}] x) => ({kind}[{dims}] y{more}) <{stored}> {{ {body} }}"
    )


FOLDS = {  # text, operators left
    "1 a scale per channel": (net("h = Mul(x, c) [n] y = Conv(h, w, b)"), "Conv"),
    "1 on the left": (net("h = Mul(c, x) [n] y = Conv(h, w, b)"), "Conv"),
    "1 a shift per channel": (net("h = Add(x, c) [n] y = Conv(h, w, b)"), "Conv"),
    "1 a shift, without a bias": (net("h = Sub(x, c) [n] y = Conv(h, w)"), "Conv"),
    "1 mean and deviation": (net("t = Sub(x, c) h = Div(t, d) [n] y = Conv(h, w)"), "Conv"),
    "1 mean and deviation, numbers": (
        net("t = Div(x, e) u = Sub(t, c) h = Div(u, d) [n] y = Conv(h, w)", f"float e = {{255}}, {WEIGHTS}"),
        "Conv",
    ),
    "1 c - x": (net("h = Sub(c, x) [n] y = Conv(h, w, b)"), "Conv"),
    "1 Neg": (net("h = Neg(x) [n] y = Conv<pads = [1,1,1,1]>(h, w, b)"), "Conv"),
    "1 a normalization": (net(f"{NORMALIZED} [n] y = Conv(h, w)", f"{WEIGHTS}, {BN}"), "Conv"),
    "1 edge 26: a number of four axes": (
        net("h = Mul(x, e) [n] y = Conv(h, w)", f"float[1,1,1,1] e, {WEIGHTS}"),
        "Conv",
    ),
    "1 edge 18: a scale before a padded Conv": (net("h = Mul(x, c) [n] y = Conv<pads = [1,1,1,1]>(h, w, b)"), "Conv"),
    "1 edge 18: a normalization without a shift before a padded Conv": (
        net(
            f"{NORMALIZED} [n] y = Conv<pads = [1,0,0,1]>(h, w)",
            f"{WEIGHTS}, float[4] g, float[4] be = {{0,0,0,0}}, float[4] me = {{0,0,0,0}}, float[4] var",
        ),
        "Conv",
    ),
    "1 auto_pad VALID": (net('h = Add(x, c) [n] y = Conv<auto_pad = "VALID">(h, w)'), "Conv"),
    "1 auto_pad SAME, a scale": (net('h = Mul(x, c) [n] y = Conv<auto_pad = "SAME_UPPER">(h, w)'), "Conv"),
    "1 strides and dilations": (
        net(f"{NORMALIZED} [n] y = Conv<strides = [2,1], dilations = [2,2]>(h, w)", f"{WEIGHTS}, {BN}"),
        "Conv",
    ),
    "1 edge 27: grouped": (
        net(f"{NORMALIZED} [n] y = Conv<group = 2>(h, w, b)", f"float[6,2,3,3] w, float[6] b, {BN}"),
        "Conv",
    ),
    "1 depthwise": (net(f"{NORMALIZED} [n] y = Conv<group = 4>(h, w)", f"float[8,1,3,3] w, {BN}"), "Conv"),
    "1 one axis": (
        net("t = Mul(x, c) h = Add(t, d) [n] y = Conv(h, w)", "float[6,4,3] w, float[4,1] c, float[4,1] d", x="2,4,9"),
        "Conv",
    ),
    "1 three axes": (
        net(f"{NORMALIZED} [n] y = Conv(h, w)", f"float[6,4,2,2,2] w, {BN}", x="1,4,3,4,3"),
        "Conv",
    ),
    "1 open batch and size": (net(f"{NORMALIZED} [n] y = Conv(h, w)", f"{WEIGHTS}, {BN}", x="N,4,H,W"), "Conv"),
    "1 one channel": (
        net("t = Sub(x, e) h = Div(t, f) [n] y = Conv(h, w)", "float e, float f, float[3,1,3,3] w", x="2,1,5,5"),
        "Conv",
    ),
    "1 edge 16: ConvTranspose": (
        net(
            "h = Mul(x, c) [n] y = ConvTranspose<strides = [2,2], output_padding = [1,1]>(h, w, b)",
            f"{CV}, float[4,6,3,3] w, float[6] b",
        ),
        "ConvTranspose",
    ),
    "1 edge 16: ConvTranspose, grouped": (
        net("h = Mul(x, c) [n] y = ConvTranspose<group = 2>(h, w)", f"{CV}, float[4,3,3,3] w"),
        "ConvTranspose",
    ),
    "1 edge 16: ConvTranspose, as many inputs as outputs": (
        net("h = Div(x, c) [n] y = ConvTranspose(h, w)", f"{CV}, float[4,4,3,3] w"),
        "ConvTranspose",
    ),
    "1 Gemm": (net("t = Mul(x, c) h = Add(t, d) [n] y = Gemm(h, w, b)", MATRIX, x="3,4"), "Gemm"),
    "1 edge 17: Gemm, transB": (net("h = Add(x, d) [n] y = Gemm<transB = 1>(h, wt, b)", MATRIX, x="3,4"), "Gemm"),
    "1 edge 17: Gemm, alpha and beta": (
        net("h = Sub(x, d) [n] y = Gemm<alpha = 0.5, beta = 3.0>(h, w, b)", MATRIX, x="3,4"),
        "Gemm",
    ),
    "1 edge 17: Gemm, beta 0": (net("h = Sub(d, x) [n] y = Gemm<beta = 0.0>(h, w, b)", MATRIX, x="3,4"), "Gemm"),
    "1 edge 17: Gemm, no C": (net("h = Add(x, d) [n] y = Gemm<alpha = 2.0>(h, w)", MATRIX, x="3,4"), "Gemm"),
    "1 edge 17: Gemm, C of one number": (net("h = Add(x, d) [n] y = Gemm(h, w, e)", MATRIX, x="3,4"), "Gemm"),
    "1 edge 17: Gemm, C of one column": (
        net("h = Add(x, d) [n] y = Gemm<beta = 2.0>(h, w, k)", f"{MATRIX}, float[3,1] k", x="3,4"),
        "Gemm",
    ),
    "1 edge 17: Gemm, C of every row, and a scale": (
        net("h = Mul(x, d) [n] y = Gemm<beta = 2.0>(h, w, k)", f"{MATRIX}, float[3,6] k", x="3,4"),
        "Gemm",
    ),
    "1 Gemm of a normalization": (net(f"{NORMALIZED} [n] y = Gemm(h, w)", f"{MATRIX}, {BN}", x="N,4"), "Gemm"),
    "1 MatMul, a scale": (net("h = Mul(x, c) [n] y = MatMul(h, w)", MATRIX, x="2,3,4"), "MatMul"),
    "1 MatMul, a vector": (net("h = Mul(x, c) [n] y = MatMul(h, w)", MATRIX, x="4"), "MatMul"),
    "1 MatMul, the weights on the left": (
        net("h = Mul(x, c) [n] y = MatMul(wt, h)", "float[4,1] c, float[6,4] wt", x="2,4,5"),
        "MatMul",
    ),
    "1 MatMul, numbers on the left": (net("h = Div(x, e) [n] y = MatMul(wt, h)", MATRIX, x="4,5"), "MatMul"),
    "2 through a GlobalAveragePool": (
        net(f"{NORMALIZED} p = GlobalAveragePool(h) [n] y = Conv(p, w)", f"float[6,4,1,1] w, {BN}"),
        "GlobalAveragePool Conv",
    ),
    "2 through a pool and Flatten": (
        net(f"{NORMALIZED} p = GlobalAveragePool(h) f = Flatten(p) [n] y = Gemm(f, w, b)", f"{MATRIX}, {BN}", y=2),
        "GlobalAveragePool Flatten Gemm",
    ),
    "2 through AveragePool": (
        net("h = Add(x, c) p = AveragePool<kernel_shape = [2,2]>(h) [n] y = Conv(p, w)"),
        "AveragePool Conv",
    ),
    "2 through MaxPool, a positive scale": (
        net("h = Mul(x, e) p = MaxPool<kernel_shape = [2,2]>(h) [n] y = Conv(p, w)", f"{WEIGHTS}, float e = {{0.5}}"),
        "MaxPool Conv",
    ),
    "2 through MaxPool, a shift": (
        net("h = Sub(x, c) p = MaxPool<kernel_shape = [2,2], pads = [1,1,1,1]>(h) [n] y = Conv(p, w)"),
        "MaxPool Conv",
    ),
    "2 through Relu, a positive scale": (
        net("h = Mul(x, e) p = Relu(h) [n] y = Conv(p, w)", f"{WEIGHTS}, float e = {{0.5}}"),
        "Relu Conv",
    ),
    "2 through Reshape, the channels are blocks": (
        net(
            "h = Mul(x, c) r = Reshape(h, s) [n] y = Gemm(r, w)",
            "float[4,1,1] c, int64[2] s = {0,24}, float[24,3] w",
            x="2,4,2,3",
            y=2,
        ),
        "Reshape Gemm",
    ),
    "2 through Transpose": (
        net("h = Mul(x, c) r = Transpose<perm = [0,2,3,1]>(h) [n] y = MatMul(r, w)", "float[4,1,1] c, float[4,6] w"),
        "Transpose MatMul",
    ),
    "2 through Unsqueeze": (
        net(
            "h = Mul(x, c) r = Unsqueeze(h, a) [n] y = Conv(r, w)",
            "float[4,1] c, int64[1] a = {3}, float[6,4,3,1] w",
            x="2,4,7",
            y=4,
        ),
        "Unsqueeze Conv",
    ),
    "3 edge 27: two readers": (
        net("h = Mul(x, c) [n] y = Conv(h, w, b) z = Conv(h, w)", more=", float[A,B,C,D] z"),
        "Conv Conv",
    ),
    "3 two readers, one behind a pool": (
        net(
            f"{NORMALIZED} [n] y = Conv(h, w, b) p = GlobalAveragePool(h) z = Conv(p, v)",
            f"{WEIGHTS}, {BN}, float[6,4,1,1] v",
            more=", float[P,Q,R,S] z",
        ),
        "Conv GlobalAveragePool Conv",
    ),
    "3 a chain and two readers": (
        net("t = Sub(x, c) h = Div(t, d) [n] y = Conv(h, w, b) z = Conv(h, w)", more=", float[A,B,C,D] z"),
        "Conv Conv",
    ),
    "4 edge 18: mean and deviation before a padded Conv": (
        net("t = Sub(x, c) h = Div(t, d) [n] y = Conv<pads = [1,1,1,1]>(h, w)"),
        "Add Conv",
    ),
    "4 edge 18: scale and shift before auto_pad SAME": (
        net('t = Mul(x, c) h = Add(t, d) [n] y = Conv<auto_pad = "SAME_LOWER">(h, w)'),
        "Add Conv",
    ),
    "4 a normalization and a scale": (
        net(
            "u = Mul(x, c) h = BatchNormalization(u, g, be, me, var) [n] y = Conv<pads = [1,1,1,1]>(h, w)",
            f"{WEIGHTS}, {BN}",
        ),
        "Add Conv",
    ),
    "5 MatMul becomes Gemm": (net("h = Add(x, c) [n] y = MatMul(h, w)", MATRIX, x="3,4"), "Gemm"),
    "5 MatMul of more axes, scale and shift": (
        net("t = Mul(x, c) h = Add(t, d) [n] y = MatMul(h, w)", MATRIX, x="2,3,4"),
        "MatMul Add",
    ),
    "5 MatMul, the weights on the left, scale and shift": (
        net("t = Mul(x, e) h = Add(t, f) [n] y = MatMul(wt, h)", "float e, float f, float[6,4] wt", x="4,5"),
        "MatMul Add",
    ),
    "double": (net("h = Mul(x, c) [n] y = Gemm(h, w, b)", MATRIX, x="3,4", kind="double"), "Gemm"),
    "opset 7": (net(f"{NORMALIZED} [n] y = Conv(h, w, b)", f"{WEIGHTS}, {BN}", opset=7), "Conv"),
    "opset 9": (net("t = Sub(x, c) h = Div(t, d) [n] y = Conv(h, w)", opset=9), "Conv"),
    "opset 9, Gemm": (net("t = Mul(x, c) h = Add(t, d) [n] y = Gemm(h, w, b)", MATRIX, x="3,4", opset=9), "Gemm"),
    "opset 11": (net(f"{NORMALIZED} [n] y = Conv(h, w, b)", f"{WEIGHTS}, {BN}", opset=11), "Conv"),
    "opset 13": (net(f"{NORMALIZED} [n] y = Conv(h, w, b)", f"{WEIGHTS}, {BN}", opset=13), "Conv"),
    "opset 18": (net("h = Sub(d, x) [n] y = Conv(h, w)", opset=18), "Conv"),
    "opset 21": (net("h = Sub(d, x) [n] y = Conv(h, w)", opset=21), "Conv"),
    "the longest part of a chain that lies on one axis": (
        net("t = Mul(x, e) h = Mul(t, c) [n] y = Conv(h, w)", f"{WEIGHTS}, float[7] e"),
        "Mul Conv",
    ),
}

SKIPS = {  # text, part of the reason (None: nobody would ask)
    "nothing before": (net("[n] y = Conv(x, w, b)"), None),
    "a Relu that a negative scale does not pass": (
        net("h = Mul(x, e) p = Relu(h) [n] y = Conv(p, w)", f"{WEIGHTS}, float e = {{-0.5}}"),
        "commutes with positive factors only",
    ),
    "a MaxPool that a negative scale does not pass": (
        net("h = Mul(x, e) p = MaxPool<kernel_shape = [2,2]>(h) [n] y = Conv(p, w)", f"{WEIGHTS}, float e = {{-2}}"),
        "commutes with positive factors only",
    ),
    "edge 36: an AveragePool that counts its pads": (
        net(
            "h = Add(x, c) p = AveragePool<kernel_shape = [2,2], pads = [1,1,1,1], count_include_pad = 1>(h) [n] y = Conv(p, w)"
        ),
        "count as zeros",
    ),
    "6 edge 1: read by somebody else": (
        net("h = Mul(x, c) [n] y = Conv(h, w) z = Exp(h)", more=", float[A,B,C,D] z"),
        "also read by Exp",
    ),
    "6 edge 2: an output of the graph": (
        net("h = Mul(x, c) [n] y = Conv(h, w)", more=", float[A,B,C,D] h"),
        "is an output of the graph",
    ),
    "6 edge 3: read by a branch": (
        net(
            "h = Mul(x, c) [n] y = Conv(h, w) z = If(k) <then_branch = a () => (float[A,B,C,D] t) { t = Relu(h) },"
            " else_branch = b () => (float[A,B,C,D] e) { e = Neg(h) }>",
            more=", float[A,B,C,D] z",
        ).replace(" x)", " x, bool k)"),
        "also read by Relu",
    ),
    "6 the other reader is padded": (
        net("h = Add(x, c) [n] y = Conv(h, w) z = Conv<pads = [1,1,1,1]>(h, w)", more=", float[A,B,C,D] z"),
        "also read by Conv",
    ),
    "7 a value between is read elsewhere": (
        net(
            "h = Mul(x, c) p = GlobalAveragePool(h) [n] y = Conv(p, w) z = Exp(p)",
            "float[4,1,1] c, float[6,4,1,1] w",
            more=", float[P,Q,R,S] z",
        ),
        None,
    ),
    "8 edge 15: the weights are an input": (
        net("h = Mul(x, c) [n] y = Conv(h, w)", CV).replace(" x)", " x, float[6,4,3,3] w)"),
        "not constant",
    ),
    "8 edge 15: the bias is computed": (
        net("q = Exp(b) h = Mul(x, c) [n] y = Conv(h, w, q)", f"{CV}, float[6,4,3,3] w").replace(
            " x)", " x, float[6] b)"
        ),
        "not constant",
    ),
    "8 edge 8: the weights can be overridden": (
        net("h = Mul(x, c) [n] y = Conv(h, w)", f"{CV}, float[1,4,1,1] w = {{1,2,3,4}}").replace(
            " x)", " x, float[1,4,1,1] w)"
        ),
        "not constant",
    ),
    "8 edge 19: quantized weights": (
        net("h = Mul(x, c) q = DequantizeLinear(w, s) [n] y = Conv(h, q)", f"{CV}, int8[6,4,3,3] w, float s = {{0.5}}"),
        "not constant",
    ),
    "8 quantized weights of a MatMul": (
        net(
            "h = Mul(x, c) q = DequantizeLinear(w, s) [n] y = MatMul(h, q)",
            "float[4] c, int8[4,6] w, float s = {0.5}",
            x="3,4",
        ),
        "not constant",
    ),
    "two computed matrices": (net("h = Mul(x, c) r = Exp(x) [n] y = MatMul(h, r)", "float c", x="4,4"), None),
    "9 edge 20: along the last axis": (
        net("h = Mul(x, c) [n] y = Conv(h, w)", "float[4] c, float[6,4,3,3] w", x="2,4,6,4"),
        "another axis",
    ),
    "9 edge 22: along the batch": (
        net("h = Mul(x, c) [n] y = Conv(h, w)", "float[2,1,1,1] c, float[6,4,3,3] w"),
        "another axis",
    ),
    "9 edge 22: along the channels and rows": (
        net("h = Mul(x, c) [n] y = Conv(h, w)", "float[4,6,1] c, float[6,4,3,3] w"),
        "several axes",
    ),
    "9 edge 23: the map makes several channels of one": (
        net("h = Mul(x, c) [n] y = Conv(h, w)", "float[4,1,1] c, float[6,4,3,3] w", x="2,1,6,7"),
        "raises the rank",
    ),
    "9 edge 21: a constant of higher rank": (
        net("h = Mul(x, c) [n] y = MatMul(h, w)", "float[1,1,1,4] c, float[4,6] w", x="3,4", y=4),
        "raises the rank",
    ),
    "9 edge 21: one number of higher rank": (
        net("h = Mul(x, c) [n] y = MatMul(h, w)", "float[1,1,1,1,1] c, float[4,6] w", x="3,4", y=5),
        "raises the rank",
    ),
    "9 the columns of a Gemm, not its rows": (
        net("h = Mul(x, c) [n] y = Gemm(h, w)", "float[4,1] c, float[4,6] w", x="4,4"),
        "another axis",
    ),
    "9 Gemm, transA": (
        net("h = Mul(x, c) [n] y = Gemm<transA = 1>(h, w)", "float[4] c, float[4,6] w", x="4,4"),
        "transposed",
    ),
    "12 edge 44: integers": (
        net("h = Add(x, e) [n] y = MatMul(h, w)", "float e = {2}, float[4,6] w", x="3,4", kind="int32"),
        None,
    ),
    "13 edge 18: a shift before a padded Conv": (
        net("h = Add(x, c) [n] y = Conv<pads = [0,0,0,1]>(h, w)"),
        "reads zeros at its border",
    ),
    "13 edge 18: a normalization before a padded Conv": (
        net(f"{NORMALIZED} [n] y = Conv<pads = [1,1,1,1]>(h, w)", f"{WEIGHTS}, {BN}"),
        "reads zeros at its border",
    ),
    "13 edge 32: auto_pad SAME": (net('h = Add(x, c) [n] y = Conv<auto_pad = "SAME_UPPER">(h, w)'), "reads zeros"),
    "13 a shift before a ConvTranspose": (
        net("h = Add(x, c) [n] y = ConvTranspose(h, w)", f"{CV}, float[4,6,3,3] w"),
        "reads zeros at its border",
    ),
    "5 a MatMul of more axes has no bias": (
        net("h = Add(x, c) [n] y = MatMul(h, w)", MATRIX, x="2,3,4"),
        "has no bias",
    ),
    "14 scale of a normalization": (
        net(
            "v = ReduceMean<axes = [-1]>(x) q = Sqrt(v) r = Div(x, q) h = Mul(r, c) [n] y = MatMul(h, w)",
            "float[4] c, float[4,6] w",
            x="3,4",
        ),
        "belongs to a normalization",
    ),
    "edge 11: training": (
        net("h = BatchNormalization<training_mode = 1>(x, g, be, me, var) [n] y = Conv(h, w)", f"{WEIGHTS}, {BN}"),
        "training mode",
    ),
    "edge 14: statistics are computed": (
        net(
            f"me = Exp(q) {NORMALIZED} [n] y = Conv(h, w)", f"{WEIGHTS}, float[4] g, float[4] be, float[4] var"
        ).replace(" x)", " x, float[4] q)"),
        "not constant",
    ),
    "edge 25: c / x": (net("h = Div(c, x) [n] y = Conv(h, w)"), None),
    "a Resize over the channels": (net("h = Exp(x) [n] y = Conv(h, w)"), None),
}


@pytest.mark.parametrize("case", FOLDS)
def test_folds(case: str) -> None:
    text, left = FOLDS[case]
    histogram: dict[str, int] = {}
    for op in left.split():
        histogram[op] = histogram.get(op, 0) + 1
    assert_rewritten(FoldAffineBefore(), text, histogram)


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    model = loaded(text)
    after, report = checked(FoldAffineBefore(), model)
    assert after is model
    assert report.rolled_back == []
    assert [reason in s.reason for s in report.skips if s.node == "n"] == [True] * (reason is not None), report.skips


def read(text: str, **values: np.ndarray) -> ir.Model:
    """The model with these weights."""
    message = filled(text)
    for tensor in message.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(ir.to_proto(ir.tensor(values[tensor.name], name=tensor.name)))
    return shapes.infer(files.load(message).model)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("body", ["h = Mul(x, c) [n] y = Conv(h, w, b)", "h = Sub(c, x) [n] y = Conv(h, w)"])
def test_1_weights_keep_their_type(kind: str, body: str) -> None:
    before = loaded(net(body, kind=kind, opset=22))
    after, report = checked(FoldAffineBefore(), before)
    assert len(report.hits) == 1
    assert [n.op_type for n in after.graph] == ["Conv"]
    assert {v.dtype for v in after.graph.initializers.values()} == {before.graph.inputs[0].dtype}
    if kind == "float16":  # onnxruntime has no kernels for the other
        assert_same(before, after, 1e-2)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "double"])
def test_5_gemm_is_written_only_where_runtimes_have_it(kind: str) -> None:
    before = loaded(net("h = Add(x, c) [n] y = MatMul(h, w)", MATRIX, x="3,4", kind=kind, opset=22))
    after, report = checked(FoldAffineBefore(), before)
    assert len(report.hits) == (kind == "double")
    assert [n.op_type for n in after.graph] == (["Gemm"] if kind == "double" else ["Add", "MatMul"])


def test_3_each_reader_takes_the_map_in_by_itself() -> None:
    before = loaded(FOLDS["3 edge 27: two readers"][0])
    after, report = checked(FoldAffineBefore(), before)
    assert [h.anchor for h in report.hits] == ["n", "Conv_z"]
    assert [n.inputs[0] for n in after.graph] == [after.graph.inputs[0]] * 2


@pytest.mark.parametrize("limit", [0, 65_536])
def test_10_edge_4_shared_weights(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_SHARED_LIMIT_BYTES", limit)
    text = net("h = Mul(x, c) [n] y = Conv(h, w) q = Exp(x) z = Conv(q, w)", more=", float[A,B,C,D] z")
    before = loaded(text)
    after, report = checked(FoldAffineBefore(), before)
    assert len(report.hits) == (1 if limit else 0)
    assert [s.reason for s in report.skips if "shared with 1 other nodes" in s.reason] == [
        s.reason for s in report.skips
    ]
    assert_same(before, after)


def test_edge_5_and_6_a_bias_and_parameters_that_others_read() -> None:
    text = net(
        "h = BatchNormalization(x, b, b, me, var) [n] y = Conv(h, w, b) z = Exp(b)",
        "float[4,4,3,3] w, float[4] b, float[4] me, float[4] var",
        more=", float[4] z",
    )
    assert_rewritten(FoldAffineBefore(), text, {"Conv": 1, "Exp": 1})


def test_edge_7_weights_that_a_body_reads() -> None:
    text = net(
        "h = Mul(x, c) [n] y = Conv(h, w) z = If(k) <then_branch = a () => (float[6,4,3,3] t) { t = Neg(w) },"
        " else_branch = b () => (float[6,4,3,3] e) { e = Exp(w) }>",
        more=", float[6,4,3,3] z",
    ).replace(" x)", " x, bool k)")
    before = loaded(text)
    after, report = checked(FoldAffineBefore(), before)
    assert len(report.hits) == 1
    for k in (True, False):
        assert_same(before, after, k=np.array(k))


def test_in_the_branches_of_an_if() -> None:
    text = (
        "g (float[1,4,6,6] x, bool k) => (float[1,6,4,4] y) <float[6,4,3,3] w, float[4,1,1] c> { y = If(k) <"
        "then_branch = a () => (float[1,6,4,4] t) { h = Mul(x, c) t = Conv(h, w) },"
        "else_branch = b () => (float[1,6,4,4] e) <float[6] b> { h2 = Sub(c, x) e = Conv(h2, w, b) }> }"
    )
    before = loaded(text)
    after, report = checked(FoldAffineBefore(), before)
    assert len(report.hits) == 2
    assert op_histogram(after) == {"Conv": 2, "If": 1}
    for k in (True, False):
        assert_same(before, after, k=np.array(k))


def test_a_map_in_another_graph() -> None:
    text = (
        "g (float[1,4,6,6] x, bool k) => (float[1,6,4,4] y) <float[6,4,3,3] w, float[4,1,1] c> { h = Mul(x, c) y = If(k) <"
        "then_branch = a () => (float[1,6,4,4] t) { t = Conv(h, w) },"
        "else_branch = b () => (float[1,6,4,4] e) { q = Neg(x) e = Conv(q, w) }> }"
    )
    before = loaded(text)
    after, report = checked(FoldAffineBefore(), before)
    assert [h.anchor for h in report.hits] == ["Conv_e"]
    for k in (True, False):
        assert_same(before, after, k=np.array(k))


def test_edge_8_an_overridden_constant_of_the_map() -> None:
    text = net("t = Mul(x, e) h = Mul(t, c) [n] y = Conv(h, w)", f"float e = {{2}}, {WEIGHTS}").replace(
        " x)", " x, float e)"
    )
    before = loaded(text)
    after, report = checked(FoldAffineBefore(), before)
    assert len(report.hits) == 1
    assert op_histogram(after) == {"Conv": 1, "Mul": 1}
    assert_same(before, after, e=np.array(5, np.float32))


def test_11_folded_weights_that_overflow() -> None:
    before = read(net("h = Mul(x, e) [n] y = Conv(h, w)", f"{WEIGHTS}, float e", kind="float16"), e=np.float16(6e4))
    after, report = checked(FoldAffineBefore(), before)
    assert after is before
    assert "overflow float16" in report.skips[0].reason


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_11_weights_that_are_not_finite(value: float) -> None:
    """Infinity times a scale of 0, or plus its negative, would spread to where no infinity was."""
    weight = np.ones((6, 4, 3, 3), np.float32)
    weight[1, 2, 0, 0] = value
    before = read(FOLDS["1 a shift per channel"][0], w=weight)
    after, report = checked(FoldAffineBefore(), before)
    assert after is before
    assert "infinite or NaN" in report.skips[0].reason


@pytest.mark.parametrize("value", [np.inf, np.nan, 0.0])
def test_11_a_deviation_that_is_no_number(value: float) -> None:
    before = read(FOLDS["1 mean and deviation"][0], d=np.array([1, value, 2, 1], np.float32).reshape(4, 1, 1))
    after, report = checked(FoldAffineBefore(), before)
    if value == np.inf:  # 1 / inf is 0
        assert len(report.hits) == 1
        assert_same(before, after)
    else:
        assert after is before
        assert "not finite, or divides by zero" in report.skips[0].reason


def test_4_a_scale_of_zero_leaves_no_way_to_write_the_shift() -> None:
    text = FOLDS["4 edge 18: scale and shift before auto_pad SAME"][0]
    before = read(text, c=np.array([1, 0, 2, 1], np.float32).reshape(4, 1, 1))
    after, report = checked(FoldAffineBefore(), before)
    assert after is before
    assert "reads zeros at its border" in report.skips[0].reason


def test_4_the_border_stays_zero() -> None:
    """Every sum at the border is of the padded zeros, not of padded shifts."""
    text = FOLDS["4 edge 18: mean and deviation before a padded Conv"][0]
    before = read(text, c=np.full((4, 1, 1), 100, np.float32), d=np.full((4, 1, 1), 0.1, np.float32))
    after, report = checked(FoldAffineBefore(), before)
    assert len(report.hits) == 1
    assert_same(before, after)


def test_the_layer_keeps_its_name_and_attributes() -> None:
    after, _ = checked(FoldAffineBefore(), loaded(FOLDS["1 strides and dilations"][0]))
    (node,) = after.graph
    assert (node.name, node.outputs[0].name) == ("n", "y")
    assert list(node.attributes["strides"].as_ints()) == [2, 1]
    assert list(node.attributes["dilations"].as_ints()) == [2, 2]


def test_5_the_gemm_that_is_written() -> None:
    before = loaded(FOLDS["5 MatMul becomes Gemm"][0])
    after, _ = checked(FoldAffineBefore(), before)
    (node,) = after.graph
    w, c = (np.asarray(constant(before.graph.initializers[k]), np.float64) for k in "wc")
    np.testing.assert_array_equal(constant(node.inputs[1]), w.astype(np.float32))
    np.testing.assert_allclose(constant(node.inputs[2]), c @ w, rtol=1e-6)


def _reversed_channels(node: ir.Node, data: int, map_: Channels) -> affine_layers.Folded | str | None:
    return INTACT(node, data, Channels(map_.axis, map_.scale[::-1], map_.shift[::-1]))


def _without_shift(node: ir.Node, data: int, map_: Channels) -> affine_layers.Folded | str | None:
    return INTACT(node, data, Channels(map_.axis, map_.scale, np.zeros_like(map_.shift)))


def _is_never_padded(node: ir.Node) -> bool:
    return False


INTACT = affine_layers.before
SABOTAGE: dict[str, tuple[str, Breakage | Patch]] = {
    "one output channel": (FOLDS["1 a scale per channel"][0], scaled(1, 3, 1.01)),
    "one input channel": (FOLDS["1 a scale per channel"][0], scaled(1, 3, 1.01, axis=1)),
    "the bias": (FOLDS["1 mean and deviation"][0], scaled(2, 3, 1.01)),
    "the layer is lost": (net("h = Mul(x, c) [n] y = Conv(h, w)", f"float[4,4,1,1] w, {CV}"), wired_to_its_input),
    "the channels in another order": (
        FOLDS["1 edge 27: grouped"][0],
        Patch(affine_layers, "before", _reversed_channels),
    ),
    "the order of the inputs of a ConvTranspose": (
        FOLDS["1 edge 16: ConvTranspose, as many inputs as outputs"][0],
        Patch(affine_layers, "before", _reversed_channels),
    ),
    "the shift is forgotten": (FOLDS["1 Gemm"][0], Patch(affine_layers, "before", _without_shift)),
    "a column of a Gemm": (FOLDS["1 edge 17: Gemm, alpha and beta"][0], scaled(2, 4, 1.05)),
    "the shift behind a MatMul": (FOLDS["5 MatMul becomes Gemm"][0], scaled(2, 4, 1.05)),
    "what is added before a padded Conv": (
        FOLDS["4 edge 18: mean and deviation before a padded Conv"][0],
        scaled(1, 2, 1.05),
    ),
    "edge 18: the border is overlooked": (
        FOLDS["4 edge 18: mean and deviation before a padded Conv"][0],
        Patch(affine_layers, "is_padded", _is_never_padded),
    ),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_sabotage(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(FoldAffineBefore(), text, how, monkeypatch)
