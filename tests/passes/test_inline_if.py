from __future__ import annotations

import numpy as np
import pytest

from edgeopt.graph import graphs, op_histogram
from edgeopt.oracle import Oracle, run_checked
from edgeopt.passes.inline_if import InlineIf
from edgeopt.passes.remove_noops import RemoveNoops
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import Breakage, assert_caught, wired_to_another

THEN = "{ t = Add(z, w) a = Neg(t) }"
ELSE = "{ a = Abs(z) }"


def net(
    then: str = THEN,
    other: str = ELSE,
    condition: str = "bool c = {1}",
    *,
    dtype: str = "float",
    x: str = "2",
    opset: int = 17,
    after: str = "y = Exp(u)",
    outputs: str = "y",
) -> str:
    kind = f"{dtype}[{x}]"
    given = ", ".join(f"{kind} {o}" for o in outputs.split())
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({kind} x) => ({given})'
        f" <{condition}, {dtype}[2] w = {{1, 2}}> {{ z = Identity(x) [n] u = If(c) <"
        f"then_branch = p () => ({kind} a) {then}, else_branch = q () => ({kind} a) {other}> {after} }}"
    )


HITS = {  # text, operators afterwards
    "1 true": (net(), {"Add": 1, "Neg": 1}),
    "1 false": (net(condition="bool c = {0}"), {"Abs": 1}),
    "1 a vector of one": (net(condition="bool[1] c = {0}"), {"Abs": 1}),
    "1 open size": (net(x="N,2"), {"Add": 1, "Neg": 1}),
    "1 float16": (net(dtype="float16"), {"Add": 1, "Neg": 1}),
    "1 double": (net(dtype="double"), {"Add": 1, "Neg": 1}),
    "1 opset 9": (net(opset=9), {"Add": 1, "Neg": 1}),
    "1 opset 11": (net(opset=11), {"Add": 1, "Neg": 1}),
    "1 opset 21": (net(opset=21), {"Add": 1, "Neg": 1}),
    "1 a constant of the branch": (net("<float[2] v = {3, 4}> { t = Add(z, v) a = Neg(t) }"), {"Add": 1, "Neg": 1}),
    "1 the branch gives its constant": (net("<float[2] a = {3, 4}> { }"), {}),
    "1 edge 67: the branch gives a value from outside": (net("{ a = Identity(z) }"), {"Identity": 1}),
    "1 the output of the graph": (net(after="", outputs="u"), {"Add": 1, "Neg": 1}),
    "1 edge 67: the output is a constant": (net("<float[2] a = {3, 4}> { }", after="", outputs="u"), {"Identity": 1}),
    "1 a Constant node": (net("{ k = Constant<value = float[2] {3, 4}>() a = Add(z, k) }"), {"Constant": 1, "Add": 1}),
    "2 the same twice": (
        net(THEN, THEN.replace("t", "s"), condition="bool b = {1}").replace("x) =>", "x, bool c) =>"),
        {"Add": 1, "Neg": 1},
    ),
    "2 the same constants": (
        net(
            "<float[2] v = {3, 4}> { a = Add(z, v) }",
            "<float[2] v = {3, 4}> { a = Add(z, v) }",
            condition="bool b = {1}",
        ).replace("x) =>", "x, bool c) =>"),
        {"Add": 1},
    ),
    "2 the same attributes": (
        net("{ a = Elu<alpha = 0.5>(z) }", "{ a = Elu<alpha = 0.5>(z) }", condition="bool b = {1}").replace(
            "x) =>", "x, bool c) =>"
        ),
        {"Elu": 1},
    ),
}


@pytest.mark.parametrize("case", HITS)
def test_inlines(case: str) -> None:
    text, operators = HITS[case]
    model = loaded(text)
    result, report = checked(InlineIf(), model)
    assert report.rolled_back == []
    assert [h.anchor for h in report.hits] == ["n"]
    left = op_histogram(result)
    left.pop("Exp", None)
    left["Identity"] -= 1  # z
    assert {k: v for k, v in left.items() if v} == operators
    if "float16" not in text:
        assert_same(model, result)
    assert run_checked(InlineIf(), result, Oracle(result))[1].hits == []


