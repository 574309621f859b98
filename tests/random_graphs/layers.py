"""Motifs for vectors and sequences: values of rank 2 and 3."""

from __future__ import annotations

import math

from tests.random_graphs.builder import Builder, Value
from tests.random_graphs.general import affine, batch_norm, noop, reduced, unary


def gemm(b: Builder, x: Value) -> Value:
    features = x.inner[0]
    out = b.pick([4, 6, 8])
    flip = int(b.rng.integers(2))
    weight = b.weight(*((out, features) if flip else (features, out)), fan=features)
    more = {"alpha": 0.5, "beta": 2.0} if b.chance(0.2) else {}
    bias = [b.pick([b.weight, b.near])(out)] if b.opset < 11 or b.chance(0.7) else []
    return b.op("Gemm", [x, weight, *bias], x.with_inner(out), transB=flip, **more)


def matmul(b: Builder, x: Value) -> Value:
    out = b.pick([4, 6, 8])
    dims = x.with_inner(*x.inner[:-1], out)
    h = b.op("MatMul", [x, b.weight(x.inner[-1], out, fan=x.inner[-1])], dims)
    return b.op("Add", [h, b.weight(out)] if b.chance(0.5) else [b.weight(out), h], dims) if b.chance(0.6) else h


def layers(b: Builder, x: Value) -> Value:
    """Two linear layers with nothing, or little, in between."""
    layer = b.pick([gemm, matmul]) if x.rank == 2 else matmul
    h = layer(b, x)
    if b.chance(0.5):
        h = b.pick([noop, affine])(b, h)
    return layer(b, h)


def layer_affine(b: Builder, x: Value) -> Value:
    h = (gemm if x.rank == 2 and b.chance(0.5) else matmul)(b, x)
    size = h.inner[-1]
    for _ in range(int(b.rng.integers(1, 3))):
        h = b.op(b.pick(["Mul", "Add", "Sub", "Div"]), [h, b.near(*b.pick([(), (size,), (1, size)]))], h.dims)
    return h


def gemm_bn(b: Builder, x: Value) -> Value:
    return batch_norm(b, gemm(b, x))


def bn_gemm(b: Builder, x: Value) -> Value:
    return gemm(b, batch_norm(b, x))


def projections(b: Builder, x: Value) -> Value:
    """Layers of one input: queries, keys, values."""
    size, out = x.inner[-1], b.pick([4, 6])
    dims = x.with_inner(*x.inner[:-1], out)
    parts = []
    for _ in range(3):
        h = b.op("MatMul", [x, b.weight(size, out, fan=size)], dims)
        parts.append(b.op("Add", [h, b.weight(out)], dims) if b.chance(0.5) else h)
    if x.rank == 3 and b.chance(0.6):
        length = x.inner[0]
        keys = b.op("Transpose", [parts[1]], x.with_inner(out, length), perm=[0, 2, 1])
        scores = b.op("MatMul", [parts[0], keys], x.with_inner(length, length))
        scores = b.op("Mul", [scores, b.scalar(1 / math.sqrt(out), ())], scores.dims)
        return b.op("MatMul", [b.op("Softmax", [scores], scores.dims, axis=2), parts[2]], dims)
    return b.op("Concat", parts, x.with_inner(*x.inner[:-1], 3 * out), axis=x.rank - 1)


def layer_norm(b: Builder, x: Value) -> Value:
    size = x.inner[-1]
    if size < 2:
        return unary(b, x)
    one = x.with_inner(*x.inner[:-1], 1)
    centred = b.op("Sub", [x, reduced(b, x, "ReduceMean", [-1], 1, one)], x.dims)
    if b.chance(0.5):
        square = b.op("Mul", [centred, centred], x.dims)
    else:
        square = b.op("Pow", [centred, b.scalar(2.0, ())], x.dims)
    variance = b.op("Add", [reduced(b, square, "ReduceMean", [-1], 1, one), b.scalar(1e-2, ())], one)
    h = b.op("Div", [centred, b.op("Sqrt", [variance], one)], x.dims)
    return b.op("Add", [b.op("Mul", [h, b.near(size)], x.dims), b.weight(size)], x.dims)


def lift(b: Builder, x: Value) -> Value:
    """A vector or sequence as an image."""
    if b.double:
        return unary(b, x)
    up = {"axes": list(range(x.rank, 4))}
    dims = (*x.dims, *([1] * (4 - x.rank)))
    if b.opset < 13:
        return b.op("Unsqueeze", [x], dims, **up)
    return b.op("Unsqueeze", [x, b.ints(*up["axes"])], dims)
