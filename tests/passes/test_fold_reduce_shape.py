from __future__ import annotations

import onnx_ir as ir
import pytest

from edgeopt.graph import attribute, op_histogram
from edgeopt.passes.fold_reduce_shape import FoldReduceShape
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import assert_caught


def net(
    body: str,
    *,
    x: str = "2,3,4,5",
    y: str = "A,B,C,D",
    more: str = "float unused",
    opset: int = 17,
    kind: str = "float",
) -> str:
    """x → r → v → y."""
    ir_version = 10 if opset > 19 else 8
    return (
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> g ({kind}[{x}] x) => ({kind}[{y}] y) '
        f"<{more}> {{ {body} y = Concat<axis = 0>(v, v) }}"
    )


AXES = "int64[2] a = {2,3}"
FOLDS = {  # text, operator and keepdims left
    "1 Unsqueeze, opset 13": (
        net("r = ReduceMean<axes = [2,3], keepdims = 0>(x) [n] v = Unsqueeze(r, a)", more=AXES),
        "ReduceMean",
        1,
    ),
    "1 Unsqueeze, opset 11": (
        net("r = ReduceSum<axes = [-1], keepdims = 0>(x) [n] v = Unsqueeze<axes = [3]>(r)", opset=11),
        "ReduceSum",
        1,
    ),
    "1 Unsqueeze, opset 18": (
        net(
            "r = ReduceMax<keepdims = 0>(x, a) [n] v = Unsqueeze(r, b)",
            more="int64[2] a = {1,2}, int64[2] b = {-2,-3}",
            opset=18,
        ),
        "ReduceMax",
        1,
    ),
    "1 Unsqueeze of a reduction of everything": (
        net("r = ReduceL2<keepdims = 0>(x) [n] v = Unsqueeze(r, a)", x="N,3", y="A,B", more="int64[2] a = {0,1}"),
        "ReduceL2",
        1,
    ),
    "1 a symbolic batch": (
        net("r = ReduceMean<axes = [2,3], keepdims = 0>(x) [n] v = Unsqueeze(r, a)", x="N,C,H,W", more=AXES),
        "ReduceMean",
        1,
    ),
    "2 Squeeze": (net("r = ReduceMean<axes = [2,3]>(x) [n] v = Squeeze(r, a)", y="A,B", more=AXES), "ReduceMean", 0),
    "2 Squeeze, opset 11": (
        net("r = ReduceMin<axes = [1]>(x) [n] v = Squeeze<axes = [1]>(r)", y="A,B,C", opset=11),
        "ReduceMin",
        0,
    ),
    "2 Squeeze, opset 21": (
        net("r = ReduceMin(x, a) [n] v = Squeeze(r, a)", y="A,B", more=AXES, opset=21),
        "ReduceMin",
        0,
    ),
    "3 ArgMax": (
        net("r = ArgMax<axis = 1>(x) [n] v = Squeeze(r, a)", y="A,B,C", more="int64[1] a = {1}").replace(
            "(float[A", "(int64[A"
        ),
        "ArgMax",
        0,
    ),
    "3 ArgMin, the last index": (
        net(
            "r = ArgMin<axis = -1, keepdims = 0, select_last_index = 1>(x) [n] v = Unsqueeze(r, a)",
            more="int64[1] a = {3}",
        ).replace("(float[A", "(int64[A"),
        "ArgMin",
        1,
    ),
    "4 Reshape": (
        net("r = ReduceMean<axes = [2,3]>(x) [n] v = Reshape(r, s)", x="N,3,4,5", y="A,B", more="int64[2] s = {-1,3}"),
        "ReduceMean",
        0,
    ),
    "4 Flatten": (net("r = ReduceMean<axes = [2,3]>(x) [n] v = Flatten(r)", x="N,3,4,5", y="A,B"), "ReduceMean", 0),
    "4 Reshape that puts them back": (
        net(
            "r = ReduceMean<axes = [2,3], keepdims = 0>(x) [n] v = Reshape(r, s)",
            x="N,3,4,5",
            more="int64[4] s = {0,3,1,1}",
        ),
        "ReduceMean",
        1,
    ),
    "5 Sum of Sum": (
        net("r = ReduceSum(x, a) [n] v = ReduceSum(r, b)", more="int64[1] a = {3}, int64[1] b = {2}"),
        "ReduceSum",
        1,
    ),
    "5 Mean of Mean, keepdims 0": (
        net("r = ReduceMean<axes = [1], keepdims = 0>(x) [n] v = ReduceMean<axes = [1], keepdims = 0>(r)", y="A,B"),
        "ReduceMean",
        0,
    ),
    "5 Max of Max, opset 18": (
        net("r = ReduceMax(x, a) [n] v = ReduceMax(r, b)", more="int64[1] a = {3}, int64[1] b = {-2}", opset=18),
        "ReduceMax",
        1,
    ),
    "5 L1 of L1": (net("r = ReduceL1<axes = [3]>(x) [n] v = ReduceL1<axes = [1]>(r)"), "ReduceL1", 1),
    "5 L2 of L2": (net("r = ReduceL2<axes = [3]>(x) [n] v = ReduceL2<axes = [1]>(r)"), "ReduceL2", 1),
    "5 Prod of Prod": (net("r = ReduceProd<axes = [3]>(x) [n] v = ReduceProd<axes = [1]>(r)"), "ReduceProd", 1),
    "5 the same axis twice": (
        net("r = ReduceSum(x, a) [n] v = ReduceSum(r, a)", more="int64[1] a = {3}"),
        "ReduceSum",
        1,
    ),
}


