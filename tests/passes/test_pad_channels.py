from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import saving, shapes
from edgeopt.graph import Array, attribute, constant
from edgeopt.oracle import Oracle
from edgeopt.passes import channel_groups, pad_channels
from edgeopt.passes.channel_groups import widened
from edgeopt.passes.pad_channels import Place, apply, places
from tests.models import assert_same, loaded

IN = "g (float[2,3,6,6] x) => (float[A,B,C,D] y)"
V18, V9 = (f'<ir_version: 8, opset_import: ["" : {v}]> ' for v in (18, 9))
OUT = "[out] y = Conv(z, wz)"  # the weights wz take what the net has made
BN = "float[5] gamma, float[5] beta, float[5] mean, float[5] var"

# Text, and per place (block 4): its name and channels. Channels are 5 and 6, so that a swap shows.
PADS: dict[str, tuple[str, dict[str, int]]] = {
    "1 Conv to Conv": (
        f"{IN} <float[5,3,3,3] w, float[5] b, float[2,5,1,1] wz> {{ [a] z = Conv(x, w, b) {OUT} }}",
        {"a": 5},
    ),
    "1 several Convs, no bias, strides, dilations": (
        f"{IN} <float[5,3,1,1] w, float[6,5,3,3] v, float[2,6,2,2] wz> "
        f"{{ [a] s = Conv(x, w) [b] z = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(s, v) {OUT} }}",
        {"a": 5, "b": 6},
    ),
    "1 several readers": (
        f"{IN} <float[5,3,1,1] w, float[7,5,1,1] v, float[2,5,1,1] u, float[2,7,1,1] wz> "
        f"{{ [a] s = Conv(x, w) [b] z = Conv(s, v) [c] r = Conv(s, u) [out] q = Conv(z, wz) y = Add(q, r) }}",
        {"a": 5, "b": 7},
    ),
    "1 symbolic sizes": (
        "g (float[N,3,H,W] x) => (float[N,2,H,W] y) <float[5,3,3,3] w, float[2,5,1,1] wz> "
        f"{{ [a] z = Conv<pads = [1, 1, 1, 1]>(x, w) {OUT} }}",
        {"a": 5},
    ),
    "1 weights of Constant nodes": (
        f"{IN} <float[2,5,1,1] wz> {{ k = Constant<value = float[5] {{1, 2, 3, 4, 5}}>()"
        f" m = Constant<value = float[5,3,1,1] {{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6}}>()"
        f" [a] z = Conv(x, m, k) {OUT} }}",
        {"a": 5},
    ),
    "2 activations": (
        f"{IN} <float[5,3,1,1] w, float lo = {{-1}}, float hi = {{0.5}}, float[2,5,1,1] wz> {{ [a] s = Conv(x, w)"
        f" t = Clip(s, lo, hi) u = LeakyRelu(t) v = Sigmoid(u) p = HardSwish(v) q = HardSigmoid(p) r = Tanh(q)"
        f" i = Identity(r) z = Dropout(i) {OUT} }}",
        {"a": 5},
    ),
    "2 pools": (
        f"{IN} <float[5,3,1,1] w, float[2,5,1,1] wz> {{ [a] s = Conv(x, w) t = MaxPool<kernel_shape = [2, 2]>(s)"
        f" u = AveragePool<kernel_shape = [2, 2]>(t) z = GlobalAveragePool(u) {OUT} }}",
        {"a": 5},
    ),
    "2 Pad in space": (
        f"{IN} <float[5,3,1,1] w, int64[8] p = {{0, 0, 1, 1, 0, 0, 0, 2}}, float[2,5,1,1] wz> "
        f'{{ [a] s = Conv(x, w) t = Pad(s, p) z = Pad<mode = "reflect">(t, p) {OUT} }}',
        {"a": 5},
    ),
    "2 Pad of named axes": (
        f"{V18}{IN} <float[5,3,1,1] w, int64[4] p = {{1, 1, 0, 2}}, float v = {{2}}, "
        f"int64[2] k = {{2, -1}}, float[2,5,1,1] wz> {{ [a] s = Conv(x, w) z = Pad(s, p, v, k) {OUT} }}",
        {"a": 5},
    ),
    "2 Resize by scales": (
        f"{IN} <float[5,3,1,1] w, float[4] k = {{1, 1, 2, 2}}, float[2,5,1,1] wz> "
        f'{{ [a] s = Conv(x, w) z = Resize<mode = "linear">(s, , k) {OUT} }}',
        {"a": 5},
    ),
    "2 Resize to sizes": (
        f"{IN} <float[5,3,1,1] w, int64[4] k = {{2, 5, 7, 9}}, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) z = Resize(s, , , k) {OUT} }}",
        {"a": 5},
    ),
    "2 Resize of named axes": (
        f"{V18}{IN} <float[5,3,1,1] w, float[2] k = {{2, 3}}, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) z = Resize<axes = [2, 3]>(s, , k) {OUT} }}",
        {"a": 5},
    ),
    "2 Upsample, opset 9": (
        f"{V9}{IN} <float[5,3,1,1] w, float[4] k = {{1, 1, 2, 2}}, float[2,5,1,1] wz>"
        f" {{ [a] s = Conv(x, w) t = Upsample(s, k) z = Clip<min = 0.0, max = 6.0>(t) {OUT} }}",
        {"a": 5},
    ),
    "2 reductions in space": (
        f"{IN} <float[5,3,1,1] w, int64[2] k = {{2, 3}}, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) t = ReduceMax<axes = [-1]>(s) z = ReduceSum(t, k) {OUT} }}",
        {"a": 5},
    ),
    "3 depthwise": (
        f"{IN} <float[5,3,1,1] w, float[5,1,3,3] d, float[5] b, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) z = Conv<group = 5>(s, d, b) {OUT} }}",
        {"a": 5},
    ),
    "3 BatchNormalization": (
        f"{IN} <float[5,3,1,1] w, {BN}, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) z = BatchNormalization(s, gamma, beta, mean, var) {OUT} }}",
        {"a": 5},
    ),
    "4 a residual": (
        f"{IN} <float[5,3,1,1] w, float[6,5,1,1] v, float[5,6,1,1] u, float[2,5,1,1] wz> {{ [a] s = Conv(x, w)"
        f" [b] t = Conv(s, v) r = Relu(t) [c] q = Conv(r, u) z = Add(q, s) {OUT} }}",
        {"a": 5, "b": 6},
    ),
    "4 squeeze and excite": (
        f"{IN} <float[5,3,1,1] w, float[6,5,1,1] v, float[5,6,1,1] u, float[2,5,1,1] wz> {{ [a] s = Conv(x, w)"
        f" p = GlobalAveragePool(s) [b] t = Conv(p, v) r = Relu(t) [c] q = Conv(r, u) h = Sigmoid(q)"
        f" z = Mul(s, h) {OUT} }}",
        {"a": 5, "b": 6},
    ),
    "4 three operands": (
        f"{IN} <float[5,3,1,1] w, float[5,3,1,1] v, float[2,5,1,1] wz> {{ [a] s = Conv(x, w) [b] t = Conv(x, v)"
        f" u = Sum(s, t, s) m = Max(u, t) n = Min(m, s) o = Mean(n, t) z = Sub(o, s) {OUT} }}",
        {"a": 5},
    ),
    "4 one channel for all stays one": (
        f"{IN} <float[5,3,1,1] w, float[1,3,1,1] v, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) [b] t = Conv(x, v) z = Mul(s, t) {OUT} }}",
        {"a": 5},
    ),
    "4 a mask from outside": (
        f"g (float[2,3,6,6] x, float[2,1,6,6] m, float[6] n) => (float[A,B,C,D] y) <float[5,3,1,1] w, "
        f"float[2,5,1,1] wz> {{ [a] s = Conv(x, w) t = Mul(s, m) z = Add(n, t) {OUT} }}",
        {"a": 5},
    ),
    "5 constants per channel": (
        f"{IN} <float[5,3,1,1] w, float[1,5,1,1] k, float[5,1,1] l, float[1,5,6,6] m, float[5,1,1] var, "
        f"float[5,1,1] h, float[2,5,1,1] wz> {{ [a] s = Conv(x, w) t = Add(s, k) u = Mul(l, t) v = Sub(m, u)"
        f" p = Div(v, var) z = PRelu(p, h) {OUT} }}",
        {"a": 5},
    ),
    "5 constants for all channels": (
        f"{IN} <float[5,3,1,1] w, float k = {{3}}, float[1,1,6] l, float[1,1,1,1] m, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) t = Add(s, k) u = Mul(l, t) v = Sub(m, u) p = Div(v, k) z = PRelu(p, m) {OUT} }}",
        {"a": 5},
    ),
    "6 Concat": (
        f"{IN} <float[5,3,1,1] w, float[6,3,1,1] v, float[2,11,1,1] wz> "
        f"{{ [a] s = Conv(x, w) [b] t = Conv(x, v) u = Concat<axis = 1>(s, t) z = Sigmoid(u) {OUT} }}",
        {"a": 5, "b": 6},
    ),
    "6 Concat of one thing twice, with the input, of Concats": (
        f"{IN} <float[5,3,1,1] w, float[6,3,1,1] v, float[2,22,1,1] wz> {{ [a] s = Conv(x, w) [b] t = Conv(x, v)"
        f" u = Concat<axis = -3>(s, x, s) h = Sigmoid(u) i = Concat<axis = 1>(h, t, x) z = Relu(i) {OUT} }}",
        {"a": 5, "b": 6},
    ),
    "6 Concats that are added": (
        f"{IN} <float[5,3,1,1] w, float[6,3,1,1] v, float[2,11,1,1] wz> {{ [a] s = Conv(x, w) [b] t = Conv(x, v)"
        f" u = Concat<axis = 1>(s, t) r = Relu(s) q = Concat<axis = 1>(r, t) z = Add(u, q) {OUT} }}",
        {"a": 5, "b": 6},
    ),
    "6 a depthwise Conv, a BatchNormalization and a constant behind a Concat": (
        f"{IN} <float[2,3,1,1] w, float[3,3,1,1] v, {BN}, float[5,1,3,3] d, float[5,1,1] k, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) [b] t = Conv(x, v) u = Concat<axis = 1>(s, t)"
        f" p = BatchNormalization(u, gamma, beta, mean, var) q = Conv<group = 5>(p, d) z = Mul(q, k) {OUT} }}",
        {"a": 2, "b": 3},
    ),
    "6 Concat in space": (
        f"{IN} <float[5,3,1,1] w, float[5,3,1,1] v, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) [b] t = Conv(x, v) z = Concat<axis = 2>(s, t) {OUT} }}",
        {"a": 5},
    ),
    "7 weights shared by two Convs": (
        f"{IN} <float[5,5,1,1] w, float[5] b, float[5,3,1,1] v, float[2,5,1,1] wz> {{ [a] s = Conv(x, v)"
        f" [b] t = Conv(s, w, b) [c] u = Conv(t, w, b) z = Relu(u) {OUT} }}",
        {"a": 5, "b": 5, "c": 5},
    ),
    "7 a scale shared by two nodes": (
        f"{IN} <float[5,3,1,1] w, float[5,1,1] k, float[2,5,1,1] v, float[5,2,1,1] u, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) t = Mul(s, k) [b] p = Conv(t, v) [c] q = Conv(p, u) z = Mul(q, k) {OUT} }}",
        {"a": 5, "b": 2, "c": 5},
    ),
    "float16": (
        f"{IN} <float[5,3,3,3] w, float[5] b, float[2,5,1,1] wz> {{ [a] z = Conv(x, w, b) {OUT} }}".replace(
            "float[", "float16["
        ),
        {"a": 5},
    ),
}

