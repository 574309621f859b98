"""What is known of sizes, beside what onnxruntime computes for several values of the symbols."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.runtime import Level, Session
from edgeopt.shape_data import ShapeData
from tests.models import loaded

X = "float[N,6,H,W] x"
CONSTANTS = (
    "int64 i0 = {0}, int64 i2 = {2}, int64 n1 = {-1}, int64[1] v0 = {0}, int64[1] v1 = {1}, int64[1] v2 = {2},"
    " int64[1] v3 = {3}, int64[1] v4 = {4}, int64[1] m1 = {-1}, int64[2] pair = {2, 3}, int64[0] none = {},"
    " int64[2] ids = {3, -3}, float[1] half = {0.5}, float[1] tenth = {0.1}, float[4] scales = {1, 1, 2, 3},"
    " int64[4] ones = {1, 1, 1, 1}, int32[1] k3 = {3}, float[8,6,3,3] w, float[6,8] m, bool yes = {1}, float z = {0}"
)


def known(text: str, opset: int = 17) -> tuple[ir.Model, ShapeData, ir.Value]:
    """The model, its data, and the value ``t``."""
    head = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    model = loaded(f"{head} g ({X}) => (float[Q] y) <{CONSTANTS}> {{ s = Shape(x) {text} y = Cast<to = 1>(last) }}")
    return model, ShapeData(model), next(v for n in model.graph for v in n.outputs if v.name == "t")


DATA = {  # nodes that compute t (a vector or scalar), its elements
    "Shape": ("t = Identity(s)", "N 6 H W"),
    "Shape, start and end": ("t = Shape<start = 1, end = -1>(x)", "6 H"),
    "Shape, a start beyond the end": ("t = Shape<start = 3, end = 2>(x)", ""),
    "Size": ("t = Size(x)", "6*H*N*W"),
    "Gather": ("t = Gather(s, ids)", "W 6"),
    "Gather a scalar": ("t = Gather(s, i2)", "H"),
    "Slice": ("t = Slice(s, v1, v3)", "6 H"),
    "Slice, backwards": ("t = Slice(s, v3, v0, v0, m1)", "W H 6"),
    "Slice, negative": ("t = Slice(s, m1, v4)", "W"),
    "Slice, no axes to cut": ("t = Slice(s, none, none)", "N 6 H W"),
    "Concat": ("a = Slice(s, v2, v4) t = Concat<axis = 0>(v1, a, m1)", "1 H W -1"),
    "Unsqueeze, Squeeze": ("a = Gather(s, i2) b = Unsqueeze(a, v0) c = Squeeze(b, v0) t = Unsqueeze(c, m1)", "H"),
    "Squeeze without axes": ("a = Slice(s, v1, v2) t = Squeeze(a)", "6"),
    "Reshape to a vector": ("a = Gather(s, i2) t = Reshape(a, m1)", "H"),
    "Reshape to a scalar": ("a = Slice(s, v0, v1) t = Reshape(a, none)", "N"),
    "Add, Sub": ("a = Add(s, v2) t = Sub(a, v1)", "1 + N 7 1 + H 1 + W"),
    "Mul": ("t = Mul(s, v2)", "2*N 12 2*H 2*W"),
    "Div": ("t = Div(s, v2)", "floor(N, 2) 3 floor(H, 2) floor(W, 2)"),
    "Div by a size": ("a = Mul(s, v3) t = Div(a, s)", "3 3 3 3"),
    "Mod": ("a = Mul(s, v2) t = Mod(a, v4)", "mod(2*N, 4) 0 mod(2*H, 4) mod(2*W, 4)"),
    "Mod that is none": ("a = Mul(s, v4) t = Mod(a, v2)", "0 0 0 0"),
    "Max, Min": ("a = Max(s, v0) t = Min(a, m1)", "-1 -1 -1 -1"),
    "Max that depends": ("t = Max(s, v3)", "? 6 ? ?"),
    "ReduceProd": ("t = ReduceProd<keepdims = 0>(s)", "6*H*N*W"),
    "ReduceProd, axes": ("a = Slice(s, v2, v4) t = ReduceProd<axes = [0]>(a)", "H*W"),
    "ReduceSum": ("a = Slice(s, v2, v4) t = ReduceSum(a, v0)", "H + W"),
    "ReduceSum, no axes and no operation": ("t = ReduceSum<noop_with_empty_axes = 1>(s)", "-"),
    "ReduceMax": ("a = Slice(s, v2, v3) b = Add(a, v1) c = Concat<axis = 0>(a, b) t = ReduceMax(c)", "1 + H"),
    "ReduceMin that depends": ("t = ReduceMin(s)", "-"),
    "Cast and back": ("a = Cast<to = 1>(s) t = Cast<to = 7>(a)", "N 6 H W"),
    "Cast to int32": ("a = Cast<to = 6>(s) b = Mul(a, k3) t = Cast<to = 7>(b)", "3*N 18 3*H 3*W"),
    "half as floats": ("a = Cast<to = 1>(s) b = Mul(a, half) c = Floor(b) t = Cast<to = 7>(c)",
                       "floor(1/2*N, 1) 3 floor(1/2*H, 1) floor(1/2*W, 1)"),
    "half as floats, cut off": ("a = Cast<to = 1>(s) b = Mul(a, half) t = Cast<to = 7>(b)",
                                "floor(1/2*N, 1) 3 floor(1/2*H, 1) floor(1/2*W, 1)"),
    "half, rounded up": ("a = Cast<to = 1>(s) b = Mul(a, half) c = Ceil(b) t = Cast<to = 7>(c)", "? 3 ? ?"),
    "a tenth is no float": ("a = Cast<to = 1>(s) b = Mul(a, tenth) t = Floor(b)", "? ? ? ?"),
    "a quotient of floats": ("a = Cast<to = 1>(s) b = Mul(s, v2) c = Cast<to = 1>(b) t = Div(c, a)", "2 2 2 2"),
    "float16": ("a = Cast<to = 10>(s) t = Cast<to = 7>(a)", "-"),
    "Equal": ("t = Equal(s, m1)", "False False False False"),
    "Equal that depends": ("t = Equal(s, v3)", "? False ? ?"),
    "Equal to itself": ("t = Equal(s, s)", "True True True True"),
    "Greater": ("t = Greater(s, m1)", "True True True True"),
    "Less": ("t = Less(s, v0)", "False False False False"),
    "GreaterOrEqual": ("t = GreaterOrEqual(s, v0)", "True True True True"),
    "LessOrEqual": ("a = Add(s, v1) t = LessOrEqual(a, s)", "False False False False"),
    "Not, And, Or": ("a = Equal(s, v3) b = Greater(s, m1) c = Not(b) d = And(a, c) t = Or(b, d)",
                     "True True True True"),
    "Where": ("a = Equal(s, m1) b = ConstantOfShape<value = int64[1] {1}>(v4) t = Where(a, b, s)", "N 6 H W"),
    "Where that depends": ("a = Equal(s, v3) t = Where(a, v1, s)", "? 6 ? ?"),
    "ConstantOfShape": ("a = Shape(s) t = ConstantOfShape<value = int64[1] {7}>(a)", "7 7 7 7"),
    "Range": ("a = Gather(s, i0) b = Sub(a, a) c = Add(b, i2) t = Range(b, c, i2)", "0"),
    "Split": ("a, t = Split(s)", "H W"),
    "Split, sizes": ("a, t = Split(s, pair1)", "6 H W"),
    "of an inner value": ("a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w) t = Shape(a)",
                          "N 8 1 + floor(-1 + H, 2) 1 + floor(-1 + W, 2)"),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_elements(case: str) -> None:
    text, wanted = DATA[case]
    text = text.replace("pair1", "q").replace("a, t = Split(s, q)", "q = Concat<axis = 0>(v1, v3) a, t = Split(s, q)")
    model, data, value = known(f"{text} last = Identity(t)")
    found = data.data(value)
    if wanted == "-":
        assert found is None or None in found.elements
        return
    if case == "Split, sizes":  # its sizes are no constant yet
        assert found is None
        return
    assert found is not None
    assert " ".join("?" if e is None else str(e) for e in found.elements) == wanted
    for n, h, w in ((1, 7, 4), (2, 16, 5), (5, 9, 33)):
        of = {"N": n, "H": h, "W": w}
        for element, real in zip(found.elements, _run(model, value, np.zeros((n, 6, h, w), np.float32)), strict=True):
            if element is not None:
                assert (element if isinstance(element, bool) else element.value(of.__getitem__)) == real


def _run(model: ir.Model, value: ir.Value, x: Any) -> list[Any]:
    shown = model.clone()
    inner = next(v for n in shown.graph for v in n.outputs if v.name == value.name)
    shown.graph.outputs.append(inner)
    result: list[Any] = np.asarray(Session(shown, Level.NONE).run({"x": x})[value.name or ""]).reshape(-1).tolist()
    return result


DIMS = {  # nodes that compute t from x [N,6,H,W], its dims; ? is unknown
    "elementwise": ("a = Relu(x) t = Mul(a, a)", "N 6 H W"),
    "broadcast with a constant": ("t = Add(w0, x)", "N 6 H W"),
    "two unlike sizes": ("a = Transpose<perm = [0, 1, 3, 2]>(x) t = Add(a, x)", "N 6 ? ?"),
    "Transpose": ("t = Transpose(x)", "W H 6 N"),
    "Concat": ("t = Concat<axis = -1>(x, x, x)", "N 6 H 3*W"),
    "Conv that keeps the size": ("t = Conv<pads = [1, 1, 1, 1]>(x, w)", "N 8 H W"),
    "Conv, SAME": ('t = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w)', "N 8 floor(1 + H, 2) floor(1 + W, 2)"),
    "Conv, VALID, dilations": ('t = Conv<auto_pad = "VALID", dilations = [2, 1]>(x, w)', "N 8 -4 + H -2 + W"),
    "MaxPool": ("t = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)",
                "N 6 1 + floor(-2 + H, 2) 1 + floor(-2 + W, 2)"),
    "MaxPool, rounded up": ("t = MaxPool<kernel_shape = [2, 2], ceil_mode = 1>(x)", "N 6 ? ?"),
    "GlobalAveragePool": ("t = GlobalAveragePool(x)", "N 6 1 1"),
    "Reshape": ("a = Slice(s, v0, v2) b = Concat<axis = 0>(a, m1) t = Reshape(x, b)", "N 6 H*W"),
    "Reshape, zeros": ("a = Concat<axis = 0>(v0, m1) t = Reshape(x, a)", "N 6*H*W"),
    "Reshape, unknown": ("a = Max(s, v3) t = Reshape(x, a)", "? 6 ? ?"),
    "Expand": ("a = Transpose(x) b = Shape(a) c = GlobalAveragePool(x) d = Shape(x) t = Expand(c, d)", "N 6 H W"),
    "Resize by sizes": ("a = Slice(s, v0, v2) b = Slice(s, v2, v4) c = Mul(b, v2) d = Concat<axis = 0>(a, c)"
                        " t = Resize(x, , , d)", "N 6 2*H 2*W"),
    "Resize by scales": ("t = Resize(x, , scales)", "N 6 2*H 3*W"),
    "Flatten": ("t = Flatten<axis = 2>(x)", "6*N H*W"),
    "Flatten, negative": ("t = Flatten<axis = -1>(x)", "6*H*N W"),
    "Unsqueeze, Squeeze": ("a = Unsqueeze(x, v1) b = Squeeze(a, v1) t = Unsqueeze(b, m1)", "N 6 H W 1"),
    "Slice of nothing": ("a = Shape<start = 2, end = 3>(x) t = Slice(x, v0, a, v2)", "N 6 H W"),
    "Slice": ("t = Slice(x, v1, v4, v2)", "N 6 ? W"),
    "Gather": ("t = Gather<axis = 1>(x, pair)", "N 2 H W"),
    "MatMul": ("a = Transpose<perm = [0, 2, 3, 1]>(x) t = MatMul(a, m)", "N H W 8"),
    "Gemm": ("a = Flatten<axis = 3>(x) b = Flatten<axis = 3>(x) t = Gemm<transA = 1>(a, b)", "W W"),
    "Split": ("a, b = Split<axis = 1>(x, pair3) t = Identity(b)", "N 3 H W"),
    "Pad": ("t = Pad(x, pads)", "N 6 1 + H 2 + W"),
    "ConstantOfShape": ("a = Slice(s, v2, v4) t = ConstantOfShape(a)", "H W"),
    "Shape": ("t = Shape<start = 1>(x)", "3"),
}  # fmt: skip


@pytest.mark.parametrize("case", DIMS)
def test_dims(case: str) -> None:
    text, wanted = DIMS[case]
    text = text.replace("w0", "g0").replace("pair3", "p3")
    extra = "g0 = Cast<to = 1>(k1) " if "g0" in text else ""
    _, data, value = _with_more(f"{extra}{text} last = Identity(t)")
    found = data.dims(value)
    assert found is not None
    assert " ".join("?" if str(e).startswith(("?", "unk__")) else str(e) for e in found) == wanted


def _with_more(text: str) -> tuple[ir.Model, ShapeData, ir.Value]:
    more = ", int64[2] p3 = {3, 3}, int64[8] pads = {0,0,0,1,0,0,1,1}, int64[1] k1 = {1}"
    model = loaded(f"g ({X}) => (float[Q] y) <{CONSTANTS}{more}> {{ s = Shape(x) {text} y = Cast<to = 1>(last) }}")
    return model, ShapeData(model), next(v for n in model.graph for v in n.outputs if v.name == "t")


@pytest.mark.parametrize("opset", [9, 11, 13])
def test_attribute_forms(opset: int) -> None:
    cut = "a = Slice<starts = [2], ends = [4]>(s)" if opset < 10 else "a = Slice(s, v2, v4)"
    lift = "c = Unsqueeze<axes = [0]>(b) d = Squeeze<axes = [0]>(c)" if opset < 13 else "d = Identity(b)"
    split = "p, q = Split<axis = 0, split = [1, 1]>(a)" if opset < 13 else "p, q = Split(a)"
    text = f"{cut} {split} r = Concat<axis = 0>(q, p) b = Gather(r, i0) {lift} last = Identity(d) t = Identity(d)"
    _, data, value = known(text, opset)
    found = data.data(value)
    assert found is not None
    assert [str(e) for e in found.elements] == ["W"]
    assert found.scalar


def test_zero_and_negative_dims_are_not_trusted() -> None:
    """Edge 52: some exporters write 0 or -1 for "dynamic"."""
    for dim in (0, -1):
        model = loaded("g (float[2,3] x) => (float[2,3] y) { y = Neg(x) }")
        model.graph.inputs[0].shape = ir.Shape([dim, 3])
        dims = ShapeData(model).dims(model.graph.inputs[0])
        assert dims is not None
        assert [d.integer for d in dims] == [None, 3]


def test_names_inside_of_a_body_are_its_own() -> None:
    """A loop may carry a tensor whose ``N`` grows from trip to trip."""
    model = loaded(
        "g (float[N] x, int64 n) => (float[M] y) { y = Loop(n, , x) <body = b (int64 i, bool ci, float[N] a) =>"
        " (bool co, float[M] a2) { co = Identity(ci) a2 = Concat<axis = 0>(a, a) }> }"
    )
    data = ShapeData(model)
    body = next(iter(model.graph)).attributes["body"].as_graph()
    assert data.dims(model.graph.inputs[0]) != data.dims(body.inputs[2])


def test_deep_chains_end() -> None:
    nodes = " ".join(f"a{k + 1} = Add(a{k}, v1)" for k in range(600))
    model = loaded(
        f"g (float[N] x) => (int64[1] y) <int64[1] v1 = {{1}}> {{ a0 = Shape(x) {nodes} y = Identity(a600) }}"
    )
    data = ShapeData(model)
    assert data.data(model.graph.outputs[0]) is None  # asked from the end
    data = ShapeData(model)
    for node in model.graph:  # from the front, each is one step
        found = data.data(node.outputs[0])
    assert found is not None
    assert [str(e) for e in found.elements] == ["600 + N"]
