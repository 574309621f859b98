from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.passes.ranges import non_negative
from tests.models import loaded, outputs
from tests.passes.tables import graph


def evidence(text: str) -> list[str] | None:
    """The operators from which follows that the model's first output is not negative."""
    nodes = non_negative(loaded(text).graph.outputs[0])
    return None if nodes is None else [n.op_type for n in nodes]


def net(body: str, constants: str = "", kind: str = "float", opset: int = 17, dims: str = "1,4,4,4") -> str:
    return graph(f"g ({kind}[{dims}] x) => ({kind}[] y) <{constants}> {{ {body} }}", opset)


SURE = {
    "Relu": (net("y = Relu(x)"), ["Relu"]),
    "Relu of float16": (net("y = Relu(x)", kind="float16"), ["Relu"]),
    "Relu of double": (net("y = Relu(x)", kind="double"), ["Relu"]),
    "Relu of an open shape": (net("y = Relu(x)", dims="N,M"), ["Relu"]),
    "Sigmoid": (net("y = Sigmoid(x)"), ["Sigmoid"]),
    "HardSigmoid": (net("y = HardSigmoid(x)"), ["HardSigmoid"]),
    "Softmax": (net("y = Softmax(x)"), ["Softmax"]),
    "Softplus": (net("y = Softplus(x)"), ["Softplus"]),
    "Exp": (net("y = Exp(x)"), ["Exp"]),
    "Abs": (net("y = Abs(x)"), ["Abs"]),
    "Sqrt": (net("y = Sqrt(x)"), ["Sqrt"]),
    "ReduceL2": (net("y = ReduceL2<axes = [1]>(x)"), ["ReduceL2"]),
    "a square": (net("y = Mul(x, x)"), ["Mul"]),
    "a power": (net("y = Pow(x, c)", "float c = {2}"), ["Pow"]),
    "a fourth power": (net("y = Pow(x, c)", "float[1] c = {4}"), ["Pow"]),
    "Clip": (net("y = Clip(x, c)", "float c = {0}"), ["Clip"]),
    "Clip above zero": (net("y = Clip(x, c, d)", "float c = {0.5}, float d = {2}"), ["Clip"]),
    "Clip whose bounds cross above zero": (net("y = Clip(x, c, d)", "float c = {2}, float d = {0.5}"), ["Clip"]),
    "Clip of opset 6": (net("y = Clip<min = 0.0, max = 6.0>(x)", opset=6), ["Clip"]),
    "Clip of opset 10 without max": (net("y = Clip<min = 0.0>(x)", opset=10), ["Clip"]),
    "Max with zero": (net("y = Max(x, c)", "float c = {0}"), ["Max"]),
    "Max with one on the left": (net("y = Max(c, x)", "float c = {1}"), ["Max"]),
    "Max of three": (net("t = Neg(x) y = Max(x, t, c)", "float c = {0}"), ["Max"]),
    "a chain": (net("t = Exp(x) u = Transpose(t) y = ReduceMean(u)"), ["ReduceMean", "Transpose", "Exp"]),
    "a part": (net("t = Relu(x) a, b = Split<axis = 1>(t) y = Identity(b)"), ["Identity", "Split", "Relu"]),
    "pools": (
        net("t = Relu(x) u = MaxPool<kernel_shape = [2, 2]>(t) y = AveragePool<kernel_shape = [2, 2]>(u)"),
        ["AveragePool", "MaxPool", "Relu"],
    ),
    "a sum": (net("t = Relu(x) u = Exp(x) y = Add(t, u)"), ["Add", "Exp", "Relu"]),
    "a sum with a constant": (net("t = Relu(x) y = Add(t, c)", "float[4] c = {0, 1, 2, 3}"), ["Add", "Relu"]),
    "a product": (net("t = Relu(x) u = Exp(x) y = Mul(t, u)"), ["Mul", "Exp", "Relu"]),
    "a quotient": (net("t = Relu(x) y = Div(t, c)", "float c = {6}"), ["Div", "Relu"]),
    "one node twice": (net("t = Relu(x) u = Neg(x) v = Relu(u) y = Sum(t, v, t)"), ["Sum", "Relu", "Relu"]),
    "the smaller of two": (net("t = Relu(x) u = Exp(x) y = Min(t, u)"), ["Min", "Exp", "Relu"]),
    "the larger of two": (net("t = Relu(x) u = Exp(x) y = Max(t, u)"), ["Max", "Exp", "Relu"]),
    "a Concat": (net("t = Relu(x) u = Exp(x) y = Concat<axis = 1>(t, u)"), ["Concat", "Exp", "Relu"]),
    "a Constant node": (
        net("c = Constant<value_float = 2.0>() t = Relu(x) y = Mul(t, c)"),
        ["Mul", "Relu"],
    ),
}

