from __future__ import annotations

import onnx_ir as ir
import pytest

from edgeopt.graph import attribute, op_histogram
from edgeopt.passes.fold_pad import FoldPad, spatial_pads
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, filled, loaded
from tests.passes.sabotage import assert_caught, wired_to_its_input

PADS = "int64[8] p = {0,0,1,2,0,0,3,0}, float z = {0}"


def net(
    layer: str,
    *,
    pad: str = "Pad(x, p)",
    x: str = "2,3,6,7",
    weight: str = "4,3,3,3",
    extra: str = PADS,
    opset: int = 17,
) -> str:
    """x → Pad t → layer y."""
    constants = ", ".join(c for c in (f"float[{weight}] w", extra) if c)
    ir_version = 10 if opset > 19 else 8
    return (
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> '
        f"g (float[{x}] x) => (float[A,B,C,D] y) <{constants}> {{ t = {pad} [n] y = {layer} }}"
    )


INF = "float z = {-inf}"
LOWEST = f"int64[8] p = {{0,0,1,2,0,0,3,0}}, {INF}"
MAX = "MaxPool<kernel_shape = [4, 4]>(t)"


def behind(before: str, extra: str = "") -> str:
    """x → before → u → Pad of zeros → MaxPool."""
    return net(MAX, pad="Pad(u, p, z)", extra=PADS + extra).replace("{ t", f"{{ {before} t")


