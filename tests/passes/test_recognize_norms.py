from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.graph import attribute, constant
from edgeopt.passes.norm_formulas import Norm
from edgeopt.passes.recognize_norms import RecognizeNorms
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import Breakage, assert_caught, scaled
from tests.passes.tables import assert_fires, assert_left_alone, graph


def mean(value: str, axes: str, opset: int, keep: int = 1) -> str:
    keeping = "" if keep else "<keepdims = 0>"
    if opset >= 18:
        return f"ReduceMean{keeping}({value}, axes)"
    return f"ReduceMean<axes = [{axes}]{'' if keep else ', keepdims = 0'}>({value})"


def net(
    body: str,
    *,
    opset: int = 17,
    axes: str = "-1",
    x: str = "float[2,5,6] x",
    y: str = "float[A,B,C] y",
    more: str = "float[6] g, float[6] b",
) -> str:
    """``mean(v)`` stands for a ReduceMean over the axes in the form of the opset; ``%`` marks the division."""
    for value in "xqv":
        body = body.replace(f"mean({value})", mean(value, axes, opset))
    stored = [
        f"int64[{axes.count(',') + 1}] axes = {{{axes}}}",
        "float eps = {0.00001}, float two = {2}, float half = {0.5}, float mhalf = {-0.5}, float one = {1}",
    ]
    return graph(
        f"g ({x}) => ({y}) <{', '.join([*stored, *([more] if more else [])])}> {{ {body} }}".replace("%", "[n]"), opset
    )


D = "mu = mean(x) d = Sub(x, mu) "
V = "q = Mul(d, d) v = mean(q) e = Add(v, eps) r = Sqrt(e) "
N = "% n = Div(d, r) "
LN = D + V + N + "k = Mul(n, g) y = Add(k, b)"
BARE = D + V + N.replace("n =", "y =")
S = "i = Reciprocal(r) s = Mul(g, i) a = Mul(x, s) c = Mul(mu, s) z = Sub(b, c) % y = Add(a, z)"
RMS = "q = Mul(x, x) v = mean(q) e = Add(v, eps) r = Sqrt(e) % n = Div(x, r) y = Mul(n, g)"
CAST = "x = Cast<to = 1>(h) " + D + V + N.replace("n =", "m =") + "o = Cast<to = 10>(m) k = Mul(o, g) y = Add(k, b)"


def image(
    body: str, *, x: str = "float[2,4,5,6] x", more: str = "float[4,1,1] g, float[4,1,1] b", opset: int = 17
) -> str:
    return net(body, axes="2, 3", x=x, y="float[A,B,C,D] y", more=more, opset=opset)


