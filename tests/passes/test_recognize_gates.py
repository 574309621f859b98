from __future__ import annotations

import math

import onnx_ir as ir
import pytest

from edgeopt.graph import attribute
from edgeopt.passes.recognize_gates import RecognizeGates
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import Breakage, assert_caught, wired_to_its_input
from tests.passes.tables import assert_fires, assert_left_alone, graph

C = (
    "zero = {0}, one = {1}, two = {2}, three = {3}, five = {5}, six = {6}, half = {0.5}, sixth = {0.16666667},"
    " root = {1.4142135}, inv = {0.70710678}, cube = {0.044715}, tanh = {0.7978846}, minus = {-1}, near = {1.41},"
    " fifth = {0.2}"
)
CONSTANTS = ", ".join(f"float {c.strip()}" for c in C.split(","))


def net(body: str, *, opset: int = 20, x: str = "float[2,4,6,6] x", y: str = "float[A,B,C,D] y", more: str = "") -> str:
    """The last node is n."""
    start, _, last = body.rpartition("y = ")
    return graph(f"g ({x}) => ({y}) <{CONSTANTS}{more}> {{ {start} [n] y = {last} }}", opset)


HARD_SIGMOID = "p = Add(x, three) c = Clip(p, zero, six) y = Div(c, six)"
HARD_SWISH = "p = Add(x, three) c = Clip(p, zero, six) m = Mul(x, c) y = Div(m, six)"
GELU = "d = Div(x, root) e = Erf(d) p = Add(e, one) q = Mul(x, p) y = Mul(q, half)"
GELU_TANH = (
    "c = Pow(x, three) d = Mul(c, cube) s = Add(x, d) r = Mul(s, tanh) t = Tanh(r) p = Add(t, one) q = Mul(x, half)"
    " y = Mul(q, p)"
)
SIGMOID = "m = Neg(x) e = Exp(m) p = Add(e, one) y = Div(one, p)"
SILU = "m = Neg(x) e = Exp(m) p = Add(e, one) y = Div(x, p)"
MISH = "s = Softplus(x) t = Tanh(s) y = Mul(x, t)"

