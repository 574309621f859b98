"""Computations of sizes: what is left of them, and that the outputs are right for other sizes than the check's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.feeds import random_array
from edgeopt.graph import Array, attribute, constant, dims_of, op_histogram
from edgeopt.oracle import Oracle, run_checked
from edgeopt.passes.dead_code import DeadCode
from edgeopt.passes.fold_constants import FoldConstants
from edgeopt.passes.fold_shapes import FoldShapes
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import Breakage, assert_caught, wired_to_another, wrong_element

CONSTANTS = (
    "int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64 i3 = {3}, int64[1] v0 = {0}, int64[1] v1 = {1},"
    " int64[1] v2 = {2}, int64[1] v3 = {3}, int64[1] v4 = {4}, int64[1] v6 = {6}, int64[1] m1 = {-1},"
    " int64[1] v48 = {48}, int64[1] z0 = {0}, int64[2] two = {2, 2}, int64[4] ones = {1, 1, 1, 1}, float[6] f6,"
    " float half = {0.5}, float third = {0.3}, float[8,6,3,3] w, float[1,1,1,1] c1 = {0.5}, int64[4] e4 = {2, 1, 1, 1}"
)
SIZES = ((1, 4, 6), (2, 16, 8), (3, 10, 14), (5, 32, 4))


def net(nodes: str, outputs: str = "float[A,B] y", *, x: str = "N,6,H,W", opset: int = 17, dtype: str = "float") -> str:
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({dtype}[{x}] x) => ({outputs.replace("float", dtype)})'
        f" <{CONSTANTS}> {{ s = Shape(x) {nodes} }}"
    )


def batch(opset: int = 17, index: str = "i0", source: str = "x") -> str:
    """Exporters' ``[x.size(0), -1]``."""
    lift = "b = Unsqueeze(a, v0)" if opset >= 13 else "b = Unsqueeze<axes = [0]>(a)"
    return f"q = Shape({source}) a = Gather(q, {index}) {lift}"


def feeds(model: ir.Model) -> list[dict[str, Array]]:
    """Inputs of four sizes."""
    rng = np.random.default_rng(7)
    result = []
    for n, h, w in SIZES:
        of = {"N": n, "H": h, "W": w}
        dims = dims_of(model.graph.inputs[0]) or ()
        shape = tuple(d if isinstance(d, int) else of[d or ""] for d in dims)
        dtype = np.dtype(model.graph.inputs[0].dtype.numpy())  # type: ignore[union-attr]
        result.append({model.graph.inputs[0].name or "": random_array(rng, dtype, shape)})
    return result


def simplified(model: ir.Model) -> tuple[ir.Model, Any]:
    result, report = checked(FoldShapes(), model)
    assert report.rolled_back == []
    for feed in feeds(model):
        if not any(a.dtype == np.float16 for a in feed.values()):
            assert_same(model, result, 1e-5, **feed)
    again = run_checked(FoldShapes(), result, Oracle(result))[1]
    assert again.hits == []
    return checked(DeadCode(), result)[0], report


