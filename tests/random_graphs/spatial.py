"""Motifs for signals and volumes (values of rank 3 and 5), and layers beyond convolutions and their like."""

from __future__ import annotations

import math

import numpy as np

from tests.random_graphs.builder import LARGEST, Builder, Value
from tests.random_graphs.general import affine, batch_norm, unary


def conv_nd(b: Builder, x: Value) -> Value:
    """A Conv over any number of axes that keeps their sizes."""
    if b.double:
        return unary(b, x)
    taps = b.pick([1, 3])
    axes = x.rank - 2
    group = b.pick([1, 1, x.inner[0]])
    out = x.inner[0] if group > 1 else b.pick([2, 4, 6])
    weight = b.weight(out, x.inner[0] // group, *([taps] * axes), fan=x.inner[0] // group * taps**axes)
    bias = [b.weight(out)] if b.chance(0.5) else []
    h = b.op("Conv", [x, weight, *bias], x.with_inner(out, *x.inner[1:]), group=group, pads=[taps // 2] * (2 * axes))
    if b.chance(0.5):
        h = b.pick([batch_norm, affine])(b, h)
    return h


def pool_nd(b: Builder, x: Value) -> Value:
    if b.double:
        return unary(b, x)
    op = b.pick(["GlobalAveragePool", "GlobalMaxPool"])
    return b.op(op, [x], x.with_inner(x.inner[0], *([1] * (x.rank - 2))))


def normalized(b: Builder, x: Value) -> Value:
    """Normalizations that stay what they are."""
    if b.dtype.name != "float32" or min(x.inner) < 2:
        return unary(b, x)
    kind = b.pick(["InstanceNormalization", "LpNormalization", "LRN", "LayerNormalization", "GroupNormalization"])
    c = x.inner[0]
    if kind == "LayerNormalization" and b.opset >= 17:
        size = x.inner[-1]
        return b.op(kind, [x, b.near(size), b.weight(size)], x.dims, axis=-1, epsilon=0.01)
    if kind == "GroupNormalization" and b.opset >= 21 and x.rank >= 3 and math.prod(x.inner) > 8:
        return b.op(kind, [x, b.near(c), b.weight(c)], x.dims, num_groups=1, epsilon=0.01)
    if kind == "LRN" and x.rank == 4:
        return b.op(kind, [x], x.dims, size=3)
    if kind == "InstanceNormalization" and x.rank >= 3 and math.prod(x.inner[1:]) > 3:
        return b.op(kind, [x, b.near(c), b.weight(c)], x.dims, epsilon=0.01)
    return unary(b, x)


def newer_activation(b: Builder, x: Value) -> Value:
    """Activations of later opsets, and those with operands."""
    if b.dtype.name != "float32":
        return unary(b, x)
    kind = b.pick(["HardSwish", "Mish", "Gelu", "PRelu", "HardSigmoid", "Selu", "Softsign", "Celu", "Sum", "Mean"])
    since = {"HardSwish": 14, "Mish": 18, "Gelu": 20, "Celu": 12}.get(kind, 1)
    if b.opset < since:
        return unary(b, x)
    if kind == "PRelu":
        return b.op(kind, [x, b.near(*b.pick([(1,), (x.inner[0], *([1] * (x.rank - 2)))]))], x.dims)
    if kind in ("Sum", "Mean"):
        others = [b.pick([v for v in b.pool if v.dims == x.dims]) for _ in range(int(b.rng.integers(0, 3)))]
        return b.op(kind, [x, *others, *([b.weight(x.inner[-1])] if b.chance(0.3) else [])], x.dims)
    return b.op(kind, [x], x.dims)


def quantized_weight(b: Builder, x: Value) -> Value:
    """A layer whose weight is stored as int8 behind a DequantizeLinear."""
    if b.opset < 10 or b.dtype.name != "float32":
        return unary(b, x)
    scale = b.store(np.array(0.02, np.float32), share=False)
    zero = b.store(np.array(int(b.rng.integers(-3, 4)), np.int8))
    if x.rank == 4:
        out = b.pick([2, 4])
        stored = b.rng.integers(-60, 60, (out, x.inner[0], 1, 1)).astype(np.int8)
        weight = b.raw("DequantizeLinear", [b.store(stored), scale, zero])[0]
        h = b.op("Conv", [x, weight], x.with_inner(out, *x.inner[1:]))
        return batch_norm(b, h) if b.chance(0.5) else h
    out = b.pick([4, 6])
    stored = b.rng.integers(-60, 60, (x.inner[-1], out)).astype(np.int8)
    weight = b.raw("DequantizeLinear", [b.store(stored), scale, zero])[0]
    h = b.op("MatMul", [x, weight], x.with_inner(*x.inner[:-1], out))
    return affine(b, h) if b.chance(0.5) else h


def quantized_input(b: Builder, x: Value) -> Value:
    """QuantizeLinear and DequantizeLinear of an input of the graph: exact there, as nothing comes before."""
    if b.opset < 10 or b.dtype.name != "float32" or not x.name.startswith("x"):
        return unary(b, x)
    scale = b.store(np.array(0.05, np.float32), share=False)
    zero = b.store(np.array(int(b.rng.integers(-3, 4)), np.int8))
    codes = b.raw("QuantizeLinear", [x.name, scale, zero])[0]
    return b.op("DequantizeLinear", [codes, scale, zero], x.dims)


def depth_space(b: Builder, x: Value) -> Value:
    """SpaceToDepth, and perhaps back."""
    channels, height, width = x.inner
    if b.double or b.dtype.name != "float32":
        return unary(b, x)
    if height % 2 or width % 2:
        if channels % 4 or b.opset < 11:
            return unary(b, x)
        mode = b.pick(["DCR", "CRD"])
        dims = x.with_inner(channels // 4, height * 2, width * 2)
        return b.op("DepthToSpace", [x], dims, blocksize=2, mode=mode)
    h = b.op("SpaceToDepth", [x], x.with_inner(channels * 4, height // 2, width // 2), blocksize=2)
    return b.op("DepthToSpace", [h], x.dims, blocksize=2) if b.chance(0.5) else h


def pixel_shuffle(b: Builder, x: Value) -> Value:
    """DepthToSpace written with Reshapes and a Transpose."""
    channels, height, width = x.inner
    if channels % 4 or math.prod(x.inner) > LARGEST:
        return unary(b, x)
    crd = ((channels // 4, 2, 2, height, width), [0, 1, 4, 2, 5, 3])
    dcr = ((2, 2, channels // 4, height, width), [0, 3, 4, 1, 5, 2])
    order, perm = b.pick([crd, dcr])
    name = b.raw("Reshape", [x.name, b.ints(-1, *order)])[0]
    name = b.raw("Transpose", [name], perm=perm)[0]
    dims = x.with_inner(channels // 4, 2 * height, 2 * width)
    return b.op("Reshape", [name, b.ints(-1, channels // 4, 2 * height, 2 * width)], dims)


def upsampled(b: Builder, x: Value) -> Value:
    """Sizes of a Resize computed from the value's shape."""
    if b.opset < 11 or b.dtype.name != "float32" or math.prod(x.inner) * 4 > LARGEST:
        return unary(b, x)
    shape = b.raw("Shape", [x.name])[0]
    front = b.raw("Slice", [shape, b.ints(0), b.ints(2), b.ints(0)])[0]
    back = b.raw("Slice", [shape, b.ints(2), b.ints(4), b.ints(0)])[0]
    factor = b.pick([1, 2])
    back = b.raw("Mul", [back, b.ints(factor)])[0]
    sizes = b.raw("Concat", [front, back], axis=0)[0]
    empty = b.store(np.array([], np.float32), share=False) if b.opset < 13 else ""
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    how["mode"] = b.pick(["nearest", "linear"])
    dims = x.with_inner(x.inner[0], x.inner[1] * factor, x.inner[2] * factor)
    return b.op("Resize", [x, empty, empty, sizes], dims, **how)