LAYER = {
    **{f"1 opset {v}": net(LN, opset=v) for v in (17, 18, 20, 21, 22, 23)},
    "1 Pow": net(LN.replace("Mul(d, d)", "Pow(d, two)")),
    "1 the root as a power": net(LN.replace("Sqrt(e)", "Pow(e, half)")),
    "1 the reciprocal": net(LN.replace("Div(d, r)", "Mul(d, i)").replace("% n", "i = Reciprocal(r) % n")),
    "1 one by the root": net(LN.replace("Div(d, r)", "Mul(i, d)").replace("% n", "i = Div(one, r) % n")),
    "1 a power of -1/2": net(LN.replace("Div(d, r)", "Mul(d, r)").replace("Sqrt(e)", "Pow(e, mhalf)")),
    "1 epsilon first": net(LN.replace("Add(v, eps)", "Add(eps, v)")),
    "1 constants first": net(LN.replace("Mul(n, g)", "Mul(g, n)").replace("Add(k, b)", "Add(b, k)")),
    "1 the difference twice": net(LN.replace("Mul(d, d)", "Mul(u, u)").replace("q =", "u = Sub(x, mu) q =")),
    "1 the mean twice": net(LN.replace("Mul(d, d)", "Mul(u, u)").replace("q =", "mw = mean(x) u = Sub(x, mw) q =")),
    "1 the axis from 0": net(LN, axes="2"),
    "1 two axes": net(LN, axes="-2, -1", more="float[5,6] g, float[5,6] b"),
    "1 two axes, in another order": net(LN, axes="2, 1", more="float[5,6] g, float[5,6] b"),
    "1 all but the batch": net(LN, axes="1, 2", x="float[N,5,6] x", more="float[5,6] g, float[1,5,6] b"),
    "1 no beta": net(D + V + N + "y = Mul(n, g)"),
    "1 nothing": net(BARE, more=""),
    "1 of two axes": net(LN, x="float[N,6] x", y="float[N,6] y"),
    "1 of five axes": net(LN, x="float[1,2,3,2,6] x", y="float[A,B,C,D,E] y"),
    "1 open sizes": net(LN, x="float[N,L,6] x", y="float[N,L,6] y"),
    "1 scalars": net(LN, more="float g, float[1] b"),
    "1 gamma and beta with ones in front": net(LN, more="float[1,1,6] g, float[1,6] b"),
    "1 gamma and beta are inputs": net(LN, x="float[2,5,6] x, float[6] g, float[6] b", more=""),
    "1 x has other readers": net(LN + " w = Exp(x)", y="float[A,B,C] y, float[2,5,6] w"),
    "1 double": net(LN).replace("float", "double"),
    "2": net(D + V + S),
    "2 divided by the root": net(D + V + S.replace("Reciprocal(r)", "Div(one, r)")),
    "2 the other way round": net(D + V + S.replace("Mul(g, i)", "Mul(i, g)").replace("Add(a, z)", "Add(z, a)")),
    "4 NLC is a layer's": net(LN, more="float[6] g, float[6] b"),
}
INSTANCE = {
    "4": image(LN),
    "4 opset 7": image(LN.replace("Sqrt(e)", "Pow(e, half)"), opset=7),
    "4 opset 18": image(LN, opset=18),
    "4 no gamma": image(BARE, more=""),
    "4 one number for all": image(LN, more="float g, float[1] b"),
    "4 one axis": net(LN, axes="2", x="float[2,4,6] x", more="float[4,1] g, float[4,1] b"),
    "4 three axes": net(
        LN, axes="2,3,4", x="float[1,4,3,2,2] x", y="float[A,B,C,D,E] y", more="float[4,1,1,1] g, float[1,4,1,1,1] b"
    ),
    "4 open sizes": image(LN, x="float[N,4,H,W] x"),
}
RMS_CASES = {
    "5": net(RMS, opset=23),
    "5 Pow and Reciprocal": net(
        RMS.replace("Mul(x, x)", "Pow(x, two)").replace("% n = Div(x, r)", "i = Reciprocal(r) % n = Mul(x, i)"),
        opset=23,
    ),
    "5 no gamma": net(RMS.replace("n = Div", "y = Div").replace(" y = Mul(n, g)", ""), opset=23, more=""),
    "5 opset 24": net(RMS, opset=24),
    "5 two axes": net(RMS, opset=23, axes="1, 2", more="float[5,6] g"),
}
LEFT = {
    "6 edge 57: power 4": (
        net(LN.replace("Mul(d, d)", "Pow(d, four)"), more="float[6] g, float[6] b, float four = {4}"),
        "power 4",
    ),
    "6 the size": (net(LN.replace("Mul(d, d)", "Abs(d)")), None),
    "7 edge 57: epsilon outside": (
        net(LN.replace("e = Add(v, eps) r = Sqrt(e)", "e = Sqrt(v) r = Add(e, eps)")),
        "adds its epsilon to the root",
    ),
    "7 no epsilon": (net(LN.replace("e = Add(v, eps) r = Sqrt(e)", "r = Sqrt(v)")), None),
    "7 an epsilon for each": (net(LN.replace("Add(v, eps)", "Add(v, b)")), None),
    "7 edge 8: an overridable epsilon": (net(LN, x="float[2,5,6] x, float eps"), None),
    "8 edge 57: mixed axes": (
        net(LN.replace("mean(q)", "ReduceMean<axes = [1, 2]>(q)"), more="float[6] g, float[6] b"),
        "its mean is over the axes [2], its variance over [1, 2]",
    ),
    "8 edge 57: not the last axis": (net(LN, axes="1", x="float[2,6,6] x"), None),
    "8 the batch": (net(LN, axes="0", x="float[6,6] x", y="float[A,B] y"), None),
    "8 all axes of a vector": (net(LN, axes="0", x="float[6] x", y="float[A] y"), None),
    "8 edge 57: axes are dropped": (
        net(LN.replace("mean(x)", "ReduceMean<axes = [-1], keepdims = 0>(x)"), x="float[6,6] x", y="float[6,6] y"),
        None,
    ),
    "8 edge 58: RMS over axis 1": (net(RMS, opset=23, axes="1", x="float[2,6,6] x"), None),
    "8 another mean": (
        net(
            LN.replace("mean(x)", "mean(v)").replace("v = mean(q)", "w = mean(q)").replace("Add(v", "Add(w"),
            x="float[2,5,6] x, float[2,5,6] v",
        ),
        None,
    ),
    "8 divides another": (net(LN.replace("Div(d, r)", "Div(x, r)")), None),
    "9 an output": (net(LN, y="float[A,B,C] y, float[2,5,6] d"), None),
    "9 another reader": (net(LN + " w = Exp(v)", y="float[A,B,C] y, float[2,5,1] w"), None),
    "9 edge 3: captured by a branch": (
        graph(
            f"g (float[2,5,6] x, bool c) => (float[2,5,6] y, float[2,5,6] o) <float eps = {{0.00001}}, float[6] g, float[6] b> {{ {LN} o = If(c) <"
            "then_branch = t () => (float[2,5,6] u) { u = Neg(d) }, else_branch = f () => (float[2,5,6] k) { k = Exp(x) }> }"
        )
        .replace("mean(x)", mean("x", "-1", 17))
        .replace("mean(q)", mean("q", "-1", 17))
        .replace("%", "[n]"),
        None,
    ),
    "10 an open last axis": (net(BARE, x="float[2,5,K] x", more=""), None),
    "10 an unknown rank": (net(BARE, x="float[] x", y="float[] y", more=""), None),
    "opset 16: no LayerNormalization": (net(LN, opset=16), None),
    "opset 22: no RMSNormalization": (net(RMS, opset=22), None),
}


