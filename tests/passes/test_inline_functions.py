from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import files, shapes
from edgeopt.graph import attribute, op_histogram
from edgeopt.oracle import Oracle, run_checked
from edgeopt.passes.fold_batchnorm import FoldBatchnorm
from edgeopt.passes.inline_functions import InlineFunctions
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, filled, loaded, model
from tests.passes.sabotage import Breakage, assert_caught, wired_to_another


def net(
    call: str,
    functions: str,
    *,
    x: str = "float[2,3]",
    y: str = "float[2,3]",
    extra: str = "",
    imports: str = "",
    opset: int = 17,
    uses: str = "",
) -> str:
    own = uses or f'opset_import: ["" : {opset}, "local" : 1]'
    written = "".join(f' <domain: "local", {own}> {f}' for f in functions.split(";") if f.strip())
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}, "local" : 1{imports}]>'
        f" g ({x} x) => ({y} y) <float[3] w = {{1, -2, 3}}, float k = {{0.5}}{extra}> {{ z = Identity(x)"
        f" [n] {call} }}{written}"
    )


HITS = {  # text, operators afterwards beside the Identity of z
    "1 an attribute": (
        net("y = local.f<alpha = 0.25>(z)", "f <alpha> (a) => (b) { b = Elu<alpha: float = @alpha>(a) }"),
        {"Elu": 1},
    ),
    "1 a default": (
        net("y = local.f(z)", "f <alpha: float = 0.25> (a) => (b) { b = Elu<alpha: float = @alpha>(a) }"),
        {"Elu": 1},
    ),
    "1 a default that is overridden": (
        net("y = local.f<alpha = 4.0>(z)", "f <alpha: float = 0.25> (a) => (b) { b = Elu<alpha: float = @alpha>(a) }"),
        {"Elu": 1},
    ),
    "1 an attribute that is missing": (
        net("y = local.f(z)", "f <alpha> (a) => (b) { b = Elu<alpha: float = @alpha>(a) }"),
        {"Elu": 1},
    ),
    "1 an attribute of another name": (
        net("y = local.f<s = 2.0>(z)", "f <s> (a) => (b) { b = Elu<alpha: float = @s>(a) }"),
        {"Elu": 1},
    ),
    "2 an optional input that is missing": (
        net("y = local.f(z, , k)", "f (a, lo, hi) => (b) { b = Clip(a, lo, hi) }"),
        {"Clip": 1},
    ),
    "2 optional inputs that are missing at the end": (
        net("y = local.f(z)", "f (a, lo, hi) => (b) { b = Clip(a, lo, hi) }"),
        {"Clip": 1},
    ),
    "3 functions that call functions": (
        net(
            "y = local.f<s = 0.5>(z)",
            "f <s> (a) => (b) { c = local.h<t: float = @s>(a) b = local.h<t = 3.0>(c) };"
            " h <t> (a) => (b) { k = Constant<value_float: float = @t>() b = Mul(a, k) }",
        ),
        {"Constant": 2, "Mul": 2},
    ),
    "3 two calls of one function": (
        net("u = local.f(z) y = local.f(u)", "f (a) => (b) { t = Neg(a) b = Exp(t) }"),
        {"Neg": 2, "Exp": 2},
    ),
    "two outputs, one not read": (
        net("y, dead = local.f(z)", "f (a) => (b, c) { b = Neg(a) c = Exp(a) }"),
        {"Neg": 1, "Exp": 1},
    ),
    "an input is handed on": (net("y = local.f(z)", "f (a) => (b) { b = Identity(a) }"), {"Identity": 1}),
    "a body in the function": (
        net(
            "y = local.f<s = 0.5>(z, c)",
            "f <s> (a, c) => (b) { b = If(c) <then_branch = p () => (float[2,3] t) { t = Elu<alpha: float = @s>(a) },"
            " else_branch = q () => (float[2,3] t) { t = Neg(a) }> }",
            extra=", bool c = {1}",
        ),
        {"If": 1, "Elu": 1, "Neg": 1},
    ),
    "a Constant in the function": (
        net("y = local.f(z)", "f (a) => (b) { k = Constant<value = float[3] {1, 2, 3}>() b = Add(a, k) }"),
        {"Constant": 1, "Add": 1},
    ),
    "opset 13": (net("y = local.f(z)", "f (a) => (b) { b = Neg(a) }", opset=13), {"Neg": 1}),
    "opset 21": (net("y = local.f(z)", "f (a) => (b) { b = Neg(a) }", opset=21), {"Neg": 1}),
    "float16": (
        net("y = local.f(z)", "f (a) => (b) { b = Neg(a) }", x="float16[2,3]", y="float16[2,3]"),
        {"Neg": 1},
    ),
    "open sizes": (
        net("y = local.f(z)", "f (a) => (b) { b = Neg(a) }", x="float[N,3]", y="float[N,3]"),
        {"Neg": 1},
    ),
    "another version of a set that it does not use": (
        net("y = local.f(z)", "f (a) => (b) { b = Neg(a) }", uses='opset_import: ["" : 17, "other" : 5]'),
        {"Neg": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HITS)
def test_inlines(case: str) -> None:
    text, operators = HITS[case]
    source = loaded(text)
    result, report = checked(InlineFunctions(), source)
    assert report.rolled_back == []
    assert report.skips == []
    assert report.hits[0].anchor == "n"
    left = op_histogram(result)
    left["Identity"] -= 1
    assert {k: v for k, v in left.items() if v} == operators
    assert not result.functions  # case 4
    assert files.checker_error(result) is None
    if "float16" not in text:
        assert_same(source, result)
    assert run_checked(InlineFunctions(), result, Oracle(result))[1].hits == []


def test_edge_72_a_batchnorm_in_a_function_is_folded_after() -> None:
    bn = "float[4] gamma, float[4] beta, float[4] mean, float[4] var"
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[N,3,6,6] x) => (float[A,B,C,D] y)'
        f" <float[4,3,3,3] w, {bn}> {{ [n] y = local.block<eps = 0.01>(x, w, gamma, beta, mean, var) }}"
        ' <domain: "local", opset_import: ["" : 17]> block <eps> (a, w, s, b, m, v) => (r) {'
        " t = Conv(a, w) u = BatchNormalization<epsilon: float = @eps>(t, s, b, m, v) r = Relu(u) }"
    )
    source = loaded(text)
    result, report = checked(InlineFunctions(), source)
    assert len(report.hits) == 1
    shapes.infer(result)
    folded, _ = checked(FoldBatchnorm(), result)
    assert op_histogram(folded) == {"Conv": 1, "Relu": 1}
    assert_same(source, folded)