FOLDS = {  # text, pads afterwards
    "1 Conv": (net("Conv(t, w)"), [1, 2, 3, 0]),
    "1 Conv with pads of its own": (net("Conv<pads = [1, 0, 0, 2]>(t, w)"), [2, 2, 3, 2]),
    "1 Conv, strides and dilations": (net("Conv<strides = [2, 2], dilations = [2, 1]>(t, w)"), [1, 2, 3, 0]),
    "1 Conv, depthwise": (net("Conv<group = 3>(t, w)", weight="3,1,3,3"), [1, 2, 3, 0]),
    "1 Conv, auto_pad VALID": (net('Conv<auto_pad = "VALID">(t, w)'), [1, 2, 3, 0]),
    "1 Conv, auto_pad NOTSET": (net('Conv<auto_pad = "NOTSET">(t, w)'), [1, 2, 3, 0]),
    "1 Conv, weights are an input": (
        net("Conv(t, v)").replace("x) =>", "x, float[4,3,3,3] v) =>"),
        [1, 2, 3, 0],
    ),
    "1 Conv, open batch and size": (net("Conv(t, w)", x="N,3,H,W"), [1, 2, 3, 0]),
    "1 a filling of 0": (net("Conv(t, w)", pad="Pad(x, p, z)"), [1, 2, 3, 0]),
    "1 no filling": (net("Conv(t, w)", pad='Pad<mode = "constant">(x, p)'), [1, 2, 3, 0]),
    "1 axes": (
        net("Conv(t, w)", pad="Pad(x, p, , a)", extra="int64[4] p = {1,2,3,4}, int64[2] a = {3,-2}", opset=18),
        [2, 1, 4, 3],
    ),
    "1 axes, opset 21": (
        net("Conv(t, w)", pad="Pad(x, p, z, a)", extra="int64[2] p = {1,2}, int64[1] a = {2}, float z = {0}", opset=21),
        [1, 0, 2, 0],
    ),
    "1 attributes of opset 10": (
        net("Conv(t, w)", pad="Pad<pads = [0,0,1,2,0,0,3,0]>(x)", extra="", opset=10),
        [1, 2, 3, 0],
    ),
    "1 attributes of opset 10, a filling": (
        net("Conv(t, w)", pad="Pad<pads = [0,0,1,2,0,0,3,0], value = 0.0>(x)", extra="", opset=10),
        [1, 2, 3, 0],
    ),
    "1 one axis": (
        "g (float[2,3,9] x) => (float[A,B,C] y) <float[4,3,3] w, int64[6] p = {0,0,2,0,0,1}> "
        "{ t = Pad(x, p) [n] y = Conv(t, w) }",
        [2, 1],
    ),
    "1 three axes": (
        "g (float[1,3,4,4,4] x) => (float[A,B,C,D,E] y) <float[4,3,2,2,2] w, int64[10] p = {0,0,1,0,2,0,0,0,1,0}> "
        "{ t = Pad(x, p) [n] y = Conv(t, w) }",
        [1, 0, 2, 0, 1, 0],
    ),
    "2 AveragePool": (net("AveragePool<kernel_shape = [4, 3]>(t)"), [1, 2, 3, 0]),
    "2 AveragePool, strides": (net("AveragePool<kernel_shape = [4, 3], strides = [2, 2]>(t)"), [1, 2, 3, 0]),
    "2 AveragePool that counts its pads": (
        net("AveragePool<kernel_shape = [6, 6], pads = [1, 0, 1, 1], count_include_pad = 1>(t)"),
        [2, 2, 4, 1],
    ),
    "2 AveragePool, auto_pad VALID": (net('AveragePool<kernel_shape = [4, 4], auto_pad = "VALID">(t)'), [1, 2, 3, 0]),
    "3 MaxPool, minus infinity": (net(MAX, pad="Pad(x, p, z)", extra=LOWEST), [1, 2, 3, 0]),
    "3 MaxPool, the least float": (
        net(MAX, pad="Pad(x, p, z)", extra=LOWEST.replace("-inf", "-3.4028234663852886e38")),
        [1, 2, 3, 0],
    ),
    "3 MaxPool, pads of its own": (
        net("MaxPool<kernel_shape = [6, 6], pads = [1, 0, 1, 1]>(t)", pad="Pad(x, p, z)", extra=LOWEST),
        [2, 2, 4, 1],
    ),
    "3 MaxPool, strides, VALID": (
        net(
            'MaxPool<kernel_shape = [4, 4], strides = [2, 2], auto_pad = "VALID">(t)', pad="Pad(x, p, z)", extra=LOWEST
        ),
        [1, 2, 3, 0],
    ),
    "3 MaxPool, axes": (
        net(
            MAX,
            pad="Pad(x, p, z, a)",
            extra=f"int64[4] p = {{1,2,3,3}}, int64[2] a = {{3,-2}}, {INF}",
            opset=18,
        ),
        [2, 1, 3, 3],
    ),
    "3 MaxPool, zeros behind Relu": (behind("u = Relu(x)"), [1, 2, 3, 0]),
    "3 MaxPool, zeros behind Sigmoid and pools": (
        behind("s = Sigmoid(x) v = MaxPool<kernel_shape = [1, 1]>(s) u = AveragePool<kernel_shape = [1, 2]>(v)"),
        [1, 2, 3, 0],
    ),
    "3 MaxPool, zeros behind Clip": (behind("u = Clip(x, z, m)", ", float m = {6}"), [1, 2, 3, 0]),
    "3 MaxPool, zeros behind Clip of opset 10": (
        net(MAX, pad="Pad<pads = [0,0,1,2,0,0,3,0]>(u)", extra="", opset=10).replace(
            "{ t", "{ u = Clip<min = 0.0, max = 6.0>(x) t"
        ),
        [1, 2, 3, 0],
    ),
    "3 MaxPool, less than zero behind Relu": (behind("u = Relu(x)").replace("z = {0}", "z = {-1}"), [1, 2, 3, 0]),
    "3 MaxPool, bytes": (
        "g (uint8[1,2,6,6] x) => (uint8[A,B,C,D] y) <int64[8] p = {0,0,1,2,0,0,3,0}> "
        "{ t = Pad(x, p) [n] y = MaxPool<kernel_shape = [4, 4]>(t) }",
        [1, 2, 3, 0],
    ),
    "3 MaxPool, double": (
        "g (double[1,2,6,6] x) => (double[A,B,C,D] y) <int64[8] p = {0,0,1,2,0,0,3,0}, double z ="
        " {-1.7976931348623157e308}> "
        "{ t = Pad(x, p, z) [n] y = MaxPool<kernel_shape = [4, 4]>(t) }",
        [1, 2, 3, 0],
    ),
}


