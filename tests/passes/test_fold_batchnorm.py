from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeopt import files, graph, shapes
from edgeopt.graph import constant, op_histogram
from edgeopt.passes.fold_batchnorm import FoldBatchnorm, affine, fold_conv, fold_conv_transpose, fold_gemm
from tests.models import assert_same, checked, filled, loaded

BN = "float[{c}] gamma, float[{c}] beta, float[{c}] mean, float[{c}] var"


def conv(node: str, *, c: int = 4, weight: str = "4,3,3,3", bias: str = "", bn: str = "", opset: int = 17) -> str:
    """x → layer t → BatchNormalization → Relu → y."""
    biases = f"float[{bias}] b, " if bias else ""
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"g (float[2,3,6,6] x) => (float[2,C,H,W] y) <float[{weight}] w, {biases}{BN.format(c=c)}> "
        f"{{ t = {node} u = BatchNormalization{bn}(t, gamma, beta, mean, var) y = Relu(u) }}"
    )


def gemm(node: str, *, x: str = "3,5", w: str = "5,4", bias: str = "4", opset: int = 17) -> str:
    biases = f"float[{bias}] b, " if bias else ""
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"g (float[{x}] x) => (float[M,4] y) <float[{w}] w, {biases}{BN.format(c=4)}> "
        f"{{ t = {node} u = BatchNormalization(t, gamma, beta, mean, var) y = Relu(u) }}"
    )


FOLDS = {
    "1 Conv": conv("Conv(x, w, b)", bias="4"),
    "1 Conv, a missing bias counts as 0": conv("Conv(x, w)"),
    "1 Conv, padded": conv("Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w, b)", bias="4"),
    "1 Conv, padded by auto_pad": conv('Conv<auto_pad = "SAME_UPPER">(x, w)'),
    "1 Conv, dilated": conv("Conv<dilations = [2, 2]>(x, w)"),
    "1 Conv, depthwise": conv("Conv<group = 3>(x, w)", c=3, weight="3,1,3,3"),
    "1 Conv, grouped": conv("Conv<group = 3>(x, w)", c=6, weight="6,1,3,3"),
    "1 Conv, one output channel": conv("Conv(x, w)", c=1, weight="1,3,3,3"),
    "1 Conv, large epsilon": conv("Conv(x, w)", bn="<epsilon = 0.5>"),
    "1 Conv, momentum plays no part": conv("Conv(x, w)", bn="<momentum = 0.1>"),
    "1 Conv, opset 14 running outputs not asked for": conv("Conv(x, w)", bn="<training_mode = 0>", opset=15),
    "1 Conv, opset 9": conv("Conv(x, w)", opset=9),
    "1 Conv, opset 7 spatial": conv("Conv(x, w)", bn="<spatial = 1>", opset=7),
    "1 Conv, opset 6 in inference": conv("Conv(x, w)", bn="<is_test = 1>", opset=6),
    "1 Conv, one axis": (
        f"g (float[2,3,9] x) => (float[2,4,W] y) <float[4,3,3] w, {BN.format(c=4)}> "
        "{ t = Conv(x, w) y = BatchNormalization(t, gamma, beta, mean, var) }"
    ),
    "1 Conv, three axes": (
        f"g (float[1,3,4,4,4] x) => (float[1,4,D,H,W] y) <float[4,3,2,2,2] w, {BN.format(c=4)}> "
        "{ t = Conv(x, w) y = BatchNormalization(t, gamma, beta, mean, var) }"
    ),
    "1 Conv, open batch and size": (
        f"g (float[N,3,H,W] x) => (float[N,4,P,Q] y) <float[4,3,3,3] w, {BN.format(c=4)}> "
        "{ t = Conv<pads = [1, 1, 1, 1]>(x, w) y = BatchNormalization(t, gamma, beta, mean, var) }"
    ),
    "2 ConvTranspose": conv("ConvTranspose(x, w, b)", weight="3,4,3,3", bias="4"),
    "2 ConvTranspose, as many inputs as outputs": conv("ConvTranspose(x, w)", c=3, weight="3,3,3,3"),
    "2 ConvTranspose, grouped": conv("ConvTranspose<group = 3>(x, w)", c=6, weight="3,2,3,3"),
    "2 ConvTranspose, output padding": conv(
        "ConvTranspose<strides = [2, 2], output_padding = [1, 1]>(x, w)", weight="3,4,3,3"
    ),
    "3 Gemm": gemm("Gemm(x, w, b)"),
    "3 Gemm, transB": gemm("Gemm<transB = 1>(x, w, b)", w="4,5"),
    "3 Gemm, transA": gemm("Gemm<transA = 1>(x, w, b)", x="5,3"),
    "3 Gemm, alpha and beta": gemm("Gemm<alpha = 0.5, beta = 2.0>(x, w, b)"),
    "3 Gemm, beta 0": gemm("Gemm<beta = 0.0>(x, w, b)"),
    "3 Gemm, no C": gemm("Gemm<alpha = 0.5>(x, w)", bias=""),
    "3 Gemm, scalar C": gemm("Gemm<beta = 3.0>(x, w, b)", bias="1"),
    "3 Gemm, C of every row": gemm("Gemm<beta = 3.0>(x, w, b)", bias="3,4"),
    "3 Gemm, C of one column": gemm("Gemm(x, w, b)", bias="3,1"),
    "3 Gemm, as many inputs as outputs": gemm("Gemm<transB = 1>(x, w, b)", x="3,4", w="4,4"),
    "3 Gemm, opset 9": gemm("Gemm(x, w, b)", opset=9),
}