CHAIN = f"{IN} <float[5,3,1,1] w, float[2,5,1,1] wz, {{extra}}> {{{{ [a] s = Conv(x, w) {{rest}} }}}}"


def chain(rest: str, extra: str = "float k = {2}", head: str = IN) -> str:
    return CHAIN.format(rest=rest, extra=extra).replace(IN, head)


FROZEN = {  # nothing of this can be padded
    "8 channels that fit already": f"{IN} <float[8,3,1,1] w, float[2,8,1,1] wz> {{ [a] z = Conv(x, w) {OUT} }}",
    "8 an output": chain(f"z = Relu(s) {OUT}", head="g (float[2,3,6,6] x) => (float[A,B,C,D] y, float[E,F,G,H] s)"),
    "8 an input": (
        f"g (float[2,5,6,6] x) => (float[A,B,C,D] y) <float[5,5,1,1] w, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) z = Add(s, x) {OUT} }}"
    ),
    "8 another operator": chain(f"z = Softmax<axis = 1>(s) {OUT}"),
    "8 another operator beside": chain(
        "z = Relu(s) q = Conv(z, wz) p = Flatten(s) r = ReduceSum(p) [out] y = Add(q, r)"
    ),
    "8 the shape is read": chain(
        "z = Relu(s) q = Conv(z, wz) h = Shape(s) i = Cast<to = 1>(h) r = ReduceSum(i) [out] y = Add(q, r)"
    ),
    "8 a body reads it": (
        f"g (float[2,3,6,6] x, bool c) => (float[A,B,C,D] y, float[E,F,G,H] v) <float[5,3,1,1] w, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) z = Relu(s) {OUT} v = If(c) <then_branch = p () => (float[2,5,6,6] o) "
        "{ o = Neg(s) }, else_branch = q () => (float[2,5,6,6] o) { o = Abs(s) }> }"
    ),
    "8 lies in a body": (
        "g (float[2,3,6,6] x, bool c) => (float[A,B,C,D] y) <float[5,3,1,1] w, float[2,5,1,1] wz> { y = If(c) <"
        "then_branch = p () => (float[2,2,6,6] o) { [a] s = Conv(x, w) o = Conv(s, wz) },"
        "else_branch = q () => (float[2,2,6,6] o) { s = Conv(x, w) o = Conv(s, wz) }> }"
    ),
    "8 another domain": '<ir_version: 8, opset_import: ["" : 17, "my" : 1]>' + chain(f"z = my.Relu(s) {OUT}"),
    "8 the producer's weight is an input": (
        f"g (float[2,3,6,6] x, float[5,3,1,1] w) => (float[A,B,C,D] y) <float[2,5,1,1] wz> "
        f"{{ [a] z = Conv(x, w) {OUT} }}"
    ),
    "8 the producer's bias is an input": (
        f"g (float[2,3,6,6] x, float[5] b) => (float[A,B,C,D] y) <float[5,3,1,1] w, float[2,5,1,1] wz> "
        f"{{ [a] z = Conv(x, w, b) {OUT} }}"
    ),
    "8 the reader's weight is an input": chain(
        "[out] y = Conv(s, v)", head="g (float[2,3,6,6] x, float[2,5,1,1] v) => (float[A,B,C,D] y)"
    ),
    "8 one operand of several is frozen": (
        f"g (float[2,5,6,6] x) => (float[A,B,C,D] y) <float[5,5,1,1] w, float[5,5,1,1] v, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) [b] t = Conv(x, v) u = Add(s, t) r = Relu(x) z = Add(u, r) {OUT} }}"
    ),
    "8 segments that do not fit": (
        f"{IN} <float[5,3,1,1] w, float[6,3,1,1] v, float[11,3,1,1] u, float[2,11,1,1] wz> {{ [a] s = Conv(x, w)"
        f" [b] t = Conv(x, v) p = Concat<axis = 1>(s, t) [c] q = Conv(x, u) z = Add(p, q) {OUT} }}"
    ),
    "a Conv in groups reads it": (
        f"{IN} <float[6,3,1,1] w, float[6,3,1,1] v, float[2,6,1,1] wz> "
        f"{{ [a] s = Conv(x, w) z = Conv<group = 2>(s, v) {OUT} }}"
    ),
    "depthwise with two outputs for each input": (
        f"{IN} <float[3,3,1,1] w, float[6,1,1,1] v, float[2,6,1,1] wz> "
        f"{{ [a] s = Conv(x, w) z = Conv<group = 3>(s, v) {OUT} }}"
    ),
    "one axis of space": (
        "g (float[2,3,6] x) => (float[A,B,C] y) <float[5,3,1] w, float[2,5,1] wz> { [a] z = Conv(x, w)"
        " y = Conv(z, wz) }"
    ),
    "double precision": chain(f"z = Relu(s) {OUT}").replace("float[", "double["),
    "an operator that makes infinity of 0": chain(f"z = Reciprocal(s) {OUT}"),
    "x / y": (
        f"{IN} <float[5,3,1,1] w, float[5,3,1,1] v, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) [b] t = Conv(x, v) z = Div(s, t) {OUT} }}"
    ),
    "constant / x": chain(f"z = Div(k, s) {OUT}"),
    "x / 0": chain(f"z = Div(s, k) {OUT}", "float[5,1,1] k = {1, 1, 0, 1, 1}"),
    "a slope that is computed": chain(f"t = Abs(s) z = PRelu(s, t) {OUT}"),
    "a constant of more channels": (
        f"{IN} <float[1,3,1,1] w, float[5,1,1] k, float[2,5,1,1] wz> {{ [a] s = Conv(x, w) z = Add(s, k) {OUT} }}"
    ),
    "a constant of more dimensions": chain(
        f"t = Add(s, k) z = Squeeze(t, a) {OUT}", "float[1,1,5,1,1] k, int64[1] a = {0}"
    ),
    "an operand of unknown rank": (
        f"g (float[2,3,6,6] x, int64[R] r, float[K] q) => (float[A,B,C,D] y) <float[5,3,1,1] w, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) m = Reshape(q, r) z = Add(s, m) {OUT} }}"
    ),
    "an operand of three dimensions": (
        f"g (float[2,3,6,6] x, float[5,6,6] q) => (float[A,B,C,D] y) <float[5,3,1,1] w, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) z = Add(s, q) {OUT} }}"
    ),
    "a bound that is computed": chain(f"t = ReduceMin<keepdims = 0>(x) z = Clip(s, t) {OUT}"),
    "Pad along the channels": (
        f"{IN} <float[5,3,1,1] w, int64[8] p = {{0, 1, 0, 0, 0, 0, 0, 0}}, float[2,6,1,1] wz> "
        f"{{ [a] s = Conv(x, w) z = Pad(s, p) {OUT} }}"
    ),
    "Pad along a named axis": (
        f"{V18}{IN} <float[5,3,1,1] w, int64[2] p = {{0, 1}}, int64[1] k = {{1}}, "
        f"float[2,6,1,1] wz> {{ [a] s = Conv(x, w) z = Pad(s, p, , k) {OUT} }}"
    ),
    "Pad by a computed amount": chain(
        f"z = Pad(s, p) {OUT}", head="g (float[2,3,6,6] x, int64[8] p) => (float[A,B,C,D] y)"
    ),
    "Resize of the channels": chain(
        "z = Resize(s, , c) [out] y = Conv(z, v)", "float[4] c = {1, 2, 1, 1}, float[2,10,1,1] v"
    ),
    "Resize of the channels to a size": chain(
        "z = Resize(s, , , c) [out] y = Conv(z, v)", "int64[4] c = {2, 10, 6, 6}, float[2,10,1,1] v"
    ),
    "Resize of a region": chain(
        f'z = Resize<coordinate_transformation_mode = "tf_crop_and_resize">(s, r, c) {OUT}',
        "float[4] c = {1, 1, 2, 2}, float[8] r = {0, 0, 0, 0, 1, 1, 1, 1}",
    ),
    "a reduction over the channels": (
        f"{IN} <float[5,3,1,1] w, float[2,1,1,1] wz> {{ [a] s = Conv(x, w) z = ReduceMean<axes = [1]>(s) {OUT} }}"
    ),
    "a reduction over everything": (
        f"{IN} <float[5,3,1,1] w, float[2,1,1,1] wz> {{ [a] s = Conv(x, w) z = ReduceMean(s) {OUT} }}"
    ),
    "the positions of the maxima are used": (
        f"g (float[2,3,6,6] x) => (float[A,B,C,D] y, int64[E,F,G,H] i) <float[5,3,1,1] w, float[2,5,1,1] wz> "
        f"{{ [a] s = Conv(x, w) z, i = MaxPool<kernel_shape = [2, 2]>(s) {OUT} }}"
    ),
    "a BatchNormalization that trains": chain(
        f"z, m, v = BatchNormalization<training_mode = 1>(s, gamma, beta, mean, var) {OUT}", BN
    ),
    "constants only": (
        f"{IN} <float[5,3,1,1] w, float[5,1,1] k = {{1, 2, 3, 4, 5}}, float[5,1,1] l = {{5, 4, 3, 2, 1}}, "
        f"float[2,5,1,1] wz> {{ [a] s = Conv(x, w) t = Softmax<axis = 1>(s) m = Max(k, l) z = Add(t, m) {OUT} }}"
    ),
    "an unknown number of channels": (
        "g (float[2,M,6,6] x, float[2,3,6,6] v) => (float[A,B,C,D] y, float[E,F,G,H] r) <float[5,3,1,1] w, "
        "float[2,5,1,1] wz> { [a] s = Conv(v, w) m = Relu(x) q = Concat<axis = 1>(s, m)"
        f" r = Neg(q) z = Relu(s) {OUT} }}"
    ),
    "a BatchNormalization of a matrix": (
        f"g (float[2,5] v, float[2,3,6,6] x) => (float[A,B,C,D] y, float[E,F] r) <float[5,3,1,1] w, {BN}, "
        f"float[2,5,1,1] wz> {{ r = BatchNormalization(v, gamma, beta, mean, var) [a] s = Conv(x, w)"
        f" z = Softmax(s) {OUT} }}"
    ),
    "opset 6": '<ir_version: 8, opset_import: ["" : 6]>' + chain(f"z = Relu(s) {OUT}"),
}


