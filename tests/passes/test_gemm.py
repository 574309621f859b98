from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.graph import attribute, op_histogram
from edgeopt.passes.gemm import WriteGemm
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.rewriting import assert_rewritten, assert_skipped
from tests.passes.sabotage import Breakage, assert_caught, scaled, wired_to_its_input

WEIGHTS = (
    "float[8,4] w, float[4] b, float[4] c, float[1,4] b1, float[1] k, float s, float[5,4] full, float[5,1] column,"
    " float[4,8] wt, float[1,5,4] high, float[8,1] w1, float[3] three, float[1,8,4] w3"
)


def net(
    nodes: str, *, x: str = "5,8", y: str = "A,B", weights: str = WEIGHTS, kind: str = "float", opset: int = 17
) -> str:
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"g ({kind}[{x}] x) => ({kind}[{y}] y) <{weights.replace('float', kind)}> {{ {nodes} }}"
    )


ONE = {"Gemm": 1}
MERGES: dict[str, tuple[str, dict[str, int]]] = {
    "1 a bias": (net("a = MatMul(x, w) [n] y = Add(a, b)"), ONE),
    "1 the other way round": (net("a = MatMul(x, w) [n] y = Add(b, a)"), ONE),
    "1 [1, N]": (net("a = MatMul(x, w) [n] y = Add(a, b1)"), ONE),
    "1 one number": (net("a = MatMul(x, w) [n] y = Add(a, k)"), ONE),
    "1 a scalar": (net("a = MatMul(x, w) [n] y = Add(a, s)"), ONE),
    "1 all rows": (net("a = MatMul(x, w) [n] y = Add(a, full)"), ONE),
    "1 a column": (net("a = MatMul(x, w) [n] y = Add(a, column)"), ONE),
    "1 computed": (net("a = MatMul(x, w) z = Neg(b) [n] y = Add(a, z)"), {"Gemm": 1, "Neg": 1}),
    "1 an open batch": (net("a = MatMul(x, w) [n] y = Add(a, b)", x="N,8"), ONE),
    "1 an open batch, rows of the same": (
        net("a = MatMul(x, w) z = MatMul(x, w) t = Neg(z) [n] y = Add(a, t)", x="N,8"),
        {"Gemm": 1, "MatMul": 1, "Neg": 1},
    ),
    "1 two computed matrices": (net("t = Neg(x) z = Neg(w) a = MatMul(t, z) [n] y = Add(a, b)"), {"Gemm": 1, "Neg": 2}),
    "1 two products": (net("a = MatMul(x, w) z = MatMul(x, w) [n] y = Add(a, z)"), {"Gemm": 1, "MatMul": 1}),
    "1 double": (net("a = MatMul(x, w) [n] y = Add(a, b)", kind="double"), ONE),
    "2 a Gemm without C": (net("a = Gemm<alpha = 0.5>(x, w) [n] y = Add(a, b)"), ONE),
    "2 beta 0": (net("a = Gemm<beta = 0.0>(x, w, c) [n] y = Add(b, a)"), ONE),
    "3 two biases": (net("a = Gemm(x, w, c) [n] y = Add(b, a)"), ONE),
    "3 two biases and beta": (net("a = Gemm<beta = 0.5>(x, w, c) [n] y = Add(a, b1)"), ONE),
    "3 a bias and one number": (net("a = Gemm(x, w, c) [n] y = Add(a, k)"), ONE),
    "4 transA": (net("t = Transpose(x) [n] y = Gemm(t, w, b)", x="8,5"), ONE),
    "4 transA back": (net("t = Transpose<perm = [1, 0]>(x) [n] y = Gemm<transA = 1>(t, w, b)"), ONE),
    "4 transB": (
        net("t = Transpose(v) [n] y = Gemm(x, t, b)").replace("x) =>", "x, float[4,8] v) =>"),
        ONE,
    ),
    "4 both": (
        net("t = Transpose(x) u = Transpose(v) [n] y = Gemm(t, u, b)", x="8,5").replace("x) =>", "x, float[4,8] v) =>"),
        ONE,
    ),
    "5 MatMul": (net("t = Transpose(x) [n] y = MatMul(t, w)", x="8,5"), ONE),
    "5 MatMul, B": (net("t = Transpose(v) [n] y = MatMul(x, t)").replace("x) =>", "x, float[4,8] v) =>"), ONE),
    "5 MatMul and Add": (net("t = Transpose(x) a = MatMul(t, w) [n] y = Add(a, b)", x="8,5"), ONE),
    "6 alpha": (net("[n] y = Gemm<alpha = 0.5>(x, w, b)"), ONE),
    "6 beta": (net("[n] y = Gemm<beta = 0.5>(x, w, b)"), ONE),
    "6 both, transB": (net("[n] y = Gemm<alpha = 2.0, beta = 0.5, transB = 1>(x, wt, full)"), ONE),
    "6 beta alone can": (
        net("[n] y = Gemm<alpha = 2.0, beta = 0.5>(x, v, b)").replace("x) =>", "x, float[8,4] v) =>"),
        ONE,
    ),
    **{
        f"opset {version}": (net("a = MatMul(x, w) [n] y = Add(a, b)", opset=version), ONE)
        for version in (7, 9, 11, 13, 18, 21)
    },
}


