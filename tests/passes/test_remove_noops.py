from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.graph import op_histogram
from edgeopt.passes.remove_noops import RemoveNoops
from tests.models import assert_same, checked, loaded

OPSET = '<ir_version: {ir}, opset_import: ["" : {opset}]>\n'


def text(
    body: str, shape: str = "1,3,4,4", *, kind: str = "float", opset: int = 17, extra: str = "", out: str = ""
) -> str:
    """A graph x → y of the same shape, with a Neg before and an Abs after the part under test (p → q)."""
    head = OPSET.format(ir=10 if opset > 17 else 8, opset=opset)
    outer = "Not" if kind == "bool" else "Abs" if kind == "uint8" else "Neg"
    return (
        f"{head} g ({kind}[{shape}] x) => ({kind}[{out or shape}] y) <{extra}> "
        f"{{ p = {outer}(x) {body} y = {outer}(q) }}"
    )


REMOVED = {
    "1 Identity": text("q = Identity(p)"),
    "1 Identity of an open shape": text("q = Identity(p)", "N,3,H,W"),
    "1 Identity of integers": text("q = Identity(p)", kind="int64"),
    "1 Dropout": text("q = Dropout(p)"),
    "1 Dropout with a ratio": text("q = Dropout(p, r)", extra="float r = {0.5}"),
    "1 Dropout told not to train": text("q = Dropout(p, r, t)", extra="float r = {0.5}, bool t = {0}"),
    "1 Dropout whose mask is not read": text("q, mask = Dropout(p)"),
    "1 Dropout of opset 7": text("q = Dropout <ratio = 0.5> (p)", opset=7),
    "1 a chain of them": text("a = Identity(p) b = Dropout(a) c = Identity(b) q = Identity(c)"),
    "2 Cast to the same type": text("q = Cast<to = 1>(p)"),
    "2 Cast of integers": text("q = Cast<to = 7>(p)", kind="int64"),
    "2 Cast of float16": text("q = Cast<to = 10>(p)", kind="float16"),
    "3 Reshape": text("q = Reshape(p, s)", extra="int64[4] s = {1, 3, 4, 4}"),
    "3 Reshape with 0 and -1": text("q = Reshape(p, s)", extra="int64[4] s = {0, -1, 4, 4}"),
    "3 Reshape of an empty tensor": text("q = Reshape(p, s)", "0,3", extra="int64[2] s = {0, 3}"),
    "3 Expand": text("q = Expand(p, s)", extra="int64[3] s = {3, 1, 4}"),
    "3 Tile": text("q = Tile(p, s)", extra="int64[4] s = {1, 1, 1, 1}"),
    "3 Tile of an open shape": text("q = Tile(p, s)", "N,3,4,4", extra="int64[4] s = {1, 1, 1, 1}"),
    "4 Transpose": text("q = Transpose<perm = [0, 1, 2, 3]>(p)", "N,3,4,4"),
    "4 Transpose of a vector": text("q = Transpose(p)", "4"),
    "5 Concat": text("q = Concat<axis = 1>(p)"),
    "5 Concat at a negative axis": text("q = Concat<axis = -1>(p)"),
    "5 Sum": text("q = Sum(p)"),
    "5 Mean": text("q = Mean(p)"),
    "5 Max": text("q = Max(p)"),
    "5 Min": text("q = Min(p)"),
    "5 Split into one part": text("q = Split<axis = 1>(p, s)", extra="int64[1] s = {3}"),
    "5 Split by num_outputs": text("q = Split<axis = 1, num_outputs = 1>(p)", opset=18),
    "6 Squeeze of no axes": text("q = Squeeze(p, s)", "2,3", extra="int64[0] s = {}"),
    "6 Squeeze that finds none": text("q = Squeeze(p)", "2,3"),
    "6 Unsqueeze": text("q = Unsqueeze(p, s)", extra="int64[0] s = {}"),
    "6 Unsqueeze of opset 11": text("q = Unsqueeze<axes: ints = []>(p)", opset=11),
    "7 Flatten of a matrix": text("q = Flatten(p)", "N,5"),
    "7 Flatten at axis -1": text("q = Flatten<axis = -1>(p)", "N,5"),
    "8 Pad": text("q = Pad(p, s)", extra="int64[8] s = {0, 0, 0, 0, 0, 0, 0, 0}"),
    "8 Pad by reflection": text('q = Pad<mode = "reflect">(p, s)', extra="int64[8] s = {0, 0, 0, 0, 0, 0, 0, 0}"),
    "8 Pad of some axes": text("q = Pad(p, s, , a)", extra="int64[2] s = {0, 0}, int64[1] a = {2}", opset=18),
    "8 Pad of opset 10": text("q = Pad<pads = [0, 0, 0, 0, 0, 0, 0, 0]>(p)", opset=10),
    "9 Slice": text("q = Slice(p, s, e, a)", extra="int64[1] s = {0}, int64[1] e = {2147483647}, int64[1] a = {2}"),
    "9 Slice with steps": text(
        "q = Slice(p, s, e, a, t)", extra="int64[1] s = {0}, int64[1] e = {9}, int64[1] a = {-1}, int64[1] t = {1}"
    ),
    "9 Slice of opset 9": text("q = Slice<starts = [0], ends = [4], axes = [2]>(p)", opset=9),
    "9 Resize by scales": text("q = Resize(p, , s)", extra="float[4] s = {1, 1, 1, 1}"),
    "9 Resize linear, aligned corners": text(
        'q = Resize<mode = "linear", coordinate_transformation_mode = "align_corners">(p, , s)',
        extra="float[4] s = {1, 1, 1, 1}",
    ),
    "9 Resize of opset 10": text("q = Resize(p, s)", extra="float[4] s = {1, 1, 1, 1}", opset=10),
    "9 Slice of an open shape": text(
        "q = Slice(p, s, e, a)",
        "N,3,H,W",
        extra="int64[1] s = {0}, int64[1] e = {9223372036854775807}, int64[1] a = {2}",
    ),
    "9 Slice of an open shape, opset 9": text(
        "q = Slice<starts = [0], ends = [2147483647], axes = [2]>(p)", "N,3,H,W", opset=9
    ),
    "9 Upsample": text("q = Upsample(p, s)", extra="float[4] s = {1, 1, 1, 1}", opset=9),
    "9 Upsample of opset 7": text("q = Upsample<scales = [1.0, 1.0, 1.0, 1.0]>(p)", opset=7),
    "10 x + 0": text("q = Add(p, c)", extra="float c = {0}"),
    "10 0 + x": text("q = Add(c, p)", extra="float[3,1,1] c = {0, 0, 0}"),
    "10 x - 0": text("q = Sub(p, c)", extra="float[1,1,1,1] c = {0}"),
    "10 x * 1": text("q = Mul(p, c)", extra="float[4] c = {1, 1, 1, 1}"),
    "10 1 * x": text("q = Mul(c, p)", extra="float c = {1}"),
    "10 x / 1": text("q = Div(p, c)", extra="float c = {1}"),
    "10 x ** 1": text("q = Pow(p, c)", extra="float c = {1}"),
    "10 integers": text("q = Mul(p, c)", kind="int64", extra="int64 c = {1}"),
    "10 by a Constant node": text("c = Constant<value_float = 1.0>() q = Mul(p, c)"),
    "10 an open shape": text("q = Add(p, c)", "N,3,H,W", extra="float[3,1,1] c = {0, 0, 0}"),
    "11 Clip": text("q = Clip(p)"),
    "11 Clip with empty slots": text("q = Clip(p, , )"),
    "11 Clip of opset 6": text("q = Clip(p)", opset=6),
    "12 MaxPool": text("q = MaxPool<kernel_shape = [1, 1]>(p)"),
    "12 AveragePool": text("q = AveragePool<kernel_shape = [1, 1], strides = [1, 1]>(p)"),
    "12 GlobalAveragePool": text("q = GlobalAveragePool(p)", "2,3,1,1"),
    "12 GlobalMaxPool of an open batch": text("q = GlobalMaxPool(p)", "N,3,1"),
    "13 x and true": text("q = And(p, c)", "2,3", kind="bool", extra="bool c = {1}"),
    "13 true and x": text("q = And(c, p)", "2,3", kind="bool", extra="bool[3] c = {1, 1, 1}"),
    "13 x or false": text("q = Or(p, c)", "N,3", kind="bool", extra="bool c = {0}"),
    "13 x xor false": text("q = Xor(p, c)", "2,3", kind="bool", extra="bool[1] c = {0}"),
    "14 Where, always": text("q = Where(c, p, d)", "2,3", extra="bool c = {1}, float d = {5}"),
    "14 Where, never": text("q = Where(c, d, p)", "2,3", extra="bool[3] c = {0, 0, 0}, float d = {5}"),
    "14 Where of the same twice": text("a = Greater(p, d) q = Where(a, p, p)", "2,3", extra="float d = {0}"),
    "14 Where of open dims": text("q = Where(c, p, p)", "N,M", extra="bool c = {1}"),
    "15 Expand to ones": text("q = Expand(p, s)", "N,3", extra="int64[2] s = {1, 1}"),
    "15 Expand to fewer ones": text("q = Expand(p, s)", "N,C,3", extra="int64[1] s = {1}"),
}