FIRES: dict[str, tuple[str, dict[str, int]]] = {
    "1": (net(HARD_SIGMOID), {"HardSigmoid": 1}),
    "1 times a sixth": (net(HARD_SIGMOID.replace("Div(c, six)", "Mul(sixth, c)")), {"HardSigmoid": 1}),
    "1 Relu and Min": (
        net("p = Add(three, x) r = Relu(p) c = Min(six, r) y = Div(c, six)"),
        {"HardSigmoid": 1},
    ),
    "1 Max and Min": (
        net("p = Add(three, x) r = Max(p, zero) c = Min(r, six) y = Div(c, six)"),
        {"HardSigmoid": 1},
    ),
    "1 Min first": (net("p = Add(three, x) r = Min(p, six) c = Max(r, zero) y = Div(c, six)"), {"HardSigmoid": 1}),
    "1 Keras: clip(0.2 x + 0.5, 0, 1)": (
        net("m = Mul(x, fifth) p = Add(m, half) y = Clip(p, zero, one)"),
        {"HardSigmoid": 1},
    ),
    "1 the slope divides": (net("m = Div(x, six) p = Add(m, half) y = Clip(p, zero, one)"), {"HardSigmoid": 1}),
    "1 ends in Min": (net("m = Mul(x, fifth) p = Add(m, half) r = Relu(p) y = Min(r, one)"), {"HardSigmoid": 1}),
    "1 opset 7, bounds are attributes": (
        net("p = Add(x, three) c = Clip<min = 0.0, max = 6.0>(p) y = Div(c, six)", opset=7),
        {"HardSigmoid": 1},
    ),
    "1 a subtraction": (net("p = Sub(x, minus) c = Clip(p, zero, two) y = Mul(c, half)"), {"HardSigmoid": 1}),
    "1 scalars of higher rank": (
        net(HARD_SIGMOID.replace("three", "t4"), more=", float[1,1,1,1] t4 = {3}"),
        {"HardSigmoid": 1},
    ),
    "2": (net(HARD_SWISH), {"HardSwish": 1}),
    "2 opset 14": (net(HARD_SWISH, opset=14), {"HardSwish": 1}),
    "2 opset 13": (net(HARD_SWISH, opset=13), {"HardSigmoid": 1, "Mul": 1}),
    "2 opset 9": (
        net(HARD_SWISH.replace("Clip(p, zero, six)", "Clip<min = 0.0, max = 6.0>(p)"), opset=9),
        {"HardSigmoid": 1, "Mul": 1},
    ),
    "2 a sixth first": (
        net("p = Add(x, three) c = Clip(p, zero, six) m = Mul(c, sixth) y = Mul(m, x)"),
        {"HardSwish": 1},
    ),
    "2 from HardSigmoid": (
        net("a = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, a)"),
        {"HardSwish": 1},
    ),
    "2 x has other readers": (
        net(f"w = Exp(x) {HARD_SWISH}", y="float[A,B,C,D] y, float[2,4,6,6] w"),
        {"HardSwish": 1, "Exp": 1},
    ),
    "2 scaled x": (net("v = Exp(x) " + HARD_SWISH.replace("(x,", "(v,")), {"Exp": 1, "HardSwish": 1}),
    "3": (net(MISH), {"Mish": 1}),
    "3 the other way round": (net(MISH.replace("Mul(x, t)", "Mul(t, x)"), opset=18), {"Mish": 1}),
    "4": (net(GELU), {"Gelu": 1}),
    "4 a product with 1 / sqrt 2": (net(GELU.replace("Div(x, root)", "Mul(x, inv)")), {"Gelu": 1}),
    "4 half first": (
        net("d = Mul(x, inv) e = Erf(d) p = Add(e, one) q = Mul(x, half) y = Mul(q, p)"),
        {"Gelu": 1},
    ),
    "4 half inside": (
        net("d = Mul(x, inv) e = Erf(d) p = Add(e, one) q = Mul(p, half) y = Mul(x, q)"),
        {"Gelu": 1},
    ),
    "4 half of each": (
        net("d = Mul(x, inv) e = Erf(d) g = Mul(e, half) p = Add(g, half) y = Mul(x, p)"),
        {"Gelu": 1},
    ),
    "4 divided by two": (net(GELU.replace("Mul(q, half)", "Div(q, two)")), {"Gelu": 1}),
    "4 tanh": (net(GELU_TANH), {"Gelu": 1}),
    "4 tanh, products instead of Pow": (
        net(GELU_TANH.replace("c = Pow(x, three)", "b = Mul(x, x) c = Mul(b, x)")),
        {"Gelu": 1},
    ),
    "4 tanh, x taken out": (
        net(
            "b = Mul(x, x) d = Mul(b, cube) s = Add(d, one) u = Mul(x, tanh) r = Mul(u, s) t = Tanh(r) p = Add(t, one)"
            " q = Mul(x, half) y = Mul(q, p)"
        ),
        {"Gelu": 1},
    ),
    "5": (net(SIGMOID, opset=13), {"Sigmoid": 1}),
    "5 Reciprocal": (net(SIGMOID.replace("Div(one, p)", "Reciprocal(p)")), {"Sigmoid": 1}),
    "5 0 - x": (net(SIGMOID.replace("Neg(x)", "Sub(zero, x)")), {"Sigmoid": 1}),
    "5 -1 times x": (net(SIGMOID.replace("Neg(x)", "Mul(minus, x)")), {"Sigmoid": 1}),
    "6": (net(SILU, opset=11), {"Sigmoid": 1, "Mul": 1}),
    "6 opset 24": (net(SILU, opset=24), {"Sigmoid": 1, "Mul": 1}),
    "6 one first": (net(SILU.replace("Add(e, one)", "Add(one, e)")), {"Sigmoid": 1, "Mul": 1}),
}

