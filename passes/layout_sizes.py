"""The relations of operators with a number per axis, of those that change the shape, and of those with channels.

Cases 2 to 4 of ``layout_ops``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.graph import (
    Dims,
    attribute,
    constant,
    constant_tensor,
    constant_value,
    dims_of,
    input_or_none,
    static_shape,
)
from edgeopt.passes.layout_perms import Perm, inverse, view_shape
from edgeopt.passes.layout_relations import Group, Parts, Relation, as_it_is, same, used

_MODES = {"nearest", "linear", "cubic"}

GLOBAL_POOLS = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}


def slice_of(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """Slice along constant axes."""
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

    return Relation((0,), same(rank), (rank, rank), twin)


def pad(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """Pad by constant amounts, or by any along constant axes."""
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

    return Relation((0,), same(rank), (rank, rank), twin)


def per_axis(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """Tile and Expand to the same rank: a number per axis as input 1."""
    rank = len(dims)
    numbers = constant(input_or_none(node, 1))
    if version < 6 or numbers is None or numbers.size != rank:
        return None

    def twin(p: Perm, q: Perm, inputs: list[ir.Value | None]) -> Parts:
        moved = np.ascontiguousarray(numbers.reshape(-1)[list(inverse(p))])
        return Parts(node.op_type, [inputs[0], constant_value(f"{node.name}/moved", moved)], {})

    return Relation((0,), same(rank), (rank, rank), twin)


def resize(node: ir.Node, dims: Dims, version: int) -> Relation | None:
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

    return Relation((0,), same(rank), (rank, rank), twin, last_two)


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


def reshape(node: ir.Node, dims: Dims, version: int) -> Relation | None:
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


def channels(node: ir.Node, dims: Dims, version: int) -> Relation | None:
    """Case 4."""
    rank = len(dims)
    kind = node.op_type
    if kind == "BatchNormalization" and (
        attribute(node, "training_mode", 0)
        or not attribute(node, "spatial", 1)
        or (version < 7 and not attribute(node, "is_test", 0))
        or any(used(o) for o in node.outputs[1:])
    ):
        return None

    def in_place(p: Perm, q: Perm) -> bool:
        return p[:2] == (0, 1) if kind != "BatchNormalization" else p[1] == 1

    if kind not in GLOBAL_POOLS:
        return Relation((0,), same(rank), (rank, rank), as_it_is(node), in_place)
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
            return Parts(GLOBAL_POOLS[kind], [inputs[0], value], {**keep})
        return Parts(GLOBAL_POOLS[kind], inputs, {**keep, "axes": ir.AttrInt64s("axes", axes)})

    return Relation((0,), same(rank), (rank, rank), twin)