TARGETS = {  # nodes, target afterwards
    "2 edge 47: one open batch": (
        net(f"{batch()} t = Concat<axis = 0>(b, m1) [n] y = Reshape(x, t)", x="N,6,4,2"),
        [0, 48],
    ),
    "2 edge 47: fixed rest": (
        net(f"{batch()} t = Concat<axis = 0>(b, v48) [n] y = Reshape(x, t)", x="N,6,4,2"),
        [0, 48],
    ),
    "2 opset 11": (
        net(f"{batch(11)} t = Concat<axis = 0>(b, m1) [n] y = Reshape(x, t)", x="N,6,4,2", opset=11),
        [0, 48],
    ),
    "2 opset 9": (
        net(f"{batch(9)} t = Concat<axis = 0>(b, m1) [n] y = Reshape(x, t)", x="N,6,4,2", opset=9),
        [0, 48],
    ),
    "2 opset 21": (
        net(f"{batch(21)} t = Concat<axis = 0>(b, m1) [n] y = Reshape(x, t)", x="N,6,4,2", opset=21),
        [0, 48],
    ),
    "2 double": (
        net(f"{batch()} t = Concat<axis = 0>(b, m1) [n] y = Reshape(x, t)", x="N,6,4,2", dtype="double"),
        [0, 48],
    ),
    "2 a -1 that stays": (net(f"{batch()} t = Concat<axis = 0>(b, m1) [n] y = Reshape(x, t)"), [0, -1]),
    "2 of another value": (
        net(
            f"r = Relu(x) p = Conv<pads = [1, 1, 1, 1]>(r, w) {batch(source='p')} t = Concat<axis = 0>(b, m1)"
            " [n] y = Reshape(p, t)"
        ),
        [0, -1],
    ),
    "2 computed from the rest": (
        net(
            "a = Slice(s, v1, v4) p = ReduceProd(a) b = Slice(s, v0, v1) t = Concat<axis = 0>(b, p)"
            " [n] y = Reshape(x, t)",
            x="N,6,4,2",
        ),
        [0, 48],
    ),
    "2 the batch in the middle": (
        net(
            f"c = Transpose<perm = [1, 0, 2, 3]>(x) {batch()} t = Concat<axis = 0>(v6, b, m1) [n] y = Reshape(c, t)",
            "float[A,B,C] y",
            x="N,6,4,2",
        ),
        [6, 0, 8],
    ),
    "2 edge 47: a permuted batch": (
        net(
            f"c = Transpose<perm = [1, 0, 2, 3]>(x) {batch()} t = Concat<axis = 0>(b, v48) [n] y = Reshape(c, t)",
            x="N,6,4,2",
        ),
        [-1, 48],
    ),
    "2 all dims kept but two": (
        net(
            "b = Slice(s, v0, v1) c = Slice(s, v2, v4) t = Concat<axis = 0>(b, v2, v3, c) d = Slice(t, v1, v3)"
            " e = ReduceProd(d) f = Concat<axis = 0>(b, e, c) [n] y = Reshape(x, f)",
            "float[A,B,C,D] y",
        ),
        [0, 6, 0, 0],
    ),
    "2 product of open dims": (
        net("a = Slice(s, v2, v4) p = ReduceProd(a) t = Concat<axis = 0>(v6, p) [n] y = Reshape(x, t)", x="1,6,H,W"),
        [6, -1],
    ),
    "2 allowzero": (
        net(f"{batch()} t = Concat<axis = 0>(b, v48) [n] y = Reshape<allowzero = 1>(x, t)", x="N,6,4,2"),
        [0, 48],
    ),
    "2 a multiple of the batch": (
        net(f"{batch()} d = Mul(b, v6) t = Concat<axis = 0>(d, m1) [n] y = Reshape(x, t)", x="N,6,4,2"),
        [-1, 8],
    ),
    "2 a quotient": (
        net(
            "a = Slice(s, v1, v2) h = Div(a, v2) b = Slice(s, v0, v1) t = Concat<axis = 0>(b, h, m1)"
            " [n] y = Reshape(x, t)",
            "float[A,B,C] y",
            x="N,6,4,2",
        ),
        [0, 3, 16],
    ),
    "2 a zero that was there": (
        net(
            "a = Slice(s, v2, v4) p = ReduceProd(a) t = Concat<axis = 0>(z0, v6, p) [n] y = Reshape(x, t)",
            "float[A,B,C] y",
            x="2,6,H,W",
        ),
        [0, 6, -1],
    ),
    "2 vision transformer": (
        net(
            "p = Conv(x, w) q = Shape(p) b = Slice(q, v0, v1) h = Slice(q, v2, v4) n = ReduceProd(h)"
            " t = Concat<axis = 0>(b, v4, v2, n) [n] y = Reshape(p, t)",
            "float[A,B,C,D] y",
            x="1,6,H,W",
        ),
        [1, 4, 2, -1],
    ),
}


@pytest.mark.parametrize("case", TARGETS)
def test_reshape(case: str) -> None:
    text, target = TARGETS[case]
    model = loaded(text)
    result, report = simplified(model)
    node = next(n for n in result.graph if n.name == "n")
    found = constant(node.inputs[1])
    assert found is not None
    assert found.tolist() == target
    assert "n" in [h.anchor for h in report.hits]
    assert "Shape" not in op_histogram(result)
    assert "Concat" not in op_histogram(result)
    assert not (0 in target and attribute(node, "allowzero", 0))


