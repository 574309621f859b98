from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import files
from edgeopt.graph import attribute, op_histogram
from edgeopt.oracle import Oracle
from edgeopt.passes.space_depth import SpaceDepth
from edgeopt.rewrite import Rewrite
from edgeopt.simplifier import simplify
from tests import nets
from tests.models import assert_same
from tests.passes.rewriting import assert_rewritten, assert_skipped
from tests.passes.sabotage import Breakage, assert_caught, scaled, wired_to_its_input

BOUNDS = (
    "int64[2] a = {2, 3}, int64[2] an = {-1, -2}, int64[2] st = {2, 2}, int64[2] p00 = {0, 0}, int64[2] p10 = {1, 0},"
    " int64[2] p01 = {0, 1}, int64[2] p11 = {1, 1}, int64[2] e = {9223372036854775807, 2147483647},"
    " int64[1] h = {2}, int64[1] w1 = {-1}, int64[1] zero = {0}, int64[1] uno = {1}, int64[1] far ="
    " {9223372036854775807},"
    " int64[1] two = {2}, int64[2] short = {4, 8}"
)
WEIGHTS = f"float[5,12,3,3] w, float[5] b, {BOUNDS}"
SLICES = (
    "s0 = Slice(x, p00, e, a, st) s1 = Slice(x, p10, e, a, st) s2 = Slice(x, p01, e, a, st) s3"
    " = Slice(x, p11, e, a, st)"
)
YOLO, PLAIN = "t = Concat<axis = 1>(s0, s1, s2, s3)", "t = Concat<axis = 1>(s0, s2, s1, s3)"
CONV = "[n] y = Conv<pads = [1, 1, 1, 1]>(t, w, b)"


def net(nodes: str, *, x: str = "N,3,H,W", weights: str = WEIGHTS, kind: str = "float", opset: int = 17) -> str:
    weights = weights.replace("float", kind)
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"g ({kind}[{x}] x) => ({kind}[A,B,C,D] y) <{weights}> {{ {nodes} }}"
    )


def folded(
    perm: str, *, inner: str, result: str, x: str, tail: str = "", batch: int = -1, opset: int = 17, kind: str = "float"
) -> str:
    """Reshape, Transpose, Reshape; with a tail, they end in t and it makes y of that."""
    end = "t" if tail else "y"
    last = f"{end} = Reshape(m, q)"
    return net(
        f"r = Reshape(x, p) m = Transpose<perm = [{perm}]>(r) {last if tail else '[n] ' + last} {tail}",
        x=x,
        weights=f"int64[6] p = {{{batch},{inner}}}, int64[4] q = {{{batch},{result}}}, float[5,16,3,3] w, float[5] b",
        opset=opset,
        kind=kind,
    )


