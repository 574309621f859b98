"""Drop an Expand or Tile whose only work the broadcasting of its reader does anyway.

    y + Expand(x, shape) = y + x      where y alone already has the shape of the sum

1. Expand, with a shape that is constant or calculated: only the sizes of its output matter
2. Tile of axes of size 1, all its other repeats 1
3. Readers: operators that broadcast their operands both ways (Add, Mul, Where, …), any position, and the slope of PRelu
4. Axes in front that x lacks: broadcasting adds them too

Not folded: another operand alone does not have the shape of the result, or a size is not known; equal symbols are equal
sizes (5); the Expand repeats rather than broadcasts (6); the value lies in another graph (7); opset below 7 or 8, where
operators do not broadcast (8). The Expand stays for readers that need it. Exact: the same operation and numbers.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgeopt.graph import Dims, constant, dims_of, input_or_none, is_op, opset
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_FIRST_OPSET = dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less"), 7) | {
    **dict.fromkeys(("Max", "Min", "Sum", "Mean"), 8),
    **dict.fromkeys(("GreaterOrEqual", "LessOrEqual"), 12),
    "Where": 9,
    "Mod": 10,
    "PRelu": 7,
}


class FoldExpand:
    """The rule (see the module's docstring)."""

    name = "fold_expand"
    ops = frozenset(_FIRST_OPSET)
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: since when which operator broadcasts."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Let this reader read what its Expand reads."""
        if not is_op(node, *_FIRST_OPSET) or state < _FIRST_OPSET[node.op_type]:
            return None
        result: Answer = None
        for position, value in enumerate(node.inputs):
            expand = value.producer() if value is not None else None
            if expand is None or value is None or not is_op(expand, "Expand", "Tile"):
                continue
            reason = _unfit(node, position, expand, value)
            if reason is None:
                return _rewrite(node, position, expand)
            result = Skip(node.name or "", f"{expand.op_type} {expand.name!r} must stay: {reason}")
        return result


def _unfit(node: ir.Node, position: int, expand: ir.Node, value: ir.Value) -> str | None:
    """Cases 5 to 7."""
    source = expand.inputs[0]
    small = dims_of(source) if source is not None else None
    large, result = dims_of(value), dims_of(node.outputs[0])
    if expand.graph is not node.graph:
        return "it lies in another graph"
    if is_op(node, "PRelu") and position == 0:
        return "a PRelu does not broadcast what it reads to the shape of its slope"
    if small is None or large is None or result is None:
        return "a rank is not known"
    if is_op(expand, "Tile"):
        repeats = constant(input_or_none(expand, 1))
        if repeats is None or any(r != 1 and d != 1 for r, d in zip(repeats.reshape(-1).tolist(), small, strict=False)):
            return "it repeats more than single elements"
    others = [dims_of(v) for k, v in enumerate(node.inputs) if k != position and v is not None]
    if not any(_covers(other, large) for other in others if other is not None):
        return "no other operand alone is known to have its shape"
    return None


def _covers(other: Dims, large: Dims) -> bool:
    """Whether broadcasting against ``other`` gives at least the sizes of the expanded value, each one known to."""
    if len(other) < len(large):
        return False
    tail = other[len(other) - len(large) :]
    return all(a is not None and (a == b or (b == 1)) for a, b in zip(tail, large, strict=True))


def _rewrite(node: ir.Node, position: int, expand: ir.Node) -> Rewrite:
    output = node.outputs[0]
    inputs = list(node.inputs)
    inputs[position] = expand.inputs[0]
    new = ir.Node(
        "",
        node.op_type,
        inputs=inputs,
        attributes=node.attributes.values(),
        outputs=[ir.Value(name=output.name, type=output.type, shape=output.shape)],
        name=node.name,
    )
    return Rewrite((node, expand), (new,), ((output, new.outputs[0]),))
