"""Replace the formula of a function with two slopes by its operator.

1. LeakyRelu (opset 6)   max(x, a · x) with 0 < a < 1; min(x, a · x) with a > 1
2.                       relu(x) - a · relu(-x), relu(x) + a · relu(-x), relu(x) + a / 2 · (x - |x|)
3.                       x > 0 ? x : a · x, with any of the comparisons, either way round

Only where the target states that it has the operator (``legal``), since onnxruntime is slower with it:
4. PRelu (opset 7)       the same with one slope for each channel
5. Elu                   x > 0 ? x : a · (exp(x) - 1)

Not recognized: slopes for which the maximum is another function (6); slopes that are not constant or enlarge x (7); a
comparison with another number than 0, or another x (8); an inner value that somebody else reads or that is an output
of the graph (9); integers and double, for which onnxruntime has no kernel (10).
Exact, but that a formula may give NaN at infinity (∞ - |∞|) where the operator does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import onnx_ir as ir

from edgeopt.graph import Array, constant, constant_tensor, constant_value, dims_of
from edgeopt.passes.formula import Finder, FormulaRule
from edgeopt.passes.pattern import Found, affine, dtype_name, factors, near, producer, scalar


def _slope(value: ir.Value | None) -> tuple[ir.Value, Array, ir.Value] | None:
    """Source, constant and its value, of ``source · constant`` (a scalar or one number for each channel)."""
    node = producer(value, "Mul")
    if node is None:
        return None
    for source, factor in (node.inputs, node.inputs[::-1]):
        array = constant(factor) if constant_tensor(factor) is not None else None
        if source is not None and factor is not None and array is not None and array.size:
            return source, array, factor
    return None


def _two_slopes(x: ir.Value, slope: Array, like: ir.Value | None) -> Iterator[Found]:
    """LeakyRelu for one number; PRelu if ``like`` (a constant of the model) holds these very slopes."""
    if slope.size == 1:
        yield Found("LeakyRelu", (x,), (ir.AttrFloat32("alpha", float(slope.reshape(()))),))
    elif like is not None and _broadcasts_into(slope.shape, x):
        yield Found("PRelu", (x, like))


def _broadcasts_into(shape: tuple[int, ...], x: ir.Value) -> bool:
    dims = dims_of(x)
    if dims is None or len(shape) > len(dims):
        return False
    return all(s in (1, d) for s, d in zip(shape[::-1], dims[::-1], strict=False))


def _max_of_slopes(node: ir.Node, version: int) -> Iterator[Found]:
    """Case 1."""
    if len(node.inputs) != 2:
        return
    for x, scaled in (node.inputs, node.inputs[::-1]):
        parts = _slope(scaled)
        if parts is None or x is None or parts[0] is not x:
            continue
        slope = parts[1]
        if ((slope > 0) & (slope < 1)).all() if node.op_type == "Max" else (slope > 1).all():
            yield from _two_slopes(x, slope, parts[2])


def _sum_of_slopes(node: ir.Node, version: int) -> Iterator[Found]:
    """Case 2: ``relu(x) ± a · relu(-x)`` and ``relu(x) + a / 2 · (x - |x|)``."""
    for positive, negative in (node.inputs, node.inputs[::-1])[: 1 if node.op_type == "Sub" else 2]:
        relu = producer(positive, "Relu")
        x = relu.inputs[0] if relu is not None else None
        parts = _slope(negative)
        if x is None or parts is None:
            continue
        mirrored = producer(parts[0], "Relu")
        minus = producer(mirrored.inputs[0], "Neg") if mirrored is not None else None
        if minus is not None and minus.inputs[0] is x:
            if node.op_type == "Sub":
                yield from _two_slopes(x, parts[1], parts[2])
            else:
                yield from _two_slopes(x, -parts[1], constant_value(f"{node.outputs[0].name}/slope", -parts[1]))
        product = producer(negative, "Mul")
        if product is not None and node.op_type == "Add":
            number, others = factors(product)
            kink = producer(others[0], "Sub") if len(others) == 1 else None
            size = producer(kink.inputs[1], "Abs") if kink is not None else None
            if kink is not None and kink.inputs[0] is x and size is not None and size.inputs[0] is x:
                yield Found("LeakyRelu", (x,), (ir.AttrFloat32("alpha", 2 * number),))


def _chosen_slope(node: ir.Node, version: int) -> Iterator[Found]:
    """Cases 3 and 5: ``x > 0 ? x : f(x)``."""
    condition, first, second = node.inputs
    test = producer(condition, "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    if test is None or first is None or second is None:
        return
    left_zero, right_zero = scalar(test.inputs[0]) == 0, scalar(test.inputs[1]) == 0
    x = test.inputs[1] if left_zero else test.inputs[0] if right_zero else None
    if x is None:
        return
    positive = test.op_type.startswith("Greater") == right_zero
    same, other = (first, second) if positive else (second, first)
    if same is not x:
        return
    parts = _slope(other)
    if parts is not None and parts[0] is x:
        yield from _two_slopes(x, parts[1], parts[2])
    for scale, offset, source in affine(other):
        e = producer(source, "Exp")
        if e is not None and e.inputs[0] is x and scale > 0 and near(-offset, scale, dtype_name(x)):
            yield Found("Elu", (x,), (ir.AttrFloat32("alpha", scale),))


_FINDERS: dict[str, tuple[Finder, ...]] = {
    "Max": (_max_of_slopes,),
    "Min": (_max_of_slopes,),
    "Add": (_sum_of_slopes,),
    "Sub": (_sum_of_slopes,),
    "Where": (_chosen_slope,),
}


class RecognizeSlopes(FormulaRule):
    """The rule (see the module's docstring)."""

    name = "recognize_slopes"
    finders: ClassVar[Mapping[str, tuple[Finder, ...]]] = _FINDERS
