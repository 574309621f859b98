from __future__ import annotations

import itertools

import pytest

from edgeopt.passes import fold_slices
from edgeopt.passes.fold_slices import FoldSlices
from tests.models import loaded
from tests.passes.sabotage import Breakage, Patch, assert_caught, swapped_outputs, wired_to_its_input
from tests.passes.tables import assert_fires, assert_left_alone, graph

RULE = FoldSlices()


def ints(**values: object) -> str:
    """Initializers: an int or a list of them."""
    lists = {n: [*v] if isinstance(v, (list, tuple)) else [v] for n, v in values.items()}
    return ", ".join(f"int64[{len(v)}] {n} = {{{','.join(map(str, v))}}}" for n, v in lists.items())


def net(
    body: str,
    constants: str = "",
    *,
    x: str = "2,6,8",
    y: str = "",
    kind: str = "float",
    opset: int = 17,
    ends: str = "Neg",
) -> str:
    """The part under test from p to q."""
    head = f"g ({kind}[{x}] x) => ({kind}[{y}] y) <{constants}>"
    return graph(f"{head} {{ p = {ends}(x) {body} y = {ends}(q) }}", opset)


TWO = "a = Slice(p, s, e, k) q = Slice(a, t, f, l)"
FULL = 2**63 - 1


def two(
    numbers: tuple[int, ...],
    *,
    x: str = "2,6,8",
    y: str = "",
    kind: str = "float",
    opset: int = 17,
    ends: str = "Neg",
) -> str:
    """Start, end and axis of both."""
    return net(TWO, ints(**dict(zip("sektfl", numbers, strict=True))), x=x, y=y, kind=kind, opset=opset, ends=ends)


