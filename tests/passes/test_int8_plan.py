"""Which nodes are planned for int8, which tensors are quantized for them, and why others stay float."""

from __future__ import annotations

import onnx
import pytest

from edgeopt import files, shapes
from edgeopt.passes.int8_plan import Plan, plan
from tests import models

CONV = "float[2,2,3,3] w"


def planned(text: str, *keep_float: str) -> Plan:
    return plan(models.loaded(text), frozenset(keep_float))


def graph(body: str, weights: str = CONV, inputs: str = "float[N,2,8,8] x", output: str = "float[] y") -> str:
    return f"g ({inputs}) => ({output}) <{weights}> {{ {body} }}"


# 1. Conv, Gemm, MatMul


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("[n] y = Conv(x, w)", CONV),
        ("[n] y = Conv<pads=[1,1,1,1]>(x, w, b)", f"{CONV}, float[2] b"),
        ("[n] y = Conv<group=2>(x, w)", "float[2,1,3,3] w"),
        ("[n] y = Conv<strides=[2,2], dilations=[2,2]>(x, w)", CONV),
    ],
)
def test_convolutions_have_input_and_output_quantized(body: str, weights: str) -> None:
    found = planned(graph(body, weights))
    assert found.nodes == {"n"}
    assert found.tensors == ["x", "y"]
    assert found.reasons == {}


def test_a_convolution_over_one_axis() -> None:
    found = planned(graph("[n] y = Conv(x, w)", "float[4,2,3] w", "float[N,2,20] x"))
    assert found.tensors == ["x", "y"]


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("[n] y = Gemm(x, w, b)", "float[4,3] w, float[3] b"),
        ("[n] y = Gemm<transB=1>(x, w, b)", "float[3,4] w, float[3] b"),
        ("[n] y = Gemm(x, w)", "float[4,3] w"),
        ("[n] y = MatMul(x, w)", "float[4,3] w"),
    ],
)
def test_a_dense_layer_that_no_int8_node_reads_keeps_a_float_output(body: str, weights: str) -> None:
    found = planned(graph(body, weights, "float[N,4] x"))
    assert found.nodes == {"n"}
    assert found.tensors == ["x"]


def test_a_dense_layer_that_an_int8_node_reads_has_its_output_quantized() -> None:
    found = planned(graph("[a] h = Gemm(x, w) [b] y = Gemm(h, v)", "float[4,3] w, float[3,2] v", "float[N,4] x"))
    assert found.tensors == ["x", "h"]


REASONS = {
    "a dynamic weight": (graph("[n] y = Conv(x, z)", CONV, "float[N,2,8,8] x, float[2,2,3,3] z"), "weights are not"),
    "a dynamic factor": (graph("[n] y = MatMul(x, z)", CONV, "float[N,4] x, float[4,3] z"), "second operand is not"),
    "a dynamic bias": (graph("[n] y = Conv(x, w, z)", CONV, "float[N,2,8,8] x, float[2] z"), "bias is not constant"),
    "float64": (
        graph("[n] y = MatMul(x, w)", "double[4,3] w", "double[N,4] x", "double[] y"),
        None,  # not even worth a word: no float32 tensor
    ),
    "a constant input": (graph("[n] y = Conv(c, w)", f"{CONV}, float[1,2,8,8] c", "float[N] x"), "input is constant"),
    "weights of three axes": (graph("[n] y = MatMul(x, w)", "float[2,4,3] w", "float[N,2,5,4] x"), "3 dimensions"),
    "transA": (graph("[n] y = Gemm<transA=1>(x, w)", "float[4,3] w", "float[4,N] x"), "transA, alpha or beta"),
    "alpha": (graph("[n] y = Gemm<alpha=0.5>(x, w)", "float[4,3] w", "float[N,4] x"), "transA, alpha or beta"),
    "beta": (graph("[n] y = Gemm<beta=0.5>(x, w, b)", "float[4,3] w, float[3] b", "float[N,4] x"), "alpha or beta"),
    "a bias of two axes": (graph("[n] y = Gemm(x, w, b)", "float[4,3] w, float[1,3] b", "float[N,4] x"), "[1, 3]"),
    "one bias for all": (graph("[n] y = Gemm(x, w, b)", "float[4,3] w, float[1] b", "float[N,4] x"), "shape [1]"),
    "ConvTranspose": (graph("[n] y = ConvTranspose(x, w)"), "no int8 kernel for ConvTranspose"),
    "Softmax": (graph("[n] y = Softmax(x)"), "no int8 kernel for Softmax"),
    "Relu alone": (graph("[n] y = Relu(x)"), "Relu has no int8 kernel of its own"),
    "Add of floats": (graph("[n] y = Add(x, x)"), "its operand 'x' is float"),
    "pooling of floats": (graph("[n] y = MaxPool<kernel_shape=[2,2]>(x)"), "its input is float"),
}


