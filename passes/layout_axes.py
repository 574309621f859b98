"""The relations of operators that name an axis or several, as an attribute or a constant (case 2 of ``layout_ops``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Dims, attribute, constant, constant_value, dims_of, input_or_none
from edgeopt.passes.layout_perms import Perm, inverse
from edgeopt.passes.layout_relations import Parts, Relation, same, with_constants

AXIS = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "Concat": None, "Split": 0, "TopK": -1, "LpNormalization": -1}


def axes_of(node: ir.Node, position: int, rank: int) -> list[int] | None:
    """The axes of a Reduce, Squeeze or Unsqueeze, from the input at ``position`` or the attribute, counted from 0.

    None if they are not constant or not given (``position`` and attribute both absent).
    """
    value = input_or_none(node, position)
    if value is not None:
        array = constant(value)
        listed = None if array is None else [int(a) for a in array.reshape(-1)]
    else:
        given = attribute(node, "axes")
        listed = None if given is None else [int(a) for a in given]
    if listed is None or any(not -rank <= a < rank for a in listed):
        return None
    return [a % rank for a in listed]


def with_axes(node: ir.Node, source: ir.Value | None, axes: Sequence[int], as_input: bool) -> Parts:
    """The node with other axes, as an input or an attribute, as the opset wants it."""
    if as_input:
        value = constant_value(f"{node.name}/axes", np.array(axes, np.int64))
        return Parts(node.op_type, [source, value], {"axes": None})
    return Parts(node.op_type, [source], {"axes": ir.AttrInt64s("axes", list(axes))})


def reduces_by_input(kind: str, version: int) -> bool:
    """Whether the axes of this Reduce… (or Squeeze, Unsqueeze) are an input."""
    return version >= (13 if kind in ("ReduceSum", "Squeeze", "Unsqueeze") else 18)


def one_axis(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """Softmax and its like, Concat, Split, TopK: one axis as an attribute."""
    rank = len(dims)
    default = AXIS[node.op_type]
    coerced = node.op_type in ("Softmax", "LogSoftmax", "Hardmax") and version < 13
    given = attribute(node, "axis", 1 if coerced else default)
    if given is None or not -rank <= given < rank:
        return None
    axis = given % rank

    def build(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        return Parts(node.op_type, inputs, {"axis": ir.AttrInt64("axis", p[axis])})

    if node.op_type == "Concat":
        return with_constants(node, rank, build)
    if coerced:  # over all axes from this one on, as one
        if any(d != 1 for d in dims[axis + 1 :]):
            return None

        def one_axis(p: Perm, q: Perm) -> bool:
            return all(dims[inverse(p)[k]] == 1 for k in range(p[axis] + 1, rank))

        return Relation((0,), same(rank), (rank, rank), build, one_axis)
    return Relation((0,), same(rank), (rank, rank), build)


def reduce(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """ReduceSum, ReduceMean and their like: the axes are of the input alone unless they are kept."""
    rank = len(dims)
    given = input_or_none(node, 1) is not None or "axes" in node.attributes
    axes = axes_of(node, 1, rank) if given else list(range(rank))
    if axes is None or (not axes and given) or (not given and attribute(node, "noop_with_empty_axes", 0)):
        return None
    keep = attribute(node, "keepdims", 1)
    left = [k for k in range(rank) if k not in axes]
    groups = same(rank) if keep else tuple(((k,), (j,)) for j, k in enumerate(left))

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        return with_axes(node, inputs[0], sorted(p[a] for a in axes), reduces_by_input(node.op_type, version))

    return Relation((0,), groups, (rank, rank if keep else len(left)), twin)


def arg_of(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """ArgMax and ArgMin."""
    rank = len(dims)
    axis = attribute(node, "axis", 0)
    if not -rank <= axis < rank:
        return None
    axis %= rank
    keep = attribute(node, "keepdims", 1)
    left = [k for k in range(rank) if k != axis]
    groups = same(rank) if keep else tuple(((k,), (j,)) for j, k in enumerate(left))

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        return Parts(node.op_type, inputs, {"axis": ir.AttrInt64("axis", p[axis])})

    return Relation((0,), groups, (rank, rank if keep else rank - 1), twin)


def squeeze(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """Squeeze: the axes are of the input alone."""
    rank = len(dims)
    given = input_or_none(node, 1) is not None or "axes" in node.attributes
    axes = axes_of(node, 1, rank) if given else [k for k, d in enumerate(dims) if d == 1]
    if not axes or (not given and any(not isinstance(d, int) for d in dims)):
        return None
    left = [k for k in range(rank) if k not in axes]

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        return with_axes(node, inputs[0], sorted(p[a] for a in axes), reduces_by_input("Squeeze", version))

    return Relation((0,), tuple(((k,), (j,)) for j, k in enumerate(left)), (rank, len(left)), twin)


def unsqueeze(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """Unsqueeze: the axes are of the output alone."""
    out = dims_of(node.outputs[0])
    axes = axes_of(node, 1, len(out)) if out is not None else None
    if not axes or out is None:
        return None
    old = [k for k in range(len(out)) if k not in axes]

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        return with_axes(node, inputs[0], sorted(q[a] for a in axes), reduces_by_input("Unsqueeze", version))

    return Relation((0,), tuple(((k,), (j,)) for k, j in enumerate(old)), (len(dims), len(out)), twin)


def gather(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """Gather by a scalar, which takes the axis away, or by a vector."""
    rank = len(dims)
    index = input_or_none(node, 1)
    shape = dims_of(index) if index is not None else None
    axis = attribute(node, "axis", 0)
    if shape is None or len(shape) > 1 or not -rank <= axis < rank:
        return None
    axis %= rank
    left = [k for k in range(rank) if k != axis]
    groups = same(rank) if shape else tuple(((k,), (j,)) for j, k in enumerate(left))

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        return Parts("Gather", inputs, {"axis": ir.AttrInt64("axis", p[axis])})

    return Relation((0,), groups, (rank, rank if shape else rank - 1), twin)


def cumsum(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """CumSum along a constant axis."""
    axis = constant(input_or_none(node, 1))
    if axis is None or axis.size != 1 or not -len(dims) <= int(axis.reshape(-1)[0]) < len(dims):
        return None

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        moved = np.array(p[int(axis.reshape(-1)[0]) % len(dims)], axis.dtype).reshape(axis.shape)
        return Parts("CumSum", [inputs[0], constant_value(f"{node.name}/axis", moved)], {})

    return Relation((0,), same(len(dims)), (len(dims), len(dims)), twin)
