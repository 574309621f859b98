from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.graph import op_histogram
from edgeopt.passes import fold_clips
from edgeopt.passes.fold_clips import FoldClips
from edgeopt.runtime import Level, Session
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import Breakage, Patch, assert_caught, wired_to_its_input
from tests.passes.tables import assert_fires, assert_left_alone, graph

RULE = FoldClips()


def net(body: str, constants: str = "", kind: str = "float", dims: str = "2,3,4", opset: int = 17) -> str:
    """The part under test from p to q, with a Neg before and after it."""
    head = f"g ({kind}[{dims}] x) => ({kind}[{dims}] y) <{constants}>"
    return graph(f"{head} {{ p = Neg(x) {body} y = Neg(q) }}", opset)


def bounds(**values: float) -> str:
    return ", ".join(f"float {name} = {{{value}}}" for name, value in values.items())


FOLDED = {
    "1 Relu, Relu": (net("a = Relu(p) q = Relu(a)"), {"Neg": 2, "Relu": 1}),
    "1 Relu, Clip": (net("a = Relu(p) q = Clip(a, c, d)", bounds(c=-1, d=6)), {"Clip": 1, "Neg": 2}),
    "1 Clip, Relu": (net("a = Clip(p, c, d) q = Relu(a)", bounds(c=-1, d=6)), {"Clip": 1, "Neg": 2}),
    "1 Clip, Clip": (
        net("a = Clip(p, c, d) q = Clip(a, e, f)", bounds(c=-1, d=1, e=-0.5, f=2)),
        {"Clip": 1, "Neg": 2},
    ),
    "1 one bound each": (net("a = Clip(p, c) q = Clip(a, , d)", bounds(c=-0.5, d=0.5)), {"Clip": 1, "Neg": 2}),
    "1 lower bounds only": (net("a = Clip(p, c) q = Clip(a, d)", bounds(c=-0.5, d=0.5)), {"Clip": 1, "Neg": 2}),
    "1 upper bounds only": (net("a = Clip(p, , c) q = Clip(a, , d)", bounds(c=-0.5, d=0.5)), {"Clip": 1, "Neg": 2}),
    "1 Min, Max": (net("a = Min(p, c) q = Max(a, d)", bounds(c=1, d=-1)), {"Clip": 1, "Neg": 2}),
    "1 Max, Min, constants on the left": (
        net("a = Max(c, p) q = Min(d, a)", bounds(c=-1, d=1)),
        {"Clip": 1, "Neg": 2},
    ),
    "1 Max, Max": (net("a = Max(p, c) q = Max(a, d)", bounds(c=-1, d=0.5)), {"Max": 1, "Neg": 2}),
    "1 Min, Min": (net("a = Min(p, c) q = Min(a, d)", bounds(c=-1, d=0.5)), {"Min": 1, "Neg": 2}),
    "1 Max, Relu": (net("a = Max(p, c) q = Relu(a)", bounds(c=-1)), {"Neg": 2, "Relu": 1}),
    "1 Relu, Max": (net("a = Relu(p) q = Max(a, c)", bounds(c=-1)), {"Neg": 2, "Relu": 1}),
    "1 Relu, Max above": (net("a = Relu(p) q = Max(a, c)", bounds(c=1)), {"Max": 1, "Neg": 2}),
    "1 Relu, Min": (net("a = Relu(p) q = Min(a, c)", bounds(c=6)), {"Clip": 1, "Neg": 2}),
    "1 edge 54: disjoint, the second above": (
        net("a = Clip(p, c, d) q = Clip(a, e, f)", bounds(c=-2, d=-1, e=1, f=2)),
        {"Clip": 1, "Neg": 2},
    ),
    "1 edge 54: disjoint, the second below": (
        net("a = Clip(p, c, d) q = Clip(a, e, f)", bounds(c=1, d=2, e=-2, f=-1)),
        {"Clip": 1, "Neg": 2},
    ),
    "1 edge 54: Relu of what is below zero": (
        net("a = Clip(p, c, d) q = Relu(a)", bounds(c=-2, d=-1)),
        {"Clip": 1, "Neg": 2},
    ),
    "1 edge 54: a Clip below zero of Relu": (
        net("a = Relu(p) q = Clip(a, c, d)", bounds(c=-2, d=-1)),
        {"Clip": 1, "Neg": 2},
    ),
    "1 three in a row": (
        net("a = Relu(p) b = Clip(a, c, d) q = Min(b, e)", bounds(c=-1, d=6, e=4)),
        {"Clip": 1, "Neg": 2},
    ),
    "1 bounds as one-element tensors": (
        net("a = Max(p, c) q = Min(a, d)", "float[1] c = {-1}, float[1,1] d = {1}"),
        {"Clip": 1, "Neg": 2},
    ),
    "1 attributes up to opset 10": (
        net("a = Clip<min = -1.0, max = 0.5>(p) q = Clip<min = 0.0>(a)", opset=10),
        {"Clip": 1, "Neg": 2},
    ),
    "1 attributes of opset 7": (net("a = Relu(p) q = Clip<max = 0.5>(a)", opset=7), {"Clip": 1, "Neg": 2}),
    "1 inputs of opset 11": (net("a = Relu(p) q = Clip(a, , d)", bounds(d=0.5), opset=11), {"Clip": 1, "Neg": 2}),
    "1 opset 13": (net("a = Relu(p) q = Clip(a, , d)", bounds(d=0.5), opset=13), {"Clip": 1, "Neg": 2}),
    "1 opset 21": (net("a = Relu(p) q = Clip(a, , d)", bounds(d=0.5), opset=21), {"Clip": 1, "Neg": 2}),
    "1 double": (
        net("a = Relu(p) q = Clip(a, , d)", "double d = {0.5}", "double"),
        {"Clip": 1, "Neg": 2},
    ),
    "1 double of opset 9": (
        net("a = Relu(p) q = Max(a, d)", "double d = {0.5}", "double", opset=9),
        {"Max": 1, "Neg": 2},
    ),
    "1 float16": (
        net("a = Clip(p, c) q = Clip(a, , d)", "float16 c = {48128}, float16 d = {14336}", "float16"),
        {"Clip": 1, "Neg": 2},
    ),
    "1 int32": (
        net("a = Max(p, c) q = Min(a, d)", "int32 c = {-1}, int32 d = {4}", "int32"),
        {"Clip": 1, "Neg": 2},
    ),
    "1 int64, two lower bounds": (
        net("a = Max(p, c) q = Clip(a, d)", "int64 c = {-1}, int64 d = {4}", "int64"),
        {"Clip": 1, "Neg": 2},
    ),
    "1 a matrix": (net("a = Relu(p) q = Relu(a)", dims="3,4"), {"Neg": 2, "Relu": 1}),
    "1 a scalar": (
        net("a = Relu(p) q = Relu(a)").replace("[2,3,4]", ""),
        {"Neg": 2, "Relu": 1},
    ),
    "1 five axes": (net("a = Relu(p) q = Min(a, c)", bounds(c=1), dims="1,2,2,2,2"), {"Clip": 1, "Neg": 2}),
    "1 open dims": (net("a = Relu(p) q = Min(a, c)", bounds(c=1), dims="N,C,L"), {"Clip": 1, "Neg": 2}),
    "2 Max and zero": (net("q = Max(p, c)", bounds(c=0)), {"Neg": 2, "Relu": 1}),
    "2 zero on the left": (net("q = Max(c, p)", bounds(c=0)), {"Neg": 2, "Relu": 1}),
    "2 of double": (net("q = Max(p, c)", "double c = {0}", "double"), {"Neg": 2, "Relu": 1}),
    "2 behind a clamp that others read": (
        graph(
            f"g (float[2] x) => (float[2] y, float[2] z) <{bounds(c=0, d=3)}>"
            " { p = Neg(x) a = Min(p, d) y = Max(a, c) z = Neg(a) }"
        ),
        {"Min": 1, "Neg": 2, "Relu": 1},
    ),
    "3 Relu of Sigmoid": (net("a = Sigmoid(p) q = Relu(a)"), {"Neg": 2, "Sigmoid": 1}),
    "3 Relu of a pool of Relu": (
        net("r = Relu(p) a = MaxPool<kernel_shape = [2], strides = [1], pads = [0, 1]>(r) q = Relu(a)"),
        {"MaxPool": 1, "Neg": 2, "Relu": 1},
    ),
    "3 Relu of a sum": (
        net("r = Relu(p) s = Exp(x) a = Add(r, s) q = Relu(a)"),
        {"Add": 1, "Exp": 1, "Neg": 2, "Relu": 1},
    ),
    "3 Abs of Exp": (net("a = Exp(p) q = Abs(a)"), {"Exp": 1, "Neg": 2}),
    "4 Floor of Ceil": (net("a = Ceil(p) q = Floor(a)"), {"Ceil": 1, "Neg": 2}),
    "4 Round of Round": (net("a = Round(p) q = Round(a)"), {"Neg": 2, "Round": 1}),
    "4 Ceil of Floor that others read": (
        graph("g (float[2] x) => (float[2] y, float[2] z) { a = Floor(x) b = Ceil(a) y = Neg(b) z = Exp(a) }"),
        {"Exp": 1, "Floor": 1, "Neg": 1},
    ),
    "4 Sign of Sign": (net("a = Sign(p) q = Sign(a)"), {"Neg": 2, "Sign": 1}),
    "4 Abs of Abs": (net("a = Abs(p) q = Abs(a)"), {"Abs": 1, "Neg": 1}),
    "4 Abs of Abs, integers": (net("a = Abs(p) q = Abs(a)", kind="int64"), {"Abs": 1, "Neg": 1}),
    "4 Abs of Neg": (net("q = Abs(p)"), {"Abs": 1, "Neg": 1}),
    "in a branch": (
        graph(
            "g (float[2] x, bool c) => (float[2] y) { y = If(c) <then_branch = p () => (float[2] a) {"
            " s = Relu(x) t = Relu(s) a = Neg(t) }, else_branch = q () => (float[2] b) { b = Abs(x) }> }"
        ),
        {"Abs": 1, "If": 1, "Neg": 1, "Relu": 1},
    ),
    "the second is an output": (
        graph("g (float[2] x) => (float[2] y) { a = Relu(x) y = Relu(a) }"),
        {"Relu": 1},
    ),
}


