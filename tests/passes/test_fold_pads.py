from __future__ import annotations

import numpy as np
import pytest

from edgeopt.passes import fold_pads
from edgeopt.passes.fold_pads import FoldPads, amounts
from edgeopt.passes.slicing import part_of
from tests.models import loaded
from tests.passes.sabotage import Breakage, Patch, assert_caught, wired_to_its_input
from tests.passes.tables import assert_fires, assert_left_alone, graph

RULE = FoldPads()


def ints(**values: str) -> str:
    return ", ".join(f"int64[{len(v.split(','))}] {n} = {{{v}}}" for n, v in values.items())


def net(
    body: str, constants: str = "", *, x: str = "2,3,8", kind: str = "float", opset: int = 17, ends: str = "Neg"
) -> str:
    """The part under test from p to q."""
    head = f"g ({kind}[{x}] x) => ({kind}[] y) <{constants}>"
    return graph(f"{head} {{ p = {ends}(x) {body} y = {ends}(q) }}", opset)


A, B = "0,0,1,0,0,2", "0,1,0,0,0,3"
PAD = {"Neg": 2, "Pad": 1}
SLICE = {"Neg": 2, "Slice": 1}
CUT = "a = Pad(p, m) q = Slice(a, s, e, k)"
FOLDED = {
    "1 two": (net("a = Pad(p, m) q = Pad(a, n)", ints(m=A, n=B)), PAD),
    "1 three": (net("a = Pad(p, m) b = Pad(a, n) q = Pad(b, m)", ints(m=A, n=B)), PAD),
    "1 edge 29: with a value": (
        net("a = Pad(p, m, v) q = Pad(a, n, v)", ints(m=A, n=B) + ", float v = {0.5}"),
        PAD,
    ),
    "1 edge 29: zero, stated by one": (
        net("a = Pad(p, m, v) q = Pad(a, n)", ints(m=A, n=B) + ", float v = {0}"),
        PAD,
    ),
    "1 zero, stated by the other": (net("a = Pad(p, m) q = Pad(a, n, v)", ints(m=A, n=B) + ", float v = {0}"), PAD),
    "1 minus infinity": (net("a = Pad(p, m, v) q = Pad(a, n, v)", ints(m=A, n=B) + ", float v = {-inf}"), PAD),
    "1 two equal values": (
        net("a = Pad(p, m, v) q = Pad(a, n, w)", ints(m=A, n=B) + ", float v = {2}, float[1] w = {2}"),
        PAD,
    ),
    "1 the edge repeated": (net('a = Pad<mode = "edge">(p, m) q = Pad<mode = "edge">(a, n)', ints(m=A, n=B)), PAD),
    "1 the mode stated by one": (net('a = Pad<mode = "constant">(p, m) q = Pad(a, n)', ints(m=A, n=B)), PAD),
    "1 edge 31: all axes": (net("a = Pad(p, m) q = Pad(a, m)", ints(m="1,1,1,1,1,1")), PAD),
    "1 edge 33: some axes": (
        net("a = Pad(p, m, , k) q = Pad(a, n, , l)", ints(m="1,2", k="-1", n="3,0,1,2", l="2,0"), opset=18),
        PAD,
    ),
    "1 some axes, then all": (
        net("a = Pad(p, m, , k) q = Pad(a, n)", ints(m="1,2", k="1", n=B), opset=21),
        PAD,
    ),
    "1 attributes of opset 10": (
        net(
            "a = Pad<pads = [0, 0, 1, 0, 0, 2], value = 0.5>(p) q = Pad<pads = [0, 1, 0, 0, 0, 3], value = 0.5>(a)",
            opset=10,
        ),
        PAD,
    ),
    "1 edges of opset 7": (
        net('a = Pad<pads = [0,0,1,0,0,2], mode = "edge">(p) q = Pad<pads = [0,1,0,0,0,3], mode = "edge">(a)', opset=7),
        PAD,
    ),
    "1 opset 11": (net("a = Pad(p, m) q = Pad(a, n)", ints(m=A, n=B), opset=11), PAD),
    "1 opset 13": (net("a = Pad(p, m) q = Pad(a, n)", ints(m=A, n=B), opset=13), PAD),
    "1 a vector": (net("a = Pad(p, m) q = Pad(a, m)", ints(m="1,2"), x="4"), PAD),
    "1 a picture": (net("a = Pad(p, m) q = Pad(a, m)", ints(m="0,0,1,1,0,0,1,1"), x="1,2,4,4"), PAD),
    "1 five axes": (net("a = Pad(p, m) q = Pad(a, m)", ints(m="0,0,1,1,0,0,0,1,1,2"), x="1,2,2,3,2"), PAD),
    "1 open dims": (net("a = Pad(p, m) q = Pad(a, n)", ints(m=A, n=B), x="N,C,L"), PAD),
    "1 double": (net("a = Pad(p, m) q = Pad(a, n)", ints(m=A, n=B), kind="double"), PAD),
    "1 int64": (net("a = Pad(p, m, v) q = Pad(a, n, v)", ints(m=A, n=B) + ", int64 v = {7}", kind="int64"), PAD),
    "1 before a pool with room": (
        net("a = Pad(p, m) b = Pad(a, m) q = MaxPool<kernel_shape = [4]>(b)", ints(m="0,0,1,0,0,1")),
        {"MaxPool": 1, "Neg": 2, "Pad": 1},
    ),
    "1 in a branch": (
        graph(
            f"g (float[4] x, bool c) => (float[M] y) <{ints(m='1,2')}> {{ y = If(c) <then_branch = p () => (float[10] a)"
            " { r = Exp(x) t = Pad(r, m) u = Pad(t, m) a = Neg(u) }, else_branch = q () => (float[4] b) { b = Abs(x) }> }"
        ),
        {"Abs": 1, "Exp": 1, "If": 1, "Neg": 1, "Pad": 1},
    ),
    "1 the second is an output": (
        graph(f"g (float[4] x) => (float[10] y) <{ints(m='1,2')}> {{ t = Pad(x, m) y = Pad(t, m) }}"),
        {"Pad": 1},
    ),
    "2 all that was there": (net(CUT, ints(m=A, s="1", e="9", k="2")), {"Neg": 2}),
    "2 from the end": (net(CUT, ints(m=A, s="1", e="-2", k="-1")), {"Neg": 2}),
    "2 a part of it": (net(CUT, ints(m=A, s="3", e="7", k="2")), SLICE),
    "2 backwards": (
        net("a = Pad(p, m) q = Slice(a, s, e, k, t)", ints(m=A, s="8", e="0", k="2", t="-1")),
        SLICE,
    ),
    "2 and another axis": (net(CUT, ints(m=A, s="1,1", e="9,3", k="2,1")), SLICE),
    "2 two axes": (net(CUT, ints(m="0,1,1,0,1,2", s="1,1", e="4,9", k="1,2")), {"Neg": 2}),
    "2 of a reflection": (
        net('a = Pad<mode = "reflect">(p, m) q = Slice(a, s, e, k)', ints(m=A, s="1", e="9", k="2")),
        {"Neg": 2},
    ),
    "2 of opset 9": (
        net("a = Pad<pads = [0, 0, 1, 0, 0, 2]>(p) q = Slice<starts = [1], ends = [-2], axes = [2]>(a)", opset=9),
        {"Neg": 2},
    ),
    "2 of some axes": (
        net("a = Pad(p, m, , l) q = Slice(a, s, e, k)", ints(m="1,2", l="-1", s="1", e="9", k="2"), opset=18),
        {"Neg": 2},
    ),
    "2 an open batch": (net(CUT, ints(m=A, s="1", e="9", k="2"), x="N,3,8"), {"Neg": 2}),
    "2 of integers": (net(CUT, ints(m=A, s="2", e="9", k="2"), kind="int32"), SLICE),
    "2 others read the Pad": (
        graph(
            f"g (float[8] x) => (float[8] y, float[11] z) <{ints(m='1,2', s='1', e='9')}>"
            " { p = Exp(x) a = Pad(p, m) b = Slice(a, s, e) y = Neg(b) z = Neg(a) }"
        ),
        {"Exp": 1, "Neg": 2, "Pad": 1},
    ),
}


