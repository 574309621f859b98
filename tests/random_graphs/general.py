"""Motifs for values of any rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.random_graphs.builder import LARGEST, TYPES, Builder, Value


def unary(b: Builder, x: Value) -> Value:
    common = ["Relu", "Sigmoid", "Tanh", "Neg", "Abs"]
    return b.op(b.pick(common if b.double else [*common, "Softplus", "LeakyRelu", "Elu"]), [x], x.dims)


def noop(b: Builder, x: Value) -> Value:
    kind = b.pick(["Identity", "Dropout", "Mul", "Add", "Div", "Sub", "Pow", "Transpose", "Cast", "Reshape", "Concat"])
    if kind == "Dropout":
        with_ratio = [b.store(np.array(0.5, np.float32))] if b.opset >= 12 and b.chance(0.5) else []
        return b.op(kind, [x, *with_ratio], x.dims)
    if kind in ("Mul", "Div", "Pow"):
        return b.op(kind, [x, b.scalar(1.0, (1,) * int(b.rng.integers(0, x.rank + 1)))], x.dims)
    if kind in ("Add", "Sub"):
        return b.op(kind, [x, b.scalar(0.0, (1,) * int(b.rng.integers(0, x.rank + 1)))], x.dims)
    if kind == "Transpose":
        return b.op(kind, [x], x.dims, perm=list(range(x.rank)))
    if kind == "Cast":
        return b.op(kind, [x], x.dims, to=TYPES[b.dtype.name])
    if kind == "Reshape":
        return b.op(kind, [x, b.ints(*([0] * x.rank))], x.dims)
    return b.op(kind, [x], x.dims, **({"axis": 1} if kind == "Concat" else {}))


def affine(b: Builder, x: Value) -> Value:
    """A chain of scalar or channel-wise affine steps."""
    for _ in range(int(b.rng.integers(1, 4))):
        channels = (x.inner[0], *([1] * (x.rank - 2)))
        form = b.pick([(), (1,), channels, (1, *channels)])
        operator = b.pick(["Mul", "Add", "Sub", "Div"])
        constant = b.near(*form)
        flipped = operator in ("Mul", "Add") and b.chance(0.4)
        x = b.op(operator, [constant, x] if flipped else [x, constant], x.dims)
    return x


def clip(b: Builder, x: Value, low: float | None = None, high: float | None = None) -> Value:
    low = float(b.rng.choice([-1.0, 0.0, -0.5])) if low is None else low
    high = float(b.rng.choice([1.0, 6.0, 3.0])) if high is None else high
    if b.opset < 11:
        return b.op("Clip", [x], x.dims, min=low, max=high)
    if b.dtype.name == "float32" and b.chance(0.3):
        h = b.op("Min", [x, b.scalar(high, ())], x.dims)
        return b.op("Max", [h, b.scalar(low, ())], x.dims)
    if b.dtype.name != "float32" and b.opset < 12:
        return x
    return b.op("Clip", [x, b.scalar(low, ()), b.scalar(high, ())], x.dims)


def activation_chain(b: Builder, x: Value) -> Value:
    for _ in range(int(b.rng.integers(2, 4))):
        x = b.op("Relu", [x], x.dims) if b.chance(0.5) else clip(b, x)
    return x


def hard_swish(b: Builder, x: Value) -> Value:
    h = clip(b, b.op("Add", [x, b.scalar(3.0, ())], x.dims), 0.0, 6.0)
    if b.chance(0.5):
        return b.op("Div", [b.op("Mul", [x, h], x.dims), b.scalar(6.0, ())], x.dims)
    return b.op("Mul", [x, b.op("Div", [h, b.scalar(6.0, ())], x.dims)], x.dims)


def silu(b: Builder, x: Value) -> Value:
    return b.op("Mul", [x, b.op("Sigmoid", [x], x.dims)], x.dims)


def gelu(b: Builder, x: Value) -> Value:
    if b.double:
        return unary(b, x)
    h = b.op("Div", [x, b.scalar(math.sqrt(2), ())], x.dims)
    h = b.op("Add", [b.op("Erf", [h], x.dims), b.scalar(1.0, ())], x.dims)
    return b.op("Mul", [b.op("Mul", [x, h], x.dims), b.scalar(0.5, ())], x.dims)


def duplicate(b: Builder, x: Value) -> Value:
    """The same thing twice, and both read."""
    op, other = b.pick(["Sigmoid", "Tanh", "Relu"]), b.pick(["Neg", "Abs", "Relu"])
    p, q = (b.op(other, [b.op(op, [x], x.dims)], x.dims) for _ in range(2))
    return b.op(b.pick(["Add", "Sub"]), [p, q], x.dims)


def combine(b: Builder, x: Value) -> Value:
    """Two values of equal dims."""
    same = [v for v in b.pool if v.dims == x.dims]
    other = b.pick(same)
    if b.chance(0.3):
        return b.op("Mul", [b.op("Sigmoid", [other], x.dims), x], x.dims)
    return b.op(b.pick(["Add", "Sub", "Max"] if b.opset >= 12 else ["Add", "Sub"]), [x, other], x.dims)


def wide_cast(b: Builder, x: Value) -> Value:
    if b.dtype.name == "float64":
        return noop(b, x)
    wide = b.raw("Cast", [x.name], to=TensorProto.DOUBLE)[0]
    return b.op("Cast", [wide], x.dims, to=TYPES[b.dtype.name])


def softmax(b: Builder, x: Value) -> Value:
    return b.op("Softmax", [x], x.dims, axis=int(b.rng.integers(1, x.rank)))


def unsqueeze_squeeze(b: Builder, x: Value) -> Value:
    axis = int(b.rng.integers(0, x.rank + 1))
    up: dict[str, Any] = {"axes": [axis]} if b.opset < 13 else {}
    name = b.raw("Unsqueeze", [x.name] if up else [x.name, b.ints(axis)], **up)[0]
    if b.chance(0.3):
        name = b.raw("Relu", [name])[0]
    return b.op("Squeeze", [name] if up else [name, b.ints(axis)], x.dims, **up)


def transposes(b: Builder, x: Value) -> Value:
    """A Transpose, perhaps something elementwise, and a Transpose back or on."""
    perm = [int(p) for p in b.rng.permutation(x.rank)]
    back = [int(p) for p in np.argsort(perm)]
    name = b.raw("Transpose", [x.name], perm=perm)[0]
    inner = b.rng.random()
    if inner < 0.3:
        name = b.raw(b.pick(["Relu", "Sigmoid"]), [name])[0]
    elif inner < 0.5 and x.dims[perm[-1]] != "N":
        last = x.dims[perm[-1]]
        assert isinstance(last, int)
        name = b.raw(b.pick(["Add", "Mul"]), [name, b.near(last)])[0]
    elif inner < 0.6:
        name = b.raw("Add", [b.raw("Sigmoid", [name])[0], name])[0]
    return b.op("Transpose", [name], x.dims, perm=back)


def reshapes(b: Builder, x: Value) -> Value:
    """Through another form and back."""
    total = math.prod(x.inner)
    lead = x.inner[0]
    middle = b.pick([[0, -1], [-1, total], [0, lead, -1]])
    name = b.raw("Reshape", [x.name, b.ints(*middle)])[0]
    return b.op("Reshape", [name, b.ints(*b.pick([[-1, *x.inner], [-1, *x.inner[:-1], x.inner[-1]]]))], x.dims)


def shape_reshape(b: Builder, x: Value) -> Value:
    """A Reshape to dims that are computed from the shape: [batch, -1]."""
    shape = b.raw("Shape", [x.name])[0]
    batch = b.raw("Gather", [shape, b.store(np.array(0, np.int64))], axis=0)[0]
    up: dict[str, Any] = {"axes": [0]} if b.opset < 13 else {}
    batch = b.raw("Unsqueeze", [batch] if up else [batch, b.ints(0)], **up)[0]
    target = b.raw("Concat", [batch, b.ints(-1)], axis=0)[0]
    return b.op("Reshape", [x, target], x.with_inner(math.prod(x.inner)))


def expand_like(b: Builder, x: Value) -> Value:
    return b.op("Expand", [x, b.raw("Shape", [x.name])[0]], x.dims)


def split_concat(b: Builder, x: Value) -> Value:
    """Split the channels and put them together again, in order or not."""
    channels = x.inner[0]
    if channels < 2:
        return unary(b, x)
    first = int(b.rng.integers(1, channels))
    sizes = [first, channels - first]
    if b.opset < 13:
        names = b.raw("Split", [x.name], 2, axis=1, split=sizes)
    else:
        names = b.raw("Split", [x.name, b.ints(*sizes)], 2, axis=1)
    parts = [Value(n, x.with_inner(s, *x.inner[1:])) for n, s in zip(names, sizes, strict=True)]
    if b.chance(0.4):
        parts[0] = b.op("Relu", [parts[0]], parts[0].dims)
    if b.chance(0.3):
        parts = parts[::-1]
    return b.op("Concat", parts, x.dims, axis=b.pick([1, 1 - x.rank]))


def sliced(b: Builder, x: Value, axis: int, start: int, end: int, step: int = 1) -> Value:
    size = len(range(*slice(start, end, step).indices(x.inner[axis - 1])))
    dims = [*x.dims]
    dims[axis] = size
    if b.opset < 10:
        return b.op("Slice", [x], dims, axes=[axis], starts=[start], ends=[end])
    inputs = [b.ints(start), b.ints(end), b.ints(b.pick([axis, axis - x.rank]))]
    return b.op("Slice", [x, *inputs, *([b.ints(step)] if step != 1 or b.chance(0.5) else [])], dims)


def slices(b: Builder, x: Value) -> Value:
    """Slices of slices; or all parts of an axis, put together again."""
    axis = int(b.rng.integers(1, x.rank))
    size = x.inner[axis - 1]
    if size < 3:
        return unary(b, x)
    if b.chance(0.5):
        h = sliced(b, x, axis, 1, b.pick([size, 2**31 - 1, -1]) if size > 3 else size)
        return sliced(b, h, axis, 0, max(1, h.inner[axis - 1] - 1))
    middle = int(b.rng.integers(1, size))
    parts = [sliced(b, x, axis, 0, middle), sliced(b, x, axis, middle, size)]
    return b.op("Concat", parts, x.dims, axis=axis)


def concats(b: Builder, x: Value) -> Value:
    if math.prod(x.inner) * 3 > LARGEST:
        return unary(b, x)
    h = b.op("Concat", [x, b.op("Relu", [x], x.dims)], x.with_inner(2 * x.inner[0], *x.inner[1:]), axis=1)
    return b.op("Concat", [h, x], x.with_inner(3 * x.inner[0], *x.inner[1:]), axis=1)


def reduced(b: Builder, x: Value, op: str, axes: Sequence[int], keep: int, dims: Sequence[int | str]) -> Value:
    as_input = b.opset >= (13 if op == "ReduceSum" else 18)
    if as_input:
        return b.op(op, [x, b.ints(*axes)], dims, keepdims=keep)
    return b.op(op, [x], dims, axes=list(axes), keepdims=keep)


def constant_branch(b: Builder, x: Value) -> Value:
    """Constants through a few nodes, then added."""
    size = x.inner[-1]
    name = b.raw(b.pick(["Tanh", "Sigmoid", "Neg"]), [b.weight(size)])[0]
    name = b.raw(b.pick(["Mul", "Add"]), [name, b.near(size)])[0]
    return b.op("Add", [x, name], x.dims)


def dead(b: Builder, x: Value) -> Value:
    """Something that nobody reads."""
    b.raw("Neg", [b.raw("Tanh", [x.name])[0]])
    return unary(b, x)


def batch_norm(b: Builder, x: Value) -> Value:
    c = x.inner[0]
    return b.op("BatchNormalization", [x, b.near(c), b.weight(c), b.weight(c), b.near(c)], x.dims)