UNSHUFFLE: dict[str, Any] = {"inner": "4,3,2,4,2", "result": "16,3,4", "x": "N,4,6,8"}
REWRITES: dict[str, tuple[str, dict[str, int]]] = {
    "1 Focus": (net(f"{SLICES} {YOLO} {CONV}"), {"Conv": 1}),
    "1 Focus of fixed sizes": (net(f"{SLICES} {YOLO} {CONV}", x="1,3,8,10"), {"Conv": 1}),
    "1 strides and no bias": (net(f"{SLICES} {YOLO} [n] y = Conv<strides = [2, 1]>(t, w)", x="2,3,8,10"), {"Conv": 1}),
    "1 uneven pads": (net(f"{SLICES} {YOLO} [n] y = Conv<pads = [0, 1, 2, 0]>(t, w, b)"), {"Conv": 1}),
    "1 SAME": (net(f'{SLICES} {YOLO} [n] y = Conv<auto_pad = "SAME_UPPER">(t, w, b)'), {"Conv": 1}),
    "1 the Concat's axis from behind": (net(f"{SLICES} {YOLO} {CONV}".replace("axis = 1", "axis = -3")), {"Conv": 1}),
    "1 axes in another order": (
        net(
            "s0 = Slice(x, p00, e, an, st) s1 = Slice(x, p01, e, an, st) s2 = Slice(x, p10, e, an, st)"
            f" s3 = Slice(x, p11, e, an, st) {YOLO} {CONV}",
            x="1,3,8,8",
        ),
        {"Conv": 1},
    ),
    "1 an axis at a time": (
        net(
            "r0 = Slice(x, zero, far, h, two) r1 = Slice(x, uno, far, h, two) s0 = Slice(r0, zero, far, w1, two)"
            " s1 = Slice(r1, zero, far, w1, two) s2 = Slice(r0, uno, far, w1, two) s3 = Slice(r1, uno, far, w1, two)"
            f" {YOLO} {CONV}"
        ),
        {"Conv": 1},
    ),
    "1 ends at the sizes": (
        net(f"{SLICES} {YOLO} {CONV}".replace("e, a, st", "short, a, st"), x="1,3,4,8"),
        {"Conv": 1},
    ),
    "2 Focus before something else": (net(f"{SLICES} {PLAIN} y = Relu(t)"), {"SpaceToDepth": 1, "Relu": 1}),
    "2 the parts column by column": (
        net(f"{SLICES} [n] {YOLO} y = Relu(t)"),
        {"SpaceToDepth": 1, "Gather": 1, "Relu": 1},
    ),
    "2 Focus, read twice": (
        net(f"{SLICES} {PLAIN} z = Relu(t) y = Add(z, t)"),
        {"SpaceToDepth": 1, "Relu": 1, "Add": 1},
    ),
    "1 parts row by row": (net(f"{SLICES} {PLAIN} {CONV}"), {"Conv": 1}),
    "2 before a Conv with groups": (
        net(f"{SLICES} {PLAIN} [n] y = Conv<group = 2>(t, v)", weights=f"float[4,6,1,1] v, {BOUNDS}"),
        {"SpaceToDepth": 1, "Conv": 1},
    ),
    "3 SpaceToDepth": (net(f"t = SpaceToDepth<blocksize = 2>(x) {CONV}"), {"Conv": 1}),
    "3 blocks of three": (
        net("t = SpaceToDepth<blocksize = 3>(x) [n] y = Conv(t, v)", weights="float[4,18,1,2] v", x="1,2,6,9"),
        {"Conv": 1},
    ),
    "4 SpaceToDepth": (folded("0,3,5,1,2,4", **UNSHUFFLE), {"SpaceToDepth": 1}),
    "4 SpaceToDepth, a fixed batch": (
        folded("0,3,5,1,2,4", batch=2, **UNSHUFFLE | {"x": "2,4,6,8"}),
        {"SpaceToDepth": 1},
    ),
    "4 SpaceToDepth and Conv": (
        folded("0,3,5,1,2,4", tail="[n] y = Conv<pads = [1, 1, 1, 1]>(t, w, b)", **UNSHUFFLE),
        {"Conv": 1},
    ),
    "4 pixel unshuffle and Conv": (
        folded("0,1,3,5,2,4", tail="[n] y = Conv<pads = [1, 1, 1, 1], strides = [1, 2]>(t, w, b)", **UNSHUFFLE),
        {"Conv": 1},
    ),
    "4 pixel unshuffle of one channel": (
        folded("0,1,3,5,2,4", inner="1,3,2,4,2", result="4,3,4", x="N,1,6,8"),
        {"SpaceToDepth": 1},
    ),
    "5 DCR": (folded("0,3,4,1,5,2", inner="2,2,4,3,5", result="4,6,10", x="N,16,3,5"), {"DepthToSpace": 1}),
    "5 CRD": (folded("0,1,4,2,5,3", inner="4,2,2,3,5", result="4,6,10", x="N,16,3,5"), {"DepthToSpace": 1}),
    "5 blocks of three": (folded("0,1,4,2,5,3", inner="2,3,3,3,5", result="2,9,15", x="N,18,3,5"), {"DepthToSpace": 1}),
    **{
        f"opset {version}": (net(f"{SLICES} {YOLO} {CONV}", opset=version), {"Conv": 1})
        for version in (10, 11, 13, 18, 21)
    },
    **{
        f"5 DCR, opset {version}": (
            folded("0,3,4,1,5,2", inner="2,2,4,3,5", result="4,6,10", x="N,16,3,5", opset=version),
            {"DepthToSpace": 1},
        )
        for version in (9, 11, 21)
    },
}