KEPT = {
    "1 Dropout whose mask is read": (
        "g (float[2] x) => (float[2] y, bool[2] m) { p = Neg(x) q, m = Dropout(p) y = Neg(q) }"
    ),
    "1 Dropout that trains": text("q = Dropout(p, r, t)", extra="float r = {0.0}, bool t = {1}"),
    "1 Dropout that may train": (
        "g (float[2] x, bool t) => (float[2] y) <float r = {0.0}> { p = Neg(x) q = Dropout(p, r, t) y = Neg(q) }"
    ),
    "1 Dropout of opset 6 trains unless told not to": text("q = Dropout(p)", opset=6),
    "2 Cast to another type": "g (float[2] x) => (int64[2] y) { p = Neg(x) q = Cast<to = 7>(p) y = Neg(q) }",
    "2 there and back loses bits": (
        "g (float[2] x) => (float[2] y) { p = Cast<to = 10>(x) q = Cast<to = 1>(p) y = Neg(q) }"
    ),
    "3 Reshape of an open shape": text("q = Reshape(p, s)", "N,3", extra="int64[2] s = {-1, 3}"),
    "3 Reshape to another shape": text("q = Reshape(p, s)", "2,3", extra="int64[2] s = {3, 2}", out="3,2"),
    "3 Expand that enlarges": text("q = Expand(p, s)", "1,3", extra="int64[2] s = {2, 3}", out="2,3"),
    "3 Expand of an open shape": text("q = Expand(p, s)", "N,3", extra="int64[2] s = {2, 3}", out="M,3"),
    "3 Tile twice": text("q = Tile(p, s)", "1,3", extra="int64[2] s = {2, 1}", out="2,3"),
    "4 Transpose of a square": text("q = Transpose(p)", "4,4"),
    "4 Transpose of unknown rank order": text("q = Transpose<perm = [0, 1, 3, 2]>(p)"),
    "5 Concat with itself": text("q = Concat<axis = 0>(p, p)", "2", out="4"),
    "6 Squeeze of all ones": text("q = Squeeze(p)", "1,3", out="3"),
    "6 Squeeze without axes of an open shape": text("q = Squeeze(p)", "N,3"),
    "6 Squeeze of no axes, which runtimes take for all": text(
        "q = Squeeze(p, s)", "1,3", extra="int64[0] s = {}", out="M"
    ),
    "7 Flatten at axis 0": text("q = Flatten<axis = 0>(p)", "1,6"),
    "7 Flatten of four axes": text("q = Flatten(p)", "1,3,4,4", out="1,48"),
    "8 Pad": text("q = Pad(p, s)", "3", extra="int64[2] s = {0, 1}", out="4"),
    "8 Pad by amounts that cancel": text("q = Pad(p, s)", "3", extra="int64[2] s = {-1, 1}"),
    "9 Slice that shifts": text("q = Slice(p, s, e)", "4", extra="int64[1] s = {1}, int64[1] e = {4}", out="3"),
    "9 Slice backwards": text(
        "q = Slice(p, s, e, a, t)",
        "4",
        extra="int64[1] s = {-1}, int64[1] e = {-9}, int64[1] a = {0}, int64[1] t = {-1}",
    ),
    "9 Slice of an open shape": text("q = Slice(p, s, e)", "N", extra="int64[1] s = {0}, int64[1] e = {3}", out="M"),
    "9 Resize by sizes": text("q = Resize(p, , , s)", extra="int64[4] s = {1, 3, 4, 4}"),
    "9 Resize by 2": text("q = Resize(p, , s)", extra="float[4] s = {1, 1, 2, 2}", out="1,3,8,8"),
    "9 Resize whose coordinates shift": text(
        'q = Resize<nearest_mode = "ceil", coordinate_transformation_mode = "tf_half_pixel_for_nn">(p, , s)',
        extra="float[4] s = {1, 1, 1, 1}",
        opset=11,
    ),
    "9 Resize that crops": text(
        'q = Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">(p, r, s)',
        extra="float[8] r = {0, 0, 0.5, 0.5, 1, 1, 1, 1}, float[4] s = {1, 1, 1, 1}",
    ),
    "10 0 - x": text("q = Sub(c, p)", extra="float c = {0}"),
    "10 1 / x": text("q = Div(c, p)", extra="float c = {1}"),
    "10 1 ** x": text("q = Pow(c, p)", extra="float c = {1}"),
    "10 x + 0 that raises the rank": text("q = Add(p, c)", "3", extra="float[1,1] c = {0}", out="1,3"),
    "10 x + 0 that broadcasts": text("q = Add(p, c)", "1,3", extra="float[2,1] c = {0, 0}", out="2,3"),
    "10 x + 0 that might broadcast": text(
        "q = Add(p, c)", "N,3", extra="float[4,3] c = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}", out="4,3"
    ),
    "10 nearly 1": text("q = Mul(p, c)", extra="float[4] c = {1, 1, 1, 1.0001}"),
    "10 x + 1": text("q = Add(p, c)", extra="float c = {1}"),
    "10 x / 0": text("q = Div(p, c)", extra="float c = {0}"),
    "10 a constant that callers may override": (
        "g (float[2] x, float c) => (float[2] y) <float c = {1}> { p = Neg(x) q = Mul(p, c) y = Neg(q) }"
    ),
    "10 x * 1 where 1 is empty": text("q = Mul(p, c)", "1", extra="float[0] c = {}", out="0"),
    "11 Clip with a lower bound": text("q = Clip(p, c)", extra="float c = {0}"),
    "11 Clip with an upper bound": text("q = Clip(p, , c)", extra="float c = {0}"),
    "11 Clip of opset 6 with a bound": text("q = Clip<max = 1.0>(p)", opset=6),
    "12 MaxPool with stride 2": text("q = MaxPool<kernel_shape = [1, 1], strides = [2, 2]>(p)", out="1,3,2,2"),
    "12 MaxPool with padding": text("q = MaxPool<kernel_shape = [1, 1], pads = [0, 0, 1, 1]>(p)", out="1,3,5,5"),
    "12 MaxPool whose indices are read": (
        "g (float[1,1,2,2] x) => (float[1,1,2,2] y, int64[1,1,2,2] i) { p = Neg(x)"
        " q, i = MaxPool<kernel_shape = [1, 1]>(p) y = Neg(q) }"
    ),
    "12 AveragePool of two": text("q = AveragePool<kernel_shape = [1, 2]>(p)", out="1,3,4,3"),
    "9 Slice of an open shape that skips the first": text(
        "q = Slice(p, s, e)", "N", extra="int64[1] s = {1}, int64[1] e = {9223372036854775807}", out="M"
    ),
    "9 Slice of an open shape, backwards": text(
        "q = Slice(p, s, e, a, t)",
        "N",
        extra="int64[1] s = {-1}, int64[1] e = {-9223372036854775807}, int64[1] a = {0}, int64[1] t = {-1}",
    ),
    "9 Upsample by 2": text("q = Upsample(p, s)", extra="float[4] s = {1, 1, 2, 2}", opset=9, out="1,3,8,8"),
    "12 GlobalAveragePool of two": text("q = GlobalAveragePool(p)", "2,3,1,2", out="2,3,1,1"),
    "12 GlobalMaxPool of open dims": text("q = GlobalMaxPool(p)", "2,3,H,1", out="2,3,1,1"),
    "13 x and false": text("q = And(p, c)", "2,3", kind="bool", extra="bool c = {0}"),
    "13 x xor true": text("q = Xor(p, c)", "2,3", kind="bool", extra="bool c = {1}"),
    "13 x or false, which broadcasts": text(
        "q = Or(p, c)", "1,3", kind="bool", extra="bool[2,1] c = {0, 0}", out="2,3"
    ),
    "14 Where, sometimes": text("q = Where(c, p, d)", "2,3", extra="bool[3] c = {1, 0, 1}, float d = {5}"),
    "14 Where, which broadcasts": text(
        "q = Where(c, p, d)", "1,3", extra="bool c = {1}, float[2,1] d = {5, 6}", out="2,3"
    ),
    "14 Where, whose condition broadcasts": text("q = Where(c, p, p)", "1,3", extra="bool[2,1] c = {1, 0}", out="2,3"),
    "15 Expand that raises the rank": text("q = Expand(p, s)", "3", extra="int64[2] s = {1, 1}", out="1,3"),
    "12 LpPool takes the magnitude": text("q = LpPool<kernel_shape = [1, 1]>(p)"),
    "another domain's operator of that name": (
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>'
        "g (float[2] x) => (float[2] y) { p = Neg(x) q = local.Identity(p) y = Neg(q) }"
        ' <domain: "local", opset_import: ["" : 17]> Identity (u) => (v) { v = Exp(u) }'
    ),
}

