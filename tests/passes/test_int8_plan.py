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
    "a dynamic bias": (graph("[n] y = Conv(x, w, z)", CONV, "float[N,2,8,8] x, float[2] z"), "bias is not constant"),
    "float64": (
        graph("[n] y = MatMul(x, w)", "double[4,3] w", "double[N,4] x", "double[] y"),
        None,  # not even worth a word: no float32 tensor
    ),
    "a constant input": (graph("[n] y = Conv(c, w)", f"{CONV}, float[1,2,8,8] c", "float[N] x"), "input is constant"),
    "transA": (graph("[n] y = Gemm<transA=1>(x, w)", "float[4,3] w", "float[4,N] x"), "transA is set"),
    "alpha": (graph("[n] y = Gemm<alpha=0.5>(x, z)", CONV, "float[N,4] x, float[4,3] z"), "alpha is set"),
    "alpha of 0": (graph("[n] y = Gemm<alpha=0.0>(x, w)", "float[4,3] w", "float[N,4] x"), "alpha is set"),
    "beta of 0": (graph("[n] y = Gemm<beta=0.0>(x, w, b)", "float[4,3] w, float[3] b", "float[N,4] x"), "beta is set"),
    "one axis": (graph("[n] y = MatMul(x, w)", "float[4,3] w", "float[4] x"), "fewer than 2 dimensions"),
    "a factor of unknown type": (
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]>'
        + graph("z = my.Op(x) [n] y = MatMul(x, z)", "float[4,3] w", "float[4,4] x"),
        "second operand is not known to be float32",
    ),
    "a bias of two axes": (graph("[n] y = Gemm(x, w, b)", "float[4,3] w, float[2,3] b", "float[2,4] x"), "[2, 3]"),
    "one bias for all": (graph("[n] y = Gemm(x, w, b)", "float[4,3] w, float[1] b", "float[N,4] x"), "shape [1]"),
    "ConvTranspose": (graph("[n] y = ConvTranspose(x, w)"), "no int8 kernel for ConvTranspose"),
    "Tanh": (graph("[n] y = Tanh(x)"), "no int8 kernel for Tanh"),
    "Softmax of floats": (graph("[n] y = Softmax(x)"), "its input is float"),
    "Sub of floats": (graph("[n] y = Sub(x, x)"), "its operand 'x' is float"),
    "constants only": (graph("[n] y = Add(w, w)"), "all operands are constant"),
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


DENSE = "float[4,3] w, float[3] b"


@pytest.mark.parametrize("x", ["float[N,4] x", "float[2,5,4] x"])
@pytest.mark.parametrize("add", ["Add(h, b)", "Add(b, h)"])
def test_the_bias_of_a_matmul_is_a_part_of_it(x: str, add: str) -> None:
    found = planned(graph(f"[m] h = MatMul(x, w) [a] y = {add}", DENSE, x))
    assert found.nodes == {"m", "a"}
    assert found.tensors == ["x"]
    assert (found.biases, found.fused) == ({"m": "a"}, {"m": "y"})


def test_an_activation_behind_the_bias_of_a_matmul() -> None:
    body = "[m] h = MatMul(x, w) [a] g = Add(h, b) [r] r = Relu(g) [n] y = MatMul(r, v)"
    found = planned(graph(body, f"{DENSE}, float[3,2] v", "float[N,4] x"))
    assert found.nodes == {"m", "a", "r", "n"}
    assert found.tensors == ["x", "r"]


@pytest.mark.parametrize("op", ["Gemm(x, w, b)", "Gemm(x, w)"])
def test_an_activation_of_a_dense_layer_for_float_nodes_stays_float(op: str) -> None:
    found = planned(graph(f"[m] h = {op} [r] r = Relu(h) [n] y = Neg(r)", DENSE, "float[N,4] x"))
    assert found.nodes == {"m"}
    assert (found.tensors, found.fused) == (["x"], {"m": "h"})
    assert found.reasons["r"] == "computes single values for float nodes only"