def test_edge_64_two_ifs_whose_branches_use_the_same_names() -> None:
    one = f"If(c) <then_branch = p () => (float[2] a) {THEN}, else_branch = q () => (float[2] a) {ELSE}>"
    text = net(after=f"[m] v = {one} d = Add(u, v) y = Exp(d)").replace("[m] v = If(c)", "[m] v = If(d0)")
    model = loaded(text.replace("bool c = {1}", "bool c = {1}, bool d0 = {0}"))
    result, report = checked(InlineIf(), model)
    assert [h.anchor for h in report.hits] == ["n", "m"]
    assert "If" not in op_histogram(result)
    assert_same(model, result)


@pytest.mark.parametrize("taken", [0, 1])
def test_edge_65_both_branches_have_a_constant_of_one_name(taken: int) -> None:
    then, other = "<float[2] v = {3, 4}> { a = Add(z, v) }", "<float[2] v = {5, 6}> { a = Mul(z, v) }"
    model = loaded(net(then, other, f"bool c = {{{taken}}}"))
    result, report = checked(InlineIf(), model)
    assert [h.anchor for h in report.hits] == ["n"]
    names = [v for g in graphs(result) for v in g.initializers]
    assert len(names) == len(set(names))
    assert_same(model, result)


def test_edge_66_a_branch_inside_reads_a_value_of_the_branch() -> None:
    inner = (
        "<float[2] v = {3, 4}> { t = Add(z, w) a = If(d) <then_branch = r () => (float[2] b) <float[2] k = {5, 6}>"
        " { s = Add(t, v) b = Mul(s, k) }, else_branch = o () => (float[2] b) { b = Sub(t, z) }> }"
    )
    model = loaded(net(inner).replace("x) =>", "x, bool d) =>"))
    result, report = checked(InlineIf(), model)
    assert [h.anchor for h in report.hits] == ["n"]
    for d in (True, False):
        assert_same(model, result, d=np.array(d))
    both = loaded(net(inner).replace("bool c = {1}", "bool c = {1}, bool d = {0}"))
    result, report = checked(InlineIf(), both)
    assert len(report.hits) == 2
    assert "If" not in op_histogram(result)
    assert_same(both, result)


def test_several_outputs() -> None:
    text = (
        "g (float[2] x) => (float[2] y, float[2] z, float[2] v) <bool c = {1}> { [n] y, z, u, dead = If(c) <"
        "then_branch = p () => (float[2] a, float[2] b, float[2] d, float[2] e) { a = Neg(x) b = Identity(a)"
        " d = Abs(x) e = Exp(x) }, else_branch = q () => (float[2] a, float[2] b, float[2] d, float[2] e) {"
        " a = Abs(x) b = Exp(x) d = Exp(x) e = Neg(x) }> v = Neg(u) }"
    )
    model = loaded(text)
    result, report = checked(InlineIf(), model)
    assert report.rolled_back == []
    assert [h.anchor for h in report.hits] == ["n"]
    assert_same(model, result)
    twice = loaded(
        text.replace("{ a = Neg(x) b = Identity(a)", "{ a = Neg(x) b = Neg(x)").replace("d = Abs(x)", "d = Identity(x)")
    )
    assert_same(twice, checked(RemoveNoops(), checked(InlineIf(), twice)[0])[0])


