from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import files, shapes
from edgeopt.graph import attribute, op_histogram
from edgeopt.oracle import Oracle, run_checked
from edgeopt.passes.merge_parallel_layers import MergeParallelLayers
from edgeopt.rewrite import Rewrite
from edgeopt.simplifier import simplify
from tests import nets
from tests.models import assert_same, checked, loaded
from tests.passes.rewriting import assert_rewritten, assert_skipped
from tests.passes.sabotage import Breakage, assert_caught, scaled, swapped_outputs

WEIGHTS = (
    "float[6,4,1,1] w, float[6] b, float[3,4,1,1] v, float[3] c, float[3,4,3,3] w3, float[6,4,3,3] v3,"
    " float six = {6}, float zero = {0}"
)
A, C = "a = Conv(x, w, b)", "c1 = Conv(x, v, c)"


def conv(nodes: str, *, x: str = "2,4,6,7", weights: str = WEIGHTS, kind: str = "float", opset: int = 17) -> str:
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"g ({kind}[{x}] x) => ({kind}[A,B,C,D] y) <{weights.replace('float', kind)}> {{ {nodes} }}"
    )


def matrix(nodes: str, *, x: str = "1,8", y: str = "A,B", opset: int = 17, kind: str = "float") -> str:
    weights = (
        "float[8,6] w, float[6] b, float[8,3] v, float[3] c, float[8,2] u, float[2] d, float[6,8] wt, float[3,8] vt,"
        " float[2,8] ut, float[1,3] c1, float k"
    ).replace("float", kind)
    outputs = f"{kind}[{y}] y, {kind}[{y.replace('B', 'P').replace('C', 'Q')}] z, {kind}[{y.replace('B', 'R')}] q"
    return f'<ir_version: 8, opset_import: ["" : {opset}]> g ({kind}[{x}] x) => ({outputs}) <{weights}> {{ {nodes} }}'


