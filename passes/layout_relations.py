"""What ``layout_ops`` says of an operator: which axes of its inputs are which of its outputs, and what its twin is.

``with_constants`` makes the relation of operators whose operands broadcast to one rank: constants that vary get all
axes and are transposed, single elements stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, constant, constant_tensor, constant_value, dims_of, static_shape, stored_twice
from edgeopt.passes.layout_perms import Perm, inverse

Group = tuple[tuple[int, ...], tuple[int, ...]]  # axes of the input, axes of the output, both in order


@dataclass(frozen=True)
class Parts:
    """What the twin of a node is made of; None as an attribute takes it away."""

    op_type: str
    inputs: Sequence[ir.Value | None]
    attributes: dict[str, ir.Attr | None]


@dataclass(frozen=True)
class Relation:
    """An operator's axes.

    Attributes:
        data: Positions of the inputs that have a twin; all others are parameters.
        groups: Which axes of the inputs are which of the outputs.
        ranks: Of the data inputs, and of the outputs.
        twin: From the permutations p (inputs) and q (outputs) and the inputs with twins in place, the twin's parts.
        allowed: Whether there is a twin for p and q.
    """

    data: tuple[int, ...]
    groups: tuple[Group, ...]
    ranks: tuple[int, int]
    twin: Callable[[Perm, Perm, list[ir.Value | None]], Parts]
    allowed: Callable[[Perm, Perm], bool] = lambda p, q: True


def carried(perm: Perm, groups: Sequence[Group], rank: int, free: str = "stay") -> Perm | None:
    """The permutation on the other side of a node, or None if merged axes do not stay side by side.

    Args:
        perm: On this side.
        groups: Axes of this side, axes of the other side.
        rank: Of the other side.
        free: Where the twin has an axis that only the other side has: at its old place (``stay``), or in front of
            (``follow``) or behind (``precede``) the axis that it stood beside.
    """
    group_of = {axis: g for g in groups for axis in g[0]}
    sequence = sorted(group_of, key=lambda axis: perm[axis])
    order: list[int] = []
    at = 0
    while at < len(sequence):
        mine, others = group_of[sequence[at]]
        if tuple(sequence[at : at + len(mine)]) != mine:
            return None
        order += others
        at += len(mine)
    alone = [axis for axis in range(rank) if axis not in set(order)]
    if free == "stay":
        for axis in alone:
            order.insert(axis, axis)
    else:
        for axis in alone if free == "precede" else alone[::-1]:
            beside = axis - 1 if free == "precede" else axis + 1
            if not 0 <= beside < rank:
                order.insert(0 if free == "precede" else len(order), axis)
            else:
                order.insert(order.index(beside) + (free == "precede"), axis)
    return inverse(tuple(order))


def fits(p: Perm, q: Perm, groups: Sequence[Group]) -> bool:
    """Whether p and q put the groups in the same order, merged axes side by side."""
    found = carried(p, groups, len(q))
    if found is None:
        return False
    there = [axis for g in groups for axis in g[1]]
    return sorted(there, key=lambda a: found[a]) == sorted(there, key=lambda a: q[a])


def used(value: ir.Value) -> bool:
    """Whether anybody reads the value."""
    return bool(value.uses()) or value.is_graph_output()


def same(rank: int) -> tuple[Group, ...]:
    """Each axis of the input is that of the output."""
    return tuple(((k,), (k,)) for k in range(rank))


def as_it_is(node: ir.Node) -> Callable[[Perm, Perm, list[ir.Value | None]], Parts]:
    """The twin is the same node on other inputs."""
    return lambda p, q, inputs: Parts(node.op_type, inputs, {})


def with_constants(
    node: ir.Node, rank: int, build: Callable[[Perm, Perm, list[ir.Value | None]], Parts]
) -> Relation | None:
    """Operands that broadcast to ``rank`` axes, some constant; None where one cannot be moved."""
    data: list[int] = []
    fixed: dict[int, Array] = {}
    for k, value in enumerate(node.inputs):
        if value is None:
            return None
        dims = dims_of(value)
        if constant_tensor(value) is not None:
            shape = static_shape(value) or tuple(constant_tensor(value).shape.numpy())  # type: ignore[union-attr]
            if len(shape) > rank or stored_twice(value) is not None:
                return None
            if math.prod(shape) != 1:
                fixed[k] = np.zeros(0)
        elif dims is not None and len(dims) == rank:
            data.append(k)
        elif dims is None or any(d != 1 for d in dims) or len(dims) > rank:
            return None
    if not data:
        return None

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        for k in fixed:
            inputs[k] = _moved(node, k, p)
        return build(p, q, inputs)

    return Relation(tuple(data), same(rank), (rank, rank), twin)


def _moved(node: ir.Node, position: int, perm: Perm) -> ir.Value:
    """The constant operand in the twin's order of axes."""
    value = node.inputs[position]
    array = constant(value)
    assert array is not None  # the caller found a constant there
    full = array.reshape(*[1] * (len(perm) - array.ndim), *array.shape)
    moved = full.transpose(inverse(perm))
    while array.ndim < len(perm) and moved.ndim > 1 and moved.shape[0] == 1:
        moved = moved[0]
    return constant_value(f"{value.name if value is not None else ''}/moved", np.ascontiguousarray(moved))