REFUSED = {  # text, part of the reason
    "an input handed to an output": (
        "g (float[2] x) => (float[2] y) { y = Identity(x) }",
        "would become a copy of 'x'",
    ),
    "an initializer handed to an output": (
        "g (float[2] x) => (float[2] y, float[2] z) <float[2] w = {1, 2}> { y = Identity(w) z = Neg(x) }",
        "would become a copy of 'w'",
    ),
    "two outputs of one value": (
        "g (float[2] x) => (float[2] y, float[2] z) { y = Neg(x) z = Identity(y) }",
        "both 'z' and 'y' are outputs",
    ),
    "a branch that returns an outer value": (
        "g (float[2] x, bool c) => (float[2] y) { t = Exp(x) y = If(c) <"
        "then_branch = a () => (float[2] p) { p = Identity(t) },"
        "else_branch = b () => (float[2] p) { p = Neg(t) }> }",
        "would become a copy of 't'",
    ),
    "a loop that hands on its condition": (
        "g (float[2] x, int64 n) => (float[2] y) { c = Constant<value = bool {1}>()"
        " y = Loop(n, c, x) <body = b (int64 i, bool ci, float[2] a) => (bool co, float[2] a2) {"
        " co = Identity(ci) a2 = Mul(a, a) }> }",
        "would become a copy of 'ci'",
    ),
}


