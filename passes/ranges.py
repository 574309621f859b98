"""What is known of a value's sign without running the model."""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.graph import attribute, constant, constant_tensor, is_op

_NON_NEGATIVE = frozenset(
    {"Relu", "Sigmoid", "Softmax", "Exp", "Abs", "Sqrt", "ReduceL1", "ReduceL2", "ReduceSumSquare", "HardSigmoid"}
    | {"Softplus"}
)
_FIRST_OPERAND = frozenset(
    {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
    | {"Identity", "Slice", "Split", "Gather", "Expand", "Tile", "ReduceMean", "ReduceSum", "Ceil", "Floor"}
    | {"DepthToSpace", "SpaceToDepth"}
)
_ALL_OPERANDS = frozenset({"Concat", "Add", "Mul", "Sum", "Mean", "Min", "Max"})
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_MOST_NODES = 16  # looked at before the answer is "unknown"
_MOST_BYTES = 4096  # of a constant that is read for its sign


def non_negative(value: ir.Value | None) -> list[ir.Node] | None:
    """The nodes from which follows that no element of a float tensor is below zero (NaN is not); None if unknown.

    Readers come before their producers. Integers are left out: their sums and products wrap around.
    """
    order: dict[ir.Node, None] = {}
    return list(order)[::-1] if _proven(value, order, [_MOST_NODES]) else None


def _proven(value: ir.Value | None, order: dict[ir.Node, None], left: list[int]) -> bool:
    """Adds to ``order``, producers first; ``left`` counts down how many values may still be looked at."""
    left[0] -= 1
    if value is None or left[0] < 0:
        return False
    if constant_tensor(value) is not None:
        return _constant_at_least_zero(value)
    node = value.producer()
    if node is None or value.dtype not in _FLOATS or (value.index() and node.op_type != "Split"):
        return False
    if node in order:
        return True
    bounded = is_op(node, "Clip", "Max") and any(_constant_at_least_zero(v) for v in _lower_bounds(node))
    if is_op(node, *_NON_NEGATIVE) or _is_square(node) or bounded:
        sure = True
    elif is_op(node, "Clip") and "min" in node.attributes:  # up to opset 10
        sure = min(attribute(node, "min", -1.0), attribute(node, "max", 0.0)) >= 0
    elif is_op(node, "Div"):  # by -0.0 it would be -∞, and what is not below zero may be that
        sure = _constant_at_least_zero(node.inputs[1], above=True) and _proven(node.inputs[0], order, left)
    elif is_op(node, *_FIRST_OPERAND) or (is_op(node, "MaxPool") and not _dilated(node)):
        sure = _proven(node.inputs[0], order, left)
    else:
        sure = is_op(node, *_ALL_OPERANDS) and all(_proven(v, order, left) for v in node.inputs)
    if sure:
        order[node] = None
    return sure


def _lower_bounds(node: ir.Node) -> list[ir.Value | None]:
    """What the node's result cannot fall below; a Clip whose bounds cross gives the upper one, so that counts too."""
    if node.op_type == "Max":
        return [*node.inputs]
    bounds = [*node.inputs[1:3]]
    upper = bounds[1] if len(bounds) > 1 else None
    return bounds[:1] if upper is None or _constant_at_least_zero(upper) else []


def _constant_at_least_zero(value: ir.Value | None, above: bool = False) -> bool:
    tensor = constant_tensor(value)
    if tensor is None or tensor.nbytes > _MOST_BYTES or tensor.dtype not in _FLOATS:
        return False
    array = constant(value)
    return array is not None and array.size > 0 and bool((array > 0 if above else array >= 0).all())


def _is_square(node: ir.Node) -> bool:
    if is_op(node, "Mul"):
        return len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
    exponent = constant(node.inputs[1]) if is_op(node, "Pow") and len(node.inputs) == 2 else None
    return exponent is not None and exponent.size == 1 and float(exponent.reshape(-1)[0]) in (2.0, 4.0)


def _dilated(node: ir.Node) -> bool:
    """A window with holes may lie in the padding altogether, which is below everything."""
    return any(d != 1 for d in attribute(node, "dilations", ()))