ONE = {"Neg": 2, "Slice": 1}
MERGED = {
    "1 other axes": (two((1, 3, 1, 2, 5, 2)), ONE),
    "1 the same axis": (two((1, 5, 1, 1, 3, 1)), ONE),
    "1 the same axis, negative": (two((1, 5, -2, 1, 3, 1)), ONE),
    "1 from the end": (two((-5, -1, 2, -3, FULL, 2)), ONE),
    "1 edge 49: INT_MAX": (two((1, 2**31 - 1, 2, 2, FULL, 2)), ONE),
    "1 an open axis, other axes": (two((1, 3, 1, 2, 5, 2), x="N,6,L"), ONE),
    "1 an open axis, from the start": (two((1, 5, 2, 1, FULL, 2), x="2,6,L"), ONE),
    "1 an open batch": (two((0, 2, 1, 1, 2, 1), x="N,6,8"), ONE),
    "1 of integers": (two((1, 5, 1, 1, 3, 1), kind="int64"), ONE),
    "1 of float16": (two((1, 5, 1, 1, 3, 1), kind="float16"), ONE),
    "1 of double": (two((1, 5, 1, 1, 3, 1), kind="double"), ONE),
    "1 of truth values": (two((1, 5, 1, 1, 3, 1), kind="bool", ends="Not"), {"Not": 2, "Slice": 1}),
    "1 a vector": (two((1, 5, 0, 1, 3, 0), x="6"), ONE),
    "1 five axes": (two((1, 3, 4, 0, 1, 0), x="2,2,2,2,4"), ONE),
    "1 steps": (
        net("a = Slice(p, s, e, k, st) q = Slice(a, t, f, k)", ints(s=0, e=8, k=2, st=2, t=1, f=3)),
        ONE,
    ),
    "1 edge 49: backwards twice": (
        net("a = Slice(p, s, e, k, st) q = Slice(a, s, e, k, st)", ints(s=-1, e=-9, k=2, st=-1)),
        ONE,
    ),
    "1 backwards by two of every third": (
        net("a = Slice(p, s, e, k, st) q = Slice(a, t, f, k, su)", ints(s=0, e=8, k=2, st=3, t=2, f=-9, su=-2)),
        ONE,
    ),
    "1 of nothing": (two((3, 3, 2, 0, 1, 2), y="2,6,0"), ONE),
    "1 three in a row": (
        net("a = Slice(p, s, e, k) b = Slice(a, s, e, l) q = Slice(b, t, e, k)", ints(s=1, e=5, k=1, l=2, t=2)),
        ONE,
    ),
    "1 attributes of opset 9": (
        net(
            "a = Slice<starts = [1], ends = [5], axes = [1]>(p) q = Slice<starts = [-2, 1], ends = [4, 9], axes = [1, 2]>(a)",
            opset=9,
        ),
        ONE,
    ),
    "1 opset 10": (two((1, 5, 1, 1, 3, 1), opset=10), ONE),
    "1 opset 13": (two((1, 5, 1, 1, 3, 1), opset=13), ONE),
    "1 opset 21": (two((1, 5, 1, 1, 3, 1), opset=21), ONE),
    "1 without axes": (
        net("a = Slice(p, s, e) q = Slice(a, t, f)", ints(s=[0, 1], e=[2, 5], t=[1, 1], f=[2, 3])),
        ONE,
    ),
    "1 in a branch": (
        graph(
            "g (float[8] x, bool c) => (float[M] y) <int64[1] s = {1}, int64[1] e = {7}> { y = If(c) <then_branch = p ()"
            " => (float[4] a) { r = Exp(x) t = Slice(r, s, e) u = Slice(t, s, e) v = Slice(u, s, e) a = Neg(v) },"
            " else_branch = q () => (float[8] b) { b = Abs(x) }> }"
        ),
        {"Abs": 1, "Exp": 1, "If": 1, "Neg": 1, "Slice": 1},
    ),
    "1 the second is an output": (
        graph(
            "g (float[8] x) => (float[N] y) <int64[1] s = {1}, int64[1] e = {7}> { a = Slice(x, s, e) y = Slice(a, s, e) }"
        ),
        {"Slice": 1},
    ),
    "2 a part of the second": (
        net("a = Exp(p) c = Concat<axis = 1>(p, a) q = Slice(c, s, e, k)", ints(s=7, e=9, k=1)),
        {"Exp": 1, "Neg": 2, "Slice": 1},
    ),
    "2 all of the first": (
        net("a = Exp(p) c = Concat<axis = -2>(p, a) q = Slice(c, s, e, k)", ints(s=0, e=6, k=1)),
        {"Exp": 1, "Neg": 2},
    ),
    "2 and another axis": (
        net("a = Exp(p) c = Concat<axis = 1>(p, a) q = Slice(c, s, e, k)", ints(s=[6, 1], e=[12, 5], k=[-2, 2])),
        {"Exp": 1, "Neg": 2, "Slice": 1},
    ),
    "2 backwards": (
        net("a = Exp(p) c = Concat<axis = 1>(p, a) q = Slice(c, s, e, k, st)", ints(s=5, e=-13, k=1, st=-1)),
        {"Exp": 1, "Neg": 2, "Slice": 1},
    ),
    "2 an open axis elsewhere": (
        net("a = Exp(p) c = Concat<axis = 1>(p, a) q = Slice(c, s, e, k)", ints(s=7, e=9, k=1), x="N,6,L"),
        {"Exp": 1, "Neg": 2, "Slice": 1},
    ),
    "2 others read the Concat": (
        graph(
            "g (float[2,6] x) => (float[2,6] y, float[2,12] z) <int64[1] s = {6}, int64[1] e = {12}, int64[1] k = {1}>"
            " { p = Neg(x) a = Exp(x) c = Concat<axis = 1>(p, a) q = Slice(c, s, e, k) y = Abs(q) z = Neg(c) }"
        ),
        {"Abs": 1, "Concat": 1, "Exp": 1, "Neg": 2},
    ),
    "3 halves": (
        net("a = Slice(p, s, e, k) b = Slice(p, e, f, k) q = Concat<axis = 0>(a, b)", ints(s=0, e=4, f=8, k=2)),
        {"Concat": 1, "Neg": 2, "Split": 1},
    ),
    "3 three uneven parts, out of order": (
        net(
            "c = Slice(p, f, h, k) a = Slice(p, s, e, k) b = Slice(p, e, f, k) q = Concat<axis = 1>(c, a, b)",
            ints(s=0, e=1, f=4, h=6, k=1),
        ),
        {"Concat": 1, "Neg": 2, "Split": 1},
    ),
    "3 from the end": (
        net("a = Slice(p, s, e, k) b = Slice(p, e, f, k) q = Concat<axis = 1>(b, a)", ints(s=0, e=-2, f=FULL, k=-2)),
        {"Concat": 1, "Neg": 2, "Split": 1},
    ),
    "3 of opset 9": (
        net(
            "a = Slice<starts = [0], ends = [2], axes = [1]>(p) b = Slice<starts = [2], ends = [6], axes = [1]>(p)"
            " q = Concat<axis = 1>(b, a)",
            opset=9,
        ),
        {"Concat": 1, "Neg": 2, "Split": 1},
    ),
    "3 of opset 11": (
        net(
            "a = Slice(p, s, e, k) b = Slice(p, e, f, k) q = Concat<axis = 2>(b, a)", ints(s=0, e=4, f=8, k=2), opset=11
        ),
        {"Concat": 1, "Neg": 2, "Split": 1},
    ),
    "3 of opset 18": (
        net(
            "a = Slice(p, s, e, k) b = Slice(p, e, f, k) q = Concat<axis = 2>(b, a)", ints(s=0, e=4, f=8, k=2), opset=18
        ),
        {"Concat": 1, "Neg": 2, "Split": 1},
    ),
    "3 of integers": (
        net(
            "a = Slice(p, s, e, k) b = Slice(p, e, f, k) q = Concat<axis = 2>(b, a)",
            ints(s=0, e=4, f=8, k=2),
            kind="int32",
        ),
        {"Concat": 1, "Neg": 2, "Split": 1},
    ),
    "3 of an open batch": (
        net(
            "a = Slice(p, s, e, k) b = Slice(p, e, f, k) q = Concat<axis = 2>(b, a)",
            ints(s=0, e=4, f=8, k=2),
            x="N,6,8",
        ),
        {"Concat": 1, "Neg": 2, "Split": 1},
    ),
    "3 one part is an output": (
        graph(
            f"g (float[6] x) => (float[2] y, float[4] b) <{ints(s=0, e=2, f=6)}>"
            " { p = Neg(x) a = Slice(p, s, e) b = Slice(p, e, f) y = Abs(a) }"
        ),
        {"Abs": 1, "Neg": 1, "Split": 1},
    ),
    "3 others read the whole": (
        graph(
            f"g (float[6] x) => (float[2] y, float[4] z, float[6] w) <{ints(s=0, e=2, f=6)}>"
            " { p = Neg(x) a = Slice(p, s, e) b = Slice(p, e, f) y = Abs(a) z = Abs(b) w = Exp(p) }"
        ),
        {"Abs": 2, "Exp": 1, "Neg": 1, "Split": 1},
    ),
    "3 parts that are parts again": (
        net(
            "a = Slice(p, s, e, k) b = Slice(p, e, f, k) c = Slice(a, s, h, k) d = Slice(a, h, e, k)"
            " q = Concat<axis = 1>(b, d, c)",
            ints(s=0, e=4, f=6, h=1, k=1),
        ),
        {"Concat": 1, "Neg": 2, "Split": 2},
    ),
    "4 the second of two": (net("a, q = Split<axis = 2>(p, s)", ints(s=[3, 5])), ONE),
    "4 the first of three": (net("q, a, b = Split<axis = -2>(p)"), ONE),
    "4 of opset 11": (net("a, q = Split<axis = 1, split = [2, 4]>(p)", opset=11), ONE),
    "4 of opset 9": (net("a, q = Split<axis = 1, split = [2, 4]>(p)", opset=9), ONE),
    "4 edge 50: uneven parts by their number": (net("a, b, q = Split<axis = 2, num_outputs = 3>(p)", opset=18), ONE),
    "4 an open axis, sizes stated": (
        net("q, a = Split<axis = 0>(p, s)", ints(s=[1, 3]), x="N,6,8").replace("N,", "4,"),
        ONE,
    ),
    "4 then merged with the next": (
        net("a, b = Split<axis = 2>(p, s) q = Slice(b, t, f, k)", ints(s=[3, 5], t=1, f=3, k=2)),
        ONE,
    ),
    "4 one part is an output": (
        graph(f"g (float[6] x) => (float[4] b) <{ints(s=[2, 4])}> {{ p = Neg(x) a, b = Split<axis = 0>(p, s) }}"),
        {"Neg": 1, "Slice": 1},
    ),
}


