from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeopt import files, shapes
from edgeopt.graph import constant, op_histogram, static_shape
from edgeopt.oracle import Oracle, run_checked
from edgeopt.passes import fold_constants
from edgeopt.passes.fold_constants import FoldConstants
from edgeopt.rewrite import apply
from tests.models import assert_same, checked, filled, loaded, proto

# Text of the model, operators afterwards; the numbers are those of the docstring.
FOLDS = {
    "1 arithmetic": (
        "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}> { c = Add(a, b) y = Mul(x, c) }",
        {"Mul": 1},
    ),
    "1 a chain": (
        "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}> { b = Exp(a) c = Neg(b) d = Sqrt(b) e = Div(c, d)"
        " y = Mul(x, e) }",
        {"Mul": 1},
    ),
    "1 Constant nodes": (
        "g (float[2] x) => (float[2] y) { a = Constant<value_floats = [1.0, 2.0]>() b = Constant<value_float = 3.0>()"
        " c = Add(a, b) y = Mul(x, c) }",
        {"Constant": 2, "Mul": 1},
    ),
    "1 integers keep C rounding": (
        "g (int64[2] x) => (int64[2] y) <int64[2] a = {-7, 7}, int64 b = {2}> { c = Div(a, b) y = Add(x, c) }",
        {"Add": 1},
    ),
    "1 strings": (
        'g (bool[1] x) => (bool[1] q, int64 n) <string[2] a = {"p", "q"}> { b = Concat<axis = 0>(a, a)'
        " n = Size(b) q = Not(x) }",
        {"Constant": 1, "Not": 1},
    ),
    "1 several outputs": (
        "g (float[2] x) => (float[2] y) <float[4] a = {1, 2, 3, 4}> { b, c = Split<axis = 0>(a)"
        " d = Mul(x, b) y = Add(d, c) }",
        {"Add": 1, "Mul": 1},
    ),
    "1 empty optional input": (
        "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float b = {1.5}> { c = Clip(a, , b) y = Mul(x, c) }",
        {"Mul": 1},
    ),
    "1 reads an outer constant inside a body": (
        "g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> { y = If(c) <"
        "then_branch = a () => (float[2] p) { q = Neg(w) p = Add(x, q) },"
        "else_branch = b () => (float[2] p) { p = Mul(x, w) }> }",
        {"Add": 1, "If": 1, "Mul": 1},
    ),
    "1 both branches use the same names": (
        "g (float[2] x, bool c) => (float[2] y) { y = If(c) <"
        "then_branch = a () => (float[2] p) <float[2] w = {1, 2}> { q = Neg(w) p = Add(x, q) },"
        "else_branch = b () => (float[2] p) <float[2] w = {5, 6}> { q = Exp(w) p = Add(x, q) }> }",
        {"Add": 2, "If": 1},
    ),
    "1 a loop's body": (
        "g (float[2] x, int64 n) => (float[2] y) <float[2] w = {1, 2}> { c = Constant<value = bool {1}>()"
        " y = Loop(n, c, x) <body = b (int64 i, bool ci, float[2] a) => (bool co, float[2] a2) {"
        " co = Identity(ci) k = Exp(w) a2 = Add(a, k) }> }",
        {"Add": 1, "Constant": 1, "Identity": 1, "Loop": 1},
    ),
    "2 Shape": (
        "g (float[2,3] x) => (float[6] y) { s = Shape(x) p = ReduceProd<keepdims = 1>(s) y = Reshape(x, p) }",
        {"Reshape": 1},
    ),
    "2 Shape with start and end": (
        "g (float[2,3,4] x) => (int64[1] y, float[2,3,4] z) { s = Shape<start = -2, end = -1>(x)"
        " k = Constant<value_int = 1>() y = Add(s, k) z = Neg(x) }",
        {"Constant": 2, "Neg": 1},
    ),
    "2 Size": ("g (float[2,3] x) => (int64 y) { y = Size(x) }", {"Constant": 1}),
    "2 Shape of an empty tensor": ("g (float[0,3] x) => (int64[2] y) { y = Shape(x) }", {"Constant": 1}),
    "6 small results of large constants": (
        "g (float[1] x) => (float[1] y) { s = Constant<value_ints = [100, 100]>() a = ConstantOfShape(s)"
        " m = ReduceSum<keepdims = 0>(a) y = Add(x, m) }",
        {"Add": 1, "Constant": 1},
    ),
    "8 a folded output becomes a Constant": (
        "g (float[2] x) => (float[2] y, float[2] z) <float[2] a = {1, 2}> { y = Neg(a) z = Neg(x) }",
        {"Constant": 1, "Neg": 1},
    ),
    "8 a graph whose inputs are all constant": (
        "g () => (float[2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}> { c = Add(a, b) y = Mul(c, b) }",
        {"Constant": 1},
    ),
    "8 two outputs of one node": (
        "g () => (float[2] y, float[2] z) <float[4] a = {1, 2, 3, 4}> { y, z = Split<axis = 0>(a) }",
        {"Constant": 2},
    ),
    "5 a weight in float becomes one in int8": (
        "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float s = {0.5}, int8 z = {0}>"
        " { q = QuantizeLinear(a, s, z) b = DequantizeLinear(q, s, z) y = Mul(x, b) }",
        {"DequantizeLinear": 1, "Mul": 1},
    ),
}

