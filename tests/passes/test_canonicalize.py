from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.graph import Array, constant, op_histogram
from edgeopt.passes import canonicalize
from edgeopt.passes.canonicalize import Canonicalize
from edgeopt.passes.replacing import by_node
from edgeopt.rewrite import Rewrite
from edgeopt.runtime import Level, Session
from tests.models import checked, loaded
from tests.passes.sabotage import Breakage, Patch, assert_caught, scaled, wired_to_its_input
from tests.passes.tables import assert_fires, assert_left_alone, graph

RULE = Canonicalize()


def net(body: str, constants: str = "", kind: str = "float", dims: str = "2,3,4", opset: int = 17) -> str:
    """The part under test from p to q, with an Abs before and after it."""
    head = f"g ({kind}[{dims}] x) => ({kind}[{dims}] y) <{constants}>"
    return graph(f"{head} {{ p = Abs(x) {body} y = Abs(q) }}", opset)


def ops(**counts: int) -> dict[str, int]:
    return {"Abs": 2, **counts}


FOLDED = {
    "1 CastLike of an input": (
        graph("g (float[2] x, int64[3] k) => (int64[2] y) { p = Abs(x) q = CastLike(p, k) y = Abs(q) }"),
        ops(Cast=1),
    ),
    "1 CastLike of a constant": (
        graph("g (float[2] x) => (double[2] y) <double k = {1}> { p = Abs(x) q = CastLike(p, k) y = Abs(q) }"),
        ops(Cast=1),
    ),
    "1 CastLike to bool, opset 15": (
        graph("g (float[2] x, bool k) => (bool[2] y) { p = Abs(x) q = CastLike(p, k) y = Not(q) }", 15),
        {"Abs": 1, "Cast": 1, "Not": 1},
    ),
    "1 CastLike of opset 21": (
        graph("g (float[2] x, float16 k) => (float16[2] y) { p = Abs(x) q = CastLike(p, k) y = Abs(q) }", 21),
        ops(Cast=1),
    ),
    "2 a scalar": (net("q = Sub(p, c)", "float c = {0.3}"), ops(Add=1)),
    "2 by channel": (net("q = Sub(p, c)", "float[3,1] c = {1, 2, 3}"), ops(Add=1)),
    "2 that enlarges": (
        graph("g (float[3] x) => (float[2,3] y) <float[2,1] c = {1, 2}> { p = Abs(x) q = Sub(p, c) y = Abs(q) }"),
        ops(Add=1),
    ),
    "2 double": (net("q = Sub(p, c)", "double c = {0.3}", "double"), ops(Add=1)),
    "2 float16": (net("q = Sub(p, c)", "float16[1] c = {15360}", "float16"), ops(Add=1)),
    "2 int32": (net("q = Sub(p, c)", "int32 c = {3}", "int32"), ops(Add=1)),
    "2 int64, which wraps around": (net("q = Sub(p, c)", "int64 c = {-9223372036854775808}", "int64"), ops(Add=1)),
    "2 opset 7": (net("q = Sub(p, c)", "float c = {0.3}", opset=7), ops(Add=1)),
    "2 opset 21": (net("q = Sub(p, c)", "float c = {0.3}", opset=21), ops(Add=1)),
    "2 open dims": (net("q = Sub(p, c)", "float[3,1] c = {1, 2, 3}", dims="N,3,L"), ops(Add=1)),
    "2 an infinity": (net("q = Sub(p, c)", "float c = {inf}"), ops(Add=1)),
    "2 a Constant node": (net("c = Constant<value_float = 0.3>() q = Sub(p, c)"), ops(Add=1, Constant=1)),
    "3 a power of two": (net("q = Div(p, c)", "float c = {4}"), ops(Mul=1)),
    "3 powers of two": (net("q = Div(p, c)", "float[4] c = {0.5, -2, 1, 1024}"), ops(Mul=1)),
    "3 of double": (net("q = Div(p, c)", "double c = {8}", "double"), ops(Mul=1)),
    "3 of float16": (net("q = Div(p, c)", "float16 c = {16384}", "float16"), ops(Mul=1)),
    "3 of opset 7": (net("q = Div(p, c)", "float c = {4}", opset=7), ops(Mul=1)),
    "3 before MatMul": (
        graph(
            "g (float[2,3] x) => (float[2,4] y) <float c = {255}, float[3,4] w> { p = Abs(x) q = Div(p, c) y = MatMul(q, w) }"
        ),
        {"Abs": 1, "MatMul": 1, "Mul": 1},
    ),
    "3 before two Convs": (
        graph(
            "g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[3,1,1] c = {255, 0.3, 7}, float[4,3,1,1] v, float[4,3,1,1] w>"
            " { p = Abs(x) q = Div(p, c) r = Conv(q, v) s = Conv(q, w) y = Add(r, s) }"
        ),
        {"Abs": 1, "Add": 1, "Conv": 2, "Mul": 1},
    ),
    "3 before Softmax": (net("a = Div(p, c) q = Softmax(a)", "float c = {3}"), ops(Mul=1, Softmax=1)),
    "4 Sum": (net("a = Exp(x) q = Sum(p, a)"), ops(Add=1, Exp=1)),
    "4 Sum of opset 8": (net("a = Exp(x) q = Sum(p, a)", opset=8), ops(Add=1, Exp=1)),
    "4 Sum that broadcasts": (net("q = Sum(p, c)", "float[3,1] c = {1, 2, 3}"), ops(Add=1)),
    "5 Neg of Neg": (net("a = Neg(p) q = Neg(a)"), ops()),
    "5 of integers": (net("a = Neg(p) q = Neg(a)", kind="int64"), ops()),
    "5 Not of Not": (
        graph("g (bool[2] x) => (bool[2] y) { p = Identity(x) a = Not(p) q = Not(a) y = Identity(q) }"),
        {"Identity": 2},
    ),
    "5 three": (net("a = Neg(p) b = Neg(a) q = Neg(b)"), ops(Neg=1)),
    "5 four": (net("a = Neg(p) b = Neg(a) c = Neg(b) q = Neg(c)"), ops()),
    "5 the first read elsewhere": (
        graph("g (float[2] x) => (float[2] y, float[2] z) { p = Abs(x) a = Neg(p) b = Neg(a) y = Exp(b) z = Exp(a) }"),
        {"Abs": 1, "Exp": 2, "Neg": 1},
    ),
    "5 in a branch": (
        graph(
            "g (float[2] x, bool c) => (float[2] y) { y = If(c) <then_branch = p () => (float[2] a) {"
            " s = Exp(x) t = Neg(s) u = Neg(t) a = Abs(u) }, else_branch = q () => (float[2] b) { b = Abs(x) }> }"
        ),
        {"Abs": 2, "Exp": 1, "If": 1},
    ),
    "6 of Abs": (net("q = Pow(p, c)", "float c = {0.5}"), ops(Sqrt=1)),
    "6 of a mean of squares": (
        net("a = Mul(x, x) b = ReduceMean<axes = [-1]>(a) r = Pow(b, c) q = Mul(p, r)", "float[1] c = {0.5}"),
        ops(Mul=2, ReduceMean=1, Sqrt=1),
    ),
    "6 of double": (net("q = Pow(p, c)", "double c = {0.5}", "double"), ops(Sqrt=1)),
    "6 an exponent of another type": (net("q = Pow(p, c)", "double c = {0.5}"), ops(Sqrt=1)),
    "7 MaxPool": (
        graph("g (float[1,1,4,4] x) => (float[1,1,3,3] y) { q, i = MaxPool<kernel_shape = [2, 2]>(x) y = Abs(q) }"),
        {"Abs": 1, "MaxPool": 1},
    ),
    "7 LayerNormalization": (
        graph("g (float[2,4] x) => (float[2,4] y) <float[4] s> { q, m, d = LayerNormalization(x, s) y = Abs(q) }"),
        {"Abs": 1, "LayerNormalization": 1},
    ),
    "the output is one of the graph": (
        graph("g (float[2] x) => (float[2] y) <float c = {1}> { y = Sub(x, c) }"),
        {"Add": 1},
    ),
}


