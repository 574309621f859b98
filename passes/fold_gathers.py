"""Gathers with constant indices: of neighbours, of what was gathered, sliced, concatenated or unsqueezed before.

1. Indices [k, k+1, …] of an axis: a Slice, which copies blocks and merges with other Slices. (Not of a Shape: small,
   and read by the passes for shapes)
2. Gather of a Gather along the same axis: one Gather of the indices at those indices
3. Gather of a Slice along the same axis: Gather of what was sliced
4. Gather of a Concat, all indices within one operand: Gather of that operand
5. Element 0 of an axis that Unsqueeze has just added: what was unsqueezed

Not folded: indices that are not constant, or beyond the axis (6), negative ones of an open axis (7), an inner node that
others read or that is an output of the graph (8), several operands (9), open operands (10).
Exact: elements are copied, none is computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, attribute, constant, constant_value, dims_of, input_or_none, is_op, opset
from edgeopt.passes.replacing import axis_of, by_node, by_value, private
from edgeopt.passes.slicing import dim_at, parts_of, slice_operands, span_of
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip


class FoldGathers:
    """The rule (see the module's docstring)."""

    name = "fold_gathers"
    ops = frozenset({"Gather"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: Slice and Unsqueeze have inputs or attributes."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Merge this Gather with what is before it, or make it a Slice."""
        if not is_op(node, "Gather") or len(node.inputs) < 2 or node.inputs[0] is None:
            return None
        indices, axis = constant(node.inputs[1]), axis_of(attribute(node, "axis", 0), node.inputs[0])
        if indices is None or axis is None or indices.size == 0:
            return None
        found = _counted(indices, dim_at(node.inputs[0], axis))
        if found is None:
            return None
        producer = node.inputs[0].producer()
        if producer is not None and producer.graph is node.graph:
            if is_op(producer, "Unsqueeze"):
                return _of_unsqueeze(node, producer, found, axis, state)
            if is_op(producer, "Gather", "Slice"):
                answer = _of_part(node, producer, found, axis, state)
                return answer if isinstance(answer, Rewrite) else _slice(node, found, axis, state) or answer
            if is_op(producer, "Concat"):
                answer = _of_concat(node, producer, found, axis)
                return answer if isinstance(answer, Rewrite) else _slice(node, found, axis, state) or answer
        return _slice(node, found, axis, state)


def _counted(indices: Array, size: int | None) -> Array | None:
    """Indices from the front, int64; cases 6 and 7."""
    wide = indices.astype(np.int64)
    if size is None:
        return wide if (wide >= 0).all() else None
    counted = np.where(wide < 0, wide + size, wide)
    return counted if ((counted >= 0) & (counted < size)).all() else None


def _gather(nodes: tuple[ir.Node, ...], source: ir.Value, indices: Array, axis: int) -> Rewrite:
    name = nodes[0].name
    stored = constant_value(f"{name}/indices", np.array(indices, order="C"))
    return by_node(nodes, "Gather", [source, stored], [ir.AttrInt64("axis", axis)])


def _slice(node: ir.Node, indices: Array, axis: int, version: int) -> Rewrite | None:
    """Case 1."""
    source = node.inputs[0]
    if source is None or indices.ndim != 1 or is_op(source.producer(), "Shape"):
        return None
    if not np.array_equal(indices, np.arange(indices[0], indices[0] + len(indices))):
        return None
    part = (int(indices[0]), int(indices[-1]) + 1, 1)
    operands = slice_operands(source, {axis: part}, version, node.name or "")
    return by_node((node,), "Slice", *operands) if operands is not None else None


def _of_part(node: ir.Node, inner: ir.Node, indices: Array, axis: int, version: int) -> Answer:
    """Cases 2 and 3."""
    name, source = node.name or "", inner.inputs[0]
    if source is None:
        return None
    if inner.op_type == "Gather":
        first = constant(input_or_none(inner, 1))
        if first is None or first.ndim != 1 or axis_of(attribute(inner, "axis", 0), source) != axis:
            return None
        taken = _counted(first, dim_at(source, axis))
        if taken is None or indices.max() >= len(taken):
            return None
        chosen = taken[indices]
    else:
        parts = parts_of(inner, version)
        if parts is None or list(parts) != [axis]:
            return None
        size = dim_at(source, axis)
        start, stop, step = parts[axis]
        if size is not None:
            start, _, step = span_of(parts[axis], size)
        elif start < 0 or step != 1 or (stop < 0 or start + indices.max() >= stop):
            return Skip(name, f"what Slice {inner.name!r} takes depends on the size of axis {axis}, which is open")
        chosen = start + indices * step
    if not private(inner.outputs[0], node):
        return Skip(name, f"{inner.op_type} {inner.name!r} is read by other nodes too, or is an output of the graph")
    return _gather((node, inner), source, chosen, axis)


def _of_concat(node: ir.Node, concat: ir.Node, indices: Array, axis: int) -> Answer:
    """Case 4."""
    if axis_of(attribute(concat, "axis", 1), concat.outputs[0]) != axis:
        return None
    offset = 0
    for value in concat.inputs:
        size = dim_at(value, axis)
        if size is None or value is None:
            return Skip(node.name or "", f"an operand of Concat {concat.name!r} has an open size on axis {axis}")
        if indices.min() >= offset and indices.max() < offset + size:
            return _gather((node, concat), value, indices - offset, axis)
        if indices.min() < offset + size:
            return Skip(node.name or "", f"it takes from several operands of Concat {concat.name!r}")
        offset += size
    return None


def _of_unsqueeze(node: ir.Node, unsqueeze: ir.Node, indices: Array, axis: int, version: int) -> Answer:
    """Case 5: a scalar index, so that the axis goes again."""
    axes = constant(input_or_none(unsqueeze, 1)) if version >= 13 else attribute(unsqueeze, "axes")
    source, dims = unsqueeze.inputs[0], dims_of(unsqueeze.outputs[0])
    if source is None or axes is None or len(axes) != 1 or indices.ndim:
        return None
    added = int(axes[0])
    if added < 0:
        if dims is None:
            return None
        added += len(dims)
    return by_value((node, unsqueeze), source) if added == axis else None
