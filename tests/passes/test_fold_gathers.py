from __future__ import annotations

import pytest

from edgeopt.passes import fold_gathers
from edgeopt.passes.fold_gathers import FoldGathers
from edgeopt.passes.slicing import slice_operands
from tests.passes.sabotage import Breakage, Patch, assert_caught, wired_to_its_input
from tests.passes.tables import assert_fires, assert_left_alone, graph

RULE = FoldGathers()


def ints(**values: str) -> str:
    """Initializers: ``"0,2"`` is a vector, ``"=2"`` a scalar."""
    return ", ".join(
        f"int64 {n} = {{{v[1:]}}}" if v[0] == "=" else f"int64[{len(v.split(','))}] {n} = {{{v}}}"
        for n, v in values.items()
    )


def net(
    body: str, constants: str = "", *, x: str = "2,6,8", kind: str = "float", opset: int = 17, ends: str = "Neg"
) -> str:
    """The part under test from p to q."""
    head = f"g ({kind}[{x}] x) => ({kind}[] y) <{constants}>"
    return graph(f"{head} {{ p = {ends}(x) {body} y = {ends}(q) }}", opset)


SLICE = {"Neg": 2, "Slice": 1}
GATHER = {"Gather": 1, "Neg": 2}
FOLDED = {
    "1 neighbours": (net("q = Gather<axis = 1>(p, i)", ints(i="2,3,4")), SLICE),
    "1 one index": (net("q = Gather<axis = 1>(p, i)", ints(i="2")), SLICE),
    "1 from the end": (net("q = Gather<axis = -1>(p, i)", ints(i="-2,-1")), SLICE),
    "1 all of them": (net("q = Gather<axis = 0>(p, i)", ints(i="0,1")), SLICE),
    "1 the default axis": (net("q = Gather(p, i)", ints(i="1")), SLICE),
    "1 an open axis": (net("q = Gather<axis = 2>(p, i)", ints(i="1,2"), x="2,6,L"), SLICE),
    "1 an open batch": (net("q = Gather<axis = 2>(p, i)", ints(i="1,2"), x="N,6,8"), SLICE),
    "1 32-bit indices": (net("q = Gather<axis = 1>(p, i)", "int32[2] i = {2, 3}"), SLICE),
    "1 of a vector": (net("q = Gather(p, i)", ints(i="1,2"), x="6"), SLICE),
    "1 of five axes": (net("q = Gather<axis = 4>(p, i)", ints(i="1,2"), x="1,2,2,2,4"), SLICE),
    "1 of integers": (net("q = Gather<axis = 1>(p, i)", ints(i="2,3"), kind="int64"), SLICE),
    "1 of float16": (net("q = Gather<axis = 1>(p, i)", ints(i="2,3"), kind="float16"), SLICE),
    "1 of double": (net("q = Gather<axis = 1>(p, i)", ints(i="2,3"), kind="double"), SLICE),
    "1 of truth values": (
        net("q = Gather<axis = 1>(p, i)", ints(i="2,3"), kind="bool", ends="Not"),
        {"Not": 2, "Slice": 1},
    ),
    "1 opset 7": (net("q = Gather<axis = 1>(p, i)", ints(i="2,3"), opset=7), SLICE),
    "1 opset 9": (net("q = Gather<axis = 1>(p, i)", ints(i="2,3"), opset=9), SLICE),
    "1 opset 11": (net("q = Gather<axis = 1>(p, i)", ints(i="2,3"), opset=11), SLICE),
    "1 opset 21": (net("q = Gather<axis = 1>(p, i)", ints(i="2,3"), opset=21), SLICE),
    "1 in a branch": (
        graph(
            f"g (float[8] x, bool c) => (float[M] y) <{ints(i='2,3')}> {{ y = If(c) <then_branch = p ()"
            " => (float[2] a) { r = Exp(x) t = Gather(r, i) a = Neg(t) },"
            " else_branch = q () => (float[8] b) { b = Abs(x) }> }"
        ),
        {"Abs": 1, "Exp": 1, "If": 1, "Neg": 1, "Slice": 1},
    ),
    "1 the output is one of the graph": (
        graph(f"g (float[8] x) => (float[2] y) <{ints(i='2,3')}> {{ y = Gather(x, i) }}"),
        {"Slice": 1},
    ),
    "2 of a Gather": (net("a = Gather<axis = 1>(p, i) q = Gather<axis = 1>(a, j)", ints(i="5,0,3,1", j="2,0")), GATHER),
    "2 negative ones": (
        net("a = Gather<axis = 1>(p, i) q = Gather<axis = -2>(a, j)", ints(i="-1,0,-3,1", j="-2,0")),
        GATHER,
    ),
    "2 one element": (net("a = Gather<axis = 1>(p, i) q = Gather<axis = 1>(a, j)", ints(i="5,0,3", j="=-1")), GATHER),
    "2 a matrix of indices": (
        net("a = Gather<axis = 1>(p, i) q = Gather<axis = 1>(a, j)", ints(i="5,0,3") + ", int64[2,2] j = {0,2,1,1}"),
        GATHER,
    ),
    "2 neighbours after all": (
        net("a = Gather<axis = 1>(p, i) q = Gather<axis = 1>(a, j)", ints(i="5,2,0,3", j="1,3")),
        SLICE,
    ),
    "2 an open axis": (
        net("a = Gather<axis = 2>(p, i) q = Gather<axis = 2>(a, j)", ints(i="3,0,2", j="0,2"), x="2,6,L"),
        GATHER,
    ),
    "2 of opset 9": (
        net("a = Gather<axis = 1>(p, i) q = Gather<axis = 1>(a, j)", ints(i="5,0,3", j="2,0"), opset=9),
        GATHER,
    ),
    "3 of a Slice": (
        net("a = Slice(p, s, e, k) q = Gather<axis = 1>(a, j)", ints(s="1", e="6", k="1", j="4,0")),
        GATHER,
    ),
    "3 of every second one": (
        net("a = Slice(p, s, e, k, t) q = Gather<axis = 2>(a, j)", ints(s="1", e="9", k="2", t="2", j="3,0")),
        GATHER,
    ),
    "3 of a Slice backwards": (
        net("a = Slice(p, s, e, k, t) q = Gather<axis = 2>(a, j)", ints(s="-2", e="-9", k="2", t="-1", j="=2")),
        GATHER,
    ),
    "3 one element": (
        net("a = Slice(p, s, e, k) q = Gather<axis = 1>(a, j)", ints(s="1", e="6", k="1", j="=-1")),
        GATHER,
    ),
    "3 an open axis from the start": (
        net("a = Slice(p, s, e, k) q = Gather<axis = 2>(a, j)", ints(s="1", e="6", k="2", j="2,0"), x="2,6,L"),
        GATHER,
    ),
    "3 of opset 9": (
        net("a = Slice<starts = [1], ends = [6], axes = [1]>(p) q = Gather<axis = 1>(a, j)", ints(j="4,0"), opset=9),
        GATHER,
    ),
    "3 neighbours of a Slice that others read": (
        graph(
            f"g (float[8] x) => (float[2] y, float[6] z) <{ints(s='1', e='7', j='1,2')}>"
            " { a = Slice(x, s, e) b = Gather(a, j) y = Neg(b) z = Exp(a) }"
        ),
        {"Exp": 1, "Neg": 1, "Slice": 2},
    ),
    "4 of the second operand": (
        net("a = Exp(p) c = Concat<axis = 1>(p, a) q = Gather<axis = 1>(c, j)", ints(j="9,6")),
        {"Exp": 1, "Gather": 1, "Neg": 2},
    ),
    "4 one element of the first": (
        net("a = Exp(p) c = Concat<axis = 1>(p, a) d = Abs(c) q = Gather<axis = 1>(c, j)", ints(j="=5")),
        {"Abs": 1, "Concat": 1, "Exp": 1, "Gather": 1, "Neg": 2},
    ),
    "4 negative indices": (
        net("a = Exp(p) c = Concat<axis = -2>(p, a) q = Gather<axis = 1>(c, j)", ints(j="-1,-3")),
        {"Exp": 1, "Gather": 1, "Neg": 2},
    ),
    "4 neighbours of several operands": (
        net("a = Exp(p) c = Concat<axis = 1>(p, a) q = Gather<axis = 1>(c, j)", ints(j="5,6")),
        {"Concat": 1, "Exp": 1, "Neg": 2, "Slice": 1},
    ),
    "5 of an Unsqueeze": (net("a = Unsqueeze(p, k) q = Gather<axis = 1>(a, j)", ints(k="1", j="=0")), {"Neg": 2}),
    "5 at the end": (net("a = Unsqueeze(p, k) q = Gather<axis = 3>(a, j)", ints(k="-1", j="=-1")), {"Neg": 2}),
    "5 of opset 11": (net("a = Unsqueeze<axes = [0]>(p) q = Gather(a, j)", ints(j="=0"), opset=11), {"Neg": 2}),
    "5 an open shape": (
        net("a = Unsqueeze(p, k) q = Gather<axis = 1>(a, j)", ints(k="1", j="=0"), x="N,L"),
        {"Neg": 2},
    ),
    "5 the Unsqueeze read elsewhere": (
        graph(
            f"g (float[8] x) => (float[8] y, float[1,8] z) <{ints(k='0', j='=0')}>"
            " { p = Exp(x) a = Unsqueeze(p, k) b = Gather(a, j) y = Neg(b) z = Neg(a) }"
        ),
        {"Exp": 1, "Neg": 2, "Unsqueeze": 1},
    ),
}