def test_new_names_and_metadata() -> None:
    source = loaded(net("u = local.f(z) [n_2] y = local.f(u)", "f (a) => (b) { t = Neg(a) b = Exp(t) }"))
    call = next(n for n in source.graph if n.name == "n")
    call.metadata_props["layer"] = "first"
    result, _ = checked(InlineFunctions(), source)
    names = [n.name for n in result.graph]
    assert len(names) == len(set(names))
    assert [n.metadata_props.get("layer") for n in result.graph if (n.name or "").startswith("n/")] == ["first"] * 2
    assert {n.metadata_props["edgeopt.origin"] for n in result.graph if "n/" in (n.name or "")} == {
        "inline_functions: n"
    }


def test_calls_in_a_branch() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[2] x, bool c) => (float[2] y) {'
        " y = If(c) <then_branch = p () => (float[2] a) { [n] a = local.f(x) }, else_branch = q () => (float[2] a)"
        ' { [m] a = local.f(x) }> } <domain: "local", opset_import: ["" : 17]> f (a) => (b) { t = Neg(a) b = Exp(t) }'
    )
    source = loaded(text)
    result, report = checked(InlineFunctions(), source)
    assert {h.anchor for h in report.hits} == {"n", "m"}
    for c in (True, False):
        assert_same(source, result, c=np.array(c))