@pytest.mark.parametrize("case", REMOVED)
def test_removed(case: str) -> None:
    before = loaded(REMOVED[case])
    after, report = checked(RemoveNoops(), before)
    assert report.hits
    assert not report.rolled_back
    left = op_histogram(after)
    assert left == {k: v for k, v in left.items() if k in ("Neg", "Not", "Abs", "Constant", "Greater")}
    assert_same(before, after)


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    before = loaded(KEPT[case])
    after, report = checked(RemoveNoops(), before)
    assert (report.hits, report.rolled_back) == ([], [])
    assert after is before


@pytest.mark.parametrize("case", REFUSED)
def test_refused_for_the_interface(case: str) -> None:
    model_text, reason = REFUSED[case]
    before = loaded(model_text)
    after, report = checked(RemoveNoops(), before)
    assert after is before
    assert [reason in s.reason for s in report.skips] == [True]


def test_an_identity_before_an_output_goes_and_the_output_keeps_its_name_and_dims() -> None:
    before = loaded("g (float[N,3] x) => (float[M,3] y) { p = Neg(x) y = Identity(p) }")
    after, report = checked(RemoveNoops(), before)
    assert [h.anchor for h in report.hits] == ["Identity_y"]
    assert [(v.name, str(v.shape)) for v in after.graph.outputs] == [
        (v.name, str(v.shape)) for v in before.graph.outputs
    ]
    assert_same(before, after)