@pytest.mark.parametrize(
    "case", ["2 edge 47: one open batch", "2 edge 47: fixed rest", "2 a multiple of the batch", "2 allowzero"]
)
def test_edge_47_an_empty_batch(case: str) -> None:
    """Where the original runs on it, so does the result."""
    model = loaded(TARGETS[case][0])
    result, _ = simplified(model)
    if case in ("2 edge 47: fixed rest", "2 allowzero"):
        assert_same(model, result, x=np.zeros((0, 6, 4, 2), np.float32))


CONSTANT = {  # nodes, value of r afterwards
    "1 edge 52: a fixed dim beside open ones": ("r = Gather(s, i1)", 6),
    "1 start and end": ("r = Shape<start = 1, end = 2>(x)", [6]),
    "1 from the end": ("r = Shape<start = -3, end = -2>(x)", [6]),
    "1 a quotient": ("a = Gather(s, i2) b = Mul(a, i2) c = Mul(a, i3) d = Sub(c, a) r = Div(b, d)", 1),
    "1 a truth": ("a = Gather(s, i1) r = Equal(a, i1)", False),
    "1 a truth about an open dim": ("a = Gather(s, i2) b = Sub(i0, i1) r = Greater(a, b)", True),
    "1 floats": ("a = Cast<to = 1>(s) b = Mul(a, half) c = Div(a, b) d = Cast<to = 7>(c) r = Gather(d, i2)", 2),
    "1 a number of dims": ("a = Shape(s) r = Squeeze(a, v0)", 4),
    "1 Size": (
        "a = Size(x) b = Gather(s, i0) c = Gather(s, i2) d = Gather(s, i3) e = Mul(b, c) f = Mul(d, e) r = Div(a, f)",
        6,
    ),
    "1 Where": (
        "a = Equal(s, m1) b = ConstantOfShape<value = int64[1] {1}>(v4) c = Where(a, b, s) r = Gather(c, i1)",
        6,
    ),
}


@pytest.mark.parametrize("case", CONSTANT)
def test_constants(case: str) -> None:
    nodes, value = CONSTANT[case]
    after = "g = Cast<to = 1>(r) y = Add(x, g)"
    model = loaded(net(f"{nodes} {after}", "float[A,B,C,D] y"))
    result, _ = simplified(model)
    node = next(n for n in result.graph if n.op_type == "Cast" and n.outputs[0].name == "g")
    found = constant(node.inputs[0])
    if found is None:
        result, _ = checked(FoldConstants(), result)
        result, _ = checked(DeadCode(), result)
        assert op_histogram(result) == {"Add": 1}
    else:
        assert found.tolist() == value


def test_1_an_output_of_the_graph() -> None:
    model = loaded(net("y = Gather(s, i1)", "int64 y"))
    result, report = simplified(model)
    assert len(report.hits) == 1
    assert op_histogram(result) == {"Constant": 1}


def test_1_the_condition_of_an_if() -> None:
    text = net(
        "a = Gather(s, i1) c = Equal(a, i1) y = If(c) <then_branch = p () => (float[A,B,C,D] t) { t = Neg(x) },"
        " else_branch = q () => (float[A,B,C,D] t) { t = Exp(x) }>",
        "float[A,B,C,D] y",
    )
    model = loaded(text)
    result, _ = simplified(model)
    result, _ = checked(FoldConstants(), result)
    node = next(n for n in result.graph if n.op_type == "If")
    assert constant(node.inputs[0]) is not None


EXPANDS = {
    "3 to its own shape": "[n] u = Expand(x, s) y = Exp(u)",
    "3 to ones": "a = Sub(s, s) b = Add(a, v1) [n] u = Expand(x, b) y = Exp(u)",
    "3 to its last dims": "a = Slice(s, v2, v4) [n] u = Expand(x, a) y = Exp(u)",
    "3 torch's expand": (
        "b = ConstantOfShape<value = int64[1] {1}>(v4) e = Equal(s, m1) t = Where(e, b, s)"
        " [n] u = Expand(x, t) y = Exp(u)"
    ),
}


@pytest.mark.parametrize("case", EXPANDS)
def test_expand(case: str) -> None:
    result, _ = simplified(loaded(net(EXPANDS[case], "float[A,B,C,D] y")))
    assert op_histogram(result) == {"Exp": 1}


