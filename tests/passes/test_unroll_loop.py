from __future__ import annotations

import numpy as np
import pytest

from edgeopt.graph import constant, op_histogram
from edgeopt.oracle import Oracle, run_checked
from edgeopt.passes.unroll_loop import MOST_NODES, UnrollLoop
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import Breakage, assert_caught, swapped_outputs, wired_to_another

BODY = "co = Identity(ci) f = Cast<to = 1>(i) b = Add(a, f) a2 = Mul(b, w) o = Neg(a2)"


def loop(
    body: str = BODY,
    trips: str = "int64 n = {3}",
    *,
    condition: str = "",
    opset: int = 17,
    call: str = "y, all = Loop(n, {}, z)",
    start: str = "",
) -> str:
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[2] x) => (float[2] y, float[M,2] all)'
        f" <float[2] w = {{0.5, 0.25}}, {trips}, bool yes = {{1}}, bool no = {{0}}> {{ z = Identity(x) [n]"
        f" {call.format(condition)} <body = l (int64 i, bool ci, float[2] a) => (bool co, float[2] a2, float[2] o)"
        f" {start} {{ {body} }}> }}"
    )


LOOPS = {  # text, operators afterwards beside Identity
    "1": (loop(), {"Cast": 3, "Add": 3, "Mul": 3, "Neg": 3, "Unsqueeze": 3, "Concat": 1}),
    "1 one trip": (
        loop(trips="int64 n = {1}"),
        {"Cast": 1, "Add": 1, "Mul": 1, "Neg": 1, "Unsqueeze": 1, "Concat": 1},
    ),
    "1 a vector of one": (
        loop(trips="int64[1] n = {1}"),
        {"Cast": 1, "Add": 1, "Mul": 1, "Neg": 1, "Unsqueeze": 1, "Concat": 1},
    ),
    "1 a condition": (loop(condition="yes"), {"Cast": 3, "Add": 3, "Mul": 3, "Neg": 3, "Unsqueeze": 3, "Concat": 1}),
    "1 the body sets true": (
        loop("co = Constant<value = bool {1}>() a2 = Mul(a, w) o = Neg(a2)"),
        {"Constant": 3, "Mul": 3, "Neg": 3, "Unsqueeze": 3, "Concat": 1},
    ),
    "1 the condition is from outside": (
        loop("co = Identity(yes) a2 = Mul(a, w) o = Neg(a2)"),
        {"Mul": 3, "Neg": 3, "Unsqueeze": 3, "Concat": 1},
    ),
    "1 a constant of the body": (
        loop("co = Identity(ci) a2 = Mul(a, v) o = Neg(a2)", start="<float[2] v = {2, 3}>"),
        {"Mul": 3, "Neg": 3, "Unsqueeze": 3, "Concat": 1},
    ),
    "1 the trip is collected": (
        loop("co = Identity(ci) a2 = Mul(a, w) f = Cast<to = 1>(i) o = Add(f, w)"),
        {"Mul": 3, "Cast": 3, "Add": 3, "Unsqueeze": 3, "Concat": 1},
    ),
    "1 opset 11": (loop(opset=11), {"Cast": 3, "Add": 3, "Mul": 3, "Neg": 3, "Unsqueeze": 3, "Concat": 1}),
    "1 opset 13": (loop(opset=13), {"Cast": 3, "Add": 3, "Mul": 3, "Neg": 3, "Unsqueeze": 3, "Concat": 1}),
    "1 opset 21": (loop(opset=21), {"Cast": 3, "Add": 3, "Mul": 3, "Neg": 3, "Unsqueeze": 3, "Concat": 1}),
    "1 a body inside": (
        loop(
            "co = Identity(ci) f = Cast<to = 1>(i) q = Equal(i, k) a2 = If(q) <then_branch = p () => (float[2] s)"
            " { t = Add(a, f) s = Mul(t, v) }, else_branch = q () => (float[2] s) { t = Neg(a) s = Mul(t, w) }>"
            " o = Neg(a2)",
            start="<float[2] v = {2, 3}, int64 k = {1}>",
        ),
        {"Cast": 3, "Equal": 3, "If": 3, "Neg": 6, "Add": 3, "Mul": 6, "Unsqueeze": 3, "Concat": 1, "Constant": 1},
    ),
    "2 no trips": (loop(trips="int64 n = {0}"), {}),
    "2 a negative number of trips": (loop(trips="int64 n = {-2}"), {}),
    "2 a false condition": (loop(condition="no", trips="int64 m = {3}", call="y, all = Loop(, {}, z)"), {}),
}