@pytest.mark.parametrize("case", LAYER)
def test_layer_normalization(case: str) -> None:
    result = assert_fires(RecognizeNorms(), LAYER[case], None)
    node = next(n for n in result.graph if n.op_type == "LayerNormalization")
    assert {n.op_type for n in result.graph} <= {"LayerNormalization", "Exp"}
    assert attribute(node, "epsilon") == pytest.approx(1e-5)


@pytest.mark.parametrize("case", INSTANCE)
def test_instance_normalization(case: str) -> None:
    result = assert_fires(RecognizeNorms(), INSTANCE[case], {"InstanceNormalization": 1})
    assert constant(result.graph[0].inputs[1]) is not None


@pytest.mark.parametrize("case", RMS_CASES)
def test_rms_normalization(case: str) -> None:
    assert_fires(RecognizeNorms(), RMS_CASES[case], {"RMSNormalization": 1})


@pytest.mark.parametrize("case", LEFT)
def test_is_left_alone(case: str) -> None:
    text, reason = LEFT[case]
    assert_left_alone(RecognizeNorms(), text, reason)


PARTLY = {
    "11 images in double are a layer": (
        image(LN).replace("float", "double"),
        {"LayerNormalization": 1, "Mul": 1, "Add": 1},
    ),
    "12 gamma for each channel, beta for each column": (
        net(LN, x="float[2,6,6] x", more="float[6,1] g, float[6] b"),
        {"InstanceNormalization": 1, "Add": 1},
    ),
    "12 gamma of other axes": (
        net(LN, x="float[2,3,5,6] x", y="float[A,B,C,D] y", more="float[5,1] g, float[6] b"),
        {"LayerNormalization": 1, "Mul": 1, "Add": 1},
    ),
    "12 beta of other axes": (
        net(LN, x="float[2,6,6] x", more="float[6] g, float[6,1] b"),
        {"LayerNormalization": 1, "Add": 1},
    ),
    "12 edge 57: beta of a higher rank": (
        net(LN, y="float[A,B,C,D] y", more="float[6] g, float[1,1,1,6] b"),
        {"LayerNormalization": 1, "Add": 1},
    ),
    "12 edge 57: a beta that enlarges": (
        net(LN, x="float[1,5,6] x", more="float[6] g, float[3,1,6] b"),
        {"LayerNormalization": 1, "Add": 1},
    ),
    "12 the product is an output": (net(LN, y="float[A,B,C] y, float[2,5,6] k"), {"LayerNormalization": 1, "Add": 1}),
    "12 the quotient is an output": (
        net(LN, y="float[A,B,C] y, float[2,5,6] n"),
        {"LayerNormalization": 1, "Mul": 1, "Add": 1},
    ),
    "12 a gamma that is too large to be made up": (
        net(BARE, x="float[1,1,20000] x", more=""),
        {"ReduceMean": 2, "Sub": 1, "Mul": 1, "Add": 1, "Sqrt": 1, "Div": 1},
    ),
}