@pytest.mark.parametrize("case", MERGES)
def test_merges(case: str) -> None:
    text, histogram = MERGES[case]
    assert_rewritten(WriteGemm(), text, histogram)


def test_factors_are_gone() -> None:
    result = assert_rewritten(WriteGemm(), net("[n] y = Gemm<alpha = 2.0, beta = 0.5>(x, w, b)"), ONE)
    node = result.graph.node(0)
    assert (attribute(node, "alpha"), attribute(node, "beta")) == (None, None)


def test_in_a_branch() -> None:
    text = (
        f"g (float[5,8] x, bool cond) => (float[5,4] y) <{WEIGHTS}> {{ y = If(cond) <"
        "then_branch = p () => (float[5,4] r) { a = MatMul(x, w) [n] r = Add(a, b) },"
        "else_branch = q () => (float[5,4] t) { a = MatMul(x, w) [m] t = Add(c, a) }> }"
    )
    assert_rewritten(WriteGemm(), text, {"Gemm": 2, "If": 1})


LARGER = "may be larger than the matrix"
SKIPS: dict[str, tuple[str, str | None]] = {
    "edge 60: 7 three axes": (net("a = MatMul(x, w) [n] y = Add(a, b)", x="2,5,8", y="A,B,C"), None),
    "edge 60: 7 one axis": (net("a = MatMul(x, w) [n] y = Add(a, b)", x="8", y="A"), None),
    "7 B of three axes": (net("a = MatMul(x, w3) [n] y = Add(a, b)", y="A,B,C"), None),
    "edge 60: 8 a bias of higher rank": (net("a = MatMul(x, w) [n] y = Add(a, high)", y="A,B,C"), LARGER),
    "edge 60: 8 more rows": (net("a = MatMul(x, w) [n] y = Add(a, full)", x="1,8"), LARGER),
    "edge 60: 8 more rows than one column": (net("a = MatMul(x, w1) [n] y = Add(a, column)", x="1,8"), LARGER),
    "edge 60: 8 N is 1": (net("a = MatMul(x, w1) [n] y = Add(a, three)"), LARGER),
    "edge 60: 8 dynamic rows": (net("a = MatMul(x, w) [n] y = Add(a, full)", x="N,8"), LARGER),
    "8 an unknown addend": (
        net("a = MatMul(x, w) [n] y = Add(a, v)").replace("x) =>", "x, float[P,Q] v) =>"),
        LARGER,
    ),
    "edge 60: 9 integers": (net("a = MatMul(x, w) [n] y = Add(a, b)", kind="int32"), None),
    "edge 1: 11 read elsewhere": (
        net("a = MatMul(x, w) o = Neg(a) [n] y = Add(a, b)").replace("] y)", "] y, float[E,F] o)"),
        "read by other nodes too",
    ),
    "edge 2: 11 an output": (
        net("a = MatMul(x, w) [n] y = Add(a, b)").replace("] y)", "] y, float[E,F] a)"),
        "an output of the graph",
    ),
    "3 C is computed": (net("z = Neg(c) a = Gemm(x, w, z) [n] y = Add(a, b)"), None),
    "3 C has rows": (net("a = Gemm(x, w, full) [n] y = Add(a, b)"), None),
    "4 the Transpose is read elsewhere": (
        net("t = Transpose(x) o = Neg(t) [n] y = Gemm(t, w, b)", x="8,5").replace("] y)", "] y, float[E,F] o)"),
        None,
    ),
    "5 opset 9, where C is needed": (net("t = Transpose(x) [n] y = MatMul(t, w)", x="8,5", opset=9), None),
    "5 three axes": (
        net("t = Transpose<perm = [0, 2, 1]>(x) [n] y = MatMul(t, w)", x="2,8,5", y="A,B,C"),
        None,
    ),
    "12 large weights that others share": (
        net(
            "[n] y = Gemm<alpha = 0.5>(x, w) z = Neg(x) o = MatMul(z, w)",
            x="2,256",
            weights="float[256,128] w",
        ).replace("] y)", "] y, float[E,F] o)"),
        "would be stored twice",
    ),
    "QDQ: 13 from int8": (
        "g (float[5,8] x) => (float[A,B] y) <int8[8,4] q, float s = {0.1}, float[4] b> "
        "{ w = DequantizeLinear(q, s) a = MatMul(x, w) [n] y = Add(a, b) }",
        None,
    ),
    "edge 8: factors of weights that a caller may override": (
        net("[n] y = Gemm<alpha = 0.5>(x, w)").replace("x) =>", "x, float[8,4] w) =>"),
        None,
    ),
}


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    assert_skipped(WriteGemm(), text, reason)