TWO = BN.format(c=4)
SKIPS = {  # text, part of the reason
    "the input is no layer": (
        f"g (float[1,4,2,2] x) => (float[1,4,2,2] y) <{TWO}> {{ y = BatchNormalization(x, gamma, beta, mean, var) }}",
        "comes from outside the graph",
    ),
    "another operator in between": (
        f"g (float[1,3,4,4] x) => (float[1,4,2,2] y) <float[4,3,3,3] w, {TWO}> "
        "{ t = Conv(x, w) r = Relu(t) y = BatchNormalization(r, gamma, beta, mean, var) }",
        "comes from Relu",
    ),
    "4 the product is read elsewhere": (
        f"g (float[1,3,4,4] x) => (float[1,4,2,2] y, float[1,4,2,2] z) <float[4,3,3,3] w, {TWO}> "
        "{ t = Conv(x, w) y = BatchNormalization(t, gamma, beta, mean, var) z = Relu(t) }",
        "read by other nodes",
    ),
    "4 the product is an output": (
        f"g (float[1,3,4,4] x) => (float[1,4,2,2] t, float[1,4,2,2] y) <float[4,3,3,3] w, {TWO}> "
        "{ t = Conv(x, w) y = BatchNormalization(t, gamma, beta, mean, var) }",
        "is an output of the graph",
    ),
    "4 the product is read by a branch only": (
        f"g (float[1,3,4,4] x, bool c) => (float[1,4,2,2] y, float[1,4,2,2] z) <float[4,3,3,3] w, {TWO}> "
        "{ t = Conv(x, w) y = BatchNormalization(t, gamma, beta, mean, var) z = If(c) <"
        "then_branch = p () => (float[1,4,2,2] a) { a = Relu(t) },"
        "else_branch = q () => (float[1,4,2,2] a) { a = Neg(t) }> }",
        "read by other nodes",
    ),
    "4 the product lies outside the body": (
        f"g (float[1,3,4,4] x, bool c) => (float[1,4,2,2] y) <float[4,3,3,3] w, {TWO}> "
        "{ t = Conv(x, w) y = If(c) <"
        "then_branch = p () => (float[1,4,2,2] a) { a = BatchNormalization(t, gamma, beta, mean, var) },"
        "else_branch = q () => (float[1,4,2,2] a) { a = Constant<value_float = 0.0>() }> }",
        "lies in another graph",
    ),
    "5 the weights are an input": (
        f"g (float[1,3,4,4] x, float[4,3,3,3] w) => (float[1,4,2,2] y) <{TWO}> "
        "{ t = Conv(x, w) y = BatchNormalization(t, gamma, beta, mean, var) }",
        "weights of Conv 'Conv_t' are not constant",
    ),
    "5 the bias is computed": (
        f"g (float[1,3,4,4] x, float[4] d) => (float[1,4,2,2] y) <float[4,3,3,3] w, {TWO}> "
        "{ b = Neg(d) t = Conv(x, w, b) y = BatchNormalization(t, gamma, beta, mean, var) }",
        "are not constant",
    ),
    "5 the weights are quantized": (
        f"g (float[1,3,4,4] x) => (float[1,4,2,2] y) <int8[4,3,3,3] w, float s = {{0.5}}, {TWO}> "
        "{ d = DequantizeLinear(w, s) t = Conv(x, d) y = BatchNormalization(t, gamma, beta, mean, var) }",
        "are not constant",
    ),
    "5 a statistic is an input": (
        "g (float[1,3,4,4] x, float[4] mean) => (float[1,4,2,2] y) <float[4,3,3,3] w, float[4] gamma, float[4] beta,"
        " float[4] var> { t = Conv(x, w) y = BatchNormalization(t, gamma, beta, mean, var) }",
        "statistics are not constant",
    ),
    "5 a statistic may be overridden": (
        "g (float[1,3,4,4] x, float[4] mean) => (float[1,4,2,2] y) <float[4,3,3,3] w, float[4] gamma, float[4] beta,"
        " float[4] var, float[4] mean = {1, 2, 3, 4}>"
        " { t = Conv(x, w) y = BatchNormalization(t, gamma, beta, mean, var) }",
        "statistics are not constant",
    ),
    "6 training mode": (
        conv("Conv(x, w)", bn="<training_mode = 1>"),
        "training mode",
    ),
    "6 opset 6 trains unless told not to": (conv("Conv(x, w)", opset=6), "training mode"),
    "6 statistics per element": (
        '<ir_version: 4, opset_import: ["" : 7]> g (float[1,3,4,4] x) => (float[1,4,2,2] y) <float[4,3,3,3] w,'
        " float[4,2,2] gamma, float[4,2,2] beta, float[4,2,2] mean, float[4,2,2] var> "
        "{ t = Conv(x, w) y = BatchNormalization<spatial = 0>(t, gamma, beta, mean, var) }",
        "spatial=0",
    ),
    "7 running statistics are asked for": (
        f'<ir_version: 8, opset_import: ["" : 9]> g (float[1,3,4,4] x) => (float[1,4,2,2] y, float[4] m) '
        f"<float[4,3,3,3] w, {TWO}> {{ t = Conv(x, w) y, m, v = BatchNormalization(t, gamma, beta, mean, var) }}",
        "running statistics",
    ),
}