THREE = "m = MatMul(x, w) y = Relu(m) m2 = MatMul(x, v) z = Neg(m2) m3 = MatMul(x, u) q = Abs(m3)"
JOINED: dict[str, tuple[str, dict[str, int]]] = {
    "1 Conv": (conv(f"{A} {C} [n] y = Concat<axis = 1>(a, c1)"), {"Conv": 1}),
    "1 the axis counted from behind": (conv(f"{A} {C} [n] y = Concat<axis = -3>(c1, a)"), {"Conv": 1}),
    "1 one bias": (conv(f"{A} d = Conv(x, v) [n] y = Concat<axis = 1>(a, d)"), {"Conv": 1}),
    "1 no bias": (conv("a = Conv(x, w) d = Conv(x, v) [n] y = Concat<axis = 1>(a, d)"), {"Conv": 1}),
    "1 Relu behind each": (
        conv(f"{A} {C} r = Relu(a) s = Relu(c1) [n] y = Concat<axis = 1>(r, s)"),
        {"Conv": 1, "Relu": 1},
    ),
    "1 Clip behind each": (
        conv(f"{A} {C} r = Clip(a, zero, six) s = Clip(c1, zero, six) [n] y = Concat<axis = 1>(r, s)"),
        {"Conv": 1, "Clip": 1},
    ),
    "1 two activations behind each": (
        conv(f"{A} {C} r = Relu(a) s = Relu(c1) t = Tanh(r) u = Tanh(s) [n] y = Concat<axis = 1>(t, u)"),
        {"Conv": 1, "Relu": 1, "Tanh": 1},
    ),
    "1 beside others": (
        conv(f"{A} {C} z = Neg(x) [n] y = Concat<axis = 1>(z, a, c1, x)"),
        {"Conv": 1, "Neg": 1, "Concat": 1},
    ),
    "1 kernels, strides and pads": (
        conv(
            "a = Conv<pads = [1, 0, 1, 0], strides = [2, 1]>(x, w3) d = Conv<strides = [2, 1], pads"
            " = [1, 0, 1, 0]>(x, v3)"
            " [n] y = Concat<axis = 1>(a, d)"
        ),
        {"Conv": 1},
    ),
    "1 SAME with strides": (
        conv(
            'a = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w3) d = Conv<auto_pad ='
            ' "SAME_UPPER", strides = [2, 2]>'
            "(x, v3) [n] y = Concat<axis = 1>(a, d)"
        ),
        {"Conv": 1},
    ),
    "1 two runs": (
        conv(f"{A} {C} z = Neg(x) e = Conv(z, w) f = Conv(z, v) [n] y = Concat<axis = 1>(a, c1, e, f)"),
        {"Conv": 2, "Neg": 1, "Concat": 1},
    ),
    "1 open sizes": (conv(f"{A} {C} [n] y = Concat<axis = 1>(a, c1)", x="N,4,H,W"), {"Conv": 1}),
    "1 one axis": (
        "g (float[2,4,9] x) => (float[A,B,C] y) <float[6,4,1] w, float[3,4,1] v> "
        "{ a = Conv(x, w) c = Conv(x, v) [n] y = Concat<axis = 1>(a, c) }",
        {"Conv": 1},
    ),
    "1 MatMul": (
        "g (float[2,5,8] x) => (float[A,B,C] y) <float[8,6] w, float[8,3] v> "
        "{ a = MatMul(x, w) c = MatMul(x, v) [n] y = Concat<axis = -1>(a, c) }",
        {"MatMul": 1},
    ),
    "1 MatMul and Add": (
        "g (float[2,5,8] x) => (float[A,B,C] y) <float[8,6] w, float[8,3] v, float[6] b, float[3] d> { a = MatMul(x, w)"
        " e = Add(b, a) c = MatMul(x, v) f = Add(c, d) r = Gelu(e) s = Gelu(f) [n] y = Concat<axis ="
        " 2>(r, s) }".replace("Gelu", "Sigmoid"),
        {"MatMul": 1, "Add": 1, "Sigmoid": 1},
    ),
    "1 Gemm": (
        "g (float[2,8] x) => (float[A,B] y) <float[6,8] w, float[3,8] v, float[6] b, float[1,3] d> {"
        " a = Gemm<transB = 1>"
        "(x, w, b) c = Gemm<transB = 1>(x, v, d) [n] y = Concat<axis = 1>(a, c) }",
        {"Gemm": 1},
    ),
    "1 Gemm, factors": (
        "g (float[8,2] x) => (float[A,B] y) <float[8,6] w, float[8,3] v> { a = Gemm<transA = 1, alpha = 0.5>(x, w)"
        " c = Gemm<alpha = 0.5, transA = 1>(x, v) [n] y = Concat<axis = 1>(a, c) }",
        {"Gemm": 1},
    ),
    **{
        f"opset {version}": (conv(f"{A} {C} [n] y = Concat<axis = 1>(a, c1)", opset=version), {"Conv": 1})
        for version in (7, 9, 11, 13, 18, 21)
    },
}


@pytest.mark.parametrize("case", JOINED)
def test_joined(case: str) -> None:
    text, histogram = JOINED[case]
    assert_rewritten(MergeParallelLayers(), text, histogram)


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_what_onnxruntime_has_no_kernels_for(kind: str) -> None:
    text = conv(f"{A} {C} [n] y = Concat<axis = 1>(a, c1)", kind=kind).replace(
        ", float16 six = {6}, float16 zero = {0}", ""
    )
    assert_rewritten(MergeParallelLayers(), text, {"Conv": 1}, run=False)


