from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import files, shapes
from edgeopt.graph import attribute, constant, op_histogram
from edgeopt.passes import fold_affine_chain
from edgeopt.passes.affine_paths import by_channel
from edgeopt.passes.fold_affine_chain import FoldAffineChain
from tests.models import assert_same, checked, filled, loaded
from tests.passes.rewriting import assert_rewritten, assert_skipped
from tests.passes.sabotage import Breakage, Patch, assert_caught, scaled, wired_to_its_input

BN = "float[4] g, float[4] be, float[4] me, float[4] var"
BN2 = "float[4] g2, float[4] be2, float[4] me2, float[4] var2"


def net(
    body: str,
    weights: str = "float c, float d",
    *,
    x: str = "2,4,3,5",
    kind: str = "float",
    opset: int = 17,
    y: str = "",
) -> str:
    """x → body → y; further outputs in ``y``."""
    ir_version = 10 if opset > 19 else 8
    stored = weights.replace("float", kind)
    return (
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> '
        f"g ({kind}[{x}] x) => ({kind}[{','.join('ABCDE'[: x.count(',') + 1])}] y{y}) <{stored}> {{ {body} }}"
    )


CV = "float[4,1,1] c, float[4,1,1] d"
NORMALIZED = "u = BatchNormalization(x, g, be, me, var)"
WRITTEN = {  # text, operators left
    "1 two scalars": (net("u = Mul(x, c) [n] y = Mul(u, d)"), "Mul"),
    "1 three": (net("u = Mul(x, c) v = Div(u, d) [n] y = Mul(c, v)"), "Mul"),
    "1 per channel and scalar": (net("u = Mul(x, c) [n] y = Div(u, d)", "float[4,1,1] c, float d"), "Mul"),
    "1 constants on the left": (net("u = Mul(c, x) [n] y = Mul(d, u)", CV), "Mul"),
    "1 Neg of a product": (net("u = Mul(x, c) [n] y = Neg(u)", CV), "Mul"),
    "1 product of Neg": (net("u = Neg(x) [n] y = Mul(u, c)", CV), "Mul"),
    "1 per element of the last axis": (net("u = Mul(x, c) [n] y = Mul(u, d)", "float[5] c, float[5] d"), "Mul"),
    "1 a batch's extent": (net("u = Mul(x, c) [n] y = Mul(u, d)", "float[2,1,1,1] c, float d"), "Mul"),
    "1 edge 26: one element of four axes": (net("u = Mul(x, c) [n] y = Mul(u, d)", "float[1,1,1,1] c, float d"), "Mul"),
    "1 edge 24: a constant that raises the rank": (
        net("u = Mul(x, c) [n] y = Mul(u, d)", "float[1,1,1,1] c, float d", x="4,3").replace("[A,B]", "[A,B,C,D]"),
        "Mul",
    ),
    "1 edge 23: a constant that enlarges": (
        net("u = Mul(x, c) [n] y = Mul(u, d)", "float[6,1,1] c, float d", x="2,1,3,3"),
        "Mul",
    ),
    "2 two scalars": (net("u = Add(x, c) [n] y = Add(d, u)"), "Add"),
    "2 Sub and Add": (net("u = Sub(x, c) [n] y = Add(u, d)", CV), "Add"),
    "2 scale there and back": (
        net("u = Mul(x, c) v = Add(u, d) [n] y = Div(v, c)", "float c = {4}, float[4,1,1] d"),
        "Add",
    ),
    "2 edge 23: the shift alone enlarges": (
        net("u = Mul(x, c) v = Div(u, c) [n] y = Add(v, d)", "float c = {4}, float[6,1,1] d", x="2,1,3,3"),
        "Add",
    ),
    "2 edge 23: the scale alone enlarges, and is lost": (
        net("u = Mul(x, c) v = Div(u, c) [n] y = Add(v, d)", "float[6,1,1] c = {1,2,4,1,2,4}, float d", x="2,1,3,3"),
        "Add",
    ),
    "3 twice negated and moved": (net("u = Sub(c, x) [n] y = Sub(u, d)", CV), "Sub"),
    "3 Neg of a sum": (net("u = Add(x, c) [n] y = Neg(u)", CV), "Sub"),
    "3 edge 25: 0 - x": (net("u = Sub(c, x) [n] y = Mul(u, d)", "float c = {0}, float d = {1}"), "Neg"),
    "3 times -1 twice is nothing": (net("u = Neg(x) [n] y = Neg(u)", "float unused"), "Mul"),
    "4 two normalizations": (
        net(f"{NORMALIZED} [n] y = BatchNormalization(u, g2, be2, me2, var2)", f"{BN}, {BN2}"),
        "BatchNormalization",
    ),
    "4 edge 6: two normalizations with one set of parameters": (
        net(f"{NORMALIZED} [n] y = BatchNormalization(u, g, be, me, var)", BN),
        "BatchNormalization",
    ),
    "4 and a product": (net(f"{NORMALIZED} [n] y = Mul(u, c)", f"{BN}, float[4,1,1] c"), "BatchNormalization"),
    "4 and a sum before": (
        net("u = Add(x, c) [n] y = BatchNormalization(u, g, be, me, var)", f"{BN}, float c"),
        "BatchNormalization",
    ),
    "4 mean and deviation before": (
        net("t = Sub(x, c) u = Div(t, d) [n] y = BatchNormalization(u, g, be, me, var)", f"{BN}, {CV}"),
        "BatchNormalization",
    ),
    "4 of a matrix": (
        net(f"{NORMALIZED} [n] y = Mul(u, c)", f"{BN}, float[4] c", x="3,4"),
        "BatchNormalization",
    ),
    "4 three axes": (
        net(f"{NORMALIZED} [n] y = Mul(u, c)", f"{BN}, float[4,1] c", x="N,4,W"),
        "BatchNormalization",
    ),
    "4 five axes": (net(f"{NORMALIZED} [n] y = Mul(u, c)", f"{BN}, float c", x="2,4,2,3,2"), "BatchNormalization"),
    "4 edge 13: a large epsilon": (
        net("u = BatchNormalization<epsilon = 0.5>(x, g, be, me, var) [n] y = Mul(u, c)", f"{BN}, float c"),
        "BatchNormalization",
    ),
    "4 and a map along another axis": (
        net(f"{NORMALIZED} v = Mul(u, c) [n] y = Mul(v, d)", f"{BN}, float[4,1,1] c, float[5] d"),
        "BatchNormalization Mul",
    ),
    "5 two products and two sums": (
        net("t = Mul(x, c) u = Add(t, d) v = Mul(u, c) [n] y = Add(v, d)", CV),
        "Mul Add",
    ),
    "5 mean, deviation, gain": (net("t = Sub(x, c) u = Div(t, d) [n] y = Mul(u, c)", CV), "Mul Add"),
    "5 scalars that make no channels": (
        net("t = Sub(x, c) u = Div(t, d) [n] y = Sub(d, u)", "float c, float d"),
        "Mul Add",
    ),
    "6 a scale of 1": (
        net(
            "[n] y = BatchNormalization<epsilon = 0.5>(x, g, be, me, var)",
            "float[4] g = {1,1,1,1}, float[4] be, float[4] me, float[4] var = {0.5,0.5,0.5,0.5}",
        ),
        "Add",
    ),
    "6 a shift of 0": (
        net(
            "[n] y = BatchNormalization(x, g, be, me, var)",
            "float[4] g, float[4] be = {0,0,0,0}, float[4] me = {0,0,0,0}, float[4] var",
        ),
        "Mul",
    ),
    "the batch is open": (net("u = Mul(x, c) [n] y = Mul(u, d)", CV, x="N,4,H,W"), "Mul"),
    "opset 7": (net("u = Mul(x, c) [n] y = Mul(u, d)", CV, opset=7), "Mul"),
    "opset 9": (net("u = Mul(x, c) [n] y = Mul(u, d)", CV, opset=9), "Mul"),
    "opset 11": (net(f"{NORMALIZED} [n] y = Mul(u, c)", f"{BN}, float c", opset=11), "BatchNormalization"),
    "opset 13": (net("u = Mul(x, c) [n] y = Mul(u, d)", CV, opset=13), "Mul"),
    "opset 18": (net(f"{NORMALIZED} [n] y = Mul(u, c)", f"{BN}, float c", opset=18), "BatchNormalization"),
    "opset 21": (net(f"{NORMALIZED} [n] y = Mul(u, c)", f"{BN}, float c", opset=21), "BatchNormalization"),
    "double": (net("u = Mul(x, c) [n] y = Mul(u, d)", CV, kind="double"), "Mul"),
    "the chain stops at another node": (
        net("t = Mul(x, c) u = Relu(t) v = Mul(u, c) [n] y = Mul(v, d)"),
        "Mul Relu Mul",
    ),
    "7 a value between that is read elsewhere is where the chain begins": (
        net("t = Mul(x, c) u = Mul(t, d) [n] y = Mul(u, d) z = Relu(t)", y=", float[A,B,C,D] z"),
        "Mul Mul Relu",
    ),
    "8 constants of different axes join what they can": (
        net("t = Mul(x, c) u = Mul(t, d) [n] y = Mul(u, e)", "float[4,1,1] c, float[5] d, float e"),
        "Mul Mul",
    ),
}

