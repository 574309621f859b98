"""Formulas written out, and chains of nodes that belong together, as exporters leave them."""

from __future__ import annotations

import math

import numpy as np

from tests.random_graphs.builder import LARGEST, Builder, Value
from tests.random_graphs.general import reduced, unary
from tests.random_graphs.layers import gemm


def written_softmax(b: Builder, x: Value) -> Value:
    """Softmax or its logarithm from exponentials, over the last axis or another one."""
    axis = x.rank - 1 if b.chance(0.8) else 1
    one = [*x.dims]
    one[axis] = 1
    far = b.op("Sub", [x, reduced(b, x, "ReduceMax", [b.pick([axis, axis - x.rank])], 1, one)], x.dims)
    exponential = b.op("Exp", [far], x.dims)
    total = reduced(b, exponential, "ReduceSum", [axis], 1, one)
    if b.chance(0.3):
        return b.op("Sub", [far, b.op("Log", [total], one)], x.dims)
    return b.op("Div", [exponential, total], x.dims)


def written_softsign(b: Builder, x: Value) -> Value:
    size = b.op("Add", [b.scalar(1.0, ()), b.op("Abs", [x], x.dims)], x.dims)
    return b.op("Div", [x, size], x.dims)


def requantized(b: Builder, x: Value) -> Value:
    """An input of the graph quantized, and once more with the same or another scale and zero point."""
    if b.opset < 10 or b.dtype.name != "float32" or not x.name.startswith("x"):
        return unary(b, x)
    scale = b.store(np.array(0.0625, np.float32), share=False)  # a power of 2: no number lies between two levels
    zero = b.store(np.array(int(b.rng.integers(-3, 4)), np.int8))
    other = scale if b.chance(0.7) else b.store(np.array(0.125, np.float32), share=False)
    name = x.name
    for step in (scale, other):
        codes = b.raw("QuantizeLinear", [name, step, zero])[0]
        name = b.raw("DequantizeLinear", [codes, step, zero])[0]
    value = Value(name, x.dims)
    b.pool.append(value)
    return value


def attention(b: Builder, x: Value) -> Value:
    """Attention of two heads, with or without a mask, between projections."""
    if x.rank != 3 or x.inner[1] % 2 or math.prod(x.inner) > LARGEST:
        return unary(b, x)
    length, size = x.inner
    heads, width = 2, size // 2
    parts = []
    for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        name = b.raw("MatMul", [x.name, b.weight(size, size, fan=size)])[0]
        if b.chance(0.5):
            name = b.raw("Add", [name, b.weight(size)])[0]
        name = b.raw("Reshape", [name, b.ints(b.pick([0, -1]), length, heads, width)])[0]
        parts.append(b.raw("Transpose", [name], perm=perm)[0])
    scores = b.raw("MatMul", parts[:2])[0]
    scores = b.raw(b.pick(["Mul", "Div"]), [scores, b.scalar(b.pick([0.5, 2.0]), ())])[0]
    if b.chance(0.3):
        scores = b.raw("Add", [scores, b.weight(length, length)])[0]
    axis = {"axis": 3 if b.opset < 13 else -1}
    weights = b.raw("Softmax", [scores], **axis)[0]
    mixed = b.raw("Transpose", [b.raw("MatMul", [weights, parts[2]])[0]], perm=[0, 2, 1, 3])[0]
    h = b.op("Reshape", [mixed, b.ints(0, length, size)], x.dims)
    return b.op("MatMul", [h, b.weight(size, size, fan=size)], x.dims)


def channels_last_head(b: Builder, x: Value) -> Value:
    """A Transpose to channels last before the flattening and a layer."""
    perm = [0, 2, 3, 1] if x.rank == 4 else [0, 2, 1]
    name = b.raw("Transpose", [x.name], perm=perm)[0]
    total = math.prod(x.inner)
    if b.chance(0.5):
        flat = b.op("Flatten", [name], x.with_inner(total), axis=1)
    else:
        flat = b.op("Reshape", [name, b.ints(-1, total)], x.with_inner(total))
    return gemm(b, flat)