@pytest.mark.parametrize("case", REASONS)
def test_what_stays_float_has_a_reason(case: str) -> None:
    text, reason = REASONS[case]
    found = planned(text)
    assert "n" not in found.nodes
    assert found.tensors == []
    if reason is None:
        assert found.reasons == {}
    else:
        assert reason in found.reasons["n"]


def test_an_input_that_callers_may_override_is_no_weight() -> None:
    proto = models.filled(graph("[n] y = Conv(x, w)"))
    proto.graph.input.add().CopyFrom(onnx.helper.make_tensor_value_info("w", 1, [2, 2, 3, 3]))
    found = plan(shapes.infer(files.load(proto).model))
    assert found.reasons == {"n": "its weights are not constant"}


@pytest.mark.parametrize("body", ["[n] y = Add(c, p)", "[n] y = Conv(p, w)"])
def test_an_operand_that_callers_may_override_is_not_observed(body: str) -> None:
    """No sample feeds it, so there is no range."""
    proto = models.filled(graph(f"[c] c = Conv<pads=[1,1,1,1]>(x, w) {body}", f"{CONV}, float[1,2,8,8] p"))
    proto.graph.input.add().CopyFrom(onnx.helper.make_tensor_value_info("p", 1, [1, 2, 8, 8]))
    found = plan(shapes.infer(files.load(proto).model))
    assert "p" not in found.tensors
    assert "that callers may override" in found.reasons["n"]


# 2. Fused activations


@pytest.mark.parametrize(
    ("body", "tensors"),
    [
        ("[c] h = Conv(x, w) [r] y = Relu(h)", ["x", "y"]),
        ("[c] h = Conv(x, w) [r] y = Clip(h, lo, hi)", ["x", "y"]),
        ("[c] h = Conv(x, w) [r] y = Clip(h, , hi)", ["x", "y"]),
    ],
)
def test_an_activation_is_computed_by_the_quantization_of_its_output(body: str, tensors: list[str]) -> None:
    model = models.filled(graph(body, CONV))
    for name, value in (("lo", 0.0), ("hi", 6.0)):
        model.graph.initializer.append(onnx.helper.make_tensor(name, 1, [], [value]))
    found = plan(shapes.infer(files.load(model).model))
    assert found.nodes == {"c", "r"}
    assert found.tensors == tensors
    assert found.fused["c"] == "y"


def test_an_activation_that_others_read_too_is_not_fused() -> None:
    found = planned(graph("[c] h = Conv(x, w) [r] a = Relu(h) [s] y = Sub(a, h)"))
    assert found.nodes == {"c"}
    assert "follows no int8 layer that it alone reads" in found.reasons["r"]


def test_bounds_without_zero_are_not_fused() -> None:
    model = models.filled(graph("[c] h = Conv(x, w) [r] y = Clip(h, lo)", CONV))
    model.graph.initializer.append(onnx.helper.make_tensor("lo", 1, [], [1.0]))
    found = plan(shapes.infer(files.load(model).model))
    assert found.nodes == {"c"}
    assert found.tensors == ["x", "h"]


def test_bounds_of_no_element_are_not_fused() -> None:
    model = models.filled(graph("[c] h = Conv(x, w) [r] y = Clip(h, lo)", CONV))
    model.graph.initializer.append(onnx.helper.make_tensor("lo", 1, [0], []))
    assert plan(shapes.infer(files.load(model).model)).nodes == {"c"}


def test_bounds_that_are_computed_are_not_fused() -> None:
    body = "[c] h = Conv(x, w) m = ReduceMin<keepdims=0>(x) [r] y = Clip(h, m)"
    assert planned(graph(body)).nodes == {"c"}


# 3. and 4. Operands


def test_a_sum_quantizes_its_float_operand() -> None:
    found = planned(graph("[c] h = Conv<pads=[1,1,1,1]>(x, w) [e] f = Exp(x) [a] y = Add(h, f)"))
    assert found.nodes == {"c", "a"}
    assert found.tensors == ["x", "h", "f", "y"]


