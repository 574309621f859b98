from __future__ import annotations

import pytest

from edgeopt.graph import op_histogram
from edgeopt.oracle import Oracle
from edgeopt.passes import EXACT
from edgeopt.passes.common_subexpressions import CommonSubexpressions
from edgeopt.passes.dedupe_initializers import DedupeInitializers
from edgeopt.simplifier import simplify
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import assert_caught, wired_to_another
from tests.passes.tables import assert_fires, assert_left_alone, graph

RULE = CommonSubexpressions()


def net(body: str, constants: str = "", kind: str = "float", dims: str = "2,3", opset: int = 17) -> str:
    return graph(f"g ({kind}[{dims}] x, {kind}[{dims}] z) => ({kind}[{dims}] y) <{constants}> {{ {body} }}", opset)


MERGED = {
    "1 unary": (net("a = Exp(x) b = Exp(x) y = Add(a, b)"), {"Add": 1, "Exp": 1}),
    "1 float16": (net("a = Exp(x) b = Exp(x) y = Add(a, b)", kind="float16"), {"Add": 1, "Exp": 1}),
    "1 double": (net("a = Exp(x) b = Exp(x) y = Add(a, b)", kind="double"), {"Add": 1, "Exp": 1}),
    "1 integers": (net("a = Neg(x) b = Neg(x) y = Add(a, b)", kind="int64"), {"Add": 1, "Neg": 1}),
    "1 open shapes": (net("a = Exp(x) b = Exp(x) y = Add(a, b)", dims="N,M"), {"Add": 1, "Exp": 1}),
    "1 a cascade": (
        net("a = Exp(x) b = Exp(x) c = Neg(a) d = Neg(b) e = Add(c, z) f = Add(d, z) y = Mul(e, f)"),
        {"Add": 1, "Exp": 1, "Mul": 1, "Neg": 1},
    ),
    "1 three": (net("a = Exp(x) b = Exp(x) c = Exp(x) y = Sum(a, b, c)"), {"Exp": 1, "Sum": 1}),
    "1 attributes": (
        net("a = LeakyRelu<alpha = 0.5>(x) b = LeakyRelu<alpha = 0.5>(x) y = Add(a, b)"),
        {"Add": 1, "LeakyRelu": 1},
    ),
    "1 with a constant": (net("a = Mul(x, c) b = Mul(x, c) y = Add(a, b)", "float c = {2}"), {"Add": 1, "Mul": 1}),
    "1 several outputs": (
        net(
            "a, b = Split<axis = 1>(x, s) c, d = Split<axis = 1>(x, s) e = Concat<axis = 1>(a, d) "
            "f = Concat<axis = 1>(c, b) y = Add(e, f)",
            "int64[2] s = {1, 2}",
        ),
        {"Add": 1, "Concat": 1, "Split": 1},
    ),
    "2 any order": (net("a = Add(x, z) b = Add(z, x) y = Mul(a, b)"), {"Add": 1, "Mul": 1}),
    "2 opset 7": (net("a = Mul(x, z) b = Mul(z, x) y = Add(a, b)", opset=7), {"Add": 1, "Mul": 1}),
    "2 opset 21": (net("a = Max(x, z) b = Max(z, x) y = Add(a, b)", opset=21), {"Add": 1, "Max": 1}),
    "3 a default stated": (
        net("a = Softmax<axis = -1>(x) b = Softmax(x) y = Add(a, b)"),
        {"Add": 1, "Softmax": 1},
    ),
    "3 empty slots at the end": (
        net("a = Clip(x, c) b = Clip(x, c, ) y = Add(a, b)", "float c = {0}"),
        {"Add": 1, "Clip": 1},
    ),
    "4 a body reads the outer twin": (
        "g (float[2] x, bool c) => (float[2] y, float[2] z) { z = Exp(x) y = If(c) <"
        "then_branch = p () => (float[2] a) { t = Exp(x) a = Neg(t) }, else_branch = q () => (float[2] a) { a = Neg(x) }> }",
        {"Exp": 1, "If": 1, "Neg": 2},
    ),
    "4 within one body": (
        "g (float[2] x, bool c) => (float[2] y) { y = If(c) <then_branch = p () => (float[2] a) { t = Exp(x) u = Exp(x)"
        " a = Add(t, u) }, else_branch = q () => (float[2] a) { a = Neg(x) }> }",
        {"Add": 1, "Exp": 1, "If": 1, "Neg": 1},
    ),
    "5 the second is an output": (
        "g (float[2] x) => (float[2] y, float[2] b) { a = Exp(x) b = Exp(x) y = Neg(a) }",
        {"Exp": 1, "Neg": 1},
    ),
    "5 the first is an output": (
        "g (float[2] x) => (float[2] y, float[2] a) { a = Exp(x) b = Exp(x) y = Neg(b) }",
        {"Exp": 1, "Neg": 1},
    ),
    "Dropout in inference": (
        net("a = Dropout(x) b = Dropout(x) y = Add(a, b)"),
        {"Add": 1, "Dropout": 1},
    ),
}


@pytest.mark.parametrize("case", MERGED)
def test_merged(case: str) -> None:
    text, ops = MERGED[case]
    assert_fires(RULE, text, ops)