@pytest.mark.parametrize("case", FOLDED)
def test_folded(case: str) -> None:
    text, ops = FOLDED[case]
    assert_fires(RULE, text, ops)


KEPT: dict[str, tuple[str, str | None]] = {
    "3 amounts that are computed": (
        graph(
            f"g (float[4] x, int64[2] n) => (float[M] y) <{ints(m='1,2')}> {{ a = Pad(x, m) b = Pad(a, n) y = Neg(b) }}"
        ),
        "it has amounts or axes that are not constant",
    ),
    "3 the first has such": (
        graph(
            f"g (float[4] x, int64[2] n) => (float[M] y) <{ints(m='1,2')}> {{ a = Pad(x, n) b = Pad(a, m) y = Neg(b) }}"
        ),
        "Pad 'Pad_a' before it has amounts or axes that are not constant",
    ),
    "3 axes that are computed": (
        graph(
            f"g (float[4] x, int64[1] k) => (float[M] y) <{ints(m='1,2')}> {{ a = Pad(x, m) b = Pad(a, m, , k) y = Neg(b) }}",
            18,
        ),
        "not constant",
    ),
    "3 a value that is computed": (
        graph(
            f"g (float[4] x, float v) => (float[M] y) <{ints(m='1,2')}> {{ a = Pad(x, m, v) b = Pad(a, m, v) y = Neg(b) }}"
        ),
        "fills with another value, or one that is not constant",
    ),
    "3 an unknown rank": (
        graph(
            f"g (float[4] x, int64[R] r) => (float[] y) <{ints(m='1,2')}> {{ z = Reshape(x, r) a = Pad(z, m) b = Pad(a, m) y = Neg(b) }}"
        ),
        "has an unknown rank",
    ),
    "4 edge 30: the first crops": (
        net("a = Pad(p, m) q = Pad(a, n)", ints(m="0,0,-1,0,0,2", n=B)),
        "Pad 'Pad_a' before it crops",
    ),
    "4 the second crops": (net("a = Pad(p, m) q = Pad(a, n)", ints(m=A, n="0,0,0,0,0,-1")), "it crops"),
    "5 edge 28: reflections": (
        net('a = Pad<mode = "reflect">(p, m) q = Pad<mode = "reflect">(a, n)', ints(m=A, n=A)),
        "fills in another way, or not with what one Pad could",
    ),
    "5 edge 28: wrapped around": (
        net('a = Pad<mode = "wrap">(p, m) q = Pad<mode = "wrap">(a, n)', ints(m=A, n=A), opset=19),
        "fills in another way",
    ),
    "5 modes": (net('a = Pad<mode = "edge">(p, m) q = Pad(a, n)', ints(m=A, n=B)), "fills in another way"),
    "5 values": (
        net("a = Pad(p, m, v) q = Pad(a, n)", ints(m=A, n=B) + ", float v = {0.5}"),
        "fills with another value",
    ),
    "5 NaN": (
        net("a = Pad(p, m, v) q = Pad(a, n, v)", ints(m=A, n=B) + ", float v = {nan}"),
        "fills with another value",
    ),
    "6 edge 34: read elsewhere": (
        graph(
            f"g (float[4] x) => (float[M] y, float[N] z) <{ints(m='1,2')}> {{ a = Pad(x, m) b = Pad(a, m) y = Neg(b) z = Exp(a) }}"
        ),
        "Pad 'Pad_a' before it is read by other nodes too",
    ),
    "6 an output": (
        graph(
            f"g (float[4] x) => (float[M] y, float[7] a) <{ints(m='1,2')}> {{ a = Pad(x, m) b = Pad(a, m) y = Neg(b) }}"
        ),
        "or is an output of the graph",
    ),
    "7 a part of the border": (
        net(CUT, ints(m=A, s="0", e="9", k="2")),
        "it takes a part of the border of Pad 'Pad_a'",
    ),
    "7 a part of the border at the end": (net(CUT, ints(m=A, s="1", e="10", k="2")), "takes a part of the border"),
    "7 another axis": (net(CUT, ints(m=A, s="1", e="2", k="1")), "axis 2 keeps a border of Pad 'Pad_a'"),
    "7 an axis of open size": (net(CUT, ints(m=A, s="1", e="9", k="2"), x="2,3,L"), "or has an open size"),
    "7 nothing at all": (net(CUT, ints(m=A, s="4", e="4", k="2")), "takes a part of the border"),
    "7 positions that are computed": (
        graph(
            f"g (float[4] x, int64[1] e) => (float[M] y) <{ints(m='1,2', s='1')}> {{ a = Pad(x, m) b = Slice(a, s, e) y = Neg(b) }}"
        ),
        None,
    ),
    "8 edge 35: before a pool": (
        net("a = Pad(p, m) b = Pad(a, m) q = MaxPool<kernel_shape = [2]>(b)", ints(m="0,0,1,0,0,1")),
        "with Pad 'Pad_a' it would add as much as the kernel of 'MaxPool_q' covers",
    ),
    "8 before a pool that pads": (
        net("a = Pad(p, m) b = Pad(a, m) q = AveragePool<kernel_shape = [3], pads = [1, 1]>(b)", ints(m="0,0,1,0,0,1")),
        "as much as the kernel of 'AveragePool_q' covers",
    ),
    "a lone Pad": (net("q = Pad(p, m)", ints(m=A)), None),
    "2 of an input, an output": (
        graph(f"g (float[8] x) => (float[8] y) <{ints(m='1,2', s='1', e='9')}> {{ a = Pad(x, m) y = Slice(a, s, e) }}"),
        "would become a copy of 'x'",
    ),
    "the first in the outer graph": (
        graph(
            f"g (float[4] x, bool c) => (float[M] y) <{ints(m='1,2')}> {{ t = Pad(x, m) y = If(c) <then_branch = p () =>"
            " (float[10] a) { a = Pad(t, m) }, else_branch = q () => (float[7] b) { b = Abs(t) }> }"
        ),
        None,
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    text, reason = KEPT[case]
    assert_left_alone(RULE, text, reason)


def test_amounts() -> None:
    rows = {
        "q = Pad(p, m)": (17, [[0, 0, 1], [0, 0, 2]]),
        "q = Pad(p, n, , k)": (18, [[2, 0, 1], [0, 0, 3]]),
    }
    for body, (opset, wanted) in rows.items():
        model = loaded(net(body, ints(m=A, n="1,2,3,0", k="-1,0"), opset=opset))
        found = amounts(next(n for n in model.graph if n.op_type == "Pad"), opset)
        assert not isinstance(found, str)
        assert found.tolist() == wanted
    model = loaded(net("q = Pad<pads = [0, 0, 1, 0, 0, 2]>(p)", opset=10))
    found = amounts(next(n for n in model.graph if n.op_type == "Pad"), 10)
    assert np.array_equal(found, [[0, 0, 1], [0, 0, 2]])


MORE = "u = Pad(x, m) v = Pad(u, m) z = Exp(v)"


def broken(body: str, constants: str) -> str:
    return graph(
        f"g (float[2,3,8] x) => (float[] y, float[] z) <{constants}> {{ p = Neg(x) {body} y = Neg(q) {MORE} }}"
    )


TWO = broken("a = Pad(p, m, v1) [n] q = Pad(a, k, v1)", ints(m="0,0,1,0,0,1", k=B) + ", float v1 = {0.5}")
PART = broken("a = Pad(p, m) [n] q = Slice(a, s, e, k)", ints(m="0,0,1,0,0,1", s="2", e="7", k="2"))
PART_OF = part_of
BREAKAGES: dict[str, tuple[str, Breakage | Patch]] = {
    "1 left out": (TWO, wired_to_its_input),
    "1 another value": (
        broken("a = Pad(p, m, v1) [n] q = Pad(a, k)", ints(m="0,0,1,0,0,1", k=B) + ", float v1 = {0.5}"),
        Patch(fold_pads, "_filling", lambda pad, version: 0.0),
    ),
    "2 left out": (PART, wired_to_its_input),
    "2 one off": (PART, Patch(fold_pads, "part_of", lambda span: PART_OF((span[0] + 1, *span[1:])))),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_sabotage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = BREAKAGES[name]
    assert_caught(RULE, text, how, monkeypatch)
