"""One clamp in place of two, and none where it changes nothing.

Relu, Clip, and Min and Max with one constant number are clamps: x → min(max(x, l), h), with (l, h) =

    Relu (0, ∞)    Max (c, ∞)    Min (-∞, c)    Clip (min, max); without one, the least or largest finite number

(l2, h2) after (l1, h1) is a clamp again: (max(l1, l2), min(h1, h2)) if the two intervals meet; else everything
ends at the bound of the second that is nearer to the first, and NaN stays NaN.

1. Two clamps in a row: one, written as Relu, Clip, Min or Max, whichever says it
2. Max of x and 0: Relu
3. Relu or Abs of what cannot be negative (``ranges``): nothing
4. Ceil, Floor, Round of what one of them gives; Sign of Sign, Abs of Abs; Abs of Neg: one of the two

Not folded: bounds that are not constant or no single number (5), bounds that cross within one node (6), a constant
that would enlarge x (7), a first clamp that is read elsewhere or is an output (8), operators that this opset or
onnxruntime lacks for the element type (9). Left alone, since infinities would come out otherwise: Clip(min=0)
is no Relu (it ends at the largest finite number), LeakyRelu of slope 0 neither (0 times -∞ is NaN).
NaN goes through all of these in onnxruntime, whatever the order of the operands. Exact to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, constant_value, dims_of, input_or_none, is_op, opset
from edgeopt.passes.ranges import non_negative
from edgeopt.passes.replacing import by_node, by_value, private
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_CLAMPS = ("Relu", "Clip", "Min", "Max")
_WHOLE = ("Ceil", "Floor", "Round")
_FLOATS: dict[ir.DataType, type[np.floating[Any]]] = {
    ir.DataType.FLOAT: np.float32,
    ir.DataType.FLOAT16: np.float16,
    ir.DataType.DOUBLE: np.float64,
}
_INTEGERS: dict[ir.DataType, type[np.signedinteger[Any]]] = {ir.DataType.INT32: np.int32, ir.DataType.INT64: np.int64}
Interval = tuple[float, float]


class FoldClips:
    """The rule (see the module's docstring)."""

    name = "fold_clips"
    ops = frozenset({*_CLAMPS, *_WHOLE, "Abs", "Sign"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: bounds of Clip are inputs from 11 on."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Merge this clamp with the one before, or leave it out."""
        if not is_op(node, *self.ops) or not node.inputs:
            return None
        if node.op_type in (*_WHOLE, "Abs", "Sign"):
            return _repeated(node)
        if node.op_type == "Relu" and (sure := _superfluous(node)) is not None:
            return sure
        outer = clamp(node, state)
        if outer is None or isinstance(outer, str):
            return _named(node, outer)
        source, interval = outer
        inner = source.producer()
        if inner is None or inner.graph is not node.graph or (before := clamp(inner, state)) is None:
            return _relu(node, source, interval)
        if isinstance(before, str):
            return _named(node, f"{inner.op_type} {inner.name!r} before it {before}")
        if not private(inner.outputs[0], node):
            return _relu(node, source, interval) or Skip(
                node.name or "",
                f"{inner.op_type} {inner.name!r} before it is read by other nodes too, or is an output of the graph",
            )
        return _written(node, inner, before[0], _after(before[1], interval), state)


def _named(node: ir.Node, reason: str | None) -> Skip | None:
    """Only a clamp next to another one makes a reader ask."""
    values = [v.producer() for v in node.inputs if v is not None]
    return Skip(node.name or "", reason) if reason and any(is_op(p, *_CLAMPS) for p in values) else None


def _limits(dtype: ir.DataType) -> Interval:
    if dtype in _FLOATS:
        info = np.finfo(_FLOATS[dtype])
        return float(info.min), float(info.max)
    return int(np.iinfo(_INTEGERS[dtype]).min), int(np.iinfo(_INTEGERS[dtype]).max)


def clamp(node: ir.Node, version: int) -> tuple[ir.Value, Interval] | str | None:
    """What a clamp works on and its bounds; why it is none; None for other operators and types."""
    value = node.outputs[0]
    dtype = next((v.dtype for v in (*node.inputs, value) if v is not None and v.dtype is not None), None)
    if not is_op(node, *_CLAMPS) or dtype is None or dtype not in (*_FLOATS, *_INTEGERS) or node.inputs[0] is None:
        return None
    lowest, largest = _limits(dtype)
    below, above = (lowest, largest) if dtype in _INTEGERS else (-np.inf, np.inf)
    if node.op_type == "Relu":
        return node.inputs[0], (0, above)
    if node.op_type == "Clip":
        if version < 11:
            bounds = [float(np.float32(attribute(node, k, d))) for k, d in (("min", lowest), ("max", largest))]
        else:
            given = [input_or_none(node, 1), input_or_none(node, 2)]
            found = [_number(v) for v in given]
            if any(f is None and g is not None for f, g in zip(found, given, strict=True)):
                return "has bounds that are not constant"
            bounds = [d if f is None else f for f, d in zip(found, (lowest, largest), strict=True)]
        return (node.inputs[0], (bounds[0], bounds[1])) if bounds[0] <= bounds[1] else "has bounds that cross"
    if len(node.inputs) != 2:
        return None
    for k in (1, 0):
        source, number = node.inputs[1 - k], _number(node.inputs[k])
        if number is None or number != number or source is None:
            continue
        given_number = node.inputs[k]
        dims, other = dims_of(source), dims_of(given_number) if given_number is not None else None
        if dims is None or other is None or len(other) > len(dims):
            return "may enlarge its operand"
        return source, ((number, above) if node.op_type == "Max" else (below, number))
    return None


def _number(value: ir.Value | None) -> float | None:
    array = constant(value)
    return array.reshape(-1)[0].item() if array is not None and array.size == 1 else None


def _after(first: Interval, second: Interval) -> Interval:
    if second[0] > first[1]:
        return second[0], second[0]
    if first[0] > second[1]:
        return second[1], second[1]
    return max(first[0], second[0]), min(first[1], second[1])


def _is_relu(interval: Interval) -> bool:
    return interval[0] == 0 and interval[1] == np.inf


def _relu(node: ir.Node, source: ir.Value, interval: Interval) -> Rewrite | None:
    """Case 2."""
    if node.op_type == "Max" and _is_relu(interval):
        return by_node((node,), "Relu", [source])
    return None


def _written(node: ir.Node, inner: ir.Node, source: ir.Value, interval: Interval, version: int) -> Answer:
    """Case 1: the shortest operator that means the interval."""
    dtype = next(v.dtype for v in (*inner.inputs, *node.inputs) if v is not None and v.dtype is not None)
    low, high = interval
    lowest, largest = _limits(dtype)
    kind = (_FLOATS | _INTEGERS)[dtype]
    base = node.name or ""

    def number(name: str, bound: float) -> ir.Value:
        return constant_value(f"{base}/{name}", np.array(bound, kind))

    if dtype in _FLOATS and _is_relu(interval):
        return by_node((node, inner), "Relu", [source])
    if dtype in _FLOATS and high == np.inf:
        return by_node((node, inner), "Max", [source, number("min", low)]) if version >= 8 else None
    if dtype in _FLOATS and low == -np.inf:
        return by_node((node, inner), "Min", [source, number("max", high)]) if version >= 8 else None
    if version < 12 and dtype != ir.DataType.FLOAT:
        return Skip(base, f"before opset 12 onnxruntime has no Clip of {dtype.name}")
    if version < 6:
        return None
    if version < 11:
        bounds = [ir.AttrFloat32("min", low), ir.AttrFloat32("max", high)]
        return by_node((node, inner), "Clip", [source], bounds)
    inputs = [source, number("min", low) if low > lowest else None, number("max", high) if high < largest else None]
    while inputs[-1] is None and len(inputs) > 1:
        inputs.pop()
    return by_node((node, inner), "Clip", inputs)


def _repeated(node: ir.Node) -> Rewrite | None:
    """Cases 3 and 4."""
    value = node.inputs[0]
    inner = value.producer() if value is not None else None
    if value is None or inner is None:
        return None
    same = node.op_type == inner.op_type or {node.op_type, inner.op_type} <= set(_WHOLE)
    if inner.graph is not node.graph:
        return None
    if is_op(inner, *_WHOLE, "Abs", "Sign") and same:
        return by_value((node, inner), value)
    if node.op_type != "Abs":
        return None
    return by_node((node, inner), "Abs", [inner.inputs[0]]) if is_op(inner, "Neg") else _superfluous(node)


def _superfluous(node: ir.Node) -> Rewrite | None:
    """Case 3; the nodes that tell the sign stay, and the check sees them."""
    value = node.inputs[0]
    evidence = non_negative(value)
    if value is None or evidence is None or any(n.graph is not node.graph for n in evidence):
        return None
    return by_value((node, *evidence), value)