@pytest.mark.parametrize("name", PADS)
def test_pads(name: str) -> None:
    text, expected = PADS[name]
    model = loaded(text)
    start = saving.serialize(model)
    found = places(model, 4)
    assert {p.name: p.channels for p in found} == expected
    oracle = Oracle(model)
    for chosen in ([p.name for p in found], *([p.name] for p in found)):
        padded = apply(model, chosen, 4)
        assert oracle.disagreement(padded)[0] is None
        assert_same(model, padded, 4e-3 if name == "float16" else 1e-6)
        left = places(padded, 4)
        assert [p.name for p in left] == [p.name for p in found if p.name not in chosen]
        assert [n.name for n in padded.graph if n.op_type != "Constant"] == [
            n.name for n in model.graph if n.op_type != "Constant"
        ]
        assert saving.serialize(padded) == saving.serialize(apply(model, chosen, 4))
        assert_inferred(padded)
        assert all(v.uses() or v.is_graph_output() for v in padded.graph.initializers.values())
    assert saving.serialize(model) == start


def assert_inferred(model: ir.Model) -> None:
    """What the pass says of shapes is what inference says."""
    bare = model.clone()
    for node in bare.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    inferred = {v.name: v.shape for n in shapes.infer(bare).graph for v in n.outputs}
    for node in model.graph:
        for value in node.outputs:
            known, found = value.shape, inferred[value.name]
            if known is not None and found is not None:
                assert [d for d in known if isinstance(d, int)] == [d for d in found if isinstance(d, int)], value.name