SKIPS = {  # text, part of the reason
    "a single Mul": (net("[n] y = Mul(x, c)"), None),
    "Mul and Add": (net("u = Mul(x, c) [n] y = Add(u, d)"), None),
    "a lone normalization": (net("[n] y = BatchNormalization(x, g, be, me, var)", BN), "alone it is faster"),
    "4 edge 11: training": (
        net("u = Mul(x, c) [n] y = BatchNormalization<training_mode = 1>(u, g, be, me, var)", f"{BN}, float c"),
        "training mode",
    ),
    "4 edge 14: a statistic is computed": (
        net("m = Exp(q) [n] y = BatchNormalization(x, g, be, m, var)", "float[4] g, float[4] be, float[4] var").replace(
            " x)", " x, float[4] q)"
        ),
        "not constant",
    ),
    "4 the rank is unknown": (
        net("[n] y = BatchNormalization(x, g, be, me, var)", BN).replace("[2,4,3,5]", "[]").replace("[A,B,C,D]", "[]"),
        "the rank of its input is unknown",
    ),
    "7 the value between is an output": (net("u = Mul(x, c) [n] y = Mul(u, d)", y=", float[A,B,C,D] u"), None),
    "7 the value between is read by a branch": (
        net(
            "u = Mul(x, c) [n] y = Mul(u, d) z = If(k) <then_branch = a () => (float[A,B,C,D] t) { t = Relu(u) },"
            " else_branch = b () => (float[A,B,C,D] e) { e = Neg(u) }>",
            y=", float[A,B,C,D] z",
        ).replace(" x)", " x, bool k)"),
        None,
    ),
    "8 constants of different axes": (net("u = Mul(x, c) [n] y = Mul(u, d)", "float[4,1,1] c, float[5] d"), None),
    "9 rounds on purpose": (
        net("u = Add(x, c) [n] y = Sub(u, c)", "float c = {8388608}"),
        None,
    ),
    "9 rounds on purpose, scaled": (
        net("t = Mul(x, d) u = Add(t, c) [n] y = Sub(u, c)", "float c = {8388608}, float d = {4}"),
        None,
    ),
    "10 the constants overflow": (net("u = Mul(x, c) [n] y = Mul(u, c)", "float c = {1e30}"), None),
    "10 float16 overflows": (net("u = Mul(x, c) [n] y = Mul(u, c)", "float c = {300}", kind="float16"), None),
    "10 by zero": (net("u = Div(x, c) [n] y = Mul(u, d)", "float c = {0}, float d"), None),
    "11 edge 44: integers": (
        net("u = Div(x, c) [n] y = Mul(u, d)", "float c = {4}, float d = {3}", kind="int32"),
        None,
    ),
    "12 edge 25: 1 / x": (net("u = Mul(x, c) [n] y = Div(d, u)"), None),
    "edge 8: a constant that can be overridden": (
        net("u = Mul(x, c) [n] y = Mul(u, d)", "float c = {2}, float d").replace(" x)", " x, float c)"),
        None,
    ),
    "both operands are computed": (net("u = Mul(x, c) [n] y = Mul(u, x)"), None),
    "another domain": (
        net("u = Mul(x, c) [n] y = my.Mul(u, d)").replace('["" : 17]', '["" : 17, "my" : 1]'),
        None,
    ),
    "before opset 7 constants broadcast by an attribute": (
        net("u = Mul<broadcast = 1>(x, c) [n] y = Mul<broadcast = 1>(u, c)", "float[5] c", opset=6),
        None,
    ),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_written(case: str) -> None:
    text, left = WRITTEN[case]
    histogram: dict[str, int] = {}
    for op in left.split():
        histogram[op] = histogram.get(op, 0) + 1
    assert_rewritten(FoldAffineChain(), text, histogram)


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    assert_skipped(FoldAffineChain(), text, reason)


def read(text: str, **values: np.ndarray) -> ir.Model:
    """The model with these weights."""
    message = filled(text)
    for tensor in message.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(ir.to_proto(ir.tensor(values[tensor.name], name=tensor.name)))
    return shapes.infer(files.load(message).model)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("body", "weights", "left"),
    [
        ("u = Mul(x, c) [n] y = Mul(u, d)", CV, ["Mul"]),
        (f"{NORMALIZED} [n] y = Mul(u, c)", f"{BN}, float c", ["BatchNormalization"]),
    ],
)
def test_constants_keep_their_type(kind: str, body: str, weights: str, left: list[str]) -> None:
    before = loaded(net(body, weights, kind=kind, opset=21))
    after, report = checked(FoldAffineChain(), before)
    assert [n.op_type for n in after.graph] == left
    assert len(report.hits) == 1
    assert {v.dtype for v in after.graph.initializers.values()} == {before.graph.inputs[0].dtype}
    if kind == "float16":  # onnxruntime has no kernels for the other
        assert_same(before, after, 1e-2)