@pytest.mark.parametrize("case", FOLDS)
def test_folds(case: str) -> None:
    text, pads = FOLDS[case]
    model = loaded(text)
    result, report = checked(FoldPad(), model)
    assert report.rolled_back == []
    assert [h.anchor for h in report.hits] == ["n"]
    assert "Pad" not in op_histogram(result)
    node = next(n for n in result.graph if n.name == "n")
    assert list(attribute(node, "pads")) == pads
    assert attribute(node, "count_include_pad", 0) == (1 if node.op_type == "AveragePool" else 0)
    assert_same(model, result)


SKIPS = {  # text, part of the reason
    "4 another value": (
        net("Conv(t, w)", pad="Pad(x, p, z)", extra=PADS.replace("{0}", "{1}")),
        "another value than 0",
    ),
    "4 a value that is an input": (
        net("Conv(t, w)", pad="Pad(x, p, v)").replace("x) =>", "x, float v) =>"),
        "not constant",
    ),
    "4 another value, opset 10": (
        net("Conv(t, w)", pad="Pad<pads = [0,0,1,2,0,0,3,0], value = 1.0>(x)", extra="", opset=10),
        "another value than 0",
    ),
    "4 reflect": (net("Conv(t, w)", pad='Pad<mode = "reflect">(x, p)'), "mode reflect"),
    "4 edge": (net("Conv(t, w)", pad='Pad<mode = "edge">(x, p)'), "mode edge"),
    "5 crops": (net("Conv(t, w)", extra="int64[8] p = {0,0,-1,2,0,0,3,0}"), "crops"),
    "6 batch": (net("Conv(t, w)", extra="int64[8] p = {1,0,1,2,0,0,3,0}"), "the batch or the channels"),
    "6 channels": (
        net("Conv(t, w)", weight="4,4,3,3", extra="int64[8] p = {0,0,1,2,0,1,3,0}"),
        "the batch or the channels",
    ),
    "7 pads are an input": (
        net("Conv(t, v)", pad="Pad(x, v0)").replace("x) =>", "x, int64[8] v0, float[4,3,3,3] v) =>"),
        "pads that are not constant",
    ),
    "7 axes are an input": (
        net("Conv(t, w)", pad="Pad(x, p, , a)", extra="int64[2] p = {1,2}", opset=18).replace(
            "x) =>", "x, int64[1] a) =>"
        ),
        "pads that are not constant",
    ),
    "8 somebody else reads it": (
        net("Conv(t, w)").replace("y) <", "y, float[E,F,G,H] o) <").replace("[n]", "o = Neg(t) [n]"),
        "Neg 'Neg_o' reads it",
    ),
    "8 it is the weight of somebody": (
        net("Conv(t, w)", x="4,3,6,6")
        .replace("y) <", "y, float[E,F,G,H] o) <")
        .replace("[n]", "[m] o = Conv(x, t) [n]"),
        "Conv 'm' reads it",
    ),
    "8 an output": (net("Conv(t, w)").replace("y) <", "y, float[E,F,G,H] t) <"), "is an output of the graph"),
    "8 a body reads it": (
        net("Conv(t, w)")
        .replace("x) =>", "x, bool c) =>")
        .replace("y) <", "y, float[E,F,G,H] o) <")
        .replace(
            "[n]",
            "o = If(c) <then_branch = p () => (float[E,F,G,H] a) { [inner] a = Conv(t, w) }, "
            "else_branch = q () => (float[E,F,G,H] b) { b = Conv(x, w) }> [n]",
        ),
        "Conv 'inner' reads it",
    ),
    "9 SAME": (net('Conv<auto_pad = "SAME_UPPER">(t, w)'), "auto_pad SAME_UPPER"),
    "10 pads that are not counted": (
        net("AveragePool<kernel_shape = [4, 4], pads = [1, 1, 1, 1]>(t)"),
        "does not count its own pads",
    ),
    "10 rounds up": (net("AveragePool<kernel_shape = [4, 4], ceil_mode = 1>(t)", opset=19), "rounds its size up"),
    "10 pads as large as the kernel": (net("AveragePool<kernel_shape = [3, 3]>(t)"), "as large as its kernel"),
    "10 opset 6": (
        net("AveragePool<kernel_shape = [4, 4]>(t)", pad="Pad<pads = [0,0,1,2,0,0,3,0]>(x)", extra="", opset=6),
        "before opset 7",
    ),
    "edge 35: 4 zeros, what is padded may be negative": (net(MAX), "may be larger than what it pads"),
    "edge 35: 4 zeros behind LeakyRelu": (behind("u = LeakyRelu(x)"), "may be larger than what it pads"),
    "edge 35: 4 zeros behind Clip from -1": (
        behind("u = Clip(x, m)", ", float m = {-1}"),
        "may be larger than what it pads",
    ),
    "edge 35: 4 zeros behind Clip without a minimum": (behind("u = Clip(x, , z)"), "may be larger than what it pads"),
    "edge 35: 4 zeros behind a computed minimum": (
        behind("k = ReduceMax<keepdims = 0>(x) u = Clip(x, k)"),
        "may be larger than what it pads",
    ),
    "4 one behind Relu": (behind("u = Relu(x)").replace("z = {0}", "z = {1}"), "may be larger than what it pads"),
    "4 a value that is an input, MaxPool": (
        net(MAX, pad="Pad(x, p, v)").replace("x) =>", "x, float v) =>"),
        "may be larger than what it pads",
    ),
    "4 zeros of a signed type": (
        "g (int8[1,2,6,6] x) => (int8[A,B,C,D] y) <int64[8] p = {0,0,1,2,0,0,3,0}> "
        "{ t = Pad(x, p) [n] y = MaxPool<kernel_shape = [4, 4]>(t) }",
        "may be larger than what it pads",
    ),
    "4 minus infinity for a Conv": (net("Conv(t, w)", pad="Pad(x, p, z)", extra=LOWEST), "another value than 0"),
    "10 MaxPool rounds up": (
        net("MaxPool<kernel_shape = [4, 4], ceil_mode = 1>(t)", pad="Pad(x, p, z)", extra=LOWEST),
        "rounds its size up",
    ),
    "edge 35: 10 MaxPool, pads as large as the kernel": (
        net("MaxPool<kernel_shape = [3, 3]>(t)", pad="Pad(x, p, z)", extra=LOWEST),
        "as large as its kernel",
    ),
    "9 MaxPool, SAME": (
        net('MaxPool<kernel_shape = [4, 4], auto_pad = "SAME_LOWER">(t)', pad="Pad(x, p, z)", extra=LOWEST),
        "auto_pad SAME_LOWER",
    ),
    "11 MaxPool, dilated": (
        net("MaxPool<kernel_shape = [4, 3], dilations = [1, 2]>(t)", pad="Pad(x, p, z)", extra=LOWEST),
        "is dilated",
    ),
    "edge 35: 11 Indices are used": (
        net(MAX, pad="Pad(x, p, z)", extra=LOWEST)
        .replace("] y) <", "] y, int64[E,F,G,H] i) <")
        .replace("[n] y =", "[n] y, i ="),
        "Indices that are used",
    ),
}


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    model = loaded(text)
    result, report = checked(FoldPad(), model)
    assert result is model
    assert report.rolled_back == []
    assert [s.node for s in report.skips] == ["n"]
    assert reason in report.skips[0].reason