def test_inside_of_a_loop() -> None:
    """The cut-out has the If with its body, so that a place that is not seen from outside is checked too."""
    model = loaded(
        "g (float[2] x, int64 m) => (float[2] y) <bool c = {1}> { y = Loop(m, , x)"
        " <body = l (int64 i, bool ci, float[2] z) => (bool co, float[2] o) { co = Identity(ci) [n] o = If(c)"
        " <then_branch = p () => (float[2] a)"
        " { a = Neg(z) }, else_branch = q () => (float[2] a) { a = Abs(z) }> }> }"
    )
    result, report = checked(InlineIf(), model)
    assert [h.anchor for h in report.hits] == ["n"]
    assert report.rolled_back == []
    assert_same(model, result, m=np.array(3))


def test_metadata_stays() -> None:
    model = loaded(net())
    branch = next(n for n in model.graph if n.name == "n").attributes["then_branch"].as_graph()
    for node in branch:
        node.metadata_props["source"], node.doc_string = "layer", "text"
    result, _ = checked(InlineIf(), model)
    moved = [n for n in result.graph if n.op_type in ("Add", "Neg")]
    assert [(n.metadata_props["source"], n.doc_string) for n in moved] == [("layer", "text")] * 2
    assert {n.metadata_props["edgeopt.origin"] for n in moved} == {"inline_if: n"}


DIFFERENT = {
    "another operator": ("{ a = Neg(z) }", "{ a = Abs(z) }"),
    "another order": ("{ a = Sub(z, w) }", "{ a = Sub(w, z) }"),
    "another constant": ("<float[2] v = {3, 4}> { a = Add(z, v) }", "<float[2] v = {3, 5}> { a = Add(z, v) }"),
    "edge 42: -0.0": ("<float[2] v = {0, 0}> { a = Div(z, v) }", "<float[2] v = {-0.0, 0}> { a = Div(z, v) }"),
    "another attribute": ("{ a = Elu<alpha = 0.5>(z) }", "{ a = Elu<alpha = 0.25>(z) }"),
    "an attribute that is not stated": ("{ a = Elu<alpha = 1.0>(z) }", "{ a = Elu(z) }"),
    "more nodes": ("{ a = Neg(z) }", "{ b = Neg(z) a = Neg(b) }"),
    "an optional input": ("{ a = Clip(z, k, ) }", "{ a = Clip(z, , k) }"),
    "another output": ("{ b = Abs(z) a = Neg(z) }", "{ a = Abs(z) b = Neg(z) }"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_branches_that_differ_stay(case: str) -> None:
    then, other = DIFFERENT[case]
    text = net(then, other, condition="float k = {0.5}").replace("x) =>", "x, bool c) =>")
    model = loaded(text)
    result, report = checked(InlineIf(), model)
    assert result is model
    assert report.skips == []


@pytest.mark.parametrize(
    "text",
    [
        net(condition="bool b = {1}").replace("x) =>", "x, bool c) =>"),
        net().replace("x) =>", "x, bool c) =>"),  # edge 8: an initializer that may be overridden
    ],
)
def test_3_a_condition_that_is_computed(text: str) -> None:
    result, report = checked(InlineIf(), loaded(text))
    assert report.hits == []
    assert report.skips == []
    assert "If" in op_histogram(result)


def test_4_random_numbers() -> None:
    _, report = checked(InlineIf(), loaded(net("{ a = RandomNormalLike(z) }")))
    assert report.hits == []
    assert "random" in report.skips[0].reason


def test_another_operator_of_that_name() -> None:
    model = loaded(net())
    next(n for n in model.graph if n.name == "n").domain = "my"
    node = next(n for n in model.graph if n.name == "n")
    assert InlineIf().match(node, None) is None


def other_input(rewrite: Rewrite) -> Rewrite:
    """The last node reads what the first one reads."""
    rewrite.replacement[-1].replace_input_with(0, rewrite.replacement[0].inputs[1])
    return rewrite


@pytest.mark.parametrize("after", ["y = Exp(u)", "v = Min(u, x) y = Sub(v, v)"])
@pytest.mark.parametrize("how", [other_input, wired_to_another("z")])
def test_sabotage(how: Breakage, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_caught(InlineIf(), net(after=after), how, monkeypatch)
