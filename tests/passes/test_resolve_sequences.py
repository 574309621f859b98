from __future__ import annotations

import numpy as np
import pytest

from edgeopt.graph import op_histogram
from edgeopt.oracle import Oracle, run_checked
from edgeopt.passes.dead_code import DeadCode
from edgeopt.passes.resolve_sequences import ResolveSequences
from edgeopt.passes.unroll_loop import UnrollLoop
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import Breakage, assert_caught, swapped_outputs, wired_to_another, wrong_element

PLACES = "int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64 m1 = {-1}, int64 i9 = {9}, int64[2] s23 = {2, 3}"


def net(nodes: str, outputs: str = "float[A,B] y", *, x: str = "float[5,2]", opset: int = 17) -> str:
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({x} x) => ({outputs}) <{PLACES}>'
        f" {{ a = Neg(x) b = Exp(x) c = Abs(x) {nodes} }}"
    )


HITS = {  # text, nodes of sequences and others afterwards beside Neg, Exp, Abs
    "1 SequenceAt": (net("s = SequenceConstruct(a, b) [n] t = SequenceAt(s, i1) y = Relu(t)"), {"Relu": 1}),
    "1 from the end": (net("s = SequenceConstruct(a, b) [n] t = SequenceAt(s, m1) y = Relu(t)"), {"Relu": 1}),
    "1 an output of the graph": (net("s = SequenceConstruct(a, b) [n] y = SequenceAt(s, i0)"), {}),
    "1 SequenceInsert": (
        net("s = SequenceConstruct(a, b) q = SequenceInsert(s, c, i1) [n] t = SequenceAt(q, i1) y = Relu(t)"),
        {"Relu": 1},
    ),
    "1 SequenceInsert at the end": (
        net(
            "s = SequenceEmpty() q = SequenceInsert(s, c) r = SequenceInsert(q, a) [n] t = SequenceAt(r, i1)"
            " y = Relu(t)"
        ),
        {"Relu": 1},
    ),
    "1 SequenceInsert before the last": (
        net("s = SequenceConstruct(a, b) q = SequenceInsert(s, c, m1) [n] t = SequenceAt(q, i1) y = Relu(t)"),
        {"Relu": 1},
    ),
    "1 SequenceErase": (
        net("s = SequenceConstruct(a, b, c) q = SequenceErase(s, i0) [n] t = SequenceAt(q, i0) y = Relu(t)"),
        {"Relu": 1},
    ),
    "1 SequenceErase at the end": (
        net("s = SequenceConstruct(a, b, c) q = SequenceErase(s) [n] t = SequenceAt(q, m1) y = Relu(t)"),
        {"Relu": 1},
    ),
    "2 SequenceLength": (
        net("s = SequenceConstruct(a, b) [n] l = SequenceLength(s) f = Cast<to = 1>(l) y = Add(f, a)"),
        {"Cast": 1, "Add": 1},
    ),
    "2 an output of the graph": (
        net("s = SequenceConstruct(a, b) [n] y = SequenceLength(s)", "int64 y"),
        {"Constant": 1},
    ),
    "3 ConcatFromSequence": (net("s = SequenceConstruct(a, b) [n] y = ConcatFromSequence<axis = 1>(s)"), {"Concat": 1}),
    "3 a new axis": (
        net("s = SequenceConstruct(a, b) [n] y = ConcatFromSequence<axis = 1, new_axis = 1>(s)", "float[A,B,C] y"),
        {"Concat": 1, "Unsqueeze": 2},
    ),
    "3 a new axis at the end": (
        net("s = SequenceConstruct(a, b) [n] y = ConcatFromSequence<axis = -1, new_axis = 1>(s)", "float[A,B,C] y"),
        {"Concat": 1, "Unsqueeze": 2},
    ),
    "3 a new axis, opset 11": (
        net(
            "s = SequenceConstruct(a, b) [n] y = ConcatFromSequence<axis = -1, new_axis = 1>(s)",
            "float[A,B,C] y",
            opset=11,
        ),
        {"Concat": 1, "Unsqueeze": 2},
    ),
    "4 SplitToSequence": (
        net("[n] s = SplitToSequence(x, s23) t = SequenceAt(s, i1) y = Relu(t)"),
        {"Split": 1, "Relu": 1},
    ),
    "4 SplitToSequence, opset 11": (
        net("[n] s = SplitToSequence(x, s23) t = SequenceAt(s, i1) y = Relu(t)", opset=11),
        {"Split": 1, "Relu": 1},
    ),
    "4 parts of one size, the last is smaller": (
        net("[n] s = SplitToSequence(x, i2) t = SequenceAt(s, m1) y = Relu(t)"),
        {"Split": 1, "Relu": 1},
    ),
    "4 slices": (net("[n] s = SplitToSequence(x) t = SequenceAt(s, i1) y = Relu(t)"), {"Split": 1, "Relu": 1}),
    "4 slices without the axis": (
        net("[n] s = SplitToSequence<keepdims = 0, axis = 1>(x) t = SequenceAt(s, i1) y = Relu(t)", "float[A] y"),
        {"Split": 1, "Squeeze": 1, "Relu": 1},
    ),
    "4 one part": (net("[n] s = SplitToSequence(x, i9) t = SequenceAt(s, i0) y = Relu(t)"), {"Identity": 1, "Relu": 1}),
    "5 OptionalGetElement": (net("o = Optional(a) [n] t = OptionalGetElement(o) y = Relu(t)"), {"Relu": 1}),
    "5 of a tensor": (net("[n] t = OptionalGetElement(a) y = Relu(t)", opset=18), {"Relu": 1}),
    "6 OptionalHasElement": (
        net("o = Optional(a) [n] h = OptionalHasElement(o) y = Cast<to = 1>(h)", "float y"),
        {"Cast": 1},
    ),
    "6 of a tensor": (net("[n] h = OptionalHasElement(a) y = Cast<to = 1>(h)", "float y", opset=18), {"Cast": 1}),
    "6 of nothing": (net("[n] h = OptionalHasElement() y = Cast<to = 1>(h)", "float y", opset=18), {"Cast": 1}),
    "6 an output of the graph": (net("o = Optional(a) [n] y = OptionalHasElement(o)", "bool y"), {"Constant": 1}),
}