@pytest.mark.parametrize("case", FOLDS)
def test_folds(case: str) -> None:
    text, kind, keep = FOLDS[case]
    model = loaded(text)
    result, report = checked(FoldReduceShape(), model)
    assert report.rolled_back == []
    assert [h.anchor for h in report.hits] == ["n"]
    assert op_histogram(result) == dict(sorted({"Concat": 1, kind: 1}.items()))
    node = next(n for n in result.graph if n.op_type == kind)
    assert attribute(node, "keepdims", 1) == keep
    assert_same(model, result)
    again, second = checked(FoldReduceShape(), result)
    assert again is result
    assert second.hits == []


@pytest.mark.parametrize("kind", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("opset", [11, 17, 18])
def test_over_axes_of_one(kind: str, keep: int, opset: int) -> None:
    """6."""
    by_input = opset >= (13 if kind == "ReduceSum" else 18)
    call = f"{kind}<keepdims = {keep}>(x, a)" if by_input else f"{kind}<axes = [1,3], keepdims = {keep}>(x)"
    model = loaded(
        net(f"[n] v = {call}", x="N,1,4,1", y="A,B,C,D" if keep else "A,B", more="int64[2] a = {1,3}", opset=opset)
    )
    result, report = checked(FoldReduceShape(), model)
    assert report.rolled_back == []
    assert len(report.hits) == 1
    assert op_histogram(result) == ({"Concat": 1} if keep else {"Concat": 1, "Squeeze": 1})
    assert_same(model, result)


LEFT = {  # text, part of the reason or None
    "6 L1 over an axis of one takes the magnitude": (net("[n] v = ReduceL1<axes = [1]>(x)", x="2,1,4,5"), None),
    "7 read elsewhere": (
        net("r = ReduceMean<axes = [2,3]>(x) z = Neg(r) [n] v = Squeeze(r, a)", y="A,B", more=AXES).replace(
            "y) <", "y, float[E,F,G,H] z) <"
        ),
        "read by other nodes too",
    ),
    "7 an output": (
        net("z = ReduceMean<axes = [2,3]>(x) [n] v = Squeeze(z, a)", y="A,B", more=AXES).replace(
            "y) <", "y, float[E,F,G,H] z) <"
        ),
        "is an output of the graph",
    ),
    "9 calculated axes": (
        net("r = ReduceSum<keepdims = 0>(x, a) [n] v = Unsqueeze(r, b)", more="int64[1] b = {1}").replace(
            "x) =>", "x, int64[1] a) =>"
        ),
        None,
    ),
    "10 other axes": (
        net("r = ReduceMean<axes = [2,3]>(x) [n] v = Squeeze(r, a)", y="A,B,C", more="int64[1] a = {2}"),
        None,
    ),
    "10 Unsqueeze at other places": (
        net("r = ReduceMean<axes = [2,3], keepdims = 0>(x) [n] v = Unsqueeze(r, a)", more="int64[2] a = {0,1}"),
        None,
    ),
    "10 Unsqueeze adds more": (
        net(
            "r = ReduceMean<axes = [3], keepdims = 1>(x) [n] v = Unsqueeze(r, a)",
            y="A,B,C,D,E",
            more="int64[1] a = {3}",
        ),
        None,
    ),
    "11 other keepdims": (
        net("r = ReduceMax<axes = [3]>(x) [n] v = ReduceMax<axes = [2], keepdims = 0>(r)", y="A,B,C"),
        "has other keepdims",
    ),
    "12 means of integers": (
        net("r = ReduceMean<axes = [3]>(x) [n] v = ReduceMean<axes = [2]>(r)", kind="int32"),
        "means of integers round",
    ),
    "12 another kind": (net("r = ReduceMax<axes = [3]>(x) [n] v = ReduceMin<axes = [2]>(r)"), None),
    "12 SumSquare twice": (net("r = ReduceSumSquare<axes = [3]>(x) [n] v = ReduceSumSquare<axes = [2]>(r)"), None),
    "no axes at all, on purpose": (
        net("r = ReduceSum<noop_with_empty_axes = 1>(x) [n] v = ReduceSum<noop_with_empty_axes = 1>(r)"),
        "not known",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_left(case: str) -> None:
    text, reason = LEFT[case]
    model = loaded(text)
    result, report = checked(FoldReduceShape(), model)
    assert report.rolled_back == []
    assert result is model
    reasons = [s.reason for s in report.skips if s.node == "n"]
    assert (not reasons) if reason is None else any(reason in r for r in reasons)


def test_another_graph() -> None:
    """8."""
    model = loaded(
        "g (float[2,3] x, bool c) => (float[A] y) <int64[1] a = {1}> { r = ReduceMax<axes = [1]>(x) y = If(c) <"
        "then_branch = p () => (float[A] d) { [n] v = Squeeze(r, a) d = Neg(v) }, "
        "else_branch = q () => (float[A] e) { s = ReduceMin<axes = [1]>(x) [m] e = Squeeze(s, a) }> }"
    )
    result, report = checked(FoldReduceShape(), model)
    assert [h.anchor for h in report.hits] == ["m"]
    assert ["another graph" in s.reason for s in report.skips] == [True]
    assert_same(model, result)


def test_sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
    def other_axis(rewrite: Rewrite) -> Rewrite:
        rewrite.replacement[0].attributes["axes"] = ir.AttrInt64s("axes", [1])
        return rewrite

    text = net(
        "r = ReduceMax<axes = [2], keepdims = 0>(x) [n] v = Unsqueeze(r, a)",
        x="3,3,3",
        y="A,B,C",
        more="int64[1] a = {2}",
    )
    assert_caught(FoldReduceShape(), text, other_axis, monkeypatch)