@pytest.mark.parametrize("layer", ["LpPool<kernel_shape = [4, 4]>(t)", "ConvTranspose(t, v)", "Relu(t)"])
def test_others_are_left_alone(layer: str) -> None:
    model = loaded(net(layer, extra=f"{PADS}, float[3,2,2,2] v"))
    result, report = checked(FoldPad(), model)
    assert result is model
    assert report.skips == []


def test_an_unknown_rank() -> None:
    weights = "float[4,3,3,3] w, int64[8] p = {0,0,1,1,0,0,1,1}, bool[4] all = {1,1,1,1}"
    head = "g (float[1,3,8,8] x) => (float[A,B,C,D] y)"
    reshaped = "s = Shape(x) c = Compress(s, all) u = Reshape(x, c)"
    model = loaded(f"{head} <{weights}> {{ {reshaped} t = Pad(u, p) [n] y = Conv(t, w) }}")
    result, report = checked(FoldPad(), model)
    assert len(report.hits) == 1
    assert_same(model, result)


@pytest.mark.parametrize(
    ("x", "pads", "reason"),
    [
        ("float[1,3,8,8] x", "Pad(u, p, , a)", "names its axes, and the rank is unknown"),
        ("float[2,3] x", "Pad(x, q)", "pads 2 axes"),
        ("float[1,3,8,8] x", "Pad(x, q)", "pads 2 axes"),
    ],
)
def test_pads_that_say_nothing_about_space(x: str, pads: str, reason: str) -> None:
    """Seen before shape inference."""
    text = f"g ({x}) => (float[] y) <int64[2] p = {{1,1}}, int64[4] q = {{0,1,0,1}}, int64[1] a = {{3}}>"
    found = ir.from_proto(filled(f'<ir_version: 8, opset_import: ["" : 18]> {text} {{ u = Neg(x) [n] y = {pads} }}'))
    node = next(n for n in found.graph if n.name == "n")
    assert spatial_pads(node, 18) == reason


