from __future__ import annotations

from dataclasses import replace

import pytest

from edgeopt.graph import op_histogram
from edgeopt.passes.fold_expand import FoldExpand
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import assert_caught


def net(
    body: str,
    *,
    x: str = "1,3,1",
    o: str = "2,3,4",
    more: str = "int64[3] s = {2,3,4}",
    opset: int = 17,
    y: str = "float[A,B,C]",
) -> str:
    """x → Expand e, with o → y."""
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{x}] x, float[{o}] o) => ({y} y) <{more}> {{ {body} }}'
    )


FOLDS = {
    "1 Expand": net("e = Expand(x, s) [n] y = Add(e, o)"),
    "1 Expand to a computed shape": net(
        "s = Shape(o) e = Expand(x, s) [n] y = Mul(o, e)", o="N,3,M", more="float unused"
    ),
    "2 Tile": net("e = Tile(x, s) [n] y = Sub(o, e)", more="int64[3] s = {2,1,4}"),
    "3 Where": net("e = Expand(x, s) c = Greater(o, x) [n] y = Where(c, e, o)"),
    "3 Max of three": net("e = Expand(x, s) [n] y = Max(x, e, o)"),
    "3 a comparison": net("e = Expand(x, s) [n] y = Less(e, o)", y="bool[A,B,C]"),
    "3 the slope of PRelu": net("e = Expand(x, s) [n] y = PRelu(o, e)"),
    "3 both operands are expanded, one is enough": net("e = Expand(x, s) f = Expand(o, s) [n] y = Add(e, f)"),
    "4 axes in front": net(
        "e = Expand(x, s) [n] y = Pow(e, k)", x="3,1", more="int64[3] s = {2,3,4}, float[2,3,4] var"
    ).replace("k)", "var)"),
    "5 equal symbols": net(
        "s = Shape(o) e = Expand(x, s) [n] y = Add(e, o)", x="N,1,M", o="N,3,M", more="float unused"
    ),
    "8 opset 8": net("e = Expand(x, s) [n] y = Add(e, o)", opset=8),
}


@pytest.mark.parametrize("case", FOLDS)
def test_folds(case: str) -> None:
    model = loaded(FOLDS[case])
    result, report = checked(FoldExpand(), model)
    assert report.rolled_back == []
    assert "n" in [h.anchor for h in report.hits]
    before, after = op_histogram(model), op_histogram(result)
    assert after.get("Expand", 0) + after.get("Tile", 0) == before.get("Expand", 0) + before.get("Tile", 0) - len(
        report.hits
    )
    assert_same(model, result)
    assert checked(FoldExpand(), result)[1].hits == []


LEFT = {  # text, part of the reason
    "3 what a PRelu reads": (net("e = Expand(x, s) [n] y = PRelu(e, o)"), "to the shape of its slope"),
    "5 the others are smaller": (net("e = Expand(x, s) [n] y = Add(e, o)", o="2,1,4"), "no other operand alone"),
    "5 other symbols": (
        net("e = Expand(x, q) [n] y = Add(e, o)", o="N,3,M").replace("o) =>", "o, int64[3] q) =>"),
        "no other operand alone",
    ),
    "6 Tile of more than one element": (
        net("e = Tile(x, s) [n] y = Add(e, o)", o="2,6,4", more="int64[3] s = {2,2,4}"),
        "repeats more than single elements",
    ),
    "6 Tile by an input": (
        net("e = Tile(x, q) [n] y = Add(e, o)").replace("o) =>", "o, int64[3] q) =>"),
        "repeats more than single elements",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_left(case: str) -> None:
    text, reason = LEFT[case]
    model = loaded(text)
    assert next(n for n in model.graph if n.name == "n")
    answer = FoldExpand().match(next(n for n in model.graph if n.name == "n"), 17)
    assert reason in answer.reason  # type: ignore[union-attr]


def test_other_readers_keep_it() -> None:
    model = loaded(net("e = Expand(x, s) z = Neg(e) [n] y = Add(e, o)").replace("y) <", "y, float[D,E,F] z) <"))
    result, report = checked(FoldExpand(), model)
    assert [h.nodes for h in report.hits] == [("n",)]
    assert op_histogram(result) == {"Add": 1, "Expand": 1, "Neg": 1}
    assert_same(model, result)


def test_another_graph() -> None:
    """7."""
    model = loaded(
        net(
            "e = Expand(x, s) y = If(c) <then_branch = p () => (float[A,B,C] a) { [n] a = Add(e, o) }, "
            "else_branch = q () => (float[A,B,C] b) <int64[3] k = {2,3,4}> { f = Expand(x, k) [m] b = Mul(f, o) }>"
        ).replace("o) =>", "o, bool c) =>")
    )
    result, report = checked(FoldExpand(), model)
    assert [h.anchor for h in report.hits] == ["m"]
    assert ["another graph" in s.reason for s in report.skips] == [True]
    assert_same(model, result)


def test_before_opset_7() -> None:
    """8."""
    model = loaded(
        net("e = Tile(x, s) [n] y = Add(e, o)", more="int64[3] s = {2,1,4}", opset=6).replace(
            "ir_version: 8", "ir_version: 3"
        )
    )
    assert checked(FoldExpand(), model)[0] is model


def test_sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_itself(rewrite: Rewrite) -> Rewrite:
        node = rewrite.replacement[0]
        node.replace_input_with(1, node.inputs[0])
        return replace(rewrite)

    assert_caught(FoldExpand(), net("e = Expand(x, s) [n] y = Add(e, o)", x="2,3,4"), of_itself, monkeypatch)