@pytest.mark.parametrize("case", FOLDED)
def test_folded(case: str) -> None:
    text, wanted = FOLDED[case]
    result = assert_fires(RULE, text, wanted)
    assert [len(n.outputs) for n in result.graph if n.op_type in ("MaxPool", "LayerNormalization")] in ([], [1])


KEPT: dict[str, tuple[str, str | None]] = {
    "2 c - x": (net("q = Sub(c, p)", "float c = {1}"), None),
    "2 a difference of two": (net("q = Sub(p, x)"), None),
    "2 unsigned": (net("q = Sub(p, c)", "uint8 c = {3}", "uint8").replace("Abs", "Identity"), None),
    "3 c / x": (net("q = Div(c, p)", "float c = {2}"), None),
    "3 integers": (net("q = Div(p, c)", "int64 c = {4}", "int64"), None),
    "8 not a power of two": (net("q = Div(p, c)", "float c = {3}"), None),
    "8 before Floor": (net("a = Div(p, c) q = Floor(a)", "float c = {0.1}"), None),
    "8 before Cast": (
        graph("g (float[2] x) => (int64[2] y) <float c = {0.1}> { p = Abs(x) q = Div(p, c) y = Cast<to = 7>(q) }"),
        None,
    ),
    "8 before a comparison": (
        graph("g (float[2] x) => (bool[2] y) <float c = {0.1}> { p = Abs(x) q = Div(p, c) y = Less(q, c) }"),
        None,
    ),
    "8 as a weight": (
        graph(
            "g (float[3,4] x) => (float[2,4] y) <float c = {3}, float[2,3] w> { p = Abs(x) q = Div(p, c) y = MatMul(w, q) }"
        ),
        None,
    ),
    "8 an output too": (
        graph(
            "g (float[2,3] x) => (float[2,4] y, float[2,3] q) <float c = {3}, float[3,4] w>"
            " { p = Abs(x) q = Div(p, c) y = MatMul(q, w) }"
        ),
        None,
    ),
    "8 read by a Floor too": (
        graph(
            "g (float[2,3] x) => (float[2,4] y, float[2,3] z) <float c = {3}, float[3,4] w>"
            " { p = Abs(x) q = Div(p, c) y = MatMul(q, w) z = Floor(q) }"
        ),
        None,
    ),
    "9 by zero": (net("q = Div(p, c)", "float c = {0}"), None),
    "9 by infinity": (net("a = Div(p, c) q = Softmax(a)", "float c = {inf}"), None),
    "9 by NaN": (net("a = Div(p, c) q = Softmax(a)", "float c = {nan}"), None),
    "9 by what has no normal reciprocal": (net("q = Div(p, c)", "float c = {1.7014118346046923e38}"), None),
    "9 by a subnormal number": (net("q = Div(p, c)", "float c = {1e-40}"), None),
    "10 callers may override": (
        graph("g (float[2] x, float c) => (float[2] y) <float c = {1}> { p = Abs(x) q = Sub(p, c) y = Abs(q) }"),
        None,
    ),
    "10 large and shared": (
        graph(
            "g (float[200,100] x) => (float[200,100] y) <float[200,100] c> { p = Abs(x) q = Sub(p, c) y = Mul(q, c) }"
        ),
        "is shared with 1 other nodes and would be stored twice",
    ),
    "10 large and shared, a quotient": (
        graph(
            "g (float[200,100] x) => (float[200,2] y, float[200,100] z) <float[200,100] var, float[100,2] w>"
            " { p = Abs(x) q = Div(p, var) y = MatMul(q, w) z = Mul(p, var) }"
        ),
        "would be stored twice",
    ),
    "11 a square": (net("q = Pow(p, c)", "float c = {2}"), None),
    "12 opset 6": (
        graph(
            "g (float[2,3] x) => (float[2,3] y) <float[3] c = {1, 2, 3}> { p = Abs(x) q = Sub<broadcast = 1>(p, c) y = Abs(q) }",
            6,
        ),
        None,
    ),
    "13 a root of what may be negative": (net("a = Neg(p) q = Pow(a, c)", "float c = {0.5}"), None),
    "13 a root that enlarges": (
        graph("g (float[3] x) => (float[1,3] y) <float[1,1] c = {0.5}> { p = Abs(x) q = Pow(p, c) y = Abs(q) }"),
        None,
    ),
    "another root": (net("q = Pow(p, c)", "float c = {0.25}"), None),
    "roots by element": (net("q = Pow(p, c)", "float[4] c = {0.5, 0.5, 0.5, 0.5}"), None),
    "an empty constant": (
        graph("g (float[1] x) => (float[0] y) <float[0] c = {}> { p = Abs(x) q = Sub(p, c) y = Abs(q) }"),
        None,
    ),
    "7 the positions are read": (
        graph(
            "g (float[1,1,4,4] x) => (float[1,1,3,3] y, int64[1,1,3,3] i) { q, i = MaxPool<kernel_shape = [2, 2]>(x) y = Abs(q) }"
        ),
        None,
    ),
    "7 the mean is read": (
        graph(
            "g (float[2,4] x) => (float[2,4] y, float[2,1] z) <float[4] s>"
            " { q, m = LayerNormalization(x, s) y = Abs(q) z = Neg(m) }"
        ),
        None,
    ),
    "4 Sum of three": (net("q = Sum(p, x, p)"), None),
    "5 a lone Neg": (net("q = Neg(p)"), None),
    "5 the first in the outer graph": (
        graph(
            "g (float[2] x, bool c) => (float[2] y) { t = Neg(x) y = If(c) <then_branch = p () => (float[2] a) {"
            " s = Neg(t) a = Exp(s) }, else_branch = q () => (float[2] b) { b = Abs(t) }> }"
        ),
        None,
    ),
    "another domain's Sub": (
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g (float[2] x) => (float[2] y) <float c = {1}>'
        ' { y = my.Sub(x, c) } <domain: "my", opset_import: ["" : 17]> Sub (a, b) => (d) { d = Mul(a, b) }',
        None,
    ),
    "5 between an input and an output": (
        graph("g (float[2] x) => (float[2] y) { a = Neg(x) y = Neg(a) }"),
        "would become a copy of 'x'",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    text, reason = KEPT[case]
    assert_left_alone(RULE, text, reason)


def test_1_a_type_that_is_not_known() -> None:
    model = loaded(graph("g (float[2] x, int64 k) => (int64[2] y) { p = Abs(x) q = CastLike(p, k) y = Abs(q) }"))
    model.graph.inputs[1].type = None
    node = next(n for n in model.graph if n.op_type == "CastLike")
    answer = RULE.match(node, 17)
    assert getattr(answer, "reason", "") == "the type it casts to is not known"


@pytest.mark.parametrize(("kind", "kept"), [("float8e4m3fn", 1), ("float16", 0)])
def test_1_saturation_of_8_bit_floats(kind: str, kept: int) -> None:
    text = f"g (float[2] x, {kind} k) => ({kind}[2] y) {{ p = Abs(x) y = CastLike<saturate = 0>(p, k) }}"
    model = loaded(graph(text, 21))
    answer = RULE.match(model.graph[-1], 21)
    assert isinstance(answer, Rewrite)
    (new,) = answer.replacement
    assert (new.op_type, [a for a in new.attributes if a != "to"]) == ("Cast", ["saturate"] * kept)


@pytest.mark.parametrize(("kind", "dtype"), [("float", np.float32), ("double", np.float64), ("float16", np.float16)])
def test_2_and_3_are_exact_for_extreme_values(kind: str, dtype: type) -> None:
    """x - c is x + (-c), and x / 2ⁿ is x 2⁻ⁿ, to the bit; also where the result is subnormal, infinite or NaN."""
    info = np.finfo(dtype)
    some = [0.0, -0.0, 1.0, 3.0, float(info.max), float(info.min), float(info.tiny), float(info.smallest_subnormal)]
    x: Array = np.array([*some, -1 / 3, np.inf, -np.inf, np.nan], dtype)
    for op, c in (("Sub", 1.0), ("Sub", float(info.max)), ("Sub", 0.0), ("Div", 4.0), ("Div", -0.5), ("Div", 1024.0)):
        model = loaded(graph(f"g ({kind}[12] x) => ({kind}[12] y) <{kind} c> {{ y = {op}(x, c) }}"))
        model.graph.initializers["c"].const_value = ir.Tensor(np.array(c, dtype), name="c")
        result, report = checked(RULE, model)
        assert len(report.hits) == 1
        one, two = (Session(m, Level.NONE).run({"x": x})["y"] for m in (model, result))
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(np.signbit(one[:2]), np.signbit(two[:2]))


def test_names_and_types_of_what_is_stored() -> None:
    model = loaded(net("q = Sub(p, c)", "double[4] c = {1, 2, 3, 4}", "double"))
    result, _ = checked(RULE, model)
    add = next(n for n in result.graph if n.op_type == "Add")
    value = constant(add.inputs[1])
    assert value is not None
    assert value.dtype == np.dtype(np.float64)
    assert value.tolist() == [-1, -2, -3, -4]
    assert add.name == "Sub_q"
    assert op_histogram(model)["Sub"] == 1


SABOTAGE = net("[n] a = Sub(p, c) b = Neg(a) d = Neg(b) q = Div(d, e)", "float[3,1] c = {1, 2, 3}, float e = {4}")
DIVISION = net("[n] a = Div(p, c) b = Sub(a, e) q = Abs(b)", "float[4] c = {2, 4, 8, 16}, float e = {4}")
BREAKAGES: dict[str, tuple[str, Breakage | Patch]] = {
    "the sign is lost": (SABOTAGE, scaled(1, 1, -1.0)),
    "left out": (SABOTAGE, wired_to_its_input),
    "a wrong reciprocal": (DIVISION, scaled(1, 2, 1.001)),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_sabotage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = BREAKAGES[name]
    assert_caught(RULE, text, how, monkeypatch)


def test_sabotage_another_function(monkeypatch: pytest.MonkeyPatch) -> None:
    text = net("[n] a = Pow(p, c) b = Neg(a) q = Neg(b)", "float c = {0.5}")
    patch = Patch(canonicalize, "_sqrt", lambda node, value: by_node((node,), "Exp", [node.inputs[0]]))
    assert_caught(RULE, text, patch, monkeypatch)