@pytest.mark.parametrize("case", FOLDED)
def test_folded(case: str) -> None:
    text, ops = FOLDED[case]
    assert_fires(RULE, text, ops)


KEPT: dict[str, tuple[str, str | None]] = {
    "1 of a Shape": (
        graph(f"g (float[2,N] x) => (int64[1] y) <{ints(i='1')}> {{ s = Shape(x) t = Gather(s, i) y = Neg(t) }}"),
        None,
    ),
    "1 not neighbours": (net("q = Gather<axis = 1>(p, i)", ints(i="2,4")), None),
    "1 descending": (net("q = Gather<axis = 1>(p, i)", ints(i="3,2")), None),
    "1 the same twice": (net("q = Gather<axis = 1>(p, i)", ints(i="2,2")), None),
    "1 one element, whose axis goes": (net("q = Gather<axis = 1>(p, i)", ints(i="=2")), None),
    "1 a matrix of indices": (net("q = Gather<axis = 1>(p, i)", "int64[1,2] i = {2,3}"), None),
    "6 indices that are computed": (
        graph("g (float[8] x, int64[2] i) => (float[2] y) { p = Neg(x) q = Gather(p, i) y = Neg(q) }"),
        None,
    ),
    "6 indices that callers may override": (
        graph(
            "g (float[8] x, int64[2] i) => (float[2] y) <int64[2] i = {1,2}> { p = Neg(x) q = Gather(p, i) y = Neg(q) }"
        ),
        None,
    ),
    "6 no index": (net("q = Gather<axis = 1>(p, i)", "int64[0] i = {}"), None),
    "7 negative ones of an open axis": (net("q = Gather<axis = 2>(p, i)", ints(i="-2,-1"), x="2,6,L"), None),
    "8 a Gather read elsewhere": (
        graph(
            f"g (float[8] x) => (float[2] y, float[3] z) <{ints(i='5,0,3', j='2,0')}>"
            " { a = Gather(x, i) b = Gather(a, j) y = Neg(b) z = Exp(a) }"
        ),
        "Gather 'Gather_a' is read by other nodes too",
    ),
    "8 a Slice that is an output": (
        graph(
            f"g (float[8] x) => (float[2] y, float[6] a) <{ints(s='1', e='7', j='3,1')}>"
            " { a = Slice(x, s, e) b = Gather(a, j) y = Neg(b) }"
        ),
        "Slice 'Slice_a' is read by other nodes too, or is an output of the graph",
    ),
    "9 several operands": (
        net("a = Exp(p) c = Concat<axis = 1>(p, a) q = Gather<axis = 1>(c, j)", ints(j="5,9")),
        "it takes from several operands of Concat 'Concat_c'",
    ),
    "10 an operand of open size": (
        net("a = Exp(p) c = Concat<axis = 2>(p, a) q = Gather<axis = 2>(c, j)", ints(j="5,2"), x="2,6,L"),
        "an operand of Concat 'Concat_c' has an open size on axis 2",
    ),
    "10 a Slice of an open axis from the end": (
        net("a = Slice(p, s, e, k) q = Gather<axis = 2>(a, j)", ints(s="-3", e="9", k="2", j="2,0"), x="2,6,L"),
        "what Slice 'Slice_a' takes depends on the size of axis 2, which is open",
    ),
    "2 another axis": (net("a = Gather<axis = 1>(p, i) q = Gather<axis = 2>(a, j)", ints(i="5,0,3", j="2,0")), None),
    "2 a first Gather by a matrix": (
        net("a = Gather<axis = 1>(p, i) q = Gather<axis = 1>(a, j)", "int64[2,2] i = {5,0,3,1}, " + ints(j="1,0")),
        None,
    ),
    "2 a first Gather by computed indices": (
        graph(
            "g (float[8] x, int64[3] i) => (float[2] y) <int64[2] j = {2,0}>"
            " { p = Neg(x) a = Gather(p, i) q = Gather(a, j) y = Neg(q) }"
        ),
        None,
    ),
    "3 a Slice of two axes": (
        net("a = Slice(p, s, e) q = Gather<axis = 1>(a, j)", ints(s="0,1", e="1,6", j="4,0")),
        None,
    ),
    "4 another axis": (net("a = Exp(p) c = Concat<axis = 1>(p, a) q = Gather<axis = 2>(c, j)", ints(j="5,2")), None),
    "5 another axis": (net("a = Unsqueeze(p, k) q = Gather<axis = 0>(a, j)", ints(k="1", j="=0")), None),
    "5 two axes were added": (net("a = Unsqueeze(p, k) q = Gather<axis = 0>(a, j)", ints(k="0,1", j="=0")), None),
    "5 the axis stays": (
        net("a = Unsqueeze(p, k) q = Gather<axis = 0>(a, j)", "int64[1,1] j = {0}, " + ints(k="0")),
        None,
    ),
    "5 of an input, an output": (
        graph(f"g (float[8] x) => (float[8] y) <{ints(k='0', j='=0')}> {{ a = Unsqueeze(x, k) y = Gather(a, j) }}"),
        "would become a copy of 'x'",
    ),
    "the first in the outer graph": (
        graph(
            f"g (float[8] x, bool c) => (float[N] y) <{ints(i='5,0,3', j='2,0')}> {{ a = Gather(x, i) y = If(c) <then_branch"
            " = p () => (float[M] u) { u = Gather(a, j) }, else_branch = q () => (float[M] v) { v = Neg(a) }> }"
        ),
        None,
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    text, reason = KEPT[case]
    assert_left_alone(RULE, text, reason)


MORE = "r = Gather(x, v) z = Exp(r)"


def broken(body: str, constants: str) -> str:
    return graph(
        f"g (float[2,6,8] x) => (float[] y, float[1,6,8] z) <int64[1] v = {{1}}, {constants}>"
        f" {{ p = Neg(x) {body} y = Neg(q) {MORE} }}"
    )


OF_GATHER = broken("a = Gather<axis = 1>(p, i) [n] q = Gather<axis = 1>(a, j)", ints(i="5,0,3", j="2,0"))
OF_SLICE = broken("a = Slice(p, s, e, k) [n] q = Gather<axis = 1>(a, j)", ints(s="1", e="6", k="1", j="4,0"))
REAL = slice_operands
BREAKAGES: dict[str, tuple[str, Breakage | Patch]] = {
    "1 one off": (
        broken("[n] q = Gather<axis = 1>(p, i)", ints(i="2,3")),
        Patch(
            fold_gathers,
            "slice_operands",
            lambda source, parts, version, base: REAL(
                source, {a: (s + (a == 1), e + (a == 1), t) for a, (s, e, t) in parts.items()}, version, base
            ),
        ),
    ),
    "2 indices in another order": (
        OF_GATHER,
        Patch(fold_gathers, "_counted", lambda i, size: i[::-1] if len(i) == 3 else i),
    ),
    "3 the start is lost": (OF_SLICE, Patch(fold_gathers, "span_of", lambda part, size: (0, 5, 1))),
    "3 left out": (OF_SLICE, wired_to_its_input),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_sabotage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = BREAKAGES[name]
    assert_caught(RULE, text, how, monkeypatch)