LEFT = {
    "7 Swish is slow": net("s = Sigmoid(x) y = Mul(x, s)", opset=24),
    "8 edge 55: 0 to 5": net(HARD_SWISH.replace("six)", "five)").replace("Div(m, five)", "Div(m, six)")),
    "8 edge 55: another x": net(
        HARD_SWISH.replace("Mul(x, c)", "Mul(z, c)"), x="float[2,4,6,6] x, float[2,4,6,6] z"
    ).replace("Div(m, six)", "Exp(m)"),
    "8 from 1 to 6": net(HARD_SIGMOID.replace("zero", "one")),
    "8 edge 55: SiLU of another x": net("s = Exp(z) y = Mul(x, s)", x="float[2,4,6,6] x, float[2,4,6,6] z"),
    "8 edge 56: another root": net(GELU.replace("root", "near")),
    "8 edge 56: another half": net(GELU.replace("half", "fifth")),
    "8 edge 56: plus 2": net(GELU.replace("Add(e, one)", "Add(e, two)")),
    "8 Gelu of another x": net(GELU.replace("Mul(x, p)", "Mul(z, p)"), x="float[2,4,6,6] x, float[2,4,6,6] z"),
    "8 tanh with another cube": net(GELU_TANH.replace("cube", "fifth")),
    "8 tanh with a square": net(GELU_TANH.replace("Pow(x, three)", "Pow(x, two)")),
    "8 Mish of another x": net(MISH.replace("Mul(x, t)", "Mul(z, t)"), x="float[2,4,6,6] x, float[2,4,6,6] z"),
    "8 exp(x), not exp(-x)": net(SILU.replace("Exp(m)", "Exp(x)")),
    "8 two plus exp(-x)": net(SIGMOID.replace("Add(e, one)", "Add(e, two)")),
    "9 edge 56: an inner value is an output": net(GELU, y="float[A,B,C,D] y, float[2,4,6,6] e"),
    "9 an inner value has another reader": net(
        GELU.replace("y =", "w = Exp(p) y ="), y="float[A,B,C,D] y, float[2,4,6,6] w"
    ),
    "9 Mish, softplus is read": net(MISH, y="float[A,B,C,D] y, float[2,4,6,6] s"),
    "9 SiLU, its sum is an output": net(SILU, y="float[A,B,C,D] y, float[2,4,6,6] p"),
    "9 edge 3: captured by a branch": graph(
        f"g (float[2,3] x, bool b) => (float[2,3] y, float[2,3] w) <{CONSTANTS}> {{ {GELU} w = If(b) <"
        "then_branch = t () => (float[2,3] u) { u = Neg(e) }, else_branch = f () => (float[2,3] v) { v = Exp(x) }> }",
        20,
    ),
    "10 a scalar of more axes": net(HARD_SIGMOID.replace("three", "t5"), more=", float[1,1,1,1,1] t5 = {3}").replace(
        "float[A,B,C,D] y", "float[A,B,C,D,E] y"
    ),
    "10 edge 8: overridable": net(GELU, x="float[2,4,6,6] x, float half"),
    "10 a vector": net(HARD_SIGMOID.replace("Add(x, three)", "Add(x, v)"), more=", float[6] v = {3,3,3,3,3,3}"),
    "10 not constant": net(HARD_SIGMOID.replace("Add(x, three)", "Add(x, z)"), x="float[2,4,6,6] x, float z"),
    "11 integers": graph(
        "g (int32[4] x) => (int32[4] y) <int32 three = {3}, int32 zero = {0}, int32 six = {6}> {"
        " p = Add(x, three) c = Clip(p, zero, six) y = Div(c, six) }"
    ),
    "12 Gelu before opset 20": net(GELU, opset=19),
    "12 tanh before opset 20": net(GELU_TANH, opset=17),
    "12 Mish before opset 18": net(MISH, opset=17),
    "13 few elements": net(SIGMOID, x="float[8,4] x", y="float[A,B] y"),
    "13 few elements in a channel": net(SILU, x="float[8,64,5,6] x"),
    "13 Log": net(SIGMOID.replace("y =", "z =") + " y = Log(z)"),
    "a gate of unknown numbers": net("c = Clip(x, zero, six) y = Mul(c, z)", x="float[2,4,6,6] x, float[2,4,6,6] z"),
}


@pytest.mark.parametrize("case", FIRES)
def test_fires(case: str) -> None:
    text, ops = FIRES[case]
    assert_fires(RecognizeGates(), text, ops)


@pytest.mark.parametrize("case", LEFT)
def test_is_left_alone(case: str) -> None:
    assert_left_alone(RecognizeGates(), LEFT[case])


FORMULAS = {
    "HardSigmoid": (HARD_SIGMOID, 13, ("float", "float16")),
    "HardSwish": (HARD_SWISH, 14, ("float", "float16")),
    "Mish": (MISH, 18, ("float", "float16")),
    "Gelu": (GELU, 20, ("float", "float16")),
    "Gelu by tanh": (GELU_TANH, 20, ("float", "float16")),
    "Sigmoid": (SIGMOID, 13, ("float", "float16", "double")),
}


@pytest.mark.parametrize("dims", ["", "7", "N,4", "2,3,4", "N,2,H,W", "1,2,3,2,3"])
@pytest.mark.parametrize("name", FORMULAS)
def test_ranks(name: str, dims: str) -> None:
    body, opset, _ = FORMULAS[name]
    kind = f"float[{dims}]" if dims else "float"
    if name == "Sigmoid" and dims != "N,2,H,W":
        assert_left_alone(RecognizeGates(), net(body, opset=opset, x=f"{kind} x", y=f"{kind} y"))
        return
    assert_fires(RecognizeGates(), net(body, opset=opset, x=f"{kind} x", y=f"{kind} y"), None, ["n"])