SCALES = {
    "4": ("h = Slice(s, v2, v4) d = Mul(h, two)", 'mode = "nearest"', [1, 1, 2, 2]),
    "4 half_pixel": ("h = Slice(s, v2, v4) d = Mul(h, two)", 'mode = "linear"', [1, 1, 2, 2]),
    "4 align_corners": (
        "h = Slice(s, v2, v4) d = Mul(h, two)",
        'mode = "linear", coordinate_transformation_mode = "align_corners"',
        [1, 1, 2, 2],
    ),
    "4 asymmetric": (
        "h = Slice(s, v2, v4) d = Mul(h, two)",
        'mode = "nearest", nearest_mode = "floor", coordinate_transformation_mode = "asymmetric"',
        [1, 1, 2, 2],
    ),
    "4 cubic": ("h = Slice(s, v2, v4) d = Mul(h, two)", 'mode = "cubic"', [1, 1, 2, 2]),
    "4 by floats": (
        "h = Slice(s, v2, v4) f = Cast<to = 1>(h) k = Constant<value = float {3}>() g = Mul(f, k) o = Floor(g)"
        " d = Cast<to = 7>(o)",
        'mode = "nearest"',
        [1, 1, 3, 3],
    ),
    "4 kept": ("d = Slice(s, v2, v4)", 'mode = "nearest"', [1, 1, 1, 1]),
}


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
@pytest.mark.parametrize("case", SCALES)
def test_resize(case: str, opset: int) -> None:
    nodes, attributes, scales = SCALES[case]
    empty = "e, e" if opset < 13 else ","
    extra = "e = Constant<value = float[0] {}>()" if opset < 13 else ""
    text = (
        f"{extra} b = Slice(s, v0, v2) {nodes} t = Concat<axis = 0>(b, d) [n] y = Resize<{attributes}>(x, {empty}, t)"
    )
    result, _ = simplified(loaded(net(text, "float[A,B,C,D] y", opset=opset)))
    node = next(n for n in result.graph if n.name == "n")
    found = constant(node.inputs[2])
    assert found is not None
    assert found.tolist() == scales
    assert len(node.inputs) == 3
    assert "Shape" not in op_histogram(result)


def test_resize_after_strided_layers() -> None:
    """The size of one map, doubled, for another: as neck networks do."""
    text = net(
        "p = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w) q = Shape(p) b = Slice(q, v0, v2) h = Slice(q, v2, v4)"
        " d = Mul(h, two) t = Concat<axis = 0>(b, d) r = Relu(p) [n] y = Resize(r, , , t)",
        "float[A,B,C,D] y",
    )
    result, _ = simplified(loaded(text))
    assert op_histogram(result) == {"Conv": 1, "Relu": 1, "Resize": 1}


SLICES = {  # nodes, operators afterwards, starts and ends
    "5 all of an axis": ("a = Slice(s, v2, v3) [n] u = Slice(x, v0, a, v2) y = Exp(u)", {"Exp": 1}, None),
    "5 all of two axes": (
        "a = Slice(s, v2, v4) z = Sub(two, two) k = Concat<axis = 0>(v2, v3) [n] u = Slice(x, z, a, k) y = Exp(u)",
        {"Exp": 1},
        None,
    ),
    "5 from the second on": (
        "a = Slice(s, v2, v3) [n] u = Slice(x, v1, a, v2) y = Exp(u)",
        {"Exp": 1, "Slice": 1},
        ([1], [2**63 - 1]),
    ),
    "5 every second": (
        "a = Slice(s, v2, v3) [n] u = Slice(x, v0, a, v2, v2) y = Exp(u)",
        {"Exp": 1, "Slice": 1},
        ([0], [2**63 - 1]),
    ),
}


@pytest.mark.parametrize("case", SLICES)
def test_slice(case: str) -> None:
    nodes, operators, bounds = SLICES[case]
    model = loaded(net(nodes, "float[A,B,C,D] y"))
    folded, _ = checked(FoldConstants(), model)
    result, _ = simplified(folded)
    assert op_histogram(result) == operators
    if bounds is not None:
        node = next(n for n in result.graph if n.name == "n")
        found = [constant(v) for v in node.inputs[1:3]]
        assert [f.tolist() for f in found if f is not None] == list(bounds)


def test_6_the_shape_of_a_value_that_is_made_for_it_only() -> None:
    text = net("r = Relu(x) e = Exp(r) q = Shape(e) y = Cast<to = 1>(q)", "float[A] y")
    result, _ = simplified(loaded(text))
    assert op_histogram(result) == {"Shape": 1, "Cast": 1}
    conv = net("p = Conv<strides = [2, 2]>(x, w) r = Relu(p) e = Exp(r) q = Shape(e) y = Cast<to = 1>(q)", "float[A] y")
    result, _ = simplified(loaded(conv))
    assert op_histogram(result) == {"Conv": 1, "Shape": 1, "Cast": 1}


