from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import files
from edgeopt.graph import op_histogram, stored_tensors
from edgeopt.macs import node_macs
from edgeopt.oracle import Oracle
from edgeopt.passes import merge_linear_chain
from edgeopt.passes.merge_linear_chain import MergeLinearChain
from edgeopt.rewrite import Rewrite
from edgeopt.simplifier import simplify
from tests import nets
from tests.models import assert_same, checked, loaded
from tests.passes.rewriting import assert_rewritten, assert_skipped
from tests.passes.sabotage import Breakage, Patch, assert_caught, scaled, wired_to_its_input

WEIGHTS = (
    "float[32,4,3,3] w, float[32] b, float[4,32,1,1] v, float[4] c, float[32,4,1,1] p, float[4,32,3,3] q,"
    " float[8,1,3,3] dw, float[8] d, float[1,8,1,1] one, float[8,1,1,1] d1, float[8,2,1,1] g4, float[16,8,1,1] e1"
)


def conv(nodes: str, *, x: str = "2,4,7,8", weights: str = WEIGHTS, kind: str = "float", opset: int = 17) -> str:
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"g ({kind}[{x}] x) => ({kind}[A,B,C,D] y) <{weights.replace('float', kind)}> {{ {nodes} }}"
    )


def matrix(nodes: str, *, x: str = "5,8", y: str = "A,B", kind: str = "float", opset: int = 17) -> str:
    weights = (
        "float[8,32] w, float[32] b, float[32,4] v, float[4] c, float[32,8] wt, float[4,32] vt, float[1,32] b1,"
        " float[1] k, float[5,32] wide"
    )
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"g ({kind}[{x}] x) => ({kind}[{y}] y) <{weights.replace('float', kind)}> {{ {nodes} }}"
    )


