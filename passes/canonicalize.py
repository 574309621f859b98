"""Say the same in the one way that the other passes look for.

1. CastLike, where the type is known: Cast
2. x - c: x + (-c), for floats, int32 and int64 (which wrap around alike); c - x stays
3. x / c: x * (1 / c), for floats: if c is a power of two (exact), or if every reader mixes many values (Conv, Gemm,
   MatMul, normalizations, Softmax), where the last bit is below the rounding of the sums
4. Sum of two: Add
5. Neg of Neg, Not of Not: nothing
6. x ** 0.5, where x cannot be negative (``ranges``): Sqrt
7. MaxPool and LayerNormalization without the further outputs that nobody reads: runtimes have faster kernels

The direction is fixed: nothing here makes a Sub, Div or CastLike. Left alone: x / c before anything that a last bit may
tip over, such as Floor, Cast or a comparison (8); 1 / c that is 0, infinite, NaN or subnormal (9); constants that are
large and shared, or callers may override (10); x ** 2, which fusions of runtimes look for (11); opsets below 7, which
broadcast by attribute (12); x ** 0.5 of x that may be -∞ (13); a BatchNormalization with five outputs trains (14).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, constant, constant_value, dims_of, is_op, opset, stored_twice
from edgeopt.passes.ranges import non_negative
from edgeopt.passes.replacing import by_node, by_value
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)
_WRAPPING = (ir.DataType.INT32, ir.DataType.INT64)
_MIXING = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Softmax"),
    *("BatchNormalization", "LayerNormalization", "InstanceNormalization"),
)
_TRIMMED = ("MaxPool", "LayerNormalization")


class Canonicalize:
    """The rule (see the module's docstring)."""

    name = "canonicalize"
    ops = frozenset({"CastLike", "Sub", "Div", "Sum", "Neg", "Not", "Pow", *_TRIMMED})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: below 7, Sub and Div broadcast by attribute."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Rewrite this node in its usual form."""
        if not is_op(node, *self.ops) or not node.inputs or node.inputs[0] is None:
            return None
        if node.op_type in _TRIMMED:
            return _trimmed(node)
        if node.op_type in ("Neg", "Not"):
            return _twice(node)
        if len(node.inputs) != 2 or node.inputs[1] is None or state < 7:
            return None
        if node.op_type == "CastLike":
            return _cast(node)
        if node.op_type == "Sum":
            return by_node((node,), "Add", node.inputs)
        value = constant(node.inputs[1])
        if value is None or value.size == 0:
            return None
        if node.op_type == "Sub":
            return _sub(node, value)
        return _div(node, value) if node.op_type == "Div" else _sqrt(node, value)


def _cast(node: ir.Node) -> Answer:
    """Case 1."""
    like = node.inputs[1]
    if like is None or like.dtype is None or like.dtype == ir.DataType.UNDEFINED:
        return Skip(node.name or "", "the type it casts to is not known")
    small = like.dtype.is_floating_point() and like.dtype.bitwidth <= 8  # means nothing for other types
    kept = [a for a in node.attributes.values() if a.name == "saturate" and small]
    return by_node((node,), "Cast", [node.inputs[0]], [ir.AttrInt64("to", like.dtype.value), *kept])


def _sub(node: ir.Node, value: Array) -> Answer:
    """Case 2."""
    source, subtracted = node.inputs
    if subtracted is None or subtracted.dtype not in (*_FLOATS, *_WRAPPING):
        return None
    if reason := stored_twice(subtracted):
        return Skip(node.name or "", reason)
    with np.errstate(over="ignore"):
        negated = np.negative(value)
    return by_node((node,), "Add", [source, constant_value(f"{node.name}/negated", np.array(negated, order="C"))])


def _div(node: ir.Node, value: Array) -> Answer:
    """Case 3."""
    source, divisor = node.inputs
    if divisor is None or divisor.dtype not in _FLOATS:
        return None
    with np.errstate(all="ignore"):
        reciprocal = (1.0 / value.astype(np.float64)).astype(value.dtype)
        tiny = np.finfo(value.dtype).tiny
        exact = bool((np.abs(np.frexp(value)[0]) == 0.5).all())
    if not (np.isfinite(reciprocal).all() and np.isfinite(value).all() and (np.abs(reciprocal) >= tiny).all()):
        return None
    if not exact and not _mixed(node.outputs[0]):
        return None
    if reason := stored_twice(divisor):
        return Skip(node.name or "", reason)
    stored = constant_value(f"{node.name}/reciprocal", np.array(reciprocal.reshape(value.shape), order="C"))
    return by_node((node,), "Mul", [source, stored])


def _mixed(value: ir.Value) -> bool:
    return not value.is_graph_output() and all(is_op(u.node, *_MIXING) and u.idx == 0 for u in value.uses())


def _sqrt(node: ir.Node, value: Array) -> Answer:
    """Case 6."""
    source = node.inputs[0]
    dims = dims_of(source) if source is not None else None
    if value.size != 1 or float(value.reshape(-1)[0]) != 0.5 or dims is None or value.ndim > len(dims):
        return None
    if source is None or source.dtype not in _FLOATS or non_negative(source) is None:
        return None
    return by_node((node,), "Sqrt", [source])


def _twice(node: ir.Node) -> Rewrite | None:
    """Case 5."""
    inner = node.inputs[0].producer() if node.inputs[0] is not None else None
    if inner is None or not is_op(inner, node.op_type) or inner.graph is not node.graph or inner.inputs[0] is None:
        return None
    return by_value((node, inner), inner.inputs[0])


def _trimmed(node: ir.Node) -> Rewrite | None:
    """Case 7."""
    if len(node.outputs) < 2 or any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return None
    return by_node((node,), node.op_type, node.inputs, node.attributes.values())
