from __future__ import annotations

import onnx_ir as ir
import pytest

from edgeopt.graph import attribute
from edgeopt.passes.recognize_softmax import RecognizeSoftmax
from edgeopt.rewrite import Rewrite
from tests.passes.sabotage import Breakage, assert_caught
from tests.passes.tables import assert_fires, assert_left_alone, graph


def net(
    body: str, *, opset: int = 17, axis: str = "-1", x: str = "float[2,3,8] x", y: str = "float[A,B,C] y", keep: int = 1
) -> str:
    """The last node is n; @ stands for an axis, in the form of the opset."""
    start, _, last = body.rpartition("y = ")
    keeping = "" if keep else ", keepdims = 0"
    for op, since in (("Max", 18), ("Sum", 13)):
        for value in "xeu":
            old = f"Reduce{op}({value})"
            new = f"Reduce{op}({value}, ax)" if opset >= since else f"Reduce{op}<axes = [{axis}]{keeping}>({value})"
            start = start.replace(old, new)
    more = f"int64[{axis.count(',') + 1}] ax = {{{axis}}}, float one = {{1}}, float two = {{2}}, float zero = {{0}}"
    return graph(f"g ({x}) => ({y}) <{more}> {{ {start} [n] y = {last} }}", opset)


SOFTMAX = "h = ReduceMax(x) d = Sub(x, h) e = Exp(d) s = ReduceSum(e) y = Div(e, s)"
LOG = "h = ReduceMax(x) d = Sub(x, h) e = Exp(d) s = ReduceSum(e) l = Log(s) y = Sub(d, l)"
TWICE = LOG.replace("e = Exp(d)", "f = Sub(x, h) e = Exp(f)")
SOFTSIGN = "a = Abs(x) p = Add(a, one) y = Div(x, p)"
SOFTPLUS = "a = Abs(x) m = Neg(a) e = Exp(m) p = Add(e, one) l = Log(p) r = Relu(x) y = Add(r, l)"

FIRES = {
    **{f"1 opset {v}": (net(SOFTMAX, opset=v), "Softmax") for v in (7, 9, 11, 12, 13, 17, 18, 21)},
    "1 the axis from 0": (net(SOFTMAX, axis="2"), "Softmax"),
    "1 two axes of x": (net(SOFTMAX, x="float[N,8] x", y="float[N,8] y"), "Softmax"),
    "1 open sizes": (net(SOFTMAX, x="float[N,L,H,K] x", y="float[N,L,H,K] y"), "Softmax"),
    "1 double": (net(SOFTMAX, x="double[2,3,8] x", y="double[A,B,C] y"), "Softmax"),
    "1 half": (net(SOFTMAX, x="float16[2,3,8] x", y="float16[A,B,C] y"), "Softmax"),
    **{f"2 opset {v}": (net(LOG, opset=v), "LogSoftmax") for v in (9, 13, 18)},
    "2 the difference twice": (net(TWICE), "LogSoftmax"),
    "2 double": (net(LOG, x="double[2,3,8] x", y="double[A,B,C] y"), "LogSoftmax"),
    "3": (net(SOFTSIGN), "Softsign"),
    "3 one first": (net(SOFTSIGN.replace("Add(a, one)", "Add(one, a)"), opset=9), "Softsign"),
}
LEFT = {
    "4 Softplus is slow": net(SOFTPLUS),
    "5 another axis": net(SOFTMAX, axis="1"),
    "6 no maximum": net("e = Exp(x) s = ReduceSum(e) y = Div(e, s)"),
    "6 log of 1 + exp": net("e = Exp(x) p = Add(e, one) y = Log(p)"),
    "6 log of softmax": net("s = Softmax<axis = -1>(x) y = Log(s)"),
    "7 two axes": net(SOFTMAX, axis="1, 2"),
    "7 all axes": net(SOFTMAX).replace("<axes = [-1]>", ""),
    "7 different axes": net(SOFTMAX).replace("ReduceMax<axes = [-1]>", "ReduceMax<axes = [1]>"),
    "7 the maximum of another": net(
        SOFTMAX.replace("ReduceMax(x)", "ReduceMax(u)"), x="float[2,3,8] x, float[2,3,8] u"
    ),
    "7 the sum of another": net(SOFTMAX.replace("ReduceSum(e)", "ReduceSum(u)"), x="float[2,3,8] x, float[2,3,8] u"),
    "8 edge 57: an axis is dropped": net(SOFTMAX, opset=12, x="float[3,3] x", y="float[3,3] y", keep=0),
    "9 an output": net(SOFTMAX, y="float[A,B,C] y, float[2,3,8] d"),
    "9 another reader": net(SOFTMAX.replace("y =", "w = Neg(s) y ="), y="float[A,B,C] y, float[2,3,1] w"),
    "Softsign with another number": net(SOFTSIGN.replace("one", "two")),
    "Softsign of another": net(SOFTSIGN.replace("Div(x", "Div(u"), x="float[2,3,8] x, float[2,3,8] u"),
    "Softsign in double": net(SOFTSIGN, x="double[2,3,8] x", y="double[A,B,C] y").replace("float one", "double one"),
}


@pytest.mark.parametrize("case", FIRES)
def test_fires(case: str) -> None:
    text, op = FIRES[case]
    result = assert_fires(RecognizeSoftmax(), text, {op: 1}, ["n"])
    if op != "Softsign":
        rank = len(result.graph.inputs[0].shape or ())
        assert attribute(result.graph[0], "axis") == rank - 1


@pytest.mark.parametrize("case", LEFT)
def test_is_left_alone(case: str) -> None:
    assert_left_alone(RecognizeSoftmax(), LEFT[case])


TARGETS = {
    "4": (net(SOFTPLUS), "Softplus"),
    "4 a maximum with 0": (net(SOFTPLUS.replace("Relu(x)", "Max(x, zero)")), "Softplus"),
    "5 Softmax": (net(SOFTMAX, axis="1"), "Softmax"),
    "5 LogSoftmax": (net(LOG, axis="0"), "LogSoftmax"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets_that_have_the_operator(case: str) -> None:
    text, op = TARGETS[case]
    assert_fires(RecognizeSoftmax(legal={op}), text, {op: 1}, ["n"])
    assert_left_alone(RecognizeSoftmax(legal=()), text)


@pytest.mark.parametrize("opset", [9, 12])
def test_edge_59_softmax_before_opset_13_is_over_all_axes_from_the_given_one(opset: int) -> None:
    assert_left_alone(RecognizeSoftmax(legal={"Softmax"}), net(SOFTMAX, opset=opset, axis="1"))


def over_axis_1(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].attributes["axis"] = ir.AttrInt64("axis", 1)
    return rewrite


def as_softmax(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].op_type = "Softmax"
    return rewrite


def another_operator(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].op_type = "Tanh"
    return rewrite


SABOTAGE: dict[str, tuple[str, Breakage]] = {
    "another axis": (net(SOFTMAX), over_axis_1),
    "another axis, logarithm": (net(LOG), over_axis_1),
    "no logarithm": (net(LOG), as_softmax),
    "Tanh": (net(SOFTSIGN), another_operator),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_a_broken_rewrite_is_rolled_back(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(RecognizeSoftmax(), text, how, monkeypatch)
