"""How operators that do not care about the order of axes look in another order.

The twin of a value v under a permutation p is the tensor v' with v = Transpose(v', perm = p): axis i of v is axis
p[i] of v'. An operator is a relation between the axes of its data inputs and those of its outputs: groups of axes
that correspond to each other, and axes of one side alone (reduced, squeezed, indexed, of size 1). From the
permutation on one side follows the one on the other; the twin of the node computes the twin of its output from the
twins of its inputs, with axes and constants moved accordingly.

1. Element by element, with broadcasting: constants get all axes and are transposed; single elements stay
2. An axis or several as attribute or constant: Softmax, Concat, Split, Slice, Pad, Reduce…, ArgMax, Squeeze,
   Unsqueeze, Gather by a scalar or a vector, CumSum, TopK, Resize, Upsample, Tile, Expand
3. Reshape that only splits, merges or adds axes, as long as merged axes lie side by side in the twin too
4. BatchNormalization, InstanceNormalization where the channels stay axis 1; global pools become ReduceMean and
   ReduceMax where they do not

No relation (None): parameters that are not constant, an unknown rank, two operands of different ranks, a large
shared constant that would be stored twice, Softmax before opset 13 over several axes, Resize by a region of interest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.graph import (
    Array,
    Dims,
    attribute,
    constant,
    constant_tensor,
    constant_value,
    dims_of,
    input_or_none,
    is_op,
    static_shape,
    stored_twice,
)

Perm = tuple[int, ...]
Group = tuple[tuple[int, ...], tuple[int, ...]]  # axes of the input, axes of the output, both in order

UNARY = frozenset(
    [
        "Abs",
        "Acos",
        "Acosh",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "Cast",
        "Ceil",
        "Celu",
        "Cos",
        "Cosh",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Not",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Swish",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
        "Clip",
    ]
)  # further inputs are single elements
_NARY = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Max",
        "Min",
        "Sum",
        "Mean",
        "And",
        "Or",
        "Xor",
        "Equal",
        "Greater",
        "Less",
        "GreaterOrEqual",
        "LessOrEqual",
        "Where",
        "Mod",
        "PRelu",
    ]
)
_REDUCE = frozenset(
    [
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    ]
)
_GLOBAL_POOLS = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}
_AXIS = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "Concat": None, "Split": 0, "TopK": -1, "LpNormalization": -1}
_MODES = {"nearest", "linear", "cubic"}


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


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes ``perm``."""
    return tuple(int(k) for k in np.argsort(perm))


def composed(first: Perm, second: Perm) -> Perm:
    """The permutation of Transpose(Transpose(x, first), second)."""
    return tuple(first[k] for k in second)


def is_identity(perm: Perm) -> bool:
    """Whether the permutation moves nothing."""
    return perm == tuple(range(len(perm)))


def perm_of(node: ir.Node) -> Perm | None:
    """The permutation of a Transpose; all axes turned round if it names none; None if the rank is unknown."""
    perm = attribute(node, "perm")
    if perm is not None:
        return tuple(int(k) for k in perm)
    value = node.inputs[0] if node.inputs else None
    dims = dims_of(value) if value is not None else None
    dims = dims if dims is not None else dims_of(node.outputs[0])
    return tuple(range(len(dims)))[::-1] if dims is not None else None


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


def twin_dims(value: ir.Value, perm: Perm) -> Dims | None:
    """Dimensions of the twin."""
    dims = dims_of(value)
    if dims is None:
        return None
    return tuple(dims[k] for k in inverse(perm))


def view_shape(before: Dims, after: Dims) -> list[int] | None:
    """The constant shape of a Reshape between tensors of these dims; None if it needs more than one unknown.

    0 stands for "as before", -1 for the one size that is not known; both only where no dimension is empty.
    """
    shape: list[int] = []
    if any(d == 0 for d in (*before, *after)):
        return None
    for k, dim in enumerate(after):
        if isinstance(dim, int):
            shape.append(dim)
        elif dim is not None and k < len(before) and before[k] == dim:
            shape.append(0)
        else:
            shape.append(-1)
    return shape if shape.count(-1) <= 1 else None


