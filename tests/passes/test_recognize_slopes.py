from __future__ import annotations

import onnx_ir as ir
import pytest

from edgeopt.graph import attribute
from edgeopt.passes.recognize_slopes import RecognizeSlopes
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import assert_caught, wired_to_its_input
from tests.passes.tables import assert_fires, assert_left_alone, graph

C = "float zero = {0}, float one = {1}, float a = {0.1}, float m = {-0.1}, float big = {1.5}, float mone = {-1}"
SLOPES = ", float[4,1,1] s = {0.1, 0.2, 0.5, 0.9}"


def net(body: str, *, opset: int = 17, x: str = "float[2,4,3,5] x", y: str = "float[A,B,C,D] y", more: str = "") -> str:
    """The last node is n."""
    start, _, last = body.rpartition("y = ")
    return graph(f"g ({x}) => ({y}) <{C}{more}> {{ {start} [n] y = {last} }}", opset)


MAX = "p = Mul(x, a) y = Max(x, p)"
RELUS = "r = Relu(x) k = Neg(x) q = Relu(k) p = Mul(q, a) y = Sub(r, p)"
ABS = "r = Relu(x) b = Abs(x) d = Sub(x, b) p = Mul(d, a) y = Add(r, p)"
WHERE = "p = Mul(x, a) c = Greater(x, zero) y = Where(c, x, p)"
ELU = "e = Exp(x) p = Sub(e, one) c = Greater(x, zero) y = Where(c, x, p)"

FIRES = {
    "1": net(MAX),
    "1 the other way round": net("p = Mul(a, x) y = Max(p, x)"),
    "1 Min": net("p = Mul(x, big) y = Min(x, p)"),
    "1 opset 8": net(MAX, opset=8),
    "1 a scalar of higher rank": net(MAX.replace("a)", "t)"), more=", float[1,1,1,1] t = {0.1}"),
    "2": net(RELUS),
    "2 plus a negative slope": net(RELUS.replace("Mul(q, a)", "Mul(q, m)").replace("Sub(r, p)", "Add(r, p)")),
    "2 plus a negative slope, swapped": net(RELUS.replace("Mul(q, a)", "Mul(q, m)").replace("Sub(r, p)", "Add(p, r)")),
    "2 by the size": net(ABS),
    "3": net(WHERE),
    "3 less": net("p = Mul(x, a) c = Less(x, zero) y = Where(c, p, x)"),
    "3 greater or equal": net(WHERE.replace("Greater", "GreaterOrEqual")),
    "3 less or equal": net("p = Mul(x, a) c = LessOrEqual(x, zero) y = Where(c, p, x)"),
    "3 zero first": net("p = Mul(x, a) c = Less(zero, x) y = Where(c, x, p)"),
    "3 zero first, greater": net("p = Mul(x, a) c = Greater(zero, x) y = Where(c, p, x)"),
    "3 any rank": net(WHERE, x="float[N] x", y="float[N] y"),
    "3 a scalar": net(WHERE, x="float x", y="float y"),
    "3 opset 9": net(WHERE, opset=9),
    "3 opset 22": net(WHERE, opset=22),
}
LEFT = {
    "4 PRelu is slow": net(MAX.replace("a)", "s)"), more=SLOPES),
    "5 Elu is slow": net(ELU),
    "6 a maximum with a steep line": net(MAX.replace("a)", "big)")),
    "6 a minimum with a flat line": net("p = Mul(x, a) y = Min(x, p)"),
    "6 a maximum with a falling line": net(MAX.replace("a)", "m)")),
    "7 a slope that is not constant": net(MAX.replace("a)", "z)"), x="float[2,4,3,5] x, float z"),
    "7 edge 21: a slope of higher rank": net(
        MAX.replace("a)", "t)"), more=", float[1,1,1,1,1] t = {0.1}", y="float[A,B,C,D,E] y"
    ),
    "7 edge 8: overridable": net(MAX, x="float[2,4,3,5] x, float a").replace("float a = {0.1}, ", ""),
    "8 another threshold": net(WHERE.replace("zero", "one")),
    "8 another x": net(WHERE.replace("Greater(x", "Greater(z"), x="float[2,4,3,5] x, float[2,4,3,5] z"),
    "8 the wrong way round": net("p = Mul(x, a) c = Greater(x, zero) y = Where(c, p, x)"),
    "8 Relus of two values": net(RELUS.replace("Neg(x)", "Neg(z)"), x="float[2,4,3,5] x, float[2,4,3,5] z"),
    "8 Sub the other way round": net(RELUS.replace("Sub(r, p)", "Sub(p, r)")),
    "9 an output": net(MAX, y="float[A,B,C,D] y, float[2,4,3,5] p"),
    "9 another reader": net("p = Mul(x, a) w = Exp(p) y = Max(x, p)", y="float[A,B,C,D] y, float[2,4,3,5] w"),
    "10 integers": graph("g (int32[4] x) => (int32[4] y) <int32 a = {2}> { p = Mul(x, a) y = Min(x, p) }"),
    "10 double": net(MAX).replace("float", "double"),
    "10 double, Where, opset 21": net(WHERE, opset=21).replace("float", "double"),
    "three operands": net("p = Mul(x, a) y = Max(x, p, zero)"),
}