def test_7_the_batch_of_an_inner_value_is_that_of_the_input() -> None:
    text = net(
        f"p = Conv(x, w) {batch(source='p')} c = Concat<axis = 0>(b, v2) d = ConstantOfShape(c) r = Relu(p)"
        " m = ReduceMax<keepdims = 0>(r) y = Add(d, m)"
    )
    result, report = simplified(loaded(text))
    node = next(n for n in result.graph if n.op_type == "Shape")
    assert node.inputs[0] is result.graph.inputs[0]
    assert len(report.hits) == 1
    assert op_histogram(result)["Shape"] == 1


def test_8_a_target_of_several_open_sizes() -> None:
    """YOLO's ``x.view(bs, 3, 2, ny, nx)``."""
    parts = " ".join(f"a{k} = Gather(s, i{k}) b{k} = Unsqueeze(a{k}, v0)" for k in (0, 2, 3))
    text = net(f"{parts} t = Concat<axis = 0>(b0, v3, v2, b2, b3) [n] y = Reshape(x, t)", "float[A,B,C,D,E] y")
    result, _ = simplified(loaded(text))
    assert op_histogram(result) == {"Shape": 1, "Concat": 1, "Reshape": 1}
    node = next(n for n in result.graph if n.op_type == "Shape")
    assert [attribute(node, k) for k in ("start", "end")] == [2, 4]


SKIPS = {  # nodes, reason
    "4 no fixed multiple": (
        net("b = Slice(s, v0, v3) t = Concat<axis = 0>(b, v6) [n] y = Resize(x, , , t)", "float[A,B,C,D] y"),
        "6 is no fixed multiple of W",
    ),
    "4 it crops": (
        net(
            '[n] y = Resize<coordinate_transformation_mode = "tf_crop_and_resize">(x, roi, , s)', "float[A,B,C,D] y"
        ).replace("float half", "float[8] roi = {0,0,0,0,1,1,1,1}, float half"),
        "it crops",
    ),
    "4 it keeps the aspect ratio": (
        net('[n] y = Resize<keep_aspect_ratio_policy = "not_larger">(x, , , s)', "float[A,B,C,D] y", opset=18),
        "it keeps the aspect ratio",
    ),
    "9 edge 47: two open sizes": (
        net(
            "a = Slice(s, v2, v4) b = Slice(s, v0, v2) t = Concat<axis = 0>(a, b) [n] y = Reshape(x, t)",
            "float[A,B,C,D] y",
            opset=13,
        ),
        "H, W, N at these places cannot all be written as constants",
    ),
    "9 sizes that are data": (
        net("a = Slice(s, v0, v1) t = Concat<axis = 0>(a, d) [n] y = Reshape(x, t)").replace(
            "x) =>", "x, int64[1] d) =>"
        ),
        "it depends on data",
    ),
    "10 edge 47: the batch may be empty": (
        net(
            "a = Slice(s, v2, v4) p = ReduceProd(a) b = Slice(s, v0, v1) t = Concat<axis = 0>(b, v6, p)"
            " [n] y = Reshape(x, t)",
            "float[A,B,C] y",
        ),
        "beside the open size H*W, N may be 0",
    ),
}


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    model = loaded(text)
    rule = FoldShapes()
    node = next(n for n in model.graph if n.name == "n")
    answer = rule.match(node, rule.prepare(model))
    assert reason in getattr(answer, "reason", "")


STAY = {
    "a Reshape that asks for an empty tensor": net(
        "a = Slice(s, v0, v1) t = Concat<axis = 0>(a, z0) [n] y = Reshape<allowzero = 1>(x, t)", x="N,0"
    ),
    "an Expand that grows": net("a = Mul(s, e4) [n] y = Expand(x, a)", "float[A,B,C,D] y", x="1,6,H,W"),
    "a Slice that cuts": net("a = Slice(s, v2, v3) b = Sub(a, v1) [n] y = Slice(x, v0, b, v2)", "float[A,B,C,D] y"),
    "the Shape of an input": net("[n] q = Shape(x) y = Cast<to = 1>(q)", "float[A] y"),
    "the Shape of a layer's output": net(
        "p = Conv(x, w) [n] q = Shape(p) r = Relu(p) m = Cast<to = 1>(q) k = ReduceMax<keepdims = 0>(r) y = Mul(m, k)",
        "float[A] y",
    ),
}