def test_4_statistics_keep_the_type_that_they_have() -> None:
    """From opset 15 scale and bias, mean and variance may be of other types than x."""
    text = net(f"{NORMALIZED} [n] y = Mul(u, c)", f"float16[4] g, float16[4] be, {BN[24:]}, float16 c", opset=17)
    text = text.replace("float[2,4,3,5] x", "float16[2,4,3,5] x").replace("float[A,B,C,D] y", "float16[A,B,C,D] y")
    after, report = checked(FoldAffineChain(), loaded(text))
    assert len(report.hits) == 1
    kinds = [v.dtype.numpy().name for v in next(iter(after.graph)).inputs if v is not None and v.dtype is not None]
    assert kinds == ["float16", "float16", "float16", "float32", "float32"]


def test_4_the_statistics_of_what_is_written() -> None:
    after, _ = checked(FoldAffineChain(), loaded(WRITTEN["4 mean and deviation before"][0]))
    node = next(iter(after.graph))
    assert attribute(node, "epsilon") == 0
    np.testing.assert_array_equal(constant(node.inputs[3]), np.zeros(4))
    np.testing.assert_array_equal(constant(node.inputs[4]), np.ones(4))


def test_2_a_scale_and_its_inverse_leave_no_scale() -> None:
    after, _ = checked(FoldAffineChain(), loaded(WRITTEN["2 scale there and back"][0]))
    (node,) = after.graph
    before = loaded(WRITTEN["2 scale there and back"][0])
    np.testing.assert_allclose(constant(node.inputs[1]), constant(before.graph.initializers["d"]) / 4, rtol=1e-6)