SPLIT: dict[str, tuple[str, dict[str, int]]] = {
    "2 MatMul of one row": (matrix(THREE), {"MatMul": 1, "Split": 1, "Relu": 1, "Neg": 1, "Abs": 1}),
    "2 one row of three axes": (
        matrix(THREE, x="1,1,8", y="A,B,C"),
        {"MatMul": 1, "Split": 1, "Relu": 1, "Neg": 1, "Abs": 1},
    ),
    "2 MatMul and Add": (
        matrix("m = MatMul(x, w) y = Add(m, b) m2 = MatMul(x, v) z = Add(c, m2) m3 = MatMul(x, u) q = Add(m3, d)"),
        {"MatMul": 1, "Add": 1, "Split": 1},
    ),
    "2 not all have an Add": (
        matrix("m = MatMul(x, w) y = Add(m, b) m2 = MatMul(x, v) z = Neg(m2) m3 = MatMul(x, u) q = Add(m3, d)"),
        {"MatMul": 1, "Add": 2, "Neg": 1, "Split": 1},
    ),
    "2 an Add that is no bias": (
        matrix("m = MatMul(x, w) y = Add(m, k) m2 = MatMul(x, v) z = Add(m2, k) m3 = MatMul(x, u) q = Add(m3, k)"),
        {"MatMul": 1, "Add": 3, "Split": 1},
    ),
    "2 Gemm and activations": (
        matrix(
            "m = Gemm<transB = 1>(x, wt, b) y = Relu(m) m2 = Gemm<transB = 1>(x, vt, c1) z = Relu(m2)"
            " m3 = Gemm<transB = 1>(x, ut, d) q = Relu(m3)"
        ),
        {"Gemm": 1, "Relu": 1, "Split": 1},
    ),
    "2 the layers are outputs": (
        matrix("y = MatMul(x, w) z = MatMul(x, v) q = MatMul(x, u)"),
        {"MatMul": 1, "Split": 1},
    ),
    "2 readers before later siblings": (
        matrix("m = MatMul(x, w) y = Exp(m) z = MatMul(x, v) m3 = MatMul(x, u) q = Add(m3, d)"),
        {"MatMul": 1, "Add": 1, "Exp": 1, "Split": 1},
    ),
    **{
        f"opset {version}": (matrix(THREE, opset=version), {"MatMul": 1, "Split": 1, "Relu": 1, "Neg": 1, "Abs": 1})
        for version in (7, 9, 11, 12, 13, 18, 21)
    },
}


@pytest.mark.parametrize("case", SPLIT)
def test_split(case: str) -> None:
    text, histogram = SPLIT[case]
    assert_rewritten(MergeParallelLayers(), text, histogram)


PAIR = (
    conv(f"{A} {C} y = Neg(a) z = Abs(c1)").replace("] y)", "] y, float[E,F,G,H] z)"),
    matrix("m = MatMul(x, w) y = Relu(m) m2 = MatMul(x, v) z = Relu(m2) q = Identity(x)", x="5,8"),
)
WIDER: dict[str, tuple[str, dict[str, int]]] = {
    "3 two Convs": (PAIR[0], {"Conv": 1, "Split": 1, "Neg": 1, "Abs": 1}),
    "3 two MatMul of several rows": (PAIR[1], {"MatMul": 1, "Relu": 1, "Split": 1, "Identity": 1}),
    "3 in the order of their ends": (
        conv(f"{C} s = Relu(c1) z = Abs(s) {A} r = Relu(a) y = Neg(r)").replace("] y)", "] y, float[E,F,G,H] z)"),
        {"Conv": 1, "Relu": 1, "Split": 1, "Neg": 1, "Abs": 1},
    ),
    "3 only those that are alike": (
        conv(f"{A} {C} d = Conv(x, w3) z = Abs(d) e = Neg(a) f = Abs(c1) [n] y = Concat<axis = 1>(e, f)").replace(
            "] y)", "] y, float[E,F,G,H] z)"
        ),
        {"Conv": 2, "Split": 1, "Neg": 1, "Abs": 2, "Concat": 1},
    ),
}