@pytest.mark.parametrize("case", FOLDED)
def test_folded(case: str) -> None:
    text, ops = FOLDED[case]
    assert_fires(RULE, text, ops)


KEPT = {
    "5 edge 54: a bound that is computed": (
        net("s = ReduceMax<keepdims = 0>(x) a = Relu(p) q = Clip(a, , s)"),
        "has bounds that are not constant",
    ),
    "5 the first has one": (
        net("s = ReduceMax<keepdims = 0>(x) a = Clip(p, , s) q = Relu(a)"),
        "Clip 'Clip_a' before it has bounds that are not constant",
    ),
    "5 bounds by channel": (net("a = Relu(p) q = Min(a, c)", "float[4] c = {1, 2, 3, 4}"), None),
    "5 callers may override": (
        graph(
            "g (float[2] x, float c) => (float[2] y) <float c = {1}> { p = Neg(x) a = Relu(p) b = Clip(a, , c) y = Neg(b) }"
        ),
        "has bounds that are not constant",
    ),
    "5 NaN": (net("a = Relu(p) q = Max(a, c)", bounds(c=float("nan"))), None),
    "6 edge 54: bounds that cross": (
        net("a = Relu(p) q = Clip(a, c, d)", bounds(c=2, d=1)),
        "has bounds that cross",
    ),
    "6 the first has such": (
        net("a = Clip(p, c, d) q = Min(a, d)", bounds(c=2, d=1)),
        "Clip 'Clip_a' before it has bounds that cross",
    ),
    "7 a constant of more axes": (
        graph(
            "g (float[3] x) => (float[1,3] y) <float[1,1] c = {1}> { p = Neg(x) a = Relu(p) b = Min(a, c) y = Neg(b) }"
        ),
        "may enlarge its operand",
    ),
    "8 read elsewhere": (
        graph(
            f"g (float[2] x) => (float[2] y, float[2] z) <{bounds(c=1)}> {{ a = Relu(x) b = Min(a, c) y = Neg(b) z = Neg(a) }}"
        ),
        "is read by other nodes too",
    ),
    "8 an output": (
        graph(f"g (float[2] x) => (float[2] y, float[2] a) <{bounds(c=1)}> {{ a = Relu(x) b = Min(a, c) y = Neg(b) }}"),
        "or is an output of the graph",
    ),
    "8 edge 3: read by a branch": (
        graph(
            f"g (float[2] x, bool k) => (float[2] y, float[2] z) <{bounds(c=1)}> {{ a = Relu(x) b = Min(a, c) y = Neg(b)"
            " z = If(k) <then_branch = p () => (float[2] u) { u = Neg(a) },"
            " else_branch = q () => (float[2] v) { v = Abs(x) }> }"
        ),
        "is read by other nodes too",
    ),
    "9 double before opset 12": (
        net("a = Max(p, c) q = Min(a, d)", "double c = {-1}, double d = {1}", "double", opset=11),
        "before opset 12 onnxruntime has no Clip of DOUBLE",
    ),
    "9 int64 before opset 12": (
        net("a = Max(p, c) q = Min(a, d)", "int64 c = {-1}, int64 d = {4}", "int64", opset=11),
        "has no Clip of INT64",
    ),
    "unsigned": (net("q = Max(p, c)", "uint8 c = {0}", "uint8").replace("Neg", "Identity"), None),
    "integers: Max and zero": (net("q = Max(p, c)", "int32 c = {0}", "int32"), None),
    "a lone Clip": (net("q = Clip(p, c)", bounds(c=0)), None),
    "a lone Min": (net("q = Min(p, c)", bounds(c=0)), None),
    "Max of three": (net("s = Exp(x) a = Relu(p) q = Max(a, s, c)", bounds(c=0)), None),
    "LeakyRelu of slope 0": (net("q = LeakyRelu<alpha = 0.0>(p)"), None),
    "Relu of Tanh": (net("a = Tanh(p) q = Relu(a)"), None),
    "the first in the outer graph": (
        graph(
            "g (float[2] x, bool c) => (float[2] y) { a = Relu(x) y = If(c) <then_branch = p () =>"
            " (float[2] u) { u = Clip(a, k) }, else_branch = q () => (float[2] v) { v = Neg(a) }> }".replace(
                "(float[2] y) {", "(float[2] y) <float k = {1}> {"
            )
        ),
        None,
    ),
    "Floor of a branch's outer Ceil": (
        graph(
            "g (float[2] x, bool c) => (float[2] y) { a = Ceil(x) y = If(c) <then_branch = p () =>"
            " (float[2] u) { u = Floor(a) }, else_branch = q () => (float[2] v) { v = Neg(a) }> }"
        ),
        None,
    ),
    "Sign of Abs": (
        net("a = Abs(x) q = Sign(a)").replace("p = Neg(x)", "p = Exp(x)").replace("y = Neg(q)", "y = Add(p, q)"),
        None,
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    text, reason = KEPT[case]
    assert_left_alone(RULE, text, reason)


CLAMPS = {  # by name: the text between two values, and its bounds
    "Relu": "Relu(%s)",
    "Clip both": "Clip(%s, minus, half)",
    "Clip low": "Clip(%s, minus)",
    "Clip high": "Clip(%s, , half)",
    "Clip far": "Clip(%s, one, two)",
    "Max": "Max(%s, minus)",
    "Max left": "Max(half, %s)",
    "Max zero": "Max(%s, zero)",
    "Min": "Min(%s, half)",
    "Min left": "Min(minus, %s)",
    "Clip none": "Clip(%s)",
}
NUMBERS = bounds(minus=-1, half=0.5, one=1, two=2, zero=0)
EXTREME = [0.0, -0.0, 0.25, 0.5, 0.75, 1.5, 3.0, -0.5, -1.0, -2.0, 3e38, -3e38, 1e-40, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("second", CLAMPS)
@pytest.mark.parametrize("kind", ["float", "double"])
def test_every_pair_gives_the_same_bits(kind: str, second: str) -> None:
    """NaN, infinities, subnormal numbers and both zeros among the inputs."""
    constants = NUMBERS.replace("float", kind)
    x = np.array([EXTREME], {"float": np.float32, "double": np.float64}[kind])
    for first in CLAMPS:
        body = f"a = {CLAMPS[first] % 'x'} b = {CLAMPS[second] % 'a'} y = Identity(b)"
        model = loaded(
            graph(f"g ({kind}[1,{len(EXTREME)}] x) => ({kind}[1,{len(EXTREME)}] y) <{constants}> {{ {body} }}")
        )
        result, report = checked(RULE, model)
        assert report.hits, first
        assert report.rolled_back == []
        kinds = {"Relu", "Clip", "Min", "Max"}
        assert sum(n for op, n in op_histogram(result).items() if op in kinds) == 1
        one, two = (Session(m, Level.NONE).run({"x": x})["y"] for m in (model, result))
        np.testing.assert_array_equal(one, two, err_msg=f"{first}, {second}")


@pytest.mark.parametrize("op", ["Max(x, zero)", "Max(zero, x)"])
@pytest.mark.parametrize("size", [1, 3, 16, 33])
def test_2_nan_goes_through(op: str, size: int) -> None:
    """Vectorized loops and what they leave treat NaN alike."""
    model = loaded(graph(f"g (float[{size}] x) => (float[{size}] y) <{NUMBERS}> {{ y = {op} }}"))
    result, report = checked(RULE, model)
    assert [h.anchor for h in report.hits] == ["Max_y"]
    x = np.resize(np.array([np.nan, -1.0, 1.0, -np.inf], np.float32), size)
    one, two = (Session(m, Level.NONE).run({"x": x})["y"] for m in (model, result))
    np.testing.assert_array_equal(one, two)


def test_bounds_are_stored_in_the_type_of_the_values() -> None:
    for kind, number in (("float", 0.3), ("double", 0.3), ("float16", 13517), ("int64", 3)):
        model = loaded(
            net("a = Max(p, c) b = Min(a, d) q = Max(b, c)", f"{kind} c = {{0}}, {kind} d = {{{number}}}", kind)
        )
        result, _ = checked(RULE, model)
        clip = next(n for n in result.graph if n.op_type == "Clip")
        assert {v.dtype for v in clip.inputs if v is not None} == {ir.DataType[kind.upper()]}


SABOTAGE = net(
    "a = Clip(p, c, d) [n] b = Clip(a, e, f) u = Relu(x) v = Relu(u) q = Add(b, v)", bounds(c=-1, d=1, e=-0.5, f=2)
)
BREAKAGES: dict[str, Breakage | Patch] = {
    "left out": wired_to_its_input,
    "the lower bound is lost": Patch(fold_clips, "_after", lambda a, b: (-100.0, min(a[1], b[1])) if b[1] < 9 else b),
    "the upper bound is lost": Patch(fold_clips, "_after", lambda a, b: (max(a[0], b[0]), 100.0) if b[1] < 9 else b),
    "the bounds of the second alone": Patch(fold_clips, "_after", lambda a, b: b),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_sabotage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_caught(RULE, SABOTAGE, BREAKAGES[name], monkeypatch)


def test_sabotage_a_sign_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    text = net("a = Tanh(p) [n] b = Relu(a) c = Exp(p) d = Relu(c) q = Add(b, d)")
    model = loaded(text)
    monkeypatch.setattr(fold_clips, "non_negative", lambda value: [value.producer()])
    result, report = checked(RULE, model)
    assert [s.node for s in report.rolled_back] == ["n"]
    assert [h.anchor for h in report.hits] == ["Relu_d"]
    assert_same(model, result)
