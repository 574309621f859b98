"""Motifs of indices, integers, and sizes that are computed from shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.random_graphs.builder import LARGEST, TYPES, Builder, Value
from tests.random_graphs.general import reduced, unary


def dim(b: Builder, x: Value, axis: int) -> str:
    """The size of an axis as a tensor of one element, in one of the ways in which exporters write it."""
    if b.opset >= 15 and b.chance(0.2):
        return b.raw("Shape", [x.name], start=axis, end=axis + 1)[0]
    shape = b.raw("Shape", [x.name])[0]
    if b.chance(0.3):
        return b.raw("Gather", [shape, b.ints(axis)], axis=0)[0]
    if b.chance(0.3):
        if b.opset < 10:
            return b.raw("Slice", [shape], axes=[0], starts=[axis], ends=[axis + 1])[0]
        return b.raw("Slice", [shape, b.ints(axis), b.ints(axis + 1), b.ints(0)])[0]
    size = b.raw("Gather", [shape, b.store(np.array(axis, np.int64))], axis=0)[0]
    return unsqueezed(b, size)


def unsqueezed(b: Builder, name: str) -> str:
    up: dict[str, Any] = {"axes": [0]} if b.opset < 13 else {}
    return b.raw("Unsqueeze", [name] if up else [name, b.ints(0)], **up)[0]


def view(b: Builder, x: Value) -> Value:
    """A Reshape to sizes read from the value's shape, with arithmetic, there and back."""
    batch = dim(b, x, 0)
    total = b.raw("Mul", [dim(b, x, 1), b.ints(math.prod(x.inner[1:]))])[0]
    if b.chance(0.5):
        total = b.raw("Div", [b.raw("Mul", [total, b.ints(2)])[0], b.ints(2)])[0]
    if b.chance(0.3):
        narrow = b.raw("Cast", [total], to=TensorProto.FLOAT)[0]
        total = b.raw("Cast", [b.raw("Floor", [narrow])[0]], to=TensorProto.INT64)[0]
    target = b.raw("Concat", [batch, b.pick([total, b.ints(-1)])], axis=0)[0]
    h = b.op("Reshape", [x, target], x.with_inner(math.prod(x.inner)))
    if b.chance(0.5):
        return h
    back = b.raw("Concat", [batch, *(b.ints(d) for d in x.inner)], axis=0)[0]
    return b.op("Reshape", [h, back], x.dims)


def added_token(b: Builder, x: Value) -> Value:
    """A stored row, repeated for each sample and put in front of a sequence; then positions are added."""
    if x.rank != 3:
        return unary(b, x)
    length, size = x.inner
    target = b.raw("Concat", [dim(b, x, 0), b.ints(1), b.ints(size)], axis=0)[0]
    token = b.raw("Expand", [b.weight(1, 1, size), target])[0]
    h = b.op("Concat", [token, x], x.with_inner(length + 1, size), axis=1)
    if b.opset < 10 or b.chance(0.4):
        return h
    table = b.weight(1, length + 6, size)
    end = dim(b, h, 1)
    return b.op("Add", [h, b.raw("Slice", [table, b.ints(0), end, b.ints(1)])[0]], h.dims)


def zeros(b: Builder, x: Value) -> Value:
    """ConstantOfShape of the value's own shape, with something added."""
    value = helper.make_tensor("value", TYPES[b.dtype.name], [1], [b.pick([0.0, 1.0, 0.5])])
    made = b.raw("ConstantOfShape", [b.raw("Shape", [x.name])[0]], value=value)[0]
    return b.op(b.pick(["Add", "Mul"]), [x, made], x.dims)


def masked(b: Builder, x: Value) -> Value:
    """A causal mask from Ranges over the last two axes."""
    if x.rank < 3 or b.opset < 11:
        return unary(b, x)
    rows, columns = x.inner[-2:]
    zero, one = (b.store(np.array(k, np.int64)) for k in (0, 1))
    shape = b.raw("Shape", [x.name])[0]
    ranges = []
    for axis, size in ((x.rank - 2, rows), (x.rank - 1, columns)):
        end = b.store(np.array(size, np.int64))
        if b.chance(0.5):
            end = b.raw("Gather", [shape, b.store(np.array(axis, np.int64))], axis=0)[0]
        ranges.append(b.raw("Range", [zero, end, one])[0])
    column = b.raw("Reshape", [ranges[0], b.ints(-1, 1)])[0]
    cond = b.raw("Less", [column, ranges[1]])[0]
    return b.op("Where", [cond, b.scalar(-1.0, ()), x], x.dims)


def gathered(b: Builder, x: Value) -> Value:
    """Elements of an axis by constant indices: a run, all of them, a permutation, repeated, a single one."""
    axis = int(b.rng.integers(1, x.rank))
    size = x.inner[axis - 1]
    dims = [*x.dims]
    kind = b.pick(["run", "all", "mixed", "one", "scalar"])
    if kind == "scalar" and x.rank > 2:
        index = np.array(int(b.rng.integers(-size, size)), np.int64)
        return b.op("Gather", [x, b.store(index)], dims[:axis] + dims[axis + 1 :], axis=axis)
    first = int(b.rng.integers(0, size))
    chosen = {
        "run": list(range(first, size)),
        "all": list(range(size)),
        "mixed": [int(k) for k in b.rng.permutation(size)],
    }.get(kind, [first])
    dims[axis] = len(chosen)
    indices = np.array(chosen, b.pick([np.int64, np.int32]))
    return b.op("Gather", [x, b.store(indices)], dims, axis=b.pick([axis, axis - x.rank]) if b.opset >= 11 else axis)