UNKNOWN = {
    "an input": net("y = Neg(x)"),
    "Tanh": net("y = Tanh(x)"),
    "HardSwish": net("y = HardSwish(x)"),
    "LeakyRelu": net("y = LeakyRelu(x)"),
    "a product of two": net("t = Neg(x) y = Mul(x, t)"),
    "an odd power": net("y = Pow(x, c)", "float c = {3}"),
    "a fraction as a power": net("y = Pow(x, c)", "float c = {0.5}"),
    "powers by element": net("y = Pow(x, c)", "float[4] c = {2, 2, 2, 1}"),
    "Clip without a lower bound": net("y = Clip(x, , c)", "float c = {1}"),
    "Clip below zero": net("y = Clip(x, c)", "float c = {-1}"),
    "Clip whose bounds cross below zero": net("y = Clip(x, c, d)", "float c = {0}, float d = {-1}"),
    "Clip with a bound that is computed": net("s = ReduceMax(x) y = Clip(x, c, s)", "float c = {0}"),
    "Clip of opset 6 with bounds that cross": net("y = Clip<min = 0.0, max = -1.0>(x)", opset=6),
    "Clip of opset 6 without a lower bound": net("y = Clip<max = 6.0>(x)", opset=6),
    "Max with a negative number": net("y = Max(x, c)", "float c = {-1}"),
    "Max by element": net("y = Max(x, c)", "float[4] c = {0, 0, 0, -1}"),
    "Max with NaN": net("y = Max(x, c)", "float c = {nan}"),
    "a sum with a negative constant": net("t = Relu(x) y = Add(t, c)", "float c = {-1}"),
    "a sum of which one is unknown": net("t = Relu(x) y = Add(t, x)"),
    "a difference": net("t = Relu(x) u = Exp(x) y = Sub(t, u)"),
    "Relu divided by zero": net("t = Relu(x) y = Div(t, c)", "float c = {-0.0}"),
    "a quotient of two": net("t = Relu(x) u = Relu(x) y = Div(t, u)"),
    "integers wrap around": net("y = Abs(x)", kind="int32"),
    "integers of a sum": net("t = Abs(x) y = Add(t, t)", kind="int64"),
    "a window with holes": net("t = Relu(x) y = MaxPool<kernel_shape = [2, 2], dilations = [2, 2]>(t)"),
    "Pad": net("t = Relu(x) y = Pad(t, p)", "int64[8] p = {0, 0, 0, 0, 0, 0, 1, 1}"),
    "Resize by cubes": net('t = Relu(x) y = Resize<mode = "cubic">(t, , s)', "float[4] s = {1, 1, 2, 2}"),
    "a constant that callers may override": graph(
        "g (float[2] x, float c) => (float[2] y) <float c = {1}> { t = Relu(x) y = Mul(t, c) }"
    ),
    "a large constant": net("t = Relu(x) y = Mul(t, c)", "float[2000,1,1,4,4,4] c"),
    "too many nodes": net(
        "t0 = Relu(x) " + " ".join(f"t{k} = Floor(t{k - 1})" for k in range(1, 17)) + " y = Ceil(t16)"
    ),
    "another domain's Relu": (
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g (float[2] x) => (float[2] y) { y = my.Relu(x) }'
        ' <domain: "my", opset_import: ["" : 17]> Relu (a) => (b) { b = Neg(a) }'
    ),
}


@pytest.mark.parametrize("case", SURE)
def test_sure(case: str) -> None:
    text, wanted = SURE[case]
    found = evidence(text)
    assert found is not None
    assert (found[0], sorted(found)) == (wanted[0], sorted(wanted))
    for size in (4, 5):
        values = outputs(loaded(text), size=size)["y"]
        assert not (values < 0).any()


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown(case: str) -> None:
    assert evidence(UNKNOWN[case]) is None


def test_the_further_outputs_of_a_pool_are_positions() -> None:
    model = loaded(
        graph("g (float[1,1,4,4] x) => (int64[] i) { t = Relu(x) y, i = MaxPool<kernel_shape = [2, 2]>(t) z = Neg(y) }")
    )
    assert non_negative(model.graph.outputs[0]) is None


def test_a_constant() -> None:
    for numbers, sure in (([0.0, 1.0], True), ([1.0, -1.0], False), ([np.nan, 1.0], False), ([], False)):
        value = ir.val("c", dtype=ir.DataType.FLOAT, const_value=ir.tensor(np.array(numbers, np.float32), name="c"))
        ir.Graph([], [], nodes=[], initializers=[value])
        assert (non_negative(value) is not None) == sure


def test_nothing() -> None:
    assert non_negative(None) is None