NO_BIAS = {
    "one value for all columns": ("[m] h = MatMul(x, w) [a] y = Add(h, b)", "float[4,3] w, float[1] b", "float[N,4] x"),
    "values per row": ("[m] h = MatMul(x, w) [a] y = Add(h, b)", "float[4,3] w, float[5,3] b", "float[5,4] x"),
    "more axes": ("[m] h = MatMul(x, w) [a] y = Add(h, b)", "float[4,3] w, float[1,1,3] b", "float[5,4] x"),
    "weights of three axes": ("[m] h = MatMul(x, w) [a] y = Add(h, b)", "float[2,4,3] w, float[3] b", "float[2,5,4] x"),
    "dynamic weights": ("[m] h = MatMul(x, z) [a] y = Add(h, b)", "float[3] b", "float[N,4] x, float[4,3] z"),
    "a value": ("[m] h = MatMul(x, w) [a] y = Add(h, z)", "float[4,3] w", "float[N,4] x, float[3] z"),
}


@pytest.mark.parametrize("case", NO_BIAS)
def test_what_is_no_bias_of_a_matmul_is_a_sum(case: str) -> None:
    """With a Q in between, since onnxruntime would make one float Gemm of the two."""
    body, weights, inputs = NO_BIAS[case]
    found = planned(graph(body, weights, inputs))
    assert found.nodes == {"m", "a"}
    assert {"h", "y"} <= set(found.tensors)
    assert found.biases == {}


def test_the_bias_of_a_matmul_with_more_axes_is_added_to_its_float_output() -> None:
    """Where the shape is not fixed, onnxruntime makes no Gemm of the two."""
    found = planned(graph("[m] h = MatMul(x, w) [a] y = Add(h, b)", DENSE, "float[N,5,4] x"))
    assert (found.nodes, found.tensors) == ({"m"}, ["x"])
    assert found.reasons["a"] == "the bias of a MatMul, better added to its float output"


@pytest.mark.parametrize("kept", ["a", "Add"])
def test_a_bias_that_is_kept_float(kept: str) -> None:
    found = planned(graph("[m] h = MatMul(x, w) [a] y = Add(h, b)", DENSE, "float[N,4] x"), kept)
    assert found.nodes == {"m"}
    assert found.tensors == ["x", "h"]  # with a float output, the two would become a float Gemm
    assert found.reasons == {"a": "kept float on request"}


def test_an_activation_that_is_kept_float() -> None:
    found = planned(graph("[c] h = Conv(x, w) [r] y = Relu(h)"), "r")
    assert (found.nodes, found.tensors) == ({"c"}, ["x", "h"])


def test_what_was_found_to_stay_float() -> None:
    found = plan(
        models.loaded(graph("[c] h = Conv(x, w) [d] y = Conv<pads=[1,1,1,1]>(h, v)", f"{CONV}, {CONV[:-1]}v")),
        refused={"d": "for a reason"},
    )
    assert found.nodes == {"c"}
    assert found.reasons == {"d": "for a reason"}


@pytest.mark.parametrize(
    "op",
    [
        "AveragePool<kernel_shape=[2,2]>(h)",
        "GlobalAveragePool(h)",
        "ReduceMean<axes=[2,3]>(h)",
        "ReduceMean<axes=[-1,-2], keepdims=0>(h)",
    ],
)
def test_pooling_behind_int8(op: str) -> None:
    found = planned(graph(f"[c] h = Conv(x, w) [p] y = {op}"))
    assert found.nodes == {"c", "p"}


@pytest.mark.parametrize("op", ["LeakyRelu", "Sigmoid", "Softmax", "HardSwish", "HardSigmoid"])
def test_curves_are_computed_in_int8_where_an_int8_node_reads_them(op: str) -> None:
    pads = "Conv<pads=[1,1,1,1]>"
    body = f"[c] h = {pads}(x, w) [s] s = {op}(h) [d] y = {pads}(s, w)"
    found = planned(graph(body))
    assert found.nodes == {"c", "s", "d"}
    assert found.fixed == ({"s": (0.0, 1.0)} if op in ("Sigmoid", "Softmax", "HardSigmoid") else {})
    assert ("s" in found.observed()) != ("s" in found.fixed)
    border = planned(graph(f"[c] h = Conv(x, w) [s] s = {op}(h) [n] y = Neg(s)"))
    assert border.nodes == {"c"}
    assert border.tensors == ["x", "h"]
    assert border.reasons["s"] == "computes single values for float nodes only"


def test_a_fixed_range_is_that_of_what_moves_it() -> None:
    body = "[c] h = Conv(x, w) [s] s = Sigmoid(h) [t] t = Transpose<perm=[0,1,3,2]>(s) [m] y = Mul(t, h)"
    found = planned(graph(body))
    assert found.observed() == ["x", "h", "y"]
    assert found.range_of("t", {}) == (0.0, 1.0)