def embedding(b: Builder, x: Value) -> Value:
    """Rows of a table by integers that are an input of the graph; a new root."""
    if b.depth or x.dims[0] == 0:
        return unary(b, x)
    length, size = b.pick([2, 3]), x.inner[-1]
    ids = b.fresh("ids")
    kind = b.pick([TensorProto.INT64, TensorProto.INT32])
    b.inputs.append(helper.make_tensor_value_info(ids, kind, [b.batch, length]))
    name = ids
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for _ in range(int(b.rng.integers(0, 3))):
        number = b.store(np.array(b.pick([1, 2]), dtype))
        name = b.raw(b.pick(["Add", "Mul", "Div", "Sub"]), [name, number])[0]
    if b.chance(0.4):
        name = b.raw("Cast", [name], to=TensorProto.INT64)[0]
        kind = TensorProto.INT64
    if b.chance(0.3):
        name = b.raw("Cast", [b.raw("Cast", [name], to=TensorProto.FLOAT)[0]], to=kind)[0]
    h = b.op("Gather", [b.weight(40, size), name], (b.batch, length, size), axis=0)
    if b.chance(0.3):
        number = b.raw("Cast", [unsqueezed_last(b, name)], to=TYPES[b.dtype.name])[0]
        h = b.op("Add", [h, b.raw("Mul", [number, b.scalar(0.125, ())])[0]], h.dims)
    return h


def unsqueezed_last(b: Builder, name: str) -> str:
    up: dict[str, Any] = {"axes": [2]} if b.opset < 13 else {}
    return b.raw("Unsqueeze", [name] if up else [name, b.ints(2)], **up)[0]


def einsum(b: Builder, x: Value) -> Value:
    """A product with stored weights, or of the value with itself."""
    if b.opset < 12 or b.dtype.name != "float32" or x.rank not in (2, 3):
        return unary(b, x)
    size, out = x.inner[-1], b.pick([2, 4, 6])
    if x.rank == 2:
        equation, shape = b.pick([("bi,io->bo", (size, out)), ("bi,oi->bo", (out, size))])
        return b.op("Einsum", [x, b.weight(*shape, fan=size)], x.with_inner(out), equation=equation)
    length = x.inner[0]
    kind = b.pick(["right", "left", "self"])
    if kind == "right":
        equation, shape = b.pick([("bti,io->bto", (size, out)), ("bti,oi->bto", (out, size))])
        return b.op("Einsum", [x, b.weight(*shape, fan=size)], x.with_inner(length, out), equation=equation)
    if kind == "left":
        dims = x.with_inner(out, size)
        return b.op("Einsum", [x, b.weight(out, length, fan=length)], dims, equation="bti,ot->boi")
    scaled = b.op("Mul", [x, b.scalar(0.25, ())], x.dims)
    return b.op("Einsum", [scaled, x], x.with_inner(length, length), equation="bti,bsi->bts")


def repeated(b: Builder, x: Value) -> Value:
    """Tile or Expand along a new or unit axis, then read with broadcasting or reduced again."""
    size = math.prod(x.inner)
    if size * 3 > LARGEST:
        return unary(b, x)
    lifted = b.op("Reshape", [x, b.ints(0, 1, *x.inner)], x.with_inner(1, *x.inner)) if x.rank < 5 else x
    if lifted is x:
        return unary(b, x)
    dims = x.with_inner(3, *x.inner)
    if b.chance(0.5):
        h = b.op("Tile", [lifted, b.ints(1, 3, *([1] * (x.rank - 1)))], dims)
    else:
        target = b.raw("Concat", [dim(b, x, 0), b.ints(3, *x.inner)], axis=0)[0]
        h = b.op("Expand", [lifted, target], dims)
    if b.chance(0.5):
        h = b.op("Mul", [h, b.near(3, *([1] * (x.rank - 1)))], dims)
    return reduced(b, h, "ReduceMean", [1], 0, x.dims)


def extremes(b: Builder, x: Value) -> Value:
    """A second output of a node that few read: TopK, or the mask of a Dropout as an output of the graph."""
    if b.opset < 10 or b.depth or b.dtype.name == "float16":
        return unary(b, x)
    if b.chance(0.5):
        k = min(2, x.inner[-1])
        values, places = b.raw("TopK", [x.name, b.ints(k)], 2, axis=x.rank - 1)
        if b.chance(0.1):
            dims = [*x.dims[:-1], k]
            b.extra.append(helper.make_tensor_value_info(places, TensorProto.INT64, dims))
        value = Value(values, (*x.dims[:-1], k))
    else:
        names = b.raw("Dropout", [x.name], 2)
        b.extra.append(helper.make_tensor_value_info(names[1], TensorProto.BOOL, list(x.dims)))
        value = Value(names[0], x.dims)
    b.pool.append(value)
    return value


def constant_output(b: Builder, x: Value) -> Value:
    """An output of the graph that is computed from constants."""
    if b.depth or b.batch == "N":
        return unary(b, x)
    name = b.raw(b.pick(["Identity", "Tanh", "Relu"]), [b.weight(*(int(d) for d in x.dims))])[0]
    value = Value(name, x.dims)
    b.pool.append(value)
    return value
