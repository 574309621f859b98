from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.graph import constant_value
from edgeopt.passes import fold_concat
from edgeopt.passes.fold_concat import FoldConcat
from edgeopt.passes.replacing import by_node
from tests.models import checked, loaded
from tests.passes.sabotage import Breakage, Patch, assert_caught, swapped_outputs, wired_to_its_input
from tests.passes.tables import assert_fires, assert_left_alone, graph

RULE = FoldConcat()


def net(
    body: str, constants: str = "", *, x: str = "2,6,8", kind: str = "float", opset: int = 17, ends: str = "Neg"
) -> str:
    """The part under test from p (and r) to q."""
    head = f"g ({kind}[{x}] x) => ({kind}[] y) <{constants}>"
    return graph(f"{head} {{ p = {ends}(x) r = {ends}(p) {body} y = {ends}(q) }}", opset)


ONE = {"Concat": 1, "Neg": 3}
HALVES = "int64[2] s = {2, 4}"
FOLDED = {
    "1 the first operand": (net("a = Concat<axis = 1>(p, r) q = Concat<axis = 1>(a, p)"), ONE),
    "1 the last operand": (net("a = Concat<axis = 1>(p, r) q = Concat<axis = 1>(p, a)"), ONE),
    "1 both": (
        net("a = Concat<axis = 1>(p, r) b = Concat<axis = 1>(r, p) q = Concat<axis = 1>(a, b)"),
        ONE,
    ),
    "1 three levels": (
        net("a = Concat<axis = 1>(p, r) b = Concat<axis = 1>(r, a) q = Concat<axis = 1>(b, r)"),
        ONE,
    ),
    "1 edge 50: axes of both signs": (net("a = Concat<axis = -1>(p, r) q = Concat<axis = 2>(a, p)"), ONE),
    "1 open dims": (net("a = Concat<axis = 1>(p, r) q = Concat<axis = 1>(a, p)", x="N,C,L"), ONE),
    "1 of a vector": (net("a = Concat<axis = 0>(p, r) q = Concat<axis = 0>(a, p)", x="4"), ONE),
    "1 of five axes": (net("a = Concat<axis = 3>(p, r) q = Concat<axis = 3>(a, p)", x="1,2,2,1,2"), ONE),
    "1 of integers": (net("a = Concat<axis = 1>(p, r) q = Concat<axis = 1>(a, p)", kind="int64"), ONE),
    "1 of float16": (net("a = Concat<axis = 1>(p, r) q = Concat<axis = 1>(a, p)", kind="float16"), ONE),
    "1 of double": (net("a = Concat<axis = 1>(p, r) q = Concat<axis = 1>(a, p)", kind="double"), ONE),
    "1 opset 7": (net("a = Concat<axis = 1>(p, r) q = Concat<axis = 1>(a, p)", opset=7), ONE),
    "1 opset 11": (net("a = Concat<axis = 1>(p, r) q = Concat<axis = 1>(a, p)", opset=11), ONE),
    "1 opset 21": (net("a = Concat<axis = 1>(p, r) q = Concat<axis = 1>(a, p)", opset=21), ONE),
    "1 in a branch": (
        graph(
            "g (float[8] x, bool c) => (float[M] y) { y = If(c) <then_branch = p () => (float[24] a)"
            " { r = Exp(x) t = Concat<axis = 0>(r, x) u = Concat<axis = 0>(t, x) a = Neg(u) },"
            " else_branch = q () => (float[8] b) { b = Abs(x) }> }"
        ),
        {"Abs": 1, "Concat": 1, "Exp": 1, "If": 1, "Neg": 1},
    ),
    "1 the second is an output": (
        graph("g (float[8] x) => (float[24] y) { r = Exp(x) t = Concat<axis = 0>(r, x) y = Concat<axis = 0>(t, x) }"),
        {"Concat": 1, "Exp": 1},
    ),
    "2 two constants": (net("q = Concat<axis = 1>(c, d, p)", "float[2,1,8] c, float[2,3,8] d"), ONE),
    "2 two pairs of constants": (
        net("q = Concat<axis = 0>(c, d, p, e, f)", "float[1] c, float[2] d, float[1] e, float[1] f", x="4"),
        ONE,
    ),
    "2 integers": (
        net("q = Concat<axis = 0>(p, c, d)", "int64[1] c = {3}, int64[2] d = {4, 5}", x="4", kind="int64"),
        ONE,
    ),
    "2 a small one that others read": (
        net("t = Concat<axis = 0>(p, c, d) q = Mul(t, c)", "float[1] c = {3}, float[2] d = {4, 5}", x="4"),
        {"Concat": 1, "Mul": 1, "Neg": 3},
    ),
    "2 one constant twice": (net("q = Concat<axis = 0>(p, c, c)", "float[1] c = {3}", x="4"), ONE),
    "2 behind an inner Concat": (
        net("a = Concat<axis = 0>(p, c) q = Concat<axis = 0>(a, d)", "float[1] c = {3}, float[2] d = {4, 5}", x="4"),
        ONE,
    ),
    "3 an empty operand": (net("q = Concat<axis = 0>(p, c, r)", "float[0] c = {}", x="4"), ONE),
    "3 only one is left": (net("q = Concat<axis = 0>(p, c)", "float[0] c = {}", x="4"), {"Neg": 3}),
    "3 all are empty": (
        graph("g (float[0,3] x) => (float[0,3] y) { p = Neg(x) q = Concat<axis = 0>(p, p) y = Neg(q) }"),
        {"Neg": 2},
    ),
    "4 all of a Split": (net("a, b = Split<axis = 1>(p, s) q = Concat<axis = 1>(a, b)", HALVES), {"Neg": 3}),
    "4 axes of both signs": (net("a, b = Split<axis = -2>(p, s) q = Concat<axis = 1>(a, b)", HALVES), {"Neg": 3}),
    "4 of equal parts": (net("a, b = Split<axis = 0>(p) q = Concat<axis = 0>(a, b)"), {"Neg": 3}),
    "4 of opset 11": (
        net("a, b = Split<axis = 1, split = [2, 4]>(p) q = Concat<axis = 1>(a, b)", opset=11),
        {"Neg": 3},
    ),
    "4 of opset 18": (
        net("a, b, c = Split<axis = 2, num_outputs = 3>(p) q = Concat<axis = 2>(a, b, c)", opset=18),
        {"Neg": 3},
    ),
    "4 equal parts of an open size": (
        net("a, b = Split<axis = 1>(p) q = Concat<axis = 1>(a, b)", x="2,N"),
        {"Neg": 3},
    ),
    "4 between others": (
        net("a, b = Split<axis = 1>(p, s) q = Concat<axis = 1>(r, a, b, r)", HALVES),
        ONE,
    ),
    "4 twice": (net("a, b = Split<axis = 1>(p, s) q = Concat<axis = 1>(a, b, a, b)", HALVES), ONE),
    "4 the parts are read elsewhere too": (
        net(
            "a, b = Split<axis = 1>(p) c = Concat<axis = 1>(a, b) d = Mul(a, b) e = Exp(c) f = Concat<axis = 1>(d, d) q = Add(e, f)"
        ),
        {"Add": 1, "Concat": 1, "Exp": 1, "Mul": 1, "Neg": 3, "Split": 1},
    ),
    "5 at the borders": (
        net("a = Exp(p) c = Concat<axis = 1>(p, a) d, e = Split<axis = 1>(c, s) q = Mul(d, e)", "int64[2] s = {6, 6}"),
        {"Exp": 1, "Mul": 1, "Neg": 3},
    ),
    "5 uneven ones": (
        net(
            "a = ReduceMax<axes = [1]>(p) c = Concat<axis = 1>(p, a) d, e = Split<axis = -2>(c, s) q = Mul(d, e)",
            "int64[2] s = {6, 1}",
        ),
        {"Mul": 1, "Neg": 3, "ReduceMax": 1},
    ),
    "5 equal parts of opset 11": (
        net("a = Exp(p) c = Concat<axis = 1>(p, a) d, e = Split<axis = 1>(c) q = Mul(d, e)", opset=11),
        {"Exp": 1, "Mul": 1, "Neg": 3},
    ),
    "5 others read the Concat": (
        net(
            "a = Exp(p) c = Concat<axis = 1>(p, a) d, e = Split<axis = 1>(c) f = Sub(d, e) g = Concat<axis = 1>(f, f) q = Mul(g, c)"
        ),
        {"Concat": 2, "Exp": 1, "Mul": 1, "Neg": 3, "Sub": 1},
    ),
    "5 one part is read": (
        net("a = Exp(p) c = Concat<axis = 1>(p, a) d, e = Split<axis = 1>(c) q = Abs(e)"),
        {"Abs": 1, "Exp": 1, "Neg": 3},
    ),
    "5 the parts are outputs": (
        graph(
            "g (float[2,3] x) => (float[2,3] d, float[2,3] e) { p = Neg(x) a = Exp(x) c = Concat<axis = 1>(p, a)"
            " d, e = Split<axis = 1>(c) }"
        ),
        {"Exp": 1, "Neg": 1},
    ),
}