@pytest.mark.parametrize("case", LOOPS)
def test_loops(case: str) -> None:
    text, operators = LOOPS[case]
    if case.startswith("2"):
        text = text.replace("float[M,2] all", "float[0,2] all")
    model = loaded(text)
    result, report = checked(UnrollLoop(), model)
    assert report.rolled_back == []
    assert [h.anchor for h in report.hits] == ["n"]
    left = op_histogram(result)
    left.pop("Identity")
    assert left == operators
    assert_same(model, result)
    assert run_checked(UnrollLoop(), result, Oracle(result))[1].hits == []


SCANS = {
    "3 forwards": ("num_scan_inputs = 1", "float[3,2]", "float[3,2]"),
    "3 backwards in": ("num_scan_inputs = 1, scan_input_directions = [1]", "float[3,2]", "float[3,2]"),
    "3 backwards out": ("num_scan_inputs = 1, scan_output_directions = [1]", "float[3,2]", "float[3,2]"),
    "3 other axes": (
        "num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1]",
        "float[2,3]",
        "float[2,3]",
    ),
    "3 axes from the end": (
        "num_scan_inputs = 1, scan_input_axes = [-1], scan_output_axes = [-1]",
        "float[2,3]",
        "float[2,3]",
    ),
}


@pytest.mark.parametrize("opset", [11, 13, 21])
@pytest.mark.parametrize("case", SCANS)
def test_scans(case: str, opset: int) -> None:
    attributes, x, y = SCANS[case]
    model = loaded(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({x} x, float[2] s0) => (float[2] s, {y} ys)'
        f" <float[2] w = {{1, 2}}> {{ [n] s, ys = Scan<{attributes}, body = l (float[2] acc, float[2] v) =>"
        " (float[2] acc2, float[2] o) { k = Neg(w) t = Add(acc, v) acc2 = Add(t, k) o = Mul(acc2, v) }>(s0, x) }"
    )
    result, report = checked(UnrollLoop(), model)
    assert report.rolled_back == []
    assert op_histogram(result) == {"Gather": 3, "Neg": 3, "Add": 6, "Mul": 3, "Unsqueeze": 3, "Concat": 1}
    assert_same(model, result)


def test_two_scan_inputs_and_no_state() -> None:
    model = loaded(
        "g (float[2,3] x, float[2,3] x2) => (float[2,3] ys) { [n] ys = Scan<num_scan_inputs = 2,"
        " scan_input_directions = [0, 1], body = l (float[3] v, float[3] u) => (float[3] o) { o = Sub(v, u) }>(x, x2) }"
    )
    result, report = checked(UnrollLoop(), model)
    assert report.rolled_back == []
    assert op_histogram(result) == {"Gather": 4, "Sub": 2, "Unsqueeze": 2, "Concat": 1}
    assert_same(model, result)


def test_edge_68_the_body_reads_constants_from_outside() -> None:
    text = loop("co = Identity(ci) k = Exp(w) a2 = Mul(a, k) o = Add(a2, z)")
    model = loaded(text)
    result, report = checked(UnrollLoop(), model)
    assert report.hits
    assert_same(model, result)


def test_weights_of_the_body_are_stored_once() -> None:
    body = "co = Identity(ci) a2 = MatMul(a, v) o = Neg(a2)"
    model = loaded(loop(body, start="<float[2,2] v = {1, 2, 3, 4}>"))
    result, _ = checked(UnrollLoop(), model)
    weights = [v for v in result.graph.initializers.values() if (t := constant(v)) is not None and t.shape == (2, 2)]
    assert len(weights) == 1
    assert_same(model, result)


def test_a_loop_in_a_branch() -> None:
    inner = loop().split("[n]")[1].rsplit("}", 1)[0].replace("y, all", "[n] p1, p2")
    text = (
        "g (float[2] z, bool c) => (float[2] y) <float[2] w = {0.5, 0.25}, int64 n = {3}> { y = If(c)"
        f" <then_branch = t () => (float[2] r) {{ {inner} r = Neg(p1) }},"
        f" else_branch = e () => (float[2] r) {{ r = Neg(z) }}> }}"
    )
    model = loaded(text)
    result, report = checked(UnrollLoop(), model)
    assert [h.anchor for h in report.hits] == ["n"]
    assert report.rolled_back == []
    for c in (True, False):
        assert_same(model, result, c=np.array(c))