def test_opset_6_is_left_alone() -> None:
    assert_skipped(WriteGemm(), net("a = MatMul(x, w) [n] y = Add<broadcast = 1>(a, b)", opset=6), None)


def test_a_factor_that_overflows() -> None:
    model = loaded(net("[n] y = Gemm<alpha = 1e38>(x, w)"))
    result, report = checked(WriteGemm(), model)
    value = model.graph.initializers["w"]
    value.const_value = ir.tensor(np.full((8, 4), 100, np.float32))
    result, report = checked(WriteGemm(), model)
    assert result is model
    assert report.hits == []


def test_a_layer_with_its_transposes() -> None:
    text = net("t = Transpose(x) a = MatMul(t, w) e = Add(a, b) [n] y = Add(e, c)", x="8,5")
    model = loaded(text)
    result, report = checked(WriteGemm(), model)
    assert report.rolled_back == []
    assert op_histogram(result) == {"Gemm": 1}
    assert_same(model, result)


def not_transposed(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].attributes["transA"] = ir.AttrInt64("transA", 0)
    return rewrite


def halved(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].attributes["alpha"] = ir.AttrFloat32("alpha", 0.999)
    return rewrite


def no_addend(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].resize_inputs(2)
    return rewrite


SABOTAGE: dict[str, tuple[str, Breakage]] = {
    "C lost": (net("a = MatMul(x, w) [n] y = Add(a, b)"), no_addend),
    "a factor": (net("a = MatMul(x, w) [n] y = Add(a, b)"), halved),
    "not transposed": (net("t = Transpose(x) [n] y = Gemm(t, w, b)", x="8,8"), not_transposed),
    "a number of C": (net("a = Gemm(x, w, c) [n] y = Add(b, a)"), scaled(2, 1, 1.01)),
    "a scaled weight": (net("[n] y = Gemm<alpha = 0.5>(x, w, b)"), scaled(1, 1, 1.001, axis=1)),
    "not there": (net("[n] t = Gemm<alpha = 0.5>(x, m) y = Relu(t)", weights="float[8,8] m"), wired_to_its_input),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_sabotage(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(WriteGemm(), text, how, monkeypatch)