@pytest.mark.parametrize(("op", "factor"), [("Mul(h, k)", 0.5), ("Div(h, k)", 2.0)])
def test_a_product_with_a_number_is_another_scale(op: str, factor: float) -> None:
    body = f"[c] h = Conv(x, w) [n] s = {op} [f] f = Flatten(s) [d] y = Gemm(f, v)"
    found = planned(graph(body, f"{CONV}, float k = {{0.5}}, float[72,3] v"))
    assert found.nodes == {"c", "n", "f", "d"}
    assert found.tensors == ["x", "h", "f"]
    assert found.rescaled == {"s": ("h", factor)}
    assert found.observed() == ["x", "h"]
    assert found.range_of("f", {"h": (-1.0, 3.0)}) == (-factor, 3 * factor)


NO_FACTOR = ["float k = {-0.5}", "float[1,2,1,1] k", "float[1,1,1,1,1] k", "float k = {0}", "float k = {100000}"]


@pytest.mark.parametrize("constant", NO_FACTOR)
def test_other_products_are_products(constant: str) -> None:
    assert planned(graph("[c] h = Conv(x, w) [n] y = Mul(h, k)", f"{CONV}, {constant}")).rescaled == {}


def test_a_product_of_a_value_that_is_read_elsewhere() -> None:
    found = planned(graph("[c] h = Conv(x, w) [n] s = Mul(h, k) [a] y = Add(h, s)", f"{CONV}, float k = {{0.5}}"))
    assert (found.nodes, found.rescaled) == ({"c", "n", "a"}, {})


def test_a_product_of_a_product() -> None:
    body = "[c] h = Conv(x, w) [n] s = Mul(h, k) [o] y = Mul(s, k)"
    assert list(planned(graph(body, f"{CONV}, float k = {{0.5}}")).rescaled) == ["s"]


@pytest.mark.parametrize("op", ["Mul", "Div"])
def test_a_product_of_a_hard_sigmoid_is_a_product(op: str) -> None:
    body = f"[c] h = Conv(x, w) [s] s = HardSigmoid(h) [o] p = {op}(s, k) [d] y = Conv(p, w)"
    found = planned(graph(body, f"{CONV}, float k = {{0.5}}"))
    assert found.nodes == {"c", "s", "o", "d"}
    assert found.rescaled == {}
    assert found.tensors == ["x", "h", "s", "p", "y"]


def test_scores_that_float_nodes_read_stay_float() -> None:
    body = "[m] h = MatMul(x, w) [n] s = Mul(h, k) [e] y = Softmax(s)"
    found = planned(graph(body, "float[4,3] w, float k = {0.5}", "float[N,4] x"))
    assert (found.nodes, found.tensors) == ({"m"}, ["x"])
    assert found.reasons["n"] == "computes single values for float nodes only"


BY_CONSTANT = {
    "Sub(h, k)": None,
    "Div(h, k)": None,
    "Sub(h, h)": "by anything but a float32 constant",
    "Div(h, tiny)": "close to 0",
    "Add(h, mask)": "8 bits cannot hold it and the rest",
    "Where(b, h, mask)": "8 bits cannot hold it and the rest",
    "Where(b, h, k)": None,
    "ReduceMean<axes=[1]>(h)": "other axes than all of the space",
    "ReduceMean(h)": "other axes than all of the space",
    "HardSigmoid<alpha=-1.0>(h)": "does not rise",
}


@pytest.mark.parametrize("op", BY_CONSTANT)
def test_operators_with_constants_behind_int8(op: str) -> None:
    constants = "float[1,2,1,1] k = {0.5, 2}, float[1] tiny = {0.0001}, float[1] mask = {-10000}"
    found = planned(graph(f"[c] h = Conv(x, w) [n] y = {op}", f"{CONV}, {constants}", "float[N,2,8,8] x, bool b"))
    reason = BY_CONSTANT[op]
    assert ("n" in found.nodes) == (reason is None)
    if reason is not None:
        assert reason in found.reasons["n"]


def test_softmax_over_several_axes() -> None:
    text = '<ir_version: 7, opset_import: ["" : 12]>' + graph("[c] h = Conv(x, w) [s] y = Softmax(h)")
    assert planned(text).reasons == {"s": "Softmax over several axes before opset 13"}


