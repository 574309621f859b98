"""Motifs for images: values of rank 4."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.random_graphs.builder import LARGEST, Builder, Value
from tests.random_graphs.general import affine, batch_norm, reduced, shape_reshape, sliced, unary
from tests.random_graphs.layers import gemm


def convolved(b: Builder, x: Value, out: int, kernel: tuple[int, int], pads: Sequence[int], **attributes: Any) -> Value:
    """A Conv; ``group``, ``strides`` and ``auto_pad`` as attributes."""
    group = attributes.get("group", 1)
    strides = attributes.get("strides", (1, 1))
    channels, *sizes = x.inner
    weight = b.weight(out, channels // group, *kernel, fan=channels // group * math.prod(kernel))
    bias = [b.weight(out)] if b.chance(0.5) else []
    if "auto_pad" in attributes:
        spatial = [-(-s // t) for s, t in zip(sizes, strides, strict=True)]
    else:
        attributes["pads"] = list(pads)
        spatial = [(s + pads[k] + pads[k + 2] - kernel[k]) // strides[k] + 1 for k, s in enumerate(sizes)]
    if b.chance(0.7):
        attributes["kernel_shape"] = list(kernel)
    return b.op("Conv", [x, weight, *bias], x.with_inner(out, *spatial), **attributes)


def conv_same(b: Builder, x: Value) -> Value:
    """A Conv that keeps the dims."""
    group = b.pick([1, 1, x.inner[0]])
    if b.chance(0.2):
        return convolved(b, x, x.inner[0], (3, 3), (), group=group, auto_pad=b.pick(["SAME_UPPER", "SAME_LOWER"]))
    kernel, pads = b.pick([((1, 1), (0,) * 4), ((3, 3), (1,) * 4), ((1, 3), (0, 1, 0, 1)), ((3, 1), (1, 0, 1, 0))])
    return convolved(b, x, x.inner[0], kernel, pads, group=group)


def conv(b: Builder, x: Value) -> Value:
    kernel = b.pick([(1, 1), (3, 3), (3, 1)])
    pads = (1, 1, 1, 1) if min(x.inner[1:]) < 3 or b.chance(0.5) else (0, 0, 0, 0)
    strides = b.pick([[1, 1], [1, 1], [2, 2]])
    out = b.pick([2, 4, 6])
    group = b.pick([g for g in (1, 2) if x.inner[0] % g == 0 and out % g == 0])
    return convolved(b, x, out, kernel, pads, strides=strides, group=group)


def conv_transpose(b: Builder, x: Value) -> Value:
    channels, height, width = x.inner
    group = b.pick([g for g in (1, 2) if channels % g == 0])
    weight = b.weight(channels, 2, 2, 2, fan=channels)
    bias = [b.weight(2 * group)] if b.chance(0.5) else []
    dims = x.with_inner(2 * group, height + 1, width + 1)
    return b.op("ConvTranspose", [x, weight, *bias], dims, group=group)


def conv_bn(b: Builder, x: Value) -> Value:
    first = b.pick([conv, conv, conv_same, conv_transpose])
    h = batch_norm(b, first(b, x))
    return b.op("Relu", [h], h.dims) if b.chance(0.5) else h


def conv_affine(b: Builder, x: Value) -> Value:
    return affine(b, b.pick([conv, conv_same, conv_transpose])(b, x))


def bn_conv(b: Builder, x: Value) -> Value:
    move: Callable[[Builder, Value], Value] = b.pick([conv, conv_same])
    return move(b, b.pick([batch_norm, affine])(b, x))


def residual(b: Builder, x: Value) -> Value:
    h = b.op("Relu", [batch_norm(b, conv_same(b, x))], x.dims)
    return b.op("Add", [batch_norm(b, conv_same(b, h)), x], x.dims)


def multi_branch(b: Builder, x: Value) -> Value:
    """Branches of convolutions, summed: RepVGG, ACNet and their like."""
    parts = [conv_same(b, x) for _ in range(2)]
    if b.chance(0.5):
        parts = [batch_norm(b, p) for p in parts]
    if b.chance(0.4):
        parts.append(batch_norm(b, x))
    total = parts[0]
    for part in parts[1:]:
        total = b.op("Add", [total, part], x.dims)
    return total


def siblings(b: Builder, x: Value) -> Value:
    """Convolutions of one input, concatenated or not."""
    parts = [convolved(b, x, b.pick([2, 4]), (1, 1), (0,) * 4) for _ in range(int(b.rng.integers(2, 4)))]
    if b.chance(0.4):
        parts = [b.op("Relu", [p], p.dims) for p in parts]
    if b.chance(0.3):
        return parts[0]
    return b.op("Concat", parts, x.with_inner(sum(p.inner[0] for p in parts), *x.inner[1:]), axis=1)


def conv_chain(b: Builder, x: Value) -> Value:
    """Convolutions with nothing in between, one of them 1x1 or depthwise."""
    kernels: list[Any] = [(1, 1), (3, 3)]
    if b.chance(0.5):
        kernels = kernels[::-1]
    h = x
    for kernel in kernels:
        pad = 1 if kernel == (3, 3) and min(h.inner[1:]) < 3 else 0
        h = convolved(b, h, b.pick([2, 4, 6]), kernel, (pad,) * 4)
    return h


def pad(b: Builder, x: Value, pads: Sequence[int], value: float = 0.0, mode: str = "constant") -> Value:
    _, height, width = x.inner
    dims = x.with_inner(x.inner[0], height + pads[0] + pads[2], width + pads[1] + pads[3])
    whole = [0, 0, *pads[:2], 0, 0, *pads[2:]]
    if b.opset < 11:
        return b.op("Pad", [x], dims, pads=whole, mode=mode, value=value)
    if b.opset >= 18 and b.chance(0.5):
        return b.op("Pad", [x, b.ints(*pads), b.scalar(value, ()), b.ints(2, b.pick([3, -1]))], dims, mode=mode)
    given = [b.scalar(value, ())] if value or b.chance(0.5) else []
    return b.op("Pad", [x, b.ints(*whole), *given], dims, mode=mode)


def pad_reader(b: Builder, x: Value) -> Value:
    """A Pad and a Conv or pool that could take it in, or not."""
    value = float(b.rng.choice([0.0, 0.0, 0.0, 0.5]))
    mode = "constant" if b.chance(0.85) or min(x.inner[1:]) < 3 else "reflect"
    h = pad(b, x, b.pick([(1, 1, 1, 1), (0, 1, 1, 0), (2, 2, 2, 2)]), value, mode)
    if b.chance(0.2):
        h = pad(b, h, (1, 1, 0, 0))
    return pool(b, h) if b.chance(0.4) else conv(b, h)


def pool(b: Builder, x: Value) -> Value:
    if min(x.inner[1:]) < 3:
        return global_pool(b, x)
    op = b.pick(["MaxPool", "AveragePool"])
    more = {"count_include_pad": int(b.rng.integers(2))} if op == "AveragePool" else {}
    p = int(b.rng.integers(2))
    sizes = [(s + 2 * p - 3) // 2 + 1 for s in x.inner[1:]]
    return b.op(op, [x], x.with_inner(x.inner[0], *sizes), kernel_shape=[3, 3], strides=[2, 2], pads=[p] * 4, **more)


def global_pool(b: Builder, x: Value) -> Value:
    dims = x.with_inner(x.inner[0], 1, 1)
    if b.chance(0.5):
        return reduced(b, x, "ReduceMean", b.pick([[2, 3], [-1, -2]]), 1, dims)
    return b.op("GlobalAveragePool", [x], dims)


def flat(b: Builder, x: Value) -> Value:
    total = x.with_inner(math.prod(x.inner))
    kind = b.rng.random()
    if kind < 0.4:
        return b.op("Flatten", [x], total, axis=1)
    if kind < 0.7:
        return b.op("Reshape", [x, b.ints(*b.pick([[0, -1], [-1, math.prod(x.inner)]]))], total)
    return shape_reshape(b, x)


def head(b: Builder, x: Value) -> Value:
    """Global pooling, a form without space, a layer."""
    return gemm(b, flat(b, global_pool(b, x)))


def reduce_squeeze(b: Builder, x: Value) -> Value:
    h = reduced(b, x, b.pick(["ReduceMean", "ReduceMax", "ReduceSum"]), [3], 1, x.with_inner(*x.inner[:2], 1))
    up: dict[str, Any] = {"axes": [3]} if b.opset < 13 else {}
    return b.op("Squeeze", [h] if up else [h, b.ints(3)], x.with_inner(*x.inner[:2]), **up)


def resize(b: Builder, x: Value) -> Value:
    if b.opset < 11 or b.dtype.name == "float64" or math.prod(x.inner) * 4 > LARGEST:
        return unary(b, x)
    scale = b.pick([1, 2])
    scales = b.store(np.array([1, 1, scale, scale], np.float32), share=False)
    empty = b.store(np.array([], np.float32), share=False) if b.opset < 13 else ""
    dims = x.with_inner(x.inner[0], x.inner[1] * scale, x.inner[2] * scale)
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return b.op("Resize", [x, empty, scales], dims, **how)


def focus(b: Builder, x: Value) -> Value:
    channels, height, width = x.inner
    if b.opset < 10 or height % 2 or width % 2:
        return unary(b, x)
    parts = []
    for i, j in ((0, 0), (1, 0), (0, 1), (1, 1)):
        h = sliced(b, x, 2, i, 2**31 - 1, 2)
        parts.append(sliced(b, h, 3, j, 2**31 - 1, 2))
    return b.op("Concat", parts, x.with_inner(4 * channels, height // 2, width // 2), axis=1)


def shuffle(b: Builder, x: Value) -> Value:
    channels, height, width = x.inner
    if channels % 2:
        return unary(b, x)
    name = b.raw("Reshape", [x.name, b.ints(0, 2, channels // 2, height, width)])[0]
    name = b.raw("Transpose", [name], perm=[0, 2, 1, 3, 4])[0]
    return b.op("Reshape", [name, b.ints(-1, channels, height, width)], x.dims)


def tokens(b: Builder, x: Value) -> Value:
    channels, height, width = x.inner
    name = b.raw("Reshape", [x.name, b.ints(0, channels, -1)])[0]
    return b.op("Transpose", [name], x.with_inner(height * width, channels), perm=[0, 2, 1])