def test_the_bias_of_a_matmul_stays_float() -> None:
    found = planned(graph("[m] h = MatMul(x, w) [a] y = Add(h, b)", "float[4,3] w, float[3] b", "float[N,4] x"))
    assert found.nodes == {"m"}
    assert found.tensors == ["x"]
    assert "fuses the two into one float Gemm" in found.reasons["a"]


@pytest.mark.parametrize("op", ["AveragePool<kernel_shape=[2,2]>", "GlobalAveragePool", "LeakyRelu"])
def test_pooling_behind_int8(op: str) -> None:
    found = planned(graph(f"[c] h = Conv(x, w) [p] y = {op}(h)"))
    assert found.nodes == {"c", "p"}


def test_pooling_that_counts_its_padding_stays_float() -> None:
    op = "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>"
    found = planned(graph(f"[c] h = Conv(x, w) [p] y = {op}(h)"))
    assert found.reasons == {"p": "AveragePool that counts its padding"}


def test_a_concatenation_with_a_constant_stays_float() -> None:
    found = planned(graph("[c] h = Conv(x, w) [n] y = Concat<axis=0>(h, k)", f"{CONV}, float[1,2,6,6] k"))
    assert found.reasons == {"n": "an operand is constant"}


# 5. Data movement


def test_movement_shares_the_scale_of_its_source() -> None:
    body = "[c] h = Conv(x, w) [p] m = MaxPool<kernel_shape=[2,2]>(h) [t] t = Transpose(m) [f] y = Flatten(t)"
    found = planned(graph(body))
    assert found.tensors == ["x", "h", "m", "t", "y"]
    assert [found.root(t) for t in found.tensors] == ["x", "h", "h", "h", "h"]
    assert found.observed() == ["x", "h"]


def test_gathering_moves_data_too() -> None:
    """The two halves of a channel shuffle, as PyTorch exports it."""
    body = "zero = Constant<value_int=0>() [c] h = Conv(x, w) [g] y = Gather<axis=1>(h, zero)"
    found = planned(graph(body))
    assert found.nodes == {"c", "g"}
    assert (found.tensors, found.root("y")) == (["x", "h", "y"], "h")
    embedding = "[e] h = Gather(table, x) [m] y = MatMul(h, w)"
    found = planned(graph(embedding, "float[9,4] table, float[4,3] w", "int64[N] x"))
    assert found.nodes == {"m"}
    assert found.reasons == {"e": "its input is float"}


def test_indices_of_a_maximum_are_no_floats() -> None:
    found = planned(graph("[c] h = Conv(x, w) [p] y, i = MaxPool<kernel_shape=[2,2]>(h)"))
    assert found.nodes == {"c", "p"}
    assert found.tensors == ["x", "h", "y"]
    used = planned(graph("[c] h = Conv(x, w) [p] y, i = MaxPool<kernel_shape=[2,2]>(h)", output="float[] y, int64[] i"))
    assert used.reasons == {"p": "its indices are used"}


def test_a_maximum_below_opset_12() -> None:
    text = '<ir_version: 6, opset_import: ["" : 11]>' + graph(
        "[c] h = Conv(x, w) [p] y = MaxPool<kernel_shape=[2,2]>(h)"
    )
    assert planned(text).reasons == {"p": "MaxPool takes int8 from opset 12 only"}


# 6. Everything else


def test_bodies_stay_float() -> None:
    text = """g (float[N,2,8,8] x, bool c) => (float[] y) <float[2,2,1,1] w> {
        y = If(c) <then_branch = t () => (float[] a) { [inner] a = Conv(x, w) },
                   else_branch = e () => (float[] b) { b = Neg(x) }>
    }"""
    found = planned(text)
    assert found.nodes == set()
    assert found.reasons["inner"] == "lies in the body of an If, Loop or Scan"


@pytest.mark.parametrize("kept", ["b", "Gemm"])
def test_what_the_user_keeps_float(kept: str) -> None:
    body = "[a] h = MatMul(x, w) [b] y = Gemm(h, v)"
    found = planned(graph(body, "float[4,3] w, float[3,2] v", "float[N,4] x"), kept)
    assert found.nodes == {"a"}
    assert found.reasons == {"b": "kept float on request"}
    assert found.tensors == ["x"]


def test_shape_arithmetic_is_not_worth_a_word() -> None:
    assert planned(graph("s = Shape(x) [k] y = Cast<to=1>(s)")).reasons == {}
