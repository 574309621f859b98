"""The cases at which rewrites of ONNX graphs go wrong, one or several graphs each, through the whole pipeline.

Whatever the passes do or leave: nothing is rolled back, the interface stays, the checker accepts the result, the
caller's model is as it was, and the outputs are the same, also for the inputs at which a wrong rewrite would show.
``goal`` (see ``pipeline.missed``) holds for those that say what must stay, or must go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt import saving
from tests import models, pipeline

Feed = dict[str, Any]
W = "float[4,4,3,3] w"
U = "float[4,4,3,3] u"
BN = "float[4] s, float[4] b, float[4] m, float[4] var"
BN2 = "float[4] s2, float[4] b2, float[4] m2, float[4] var2"
X = "float[1,4,8,8] x"
NORM = "BatchNormalization(h, s, b, m, var)"
NEGATIVE = [{"x": -1 - np.arange(256, dtype=np.float32).reshape(1, 4, 8, 8)}]


def net(body: str, weights: str = "", x: str = X, y: str = "float[] y", opset: int = 17) -> str:
    stored = f"<{weights}>" if weights else ""
    ir_version = 10 if opset > 20 else 8
    return f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>\ng ({x}) => ({y}) {stored} {{ {body} }}'


@dataclass(frozen=True)
class Graph:
    """One graph of a case.

    Attributes:
        model: Text, or what builds the model.
        feeds: Inputs beside the random ones.
        goal: What must hold for the result.
        reference: A model that onnxruntime runs and that means the same, where it refuses ``model``.
        sizes: Of the open dimensions, one random feed each; none for no random feeds.
        runs: False where onnxruntime has no kernel: only the form of the result is looked at.
    """

    model: str | Callable[[], onnx.ModelProto]
    feeds: tuple[Feed, ...] = ()
    goal: str = ""
    reference: str | None = None
    sizes: tuple[int, ...] = (1, 3)
    runs: bool = True

    def build(self) -> onnx.ModelProto:
        return models.filled(self.model) if isinstance(self.model, str) else self.model()


CASES: dict[str, list[Graph]] = {}


def case(number: int, title: str, *graphs: Graph | str) -> None:
    name = f"edge {number:02}: {title}"
    assert name not in CASES
    CASES[name] = [g if isinstance(g, Graph) else Graph(g) for g in graphs]


def edited(text: str, how: Callable[[onnx.ModelProto], None]) -> Callable[[], onnx.ModelProto]:
    """The model of the text, changed by ``how``."""

    def build() -> onnx.ModelProto:
        model = models.filled(text)
        how(model)
        return model

    return build


def negative_sizes(model: onnx.ModelProto) -> None:
    """A size of -1, as old exporters write an open one: the first of x, the second of z."""
    for k, value in enumerate(model.graph.input[:2]):
        value.type.tensor_type.shape.dim[k].dim_value = -1


def if_net(body: str, weights: str = "", then: str = "", x: str = f"{X}, bool cond", y: str = "float[] y") -> str:
    """An If; its first branch is ``then`` (which gives t), its second negates x."""
    return net(
        f"{body} y = If(cond) <then_branch = a () => (float[] t) {{ {then} }},"
        " else_branch = o () => (float[] e) { e = Neg(x) }>",
        weights,
        x,
        y,
    )


# Consumers and ownership
case(
    1,
    "conv output with two readers",
    net(f"h = Conv(x, w) a = {NORM} r = Relu(h) y = Add(a, r)", f"{W}, {BN}"),
    net("h = Conv(x, w) a = Mul(h, c) r = Relu(h) y = Add(a, r)", f"{W}, float[4,1,1] c"),
)
case(
    2,
    "conv output is a graph output",
    net(f"h = Conv(x, w) y = {NORM}", f"{W}, {BN}", y="float[] y, float[] h"),
    net("h = Relu(x) y = Relu(h)", y="float[] h, float[] y"),
    net("h = Transpose<perm=[0,2,3,1]>(x) y = Transpose<perm=[0,3,1,2]>(h)", y="float[] h, float[] y"),
)
case(
    3,
    "conv output captured only by a branch",
    if_net(f"h = Conv(x, w) k = {NORM} z = Relu(k)", f"{W}, {BN}", "t = Exp(h)", y="float[] y, float[] z"),
    if_net("h = Conv(x, w)", f"{W}, {BN}", f"t = {NORM}"),
)
case(
    4,
    "weight shared by two convs",
    net(f"h = Conv(x, w) a = {NORM} q = Conv(x, w) y = Add(a, q)", f"{W}, {BN}"),
    net(
        f"h = Conv(x, w) a = {NORM} q = Conv(x, w) c = BatchNormalization(q, s2, b2, m2, var2) y = Mul(a, c)",
        f"{W}, {BN}, {BN2}",
    ),
)
case(
    5,
    "bias shared with another op",
    net(f"h = Conv(x, w, c) k = {NORM} y = Mul(k, c)", f"float[6,4,3,3] w, float[6] c, {BN}".replace("[4]", "[6]")),
)
case(
    6,
    "parameters shared by two BNs, and with the conv's bias",
    net(
        f"h = Conv(x, w) a = {NORM} q = Conv(x, u) c = BatchNormalization(q, s, b, m, var) y = Add(a, c)",
        f"{W}, {U}, {BN}",
    ),
    net(f"h = Conv(x, w, b) y = {NORM}", f"{W}, {BN}"),
    net("h = Conv(x, w) y = BatchNormalization(h, var, var, var, var)", f"{W}, {BN}"),
)
case(
    7,
    "weight captured by a body",
    if_net(f"h = Conv(x, w) z = {NORM}", f"{W}, {BN}", "t = Conv(x, w)", y="float[] y, float[] z"),
    if_net("h = Mul(x, c) z = Mul(h, c)", "float c = {2.0}", "t = Mul(x, c)", y="float[] y, float[] z"),
)


def overridable(text: str, *names: str) -> Callable[[], onnx.ModelProto]:
    def how(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name in names:
                info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
                model.graph.input.append(info)

    return edited(text, how)


rng = np.random.default_rng(3)
OTHER_W = rng.standard_normal((4, 4, 3, 3)).astype(np.float32)
SOME_X = rng.standard_normal((1, 4, 8, 8)).astype(np.float32)
SOME_4 = np.array([0.5, 2, 3, 4], np.float32)
case(
    8,
    "an initializer that is a graph input too is overridden",
    Graph(overridable(net(f"h = Conv(x, w) y = {NORM}", f"{W}, {BN}"), "w"), ({"x": SOME_X, "w": OTHER_W},)),
    Graph(overridable(net(f"h = Conv(x, w) y = {NORM}", f"{W}, {BN}"), "s"), ({"x": SOME_X, "s": SOME_4},)),
    Graph(
        overridable(net("h = Add(x, c) y = Relu(h)", "float c = {0.0}"), "c"),
        ({"x": SOME_X, "c": np.array(5, np.float32)},),
        "has Add",
    ),
    Graph(
        overridable(net("d = Add(c, c) y = Mul(x, d)", "float c = {1.0}"), "c"),
        ({"x": SOME_X, "c": np.array(5, np.float32)},),
        "2 nodes; has Add",
    ),
    Graph(
        overridable(net("h = Pad(x, p) y = Conv(h, w)", f"{W}, int64[8] p = {{0,0,1,1,0,0,1,1}}"), "p"),
        ({"x": SOME_X, "p": np.array([0, 0, 2, 2, 0, 0, 1, 1])},),
        "has Pad",
    ),
    Graph(
        overridable(net("y = Reshape(x, t)", "int64[2] t = {4, 64}", y="float[R,C] y"), "t"),
        ({"x": SOME_X, "t": np.array([8, 32])},),
    ),
)


def colliding() -> onnx.ModelProto:
    """The names that the pipeline gives to new values, taken by others beforehand."""
    text = net(f"h = Conv(x, w) y = {NORM} p = Relu(x) q = Neg(p)", f"{W}, {BN}", y="float[] y, float[] q")
    model = models.filled(text)
    known = {n for node in model.graph.node for n in (*node.input, *node.output)}
    result = saving.to_proto(pipeline.simplified(model).model)
    fresh = [t.name for t in result.graph.initializer if t.name not in known][:1]
    fresh += [t.name for t in result.graph.initializer if t.name not in fresh]
    for node in model.graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                if name == "p":
                    names[k] = fresh[0]
    return model


case(9, "a generated name is taken already", Graph(colliding))


def nameless(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.name = ""


def same_names(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.name = "same"


case(
    10,
    "nodes without names, and with equal ones",
    Graph(edited(net(f"h = Conv(x, w) y = {NORM}", f"{W}, {BN}"), nameless), goal="1 nodes"),
    Graph(
        edited(net(f"h = Conv(x, w) y = {NORM}", f"{W}, {BN}"), same_names),
        goal="1 nodes",
        reference=net(f"h = Conv(x, w) y = {NORM}", f"{W}, {BN}"),
    ),
)
# BatchNormalization
case(
    11,
    "training mode",
    Graph(net("h = Conv(x, w) y = BatchNormalization<training_mode=0>(h, s, b, m, var)", f"{W}, {BN}"), goal="1 nodes"),
    Graph(
        net(
            "h = Conv(x, w) y, rm, rv = BatchNormalization<training_mode=1>(h, s, b, m, var)",
            f"{W}, {BN}",
            y="float[] y, float[] rm, float[] rv",
        ),
        goal="has BatchNormalization",
        runs=False,
    ),
    Graph(
        net("h = Conv(x, w) y, rm, rv = BatchNormalization<training_mode=1>(h, s, b, m, var)", f"{W}, {BN}"),
        goal="has BatchNormalization",
        runs=False,
    ),
)
case(
    12,
    "spatial=0 of opset 7",
    Graph(
        net(
            "h = Conv(x, w) y = BatchNormalization<spatial=0>(h, s, b, m, var)",
            f"{W}, {BN}".replace("[4]", "[4,6,6]"),
            opset=7,
        ),
        goal="has BatchNormalization",
        runs=False,
    ),
    net(f"h = Conv(x, w) y = {NORM}", f"{W}, {BN}", opset=7),
)
case(
    13,
    "epsilon missing or large, variance 0, NaN in one channel",
    net(f"h = Conv(x, w) y = {NORM}", f"{W}, {BN}"),
    net("h = Conv(x, w) y = BatchNormalization<epsilon=0.5>(h, s, b, m, var)", f"{W}, {BN}"),
    net(f"h = Conv(x, w) y = {NORM}", f"{W}, {BN} = {{0.0, 1.0, 0.0, 0.000001}}"),
    net(f"h = Conv(x, w) y = {NORM}", f"{W}, {BN} = {{1.0, nan, 1.0, 2.0}}"),
    net("y = BatchNormalization(x, s, b, m, var)", f"{BN} = {{1.0, nan, 1.0, 2.0}}"),
    net(
        "h = BatchNormalization(x, s, b, m, var) y = Conv<group=4>(h, w)",
        f"float[4,1,3,3] w, {BN} = {{1.0, nan, 1.0, 2.0}}",
    ),
)
case(
    14,
    "parameters that are computed",
    net(f"h = Conv(x, w) y = {NORM}", W, f"{X}, float[4] s, float[4] b, float[4] m, float[4] var")
    .replace("h = Conv", "v = Abs(var) h = Conv")
    .replace("m, var) }", "m, v) }"),
    net("h = Conv(x, w) d = Exp(s) y = BatchNormalization(h, d, b, m, var)", f"{W}, {BN}"),
)
case(
    15,
    "conv weight or bias that is computed",
    net(f"h = Conv(x, w) y = {NORM}", BN, f"{X}, {W}"),
    net(f"h = Conv(x, w, k) y = {NORM}", f"{W}, {BN}", f"{X}, float[4] k"),
    net("h = Conv(x, w) y = Mul(h, c)", "float[4,1,1] c", f"{X}, {W}"),
    net("h = Conv(x, w, k) y = Add(h, c)", f"{W}, float[4,1,1] c", f"{X}, float[4] k"),
)
case(
    16,
    "ConvTranspose: groups, equal channels, output padding",
    Graph(net(f"h = ConvTranspose<group=2>(x, w) y = {NORM}", f"float[4,2,3,3] w, {BN}"), goal="1 nodes"),
    net(f"h = ConvTranspose<strides=[2,2], output_padding=[1,1]>(x, w) y = {NORM}", f"{W}, {BN}"),
    net("h = ConvTranspose<group=4>(x, w) y = Mul(h, c)", "float[4,1,3,3] w, float[4,1,1] c"),
    net("h = Mul(x, c) y = ConvTranspose<group=2>(h, w)", "float[4,3,3,3] w, float[4,1,1] c"),
    net("h = ConvTranspose<pads=[1,1,1,1]>(x, w) y = Conv(h, u)", f"{W}, float[2,4,1,1] u"),
)
GEMM = "float[2,6] x"
case(
    17,
    "Gemm: alpha, beta, transposed operands, biases of all forms",
    net(f"h = Gemm<alpha=0.5, beta=2.0>(x, w, c) y = {NORM}", f"float[6,4] w, float[4] c, {BN}", GEMM),
    net(f"h = Gemm<transB=1>(x, w, c) y = {NORM}", f"float[4,6] w, float[4] c, {BN}", GEMM),
    net(f"h = Gemm<transA=1>(x, w, c) y = {NORM}", f"float[6,4] w, float[4] c, {BN}", "float[6,2] x"),
    net(f"h = Gemm<beta=0.0>(x, w, c) y = {NORM}", f"float[6,4] w, float[4] c, {BN}", GEMM),
    net(f"h = Gemm<beta=0.5>(x, w, c) y = {NORM}", f"float[6,4] w, float c, {BN}", GEMM),
    net(f"h = Gemm(x, w, c) y = {NORM}", f"float[6,4] w, float[2,4] c, {BN}", GEMM),
    net(f"h = Gemm(x, w, c) y = {NORM}", f"float[6,4] w, float[2,1] c, {BN}", GEMM),
    net(f"h = Gemm(x, w) y = {NORM}", f"float[6,4] w, {BN}", GEMM),
    net("h = Gemm<beta=0.5>(x, w, c) y = Add(h, d)", "float[6,4] w, float[4] c, float[2,4] d", GEMM),
    net("h = Gemm<alpha=2.0>(x, w, c) y = Gemm<alpha=0.5>(h, u)", "float[6,4] w, float[4] c, float[4,3] u", GEMM),
    net("h = Gemm(x, w, c) y = Mul(h, d)", "float[6,4] w, float[4] c, float[2,1] d", GEMM),
)
case(
    18,
    "BN before a padded conv keeps its border",
    net("h = BatchNormalization(x, s, b, m, var) y = Conv<pads=[1,1,1,1]>(h, w)", f"{W}, {BN}"),
    net('h = BatchNormalization(x, s, b, m, var) y = Conv<auto_pad="SAME_UPPER">(h, w)', f"{W}, {BN}"),
    net("h = Add(x, c) y = Conv<pads=[0,1,0,0]>(h, w)", f"{W}, float[4,1,1] c"),
    net("h = Conv(x, u, b) y = Conv<pads=[1,1,1,1]>(h, w)", f"{W}, float[4,4,1,1] u, float[4] b"),
    net("h = Conv<pads=[1,1,1,1]>(x, u, b) y = Conv(h, w)", f"{W}, float[4,4,1,1] u, float[4] b"),
)
case(
    19,
    "a quantized weight before BN",
    Graph(
        net(
            f"w = DequantizeLinear(q, sc, z) h = Conv(x, w) y = {NORM}",
            f"int8[4,4,3,3] q, float sc = {{0.02}}, int8 z = {{0}}, {BN}",
        ),
        goal="has DequantizeLinear",
    ),
    Graph(
        net(
            "w = DequantizeLinear<axis=0>(q, sc, z) h = Conv(x, w) y = Mul(h, c)",
            "int8[4,4,3,3] q, float[4] sc = {0.02,0.1,0.3,0.5}, int8[4] z = {0,0,0,0}, float[4,1,1] c",
        ),
        goal="has DequantizeLinear",
    ),
)
# Broadcasting
SQUARE = "float[1,4,6,6] x"
case(
    20,
    "a constant along W where W equals C",
    net("h = Conv(x, w) y = Mul(h, c)", f"{W}, float[4] c", SQUARE),
    net("h = Conv(x, w) y = Add(h, c)", f"{W}, float[4] c", SQUARE),
    net("h = Conv(x, w) y = Add(h, c)", f"{W}, float[1,4] c", SQUARE),
    net("h = Conv(x, w) y = Mul(h, c)", f"{W}, float[4,1] c", SQUARE),
    net("h = Mul(x, c) y = Conv(h, w)", f"{W}, float[4] c", "float[1,4,6,4] x"),
    net("h = ConvTranspose(x, w) y = Mul(h, c)", f"{W}, float[4] c", "float[1,4,2,2] x"),
    net("h = MatMul(x, w) y = Mul(h, c)", "float[6,4] w, float[4,1] c", "float[4,6] x"),
)
case(
    21,
    "a constant of higher rank",
    net("h = Conv(x, w) y = Mul(h, c)", f"{W}, float[1,1,4,1,1] c"),
    net("h = Conv(x, w) y = Add(h, c)", f"{W}, float[1,1,1,1,1] c"),
    net("h = Relu(x) y = Mul(h, c)", "float[1,1,1,1,1] c = {1.0}"),
    net("h = Gemm(x, w) y = Add(h, c)", "float[6,4] w, float[1,1,4] c", GEMM),
    net("h = Add(x, c) y = Conv(h, w)", f"{W}, float[1,4,1,1] c"),
    net("h = Mul(x, c) k = Mul(h, d) y = Relu(k)", "float[1,1,1] c, float[2,1,1,1,1] d"),
)
case(
    22,
    "a constant with batch or spatial extent",
    net("h = Conv(x, w) y = Mul(h, c)", f"{W}, float[3,4,1,1] c"),
    net("h = Conv(x, w) y = Add(h, c)", f"{W}, float[1,4,6,6] c"),
    net("h = Conv(x, w) y = Add(h, c)", f"{W}, float[4,1,6] c"),
    net("h = Gemm(x, w) y = Add(h, c)", "float[6,4] w, float[2,1] c", GEMM),
    net("h = Add(x, c) y = Conv(h, w)", f"{W}, float[2,4,1,1] c"),
)
case(
    23,
    "one channel times six",
    net("h = Conv(x, w) y = Mul(h, c)", "float[1,4,3,3] w, float[6,1,1] c"),
    net("h = Conv(x, w) y = Add(h, c)", "float[1,4,3,3] w, float[6,1,1] c"),
    net("h = Mul(x, c) y = Conv(h, w)", "float[2,6,3,3] w, float[6,1,1] c", "float[1,1,8,8] x"),
    net("h = ConvTranspose(x, w) y = Mul(h, c)", "float[4,1,3,3] w, float[6,1,1] c"),
    net("h = MatMul(x, w) y = Mul(h, c)", "float[6,1] w, float[5] c", GEMM),
    net("h = Gemm(x, w) y = Add(h, c)", "float[6,1] w, float[5] c", GEMM),
)
case(
    24,
    "neutral constants that broadcast or raise the rank",
    Graph(net("h = Add(x, c) y = Relu(h)", "float[3,1,1,1] c = {0.0,0.0,0.0}"), goal="has Add"),
    net("h = Mul(x, c) y = Relu(h)", "float[1,1,1,1,1] c = {1.0}"),
    net("h = Add(x, c) y = Relu(h)", "float[4] c = {0.0,0.0,0.0,0.0}", "float[N,1] x"),
    net("h = Pow(x, c) y = Relu(h)", "float[1,1,1] c = {1.0}", "float[5] x"),
    net("h = Mul(x, c) y = Relu(h)", "float[4] c = {1.0,1.0,1.0,1.0}", "float[N,M] x").replace("N,M", "N,4"),
    net("h = Div(x, c) y = Relu(h)", "float[0] c", "float[1] x"),
)
case(
    25,
    "0 - x, 1 / x, 1 ** x",
    Graph(net("y = Sub(c, x)", "float c = {0.0}"), goal="1 nodes"),
    net("y = Div(c, x)", "float c = {1.0}"),
    net("y = Pow(c, x)", "float c = {1.0}"),
    net("h = Sub(c, x) y = Sub(c, h)", "float c = {0.0}"),
    net("h = Div(c, x) y = Mul(h, d)", "float c = {2.0}, float d = {3.0}"),
    net("h = Sub(c, x) y = Add(h, d)", "float c = {2.0}, float d = {3.0}"),
    net("h = Conv(x, w) y = Div(c, h)", f"{W}, float[4,1,1] c"),
    net("h = Conv(x, w) y = Sub(c, h)", f"{W}, float[4,1,1] c"),
)
case(
    26,
    "scalar affine of shape [1,1,1,1] into the bias",
    net("h = Conv(x, w) y = Add(h, c)", f"{W}, float[1,1,1,1] c = {{2.0}}"),
    net("h = Conv(x, w, b) y = Add(h, c)", f"{W}, float[4] b, float[1,1,1,1] c = {{2.0}}"),
    net("h = Conv(x, w, b) k = Mul(h, c) y = Add(k, c)", f"{W}, float[4] b, float[1] c = {{2.0}}"),
)
case(
    27,
    "Mul before a grouped conv, before two readers",
    net("h = Mul(x, c) y = Conv<group=2>(h, w)", "float[6,2,3,3] w, float[4,1,1] c"),
    net("h = Mul(x, c) y = Conv<group=4>(h, w)", "float[4,1,3,3] w, float[4,1,1] c"),
    net("h = Mul(x, c) p = Conv(h, w) q = Conv(h, u) y = Add(p, q)", f"{W}, {U}, float[4,1,1] c"),
    net("h = Mul(x, c) p = Conv(h, w) y = Add(p, h)", "float[4,4,1,1] w, float[4,1,1] c"),
)
# Pad
PAD = "int64[8] p = {0,0,1,1,0,0,1,1}"
POOL = "y = MaxPool<kernel_shape=[3,3]>(h)"
AVERAGE = "y = AveragePool<kernel_shape=[3,3]>(h)"
case(
    28,
    "reflect, edge, wrap",
    *(
        Graph(net(f'h = Pad<mode="{mode}">(x, p) {reader}', f"{W}, {PAD}", opset=19), goal="has Pad")
        for mode in ("reflect", "edge", "wrap")
        for reader in ("y = Conv(h, w)", POOL, AVERAGE)
    ),
)
case(
    29,
    "pad value that is not zero, empty, or computed",
    Graph(net("h = Pad(x, p, c) y = Conv(h, w)", f"{W}, {PAD}, float c = {{1.0}}"), goal="has Pad"),
    Graph(net("h = Pad(x, p, ) y = Conv(h, w)", f"{W}, {PAD}"), goal="1 nodes"),
    net("h = Pad(x, p, c) y = Conv(h, w)", f"{W}, {PAD}", f"{X}, float c"),
    net("h = Pad(x, p, c) y = Pad(h, p)", f"{PAD}, float c = {{1.0}}"),
    net(f"h = Pad(x, p, c) {AVERAGE}", f"{PAD}, float c = {{1.0}}"),
    net("h = Pad<pads=[0,0,1,1,0,0,1,1], value=2.0>(x) y = Conv(h, w)", W, opset=10),
)
case(
    30,
    "negative and mixed pads",
    net("h = Pad(x, p) y = Conv(h, w)", f"{W}, int64[8] p = {{0,0,-1,1,0,0,1,-1}}"),
    net("h = Pad(x, p) y = Pad(h, q)", "int64[8] p = {0,0,-1,1,0,0,1,-1}, int64[8] q = {0,0,1,-1,0,0,-1,1}"),
    net("h = Pad(x, p) y = Conv<pads=[1,1,1,1]>(h, w)", f"{W}, int64[8] p = {{0,0,-1,-1,0,0,-1,-1}}"),
    net(f"h = Pad(x, p) {POOL}", "int64[8] p = {0,0,-1,1,0,0,1,-1}"),
)
case(
    31,
    "pads of batch or channels",
    Graph(net("h = Pad(x, p) y = Conv(h, w)", "float[4,6,3,3] w, int64[8] p = {0,1,1,1,0,1,1,1}"), goal="has Pad"),
    Graph(net("h = Pad(x, p) y = Conv(h, w)", f"{W}, int64[8] p = {{1,0,1,1,0,0,1,1}}"), goal="has Pad"),
    net("h = Pad(x, p, c) " + POOL, "int64[8] p = {0,1,1,1,0,0,1,1}, float c = {-inf}"),
)
case(
    32,
    "auto_pad",
    *(
        net(f'h = Pad(x, p) y = Conv<auto_pad="{how}", strides=[2,2]>(h, w)', f"{W}, {PAD}")
        for how in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    net('p = Conv<auto_pad="SAME_UPPER">(x, w) q = Conv<auto_pad="SAME_LOWER">(x, u) y = Add(p, q)', f"{W}, {U}"),
    net('p = Conv<auto_pad="SAME_UPPER">(x, w) q = Conv(x, u) y = Add(p, q)', f"{W}, float[4,4,1,1] u"),
    net(
        'p = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w) q = Conv<strides=[2,2]>(x, u) y = Add(p, q)',
        f"{W}, float[4,4,1,1] u",
    ),
)
case(
    33,
    "axes input: reordered, negative, partial",
    *(
        net(
            "h = Pad(x, p, z, a) y = Conv(h, w)",
            f"{W}, int64[{2 * n}] p = {{{pads}}}, float z = {{0.0}}, int64[{n}] a = {{{axes}}}",
            opset=18,
        )
        for n, pads, axes in (
            (2, "1,2,0,1", "3,2"),
            (2, "1,2,0,1", "-1,-2"),
            (1, "1,2", "3"),
            (3, "0,1,2,0,0,1", "0,2,3"),
        )
    ),
)
case(
    34,
    "Pad with two readers, as an output, of the weight",
    net("h = Pad(x, p) a = Conv(h, w) c = Conv(h, u) y = Add(a, c)", f"{W}, {U}, {PAD}"),
    net("h = Pad(x, p) r = Relu(h) a = Conv(h, w) c = ReduceMean(r) y = Add(a, c)", f"{W}, {PAD}"),
    net("h = Pad(x, p) y = Conv(h, w)", f"{W}, {PAD}", y="float[] h, float[] y"),
    net("k = Pad(w, p) y = Conv(x, k)", f"{W}, {PAD}"),
    net("h = Pad(x, p) y = Conv(x, h)", PAD, "float[4,4,8,8] x", opset=17)
    .replace("[4,4,8,8]", "[4,4,3,3]")
    .replace("Conv(x, h)", "Conv<pads=[3,3,3,3]>(x, h)"),
)
case(
    35,
    "zero Pad into MaxPool of negatives, its indices, pads as large as the kernel",
    Graph(net(f"h = Pad(x, p) {POOL}", PAD), tuple(NEGATIVE), "has Pad"),
    Graph(net(f"h = Pad(x, p, c) {POOL}", f"{PAD}, float c = {{-inf}}"), tuple(NEGATIVE)),
    Graph(
        net(
            "h = Pad(x, p, c) y, i = MaxPool<kernel_shape=[3,3]>(h)",
            f"{PAD}, float c = {{-inf}}",
            y="float[] y, int64[] i",
        ),
        tuple(NEGATIVE),
    ),
    Graph(net(f"h = Pad(x, q, c) {POOL}", "int64[8] q = {0,0,3,3,0,0,3,3}, float c = {-inf}"), tuple(NEGATIVE)),
    Graph(net(f"h = Pad(x, q) {AVERAGE}", "int64[8] q = {0,0,3,3,0,0,3,3}"), tuple(NEGATIVE)),
    Graph(net(f"r = Neg(x) k = Relu(r) h = Pad(k, p) {POOL}", PAD), tuple(NEGATIVE)),
)
case(
    36,
    "AveragePool: count_include_pad, ceil_mode",
    *(
        net(f"h = Pad(x, p) y = AveragePool<kernel_shape=[3,3], strides=[2,2], {more}>(h)", f"{PAD}", opset=19)
        for more in (
            "count_include_pad=1",
            "count_include_pad=0",
            "ceil_mode=1",
            "count_include_pad=1, ceil_mode=1",
            "count_include_pad=0, pads=[1,1,1,1]",
            "count_include_pad=1, pads=[1,1,1,1]",
        )
    ),
    net(
        "h = Conv(x, w) k = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(h) y = BatchNormalization(k, s, b, m, var)",
        f"{W}, {BN}",
    ),
    net(
        "h = Conv(x, w) k = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(h)"
        " y = BatchNormalization(k, s, b, m, var)",
        f"{W}, {BN}",
    ),
    net(
        "h = Conv(x, w) k = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(h)"
        " y = BatchNormalization(k, s, b, m, var)",
        f"{W}, {BN}",
    ),
)
case(
    37,
    "ConvInteger pads by its zero point",
    *(
        net(
            f"h = Pad(x, p, v) y = ConvInteger(h, w{rest})",
            f"uint8[2,4,3,3] w, {PAD}, uint8 v = {{{value}}}, uint8 z = {{5}}",
            "uint8[1,4,8,8] x",
            "int32[] y",
        )
        for value, rest in ((0, ""), (0, ", z"), (5, ", z"))
    ),
)
# Duplicates and folding
case(
    38,
    "Clip(x, c) and Clip(x, , c)",
    net("p = Clip(x, c) q = Clip(x, , c) y = Sub(p, q)", "float c = {0.25}"),
    net(
        'p = Resize<mode="nearest">(x, , c) q = Resize<mode="nearest">(x, , , d) y = Add(p, q)',
        "float[4] c = {1.0,1.0,2.0,2.0}, int64[4] d = {1,4,16,16}",
    ),
)
case(
    39,
    "random operators are neither merged nor folded",
    *(
        Graph(net(f"p = {op} q = {op} a = Cast<to=1>(p) c = Cast<to=1>(q) y = Sub(a, c)", more), goal=goal, runs=False)
        for op, more, goal in (
            ("RandomNormal<shape=[4]>()", "", "2 RandomNormal"),
            ("RandomUniformLike(x)", "", "2 RandomUniformLike"),
            ("Bernoulli(c1)", "float[4] c1 = {0.5,0.5,0.5,0.5}", "2 Bernoulli"),
            ("Multinomial<sample_size=3>(c1)", "float[1,4] c1 = {0.5,0.5,0.5,0.5}", "2 Multinomial"),
            ("Dropout(x, r, t)", "float r = {0.5}, bool t = {1}", "2 Dropout"),
        )
    ),
)
case(
    40,
    "two equal nodes that are both graph outputs",
    net("p = Exp(x) q = Exp(x)", y="float[] p, float[] q"),
    net("p = Exp(x) q = Exp(x) r = Neg(q)", y="float[] p, float[] r"),
    net("p = Exp(x) q = Exp(x) r = Neg(q)", y="float[] q, float[] r, float[] p"),
)
case(
    41,
    "equal nodes in two branches",
    net(
        "y = If(cond) <then_branch = a () => (float[] t) { p = Exp(x) t = Neg(p) },"
        " else_branch = o () => (float[] e) { p = Exp(x) e = Abs(p) }>",
        x=f"{X}, bool cond",
    ),
    net(
        "z = Exp(x) y = If(cond) <then_branch = a () => (float[] t) { p = Exp(x) t = Neg(p) },"
        " else_branch = o () => (float[] e) { p = Exp(x) e = Abs(p) }>",
        x=f"{X}, bool cond",
        y="float[] y, float[] z",
    ),
)
case(
    42,
    "equal bytes of another type or shape, equal values of another type, -0.0",
    net(
        "p = Reshape(x, a) q = Cast<to=1>(c) r = Sub(p, q) y = Mul(r, d)",
        "int64[2] a = {2, 128}, int64 c = {2}, float d = {2.0}",
    ),
    net(
        "p = Add(x, a) q = Div(x, c) r = Div(x, d) u = Add(q, r) y = Add(p, u)",
        "float a = {1.0}, float c = {0.0}, float d = {-0.0}",
    ),
    net(
        "p = Mul(x, a) q = Cast<to=10>(x) r = Mul(q, c) s = Cast<to=1>(r) y = Add(p, s)",
        "float a = {3.0}, float16[1] c",
    ),
    net(
        "p = Add(x, a) q = Add(x, c) y = Concat<axis=0>(p, q)",
        "float[4,1,1] a = {1.0,2.0,3.0,4.0}, float[1,4,1,1] c = {1.0,2.0,3.0,4.0}",
    ),
)


def with_sparse() -> onnx.ModelProto:
    model = models.filled(net("y = Add(x, c)", "float[4] c", "float[2,4] x"))
    dense = model.graph.initializer.pop()
    values = helper.make_tensor(dense.name, TensorProto.FLOAT, [2], [3.0, 5.0])
    places = helper.make_tensor("places", TensorProto.INT64, [2], [1, 3])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    return model


def constant_of(attribute: str, value: Any, body: str, opset: int = 17, y: str = "float[] y") -> Graph:
    """The Constant node ``c`` with this attribute, and a body that reads it."""

    def how(model: onnx.ModelProto) -> None:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], **{attribute: value}))

    return Graph(edited(net(body, opset=opset, y=y), how))


SPARSE = helper.make_sparse_tensor(
    helper.make_tensor("values", TensorProto.FLOAT, [2], [3.0, 5.0]),
    helper.make_tensor("places", TensorProto.INT64, [2], [1, 3]),
    [8],
)
INT4 = helper.make_tensor("int4", TensorProto.INT4, [8], [-8, -1, 0, 1, 2, 3, 5, 7])
BF16 = helper.make_tensor("bf16", TensorProto.BFLOAT16, [8], [1.0, 2.5, -3.0, 0.0, 1.0, 1.0, 1.0, 7.0])
case(
    43,
    "constants of all kinds",
    constant_of("value_float", 2.5, "d = Exp(c) y = Mul(x, d)"),
    constant_of("value_floats", [2.5] * 8, "d = Exp(c) y = Mul(x, d)"),
    constant_of("value_int", 3, "d = Cast<to=1>(c) y = Mul(x, d)"),
    constant_of("value_ints", [4, 64], "y = Reshape(x, c)"),
    constant_of("sparse_value", SPARSE, "d = Identity(x) y = Mul(d, c)"),
    constant_of("value_strings", [b"a", b"b"], "y = Relu(x) z = Identity(c)", y="float[] y, string[] z"),
    constant_of("value", BF16, "d = Cast<to=1>(c) y = Mul(x, d)"),
    constant_of("value", INT4, "d = Cast<to=1>(c) y = Mul(x, d)", 21),
    Graph(with_sparse),
)
case(
    44,
    "integer division, remainder and rounding",
    net("h = Div(x, c) y = Mul(h, c)", "int64 c = {3}", "int64[5] x", "int64[] y"),
    net("h = Mul(x, c) y = Div(h, d)", "int64 c = {3}, int64 d = {2}", "int64[5] x", "int64[] y"),
    net("h = Div(x, c) y = Div(h, d)", "int32 c = {3}, int32 d = {2}", "int32[5] x", "int32[] y"),
    net("h = Mod(x, c) y = Mul(h, d)", "int64 c = {3}, int64 d = {2}", "int64[5] x", "int64[] y"),
    net(
        "a = Div(p, q) b = Mod(p, q) c = Mod<fmod=1>(p, q) d = Add(a, b) e = Add(d, c) y = Add(x, e)",
        "int64[4] p = {-7,7,-7,7}, int64[4] q = {2,-2,-2,2}",
        "int64[4] x",
        "int64[] y",
    ),
    net("a = Round(p) y = Add(x, a)", "float[4] p = {0.5,1.5,-0.5,2.5}", "float[4] x"),
    net("h = Add(x, c) y = Sub(h, c)", "uint8 c = {200}", "uint8[5] x", "uint8[] y"),
)
case(
    45,
    "folding stays within the size budget",
    net("e = Expand(c, t) y = Add(x, e)", "float[1] c = {2.0}, int64[2] t = {1000, 1000}", "float[1,1000] x"),
    net("e = Tile(c, t) y = Add(x, e)", "float[2] c = {2.0, 3.0}, int64[1] t = {500000}", "float[1] x"),
    net("e = ConstantOfShape(t) y = Add(x, e)", "int64[2] t = {1000, 1000}", "float[1] x"),
    net(
        "r = Range(a, b, c) e = Cast<to=1>(r) y = Add(x, e)",
        "int64 a = {0}, int64 b = {1000000}, int64 c = {1}",
        "float[1] x",
    ),
)
case(
    46,
    "a constant is the graph output",
    net("y = Relu(x)", "float[2] c", y="float[] y, float[2] c"),
    net("y = Relu(x) c = Constant<value = float[2] {1.0, 2.0}>()", y="float[] y, float[2] c"),
    net("y = Relu(x) c = Add(d, d)", "float[2] d", y="float[] y, float[2] c"),
    net("y = Relu(x) c = Shape(x)", y="float[] y, int64[4] c"),
    net("y = Relu(x) c = Identity(d)", "float[2] d", y="float[] y, float[2] c, float[2] d"),
)
# Shapes
case(
    47,
    "Reshape: 0, allowzero, empty batch, two unknowns, permuted open dims",
    net("h = Reshape(x, a) y = Reshape(h, c)", "int64[2] a = {4, 64}, int64[2] c = {0, -1}"),
    net("h = Reshape(x, a) y = Reshape(h, c)", "int64[3] a = {0, 4, -1}, int64[2] c = {0, -1}", "float[N,4,8,8] x"),
    net("h = Reshape(x, a) y = Reshape(h, c)", "int64[2] a = {-1, 8}, int64[3] c = {0, 2, 4}", "float[N,4,8] x"),
    Graph(
        net(
            "h = Reshape(x, a) y = Reshape<allowzero=1>(h, c)",
            "int64[2] a = {-1, 8}, int64[2] c = {0, 5}",
            "float[N,8] x",
        ),
        ({"x": np.zeros((0, 8), np.float32)},),
        sizes=(),
    ),
    Graph(
        net("h = Reshape(x, a) y = Reshape(h, c)", "int64[3] a = {0, 2, 4}, int64[2] c = {0, 8}", "float[N,8] x"),
        ({"x": np.zeros((0, 8), np.float32)},),
    ),
    net(
        "h = Transpose<perm=[1,0,2]>(x) f = Shape(h) d = Slice(f, z, t) u = Concat<axis=0>(d, r) y = Reshape(x, u)",
        "int64[1] z = {0}, int64[1] t = {2}, int64[1] r = {-1}",
        "float[N,M,4] x",
    ),
    net("f = Shape(z) y = Reshape(x, f)", "", "float[N,M] x, float[M,N] z"),
    net("h = Reshape(x, a) y = Relu(h)", "int64[3] a = {0, 0, 0}", "float[N,M,4] x"),
)
case(
    48,
    "Squeeze without axes, order of Unsqueeze",
    net("h = Squeeze(x) y = Unsqueeze(h, a)", "int64[1] a = {0}", "float[1,4,1,3] x"),
    net("h = Unsqueeze(x, a) k = Squeeze(h) y = Relu(k)", "int64[2] a = {0, 2}", "float[1,3] x"),
    net("h = Squeeze(x) y = Relu(h)", "", "float[N,3] x"),
    net("h = Unsqueeze(x, a) y = Unsqueeze(h, c)", "int64[2] a = {0, 3}, int64[2] c = {1, 2}", "float[2,3] x"),
    net("h = Unsqueeze(x, a) y = Unsqueeze(h, c)", "int64[1] a = {1}, int64[1] c = {1}", "float[2,3] x"),
    net("h = Unsqueeze(x, a) y = Squeeze(h, c)", "int64[2] a = {0, 1}, int64[1] c = {1}", "float[2,3] x"),
    net("h = Unsqueeze<axes=[3, 0]>(x) y = Squeeze<axes=[0]>(h)", "", "float[2,3] x", opset=11),
    net("h = Unsqueeze(x, a) y = Unsqueeze(h, c)", "int64[1] a = {-1}, int64[1] c = {-2}", "float[2,3] x"),
)
FIVE = "float[1,5,8,8] x"
SLICE = "int64[1] a = {%s}, int64[1] b = {%s}, int64[1] c = {%s}, int64[1] d = {%s}"
BIG = 9223372036854775807
case(
    49,
    "Slice: negative step, INT_MAX, negative axis",
    *(
        net("h = Slice(x, a, b, c, d) y = Slice(h, e, f, c)", SLICE % args + ", int64[1] e = {1}, int64[1] f = {3}")
        for args in ((-1, -BIG, -1, -1), (7, 0, -1, -2), (6, -BIG, 2, -1), (0, BIG, -1, 1), (0, -1, 3, 2))
    ),
    net("h = Slice(x, a, b, c, d) y = Relu(h)", SLICE % (-1, -BIG, 3, -1)),
    net("h = Slice(x, a, b, c, d) y = Relu(h)", SLICE % (0, BIG, 3, 1)),
    net("h = Slice(x, a, b, c, d) y = Relu(h)", SLICE % (-100, 100, -1, 1)),
    net("h = Slice(x, a, b, c, d) y = Relu(h)", SLICE % (5, 2, 2, 1)),
    net("h = Slice(x, a, b, c, d) k = Slice(h, a, b, c, d) y = Relu(k)", SLICE % (-1, -BIG, 3, -1)),
    net(
        "h = Slice(x, a, b, c) k = Slice(x, e, f, c) y = Concat<axis=1>(h, k)",
        "int64[1] a = {0}, int64[1] b = {2}, int64[1] c = {1}, int64[1] e = {1}, int64[1] f = {4}",
    ),
    net(
        "h = Slice(x, a, b, c) y = Slice(h, a, b, c)",
        "int64[1] a = {-2}, int64[1] b = {100}, int64[1] c = {0}",
        "float[N,4] x",
    ),
)
case(
    50,
    "Concat: mixed signs of axes, empty tensors; uneven Split",
    net("h = Concat<axis=-3>(x, x) y = Concat<axis=1>(h, x)"),
    net("h = Concat<axis=1>(x, x) y = Concat<axis=-1>(h, h)"),
    net("h = Concat<axis=1>(x, c) y = Relu(h)", "float[1,0,8,8] c"),
    net("h = Concat<axis=0>(x, c) y = Relu(h)", "float[0] c", "float[3] x"),
    net("p, q, r = Split<axis=1, num_outputs=3>(x) y = Concat<axis=1>(q, p, r)", x=FIVE, opset=18),
    net("p, q, r = Split<axis=1, num_outputs=3>(x) h = Concat<axis=1>(p, q, r) y = Relu(h)", x=FIVE, opset=18),
    net("p, q = Split<axis=1, split=[1,3]>(x) h = Concat<axis=1>(p, q) y = Relu(h)", opset=11),
    net(
        "p, q = Split<axis=1>(x, t) h = Concat<axis=2>(p, p) k = Neg(q) y = Relu(h)",
        "int64[2] t = {1, 3}",
        y="float[] y, float[] k",
    ),
    net("p, q = Split<axis=1>(x, t) h = Concat<axis=1>(p) y = Relu(h)", "int64[2] t = {0, 4}"),
)
case(
    51,
    "Transpose without perm, shared inner Transpose",
    net("h = Transpose(x) y = Transpose(h)"),
    net("h = Transpose(x) k = Transpose<perm=[1,0,2,3]>(h) y = Relu(k)"),
    net(
        "h = Transpose<perm=[0,2,3,1]>(x) k = Transpose<perm=[0,3,1,2]>(h) r = Relu(h)",
        y="float[] k, float[] r",
    ),
    net("h = Transpose<perm=[0,2,3,1]>(x) k = Transpose<perm=[0,3,1,2]>(h) y = Add(k, x)"),
    net("h = Transpose<perm=[1,0]>(w) p = MatMul(x, h) y = Mul(p, h)", "float[4,4] w", "float[4,4] x"),
)
case(
    52,
    "Shape with start and end, dims of -1 and 0",
    net("f = Shape<start=1>(x) y = Add(z, f)", "", f"{X}, int64[3] z", "int64[] y"),
    net("f = Shape<start=-2, end=-1>(x) y = Add(z, f)", "", f"{X}, int64[1] z", "int64[] y"),
    net("f = Shape<start=-9, end=9>(x) y = Add(z, f)", "", f"{X}, int64[4] z", "int64[] y"),
    net("f = Shape<start=3, end=1>(x) y = Concat<axis=0>(z, f)", "", f"{X}, int64[4] z", "int64[] y"),
    net("f = Shape<start=0, end=1>(x) y = Add(z, f)", "", "float[N,4] x, int64[1] z", "int64[] y"),
    Graph(
        edited(
            net("f = Shape(x) y = Reshape(z, f)", "", "float[N,4] x, float[4,M] z"),
            negative_sizes,
        ),
        ({"x": np.ones((3, 4), np.float32), "z": np.ones((4, 3), np.float32)},),
        sizes=(),
    ),
    net("f = Shape(x) s = Size(x) y = Add(f, s)", "", "float[0,4] x", "int64[] y"),
)
case(
    53,
    "Flatten of axis 0 and -1, two of one input",
    net("h = Flatten<axis=0>(x) y = Relu(h)"),
    net("h = Flatten<axis=-1>(x) y = Relu(h)"),
    net("h = Flatten<axis=4>(x) y = Relu(h)"),
    net("p = Flatten<axis=1>(x) q = Flatten<axis=2>(x) r = Relu(p) s = Relu(q)", y="float[] r, float[] s"),
    net("p = Flatten<axis=1>(x) q = Flatten<axis=-3>(x) y = Add(p, q)"),
    net("h = Flatten<axis=2>(x) y = Flatten<axis=1>(h)", "", "float[N,4,M] x"),
    net("h = Flatten(x) y = Relu(h)", "", "float[5] x"),
)
# Activations and normalizations
BOUNDS = "float a = {%s}, float b = {%s}, float c = {%s}, float d = {%s}"
case(
    54,
    "Clip and Relu whose ranges do not meet, min above max, computed bounds",
    *(
        net("h = Clip(x, a, b) y = Clip(h, c, d)", BOUNDS % args)
        for args in ((0.0, 1.0, 2.0, 3.0), (2.0, 3.0, 0.0, 1.0), (1.0, 0.0, 0.0, 5.0), (0.0, 5.0, 1.0, 0.0))
    ),
    net("h = Clip(x, a, b) y = Relu(h)", BOUNDS % (-3.0, -1.0, 0.0, 0.0)),
    net("h = Relu(x) y = Clip(h, a, b)", BOUNDS % (-3.0, -1.0, 0.0, 0.0)),
    net("h = Relu(x) y = Clip(h, a, b)", BOUNDS % (1.0, 2.0, 0.0, 0.0)),
    net("h = Min(x, a) y = Max(h, b)", BOUNDS % (1.0, 3.0, 0.0, 0.0)),
    net("h = Max(x, b) y = Min(h, a)", BOUNDS % (1.0, 3.0, 0.0, 0.0)),
    net("h = Relu(x) y = Clip(h, , b)", "", f"{X}, float b"),
    net("h = Clip(x, , b) y = Relu(h)", "", f"{X}, float b"),
    net("h = Clip(x, a) y = Clip(h, , b)", "float a = {0.0}", f"{X}, float b"),
    Graph(
        net("h = Relu(x) y = Clip(h, a, b)", BOUNDS % (0.0, 6.0, 0.0, 0.0)),
        ({"x": np.full((1, 4, 8, 8), np.nan, np.float32)},),
    ),
    Graph(
        net("h = Min(x, b) y = Max(h, a)", BOUNDS % (0.0, 6.0, 0.0, 0.0)),
        ({"x": np.full((1, 4, 8, 8), np.nan, np.float32)},),
    ),
)
HARD = "float t = {3.0}, float z = {0.0}, float s = {%s}, float o = {6.0}"
case(
    55,
    "almost HardSwish, almost SiLU",
    net("a = Add(x, t) c = Clip(a, z, s) d = Mul(x, c) y = Div(d, o)", HARD % 5.0),
    net("a = Add(x, t) c = Clip(a, z, s) d = Mul(v, c) y = Div(d, o)", HARD % 6.0, f"{X}, float[1,4,8,8] v"),
    net("a = Add(x, t) c = Clip(a, z, s) d = Mul(x, c) y = Div(d, t)", HARD % 6.0),
    net("a = Add(x, t) c = Clip(a, z, s) y = Div(c, o)", HARD % 5.0),
    net("a = Sigmoid(v) y = Mul(x, a)", "", f"{X}, float[1,4,8,8] v", opset=24),
    net("a = HardSigmoid<alpha=0.2>(x) y = Mul(x, a)"),
    net("a = Softplus(v) b = Tanh(a) y = Mul(x, b)", "", f"{X}, float[1,4,8,8] v", opset=18),
)
GELU = "float r = {%s}, float one = {%s}, float half = {%s}"
GELU_BODY = "a = Div(x, r) e = Erf(a) p = Add(e, one) q = Mul(x, p) y = Mul(q, half)"
case(
    56,
    "almost GELU",
    *(
        Graph(net(GELU_BODY, GELU % args, opset=20), goal="no Gelu")
        for args in ((1.5, 1.0, 0.5), (1.4142135, 1.1, 0.5), (1.4142135, 1.0, 0.6))
    ),
    net(GELU_BODY, GELU % (1.4142135, 1.0, 0.5), opset=20, y="float[] y, float[] p"),
    net(
        "a = Div(v, r) e = Erf(a) p = Add(e, one) q = Mul(x, p) y = Mul(q, half)",
        GELU % (1.4142135, 1.0, 0.5),
        f"{X}, float[1,4,8,8] v",
        opset=20,
    ),
)


def layer_norm(
    power: float = 2.0, axes: str = "-1", axes2: str = "", keep: int = 1, g: str = "float[6] g", outside: bool = False
) -> str:
    root = "r0 = Sqrt(v) r = Add(r0, eps)" if outside else "e = Add(v, eps) r = Sqrt(e)"
    return net(
        f"mu = ReduceMean<axes=[{axes}], keepdims={keep}>(x) d = Sub(x, mu) q = Pow(d, power)"
        f" v = ReduceMean<axes=[{axes2 or axes}], keepdims={keep}>(q) {root} n = Div(d, r) k = Mul(n, g)"
        " y = Add(k, bias)",
        f"{g}, float[6] bias, float eps = {{0.001}}, float power = {{{power}}}",
        "float[6,6,6] x",
    )


case(
    57,
    "almost LayerNorm",
    Graph(layer_norm(4.0), goal="no LayerNormalization"),
    layer_norm(outside=True),
    layer_norm(axes="-2,-1"),
    layer_norm(axes="1,2"),
    Graph(layer_norm(axes="-1", axes2="-2"), goal="no LayerNormalization"),
    Graph(layer_norm(axes="0"), goal="no LayerNormalization"),
    Graph(layer_norm(keep=0), goal="no LayerNormalization"),
    layer_norm(g="float[6,1] g"),
    layer_norm(g="float[2,1,1,1] g"),
    layer_norm(g="float[1] g"),
    layer_norm(g="float g"),
)
RMS = "float eps = {0.00001}, float two = {2.0}, int64[1] ax = {%s}, float[%s] g"
case(
    58,
    "RMS over axis 1, a row of zeros in L2",
    net(
        "q = Pow(x, two) v = ReduceMean(q, ax) e = Add(v, eps) r = Sqrt(e) n = Div(x, r) y = Mul(n, g)",
        RMS % (1, 6),
        "float[2,6,6] x",
        opset=23,
    ),
    *(
        Graph(net(f"n = {op} y = Div(x, n)", x="float[2,6] x"), ({"x": np.zeros((2, 6), np.float32)},))
        for op in ("ReduceL2<axes=[1]>(x)", "ReduceL2<axes=[-1]>(x)", "ReduceL1<axes=[1]>(x)", "ReduceSum(x)")
    ),
    Graph(
        net("n = ReduceL2<axes=[1]>(x) k = Max(n, e) y = Div(x, k)", "float e = {0.000001}", "float[2,6] x"),
        ({"x": np.zeros((2, 6), np.float32)},),
    ),
)
case(
    59,
    "Softmax before opset 13 is two-dimensional",
    *(
        net(f"p = {op}<axis={axis}>(x) y = Mul(p, c)", "float c = {3.0}", opset=opset)
        for op in ("Softmax", "LogSoftmax", "Hardmax")
        for axis in (1, 3)
        for opset in (11, 13)
    ),
    net("h = Transpose<perm=[0,2,3,1]>(x) p = Softmax(h) y = Transpose<perm=[0,3,1,2]>(p)", opset=11),
    net("h = Transpose<perm=[0,2,3,1]>(x) p = Softmax<axis=3>(h) y = Transpose<perm=[0,3,1,2]>(p)", opset=11),
)
# MatMul
case(
    60,
    "MatMul and Add that are no Gemm",
    *(
        net("h = MatMul(x, w) y = Add(h, c)", f"{w} w, {c} c", f"{x} x", f"{x.split('[')[0]}[] y")
        for x, w, c in (
            ("float[2,6]", "float[6,4]", "float[3,1,4]"),
            ("float[1,6]", "float[6,4]", "float[5,4]"),
            ("float[2,6]", "float[6,1]", "float[4]"),
            ("float[N,6]", "float[6,4]", "float[1,4]"),
            ("int32[2,6]", "int32[6,4]", "int32[4]"),
            ("float[6]", "float[6,4]", "float[4]"),
            ("float[3,2,6]", "float[6,4]", "float[4]"),
            ("float[2,6]", "float[6]", "float[2]"),
            ("float[2,6]", "float[3,6,4]", "float[4]"),
            ("double[2,6]", "double[6,4]", "double[4]"),
        )
    ),
    Graph(net("h = MatMul(x, w) y = Add(h, c)", "float[6,4] w, float[3,4] c", "float[N,6] x")),
    net("h = MatMul(x, w) y = Add(h, z)", "float[6,4] w", "float[2,6] x, float[2,4] z"),
    Graph(net("h = MatMul(x, w) y = Add(h, z)", "float[6,4] w", "float[N,6] x, float[N,4] z")),
)
# Casts and quantized models
LARGE = np.array([3.7, -3.7, 1e9, 70000.0, 1e-8], np.float32)
case(
    61,
    "casts that lose",
    Graph(net("h = Cast<to=7>(x) y = Cast<to=1>(h)", x="float[5] x"), ({"x": LARGE},)),
    Graph(net("h = Cast<to=10>(x) y = Cast<to=1>(h)", x="float[5] x"), ({"x": LARGE},)),
    Graph(
        net("h = Cast<to=6>(x) y = Cast<to=7>(h)", x="int64[3] x", y="int64[] y"),
        ({"x": np.array([2**33 + 1, -(2**33), 5])},),
    ),
    Graph(net("h = Cast<to=9>(x) y = Cast<to=1>(h)", x="float[5] x"), ({"x": LARGE},)),
    Graph(
        net("h = Cast<to=2>(x) y = Cast<to=6>(h)", x="int32[3] x", y="int32[] y"),
        ({"x": np.array([255, 256, -1], np.int32)},),
    ),
    Graph(
        net("h = Cast<to=1>(x) y = Cast<to=6>(h)", x="int32[3] x", y="int32[] y"),
        ({"x": np.array([2**24 + 1, 3, -7], np.int32)},),
    ),
    Graph(net("h = Cast<to=11>(x) y = Cast<to=10>(h)", x="float[5] x", y="float16[] y"), ({"x": LARGE},)),
    Graph(net("h = Cast<to=10>(x) y = Cast<to=11>(h)", x="float[5] x", y="double[] y"), ({"x": LARGE},)),
    Graph(net("h = Cast<to=9>(x) y = Cast<to=7>(h)", x="int64[3] x", y="int64[] y"), ({"x": np.array([2**33, 0, 5])},)),
)
SCALES = "float s = {%s}, uint8 z = {%s}, float t = {%s}, uint8 u = {%s}"
STEPS = np.arange(256, dtype=np.uint8)
case(
    62,
    "DQ then Q of another scale",
    *(
        Graph(
            net(
                "r = Identity(x) h = DequantizeLinear(r, s, z) y = QuantizeLinear(h, t, u)",
                SCALES % args,
                "uint8[256] x",
                "uint8[] y",
            ),
            ({"x": STEPS},),
            goal,
        )
        for args, goal in (
            ((0.1, 3, 0.2, 3), "has QuantizeLinear"),
            ((0.1, 3, 0.1, 4), "has QuantizeLinear"),
            ((0.1, 3, 0.1, 3), ""),
        )
    ),
    Graph(
        net(
            "q = QuantizeLinear(x, s, z) h = DequantizeLinear(q, s, z) y = Relu(h)",
            SCALES % (0.1, 3, 1, 1),
            "float[256] x",
        ),
        ({"x": (STEPS * np.float32(0.031) - 3).astype(np.float32)},),
        "has QuantizeLinear",
    ),
)
QDQ = (
    "a = QuantizeLinear(x, sc, z) i = DequantizeLinear(a, sc, z) c = QuantizeLinear(w, t, u)"
    " d = DequantizeLinear(c, t, u)"
    " e = Conv(i, d) f = QuantizeLinear(e, sc, z) h = DequantizeLinear(f, sc, z)"
)
case(
    63,
    "Q and DQ around a conv stay",
    Graph(
        net(f"{QDQ} y = {NORM}", f"{W}, {BN}, float sc = {{0.05}}, int8 z = {{3}}, float t = {{0.03}}, int8 u = {{0}}"),
        goal="3 DequantizeLinear",
    ),
    Graph(
        net(
            f"{QDQ} y = Mul(h, k)",
            f"{W}, float[4,1,1] k, float sc = {{0.05}}, int8 z = {{3}}, float t = {{0.03}}, int8 u = {{0}}",
        ),
        goal="3 DequantizeLinear",
    ),
)
# Control flow
TWO = "<then_branch = a () => (float[] t) { p = Exp(x) t = Neg(p) }, "
TWO += "else_branch = o () => (float[] e) { p = Abs(x) e = Relu(p) }>"
case(
    64,
    "two Ifs whose branches use the same names",
    net(f"u = If(cond) {TWO} v = If(other) {TWO} y = Add(u, v)", x=f"{X}, bool cond, bool other"),
    net(
        f"n = Not(cond) u = If(cond) {TWO} v = If(n) {TWO} w = If(yes) {TWO} k = Add(u, v) y = Add(k, w)",
        "bool yes = {1}",
        f"{X}, bool cond",
    ),
)
case(
    65,
    "a branch's initializer of the same name",
    net(
        "y = If(cond) <then_branch = a () => (float[] t) <float c = {2.0}> { t = Mul(x, c) },"
        " else_branch = o () => (float[] e) <float c = {3.0}> { e = Mul(x, c) }>",
        x=f"{X}, bool cond",
    ),
    net(
        "y = If(cond) <then_branch = a () => (float[] t) <float c = {2.0}> { d = Add(c, c) t = Mul(x, d) },"
        " else_branch = o () => (float[] e) <float c = {3.0}> { d = Add(c, c) e = Mul(x, d) }>",
        x=f"{X}, bool cond",
    ),
)
INNER = "<then_branch = i () => (float[] u) { u = Neg(p) }, else_branch = j () => (float[] v) { v = Abs(p) }>"
case(
    66,
    "a nested If that captures a value of the branch",
    if_net("", "", f"p = Exp(x) t = If(other) {INNER}", x=f"{X}, bool cond, bool other"),
    if_net("", "bool yes = {1}", f"p = Exp(x) t = If(yes) {INNER}"),
    if_net("", BN, f"h = Exp(x) p = {NORM} t = If(other) {INNER}", x=f"{X}, bool cond, bool other"),
)
case(
    67,
    "a branch that returns an outer value, Identity to an output, two outputs of one value",
    if_net("h = Exp(x)", "", "t = Identity(h)"),
    if_net("h = Exp(x)", "", "k = Identity(h) t = Identity(k)", y="float[1,4,8,8] h, float[] y"),
    if_net("h = Exp(x)", "bool yes = {1}", "t = Identity(h)").replace("If(cond)", "If(yes)"),
    net("h = Exp(x) y = Identity(h) z = Identity(h)", y="float[] y, float[] z"),
    net("y = Identity(x)"),
    net("h = Exp(x) y = Identity(h)", y="float[] h, float[] y"),
    net("y = Identity(x) z = Relu(y)", y="float[] y, float[] z"),
)
case(
    68,
    "a body captures a folded constant",
    net(
        "d = Add(c, c) y = Loop(n, , x) <body = l (int64 i, bool k, float[1,4,8,8] v) => (bool q, float[1,4,8,8] o)"
        " { q = Identity(k) o = Mul(v, d) }>",
        "float c = {0.75}, int64 n = {3}",
    ),
    net(
        "d = Add(c, c) y = Loop(n, , x) <body = l (int64 i, bool k, float[1,4,8,8] v) => (bool q, float[1,4,8,8] o)"
        " { q = Identity(k) o = Mul(v, d) }>",
        "float c = {0.75}",
        f"{X}, int64 n",
    ),
    net(
        "d = Add(c, c) f, y = Scan<num_scan_inputs=1, body = l (float[4] s, float[4] v)"
        " => (float[4] r, float[4] o) { r = Add(s, v) o = Mul(r, d) }>(c, x)",
        "float[4] c",
        "float[5,4] x",
        "float[] y, float[] f",
    ),
)
# The model as a whole
case(
    69,
    "an unused graph input stays",
    net("y = Relu(x)", "", f"{X}, float[3] unused"),
    net("h = Mul(unused, z) y = Add(x, k)", "float z = {0.0}, float k = {1.0}", f"{X}, float[3] unused"),
)


def decorated(model: onnx.ModelProto) -> None:
    model.doc_string, model.producer_name, model.model_version = "a model", "someone", 7
    helper.set_model_props(model, {"key": "value"})
    model.graph.doc_string = "a graph"
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "namespace", "block1"
    note = model.graph.quantization_annotation.add()
    note.tensor_name = "y"
    part = note.quant_parameter_tensor_names.add()
    part.key, part.value = "SCALE_TENSOR", "s"


DECORATED = edited(
    net(f"h = Conv(x, w) y = {NORM}", f"{W}, {BN}", "float[batch,4,8,8] x", "float[batch,4,6,6] y"), decorated
)
case(70, "metadata, doc strings, quantization annotations and names of dims stay", Graph(DECORATED))
case(
    71,
    "custom operators of another and of the default domain",
    Graph(
        '<ir_version: 8, opset_import: ["" : 17, "vendor" : 1]>\n'
        f"g ({X}) => (float[] y) <{W}, {BN}, float[1,4,6,6] u> {{ h = Conv(x, w) k = {NORM} v = vendor.Relu(k)"
        " u = vendor.Relu(v) i = Identity(u) y = vendor.Identity(i) }",
        goal="no BatchNormalization; 4 nodes",
        runs=False,
    ),
    Graph(
        net(f"h = Conv(x, w) k = {NORM} y = Frobnicate(k)", f"{W}, {BN}"), goal="has Frobnicate; 2 nodes", runs=False
    ),
)
case(
    72,
    "local functions, with attributes and BN",
    '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'
    f"g ({X}) => (float[] y) <{W}, {BN}> {{ h = Conv(x, w) k = local.norm(h, s, b, m, var)"
    " y = local.leak<slope=0.3>(k) }\n"
    '<domain: "local", opset_import: ["" : 17]> norm (p, a, c, d, e) => (q) { q = BatchNormalization(p, a, c, d, e) }\n'
    '<domain: "local", opset_import: ["" : 17]> leak <slope> (p) => (q) { q = LeakyRelu<alpha: float = @slope>(p) }',
)


def old(model: onnx.ModelProto) -> None:
    """IR version 3: initializers must be inputs too."""
    model.ir_version = 3
    for tensor in model.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(info)


case(73, "IR version 3", Graph(edited(net(f"h = Conv(x, w) y = {NORM}", f"{W}, {BN}", opset=8), old)))
SORTED = net(f"h = Conv(x, w) k = {NORM} y = Relu(k)", f"{W}, {BN}")


def unsorted(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])


case(74, "unsorted nodes", Graph(edited(SORTED, unsorted), goal="2 nodes", reference=SORTED))
case(75, "the caller's model is not changed", SORTED)

GRAPHS = [(name, k) for name, found in CASES.items() for k in range(len(found))]


@pytest.mark.parametrize(("name", "number"), GRAPHS, ids=[f"{name} ({k + 1})" for name, k in GRAPHS])
def test_edge_case(name: str, number: int) -> None:
    graph = CASES[name][number]
    given = graph.build()
    start = given.SerializeToString()
    done = pipeline.simplified(given)
    assert given.SerializeToString() == start
    result = saving.to_proto(done.model)
    trusted = [p for p in pipeline.problems(given, done) if "could not be compared" not in p]
    assert trusted == []
    assert pipeline.missed(result, graph.goal) == []
    if graph.runs:
        reference = models.filled(graph.reference) if graph.reference else given
        feeds = [*pipeline.feeds(given, graph.sizes), *graph.feeds]
        if any(i.name == "cond" for i in given.graph.input):
            feeds = [f | {"cond": np.array(c)} for f in feeds for c in (True, False)]
        assert pipeline.differences(reference, result, feeds) == []


def test_all_cases_are_there() -> None:
    assert [name[5:7] for name in CASES] == [f"{k:02}" for k in range(1, 76)]


def test_what_surrounds_the_graph_is_kept() -> None:
    given = DECORATED()
    result = saving.to_proto(pipeline.simplified(given).model)
    assert (result.doc_string, result.producer_name, result.model_version) == ("a model", "someone", 7)
    assert ("key", "value") in {(p.key, p.value) for p in result.metadata_props}
    assert result.graph.doc_string == "a graph"
    assert ("namespace", "block1") in {(p.key, p.value) for p in result.graph.node[0].metadata_props}
    assert result.graph.quantization_annotation[0].tensor_name == "y"
    assert result.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("number", range(len(CASES["edge 45: folding stays within the size budget"])))
def test_files_do_not_grow(number: int) -> None:
    given = CASES["edge 45: folding stays within the size budget"][number].build()
    result = saving.to_proto(pipeline.simplified(given).model)
    assert result.ByteSize() <= 1.01 * given.ByteSize() + 4096


def test_constants_keep_their_type() -> None:
    given = CASES["edge 43: constants of all kinds"][7].build()
    stored = [
        *given.graph.initializer,
        *(a.t for n in given.graph.node for a in n.attribute if n.op_type == "Constant"),
    ]
    assert [t.data_type for t in stored] == [TensorProto.INT4]
    assert numpy_helper.to_array(stored[0]).astype(int).tolist() == [-8, -1, 0, 1, 2, 3, 5, 7]