MERGES: dict[str, tuple[str, dict[str, int]]] = {
    "1 3×3 → 1×1": (conv("a = Conv<pads = [1, 1, 1, 1]>(x, w, b) [n] y = Conv(a, v, c)"), {"Conv": 1}),
    "1 no bias": (conv("a = Conv<pads = [1, 1, 1, 1]>(x, w) [n] y = Conv(a, v)"), {"Conv": 1}),
    "1 the first bias": (conv("a = Conv(x, w, b) [n] y = Conv(a, v)"), {"Conv": 1}),
    "1 the second bias": (conv("a = Conv(x, w) [n] y = Conv(a, v, c)"), {"Conv": 1}),
    "1 strides of the second": (
        conv("a = Conv<pads = [1, 1, 1, 1]>(x, w, b) [n] y = Conv<strides = [2, 3]>(a, v, c)"),
        {"Conv": 1},
    ),
    "1 strides of both": (
        conv("a = Conv<pads = [1, 0, 2, 1], strides = [2, 1]>(x, w, b) [n] y = Conv<strides = [2, 3]>(a, v)"),
        {"Conv": 1},
    ),
    "1 dilated": (conv("a = Conv<dilations = [2, 1]>(x, w, b) [n] y = Conv(a, v)"), {"Conv": 1}),
    "1 SAME": (conv('a = Conv<auto_pad = "SAME_LOWER">(x, w, b) [n] y = Conv(a, v)'), {"Conv": 1}),
    "1 1×1 → 1×1": (conv("a = Conv(x, p, b) [n] y = Conv(a, v, c)"), {"Conv": 1}),
    "1 open sizes": (conv("a = Conv<pads = [1, 1, 1, 1]>(x, w, b) [n] y = Conv(a, v, c)", x="N,4,H,W"), {"Conv": 1}),
    "1 one axis": (
        "g (float[2,4,9] x) => (float[A,B,C] y) <float[32,4,3] w, float[32] b, float[4,32,1] v> "
        "{ a = Conv<pads = [1, 1]>(x, w, b) [n] y = Conv(a, v) }",
        {"Conv": 1},
    ),
    "1 three axes": (
        "g (float[1,2,4,4,5] x) => (float[A,B,C,D,E] y) <float[32,2,3,3,3] w, float[32] b, float[2,32,1,1,1] v> "
        "{ a = Conv<pads = [1, 1, 1, 1, 1, 1]>(x, w, b) [n] y = Conv(a, v) }",
        {"Conv": 1},
    ),
    "2 1×1 → 3×3 without pads": (conv("a = Conv(x, p, b) [n] y = Conv(a, q, c)"), {"Conv": 1}),
    "2 1×1 → 3×3 with pads, no bias between": (
        conv("a = Conv(x, p) [n] y = Conv<pads = [1, 1, 1, 1], strides = [2, 2], dilations = [1, 1]>(a, q, c)"),
        {"Conv": 1},
    ),
    "2 dilated": (
        conv("a = Conv(x, p) [n] y = Conv<pads = [2, 2, 2, 2], dilations = [2, 2]>(a, q)"),
        {"Conv": 1},
    ),
    "3 depthwise → one channel": (
        conv("a = Conv<group = 8, pads = [1, 1, 1, 1]>(x, dw, d) [n] y = Conv(a, one)", x="2,8,7,7"),
        {"Conv": 1},
    ),
    "3 depthwise 1×1 → depthwise": (
        conv("a = Conv<group = 8>(x, d1) [n] y = Conv<group = 8, pads = [1, 1, 1, 1]>(a, dw, d)", x="2,8,7,7"),
        {"Conv": 1},
    ),
    "3 depthwise 1×1 → dense": (conv("a = Conv<group = 8>(x, d1, d) [n] y = Conv(a, e1)", x="2,8,7,7"), {"Conv": 1}),
    "3 four groups and eight": (
        conv("a = Conv<group = 8>(x, d1, d) [n] y = Conv<group = 4>(a, g4)", x="2,8,7,7"),
        {"Conv": 1},
    ),
    "4 MatMul → MatMul": (matrix("a = MatMul(x, w) [n] y = MatMul(a, v)"), {"MatMul": 1}),
    "4 three axes": (matrix("a = MatMul(x, w) [n] y = MatMul(a, v)", x="N,5,8", y="A,B,C"), {"MatMul": 1}),
    "4 one axis": (matrix("a = MatMul(x, w) [n] y = MatMul(a, v)", x="8", y="A"), {"MatMul": 1}),
    "4 MatMul, Add → MatMul": (
        matrix("a = MatMul(x, w) t = Add(a, b) [n] y = MatMul(t, v)", x="2,5,8", y="A,B,C"),
        {"MatMul": 1, "Add": 1},
    ),
    "4 the Add the other way round": (
        matrix("a = MatMul(x, w) t = Add(b, a) [n] y = MatMul(t, v)"),
        {"MatMul": 1, "Add": 1},
    ),
    "4 the Add of one number": (matrix("a = MatMul(x, w) t = Add(a, k) [n] y = MatMul(t, v)"), {"MatMul": 1, "Add": 1}),
    "4 an Add behind both": (
        matrix("a = MatMul(x, w) t = Add(a, b) [n] u = MatMul(t, v) y = Add(u, c)"),
        {"MatMul": 1, "Add": 2},
    ),
    "4 Gemm → Gemm": (matrix("a = Gemm(x, w, b) [n] y = Gemm(a, v, c)"), {"Gemm": 1}),
    "4 Gemm → Gemm, factors and transB": (
        matrix(
            "a = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, wt, b1) [n] y = Gemm<transB = 1, alpha = 3.0>(a, vt, c)"
        ),
        {"Gemm": 1},
    ),
    "4 Gemm → Gemm without C": (matrix("a = Gemm(x, w) [n] y = Gemm(a, v)", opset=13), {"Gemm": 1}),
    "4 Gemm → MatMul": (matrix("a = Gemm(x, w, b) [n] y = MatMul(a, v)"), {"Gemm": 1}),
    "4 MatMul → Gemm": (matrix("a = MatMul(x, w) [n] y = Gemm<beta = 0.5>(a, v, c)"), {"Gemm": 1}),
    "4 MatMul, Add → Gemm": (
        matrix("a = MatMul(x, w) t = Add(a, b) [n] y = Gemm(a2, v, c)".replace("a2", "t")),
        {"Gemm": 1},
    ),
    "4 double": (matrix("a = MatMul(x, w) [n] y = MatMul(a, v)", kind="double"), {"MatMul": 1}),
    "4 three in a row": (
        matrix("a = MatMul(x, w) t = MatMul(a, v) [n] y = MatMul(t, s)").replace("float[5,32] wide", "float[4,2] s"),
        {"MatMul": 1},
    ),
    **{
        f"opset {version}": (conv("a = Conv(x, w, b) [n] y = Conv(a, v, c)", opset=version), {"Conv": 1})
        for version in (7, 9, 11, 13, 18, 21)
    },
}


@pytest.mark.parametrize("case", MERGES)
def test_merges(case: str) -> None:
    text, histogram = MERGES[case]
    before = loaded(text)
    after = assert_rewritten(MergeLinearChain(), text, histogram, tolerance=2e-5)
    totals = [sum(node_macs(n, {}) or 0 for n in m.graph) for m in (before, after)]
    sizes = [sum(t.nbytes for t in stored_tensors(checked(MergeLinearChain(), m)[0])) for m in (before, after)]
    assert totals[1] <= totals[0]
    assert sizes[1] <= sizes[0]