@pytest.mark.parametrize("case", HITS)
def test_resolves(case: str) -> None:
    text, operators = HITS[case]
    model = loaded(text)
    result, report = checked(ResolveSequences(), model)
    assert report.rolled_back == []
    assert [h.anchor for h in report.hits] == ["n"]
    left = op_histogram(checked(DeadCode(), result)[0])
    assert {k: v for k, v in left.items() if k not in ("Neg", "Exp", "Abs")} == operators
    assert_same(model, result)
    assert run_checked(ResolveSequences(), result, Oracle(result))[1].hits == []


def test_a_split_with_several_readers_goes_to_the_first() -> None:
    text = net(
        "[n] s = SplitToSequence(x, i2) t = SequenceAt(s, i2) u = Relu(t) v = SequenceAt(s, i0) y = Add(u, v)"
        " z = SequenceAt(s, i1)",
        "float[A,B] y, float[C,D] z",
    )
    model = loaded(text)
    result, report = checked(ResolveSequences(), model)
    assert report.rolled_back == []
    assert op_histogram(result)["Split"] == 1
    assert_same(model, result)


def test_what_an_unrolled_loop_collects() -> None:
    model = loaded(
        "g (float[2] x) => (float[Q] y) <int64 n = {3}> { e = SequenceEmpty() s = Loop(n, , e)"
        " <body = l (int64 i, bool ci, seq(float[2]) q) => (bool co, seq(float[2]) r) {"
        " co = Identity(ci) f = Cast<to = 1>(i) t = Add(x, f)"
        " r = SequenceInsert(q, t) }> y = ConcatFromSequence<axis = 0>(s) }"
    )
    unrolled, report = checked(UnrollLoop(), model)
    assert report.rolled_back == []
    result, report = checked(ResolveSequences(), unrolled)
    assert report.rolled_back == []
    left = op_histogram(checked(DeadCode(), result)[0])
    left.pop("Identity", None)
    assert left == {"Cast": 3, "Add": 3, "Concat": 1}
    assert_same(model, result)