@pytest.mark.parametrize("case", PARTLY)
def test_what_is_left_behind(case: str) -> None:
    text, ops = PARTLY[case]
    if "ReduceMean" in ops:
        assert_left_alone(RecognizeNorms(), text)
    else:
        assert_fires(RecognizeNorms(), text, ops)


def half(body: str = CAST) -> str:
    return net(body, x="float16[2,5,6] h", y="float16[A,B,C] y", more="float16[6] g, float16[6] b")


def test_3_between_casts() -> None:
    result = assert_fires(RecognizeNorms(), half(), {"LayerNormalization": 1})
    node = result.graph[0]
    assert node.inputs[0] is result.graph.inputs[0]
    assert str(node.outputs[0].dtype) == "FLOAT16"


def test_3_the_wide_value_has_another_reader() -> None:
    text = net(
        CAST + " w = Exp(x)",
        x="float16[2,5,6] h",
        y="float16[A,B,C] y, float[2,5,6] w",
        more="float16[6] g, float16[6] b",
    )
    assert_fires(RecognizeNorms(), text, {"LayerNormalization": 1, "Cast": 2, "Mul": 1, "Add": 1, "Exp": 1})


def test_half_precision_throughout() -> None:
    text = net(LN).replace("float", "float16")
    text = text.replace(
        "float16 eps = {0.00001}, float16 two = {2}, float16 half = {0.5}, float16 mhalf = {-0.5}, float16 one = {1}",
        "float16 eps",
    )
    model = loaded(text)
    for number, hits in ((0.001, 1), (1e-12, 0)):
        model.graph.initializers["eps"].const_value = ir.tensor(number, dtype=ir.DataType.FLOAT16)
        result, report = checked(RecognizeNorms(), model)
        assert report.rolled_back == []
        assert len(report.hits) == hits
        assert_same(model, result, 4e-3)


def test_targets() -> None:
    model = loaded(LAYER["1 opset 17"])
    for rule in (RecognizeNorms(legal={"RMSNormalization"}), RecognizeNorms(max_opset=16)):
        assert checked(rule, model)[0] is model
    assert checked(RecognizeNorms(legal={"LayerNormalization"}), model)[1].hits


def test_edge_58_rows_of_zeros() -> None:
    model = loaded(net(LN))
    result, _ = checked(RecognizeNorms(), model)
    assert_same(model, result, x=np.zeros((2, 5, 6), np.float32))


def test_edge_58_no_lp_normalization() -> None:
    """It gives 0 for a row of zeros, where the formula gives NaN."""
    text = graph("g (float[2,5,6] x) => (float[A,B,C] y) { n = ReduceL2<axes = [-1]>(x) y = Div(x, n) }")
    assert_left_alone(RecognizeNorms(), text)


def test_in_a_branch() -> None:
    body = LN.replace("mean(x)", mean("x", "-1", 17)).replace("mean(q)", mean("q", "-1", 17)).replace("%", "")
    text = graph(
        "g (float[2,5,6] x, bool c) => (float[2,5,6] o) <float eps = {0.00001}, float[6] g, float[6] b> { o = If(c) <"
        f"then_branch = t () => (float[2,5,6] y) {{ {body} }}, else_branch = f () => (float[2,5,6] w) {{ w = Exp(x) }}> }}"
    )
    assert_fires(RecognizeNorms(), text, {"If": 1, "LayerNormalization": 1, "Exp": 1})


def another_epsilon(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.01)
    return rewrite


def another_axis(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].attributes["axis"] = ir.AttrInt64("axis", -2)
    return rewrite


SABOTAGE: dict[str, tuple[str, Breakage]] = {
    "epsilon": (net(LN), another_epsilon),
    "epsilon of an instance": (image(LN), another_epsilon),
    "axis": (net(BARE, more=""), another_axis),
    "one gamma": (net(LN), scaled(1, 2, 1.001)),
    "one beta": (image(LN), scaled(2, 3, 1.001)),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_a_broken_rewrite_is_rolled_back(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(RecognizeNorms(), text, how, monkeypatch)


def test_norms_are_values() -> None:
    x = ir.Value(name="x")
    assert Norm(x, (1,), 1e-5, centred=True) == Norm(x, (1,), 1e-5, centred=True)
