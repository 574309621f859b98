"""Motifs with bodies, sequences, functions and computed sizes."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.random_graphs.builder import LARGEST, LOCAL, TYPES, Builder, Move, Value
from tests.random_graphs.general import (
    activation_chain,
    affine,
    batch_norm,
    combine,
    duplicate,
    noop,
    reduced,
    split_concat,
    transposes,
    unary,
)
from tests.random_graphs.images import conv_same

DEEPEST = 2


def inner(b: Builder, x: Value, steps: int) -> Value:
    """A few motifs that keep the dims; the last value is not ``x`` itself."""
    h = x
    for _ in range(steps):
        moves: list[Move] = [unary, noop, affine, activation_chain, transposes, duplicate, combine, split_concat, where]
        if x.rank == 4:
            moves += [conv_same, batch_norm]
        if b.depth < DEEPEST:
            moves.append(branches)
        h = b.pick(moves)(b, h)
    return h if h.name != x.name else unary(b, h)


def branches(b: Builder, x: Value) -> Value:
    """An If whose bodies capture values; its condition is an input, a constant, or comes from a shape."""
    if b.depth >= DEEPEST or len(b.nodes) + b.depth < 2:
        return unary(b, x)
    kind = b.rng.random()
    if kind < 0.4:
        cond = b.fresh("cond")
        b.inputs.append(helper.make_tensor_value_info(cond, TensorProto.BOOL, []))
    elif kind < 0.7:
        cond = b.store(np.array(b.chance(0.5)))
    else:
        rank = b.raw("Size", [b.raw("Shape", [x.name])[0]])[0]
        cond = b.raw("Less", [rank, b.store(np.array(b.pick([3, 9]), np.int64))])[0]
    bodies = []
    for word in ("then", "else"):
        with b.body() as (nodes, own):
            h = inner(b, x, int(b.rng.integers(1, 4)))
            out = helper.make_tensor_value_info(h.name, TYPES[b.dtype.name], list(x.dims))
            bodies.append(helper.make_graph(nodes, word, [], [out], own))
    return b.op("If", [cond], x.dims, then_branch=bodies[0], else_branch=bodies[1])


def loop(b: Builder, x: Value) -> Value:
    """A Loop of one carried value and perhaps a collected one; mostly of a constant number of rounds."""
    if b.depth or b.opset < 11:
        return unary(b, x)
    if b.chance(0.75):
        trips, rounds = int(b.rng.integers(1, 4)), ""
        rounds = b.store(np.array(trips, np.int64))
    else:
        trips, rounds = 0, b.fresh("trips")
        b.inputs.append(helper.make_tensor_value_info(rounds, TensorProto.INT64, []))
    kind = TYPES[b.dtype.name]
    collected = b.chance(0.4)
    with b.body() as (nodes, own):
        iteration, going, carried = b.fresh("i"), b.fresh("going"), Value(b.fresh("carried"), x.dims)
        b.pool.append(carried)
        if b.chance(0.4):  # something that depends on the round
            number = b.raw("Cast", [iteration], to=kind)[0]
            number = b.raw("Mul", [number, b.scalar(0.25, ())])[0]
            h = b.op("Add", [carried, number], x.dims)
        else:
            h = carried
        h = b.op("Tanh", [inner(b, h, int(b.rng.integers(1, 3)))], x.dims)  # rounds do not add up
        on = b.raw("Identity", [going])[0]
        given = [
            helper.make_tensor_value_info(iteration, TensorProto.INT64, []),
            helper.make_tensor_value_info(going, TensorProto.BOOL, []),
            helper.make_tensor_value_info(carried.name, kind, list(x.dims)),
        ]
        results = [
            helper.make_tensor_value_info(on, TensorProto.BOOL, []),
            helper.make_tensor_value_info(h.name, kind, list(x.dims)),
        ]
        if collected:
            part = b.op(b.pick(["Abs", "Sigmoid"]), [h], x.dims)
            results.append(helper.make_tensor_value_info(part.name, kind, list(x.dims)))
        body = helper.make_graph(nodes, "body", given, results, own)
    start = b.store(np.array(True)) if b.chance(0.5) else ""
    names = b.raw("Loop", [rounds, start, x.name], 1 + collected, body=body)
    value = Value(names[0], x.dims)
    b.pool.append(value)
    if collected:
        means = reduced(b, Value(names[1], (trips, *x.dims)), "ReduceMean", [0], 0, x.dims)
        return b.op("Add", [value, means], x.dims) if trips else value
    return value


def sequence(b: Builder, x: Value) -> Value:
    """Parts of the channels in a sequence, taken out or put together again."""
    if b.opset < 11 or b.dtype.name != "float32":
        return unary(b, x)
    axis = int(b.rng.integers(1, x.rank))
    one = b.store(np.array(1, np.int64))
    if b.chance(0.5):
        parts = b.raw("SplitToSequence", [x.name, one], axis=axis)[0]
        if b.chance(0.5):
            return b.op("ConcatFromSequence", [parts], x.dims, axis=axis)
        place = b.store(np.array(int(b.rng.integers(-1, x.inner[axis - 1])), np.int64))
        dims = [*x.dims]
        dims[axis] = 1
        return b.op("SequenceAt", [parts, place], dims)
    other = unary(b, x)
    if b.chance(0.5):
        made = b.raw("SequenceConstruct", [x.name, other.name])[0]
    else:
        made = b.raw("SequenceEmpty", [], dtype=TYPES[b.dtype.name])[0]
        made = b.raw("SequenceInsert", [made, x.name])[0]
        made = b.raw("SequenceInsert", [made, other.name])[0]
    if b.chance(0.5) or math.prod(x.inner) * 2 > LARGEST:
        return b.op("SequenceAt", [made, b.store(np.array(b.pick([0, 1, -1]), np.int64))], x.dims)
    dims = [*x.dims]
    dims[axis] = 2 * x.inner[axis - 1]
    return b.op("ConcatFromSequence", [made], dims, axis=axis)


def function(b: Builder, x: Value) -> Value:
    """A call of a function of the model: x + tanh(k x), through nodes that simplify."""
    if not b.functions:
        imports = [helper.make_opsetid("", b.opset)]
        nodes = [
            helper.make_node("Identity", ["a"], ["p"]),
            helper.make_node("LeakyRelu", ["p"], ["q"]),
            helper.make_node("Dropout", ["q"], ["r"]),
            helper.make_node("Tanh", ["r"], ["s"]),
            helper.make_node("Add", ["a", "s"], ["y"]),
        ]
        slope = onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
        nodes[1].attribute.append(slope)
        b.functions.append(helper.make_function(LOCAL, "Soft", ["a"], ["y"], nodes, imports, ["slope"]))
    return b.op("Soft", [x], x.dims, domain=LOCAL, slope=float(b.pick([0.5, 0.25])))


def where(b: Builder, x: Value) -> Value:
    """A choice between two values: by an input, a constant, or the sign (continuous)."""
    kind = b.rng.random()
    if kind < 0.4 and b.opset >= 9:
        zero = b.scalar(0.0, ())
        cond = b.raw("Greater", [x.name, zero])[0]
        if b.chance(0.3):
            cond = b.raw("Not", [b.raw("Not", [cond])[0]])[0]
        return b.op("Where", [cond, x, b.op("Mul", [x, b.scalar(0.25, ())], x.dims)], x.dims)
    if kind < 0.6:
        cond = b.fresh("cond")
        b.inputs.append(helper.make_tensor_value_info(cond, TensorProto.BOOL, b.pick([[], [1], [x.inner[-1]]])))
    elif kind < 0.8:
        cond = b.store(b.rng.random(b.pick([(), (x.inner[-1],), x.inner])) < 0.5)
    else:
        cond = b.store(np.full(b.pick([(), (1,), x.inner]), b.chance(0.5)))
    other = b.pick([v for v in b.pool if v.dims == x.dims])
    if b.chance(0.4):
        return b.op("Where", [cond, b.scalar(b.pick([0.0, -1.0]), ()), x], x.dims)
    return b.op("Where", [cond, x, other], x.dims)