@pytest.mark.parametrize("case", REWRITES)
def test_rewrites(case: str) -> None:
    text, histogram = REWRITES[case]
    assert_rewritten(SpaceDepth(), text, histogram)


def test_multiplications_stay_the_same() -> None:
    result = assert_rewritten(SpaceDepth(), net(f"{SLICES} {YOLO} {CONV}", x="1,3,8,10"), {"Conv": 1})
    node = result.graph.node(0)
    assert [list(attribute(node, name)) for name in ("kernel_shape", "strides", "pads")] == [[6, 6], [2, 2], [2] * 4]


def test_in_a_branch() -> None:
    text = (
        f"g (float[1,3,6,6] x, bool cond) => (float[1,5,3,3] y) <{WEIGHTS}> {{ y = If(cond) <"
        f"then_branch = p () => (float[1,5,3,3] r) {{ {SLICES} {YOLO} [n] r = Conv<pads = [1,1,1,1]>(t, w, b) }},"
        "else_branch = q () => (float[1,5,3,3] u) { k = SpaceToDepth<blocksize = 2>(x)"
        " [m] u = Conv<pads = [1,1,1,1]>(k, w) }> }"
    )
    assert_rewritten(SpaceDepth(), text, {"Conv": 2, "If": 1})


SKIPS: dict[str, tuple[str, str | None]] = {
    "6 a bound is an input": (
        net(f"{SLICES} {YOLO} {CONV}".replace("s0 = Slice(x, p00", "s0 = Slice(x, v")).replace(
            "x) =>", "x, int64[2] v) =>"
        ),
        None,
    ),
    "6 an end before the last": (net(f"{SLICES} {YOLO} {CONV}".replace("e, a, st", "short, a, st"), x="1,3,6,8"), None),
    "6 a part twice": (net(f"{SLICES} {YOLO} {CONV}".replace("s2, s3)", "s2, s2)")), None),
    "6 parts of two values": (
        net(f"v = Neg(x) {SLICES} {YOLO} {CONV}".replace("s3 = Slice(x", "s3 = Slice(v")),
        None,
    ),
    "6 other steps": (
        net(
            f"{SLICES} {YOLO} {CONV}".replace("s0 = Slice(x, p00, e, a, st)", "s0 = Slice(x, p00, q, a, three)"),
            x="1,3,4,4",
            weights=WEIGHTS + ", int64[2] three = {3, 3}, int64[2] q = {4, 4}",
        ),
        None,
    ),
    "7 a part is read elsewhere": (
        net(f"{SLICES} {YOLO} o = Neg(s1) {CONV}").replace("] y)", "] y, float[E,F,G,H] o)"),
        None,
    ),
    "7 the Concat is read elsewhere": (
        net(f"t = SpaceToDepth<blocksize = 2>(x) o = Neg(t) {CONV}").replace("] y)", "] y, float[E,F,G,H] o)"),
        "read by other nodes too",
    ),
    "7 the Concat is an output": (
        net(f"t = SpaceToDepth<blocksize = 2>(x) {CONV}").replace("] y)", "] y, float[E,F,G,H] t)"),
        "an output of the graph",
    ),
    "7 a Reshape is read elsewhere": (
        folded("0,3,5,1,2,4", **UNSHUFFLE)
        .replace("r = Reshape(x, p)", "r = Reshape(x, p) o = Neg(r)")
        .replace("] y)", "] y, float[E,F,G,H,I,J] o)"),
        None,
    ),
    "8 open sizes": (folded("0,3,5,1,2,4", inner="4,3,2,4,2", result="16,3,4", x="N,4,H,W"), None),
    "8 other sizes": (folded("0,3,5,1,2,4", inner="4,2,3,4,2", result="24,2,4", x="N,4,6,8"), None),
    "8 another result": (folded("0,3,5,1,2,4", inner="4,3,2,4,2", result="8,6,4", x="N,4,6,8"), None),
    "8 the batch is taken apart": (
        folded("0,3,5,1,2,4", inner="2,3,2,4,2", result="8,3,4", x="N,4,6,8"),
        None,
    ),
    "5 another permutation": (folded("0,1,4,3,5,2", inner="4,2,2,3,5", result="4,6,10", x="N,16,3,5"), None),
    "5 CRD, opset 9": (folded("0,1,4,2,5,3", inner="4,2,2,3,5", result="4,6,10", x="N,16,3,5", opset=9), None),
    "9 large weights that others share": (
        net(
            "z = Neg(v) o = Conv(z, w) t = SpaceToDepth<blocksize = 2>(x) [n] y = Conv(t, w)",
            x="1,32,6,6",
            weights="float[64,128,3,3] w",
        )
        .replace("x) =>", "x, float[1,128,3,3] v) =>")
        .replace("] y)", "] y, float[E,F,G,H] o)"),
        "would be stored twice",
    ),
    "10 float16": (net(f"{SLICES} {YOLO} {CONV}", kind="float16"), None),
    "groups": (
        net("t = SpaceToDepth<blocksize = 2>(x) [n] y = Conv<group = 2>(t, v)", weights="float[4,6,1,1] v"),
        "groups or dilations",
    ),
    "dilations": (
        net("t = SpaceToDepth<blocksize = 2>(x) [n] y = Conv<dilations = [1, 2]>(t, w)", x="1,3,8,12"),
        "groups or dilations",
    ),
    "weights are an input": (
        net("t = SpaceToDepth<blocksize = 2>(x) [n] y = Conv(t, v)").replace("x) =>", "x, float[5,12,3,3] v) =>"),
        "not constant",
    ),
    "it is the weight of a Conv": (
        net("t = SpaceToDepth<blocksize = 2>(x) [n] y = Conv(v, t)", x="5,3,2,2").replace(
            "x) =>", "x, float[1,12,3,3] v) =>"
        ),
        None,
    ),
    "a Focus over the batch": (
        net(f"{SLICES} {YOLO} y = Relu(t)".replace("axis = 1", "axis = 0")),
        None,
    ),
}


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    assert_skipped(SpaceDepth(), text, reason)