def test_4_edge_13_a_channel_whose_variance_is_no_number_stays_as_it_is() -> None:
    text = WRITTEN["4 and a product"][0]
    before = read(text, var=np.array([1, np.nan, 1, 1], np.float32))
    after, report = checked(FoldAffineChain(), before)
    assert after is before
    assert ["not finite" in s.reason for s in report.skips] == [True]


def test_4_edge_13_a_variance_of_zero() -> None:
    before = read(WRITTEN["4 and a product"][0], var=np.zeros(4, np.float32))
    after, report = checked(FoldAffineChain(), before)
    assert len(report.hits) == 1
    assert_same(before, after)


@pytest.mark.parametrize("value", [np.inf, np.nan, -np.inf])
def test_10_a_constant_that_is_no_finite_number(value: float) -> None:
    before = read(WRITTEN["1 two scalars"][0], c=np.float32(value))
    after, report = checked(FoldAffineChain(), before)
    assert after is before
    assert report.skips == []


def test_10_a_product_that_float16_holds_badly() -> None:
    """1e-4 times 1e-4 is 0 there; two products one after another keep large x."""
    before = read(net("u = Mul(x, c) [n] y = Mul(u, d)", kind="float16"), c=np.float16(1e-4), d=np.float16(1e-4))
    after, _ = checked(FoldAffineChain(), before)
    assert after is before