def test_every_reader_takes_it_over() -> None:
    text = (
        "g (float[1,3,6,6] x) => (float[A,B,C,D] y, float[E,F,G,H] o) <float[4,3,3,3] w, float[2,3,1,1] v, "
        f"{PADS}> {{ t = Pad(x, p) [n] y = Conv(t, w) [m] o = Conv<strides = [2, 2]>(t, v) }}"
    )
    model = loaded(text)
    result, report = checked(FoldPad(), model)
    assert [h.anchor for h in report.hits] == ["n", "m"]
    assert op_histogram(result) == {"Conv": 2}
    assert_same(model, result)


def test_pads_in_a_row() -> None:
    model = loaded(net("Conv(t, w)", pad="Pad(q, p)").replace("{ t", "{ q = Pad(x, p) t"))
    result, report = checked(FoldPad(), model)
    assert len(report.hits) == 2
    assert op_histogram(result) == {"Conv": 1}
    assert_same(model, result)


def test_a_conv_and_a_pool_take_zeros_over() -> None:
    text = behind("u = Relu(x)").replace("y) <", "y, float[E,F,G,H] o) <").replace("[n]", "[m] o = Conv(t, w) [n]")
    model = loaded(text)
    result, report = checked(FoldPad(), model)
    assert {h.anchor for h in report.hits} == {"m", "n"}
    assert op_histogram(result) == {"Conv": 1, "MaxPool": 1, "Relu": 1}
    assert_same(model, result)


def turned_pads(rewrite: Rewrite) -> Rewrite:
    """Those before an axis behind it."""
    attributes = rewrite.replacement[0].attributes
    pads = list(attributes["pads"].as_ints())
    attributes["pads"] = ir.AttrInt64s("pads", pads[2:] + pads[:2])
    return rewrite


def lost_pads(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].attributes.pop("pads")
    return rewrite


SABOTAGE = {
    "pads turned": (net(MAX, pad="Pad(x, p, z)", extra=LOWEST), turned_pads),
    "pads lost": (net(MAX, pad="Pad(x, p, z)", extra=LOWEST), lost_pads),
    "pads turned, behind Relu": (behind("u = Relu(x)"), turned_pads),
    "no pool": (net(MAX, pad="Pad(x, p, z)", extra=LOWEST), wired_to_its_input),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_sabotage(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(FoldPad(), text, how, monkeypatch)


def test_only_one_place_of_two() -> None:
    """The other reader cannot take it over, so nothing would be saved."""
    text = net("Conv(t, w)").replace("y) <", "y, float[E,F,G,H] o) <")
    model = loaded(text.replace("[n]", "[m] o = AveragePool<kernel_shape = [2, 2]>(t) [n]"))
    result, report = checked(FoldPad(), model)
    assert result is model
    assert {s.node for s in report.skips} == {"m", "n"}