def turned(rewrite: Rewrite) -> Rewrite:
    """Rows and columns of the kernel exchanged."""
    value = rewrite.replacement[0].inputs[1]
    assert value is not None
    assert value.const_value is not None
    value.const_value = ir.tensor(np.ascontiguousarray(value.const_value.numpy().transpose(0, 1, 3, 2)))
    return rewrite


def pads_kept(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].attributes["pads"] = ir.AttrInt64s("pads", [1, 1, 3, 3])
    return rewrite


def other_mode(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].attributes["mode"] = ir.AttrString("mode", "DCR")
    return rewrite


CRD = folded("0,1,4,2,5,3", inner="4,2,2,3,5", result="4,6,10", x="N,16,3,5")
SABOTAGE: dict[str, tuple[str, Breakage]] = {
    "a channel of the weights": (net(f"{SLICES} {YOLO} {CONV}"), scaled(1, 1, 1.001)),
    "a kernel that is turned": (net(f"{SLICES} {YOLO} {CONV}"), turned),
    "pads at the wrong side": (net(f"{SLICES} {YOLO} {CONV}"), pads_kept),
    "the other mode": (CRD, other_mode),
    "not there": (
        net("t = SpaceToDepth<blocksize = 2>(x) [n] u = Conv(t, w) y = Relu(u)", x="2,3,8,8"),
        wired_to_its_input,
    ),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_sabotage(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(SpaceDepth(), text, how, monkeypatch)


def test_a_net() -> None:
    model = files.load(nets.focus()).model
    done = simplify(model, Oracle(model))
    assert op_histogram(done.model) == {"Conv": 1, "DepthToSpace": 1, "Relu": 1}
    assert_same(model, done.model)