def test_a_model_that_contradicts_itself_is_left_alone() -> None:
    model = loaded(
        "g (float[2,3,6,6] x) => (float[A,B,C,D] y) <float[5,4,1,1] w, float[5] b, float[2,5,1,1] wz> "
        f"{{ [a] z = Conv(x, w, b) {OUT} }}"
    )
    assert places(model) == []


@pytest.mark.parametrize("text", FROZEN.values(), ids=FROZEN)
def test_left_alone(text: str) -> None:
    model = loaded(text)
    assert "my." in text or "double[" in text or Oracle(model).problem is None
    assert [p for p in places(model, 4) if p.name == "a"] == []
    assert saving.serialize(apply(model, ["a"], 4)) == saving.serialize(model.clone())


def test_what_a_place_says() -> None:
    model = loaded(PADS["4 a residual"][0])
    first, second = places(model, 4)
    assert first == Place("a", ("a", "b", "c", "Add_z", "out"), 5, 8)
    assert second == Place("b", ("b", "Relu_r", "c"), 6, 8)
    assert [p.padded for p in places(model)] == [16, 16]
    assert [p.padded for p in places(model, 5)] == [10]


def test_where_the_zeros_are() -> None:
    model = loaded(PADS["6 Concat"][0])
    padded = apply(model, ["a", "b"], 4)
    nodes = {n.name: n for n in padded.graph}
    weight, wide = (constant(n.inputs[1]) for g in (model, padded) for n in g.graph if n.name == "out")
    assert weight is not None
    assert wide is not None
    np.testing.assert_array_equal(wide[:, :5], weight[:, :5])
    np.testing.assert_array_equal(wide[:, 8:14], weight[:, 5:])
    assert not wide[:, [5, 6, 7, 14, 15]].any()
    assert not np.asarray(constant(nodes["a"].inputs[1]))[5:].any()
    assert [v.name for n in padded.graph for v in n.outputs] == [v.name for n in model.graph for v in n.outputs]
    assert {"w", "v", "wz"} == set(padded.graph.initializers)  # the old names, as nothing else needs them
    assert padded.graph.initializers["w"].shape == (8, 3, 1, 1)