@pytest.mark.parametrize("kind", ["float", "float16", "double"])
@pytest.mark.parametrize("name", FORMULAS)
def test_types(name: str, kind: str) -> None:
    body, opset, kinds = FORMULAS[name]
    declared = ", ".join(f"float {c.strip()}".split(" = ")[0] for c in C.split(","))
    text = graph(f"g (float[2,3,64] x) => (float[A,B,C] y) <{declared}> {{ {body} }}", opset).replace("float", kind)
    model = loaded(text)
    for part in C.split(","):
        key, number = part.strip().split(" = ")
        value = model.graph.initializers[key]
        assert value.dtype is not None
        number = {"root": str(math.sqrt(2)), "sixth": str(1 / 6), "tanh": str(math.sqrt(2 / math.pi))}.get(
            key, number.strip("{}")
        )
        value.const_value = ir.tensor(float(number), dtype=value.dtype)
    result, report = checked(RecognizeGates(), model)
    assert report.rolled_back == []
    assert bool(report.hits) == (kind in kinds)
    if not (kind == "double" and "Erf" in body):  # for which onnxruntime has no kernel
        assert_same(model, result, 4e-3 if kind == "float16" else 1e-5)


@pytest.mark.parametrize("opset", [13, 14, 17, 18, 20, 21, 22, 24])
def test_gelu_hard_swish_and_mish_by_opset(opset: int) -> None:
    since = {HARD_SWISH: 14, MISH: 18, GELU: 20}
    for body, first in since.items():
        model = loaded(net(body, opset=opset))
        result, report = checked(RecognizeGates(), model)
        assert report.rolled_back == []
        assert (len(result.graph) == 1) == (opset >= first)


def test_parameters_of_hard_sigmoid() -> None:
    result = assert_fires(RecognizeGates(), FIRES["1 Keras: clip(0.2 x + 0.5, 0, 1)"][0], {"HardSigmoid": 1}, ["n"])
    node = result.graph[0]
    assert node.name == "n"
    assert attribute(node, "alpha") == pytest.approx(0.2)
    assert attribute(node, "beta") == 0.5


def test_approximations_of_gelu() -> None:
    for body, wanted in ((GELU, "none"), (GELU_TANH, "tanh")):
        result = assert_fires(RecognizeGates(), net(body), {"Gelu": 1})
        assert attribute(result.graph[0], "approximate", "none") == wanted


def test_targets() -> None:
    model = loaded(LEFT["7 Swish is slow"])
    swish, report = checked(RecognizeGates(legal={"Swish"}), model)
    assert report.rolled_back == []
    assert [n.op_type for n in swish.graph] == ["Swish"]
    assert_same(model, swish)
    gelu = loaded(net(GELU))
    for rule in (RecognizeGates(legal={"Erf"}), RecognizeGates(max_opset=19), RecognizeGates(legal=())):
        assert checked(rule, gelu)[0] is gelu


def test_in_a_branch() -> None:
    text = graph(
        f"g (float[2,3] x, bool b) => (float[2,3] y) <{CONSTANTS}> {{ y = If(b) <"
        f"then_branch = t () => (float[2,3] y) {{ {GELU} }}, else_branch = f () => (float[2,3] v) {{ v = Exp(x) }}> }}",
        20,
    )
    assert_fires(RecognizeGates(), text, {"If": 1, "Gelu": 1, "Exp": 1})


def with_attribute(name: str, value: float) -> Breakage:
    def how(rewrite: Rewrite) -> Rewrite:
        rewrite.replacement[0].attributes[name] = ir.AttrFloat32(name, value)
        return rewrite

    return how


def another_operator(op: str) -> Breakage:
    def how(rewrite: Rewrite) -> Rewrite:
        rewrite.replacement[0].op_type = op
        return rewrite

    return how


def the_other_gelu(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].attributes["approximate"] = ir.AttrString("approximate", "tanh")
    return rewrite


SABOTAGE: dict[str, tuple[str, Breakage]] = {
    "the slope": (net(HARD_SIGMOID), with_attribute("alpha", 0.1667)),
    "the shift": (net(HARD_SIGMOID), with_attribute("beta", 0.501)),
    "the slope of x · HardSigmoid": (net(HARD_SWISH, opset=13), with_attribute("alpha", 0.2)),
    "erf for tanh": (net(GELU), the_other_gelu),
    "Gelu for Mish": (net(MISH), another_operator("Gelu")),
    "no activation": (net(GELU), wired_to_its_input),
    "Tanh for Sigmoid": (net(SIGMOID), another_operator("Tanh")),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_a_broken_rewrite_is_rolled_back(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(RecognizeGates(), text, how, monkeypatch)