KEPT = {
    "edge 38: another optional slot": net("a = Clip(x, c) b = Clip(x, , c) y = Add(a, b)", "float c = {0.5}"),
    "edge 39: random": net("a = RandomNormalLike(x) b = RandomNormalLike(x) c = Add(a, b) y = Sub(c, c)"),
    "edge 39: training": net(
        "a = Dropout(x, r, t) b = Dropout(x, r, t) y = Add(a, b)", "float r = {0.5}, bool t = {1}"
    ),
    "edge 39: Dropout of opset 6": net("a = Dropout(x) b = Dropout(x) y = Add(a, b)", opset=6),
    "edge 41: sibling branches": (
        "g (float[2] x, bool c) => (float[2] y) { y = If(c) <then_branch = p () => (float[2] a) { t = Exp(x) a = Neg(t) },"
        "else_branch = q () => (float[2] a) { t = Exp(x) a = Abs(t) }> }"
    ),
    "edge 41: a body's value is not used outside": (
        "g (float[2] x, bool c) => (float[2] y) { u = If(c) <then_branch = p () => (float[2] a) { t = Exp(x) a = Neg(t) },"
        "else_branch = q () => (float[2] a) { a = Abs(x) }> v = Exp(x) y = Add(u, v) }"
    ),
    "edge 42: another type": "g (float[2] x) => (int64[2] y) { a = Cast<to = 7>(x) b = Cast<to = 6>(x) c = Cast<to = 7>(b)"
    " y = Add(a, c) }",
    "edge 42: -0.0 is not 0.0": net("a = LeakyRelu<alpha = 0.0>(x) b = LeakyRelu<alpha = -0.0>(x) y = Add(a, b)"),
    "another attribute": net("a = LeakyRelu<alpha = 0.5>(x) b = LeakyRelu<alpha = 0.25>(x) y = Add(a, b)"),
    "another order": net("a = Sub(x, z) b = Sub(z, x) y = Mul(a, b)"),
    "7 bodies": (
        "g (float[2] x, bool c) => (float[2] y) { u = If(c) <then_branch = p () => (float[2] a) { a = Neg(x) },"
        "else_branch = q () => (float[2] a) { a = Abs(x) }> v = If(c) <then_branch = r () => (float[2] a) { a = Neg(x) },"
        "else_branch = s () => (float[2] a) { a = Abs(x) }> y = Add(u, v) }"
    ),
    "9 edge 63: Q and DQ": (
        "g (float[2] x) => (float[2] y) <float s = {0.1}, uint8 o = {0}> { q = QuantizeLinear(x, s, o)"
        " r = QuantizeLinear(x, s, o) a = DequantizeLinear(q, s, o) b = DequantizeLinear(r, s, o) y = Add(a, b) }"
    ),
    "10 constants": net(
        "c = Constant<value_float = 2.0>() d = Constant<value_float = 2.0>() a = Mul(x, c) y = Mul(a, d)"
    ),
    "11 an output that the twin lacks": (
        "g (float[1,1,4] x) => (float[1,1,3] y, int64[1,1,3] i) { a = MaxPool<kernel_shape = [2]>(x)"
        " y, i = MaxPool<kernel_shape = [2]>(x) b = Neg(a) }"
    ),
    "a function call": (
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[2] x) => (float[2] y) { a = local.f(x)'
        ' b = local.f(x) y = Add(a, b) } <domain: "local", opset_import: ["" : 17]> f (u) => (v) { v = Exp(u) }'
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    assert_left_alone(RULE, KEPT[case])


def test_edge_40_both_are_outputs() -> None:
    text = "g (float[2] x) => (float[2] a, float[2] b) { a = Exp(x) b = Exp(x) }"
    assert_left_alone(RULE, text, "both 'b' and 'a' are outputs of the graph")


def test_a_branch_that_returns_it_computes_it_itself() -> None:
    text = (
        "g (float[2] x, bool c) => (float[2] y, float[2] z) { z = Exp(x) y = If(c) <"
        "then_branch = p () => (float[2] a) { a = Exp(x) }, else_branch = q () => (float[2] a) { a = Neg(x) }> }"
    )
    assert_left_alone(RULE, text, "would become a copy of 'z'")


def test_equal_initializers() -> None:
    text = net("a = Mul(x, c) b = Mul(x, d) y = Add(a, b)", "float[3] c = {1, 2, 3}, float[3] d = {1, 2, 3}")
    model = loaded(text)
    once, _ = checked(DedupeInitializers(), model)
    twice, report = checked(RULE, once)
    assert len(report.hits) == 1
    assert op_histogram(twice) == {"Add": 1, "Mul": 1}
    assert_same(model, twice)


def test_unsorted_names_and_late_twins() -> None:
    """A pair that becomes equal only after another pair was merged."""
    text = net("a = Exp(x) d = Neg(a) b = Exp(x) c = Neg(b) e = Mul(d, z) f = Mul(z, c) y = Add(e, f)")
    assert_fires(
        RULE, text, {"Add": 1, "Exp": 1, "Mul": 1, "Neg": 1}, ["Exp_b", "Neg_d", "Mul_e"]
    )  # the last two remove their twins


def test_in_the_pipeline_with_a_long_chain() -> None:
    steps = " ".join(f"a{k} = Tanh(a{k - 1}) b{k} = Tanh(b{k - 1})" for k in range(1, 60))
    model = loaded(net(f"a0 = Exp(x) b0 = Exp(x) {steps} y = Sub(a59, b59)"))
    done = simplify(model, Oracle(model), pipeline=EXACT)
    assert op_histogram(done.model)["Tanh"] == 59


def test_sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
    text = net(
        "a = Exp(x) c = Abs(x) [n] b = Exp(x) d = Neg(x) [m] e = Neg(x) f = Add(a, b) g = Sum(c, d, e) y = Add(f, g)"
    )
    assert_caught(RULE, text, wired_to_another("c"), monkeypatch)