SKIPS = {
    "4 the number of trips is an input": (
        loop(trips="bool b = {1}").replace("x) =>", "x, int64 n) =>"),
        "the number of its trips is computed",
    ),
    "4 edge 8: it may be overridden": (
        loop().replace("x) =>", "x, int64 n) =>"),
        "the number of its trips is computed",
    ),
    "4 the condition is an input": (
        loop(condition="c").replace("x) =>", "x, bool c) =>"),
        "its condition is computed",
    ),
    "4 the body ends it": (
        loop("s = ReduceSum<keepdims = 0>(a) co = Less(s, k) a2 = Mul(a, w) o = Neg(a2)", start="<float k = {9}>"),
        "its body may end it early",
    ),
    "4 the body ends it at once": (
        loop("co = Constant<value = bool {0}>() a2 = Mul(a, w) o = Neg(a2)"),
        "its body may end it early",
    ),
    "5 too many nodes": (loop(trips="int64 n = {11}"), f"11 trips would be 66 nodes, more than {MOST_NODES}"),
    "6 random numbers": (
        loop("co = Identity(ci) a2 = RandomNormalLike(a) o = Neg(a2)"),
        "random",
    ),
    "7 nothing of unknown size": (
        loop(trips="int64 n = {0}")
        .replace("float[2]", "float[K]")
        .replace("[M,2]", "[M,K]")
        .replace("float[K] w", "float[2] w"),
        "the size of what it collects is not known",
    ),
}


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    model = loaded(text)
    result, report = checked(UnrollLoop(), model)
    assert result is model
    assert [s.node for s in report.skips] == ["n"]
    assert reason in report.skips[0].reason


def test_4_a_loop_without_a_limit() -> None:
    """Not run: it has no end."""
    node = next(n for n in loaded(loop(call="y, all = Loop(, yes, z)")).graph if n.name == "n")
    assert getattr(UnrollLoop().match(node, 17), "reason", "") == "the number of its trips is computed"


def test_4_a_scan_of_open_length() -> None:
    model = loaded(
        "g (float[N,2] x) => (float[N,2] ys) { [n] ys = Scan<num_scan_inputs = 1, body = l (float[2] v) =>"
        " (float[2] o) { o = Neg(v) }>(x) }"
    )
    _, report = checked(UnrollLoop(), model)
    assert report.skips[0].reason == "the number of its trips is computed"


def test_8_scan_of_opset_8() -> None:
    model = loaded(
        '<ir_version: 8, opset_import: ["" : 8]> g (float[1,3,2] x) => (float[1,3,2] ys) {'
        " [n] ys = Scan<num_scan_inputs = 1, body = l (float[2] v) => (float[2] o) { o = Neg(v) }>(, x) }"
    )
    node = next(iter(model.graph))
    answer = UnrollLoop().match(node, 8)
    assert "opset 8" in getattr(answer, "reason", "")


def test_another_operator_of_that_name() -> None:
    node = next(n for n in loaded(loop()).graph if n.name == "n")
    node.domain = "my"
    assert UnrollLoop().match(node, 17) is None


def parts_in_another_order(rewrite: Rewrite) -> Rewrite:
    concat = rewrite.replacement[-1]
    a, b = concat.inputs[0], concat.inputs[1]
    concat.replace_input_with(0, b)
    concat.replace_input_with(1, a)
    return rewrite


def one_trip_less(rewrite: Rewrite) -> Rewrite:
    last = next(n for n in rewrite.replacement[::-1] if n.op_type == "Mul")
    last.replace_input_with(0, rewrite.nodes[0].inputs[2])
    return rewrite


@pytest.mark.parametrize("how", [parts_in_another_order, one_trip_less, wired_to_another("z"), swapped_outputs])
def test_sabotage(how: Breakage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_caught(UnrollLoop(), loop(), how, monkeypatch)


def test_constants_for_readers_further_inside_are_nodes() -> None:
    text = loop(
        "co = Identity(ci) a2 = If(ci) <then_branch = p () => (float[2] s) { f = Cast<to = 1>(i)"
        " s = Add(a, f) }, else_branch = q () => (float[2] s) { s = Neg(a) }> o = Neg(a2)"
    )
    model = loaded(text)
    result, report = checked(UnrollLoop(), model)
    assert report.rolled_back == []
    assert op_histogram(result)["Constant"] == 3
    assert_same(model, result)