def test_a_concatenation_with_a_constant() -> None:
    body = "[c] h = Conv(x, w) [n] k = Concat<axis=0>(h, k0) [d] y = Conv(k, w)"
    assert planned(graph(body, f"{CONV}, float[1,2,6,6] k0")).nodes == {"c", "n", "d"}
    integers = "[c] h = Conv(x, w) s = Shape(h) [n] y = Concat<axis=0>(s, k0)"
    assert planned(graph(integers, f"{CONV}, int64[1] k0 = {{1}}", output="int64[] y")).nodes == {"c"}


# 5. Data movement


def test_movement_shares_the_scale_of_its_source() -> None:
    body = """[c] h = Conv(x, w) [p] m = MaxPool<kernel_shape=[2,2]>(h) [t] t = Transpose<perm=[0,1,3,2]>(m)
              [f] f = Flatten(t) [d] y = Gemm(f, v)"""
    found = planned(graph(body, f"{CONV}, float[18,3] v"))
    assert found.tensors == ["x", "h", "m", "t", "f"]
    assert [found.root(t) for t in found.tensors] == ["x", "h", "h", "h", "h"]
    assert found.observed() == ["x", "h"]


def test_movement_for_float_nodes_only_is_behind_the_border() -> None:
    body = "[c] h = Conv(x, w) [f] f = Flatten(h) [r] r = Reshape(f, s) [n] y = Neg(r)"
    found = planned(graph(body, f"{CONV}, int64[2] s"))
    assert found.nodes == {"c"}
    assert (found.tensors, found.tied) == (["x", "h"], {})
    assert found.reasons["f"] == found.reasons["r"] == "moves data for float nodes only"


def test_a_concatenation_for_float_nodes_needs_no_common_scale() -> None:
    body = "[c] h = Conv<pads=[1,1,1,1]>(x, w) [e] f = Exp(x) [k] k = Concat<axis=1>(h, f) [n] y = Neg(k)"
    found = planned(graph(body))
    assert (found.nodes, found.tensors) == ({"c"}, ["x", "h"])


@pytest.mark.parametrize("op", ["MaxPool<kernel_shape=[2,2]>(h)", "Gather<axis=1>(h, zero)"])
def test_movement_that_shrinks_stays_before_the_border(op: str) -> None:
    found = planned(graph(f"zero = Constant<value_int=0>() [c] h = Conv(x, w) [m] m = {op} [n] y = Neg(m)"))
    assert found.nodes == {"c", "m"}


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


@pytest.mark.parametrize(
    "op",
    [
        'Resize<mode="nearest">(h, , s4)',
        "Tile(h, i4)",
        "Expand(h, i4)",
        "Pad(h, i8)",
        'Pad<mode="edge">(h, i8)',
        "ReduceMax<axes=[3]>(h)",
    ],
)
def test_all_kinds_of_movement(op: str) -> None:
    constants = "float[4] s4 = {1,1,1,1}, int64[4] i4 = {1,1,1,1}, int64[8] i8 = {0,0,1,1,0,0,1,1}"
    found = planned(graph(f"[c] h = Conv(x, w) [n] m = {op} [d] y = Conv(m, w)", f"{CONV}, {constants}"))
    assert found.nodes == {"c", "n", "d"}
    assert found.root("m") == "h"


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ('Resize<mode="linear">(h, , s4)', "the nearest value only"),
        ("Pad(h, i8, one)", "pads with another value than 0"),
        ("Pad(h, i8, z)", "pads with another value than 0"),
    ],
)
def test_movement_that_makes_new_values(op: str, reason: str) -> None:
    constants = "float[4] s4 = {1,1,2,2}, int64[8] i8 = {0,0,1,1,0,0,1,1}, float one = {1}"
    body = f"z = ReduceMax<keepdims=0>(x) [c] h = Conv(x, w) [n] m = {op} [d] y = Conv(m, w)"
    assert reason in planned(graph(body, f"{CONV}, {constants}")).reasons["n"]


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


def test_a_node_with_the_name_of_an_operator_type() -> None:
    net = models.model("""
g (float[1,2,8,8] x) => (float[1,2,8,8] y) <float[2,2,1,1] w = {1,2,3,4}>
{ [Conv] a = Conv(x, w)  [Conv_1] y = Conv(a, w) }""")
    assert plan(net, frozenset({"Conv"})).nodes == {"Conv_1"}  # the name goes before the type
    assert plan(net, frozenset({"MatMul"})).nodes == {"Conv", "Conv_1"}