def moves_only_ones(dims: Dims, perm: Perm) -> bool:
    """Whether a Transpose leaves the elements where they are: only axes of size 1 change places."""
    kept = [k for k in perm if dims[k] != 1]
    return kept == sorted(kept)


def transposing(value: ir.Value, perm: Perm, name: str | None) -> ir.Node:
    """A Transpose, or a Reshape if only axes of size 1 move and at most one size is not known."""
    dims = dims_of(value)
    after: Dims | None = tuple(dims[k] for k in perm) if dims is not None else None
    base = name or value.name
    outputs = [
        ir.Value(name=f"{base}/transposed", type=value.type, shape=ir.Shape(after) if after is not None else None)
    ]
    if dims is not None and after is not None and moves_only_ones(dims, perm):
        shape = view_shape(dims, after)
        if shape is not None:
            target = constant_value(f"{base}/shape", np.array(shape, np.int64))
            return ir.Node("", "Reshape", inputs=[value, target], outputs=outputs, name=name or "")
    attributes = [ir.AttrInt64s("perm", list(perm))]
    return ir.Node("", "Transpose", inputs=[value], attributes=attributes, outputs=outputs, name=name or "")


def relation(node: ir.Node, version: int) -> Relation | None:
    """How the axes of this node's inputs and outputs belong together, or None."""
    source = input_or_none(node, 0)
    dims = dims_of(source) if source is not None else None
    if dims is None or not is_op(node, node.op_type) or any(_used(o) and dims_of(o) is None for o in node.outputs):
        return None
    kind = node.op_type
    if kind in UNARY:
        return _unary(node, dims)
    if kind in _NARY:
        return _nary(node, version)
    for kinds, make in _MAKERS:
        if kind in kinds:
            return make(node, dims, version)
    return None


# ------------------------------------------------------------------------------------------------ element by element
def _used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _same(rank: int) -> tuple[Group, ...]:
    return tuple(((k,), (k,)) for k in range(rank))


def _as_it_is(node: ir.Node) -> Callable[[Perm, Perm, list[ir.Value | None]], Parts]:
    return lambda p, q, inputs: Parts(node.op_type, inputs, {})


def _unary(node: ir.Node, dims: Dims) -> Relation | None:
    if any(_used(o) for o in node.outputs[1:]):
        return None
    return Relation((0,), _same(len(dims)), (len(dims), len(dims)), _as_it_is(node))


def _nary(node: ir.Node, version: int) -> Relation | None:
    """Case 1; before opset 7 an attribute said how to broadcast."""
    dims = dims_of(node.outputs[0])
    if version < 7 or dims is None:
        return None
    return _with_constants(node, len(dims), _as_it_is(node))


def _with_constants(
    node: ir.Node, rank: int, build: Callable[[Perm, Perm, list[ir.Value | None]], Parts]
) -> Relation | None:
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

    return Relation(tuple(data), _same(rank), (rank, rank), twin)


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