def test_in_the_branches_of_an_if() -> None:
    text = (
        "g (float[2,4] x, bool k) => (float[2,4] y) <float[4] c> { y = If(k) <"
        "then_branch = a () => (float[2,4] t) { u = Mul(x, c) t = Mul(u, c) },"
        "else_branch = b () => (float[2,4] e) <float[4] d> { v = Add(x, d) e = Sub(v, c) }> }"
    )
    before = loaded(text)
    after, report = checked(FoldAffineChain(), before)
    assert len(report.hits) == 2
    assert op_histogram(after) == {"Add": 1, "If": 1, "Mul": 1}
    for k in (True, False):
        assert_same(before, after, k=np.array(k))


def test_7_a_producer_in_another_graph() -> None:
    text = (
        "g (float[2,4] x, bool k) => (float[2,4] y) <float[4] c> { u = Mul(x, c) y = If(k) <"
        "then_branch = a () => (float[2,4] t) { t = Mul(u, c) },"
        "else_branch = b () => (float[2,4] e) { e = Identity(x) }> }"
    )
    before = loaded(text)
    after, report = checked(FoldAffineChain(), before)
    assert after is before
    assert report.hits == []


def test_edge_8_an_overridden_constant_counts() -> None:
    text = net("t = Mul(x, d) u = Mul(t, d) [n] y = Mul(u, c)", "float c = {2}, float d").replace(" x)", " x, float c)")
    before = loaded(text)
    after, report = checked(FoldAffineChain(), before)
    assert len(report.hits) == 1
    assert_same(before, after)
    assert_same(before, after, c=np.array(7, np.float32))


def test_a_chain_of_twenty() -> None:
    """Eight at a time: no chain is looked at as a whole."""
    names = ["x", *(f"t{k}" for k in range(19)), "y"]
    ops = ["Mul", "Add"]
    body = " ".join(f"{b} = {ops[k % 2]}({a}, c)" for k, (a, b) in enumerate(itertools.pairwise(names)))
    before = loaded(net(body, "float[4,1,1] c = {0.5, 1.5, -1, 1.2}"))
    after, report = checked(FoldAffineChain(), before)
    assert report.rolled_back == []
    assert op_histogram(after) == {"Add": 1, "Mul": 1}
    assert_same(before, after)


def test_names_and_notes() -> None:
    after, _ = checked(FoldAffineChain(), loaded(WRITTEN["1 two scalars"][0]))
    (node,) = after.graph
    assert (node.name, node.outputs[0].name) == ("n", "y")
    assert node.outputs[0].dtype == ir.DataType.FLOAT


SABOTAGE: dict[str, tuple[str, Breakage | Patch]] = {
    "a channel of a product": (WRITTEN["1 constants on the left"][0], scaled(1, 2, 1.01)),
    "a channel of a sum": (WRITTEN["2 Sub and Add"][0], scaled(1, 1, 1.01)),
    "a gain of a normalization": (WRITTEN["4 two normalizations"][0], scaled(1, 3, 1.01)),
    "a shift of a normalization": (WRITTEN["4 mean and deviation before"][0], scaled(2, 0, 1.02)),
    "left out": (WRITTEN["1 two scalars"][0], wired_to_its_input),
    "scale and shift in each other's place": (
        WRITTEN["4 and a product"][0],
        Patch(fold_affine_chain, "by_channel", lambda scale, shift, rank: by_channel(shift, scale, rank)),
    ),
    "a scale that is left out": (
        WRITTEN["1 two scalars"][0],
        Patch(fold_affine_chain, "_spread", lambda total: (total.scale * 1.01, total.shift)),
    ),
    "its maps in the wrong order": (
        WRITTEN["3 Neg of a sum"][0],
        Patch(fold_affine_chain, "_spread", lambda total: (total.scale, -total.shift)),
    ),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_sabotage(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(FoldAffineChain(), text, how, monkeypatch)