@pytest.mark.parametrize("case", WIDER)
def test_with_splits(case: str) -> None:
    text, histogram = WIDER[case]
    assert_rewritten(MergeParallelLayers(splits=True), text, histogram)


@pytest.mark.parametrize("text", PAIR)
def test_pairs_that_need_a_split_are_left_alone(text: str) -> None:
    assert_skipped(MergeParallelLayers(), text, None)


def test_in_a_branch() -> None:
    text = (
        f"g (float[2,4,6,7] x, bool cond) => (float[2,9,6,7] y) <{WEIGHTS}> {{ y = If(cond) <"
        f"then_branch = p () => (float[2,9,6,7] s) {{ {A} {C} [n] s = Concat<axis = 1>(a, c1) }},"
        f"else_branch = q () => (float[2,9,6,7] t) {{ {C} {A} [m] t = Concat<axis = 1>(c1, a) }}> }}"
    )
    assert_rewritten(MergeParallelLayers(), text, {"Conv": 2, "If": 1})


SKIPS: dict[str, tuple[str, str | None]] = {
    "other inputs": (conv(f"{A} z = Neg(x) d = Conv(z, v) [n] y = Concat<axis = 1>(a, d)"), None),
    "another axis": (conv(f"{A} d = Conv(x, w, b) [n] y = Concat<axis = 2>(a, d)"), None),
    "other kernels": (conv(f"{A} d = Conv<pads = [1, 1, 1, 1]>(x, w3) [n] y = Concat<axis = 1>(a, d)"), None),
    "other activations": (conv(f"{A} {C} r = Relu(a) s = Tanh(c1) [n] y = Concat<axis = 1>(r, s)"), None),
    "other bounds": (
        conv(f"{A} {C} r = Clip(a, zero, six) s = Clip(c1, zero) [n] y = Concat<axis = 1>(r, s)"),
        None,
    ),
    "edge 38: an empty slot": (
        conv(f"{A} {C} r = Clip(a, six) s = Clip(c1, , six) [n] y = Concat<axis = 1>(r, s)"),
        None,
    ),
    "other factors": (
        conv(f"{A} {C} r = LeakyRelu<alpha = 0.1>(a) s = LeakyRelu<alpha = 0.2>(c1) [n] y = Concat<axis = 1>(r, s)"),
        None,
    ),
    "not neighbours": (conv(f"{A} {C} [n] y = Concat<axis = 1>(a, x, c1)"), None),
    "4 weights are an input": (
        conv(f"{A} d = Conv(x, u) [n] y = Concat<axis = 1>(a, d)").replace("x) =>", "x, float[3,4,1,1] u) =>"),
        None,
    ),
    "4 groups": (
        conv(
            "a = Conv<group = 4>(x, w) d = Conv<group = 4>(x, w) [n] y = Concat<axis = 1>(a, d)",
            weights="float[4,1,1,1] w",
        ),
        None,
    ),
    "edge 1: 5 read elsewhere": (
        conv(f"{A} {C} o = Neg(a) [n] y = Concat<axis = 1>(a, c1)").replace("] y)", "] y, float[E,F,G,H] o)"),
        None,
    ),
    "edge 2: 5 an output": (
        conv(f"{A} {C} [n] y = Concat<axis = 1>(a, c1)").replace("] y)", "] y, float[E,F,G,H] a)"),
        None,
    ),
    "5 twice in the Concat": (conv(f"{A} [n] y = Concat<axis = 1>(a, a)"), None),
    "6 a bias with rows": (
        "g (float[2,8] x) => (float[A,B] y) <float[8,6] w, float[2,6] b> { a = Gemm(x, w, b) c = Gemm(x, w, b)"
        " [n] y = Concat<axis = 1>(a, c) }",
        None,
    ),
    "6 one number as bias": (
        "g (float[2,8] x) => (float[A,B] y) <float[8,6] w, float[1] b> { a = Gemm(x, w, b) c = Gemm(x, w, b)"
        " [n] y = Concat<axis = 1>(a, c) }",
        None,
    ),
    "7 large weights that others share": (
        conv(
            "a = Conv(x, w) d = Conv(x, v) z = Neg(x) o = Conv(z, w) [n] y = Concat<axis = 1>(a, d)",
            x="1,256,3,3",
            weights="float[128,256,1,1] w, float[2,256,1,1] v",
        ).replace("] y)", "] y, float[E,F,G,H] o)"),
        "would be stored twice",
    ),
    "rows": (matrix(THREE, x="5,8"), None),
    "an open number of rows": (matrix(THREE, x="N,8"), None),
    "two of one row": (matrix("m = MatMul(x, w) y = Relu(m) z = MatMul(x, v) q = Abs(x)"), None),
}


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    assert_skipped(MergeParallelLayers(), text, reason)