def test_the_number_of_groups_follows() -> None:
    padded = apply(loaded(PADS["3 depthwise"][0]), ["a"], 16)
    assert [attribute(n, "group", 1) for n in padded.graph] == [1, 16, 1]


def test_names_that_are_no_places_are_passed_over() -> None:
    model = loaded(PADS["1 Conv to Conv"][0])
    assert saving.serialize(apply(model, ["out", "nothing"], 4)) == saving.serialize(model.clone())


# ------------------------------------------------------------------------------------------------ random networks
class RandomNet:
    """A network of Convs, residuals, Concats, depthwise Convs, pools, scales and squeeze-and-excite blocks."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.lines: list[str] = []
        self.constants: list[str] = []
        self.values = {"x": 3}  # name to channels, all of 8 × 8 pixels
        for _ in range(int(self.rng.integers(4, 14))):
            source = str(self.rng.choice(list(self.values)[-4:]))
            kinds = [self.layer, self.residual, self.concat, self.excite, self.channelwise, self.scaled]
            kind = kinds[int(self.rng.integers(len(kinds)))]
            name, channels = kind(source, self.values[source])
            self.values[name] = channels
        last, channels = self.layer(list(self.values)[-1], list(self.values.values())[-1])
        self.add(f"Conv({self.add(f'Relu({last})')}, {self.constant(2, channels, 1, 1)})", "y")

    @property
    def text(self) -> str:
        body = " ".join(self.lines)
        return f"g (float[1,3,8,8] x) => (float[A,B,C,D] y) <{', '.join(self.constants)}> {{ {body} }}"

    def add(self, call: str, name: str = "") -> str:
        name = name or f"v{len(self.lines)}"
        self.lines.append(f"[n{len(self.lines)}] {name} = {call}")
        return name

    def constant(self, *shape: int, name: str = "w") -> str:
        name += str(len(self.constants))
        self.constants.append(f"float[{','.join(map(str, shape))}] {name}")
        return name

    def conv(self, source: str, inputs: int, outputs: int) -> str:
        size = int(self.rng.choice([1, 3]))
        bias = f", {self.constant(outputs)}" if self.rng.random() < 0.5 else ""
        pads = "<pads = [1, 1, 1, 1]>" if size == 3 else ""
        return self.add(f"Conv{pads}({source}, {self.constant(outputs, inputs, size, size)}{bias})")

    def layer(self, source: str, channels: int) -> tuple[str, int]:
        outputs = int(self.rng.integers(1, 12))
        return self.conv(source, channels, outputs), outputs

    def residual(self, source: str, channels: int) -> tuple[str, int]:
        inner, hidden = self.layer(source, channels)
        back = self.conv(self.add(f"Sigmoid({inner})"), hidden, channels)
        return self.add(f"{self.rng.choice(['Add', 'Mul', 'Max'])}({back}, {source})"), channels

    def concat(self, source: str, channels: int) -> tuple[str, int]:
        other = str(self.rng.choice(list(self.values)))
        return self.add(f"Concat<axis = 1>({source}, {other})"), channels + self.values[other]

    def excite(self, source: str, channels: int) -> tuple[str, int]:
        hidden = self.add(f"Relu({self.conv1(self.add(f'GlobalAveragePool({source})'), channels, 3)})")
        return self.add(f"Mul({source}, {self.add(f'Sigmoid({self.conv1(hidden, 3, channels)})')})"), channels

    def conv1(self, source: str, inputs: int, outputs: int) -> str:
        return self.add(f"Conv({source}, {self.constant(outputs, inputs, 1, 1)})")

    def channelwise(self, source: str, channels: int) -> tuple[str, int]:
        window = "<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
        calls = [f"Relu({source})", f"Sigmoid({source})", f"HardSwish({source})"]
        calls += [f"MaxPool{window}({source})", f"AveragePool{window}({source})"]
        return self.add(str(self.rng.choice(calls))), channels

    def scaled(self, source: str, channels: int) -> tuple[str, int]:
        kind = int(self.rng.integers(3))
        if kind == 0:
            kernel = self.constant(channels, 1, 3, 3)
            return self.add(f"Conv<group = {channels}, pads = [1, 1, 1, 1]>({source}, {kernel})"), channels
        if kind == 1:
            operation = self.rng.choice(["Add", "Mul", "Sub"])
            return self.add(f"{operation}({source}, {self.constant(channels, 1, 1)})"), channels
        given = [self.constant(channels, name=name) for name in ("w", "w", "w", "var")]
        return self.add(f"BatchNormalization({source}, {', '.join(given)})"), channels


@pytest.mark.parametrize("seed", range(40))
def test_random_networks(seed: int) -> None:
    model = loaded(RandomNet(seed).text, seed)
    rng = np.random.default_rng(seed)
    oracle = Oracle(model)
    assert oracle.problem is None
    for block in (4, 16):
        found = places(model, block)
        for share in (0.5, 1):
            chosen = [p.name for p in found if rng.random() < share]
            padded = apply(model, chosen, block)
            assert oracle.disagreement(padded)[0] is None
            assert [p.name for p in places(padded, block)] == [p.name for p in found if p.name not in chosen]
            assert_inferred(padded)


def test_the_random_networks_can_be_padded() -> None:
    counts = [len(places(loaded(RandomNet(seed).text, seed))) for seed in range(40)]
    assert sum(counts) > 60
    assert sum(c > 0 for c in counts) > 30


# ------------------------------------------------------------------------------------------------ broken padding
def ones(array: Array, axis: int, sizes: list[tuple[int, int]], fill: float) -> Array:
    """Readers that see the new channels."""
    return widened(array, axis, sizes, 1.0 if axis == 1 and array.ndim == 4 else fill)


def at_the_end(array: Array, axis: int, sizes: list[tuple[int, int]], fill: float) -> Array:
    """As if the padding of all operands of a Concat lay behind the last."""
    return widened(array, axis, [(array.shape[axis], sum(more for _, more in sizes))], fill)


def in_front(array: Array, axis: int, sizes: list[tuple[int, int]], fill: float) -> Array:
    """Readers whose columns are shifted."""
    if axis != 1:
        return widened(array, axis, sizes, fill)
    return np.flip(widened(np.flip(array, 1), 1, sizes[::-1], fill), 1)


@pytest.mark.parametrize("how", [ones, at_the_end, in_front])
def test_the_oracle_catches_broken_weights(how: object, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(PADS["6 Concat"][0])
    oracle = Oracle(model)
    assert oracle.disagreement(apply(model, ["a", "b"], 4))[0] is None
    monkeypatch.setattr(pad_channels, "widened", how)
    reason, _ = oracle.disagreement(apply(model, ["a", "b"], 4))
    assert reason is not None
    assert "differs" in reason


def test_the_oracle_catches_a_group_that_was_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(PADS["4 a residual"][0])
    monkeypatch.setattr(channel_groups.ChannelGroups, "_join", lambda self, layouts: layouts[0])
    reason, _ = Oracle(model).disagreement(apply(model, ["a"], 4))
    assert reason is not None
    assert "does not run" in reason