KEEPS = {
    "1 an initializer that callers may override": (
        "g (float[2] x, float[2] a) => (float[2] y) <float[2] a = {1, 2}> { b = Neg(a) y = Mul(x, b) }"
    ),
    "1 other domains": (
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
        "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}> { b = com.microsoft.Gelu(a) y = Mul(x, b) }"
    ),
    "1 a local function": (
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>'
        "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}> { b = local.f(a) y = Mul(x, b) }"
        ' <domain: "local", opset_import: ["" : 17]> f (u) => (v) { v = Neg(u) }'
    ),
    "2 Shape of an open tensor": "g (float[N,2] x) => (int64[2] y) { y = Shape(x) }",
    "2 Shape where a dimension is negative": "g (float[-1,2] x) => (int64[2] y) { y = Shape(x) }",
    "3 random": (
        "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}> { b = RandomNormalLike<seed = 1.0>(a) y = Mul(x, b) }"
    ),
    "3 random without inputs": "g (float[2] x) => (float[2] y) { b = RandomNormal<shape = [2]>() y = Mul(x, b) }",
    "3 Bernoulli": "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}> { b = Bernoulli(a) y = Mul(x, b) }",
    "3 Dropout that trains": (
        "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float r = {0.5}, bool t = {1}>"
        " { b = Dropout(a, r, t) y = Mul(x, b) }"
    ),
    "4 a body": (
        "g (float[2] x) => (float[2] y) <bool c = {1}> { b = If(c) <"
        "then_branch = p () => (float[2] u) { u = Constant<value_floats = [1.0, 2.0]>() },"
        "else_branch = q () => (float[2] u) { u = Constant<value_floats = [3.0, 4.0]>() }> y = Mul(x, b) }"
    ),
    "5 DequantizeLinear": (
        "g (float[2] x) => (float[2] y) <int8[2] a = {1, 2}, float s = {0.5}> { b = DequantizeLinear(a, s)"
        " y = Mul(x, b) }"
    ),
    "7 a sequence": ("g (float[2] x) => (seq(float[2]) y) <float[2] a = {1, 2}> { y = SequenceConstruct(a, a) }"),
}


@pytest.mark.parametrize("case", FOLDS)
def test_folds(case: str) -> None:
    text, wanted = FOLDS[case]
    before = loaded(text)
    after, report = checked(FoldConstants(), before)
    assert report.hits
    assert not report.rolled_back
    assert op_histogram(after) == wanted
    assert_same(before, after)


@pytest.mark.parametrize("case", KEEPS)
def test_keeps(case: str) -> None:
    before = loaded(KEEPS[case])
    after, report = checked(FoldConstants(), before)
    assert not report.hits
    assert not report.rolled_back
    assert after is before


