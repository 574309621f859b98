"""Concats that hold other Concats, constants side by side, nothing, or what was just split.

1. Concat in a Concat along the same axis: one Concat
2. Constants side by side: one constant (their bytes do not grow in number; shared ones only while small)
3. An operand that is empty along the axis goes
4. All outputs of a Split in order, along the same axis: the Split's input
5. Split of a Concat at the borders of its operands: the operands
   A Concat of one operand goes with the operand.

Not folded: axes of unknown rank (6), an inner Concat that others read or that is an output of the graph (7), a Split
at other borders, of operands of open size or into sizes that are not constant (8), two outputs of the graph that would
be one value (9).
Exact: elements are copied, none is computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, constant_tensor, constant_value, input_or_none, is_op, opset
from edgeopt.passes.replacing import axis_of, by_node, by_value, private
from edgeopt.passes.slicing import dim_at, split_sizes
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_SHARED_BYTES = 1024  # constants that others read too may be stored a second time up to this size


class FoldConcat:
    """The rule (see the module's docstring)."""

    name = "fold_concat"
    ops = frozenset({"Concat", "Split"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: Split states its sizes in an input from 13 on."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Simplify the operands of this Concat, or undo it at this Split."""
        if is_op(node, "Split"):
            return _split_of_concat(node, state)
        if not is_op(node, "Concat") or any(v is None for v in node.inputs):
            return None
        axis = axis_of(attribute(node, "axis", 1), node.outputs[0])
        if axis is None:
            return None
        operands = [v for v in node.inputs if v is not None]
        removed: list[ir.Node] = []
        new = _flattened(node, operands, axis, removed)
        new = _without_splits(node, new, axis, state, removed)
        new = [v for v in new if dim_at(v, axis) != 0] or new[:1]
        new = _joined(node, new, axis)
        if new == operands:
            return None
        if len(new) == 1:
            return by_value((node, *removed), new[0])
        return by_node((node, *removed), "Concat", new, [ir.AttrInt64("axis", axis)])


def _flattened(node: ir.Node, operands: list[ir.Value], axis: int, removed: list[ir.Node]) -> list[ir.Value]:
    """Case 1, one level: the driver comes back to the result."""
    result: list[ir.Value] = []
    for value in operands:
        inner = value.producer()
        if (
            is_op(inner, "Concat")
            and inner is not None
            and private(value, node)
            and axis_of(attribute(inner, "axis", 1), value) == axis
            and all(v is not None for v in inner.inputs)
        ):
            removed.append(inner)
            result += [v for v in inner.inputs if v is not None]
        else:
            result.append(value)
    return result


def _without_splits(
    node: ir.Node, operands: list[ir.Value], axis: int, version: int, removed: list[ir.Node]
) -> list[ir.Value]:
    """Case 4: runs of all outputs of one Split."""
    result: list[ir.Value] = []
    k = 0
    while k < len(operands):
        split = operands[k].producer()
        whole = len(split.outputs) if split is not None else 0
        if (
            split is not None
            and is_op(split, "Split")
            and split.graph is node.graph
            and version >= 2
            and split.inputs[0] is not None
            and axis_of(attribute(split, "axis", 0), split.inputs[0]) == axis
            and operands[k : k + whole] == list(split.outputs)
            and (input_or_none(split, 1) is None or constant(split.inputs[1]) is not None)
        ):
            result.append(split.inputs[0])
            if split not in removed:
                removed.append(split)
            k += whole
        else:
            result.append(operands[k])
            k += 1
    return result


def _joined(node: ir.Node, operands: list[ir.Value], axis: int) -> list[ir.Value]:
    """Case 2."""
    result: list[ir.Value] = []
    runs: list[list[ir.Value]] = []
    for value in operands:
        if runs and _joinable(value) and _joinable(runs[-1][-1]):
            runs[-1].append(value)
        else:
            runs.append([value])
    for number, run in enumerate(runs):
        arrays = [a for v in run if (a := constant(v)) is not None]
        if len(run) > 1 and len(arrays) == len(run) and len({a.ndim for a in arrays}) == 1:
            joined = np.ascontiguousarray(np.concatenate(arrays, axis))
            result.append(constant_value(f"{node.name}/operand{number}", joined))
        else:
            result += run
    return result


def _joinable(value: ir.Value) -> bool:
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.dtype.bitwidth < 8:
        return False
    return len(value.uses()) == 1 or tensor.nbytes <= _SHARED_BYTES


def _split_of_concat(node: ir.Node, version: int) -> Answer:
    """Case 5."""
    source = node.inputs[0]
    concat = source.producer() if source is not None else None
    if source is None or concat is None or not is_op(concat, "Concat") or concat.graph is not node.graph:
        return None
    axis = axis_of(attribute(node, "axis", 0), source)
    if axis is None or axis_of(attribute(concat, "axis", 1), source) != axis:
        return None
    sizes = split_sizes(node, version)
    operands = [v for v in concat.inputs if v is not None]
    if sizes is None or sizes != [dim_at(v, axis) for v in operands]:
        return Skip(node.name or "", f"it cuts Concat {concat.name!r} elsewhere than between operands of fixed size")
    used = [(old, new) for old, new in zip(node.outputs, operands, strict=True) if old.uses() or old.is_graph_output()]
    if len({id(new) for _, new in used}) < len(used) and any(old.is_graph_output() for old, _ in used):
        return Skip(node.name or "", "two outputs of the graph would be one value")
    return Rewrite((node, concat), (), tuple(used)) if used else None