@pytest.mark.parametrize("case", FOLDED)
def test_folded(case: str) -> None:
    text, ops = FOLDED[case]
    assert_fires(RULE, text, ops)


KEPT: dict[str, tuple[str, str | None]] = {
    "6 a negative axis of unknown rank": (
        graph(
            "g (float[4] x, int64[R] s) => (float[] y) { p = Reshape(x, s) a = Concat<axis = -1>(p, p)"
            " b = Concat<axis = -1>(a, p) y = Neg(b) }"
        ),
        None,
    ),
    "7 read elsewhere": (
        net("a = Concat<axis = 0>(p, r) b = Concat<axis = 0>(a, p) c = ReduceMax(a) q = Mul(b, c)"),
        None,
    ),
    "7 an output": (
        graph(
            "g (float[2,3] x) => (float[6,3] y, float[4,3] a) { p = Neg(x) a = Concat<axis = 0>(p, x)"
            " b = Concat<axis = 0>(a, x) y = Neg(b) }"
        ),
        None,
    ),
    "1 another axis": (net("a = Concat<axis = 1>(p, r) q = Concat<axis = 0>(a, a)"), None),
    "1 the inner in the outer graph": (
        graph(
            "g (float[8] x, bool c) => (float[M] y) { t = Concat<axis = 0>(x, x) y = If(c) <then_branch = p () =>"
            " (float[24] a) { a = Concat<axis = 0>(t, x) }, else_branch = q () => (float[8] b) { b = Abs(x) }> }"
        ),
        None,
    ),
    "2 apart from each other": (net("q = Concat<axis = 0>(c, p, d)", "float[1] c, float[2] d", x="4"), None),
    "2 a large one that others read": (
        net("t = Concat<axis = 0>(p, c, d) u = ReduceMax(c) q = Mul(t, u)", "float[600] c, float[2] d", x="4"),
        None,
    ),
    "2 one that callers may override": (
        graph(
            "g (float[4] x, float[1] c) => (float[7] y) <float[1] c = {1}, float[2] d = {1, 2}>"
            " { p = Neg(x) q = Concat<axis = 0>(p, c, d) y = Neg(q) }"
        ),
        None,
    ),
    "3 an operand that may be empty": (
        graph("g (float[N] x, float[4] z) => (float[M] y) { p = Neg(x) q = Concat<axis = 0>(p, z) y = Neg(q) }"),
        None,
    ),
    "4 in another order": (net("a, b = Split<axis = 1>(p, s) q = Concat<axis = 1>(b, a)", HALVES), None),
    "4 along another axis": (net("a, b = Split<axis = 1>(p) q = Concat<axis = 0>(a, b)"), None),
    "4 not all": (net("a, b, c = Split<axis = 1>(p) q = Concat<axis = 1>(a, b)"), None),
    "4 with something in between": (net("a, b = Split<axis = 1>(p, s) q = Concat<axis = 1>(a, r, b)", HALVES), None),
    "4 of an input, an output": (
        graph("g (float[4] x) => (float[4] y) { a, b = Split<axis = 0>(x) y = Concat<axis = 0>(a, b) }"),
        "would become a copy of 'x'",
    ),
    "5 along another axis": (
        net("a = Exp(p) c = Concat<axis = 0>(p, a) d, e = Split<axis = 1>(c) q = Mul(d, e)"),
        None,
    ),
    "8 at other borders": (
        net(
            "a = Exp(p) c = Concat<axis = 1>(p, a) d, e = Split<axis = 1>(c, s) f = ReduceMax(d) q = Mul(f, e)",
            "int64[2] s = {5, 7}",
        ),
        "it cuts Concat 'Concat_c' elsewhere than between operands of fixed size",
    ),
    "8 operands of open size": (
        net("a = Exp(p) c = Concat<axis = 1>(p, a) d, e = Split<axis = 1>(c) q = Mul(d, e)", x="2,N"),
        "elsewhere than between operands of fixed size",
    ),
    "8 sizes that are computed": (
        graph(
            "g (float[1] x, int64[2] s) => (float[M] y) { p = Neg(x) a = Concat<axis = 0>(p, p) d, e = Split<axis = 0>(a, s)"
            " q = Concat<axis = 0>(e, d) y = Neg(q) }"
        ),
        "elsewhere than between operands of fixed size",
    ),
    "8 parts of computed sizes": (
        graph(
            "g (float[3] x, float[1,2] z) => (float[M] y) { s = Shape(z) p = Neg(x) a, b = Split<axis = 0>(p, s)"
            " q = Concat<axis = 0>(a, b) y = Neg(q) }"
        ),
        None,
    ),
    "9 two outputs of one value": (
        graph(
            "g (float[2,3] x) => (float[2,3] d, float[2,3] e) { p = Neg(x) c = Concat<axis = 1>(p, p)"
            " d, e = Split<axis = 1>(c) }"
        ),
        "two outputs of the graph would be one value",
    ),
    "another domain's Concat": (
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g (float[2] x) => (float[2] y)'
        " { a = my.Concat<axis = 0>(x, x) y = Neg(a) }"
        ' <domain: "my", opset_import: ["" : 17]> Concat<axis> (a, b) => (d) { d = Mul(a, b) }'.replace(
            "[4] y", "[2] y"
        ),
        None,
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    text, reason = KEPT[case]
    assert_left_alone(RULE, text, reason)


def test_2_types_without_arithmetic_in_numpy() -> None:
    """bfloat16 constants are joined."""
    text = "g (bfloat16[4] x) => (bfloat16[7] y) <bfloat16[1] c, bfloat16[2] d> { q = Concat<axis = 0>(x, c, d) y = Identity(q) }"
    model = loaded(graph(text, 21))
    for name, numbers in (("c", [0.5]), ("d", [1.5, -2.0])):
        array = np.array(numbers, ir.DataType.BFLOAT16.numpy())
        model.graph.initializers[name].const_value = ir.Tensor(array, dtype=ir.DataType.BFLOAT16, name=name)
    result, report = checked(RULE, model)
    assert [h.anchor for h in report.hits] == ["Concat_q"]
    (joined,) = [v.const_value for v in result.graph.initializers.values() if v.shape == [3]]
    assert joined is not None
    assert (joined.dtype, joined.numpy().astype(float).tolist()) == (ir.DataType.BFLOAT16, [0.5, 1.5, -2.0])


def broken(body: str, constants: str = "") -> str:
    return graph(
        f"g (float[2,6] x) => (float[] y, float[] z) <float[0] none = {{}}{constants}>"
        f" {{ p = Neg(x) r = Exp(x) {body} v = ReduceMax<axes = [1], keepdims = 0>(x) z = Concat<axis = 0>(v, none) }}"
    )


REAL, VALUE = by_node, constant_value
BREAKAGES: dict[str, tuple[str, Breakage | Patch]] = {
    "1 in another order": (
        broken("a = Concat<axis = 1>(p, r) [n] q = Concat<axis = 1>(a, x) y = Neg(q)"),
        Patch(
            fold_concat, "by_node", lambda nodes, op, inputs, attributes: REAL(nodes, op, [*inputs][::-1], attributes)
        ),
    ),
    "2 in another order": (
        broken("[n] q = Concat<axis = 1>(p, c, d) y = Neg(q)", ", float[2,1] c, float[2,1] d"),
        Patch(fold_concat, "constant_value", lambda name, array: VALUE(name, np.ascontiguousarray(array[:, ::-1]))),
    ),
    "4 left out": (
        broken("a, b = Split<axis = 1>(p) [n] q = Concat<axis = 1>(a, b) y = Neg(q)"),
        wired_to_its_input,
    ),
    "5 swapped": (
        broken("c = Concat<axis = 1>(p, r) [n] d, e = Split<axis = 1>(c) y = Sub(d, e)"),
        swapped_outputs,
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_sabotage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = BREAKAGES[name]
    assert_caught(RULE, text, how, monkeypatch)