@pytest.mark.parametrize("case", MERGED)
def test_merged(case: str) -> None:
    text, ops = MERGED[case]
    assert_fires(RULE, text, ops)


KEPT: dict[str, tuple[str, str | None]] = {
    "5 positions that are computed": (
        net("s = Shape<end = 1>(x) a = Slice(p, z, e, k) q = Slice(a, z, s, k)", ints(z=0, e=4, k=1)),
        "its positions are not constant",
    ),
    "5 the first has such": (
        net("s = Shape<end = 1>(x) a = Slice(p, z, s, k) q = Slice(a, z, e, k)", ints(z=0, e=4, k=1)),
        "the positions of Slice 'Slice_a' are not constant",
    ),
    "5 positions that callers may override": (
        graph(
            "g (float[8] x, int64[1] e) => (float[M] y) <int64[1] e = {6}, int64[1] s = {1}>"
            " { p = Neg(x) a = Slice(p, s, e) b = Slice(a, s, e) y = Neg(b) }"
        ),
        "its positions are not constant",
    ),
    "6 read elsewhere": (
        graph(
            f"g (float[8] x) => (float[N] y, float[N] z) <{ints(s=1, e=6)}>"
            " { a = Slice(x, s, e) b = Slice(a, s, e) y = Neg(b) z = Neg(a) }"
        ),
        "Slice 'Slice_a' before it is read by other nodes too",
    ),
    "6 an output": (
        graph(
            f"g (float[8] x) => (float[N] y, float[5] a) <{ints(s=1, e=6)}> {{ a = Slice(x, s, e) b = Slice(a, s, e) y = Neg(b) }}"
        ),
        "or is an output of the graph",
    ),
    "6 read by a branch": (
        graph(
            f"g (float[8] x, bool c) => (float[N] y, float[N] z) <{ints(s=1, e=6)}> {{ a = Slice(x, s, e) b = Slice(a, s, e)"
            " y = Neg(b) z = If(c) <then_branch = p () => (float[N] u) { u = Neg(a) },"
            " else_branch = q () => (float[N] v) { v = Exp(a) }> }"
        ),
        "is read by other nodes too",
    ),
    "7 an open axis from the end": (
        two((-5, FULL, 2, 1, 3, 2), x="2,6,L"),
        "what it takes of axis 2 depends on the size, which is open",
    ),
    "7 an open axis with steps": (
        net("a = Slice(p, s, e, k, st) q = Slice(a, t, f, k)", ints(s=0, e=8, k=2, st=2, t=1, f=3), x="2,6,L"),
        "depends on the size",
    ),
    "8 an operand of open size": (
        graph(
            f"g (float[2,N] x) => (float[2,3] y) <{ints(s=0, e=3, k=1)}>"
            " { p = Neg(x) a = Exp(x) c = Concat<axis = 1>(p, a) q = Slice(c, s, e, k) y = Abs(q) }"
        ),
        "an operand of Concat 'Concat_c' has an open size on axis 1",
    ),
    "9 parts of two operands": (
        net("a = Exp(p) c = Concat<axis = 1>(p, a) q = Slice(c, s, e, k)", ints(s=5, e=7, k=1)),
        "it takes from several operands of Concat 'Concat_c'",
    ),
    "2 another axis": (net("a = Exp(p) c = Concat<axis = 1>(p, a) q = Slice(c, s, e, k)", ints(s=5, e=7, k=2)), None),
    "10 an overlap": (
        net("a = Slice(p, s, e, k) b = Slice(p, f, h, k) q = Concat<axis = 1>(b, a)", ints(s=0, e=4, f=3, h=6, k=1)),
        None,
    ),
    "10 a gap": (
        net("a = Slice(p, s, e, k) b = Slice(p, f, h, k) q = Concat<axis = 1>(b, a)", ints(s=0, e=3, f=4, h=6, k=1)),
        None,
    ),
    "10 the end is missing": (
        net("a = Slice(p, s, e, k) b = Slice(p, e, h, k) q = Concat<axis = 1>(b, a)", ints(s=0, e=3, h=5, k=1)),
        None,
    ),
    "10 one of them twice": (
        net(
            "a = Slice(p, s, e, k) b = Slice(p, e, h, k) c = Slice(p, s, e, k) q = Concat<axis = 1>(b, a, c)",
            ints(s=0, e=3, h=6, k=1),
        ),
        None,
    ),
    "10 of two axes": (
        net(
            "a = Slice(p, s, e, k) b = Slice(p, t, f, k) q = Concat<axis = 1>(b, a)",
            ints(s=[0, 0], e=[3, 2], t=[3, 0], f=[6, 2], k=[1, 2]),
        ),
        None,
    ),
    "10 with steps": (
        net("a = Slice(p, s, e, k, st) b = Slice(p, t, e, k, st) q = Add(a, b)", ints(s=0, t=1, e=8, k=2, st=2)),
        None,
    ),
    "10 of an open axis": (
        net(
            "a = Slice(p, s, e, k) b = Slice(p, e, f, k) q = Concat<axis = 2>(b, a)",
            ints(s=0, e=3, f=FULL, k=2),
            x="2,6,L",
        ),
        None,
    ),
    "10 in two graphs": (
        graph(
            f"g (float[6] x, bool c) => (float[2] y, float[2] z) <{ints(s=0, e=2, f=4, h=6)}> {{ p = Exp(x) y = Slice(p, s, e)"
            " z = If(c) <then_branch = t () => (float[2] u) { u = Slice(p, e, f) },"
            " else_branch = w () => (float[2] v) { v = Slice(p, f, h) }> }"
        ),
        None,
    ),
    "11 sizes that are computed": (
        graph("g (float[4] x, int64[2] s) => (float[M] y) { p = Neg(x) a, q = Split<axis = 0>(p, s) y = Neg(q) }"),
        "where it lies is not known beforehand",
    ),
    "11 equal parts of an open axis": (
        net("a, q = Split<axis = 0>(p)", x="N,6"),
        "where it lies is not known beforehand",
    ),
    "4 both are read": (net("a, b = Split<axis = 1>(p) q = Add(a, b)"), None),
    "a lone Slice": (net("q = Slice(p, s, e, k)", ints(s=0, e=3, k=1)), None),
    "the first in the outer graph": (
        graph(
            f"g (float[8] x, bool c) => (float[N] y) <{ints(s=1, e=6)}> {{ a = Slice(x, s, e) y = If(c) <then_branch = p ()"
            " => (float[M] u) { u = Slice(a, s, e) }, else_branch = q () => (float[M] v) { v = Neg(a) }> }"
        ),
        None,
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    text, reason = KEPT[case]
    assert_left_alone(RULE, text, reason)


@pytest.mark.parametrize("steps", [*itertools.product((1, 2, -1, -3), repeat=2)])
def test_1_positions_of_all_signs(steps: tuple[int, int]) -> None:
    """Two Slices of an axis of 8, with positions within and beyond it."""
    for s, e, t, f in ((0, 8, 1, 3), (1, 7, 0, 9), (-7, -1, -3, -1), (-20, 20, 2, 20), (6, -20, 3, -20), (7, 1, 2, 0)):
        text = net(
            "a = Slice(p, s, e, k, m) q = Slice(a, t, f, k, n)", ints(s=s, e=e, k=2, m=steps[0], t=t, f=f, n=steps[1])
        )
        model = loaded(text)
        if any(d == 0 for v in model.graph[-1].inputs if v is not None and v.shape for d in v.shape):
            continue  # of nothing: its own row above
        assert_fires(RULE, text, ONE)


MORE = "r = Slice(x, u, v, w) o = Slice(r, u, v, w) z = ReduceSum<keepdims = 0>(o) y0 = Mul(z, z)"
SABOTAGE = graph(
    f"g (float[2,6,8] x) => (float[2,6,2] y, float y0) <{ints(s=1, e=5, k=2, t=1, f=3, u=1, v=4, w=1)}>"
    f" {{ p = Neg(x) a = Slice(p, s, e, k) [n] b = Slice(a, t, f, k) y = Neg(b) {MORE} }}"
)
PARTS = graph(
    f"g (float[2,6] x) => (float[2,3] y, float[2,3] y1, float y0) <{ints(s=0, e=3, f=6, k=1, u=1, v=4, w=1)}>"
    f" {{ p = Neg(x) [n] a = Slice(p, s, e, k) b = Slice(p, e, f, k) y = Neg(a) y1 = Exp(b) {MORE} }}"
)
ONLY_ONE = graph(
    f"g (float[2,6] x) => (float[2,3] y, float y0) <{ints(s=[3, 3], u=1, v=4, w=1)}>"
    f" {{ p = Neg(x) [n] a, b = Split<axis = 1>(p, s) y = Neg(b) {MORE} }}"
)
OF_CONCAT = graph(
    f"g (float[2,6] x) => (float[2,3] y, float y0) <{ints(s=6, e=9, k=1, u=1, v=4, w=1)}>"
    f" {{ p = Neg(x) a = Exp(x) c = Concat<axis = 1>(p, a) [n] b = Slice(c, s, e, k) y = Neg(b) {MORE} }}"
)


def shifted_split_sizes(node: object, version: int) -> list[int]:
    return [2, 3]


BREAKAGES: dict[str, tuple[str, Breakage | Patch]] = {
    "1 left out": (SABOTAGE, wired_to_its_input),
    "1 one off": (SABOTAGE, Patch(fold_slices, "combined", lambda a, b, n: (a[0], b[1], 1) if a != b else (2, 4, 1))),
    "3 swapped": (PARTS, swapped_outputs),
    "4 another part": (ONLY_ONE, Patch(fold_slices, "split_sizes", shifted_split_sizes)),
    "2 left out": (OF_CONCAT, wired_to_its_input),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_sabotage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = BREAKAGES[name]
    assert_caught(RULE, text, how, monkeypatch)
