from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import graph as graphs
from edgeopt import saving
from edgeopt.graph import constant, op_histogram
from edgeopt.passes import affine
from edgeopt.passes.fold_affine_chain import FoldAffineChain
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import Breakage, Patch, assert_caught, scaled
from tests.passes.tables import assert_fires, assert_left_alone, graph

RULE = FoldAffineChain()
BN = "float[4] g, float[4] b, float[4] m, float[4] var"
BN2 = "float[4] g2, float[4] b2, float[4] m2, float[4] var2"
C = "float[4,1,1] c, float[4,1,1] d"
NORM = "BatchNormalization(x, g, b, m, var)"
ONES = "{1.0, 1.0, 1.0, 1.0}"
ZEROS = "{0.0, 0.0, 0.0, 0.0}"


def net(body: str, weights: str = C, x: str = "float[2,4,3,3] x", y: str = "float[] y", opset: int = 17) -> str:
    return graph(f"g ({x}) => ({y}) <{weights}> {{ {body} }}", opset)


FIRES: dict[str, tuple[str, dict[str, int]]] = {
    "1 x * c * d": (net("h = Mul(x, c) y = Mul(h, d)"), {"Mul": 1}),
    "1 x / c * d": (net("h = Div(x, c) y = Mul(d, h)"), {"Mul": 1}),
    "1 -x * c": (net("h = Neg(x) y = Mul(h, c)"), {"Mul": 1}),
    "1 of one number and of channels": (net("h = Mul(x, e) y = Div(h, c)", f"{C}, float e = {{3.0}}"), {"Mul": 1}),
    "1 three": (net("h = Mul(x, c) k = Mul(h, d) y = Div(k, c)"), {"Mul": 1}),
    "1 open dims": (net("h = Mul(x, c) y = Mul(h, d)", x="float[N,K,H,W] x"), {"Mul": 1}),
    "1 a batch of constants": (
        net("h = Mul(x, c) y = Mul(h, d)", "float[2,4,3,3] c, float[1,4,3,1] d"),
        {"Mul": 1},
    ),
    "edge 21: one element of higher rank keeps the rank": (
        net("h = Mul(x, c) y = Mul(h, e)", f"{C}, float[1,1,1,1,1] e"),
        {"Mul": 1},
    ),
    "edge 23: one channel times [4,1,1] twice": (net("h = Mul(x, c) y = Mul(h, d)", x="float[2,1,3,3] x"), {"Mul": 1}),
    "2 x + c + d": (net("h = Add(x, c) y = Add(d, h)"), {"Add": 1}),
    "2 x - c + d": (net("h = Sub(x, c) y = Add(h, d)"), {"Add": 1}),
    "2 c - (d - x)": (net("h = Sub(d, x) y = Sub(c, h)"), {"Add": 1}),
    "3 -(x - c)": (net("h = Sub(x, c) y = Neg(h)"), {"Sub": 1}),
    "3 c - x + d": (net("h = Sub(c, x) y = Add(h, d)"), {"Sub": 1}),
    "3 -x of x * 1": (net("h = Mul(x, e) y = Neg(h)", "float e = {1.0}"), {"Neg": 1}),
    "3 -(x * 1) that raises the rank": (net("h = Mul(x, e) y = Neg(h)", "float[1,1,1,1,1] e = {1.0}"), {"Mul": 1}),
    "4 two BatchNormalizations": (
        net(f"h = {NORM} y = BatchNormalization<epsilon=0.5>(h, g2, b2, m2, var2)", f"{BN}, {BN2}"),
        {"BatchNormalization": 1},
    ),
    "4 Mul, BatchNormalization": (
        net("h = Mul(x, c) y = BatchNormalization(h, g, b, m, var)", f"{C}, {BN}"),
        {"BatchNormalization": 1},
    ),
    "4 BatchNormalization, Add, Div": (net(f"h = {NORM} k = Add(h, c) y = Div(k, d)", f"{C}, {BN}"), {"BatchNormalization": 1}),
    "4 one number, BatchNormalization": (
        net(f"h = {NORM} y = Neg(h)", BN),
        {"BatchNormalization": 1},
    ),
    "4 of [N,C]": (
        net(f"h = {NORM} y = Mul(h, c)", f"float[4] c, {BN}", "float[5,4] x"),
        {"BatchNormalization": 1},
    ),
    "4 open batch": (net(f"h = {NORM} y = Mul(h, c)", f"{C}, {BN}", "float[N,4,H,W] x"), {"BatchNormalization": 1}),
    "5 ((x + c) * d + c) / c": (net("h = Add(x, c) k = Mul(h, d) l = Add(k, c) y = Div(l, c)"), {"Mul": 1, "Add": 1}),
    "5 (x - mean) / std * c": (net("h = Sub(x, c) k = Div(h, d) y = Mul(k, c)"), {"Mul": 1, "Add": 1}),
    "6 scale 1": (
        net("y = BatchNormalization<epsilon=0.0>(x, g, b, m, s)", f"float[4] g = {ONES}, float[4] b, float[4] m, float[4] s = {ONES}"),
        {"Add": 1},
    ),
    "6 shift 0": (
        net("y = BatchNormalization(x, g, b, b, var)", f"float[4] g, float[4] b = {ZEROS}, float[4] var"),
        {"Mul": 1},
    ),
    "7 the end may have several readers": (
        net("h = Mul(x, c) k = Mul(h, d) y = Relu(k) z = Neg(y)", y="float[] y, float[] z, float[] k"),
        {"Mul": 1, "Relu": 1, "Neg": 1},
    ),
    "7 in a branch": (
        graph(
            f"g (float[2,4,3,3] x, bool a) => (float[2,4,3,3] y) <{C}> {{ y = If(a) <"
            "then_branch = p () => (float[2,4,3,3] t) { h = Mul(x, c) t = Mul(h, d) },"
            "else_branch = q () => (float[2,4,3,3] e) { e = Exp(x) }> }"
        ),
        {"Mul": 1, "Exp": 1, "If": 1},
    ),
    "8 the part that fits": (
        net("h = Mul(x, c) k = Mul(h, e) y = Mul(k, f)", f"{C}, float[3] e, float[3] f"),
        {"Mul": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    text, ops = FIRES[name]
    assert_fires(RULE, text, ops)


@pytest.mark.parametrize("dtype", ["float16", "double"])
@pytest.mark.parametrize(
    "name", ["1 x * c * d", "2 x - c + d", "3 -(x - c)", "4 BatchNormalization, Add, Div", "5 (x - mean) / std * c"]
)
def test_other_types(name: str, dtype: str) -> None:
    text, ops = FIRES[name]
    model = loaded(text.replace("float", dtype))
    result, report = checked(RULE, model)
    assert report.rolled_back == []
    assert op_histogram(result) == dict(sorted(ops.items()))
    assert_same(model, result, 1e-2 if dtype == "float16" else 1e-9)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 14, 18, 21])
@pytest.mark.parametrize("name", ["1 x * c * d", "3 c - x + d", "4 two BatchNormalizations", "6 scale 1"])
def test_opsets(name: str, opset: int) -> None:
    text, ops = FIRES[name]
    assert_fires(RULE, graph(text.partition("> ")[2], opset), ops)


def test_opset_6() -> None:
    two = f"h = {NORM} y = BatchNormalization(h, g2, b2, m2, var2)".replace("tion(", "tion<is_test=1>(")
    result, report = checked(RULE, loaded(net(two, f"{BN}, {BN2}", opset=6)))  # onnxruntime has no kernel for it
    assert report.rolled_back == []
    assert op_histogram(result) == {"BatchNormalization": 1}
    text, _ = FIRES["6 shift 0"]
    text = graph(text.partition("> ")[2].replace("tion(", "tion<is_test=1>("), 6)
    assert checked(RULE, loaded(text))[1].hits == []  # Mul would need the attribute axis
    broadcast = "h = Mul<broadcast=1, axis=1>(x, e) y = Mul<broadcast=1, axis=1>(h, f)"
    assert checked(RULE, loaded(net(broadcast, "float[4] e, float[4] f", opset=6)))[1].hits == []


LEFT: dict[str, tuple[str, str | None]] = {
    "one map": (net("y = Mul(x, c)"), None),
    "two that stay two": (net("h = Mul(x, c) y = Add(h, d)"), None),
    "7 a value between is read elsewhere": (net("h = Mul(x, c) k = Mul(h, d) y = Add(k, h)"), None),
    "7 a value between is an output": (net("h = Mul(x, c) y = Mul(h, d)", y="float[] y, float[] h"), None),
    "7 a value between is captured": (
        graph(
            f"g (float[2,4,3,3] x, bool a) => (float[2,4,3,3] y, float[2,4,3,3] k) <{C}> {{ h = Mul(x, c)"
            " k = Mul(h, d) y = If(a) <then_branch = p () => (float[2,4,3,3] t) { t = Exp(h) },"
            "else_branch = q () => (float[2,4,3,3] e) { e = Exp(x) }> }"
        ),
        None,
    ),
    "8 constants of different axes": (net("h = Mul(x, c) y = Mul(h, e)", f"{C}, float[3] e"), None),
    "9 edge 61: rounding by a large constant": (
        net("h = Add(x, e) y = Sub(h, e)", "float e = {12582912.0}"),
        None,
    ),
    "9 rounding behind a scale": (
        net("z = Add(x, c) h = Add(z, e) y = Sub(h, e)", f"{C}, float e = {{12582912.0}}"),
        None,
    ),
    "11 edge 44: integers": (net("h = Div(x, c) y = Mul(h, d)", "int64[4,1,1] c = {2,3,4,5}, int64[4,1,1] d", "int64[2,4,3,3] x"), None),
    "12 edge 25: 1 / x": (net("h = Div(c, x) y = Mul(h, d)"), None),
    "12 1 / (x * c)": (net("h = Mul(x, c) y = Div(d, h)"), None),
    "a division by zero": (net("h = Div(x, e) y = Mul(h, c)", f"{C}, float e = {{0.0}}"), None),
    "a lone BatchNormalization": (net(f"y = {NORM}", BN), "alone it is faster"),
    "edge 11: training": (
        net(f"y, rm, rv = {NORM}".replace("tion(", "tion<training_mode=1>("), BN),
        "training mode",
    ),
    "edge 14: statistics that are computed": (
        net("e = Exp(z) y = BatchNormalization(x, e, b, m, var)", BN, "float[2,4,3,3] x, float[4] z"),
        "not constant",
    ),
    "edge 13: a variance that is NaN": (
        net(f"y = {NORM}", BN.replace("float[4] var", "float[4] var = {1.0, nan, 1.0, 2.0}")),
        "not finite",
    ),
    "edge 8: a constant that callers may override": (
        net("h = Mul(x, c) y = Mul(h, d)", C, "float[2,4,3,3] x, float[4,1,1] c"),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    text, reason = LEFT[name]
    assert_left_alone(RULE, text, reason)


def test_a_match_without_a_rewrite_leaves_no_reader_behind() -> None:
    for name, (text, _) in LEFT.items():
        model = loaded(text)
        inside = {n for g in graphs.graphs(model) for n in g}
        for node in list(inside):
            RULE.match(node, 17)
        assert {n for node in inside for v in node.outputs for n in v.consumers()} <= inside, name


def test_edge_12_statistics_per_element() -> None:
    text = net("y = BatchNormalization<spatial=0>(x, g, b, m, var)", BN.replace("[4]", "[4,3,3]"), opset=7)
    _, report = checked(RULE, loaded(text))
    assert report.hits == []
    assert "per element" in report.skips[0].reason


def test_10_overflow() -> None:
    model = loaded(net("h = Mul(x, c) y = Mul(h, d)").replace("float", "float16"))
    for name in "cd":
        model.graph.initializers[name].const_value = ir.tensor(np.full((4, 1, 1), 1000, np.float16))
    result, report = checked(RULE, model)
    assert result is model
    assert report.hits == []


def test_4_the_new_statistics() -> None:
    text, _ = FIRES["4 two BatchNormalizations"]
    result, _report = checked(RULE, loaded(text))
    node = next(iter(result.graph))
    assert node.outputs[0].name == "y"
    assert node.attributes["epsilon"].as_float() == 0.0
    arrays = [constant(v) for v in node.inputs[1:]]
    np.testing.assert_array_equal(arrays[2], np.zeros(4))
    np.testing.assert_array_equal(arrays[3], np.ones(4))
    assert {a.dtype for a in arrays if a is not None} == {np.dtype(np.float32)}


def test_the_file_does_not_grow() -> None:
    for text, _ in FIRES.values():
        model = loaded(text)
        result, _report = checked(RULE, model)
        assert len(saving.serialize(result)) < len(saving.serialize(model)) * 1.01 + 4096


def _chained_wrongly(first: affine.Affine, version: int, limit: int = 8) -> affine.Affine:
    total = _CHAINED(first, version, limit)
    return replace(total, shift=total.shift * 1.01 + 0.01)


def _epsilon(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.5)
    return rewrite


_CHAINED = affine.chained
SABOTAGE: dict[str, tuple[str, Breakage | Patch]] = {
    "1 a wrong factor": (FIRES["1 x * c * d"][0], scaled(1, 2, 1.01)),
    "2 a wrong shift": (FIRES["2 x + c + d"][0], scaled(1, 1, 1.01)),
    "4 a wrong mean": (FIRES["4 two BatchNormalizations"][0], scaled(2, 1, 1.01)),
    "4 epsilon kept": (
        FIRES["4 two BatchNormalizations"][0],
        _epsilon,
    ),
    "5 inner and outer shift mixed up": (FIRES["5 (x - mean) / std * c"][0], Patch(affine, "chained", _chained_wrongly)),
    "6 shift forgotten": (FIRES["6 scale 1"][0], scaled(1, 0, 0.5)),
}  # fmt: skip


@pytest.mark.parametrize("name", SABOTAGE)
def test_sabotage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[name]
    anchor = next(n.name for n in loaded(text).graph if n.outputs[0].name == "y")
    assert_caught(RULE, text, how, monkeypatch, anchor or "")