# ------------------------------------------------------------------------------------------------ axes
def _axis(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """Softmax and its like, Concat, Split, TopK: one axis as an attribute."""
    rank = len(dims)
    default = _AXIS[node.op_type]
    coerced = node.op_type in ("Softmax", "LogSoftmax", "Hardmax") and version < 13
    given = attribute(node, "axis", 1 if coerced else default)
    if given is None or not -rank <= given < rank:
        return None
    axis = given % rank

    def build(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        return Parts(node.op_type, inputs, {"axis": ir.AttrInt64("axis", p[axis])})

    if node.op_type == "Concat":
        return _with_constants(node, rank, build)
    if coerced:  # over all axes from this one on, as one
        if any(d != 1 for d in dims[axis + 1 :]):
            return None

        def one_axis(p: Perm, q: Perm) -> bool:
            return all(dims[inverse(p)[k]] == 1 for k in range(p[axis] + 1, rank))

        return Relation((0,), _same(rank), (rank, rank), build, one_axis)
    return Relation((0,), _same(rank), (rank, rank), build)


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


def _reduce(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    rank = len(dims)
    given = input_or_none(node, 1) is not None or "axes" in node.attributes
    axes = axes_of(node, 1, rank) if given else list(range(rank))
    if axes is None or (not axes and given) or (not given and attribute(node, "noop_with_empty_axes", 0)):
        return None
    keep = attribute(node, "keepdims", 1)
    left = [k for k in range(rank) if k not in axes]
    groups = _same(rank) if keep else tuple(((k,), (j,)) for j, k in enumerate(left))

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        return with_axes(node, inputs[0], sorted(p[a] for a in axes), reduces_by_input(node.op_type, version))

    return Relation((0,), groups, (rank, rank if keep else len(left)), twin)


def _arg(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    rank = len(dims)
    axis = attribute(node, "axis", 0)
    if not -rank <= axis < rank:
        return None
    axis %= rank
    keep = attribute(node, "keepdims", 1)
    left = [k for k in range(rank) if k != axis]
    groups = _same(rank) if keep else tuple(((k,), (j,)) for j, k in enumerate(left))

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        return Parts(node.op_type, inputs, {"axis": ir.AttrInt64("axis", p[axis])})

    return Relation((0,), groups, (rank, rank if keep else rank - 1), twin)


def _squeeze(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    rank = len(dims)
    given = input_or_none(node, 1) is not None or "axes" in node.attributes
    axes = axes_of(node, 1, rank) if given else [k for k, d in enumerate(dims) if d == 1]
    if not axes or (not given and any(not isinstance(d, int) for d in dims)):
        return None
    left = [k for k in range(rank) if k not in axes]

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        return with_axes(node, inputs[0], sorted(p[a] for a in axes), reduces_by_input("Squeeze", version))

    return Relation((0,), tuple(((k,), (j,)) for j, k in enumerate(left)), (rank, len(left)), twin)


def _unsqueeze(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    out = dims_of(node.outputs[0])
    axes = axes_of(node, 1, len(out)) if out is not None else None
    if not axes or out is None:
        return None
    old = [k for k in range(len(out)) if k not in axes]

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        return with_axes(node, inputs[0], sorted(q[a] for a in axes), reduces_by_input("Unsqueeze", version))

    return Relation((0,), tuple(((k,), (j,)) for k, j in enumerate(old)), (len(dims), len(out)), twin)


def _gather(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    rank = len(dims)
    index = input_or_none(node, 1)
    shape = dims_of(index) if index is not None else None
    axis = attribute(node, "axis", 0)
    if shape is None or len(shape) > 1 or not -rank <= axis < rank:
        return None
    axis %= rank
    left = [k for k in range(rank) if k != axis]
    groups = _same(rank) if shape else tuple(((k,), (j,)) for j, k in enumerate(left))

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        return Parts("Gather", inputs, {"axis": ir.AttrInt64("axis", p[axis])})

    return Relation((0,), groups, (rank, rank if shape else rank - 1), twin)


def _cumsum(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    axis = constant(input_or_none(node, 1))
    if axis is None or axis.size != 1 or not -len(dims) <= int(axis.reshape(-1)[0]) < len(dims):
        return None

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        moved = np.array(p[int(axis.reshape(-1)[0]) % len(dims)], axis.dtype).reshape(axis.shape)
        return Parts("CumSum", [inputs[0], constant_value(f"{node.name}/axis", moved)], {})

    return Relation((0,), _same(len(dims)), (len(dims), len(dims)), twin)


# ------------------------------------------------------------------------------------------------ a number per axis
def _slice(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    rank = len(dims)
    if version < 10:
        count = len(attribute(node, "starts", ()))
        listed = [int(a) for a in attribute(node, "axes", range(count))]
    else:
        value, starts = input_or_none(node, 3), input_or_none(node, 1)
        array = constant(value)
        found = static_shape(starts) if starts is not None else None
        if (value is not None and array is None) or (value is None and not found):
            return None
        listed = [int(a) for a in array] if array is not None else list(range(found[0] if found else 0))
    if any(not -rank <= a < rank for a in listed):
        return None

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        axes = [p[a % rank] for a in listed]
        if version < 10:
            return Parts("Slice", inputs, {"axes": ir.AttrInt64s("axes", axes)})
        value = constant_value(f"{node.name}/axes", np.array(axes, np.int64))
        steps = inputs[4:]
        kind = node.inputs[1].dtype if node.inputs[1] is not None else None
        if kind == ir.DataType.INT32:  # starts, ends, axes and steps are of one type
            value = constant_value(f"{node.name}/axes", np.array(axes, np.int32))
        return Parts("Slice", [*inputs[:3], value, *steps], {})

    return Relation((0,), _same(rank), (rank, rank), twin)


def _pad(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    rank = len(dims)
    chosen = input_or_none(node, 3)
    stored = constant(input_or_none(node, 1)) if version >= 11 else attribute(node, "pads")
    axes = constant(chosen) if chosen is not None else np.arange(rank)
    if axes is None or (stored is None and chosen is None):
        return None
    if chosen is None and (stored is None or len(stored) != 2 * rank):
        return None

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        if chosen is not None:
            moved = np.array([p[int(a) % rank] for a in axes], axes.dtype)
            return Parts("Pad", [*inputs[:3], constant_value(f"{node.name}/axes", moved)], {})
        pads = np.asarray(stored, np.int64).reshape(2, rank)[:, list(inverse(p))].reshape(-1)
        if version < 11:
            return Parts("Pad", inputs, {"pads": ir.AttrInt64s("pads", pads.tolist())})
        value = constant_value(f"{node.name}/pads", np.ascontiguousarray(pads))
        return Parts("Pad", [inputs[0], value, *inputs[2:]], {})

    return Relation((0,), _same(rank), (rank, rank), twin)


def _per_axis(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """Tile and Expand to the same rank: a number per axis as input 1."""
    rank = len(dims)
    numbers = constant(input_or_none(node, 1))
    if version < 6 or numbers is None or numbers.size != rank:
        return None

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        moved = np.ascontiguousarray(numbers.reshape(-1)[list(inverse(p))])
        return Parts(node.op_type, [inputs[0], constant_value(f"{node.name}/moved", moved)], {})

    return Relation((0,), _same(rank), (rank, rank), twin)


def _resize(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """The twin of a smooth Resize must scale the last two axes only: what kernels are made for."""
    rank = len(dims)
    out = dims_of(node.outputs[0])
    position = {k: input_or_none(node, k) for k in range(1, len(node.inputs))}
    arrays = {k: constant(v) for k, v in position.items() if v is not None}
    if out is None or version < 9 or "axes" in node.attributes or any(a is None for a in arrays.values()):
        return None
    if attribute(node, "mode", "nearest") not in _MODES or not arrays:
        return None
    if attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    moved = {k: a for k, a in arrays.items() if a is not None and a.size == rank}
    if not moved or any(a is not None and a.size not in (0, rank, 2 * rank) for a in arrays.values()):
        return None
    roi = 1 if version >= 11 and 1 not in moved else None  # not read in this mode

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        for k, array in moved.items():
            value = np.ascontiguousarray(array[list(inverse(p))])
            inputs[k] = constant_value(f"{node.name}/{'scales' if array.dtype.kind == 'f' else 'sizes'}", value)
        if roi is not None and roi in arrays and arrays[roi].size:  # type: ignore[union-attr]
            inputs[roi] = constant_value(f"{node.name}/roi", np.zeros(0, np.float32))
        return Parts(node.op_type, inputs, {})

    def last_two(p: Perm, q: Perm) -> bool:
        scaled = [k for k in range(rank) if dims[k] != out[k]]
        return attribute(node, "mode", "nearest") == "nearest" or all(p[k] >= rank - 2 for k in scaled)

    return Relation((0,), _same(rank), (rank, rank), twin, last_two)


# ------------------------------------------------------------------------------------------------ shapes and channels
def factors(before: Dims, after: Dims) -> tuple[Group, ...] | None:
    """Which axes a Reshape splits and merges: the smallest groups of equal products, axes of size 1 left out."""
    if any(d is None or d == 0 for d in (*before, *after)):
        return None
    left = [k for k, d in enumerate(before) if d != 1]
    right = [k for k, d in enumerate(after) if d != 1]
    groups: list[Group] = []
    i = j = 0
    while i < len(left) and j < len(right):
        a, b = before[left[i]], after[right[j]]
        mine, others = [left[i]], [right[j]]
        i, j = i + 1, j + 1
        while a != b:
            if not isinstance(a, int) or not isinstance(b, int):
                return None
            if a < b:
                if i == len(left) or not isinstance(before[left[i]], int):
                    return None
                a *= before[left[i]]  # type: ignore[operator]
                mine.append(left[i])
                i += 1
            else:
                if j == len(right) or not isinstance(after[right[j]], int):
                    return None
                b *= after[right[j]]  # type: ignore[operator]
                others.append(right[j])
                j += 1
        groups.append((tuple(mine), tuple(others)))
    return tuple(groups) if i == len(left) and j == len(right) else None


def _reshape(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """Case 3."""
    out = dims_of(node.outputs[0])
    if version < 5 or out is None or (node.op_type == "Reshape" and constant_tensor(input_or_none(node, 1)) is None):
        return None
    groups = factors(dims, out)
    if groups is None:
        return None

    def shape(p: Perm, q: Perm) -> list[int] | None:
        return view_shape(tuple(dims[k] for k in inverse(p)), tuple(out[k] for k in inverse(q)))

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        value = constant_value(f"{node.name}/shape", np.array(shape(p, q), np.int64))
        return Parts("Reshape", [inputs[0], value], {"axis": None, "allowzero": None})

    return Relation((0,), groups, (len(dims), len(out)), twin, lambda p, q: shape(p, q) is not None)


def _channels(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """Case 4."""
    rank = len(dims)
    kind = node.op_type
    if kind == "BatchNormalization" and (
        attribute(node, "training_mode", 0)
        or not attribute(node, "spatial", 1)
        or (version < 7 and not attribute(node, "is_test", 0))
        or any(_used(o) for o in node.outputs[1:])
    ):
        return None

    def in_place(p: Perm, q: Perm) -> bool:
        return p[:2] == (0, 1) if kind != "BatchNormalization" else p[1] == 1

    if kind not in _GLOBAL_POOLS:
        return Relation((0,), _same(rank), (rank, rank), _as_it_is(node), in_place)
    source = node.inputs[0]
    if source is None or source.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
        return None

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        if in_place(p, q):
            return Parts(kind, inputs, {})
        axes = sorted(p[2:])
        keep = {"keepdims": ir.AttrInt64("keepdims", 1)}
        if version >= 18:
            value = constant_value(f"{node.name}/axes", np.array(axes, np.int64))
            return Parts(_GLOBAL_POOLS[kind], [inputs[0], value], {**keep})
        return Parts(_GLOBAL_POOLS[kind], inputs, {**keep, "axes": ir.AttrInt64s("axes", axes)})

    return Relation((0,), _same(rank), (rank, rank), twin)


_MAKERS: tuple[tuple[frozenset[str], Callable[[ir.Node, Dims, int], Relation | None]], ...] = (
    (frozenset(_AXIS), _axis),
    (_REDUCE, _reduce),
    (frozenset({"ArgMax", "ArgMin"}), _arg),
    (frozenset({"Squeeze"}), _squeeze),
    (frozenset({"Unsqueeze"}), _unsqueeze),
    (frozenset({"Gather"}), _gather),
    (frozenset({"CumSum"}), _cumsum),
    (frozenset({"Slice"}), _slice),
    (frozenset({"Pad"}), _pad),
    (frozenset({"Tile", "Expand"}), _per_axis),
    (frozenset({"Resize", "Upsample"}), _resize),
    (frozenset({"Reshape", "Flatten"}), _reshape),
    (frozenset({"BatchNormalization", "InstanceNormalization", *_GLOBAL_POOLS}), _channels),
)
