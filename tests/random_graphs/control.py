"""Motifs with bodies, sequences, functions and computed sizes."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from tests.random_graphs.builder import TYPES, Builder, Move, Value
from tests.random_graphs.general import activation_chain, affine, batch_norm, combine, duplicate, noop, transposes, unary
from tests.random_graphs.images import conv_same


def branches(b: Builder, x: Value) -> Value:
    """An If whose bodies capture values; its condition is an input, a constant, or comes from a shape."""
    if b.depth or len(b.nodes) < 2:
        return unary(b, x)
    kind = b.rng.random()
    if kind < 0.5:
        cond = b.fresh("cond")
        b.inputs.append(helper.make_tensor_value_info(cond, TensorProto.BOOL, []))
    elif kind < 0.75:
        cond = b.store(np.array(b.chance(0.5)))
    else:
        rank = b.raw("Size", [b.raw("Shape", [x.name])[0]])[0]
        cond = b.raw("Less", [rank, b.store(np.array(b.pick([3, 9]), np.int64))])[0]
    bodies = []
    for word in ("then", "else"):
        with b.body() as (nodes, own):
            h = x
            for _ in range(int(b.rng.integers(1, 4))):
                moves: list[Move] = [unary, noop, affine, activation_chain, transposes, duplicate, combine]
                if x.rank == 4:
                    moves += [conv_same, batch_norm]
                h = b.pick(moves)(b, h)
            if h.name == x.name:
                h = unary(b, h)
            out = helper.make_tensor_value_info(h.name, TYPES[b.dtype.name], list(x.dims))
            bodies.append(helper.make_graph(nodes, word, [], [out], own))
    return b.op("If", [cond], x.dims, then_branch=bodies[0], else_branch=bodies[1])