@pytest.mark.parametrize(
    "text",
    [
        conv("a = Conv(x, w, b) [n] y = Conv(a, v, c)", kind="float16"),
        conv("a = Conv(x, w, b) [n] y = Conv(a, v, c)", kind="double"),
    ],
)
def test_what_onnxruntime_has_no_kernels_for(text: str) -> None:
    assert_rewritten(MergeLinearChain(), text, {"Conv": 1}, run=False)


def test_in_a_branch() -> None:
    text = (
        f"g (float[2,4,7,8] x, bool cond) => (float[2,4,7,8] y) <{WEIGHTS}> {{ y = If(cond) <"
        "then_branch = p () => (float[2,4,7,8] s) { a = Conv<pads = [1,1,1,1]>(x, w, b) [n] s = Conv(a, v, c) },"
        "else_branch = q () => (float[2,4,7,8] t) { t = Neg(x) }> }"
    )
    assert_rewritten(MergeLinearChain(), text, {"Conv": 1, "If": 1, "Neg": 1}, tolerance=2e-5)


SKIPS: dict[str, tuple[str, str | None]] = {
    "5 bottleneck": (conv("a = Conv(x, v2) [n] y = Conv(a, q2)", weights="float[2,4,1,1] v2, float[4,2,3,3] q2"), None),
    "5 expansion": (conv("a = Conv(x, w) [n] y = Conv(a, v2)", weights="float[4,4,3,3] w, float[64,4,1,1] v2"), None),
    "5 depthwise → pointwise": (
        conv("a = Conv<group = 8>(x, dw) [n] y = Conv(a, e1)", x="2,8,7,7"),
        None,
    ),
    "5 two 3×3": (conv("a = Conv(x, w) [n] y = Conv(a, q)"), None),
    "5 a narrow middle": (
        matrix("a = MatMul(x, w) [n] y = MatMul(a, v)").replace("[8,32] w", "[8,2] w").replace("[32,4] v", "[2,8] v"),
        None,
    ),
    "an activation between": (conv("a = Conv(x, w) r = Relu(a) [n] y = Conv(r, v)"), None),
    "6 weights are an input": (
        conv("a = Conv(x, u) [n] y = Conv(a, v)").replace("x) =>", "x, float[32,4,3,3] u) =>"),
        None,
    ),
    "6 a bias is an input": (
        conv("a = Conv(x, w, u) [n] y = Conv(a, v)").replace("x) =>", "x, float[32] u) =>"),
        "not constant",
    ),
    "6 a bias of Gemm is an input": (
        matrix("a = Gemm(x, w, u) [n] y = Gemm(a, v)").replace("x) =>", "x, float[32] u) =>"),
        "not a constant vector",
    ),
    "6 a bias with rows": (matrix("a = Gemm(x, w, wide) [n] y = Gemm(a, v)"), "not a constant vector"),
    "6 transA": (matrix("a = Gemm<transA = 1>(x, w, b) [n] y = Gemm(a, v)", x="8,5"), "transA"),
    "6 transA of the second": (
        matrix("a = Gemm(x, w, b) [n] y = Gemm<transA = 1>(a, u)").replace("x) =>", "x, float[5,2] u) =>"),
        None,
    ),
    "6 an Add of rows": (matrix("a = MatMul(x, w) t = Add(a, wide) [n] y = MatMul(t, v)"), None),
    "edge 1: 7 read elsewhere": (
        conv("a = Conv(x, w) o = Neg(a) [n] y = Conv(a, v)").replace("] y)", "] y, float[E,F,G,H] o)"),
        "read by other nodes too",
    ),
    "edge 2: 7 an output": (
        conv("a = Conv(x, w) [n] y = Conv(a, v)").replace("] y)", "] y, float[E,F,G,H] a)"),
        "an output of the graph",
    ),
    "7 read before the Add": (
        matrix("a = MatMul(x, w) t = Add(a, b) o = Neg(a) [n] y = MatMul(t, v)").replace("] y)", "] y, float[E,F] o)"),
        "read by other nodes too",
    ),
    "7 read behind the Add": (
        matrix("a = MatMul(x, w) t = Add(a, b) o = Neg(t) [n] y = MatMul(t, v)").replace("] y)", "] y, float[E,F] o)"),
        "read by other nodes too",
    ),
    "edge 3: 7 a body reads on": (
        conv(
            "a = Conv(x, w) y = If(cond) <then_branch = p () => (float[A,B,C,D] s) { [n] s = Conv(a, v) },"
            "else_branch = q () => (float[A,B,C,D] t) { t = Conv(x, r) }>",
            weights=WEIGHTS + ", float[4,4,3,3] r",
        ).replace("x) =>", "x, bool cond) =>"),
        "lies in another graph",
    ),
    "edge 18: 8 the border": (
        conv("a = Conv(x, p, b) [n] y = Conv<pads = [1, 1, 1, 1]>(a, q)"),
        "reads zeros at its border",
    ),
    "8 a padded 1×1 behind": (
        conv("a = Conv(x, w, b) [n] y = Conv<pads = [1, 1, 1, 1]>(a, v)"),
        "pads or strides",
    ),
    "8 strides before a kernel": (conv("a = Conv<strides = [2, 2]>(x, p) [n] y = Conv(a, q)"), "pads or strides"),
    "8 pads before a kernel": (conv("a = Conv<pads = [1, 1, 1, 1]>(x, p) [n] y = Conv(a, q)"), "pads or strides"),
    "8 more positions than before": (
        conv("a = Conv(x, p) [n] y = Conv<pads = [3, 3, 3, 3]>(a, q)"),
        None,
    ),
    "10 large weights that others share": (
        conv(
            "a = Conv(x, w) z = Neg(x) o = Conv(z, w) [n] y = Conv(a, v)",
            x="1,64,5,5",
            weights="float[128,64,3,3] w, float[16,128,1,1] v",
        ).replace("] y)", "] y, float[E,F,G,H] o)"),
        "would be stored twice",
    ),
    "QDQ: weights from int8": (
        "g (float[1,4,5,5] x) => (float[A,B,C,D] y) <int8[32,4,1,1] q, float s = {0.1}, float[4,32,1,1] v> "
        "{ w = DequantizeLinear(q, s) a = Conv(x, w) [n] y = Conv(a, v) }",
        None,
    ),
    "integers": (
        "g (int32[5,8] x) => (int32[A,B] y) <int32[8,32] w, int32[32,4] v> { a = MatMul(x, w) [n] y = MatMul(a, v) }",
        "of floats",
    ),
}


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    assert_skipped(MergeLinearChain(), text, reason)