def test_a_body_that_reads_the_removed_value() -> None:
    text_ = (
        "g (float[2] x, bool c) => (float[2] y) { t = Exp(x) u = Identity(t) y = If(c) <"
        "then_branch = a () => (float[2] p) { q = Identity(u) p = Neg(q) },"
        "else_branch = b () => (float[2] p) { p = Exp(u) }> }"
    )
    before = loaded(text_)
    after, report = checked(RemoveNoops(), before)
    assert len(report.hits) == 2
    assert op_histogram(after) == {"Exp": 2, "If": 1, "Neg": 1}
    assert_same(before, after)


def test_sequences_are_handed_on_too() -> None:
    before = loaded(
        "g (float[2] x) => (seq(float[2]) y) { p = SequenceConstruct(x, x) q = Identity(p) y = SequenceInsert(q, x) }"
    )
    after, report = checked(RemoveNoops(), before)
    assert [h.anchor for h in report.hits] == ["Identity_q"]
    assert_same(before, after)


def test_bfloat16_constants_are_read() -> None:
    text_ = """<ir_version: 10, opset_import: ["" : 21]>
        g (bfloat16[2] x) => (bfloat16[2] y) <bfloat16[2] var_one, bfloat16 one>
        { p = Neg(x) q = Mul(p, one) r = Mul(q, var_one) y = Neg(r) }"""
    model = loaded(text_)
    ones = model.graph.initializers["one"]
    ones.const_value = ir.Tensor(np.ones((), dtype=ir.DataType.BFLOAT16.numpy()), dtype=ir.DataType.BFLOAT16)
    after, report = checked(RemoveNoops(), model)
    assert [h.anchor for h in report.hits] == ["Mul_q"]
    assert op_histogram(after) == {"Mul": 1, "Neg": 2}