@pytest.mark.parametrize("case", STAY)
def test_left_alone(case: str) -> None:
    model = loaded(STAY[case])
    rule = FoldShapes()
    node = next(n for n in model.graph if n.name == "n")
    assert not isinstance(rule.match(node, rule.prepare(model)), Rewrite)


def test_models_without_shapes_cost_nothing() -> None:
    model = loaded("g (float[N,2] x) => (float[A,B] y) <int64[2] t = {-1, 2}> { y = Reshape(x, t) }")
    state = FoldShapes().prepare(model)
    assert not state.active
    assert checked(FoldShapes(), model)[0] is model


def test_what_others_read_stays() -> None:
    text = net(
        f"{batch()} t = Concat<axis = 0>(b, m1) [n] y = Reshape(x, t) z = Identity(b)", "float[A,B] y, int64[1] z"
    )
    model = loaded(text)
    result, _ = simplified(model)
    assert op_histogram(result) == {"Shape": 1, "Gather": 1, "Unsqueeze": 1, "Reshape": 1, "Identity": 1}


def test_in_a_branch() -> None:
    """The computation lies in the graph around, or in the branch."""
    text = (
        f"g (float[N,6,4,2] x, bool c) => (float[A,B] y) <{CONSTANTS}> {{ s = Shape(x) o = Slice(s, v0, v1) y = If(c) <"
        "then_branch = p () => (float[A,B] r) { t = Concat<axis = 0>(o, m1) [n] r = Reshape(x, t) }, else_branch = q ()"
        " => (float[A,B] r) { k = Neg(x) i = Shape(k) j = Slice(i, v0, v1) t = Concat<axis = 0>(j, v48)"
        " [m] r = Reshape(k, t) }> }"
    )
    model = loaded(text)
    result, report = checked(FoldShapes(), model)
    assert report.rolled_back == []
    assert {"n", "m"} <= {h.anchor for h in report.hits}
    result, _ = checked(DeadCode(), result)
    assert "Shape" not in op_histogram(result)
    for c in (True, False):
        assert_same(model, result, c=np.array(c), x=np.ones((3, 6, 4, 2), np.float32))


def test_types_of_inner_values_are_filled_in() -> None:
    model = loaded(
        net(
            "p = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(p) y = Cast<to = 1>(s) z = Neg(r)",
            "float[A] y, float[B,C,D,E] z",
        )
    )
    FoldShapes().prepare(model)
    relu = next(n for n in model.graph if n.op_type == "Relu")
    assert dims_of(relu.outputs[0]) == ("N", 8, "H", "W")
    assert dims_of(model.graph.outputs[1]) == ("B", "C", "D", "E")


def other_target(rewrite: Rewrite) -> Rewrite:
    value = rewrite.replacement[-1].inputs[1]
    assert value is not None
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy()[::-1].copy())
    return rewrite


def other_scales(rewrite: Rewrite) -> Rewrite:
    value = rewrite.replacement[-1].inputs[2]
    assert value is not None
    assert value.const_value is not None
    value.const_value = ir.tensor(np.array([1, 1, 1, 2], np.float32))
    return rewrite


RESIZE = net(
    "b = Slice(s, v0, v2) h = Slice(s, v2, v4) d = Mul(h, two) t = Concat<axis = 0>(b, d) [n] y = Resize(x, , , t)",
    "float[A,B,C,D] y",
)
SABOTAGE: dict[str, tuple[str, Breakage]] = {
    "another target": (TARGETS["2 a multiple of the batch"][0], other_target),
    "other scales": (RESIZE, other_scales),
    "another number": (
        net("[n] r = Gather(s, i1) h = Abs(r) g = Cast<to = 1>(h) y = Add(x, g)", "float[A,B,C,D] y"),
        wrong_element(0, 1, 1),
    ),
    "another value": (
        net("k = Neg(x) [n] u = Expand(x, s) v = Exp(u) y = Add(k, v)", "float[A,B,C,D] y"),
        wired_to_another("k"),
    ),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_sabotage(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(FoldShapes(), text, how, monkeypatch)