@pytest.mark.parametrize("case", FOLDS)
def test_folds(case: str) -> None:
    before = loaded(FOLDS[case])
    after, report = checked(FoldBatchnorm(), before)
    assert len(report.hits) == 1
    assert not report.rolled_back
    wanted = op_histogram(before)
    del wanted["BatchNormalization"]
    assert op_histogram(after) == wanted
    if "opset 6" not in case:  # onnxruntime starts at opset 7: the oracle asked ONNX's reference implementation
        assert_same(before, after)


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    before = loaded(text)
    after, report = checked(FoldBatchnorm(), before)
    assert (report.hits, report.rolled_back) == ([], [])
    assert after is before
    assert [reason in s.reason for s in report.skips] == [True], report.skips


def test_1_in_the_branches_of_an_if() -> None:
    text = (
        f"g (float[1,3,4,4] x, bool c) => (float[1,4,2,2] y) <float[4,3,3,3] w, {TWO}> {{ y = If(c) <"
        "then_branch = p () => (float[1,4,2,2] a) {"
        "  t = Conv(x, w) a = BatchNormalization(t, gamma, beta, mean, var) },"
        "else_branch = q () => (float[1,4,2,2] a) {"
        "  t = Conv(x, w) a = BatchNormalization(t, mean, beta, mean, var) }> }"
    )
    before = loaded(text)
    after, report = checked(FoldBatchnorm(), before)
    assert len(report.hits) == 2
    assert op_histogram(after) == {"Conv": 2, "If": 1}
    for c in (True, False):
        assert_same(before, after, c=np.array(c))


