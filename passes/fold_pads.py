"""Pads in a row, and Pads whose border is sliced off again.

1. Pad of a Pad: one Pad by the sum, if both fill with the same constant value, or both repeat the edge
2. Slice that takes only what was there before the Pad: Slice of that, or nothing if it takes all of it

Not folded: amounts, axes or values that are not constant, or axes of unknown rank (3), Pads that crop (4), modes or
values that differ, reflect and wrap (5), a first Pad that is read elsewhere or is an output (6), Slices that take
part of the border, or of axes of open size (7), Pads before a pool that would then add its kernel's size or more (8):
onnxruntime moves such a Pad into the pool, whatever its amounts, and then refuses the pool.
Exact: the same elements. Attributes up to opset 10, inputs from 11, axes from 18.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, attribute, constant, constant_value, dims_of, input_or_none, is_op, opset
from edgeopt.passes.replacing import by_node, by_value, private
from edgeopt.passes.slicing import dim_at, part_of, parts_of, slice_operands, span_of
from edgeopt.rewrite import EVERYWHERE, Answer, Skip


class FoldPads:
    """The rule (see the module's docstring)."""

    name = "fold_pads"
    ops = frozenset({"Pad", "Slice"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: Pad has inputs from opset 11, attributes before."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Merge this Pad or Slice with the Pad before it."""
        if not is_op(node, "Pad", "Slice") or node.inputs[0] is None or state < 2:
            return None
        inner = node.inputs[0].producer()
        if inner is None or not is_op(inner, "Pad") or inner.graph is not node.graph:
            return None
        first = amounts(inner, state)
        name = node.name or ""
        if isinstance(first, str):
            return Skip(name, f"Pad {inner.name!r} before it {first}")
        if node.op_type == "Slice":
            return _slice(node, inner, first, state)
        second = amounts(node, state)
        if isinstance(second, str):
            return Skip(name, f"it {second}")
        modes = {attribute(n, "mode", "constant") for n in (node, inner)}
        if modes not in ({"constant"}, {"edge"}):
            return Skip(name, f"Pad {inner.name!r} before it fills in another way, or not with what one Pad could")
        fillings = [_filling(n, state) for n in (node, inner)]
        if modes == {"constant"} and (fillings[0] is None or fillings[0] != fillings[1]):
            return Skip(name, f"Pad {inner.name!r} before it fills with another value, or one that is not constant")
        if not private(inner.outputs[0], node):
            return Skip(name, f"Pad {inner.name!r} before it is read by other nodes too, or is an output of the graph")
        if (pool := _outgrown(node, first + second)) is not None:
            return Skip(name, f"with Pad {inner.name!r} it would add as much as the kernel of {pool!r} covers")
        total = [int(a) for a in (first + second).reshape(-1)]
        if state < 11:
            kept = [a for a in node.attributes.values() if a.name not in ("pads", "paddings")]
            return by_node((node, inner), "Pad", [inner.inputs[0]], [*kept, ir.AttrInt64s("pads", total)])
        stored = constant_value(f"{name}/pads", np.array(total, np.int64))
        value = [input_or_none(node, 2) or input_or_none(inner, 2)]
        return by_node((node, inner), "Pad", [inner.inputs[0], stored, *(value if value[0] else [])], _mode(node))


def _outgrown(pad: ir.Node, pads: Array) -> str | None:
    """Case 8: the pool that reads the Pad."""
    for reader in pad.outputs[0].consumers():
        kernel = attribute(reader, "kernel_shape") if is_op(reader, "AveragePool", "MaxPool") else None
        if kernel is None:
            continue
        own = np.asarray(attribute(reader, "pads") or [0] * (2 * len(kernel)), np.int64).reshape(2, -1)
        spatial = pads[:, 2:]
        if spatial.shape == own.shape and (spatial + own >= np.asarray(kernel)).any():
            return reader.name
    return None


def _mode(node: ir.Node) -> list[ir.Attr]:
    return [a for a in node.attributes.values() if a.name == "mode"]


def amounts(pad: ir.Node, version: int) -> Array | str:
    """What a Pad adds before and after each axis, int64 [2, rank]; or why that is not known, or it is no padding."""
    stored = constant(input_or_none(pad, 1)) if version >= 11 else attribute(pad, "pads")
    chosen = input_or_none(pad, 3)
    dims = dims_of(pad.outputs[0]) or (dims_of(pad.inputs[0]) if pad.inputs[0] is not None else None)
    axes = constant(chosen)
    if stored is None or (chosen is not None and axes is None):
        return "has amounts or axes that are not constant"
    if dims is None:
        return "has an unknown rank"
    rank = len(dims)
    listed = [int(a) % rank for a in axes] if axes is not None else list(range(rank))
    given = np.asarray(stored, np.int64).reshape(2, -1)
    if given.shape[1] != len(listed):
        return "has another number of amounts than axes"
    result = np.zeros((2, rank), np.int64)
    result[:, listed] = given
    return "crops" if (result < 0).any() else result


def _filling(pad: ir.Node, version: int) -> float | None:
    if version < 11:
        return float(attribute(pad, "value", 0.0))
    value = input_or_none(pad, 2)
    array = constant(value)
    return 0.0 if value is None else float(array.reshape(-1)[0]) if array is not None and array.size else None


def _slice(node: ir.Node, pad: ir.Node, pads: Array, version: int) -> Answer:
    """Case 2."""
    name, source = node.name or "", pad.inputs[0]
    parts = parts_of(node, version)
    if parts is None or source is None:
        return None
    rest = dict(parts)
    for axis in (int(a) for a in np.flatnonzero(pads.any(axis=0))):
        size = dim_at(source, axis)
        if size is None or axis not in parts:
            return Skip(name, f"axis {axis} keeps a border of Pad {pad.name!r}, or has an open size")
        before, after = (int(p) for p in pads[:, axis])
        first, count, step = span_of(parts[axis], size + before + after)
        last = first + (count - 1) * step
        if not count or min(first, last) < before or max(first, last) >= before + size:
            return Skip(name, f"it takes a part of the border of Pad {pad.name!r}")
        rest[axis] = part_of((first - before, count, step))
        if (count, step) == (size, 1):
            del rest[axis]
    if not rest:
        return by_value((node, pad), source)
    operands = slice_operands(source, rest, version, name)
    return by_node((node, pad), "Slice", *operands) if operands is not None else None