@pytest.mark.parametrize(("number", "reason"), [(np.nan, "infinite or NaN"), (1e38, "overflows float32")])
@pytest.mark.parametrize(
    "text",
    [conv("a = Conv(x, w) [n] y = Conv(a, v)"), matrix("a = MatMul(x, w) [n] y = MatMul(a, v)")],
    ids=["Conv", "MatMul"],
)
def test_numbers_that_do_not_compose(text: str, number: float, reason: str) -> None:
    model = loaded(text)
    for name in ("w", "v"):
        value = model.graph.initializers[name]
        assert value.const_value is not None
        value.const_value = ir.tensor(np.full(value.const_value.shape.numpy(), number, np.float32))
    result, report = checked(MergeLinearChain(), model)
    assert result is model
    assert reason in report.skips[0].reason


def without_strides(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].attributes["strides"] = ir.AttrInt64s("strides", [1, 1])
    return rewrite


CONVS = conv("a = Conv<pads = [1, 1, 1, 1]>(x, w, b) [n] y = Conv<strides = [2, 2]>(a, v, c)")
MATRICES = matrix("a = Gemm(x, w, b) [n] t = Gemm(a, v, c) y = Relu(t)")
SABOTAGE: dict[str, tuple[str, Breakage | Patch]] = {
    "a channel of the weights": (CONVS, scaled(1, 1, 1.001)),
    "a channel of the bias": (CONVS, scaled(2, 1, 1.01)),
    "strides lost": (CONVS, without_strides),
    "a column": (MATRICES, scaled(1, 1, 1.001, axis=1)),
    "a number of C": (MATRICES, scaled(2, 1, 1.01)),
    "not there": (MATRICES.replace("[32,4] v, float[4] c", "[32,8] v, float[8] c"), wired_to_its_input),
    "weights kept": (
        conv("a = Conv(x, w, b) [n] y = Conv(a, v, c)"),
        Patch(merge_linear_chain, "stored", lambda array, dtype: np.round(array, 1).astype(dtype)),
    ),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_sabotage(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(MergeLinearChain(), text, how, monkeypatch)


def test_a_net_of_chains() -> None:
    model = files.load(nets.chains()).model
    done = simplify(model, Oracle(model))
    assert op_histogram(done.model)["Conv"] == 3
    assert op_histogram(done.model)["Gemm"] == 1
    assert_same(model, done.model, 2e-5)