def test_1_the_bias_is_also_read_elsewhere() -> None:
    """A bias that is the normalization's beta too, and an operand of another node, keeps its value there."""
    text = (
        "g (float[1,3,4,4] x) => (float[1,4,2,2] y, float[4] z) <float[4,3,3,3] w, float[4] b, float[4] var> "
        "{ t = Conv(x, w, b) y = BatchNormalization(t, b, b, b, var) z = Neg(b) }"
    )
    before = loaded(text)
    after, report = checked(FoldBatchnorm(), before)
    assert len(report.hits) == 1
    assert_same(before, after)


@pytest.mark.parametrize("both", [True, False])
def test_1_a_weight_that_two_layers_share(both: bool) -> None:
    second = "v = BatchNormalization(u, beta, gamma, mean, var)" if both else "v = Relu(u)"
    text = (
        f"g (float[1,3,4,4] x) => (float[1,4,2,2] y, float[1,4,2,2] v) <float[4,3,3,3] w, {TWO}> "
        f"{{ t = Conv(x, w) y = BatchNormalization(t, gamma, beta, mean, var) n = Neg(x) u = Conv(n, w) {second} }}"
    )
    before = loaded(text)
    after, report = checked(FoldBatchnorm(), before)
    assert len(report.hits) == (2 if both else 1)
    assert_same(before, after)


def test_1_a_generated_name_that_is_taken() -> None:
    text = (
        f"g (float[1,3,4,4] x) => (float[1,4,2,2] y, float[4] z) <float[4,3,3,3] w, float[4] taken, {TWO}> "
        "{ [c] t = Conv(x, w) y = BatchNormalization(t, gamma, beta, mean, var) z = Neg(taken) }"
    )
    message = filled(text)
    for tensor in message.graph.initializer:
        tensor.name = tensor.name.replace("taken", "c/bias")
    message.graph.node[-1].input[0] = "c/bias"
    before = shapes.infer(files.load(message).model)
    after, report = checked(FoldBatchnorm(), before)
    assert len(report.hits) == 1
    assert "c/bias_1" in after.graph.initializers
    assert_same(before, after)


@pytest.mark.parametrize("kind", ["float16", "double", "bfloat16"])
def test_1_other_float_types_keep_their_type(kind: str) -> None:
    layer = gemm("Gemm(x, w, b)") if kind == "double" else conv("Conv(x, w, b)", bias="4", opset=22)
    before = loaded(layer.replace("float[", f"{kind}[").replace("ir_version: 8", "ir_version: 10"))
    after, report = checked(FoldBatchnorm(), before)
    assert len(report.hits) == 1
    weight = constant(next(iter(after.graph)).inputs[1])
    assert weight is not None
    assert weight.dtype.name == {"double": "float64"}.get(kind, kind)
    if kind != "bfloat16":  # no kernel in onnxruntime: the oracle asked ONNX's reference implementation
        assert_same(before, after, tolerance={"float16": 1e-2, "double": 1e-12}[kind])


def test_1_a_chain_of_two_normalizations_folds_twice() -> None:
    text = (
        f"g (float[1,3,4,4] x) => (float[1,4,2,2] y) <float[4,3,3,3] w, {TWO}> "
        "{ t = Conv(x, w) u = BatchNormalization(t, gamma, beta, mean, var)"
        " y = BatchNormalization(u, beta, mean, gamma, var) }"
    )
    before = loaded(text)
    after, report = checked(FoldBatchnorm(), before)
    assert len(report.hits) == 2
    assert op_histogram(after) == {"Conv": 1}
    assert_same(before, after)