SKIPS = {
    "5 another version": (
        net("y = local.f(z)", "f (a) => (b) { b = Neg(a) }", uses='opset_import: ["" : 13]'),
        "is written for version 13 of the operator set '', the model for 17",
    ),
    "5 an operator set that the model lacks": (
        net("y = local.f(z)", "f (a) => (b) { b = more.Neg(a) }", uses='opset_import: ["" : 17, "more" : 1]'),
        "uses the operator set 'more', which the model does not import",
    ),
    "7 random numbers": (net("y = local.f(z)", "f (a) => (b) { b = RandomNormalLike(a) }"), "random"),
}


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    source = shapes.infer(files.load(filled(text)).model)
    result, report = checked(InlineFunctions(), source)
    assert result is source
    assert [s.node for s in report.skips] == ["n"]
    assert reason in report.skips[0].reason


def function(name: str, *nodes: ir.Node, attributes: tuple[ir.Attr, ...] = ()) -> ir.Function:
    graph = ir.Graph([nodes[0].inputs[0]], [nodes[-1].outputs[0]], nodes=nodes, opset_imports={"": 17, "local": 1})  # type: ignore[list-item]
    return ir.Function("local", name, graph=graph, attributes=list(attributes))


def test_6_functions_that_call_themselves() -> None:
    a, b = ir.Value(name="a"), ir.Value(name="b")
    source = model(net("y = local.f(z)", ""))
    for name, other, value in (("f", "h", a), ("h", "f", b)):
        made = function(name, ir.Node("local", other, [value], num_outputs=1))
        source.functions[made.identifier()] = made
    state = InlineFunctions().prepare(source)
    assert set(state.problems.values()) == {"calls itself"}


def test_6_functions_that_grow_without_measure() -> None:
    """Each calls the next one ten times."""
    source = model(net("y = local.f0(z)", ""))
    for k in range(6):
        value = ir.Value(name="a")
        nodes: list[ir.Node] = []
        for _ in range(10):
            domain, op = ("local", f"f{k + 1}") if k < 5 else ("", "Neg")
            nodes.append(ir.Node(domain, op, [nodes[-1].outputs[0] if nodes else value], num_outputs=1))
        made = function(f"f{k}", *nodes)
        source.functions[made.identifier()] = made
    state = InlineFunctions().prepare(source)
    assert state.problems[("local", "f0", "")] == "stands for 1000000 nodes"


def test_8_more_inputs_than_the_function_has() -> None:
    source = model(net("y = local.f(z, k)", "f (a) => (b) { b = Neg(a) }"))
    node = next(n for n in source.graph if n.op_type == "f")
    answer = InlineFunctions().match(node, InlineFunctions().prepare(source))
    assert answer is not None
    assert "more inputs" in getattr(answer, "reason", "")


def test_a_function_that_gives_out_a_missing_input() -> None:
    value, other = ir.Value(name="a"), ir.Value(name="c")
    graph = ir.Graph([value, other], [other], nodes=[], opset_imports={"": 17})
    source = model(net("y = local.f(z)", ""))
    made = ir.Function("local", "f", graph=graph, attributes=[])
    source.functions[made.identifier()] = made
    node = next(n for n in source.graph if n.op_type == "f")
    answer = InlineFunctions().match(node, InlineFunctions().prepare(source))
    assert "leaves out" in getattr(answer, "reason", "")


def test_functions_that_are_still_called_stay() -> None:
    text = net(
        "u = local.f(z) y = local.h(u)",
        "f (a) => (b) { b = RandomNormalLike(a) }; h (a) => (b) { b = Neg(a) }",
    )
    source = loaded(text)
    state = InlineFunctions().prepare(source)
    assert list(state.problems) == [("local", "f", "")]
    InlineFunctions().finish(source)
    assert [f.name for f in source.functions.values()] == ["f", "h"]


def other_attribute(rewrite: Rewrite) -> Rewrite:
    node = rewrite.replacement[0]
    node.attributes["alpha"] = ir.AttrFloat32("alpha", attribute(node, "alpha") * 1.01)
    return rewrite


@pytest.mark.parametrize("how", [other_attribute, wired_to_another("z")])
def test_sabotage(how: Breakage, monkeypatch: pytest.MonkeyPatch) -> None:
    text = net(
        "u = local.f<alpha = 0.25>(z) y = Min(u, w)", "f <alpha> (a) => (b) { b = Elu<alpha: float = @alpha>(a) }"
    )
    assert_caught(InlineFunctions(), text, how, monkeypatch)
