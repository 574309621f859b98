"""Slices of slices, of Concats, and side by side.

1. Slice of a Slice: one Slice; the same axis too, backwards and with steps too if its size is fixed, and forwards
   from the start if it is open. A Slice that takes everything goes (``remove_noops`` knows fixed shapes)
2. Slice of a Concat that takes from one operand only: Slice of that operand, or the operand itself
3. Slices of one value that cover an axis end to end without overlap: one Split
4. Split of which one output is read: a Slice. (3 needs two parts, so the two never undo each other)

Not folded: positions that are not constant (5), a first Slice that is read elsewhere or is an output (6), an open
axis cut from the end or with steps (7), operands of unknown size (8), parts of several operands (9), Slices that
overlap, leave a gap or cut several axes (10), Split sizes that are not constant (11).
Exact: elements are copied, none is computed. Every opset: attributes up to 9 (Slice) and 12 (Split).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from edgeopt.graph import attribute, graphs, is_op, opset
from edgeopt.passes.replacing import axis_of, by_node, by_value, private
from edgeopt.passes.slicing import (
    Part,
    combined,
    dim_at,
    part_of,
    parts_of,
    slice_operands,
    span_of,
    split_operands,
    split_sizes,
)
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip


@dataclass
class _State:
    version: int
    order: dict[ir.Node, int] = field(default_factory=dict)


class FoldSlices:
    """The rule (see the module's docstring)."""

    name = "fold_slices"
    ops = frozenset({"Slice", "Split"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> _State:
        """The opset, and the order of the Slices: a Split stands where the first of them stood."""
        state = _State(opset(model))
        for graph in graphs(model):
            for node in graph:
                if is_op(node, "Slice"):
                    state.order[node] = len(state.order)
        return state

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Merge this Slice with what is before it or beside it."""
        if not is_op(node, "Slice", "Split") or node.inputs[0] is None:
            return None
        if node.op_type == "Split":
            return _one_part(node, state.version)
        producer = node.inputs[0].producer()
        pair = producer is not None and is_op(producer, "Slice", "Concat") and producer.graph is node.graph
        parts = parts_of(node, state.version)
        if parts is None:
            name = node.name or ""
            return Skip(name, "its positions are not constant, or the rank is unknown") if pair else None
        if pair and producer is not None:
            fold = _after_slice if producer.op_type == "Slice" else _after_concat
            answer = fold(node, producer, parts, state.version)
            if isinstance(answer, Rewrite):
                return answer
            return _side_by_side(node, parts, state) or answer
        return _side_by_side(node, parts, state)


def _after_slice(node: ir.Node, inner: ir.Node, parts: dict[int, Part], version: int) -> Answer:
    """Case 1."""
    name = node.name or ""
    if not private(inner.outputs[0], node):
        return Skip(name, f"Slice {inner.name!r} before it is read by other nodes too, or is an output of the graph")
    before = parts_of(inner, version)
    if before is None:
        return Skip(name, f"the positions of Slice {inner.name!r} are not constant")
    total = dict(before)
    for axis, part in parts.items():
        if axis not in before:
            total[axis] = part
            continue
        both = combined(before[axis], part, dim_at(inner.inputs[0], axis))
        if both is None:
            return Skip(name, f"what it takes of axis {axis} depends on the size, which is open")
        total[axis] = both
    operands = slice_operands(inner.inputs[0], total, version, name)
    return by_node((node, inner), "Slice", *operands) if operands is not None else None


def _after_concat(node: ir.Node, concat: ir.Node, parts: dict[int, Part], version: int) -> Answer:
    """Case 2."""
    name = node.name or ""
    axis = axis_of(attribute(concat, "axis", 1), concat.outputs[0])
    if axis is None or axis not in parts:
        return None
    sizes = [dim_at(v, axis) for v in concat.inputs]
    known = [s for s in sizes if s is not None]
    if len(known) < len(sizes):
        return Skip(name, f"an operand of Concat {concat.name!r} has an open size on axis {axis}")
    first, count, step = span_of(parts[axis], sum(known))
    last = first + (count - 1) * step
    offset = 0
    for value, size in zip(concat.inputs, known, strict=True):
        if count and offset <= min(first, last) and max(first, last) < offset + size:
            rest = {a: p for a, p in parts.items() if a != axis}
            if (count, step) != (size, 1):
                rest[axis] = part_of((first - offset, count, step))
            if not rest and value is not None:
                return by_value((node, concat), value)
            operands = slice_operands(value, rest, version, name)
            return by_node((node, concat), "Slice", *operands) if operands is not None else None
        offset += size
    return Skip(name, f"it takes from several operands of Concat {concat.name!r}")


def _side_by_side(node: ir.Node, parts: dict[int, Part], state: _State) -> Rewrite | None:
    """Case 3: looked for at the first part only, so that each group is looked at once."""
    source = node.inputs[0]
    if source is None or len(parts) != 1 or state.version < 2 or len(source.uses()) < 2:
        return None
    axis = next(iter(parts))
    size = dim_at(source, axis)
    if size is None or span_of(parts[axis], size)[0] != 0:
        return None
    found: dict[int, tuple[ir.Node, int]] = {}
    for use in source.uses():
        reader = use.node
        if use.idx or not is_op(reader, "Slice") or reader.graph is not node.graph or reader not in state.order:
            continue
        own = parts_of(reader, state.version)
        if own is None or list(own) != [axis]:
            continue
        first, count, step = span_of(own[axis], size)
        if step != 1 or count == 0 or first in found:
            return None
        found[first] = (reader, count)
    members = [found[k] for k in sorted(found)]
    sizes = [count for _, count in members]
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    if len(members) < 2 or sorted(found) != starts or sum(sizes) != size:
        return None
    inputs, attributes = split_operands(source, sizes, axis, state.version, node.name or "")
    outputs = [ir.Value(name=n.outputs[0].name, type=n.outputs[0].type, shape=n.outputs[0].shape) for n, _ in members]
    new = ir.Node("", "Split", inputs=inputs, attributes=attributes, outputs=outputs, name=node.name)
    nodes = sorted((n for n, _ in members), key=lambda n: state.order[n])
    pairs = [(n.outputs[0], value) for (n, _), value in zip(members, outputs, strict=True)]
    return Rewrite(tuple(nodes), (new,), tuple(pairs))


def _one_part(node: ir.Node, version: int) -> Answer:
    """Case 4."""
    used = [k for k, v in enumerate(node.outputs) if v.uses() or v.is_graph_output()]
    if len(used) != 1 or len(node.outputs) < 2:
        return None
    sizes, axis = split_sizes(node, version), axis_of(attribute(node, "axis", 0), node.inputs[0])
    if sizes is None or axis is None:
        return Skip(node.name or "", "only one part is read, but where it lies is not known beforehand")
    start = sum(sizes[: used[0]])
    part = (start, start + sizes[used[0]], 1)
    operands = slice_operands(node.inputs[0], {axis: part}, version, node.name or "")
    if operands is None:
        return None
    output = node.outputs[used[0]]
    value = ir.Value(name=output.name, type=output.type, shape=output.shape)
    new = ir.Node("", "Slice", inputs=operands[0], attributes=operands[1], outputs=[value], name=node.name)
    return Rewrite((node,), (new,), ((output, value),))