def test_1_float16_and_float64_constants_keep_their_type() -> None:
    for kind, dtype in (("float16", np.float16), ("double", np.float64)):
        text = f"g ({kind}[2] x) => ({kind}[2] y) <{kind}[2] a, {kind}[2] b> {{ c = Sub(a, b) y = Mul(x, c) }}"
        after, report = checked(FoldConstants(), loaded(text))
        assert len(report.hits) == 1
        folded = constant(after.graph.initializers["c"])
        assert folded is not None
        assert folded.dtype == dtype


@pytest.mark.parametrize("kind", ["float8e4m3fn", "float8e5m2", "bfloat16", "int4"])
def test_1_types_that_onnxruntime_cannot_hand_back_stay(kind: str) -> None:
    number = onnx.TensorProto.DataType.Value(kind.upper())
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[2] x) => ({kind}[2] y, float[2] z) <float[2] a = {{1, 2}}>
        {{ y = Cast<to = {number}>(a) z = Neg(x) }}"""
    after, report = checked(FoldConstants(), loaded(text))
    assert (report.hits, report.rolled_back) == ([], [])
    assert op_histogram(after) == {"Cast": 1, "Neg": 1}


def test_1_one_node_that_cannot_run_does_not_keep_the_others() -> None:
    text = """g (float[2] x) => (float[2] y, float[2] z) <float[3] a = {1, 2, 3}, float[2] b = {1, 2}, int64[1] s = {5}>
        { p = Reshape(a, s) q = Neg(b) r = Exp(q) y = Mul(x, r) z = Add(x, p) }"""
    before = shapes.infer(files.load(proto(text)).model)
    applied = apply(FoldConstants(), before)
    assert sorted(h.anchor for h in applied.hits) == ["Exp_r", "Neg_q"]


def test_2_the_stated_shape_of_an_input_is_what_counts() -> None:
    after, _ = checked(FoldConstants(), loaded("g (float[2,0,3] x) => (int64[3] y) { y = Shape(x) }"))
    node = next(iter(after.graph))
    assert constant(node.outputs[0]) is not None
    assert list(constant(node.outputs[0])) == [2, 0, 3]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("b = Expand(a, s)", 40_000),
        ("t = Cast<to = 7>(s) b = ConstantOfShape(t)", 40_000),
        ("b = Tile(m, s)", 10_000 * 4),
    ],
)
def test_6_results_that_would_blow_up_the_file_stay(text: str, size: int) -> None:
    full = (
        "g (float[100,100] x) => (float[100,100] y) <float[1] a = {1}, float[1,1] m = {2}, int64[2] s = {100, 100}> { "
        + text
        + " y = Add(x, b) }"
    )
    after, report = checked(FoldConstants(), loaded(full))
    skip = next(s for s in report.skips if "b" in s.node)
    assert str(size) in skip.reason
    assert "bytes" in skip.reason
    assert not [h for h in report.hits if h.anchor == skip.node]
    assert_same(loaded(full), after)


def test_6_what_is_larger_than_the_budget_but_not_than_what_it_replaces_is_folded() -> None:
    before = loaded("g (float[20,30] x) => (float[20,30] y) <float[30,20] w> { t = Transpose(w) y = Mul(x, t) }")
    after, report = checked(FoldConstants(), before)
    assert [h.anchor for h in report.hits] == ["Transpose_t"]
    assert_same(before, after)


def test_6_a_constant_that_others_read_too_is_not_replaced_by_a_larger_one() -> None:
    text = (
        "g (float[20,30] x) => (float[20,30] y) <float[30,20] w> { t = Transpose(w) u = MatMul(x, w) z = MatMul(u, x)"
    )
    after, report = checked(FoldConstants(), loaded(text + " y = Mul(z, t) }"))
    assert not report.hits
    assert "2400 bytes" in report.skips[0].reason
    assert op_histogram(after)["Transpose"] == 1


def test_6_many_small_results_do_not_blow_up_the_file_together() -> None:
    lines = "".join(
        f"z{i} = ConstantOfShape <value = float[1] {{{i}}}>(shape) y{i} = Add(x, z{i})\n" for i in range(40)
    )
    outputs = ", ".join(f"float[200] y{i}" for i in range(40))
    model = loaded(f"g (float[200] x) => ({outputs}) <int64[1] shape = {{200}}> {{ {lines} }}")
    applied = apply(FoldConstants(), model)
    assert len(applied.hits) == 1  # 800 bytes each: one fits into what a round may add
    assert all("more than the constants it would replace" in s.reason for s in applied.skips)


def test_6_a_hostile_size_is_never_computed() -> None:
    text = "g (float[1] x) => (float[N] y) <int64[2] s = {1000000, 1000000}> { b = ConstantOfShape(s) c = ReduceSum(b)"
    before = loaded(text + " y = Add(x, c) }")
    applied = apply(FoldConstants(), before)
    assert not applied.hits
    assert "4000000000000 bytes" in applied.skips[0].reason


def test_6_a_size_that_is_not_known_beforehand_is_not_computed_at_first() -> None:
    text = """g (float[1] x) => (float[N] y) <int64[1] s = {30}, int64[1] t = {2}, float[1] one = {1}>
        { u = Max(s, t) b = Expand(one, u) c = ReduceSum(b) y = Add(x, c) }"""
    before = loaded(text)
    after, report = checked(FoldConstants(), before)
    assert [h.anchor for h in report.hits] == ["Max_u"]
    assert [s.node for s in report.skips] == ["Expand_b"]
    assert "not known beforehand" in report.skips[0].reason
    again, report = checked(FoldConstants(), after)
    assert [h.anchor for h in report.hits] == ["Expand_b", "ReduceSum_c"]
    assert_same(before, again)


def test_6_a_round_holds_a_bounded_amount_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_constants, "_ROUND_BYTES", 24)
    text = "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}> { b = Neg(a) c = Exp(b) d = Neg(c) y = Add(x, d) }"
    first, report = checked(FoldConstants(), loaded(text))
    assert [h.anchor for h in report.hits] == ["Neg_b", "Exp_c"]
    second, report = checked(FoldConstants(), first)
    assert op_histogram(second) == {"Add": 1}
    assert_same(loaded(text), second)


def test_6_a_node_behind_one_that_stayed_is_checked_together_with_it() -> None:
    """The unfolded Expand is part of the place: fed with random numbers, the fold would look wrong."""
    text = """g (float[1] x) => (float[1] y) <float[1,10] a, int64[2] s = {100, 10}>
        { b = Expand(a, s) c = Neg(b) m = ReduceMean(c) y = Add(x, m) z = Neg(b) w = Transpose(z) v = ReduceMax(w)
          u = Add(x, v) }"""
    before = loaded(text)
    after, report = checked(FoldConstants(), before)
    assert not report.rolled_back
    assert {"ReduceMean_m", "ReduceMax_v"} <= {h.anchor for h in report.hits}
    assert_same(before, after)


def test_constants_in_external_files(tmp_path: Path) -> None:
    text = "g (float[30,20] x) => (float[30,20] y) <float[20,30] w> { t = Transpose(w) y = Mul(x, t) }"
    onnx.save(filled(text), tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    before = shapes.infer(files.load(tmp_path / "m.onnx").model)
    after, report = run_checked(FoldConstants(), before, Oracle(before))
    assert len(report.hits) == 1
    assert_same(before, after)


def test_an_output_keeps_the_dims_it_states() -> None:
    text = "g () => (float[N] y) <float[2] a = {1, 2}> { y = Neg(a) }"
    after, report = checked(FoldConstants(), loaded(text))
    assert report.hits
    assert static_shape(after.graph.outputs[0]) is None
    assert str(after.graph.outputs[0].shape[0]) == "N"  # type: ignore[index]