def test_1_the_layer_keeps_its_name_and_attributes() -> None:
    text = conv("Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w, b)", bias="4").replace(
        "t = Conv", "[layer] t = Conv"
    )
    after, _ = checked(FoldBatchnorm(), loaded(text))
    node = next(iter(after.graph))
    assert (node.name, node.outputs[0].name) == ("layer", "u")
    assert list(node.attributes["pads"].as_ints()) == [1, 1, 1, 1]
    assert list(node.attributes["strides"].as_ints()) == [2, 2]


def with_values(text: str, **values: np.ndarray) -> onnx.ModelProto:
    message = filled(text)
    for tensor in message.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name], tensor.name))
    return message


def test_8_folded_weights_that_overflow() -> None:
    text = conv("Conv(x, w)").replace("float[", "float16[")
    message = with_values(text, gamma=np.full(4, 6e4, np.float16), w=np.full((4, 3, 3, 3), 2, np.float16))
    before = shapes.infer(files.load(message).model)
    after, report = checked(FoldBatchnorm(), before)
    assert after is before
    assert "overflow float16" in report.skips[0].reason


def test_9_large_shared_weights_are_not_stored_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_SHARED_LIMIT_BYTES", 100)
    text = (
        f"g (float[1,3,4,4] x) => (float[1,4,2,2] y, float[1,4,2,2] v) <float[4,3,3,3] w, {TWO}> "
        "{ t = Conv(x, w) y = BatchNormalization(t, gamma, beta, mean, var) n = Neg(x) v = Conv(n, w) }"
    )
    before = loaded(text)
    after, report = checked(FoldBatchnorm(), before)
    assert after is before
    assert "'w' is shared with 1 other nodes" in report.skips[0].reason


@pytest.mark.parametrize("var", [np.nan, -1.0, -1e-5, np.inf])
def test_11_statistics_that_are_not_finite(var: float) -> None:
    text = conv("Conv(x, w)", bn="<epsilon = 1e-5>")
    message = with_values(text, var=np.array([1, var, 1, 1], np.float32), mean=np.array([0, np.inf, 0, 0], np.float32))
    before = shapes.infer(files.load(message).model)
    after, report = checked(FoldBatchnorm(), before)
    assert after is before
    assert "not finite" in report.skips[0].reason


def test_11_a_variance_of_zero_is_finite_thanks_to_epsilon() -> None:
    message = with_values(conv("Conv(x, w)"), var=np.zeros(4, np.float32))
    before = shapes.infer(files.load(message).model)
    after, report = checked(FoldBatchnorm(), before)
    assert len(report.hits) == 1
    assert_same(before, after)


def test_the_formulas() -> None:
    rng = np.random.default_rng(0)
    s = rng.standard_normal(6)
    w = rng.standard_normal((6, 2, 3, 3))
    np.testing.assert_array_equal(fold_conv(w, s)[4], w[4] * s[4])
    w = rng.standard_normal((4, 3, 3, 3))  # 2 groups of 2 inputs and 3 outputs
    np.testing.assert_array_equal(fold_conv_transpose(w, s, 2)[3, 1], w[3, 1] * s[3 + 1])
    w = rng.standard_normal((5, 6))
    np.testing.assert_array_equal(fold_gemm(w, s, False)[:, 2], w[:, 2] * s[2])
    np.testing.assert_array_equal(fold_gemm(w.T, s, True)[2], w[:, 2] * s[2])
    node = next(n for n in loaded(FOLDS["1 Conv, large epsilon"]).graph if n.op_type == "BatchNormalization")
    gamma, beta, mean, var = (np.asarray(constant(v), np.float64) for v in node.inputs[1:])
    found = affine(node)
    assert found is not None
    np.testing.assert_allclose(found[0], gamma / np.sqrt(var + 0.5))
    np.testing.assert_allclose(found[1], beta - mean * gamma / np.sqrt(var + 0.5))