@pytest.mark.parametrize("case", FIRES)
def test_fires(case: str) -> None:
    result = assert_fires(RecognizeSlopes(), FIRES[case], {"LeakyRelu": 1}, ["n"])
    alpha = attribute(result.graph[0], "alpha")
    assert alpha == pytest.approx(1.5 if "Min" in FIRES[case] else 0.2 if case == "2 by the size" else 0.1)


@pytest.mark.parametrize("case", LEFT)
def test_is_left_alone(case: str) -> None:
    assert_left_alone(RecognizeSlopes(), LEFT[case])


@pytest.mark.parametrize("body", [MAX, RELUS, ABS, WHERE])
def test_half(body: str) -> None:
    text = net(body).replace("float", "float16").replace(" = {0}", "").replace(" = {0.1}", "").replace(" = {1}", "")
    for stated in (" = {-0.1}", " = {1.5}", " = {-1}"):
        text = text.replace(stated, "")
    model = loaded(text)
    numbers = {"zero": 0.0, "a": 0.1}
    for name, number in numbers.items():
        if name in model.graph.initializers:
            model.graph.initializers[name].const_value = ir.tensor(number, dtype=ir.DataType.FLOAT16)
    result, report = checked(RecognizeSlopes(), model)
    assert report.rolled_back == []
    assert [n.op_type for n in result.graph] == ["LeakyRelu"]
    assert_same(model, result, 4e-3)


TARGETS = {
    "4 PRelu by max": (net(MAX.replace("a)", "s)"), more=SLOPES), "PRelu"),
    "4 PRelu by Relus": (net(RELUS.replace("a)", "s)"), more=SLOPES), "PRelu"),
    "4 PRelu by Relus, added": (
        net(RELUS.replace("a)", "s)").replace("Sub(r, p)", "Add(r, p)"), more=SLOPES),
        "PRelu",
    ),
    "4 PRelu by Where": (net(WHERE.replace("a)", "s)"), more=SLOPES), "PRelu"),
    "5 Elu": (net(ELU), "Elu"),
    "5 Elu with a factor": (net(ELU.replace("c =", "q = Mul(p, a) c =").replace("x, p)", "x, q)")), "Elu"),
    "5 Elu, minus as a sum": (net(ELU.replace("Sub(e, one)", "Add(mone, e)")), "Elu"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets_that_have_the_operator(case: str) -> None:
    text, op = TARGETS[case]
    assert_fires(RecognizeSlopes(legal={op}), text, {op: 1}, ["n"])
    assert_left_alone(RecognizeSlopes(legal={"Relu"}), text)
    assert_left_alone(RecognizeSlopes(max_opset=1), text)


def test_slopes_along_the_last_axis() -> None:
    text = net(MAX.replace("a)", "t)"), more=", float[5] t = {0.1, 0.2, 0.3, 0.4, 0.5}")
    assert_fires(RecognizeSlopes(legal={"PRelu"}), text, {"PRelu": 1})
    wide = net(MAX.replace("a)", "t)"), x="float[2,4,3,1] x", more=", float[5] t = {0.1, 0.2, 0.3, 0.4, 0.5}")
    assert_left_alone(RecognizeSlopes(legal={"PRelu"}), wide)


def steeper(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].attributes["alpha"] = ir.AttrFloat32("alpha", 0.1001)
    return rewrite


@pytest.mark.parametrize("how", [steeper, wired_to_its_input])
@pytest.mark.parametrize("body", [RELUS, WHERE])
def test_a_broken_rewrite_is_rolled_back(body: str, how: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_caught(RecognizeSlopes(), net(body), how, monkeypatch)  # type: ignore[arg-type]  # both are breakages