def test_layers_whose_rank_is_unknown() -> None:
    model = loaded(
        matrix("t = Abs(x) [n] m = MatMul(t, w) y = Relu(m) m2 = MatMul(t, v) z = Neg(m2) q = Neg(x)", x="5,8")
    )
    for node in model.graph:
        if node.op_type == "MatMul" and node.inputs[0] is not None:
            node.inputs[0].shape = None
    result, report = run_checked(MergeParallelLayers(splits=True), model, Oracle(model))
    assert result is model
    assert [(s.node, "rank of its input is unknown" in s.reason) for s in report.skips] == [("n", True)]


def wrong_sizes(rewrite: Rewrite) -> Rewrite:
    split = rewrite.replacement[-1]
    assert split.inputs[1] is not None
    assert split.inputs[1].const_value is not None
    sizes = split.inputs[1].const_value.numpy()
    split.inputs[1].const_value = ir.tensor(np.roll(sizes, 1))
    return rewrite


def turned(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].attributes["pads"] = ir.AttrInt64s("pads", [1, 0, 0, 1])
    return rewrite


SABOTAGE: dict[str, tuple[str, Breakage]] = {
    "a channel of the weights": (conv(f"{A} {C} [n] y = Concat<axis = 1>(a, c1)"), scaled(1, 7, 1.001)),
    "a channel of the bias": (conv(f"{A} {C} [n] y = Concat<axis = 1>(a, c1)"), scaled(2, 7, 1.01)),
    "pads": (
        conv(
            "a = Conv<pads = [1, 0, 1, 0]>(x, w3) d = Conv<pads = [1, 0, 1, 0]>(x, v3) [n] y = Concat<axis = 1>(a, d)"
        ),
        turned,
    ),
    "a column": (matrix("[n] " + THREE), scaled(1, 7, 1.001, axis=1)),
    "sizes": (matrix("[n] " + THREE), wrong_sizes),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_sabotage(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(MergeParallelLayers(), text, how, monkeypatch)


def test_sabotage_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    text = conv("[n] a = Conv(x, w, b) d = Conv(x, w) y = Neg(a) z = Abs(d)").replace("] y)", "] y, float[E,F,G,H] z)")
    assert_caught(MergeParallelLayers(splits=True), text, swapped_outputs, monkeypatch)


def test_nets() -> None:
    model = files.load(nets.joined()).model
    done = simplify(model, Oracle(model))
    assert op_histogram(done.model)["Conv"] == 6
    assert "Concat" not in op_histogram(done.model)
    assert_same(model, done.model)
    model = shapes.infer(files.load(nets.qkv()).model)
    wide, report = checked(MergeParallelLayers(splits=True), model)
    assert report.rolled_back == []
    assert {k: op_histogram(wide)[k] for k in ("MatMul", "Add", "Split")} == {"MatMul": 8, "Add": 6, "Split": 2}
    assert_same(model, wide)
    split = next(n for n in wide.graph if n.op_type == "Split")
    assert attribute(split, "axis") == 2