def test_in_a_branch() -> None:
    model = loaded(
        f"g (float[4] x, bool c) => (float[B] y) <{PLACES}> {{ y = If(c) <then_branch = p () => (float[2] r) {{"
        " s = SplitToSequence(x, i2) t = SequenceAt(s, i1) u = SequenceAt(s, i0) r = Sub(t, u) },"
        " else_branch = q () => (float[4] r) { s = SequenceConstruct(x, x) r = SequenceAt(s, i1) }> }"
    )
    result, report = checked(ResolveSequences(), model)
    assert report.rolled_back == []
    assert len(report.hits) == 1
    for c in (True, False):
        assert_same(model, result, c=np.array(c))


STAY = {
    "a computed place": net("s = SequenceConstruct(a, b) y = SequenceAt(s, p)").replace("x) =>", "x, int64 p) =>"),
    "a computed place before": net(
        "s = SequenceConstruct(a, b) q = SequenceInsert(s, c, p) y = SequenceAt(q, i0)"
    ).replace("x) =>", "x, int64 p) =>"),
    "a computed place of the erased": net(
        "s = SequenceConstruct(a, b, c) q = SequenceErase(s, p) y = SequenceAt(q, i0)"
    ).replace("x) =>", "x, int64 p) =>"),
    "a sequence that comes in": net("y = SequenceAt(p, i0)").replace("x) =>", "x, seq(float[A,B]) p) =>"),
    "parts that somebody else reads": net(
        "s = SplitToSequence(x, s23) y = SequenceAt(s, i0) z = SequenceLength(s)", "float[A,B] y, int64 z"
    ),
    "parts of an open size": net("s = SplitToSequence(x, i2) t = SequenceAt(s, i0) y = Relu(t)", x="float[N,2]"),
    "computed parts": net("s = SplitToSequence(x, p) t = SequenceAt(s, i0) y = Relu(t)").replace(
        "x) =>", "x, int64[2] p) =>"
    ),
    "an optional that comes in": net("y = OptionalGetElement(p)").replace("x) =>", "x, optional(float[A,B]) p) =>"),
}


@pytest.mark.parametrize("case", STAY)
def test_left_alone(case: str) -> None:
    model = loaded(STAY[case])
    rule = ResolveSequences()
    state = rule.prepare(model)
    assert [rule.match(n, state) for n in model.graph] == [None] * len(model.graph)


def test_places_out_of_range() -> None:
    model = loaded(net("s = SequenceConstruct(a, b) y = SequenceAt(s, i9)"))
    rule = ResolveSequences()
    assert all(rule.match(n, rule.prepare(model)) is None for n in model.graph)
    other = loaded(net("s = SequenceConstruct(a) q = SequenceErase(s) r = SequenceErase(q) y = SequenceAt(r, i0)"))
    assert all(rule.match(n, rule.prepare(other)) is None for n in other.graph)


def other_order(rewrite: Rewrite) -> Rewrite:
    node = rewrite.replacement[-1]
    first, second = node.inputs[0], node.inputs[1]
    node.replace_input_with(0, second)
    node.replace_input_with(1, first)
    return rewrite


SABOTAGE: dict[str, tuple[str, Breakage]] = {
    "another element": (HITS["1 SequenceInsert"][0], wired_to_another("a")),
    "another length": (HITS["2 SequenceLength"][0], wrong_element(0, 1, 1)),
    "another order": (HITS["3 ConcatFromSequence"][0], other_order),
    "parts exchanged": (
        net("[n] s = SplitToSequence(x) t = SequenceAt(s, i1) u = SequenceAt(s, i0) y = Sub(t, u)"),
        swapped_outputs,
    ),
    "another tensor": (HITS["5 OptionalGetElement"][0], wired_to_another("b")),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_sabotage(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(ResolveSequences(), text, how, monkeypatch)
