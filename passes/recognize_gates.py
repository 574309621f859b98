"""Replace the formula of a smooth or hard gate by its operator.

1. HardSigmoid (opset 6)   c · clip(a · x + b, 0, 1 / c), the clip also as Relu and Min, Max and Min
2. HardSwish (opset 14)    x · clip(x + 3, 0, 6) / 6, x · HardSigmoid(x; 1/6, 1/2); before opset 14: x · HardSigmoid(x)
3. Mish (opset 18)         x · tanh(softplus(x))
4. Gelu (opset 20)         x · (1 + erf(x / √2)) / 2, and x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))) / 2
5. Sigmoid                 1 / (1 + exp(-x)), also as exp(-x) + 1, a Reciprocal, and with 0 - x or -1 · x
6. x · Sigmoid(x)          x / (1 + exp(-x)): the usual form of SiLU, which has no operator before opset 24
7. Swish (opset 24)        x · Sigmoid(x), only where the target states that it has it (``legal``): in onnxruntime it is
                           0.6 times as fast, and lacks a kernel from opset 25

The constants may be scalars of any rank up to that of x, the factors of products in any order.

Not recognized: other constants or bounds, such as clip(x + 3, 0, 5), or another x inside (8); an inner value that
somebody else reads, that is an output of the graph or lies in another graph (9); constants that raise the rank of the
result, or that callers may override (10); integers, and types that onnxruntime has no kernel for: most of these
operators in double (11); an opset that has no such operator (12). Sigmoid where a channel has few elements or a Log
follows: in onnxruntime it does not go below 1.5e-8, which the formula does, and which matters where nothing larger
stands beside it (13).
Exact up to the rounding of a few operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import onnx_ir as ir

from edgeopt.graph import attribute, dims_of, is_op
from edgeopt.passes.formula import Finder, FormulaRule
from edgeopt.passes.pattern import Found, affine, bounds, dtype_name, factors, near, producer, scalar, split_scalar

_FEWEST = 32  # elements of a channel that will not all be below -16
_OPEN = 16  # what an open dim counts for
_GELU_CUBE = 0.044715
_GELU_TANH = math.sqrt(2 / math.pi)


def _hard_attributes(alpha: float, beta: float) -> tuple[ir.Attr, ir.Attr]:
    return ir.AttrFloat32("alpha", alpha), ir.AttrFloat32("beta", beta)


# -------------------------------------------------------------------------------------------------- products
def _hard_sigmoid(node: ir.Node, version: int) -> Iterator[Found]:
    """Case 1."""
    number, others = factors(node) if is_op(node, "Mul", "Div") else (1.0, [node.outputs[0]])
    if len(others) == 1 and (others[0] is not node.outputs[0] or node.op_type not in ("Mul", "Div")):
        yield from _hard(others[0], number, version, dtype_name(node.outputs[0]))


def _hard(value: ir.Value, number: float, version: int, kind: str) -> Iterator[Found]:
    clip = bounds(value, version)
    if clip is None or clip[0] != 0 or not near(number * clip[1], 1.0, kind):
        return
    for scale, offset, x in [*affine(clip[2])][:0:-1]:
        alpha, beta = number * scale, number * offset
        if alpha > 0 and 0 < beta < 1:
            yield Found("HardSigmoid", (x,), _hard_attributes(alpha, beta))


def _self_gated(node: ir.Node, version: int) -> Iterator[Found]:
    """Cases 2, 3, 4 and 7: x times a function of x."""
    number, others = factors(node)
    if len(others) != 2 or node.outputs[0] in others:
        return
    kind = dtype_name(node.outputs[0])
    for x, gate in (others, others[::-1]):
        yield from _hard_swish(x, gate, number, version, kind)
        yield from _gelu(x, gate, number, kind)
        if near(number, 1.0, kind):
            tanh = producer(gate, "Tanh")
            softplus = producer(tanh.inputs[0], "Softplus") if tanh is not None else None
            if softplus is not None and softplus.inputs[0] is x:
                yield Found("Mish", (x,))
            sigmoid = producer(gate, "Sigmoid")
            if sigmoid is not None and sigmoid.inputs[0] is x:
                yield Found("Swish", (x,))


def _hard_swish(x: ir.Value, gate: ir.Value, number: float, version: int, kind: str) -> Iterator[Found]:
    hard = producer(gate, "HardSigmoid")
    if hard is not None and hard.inputs[0] is x and near(number, 1.0, kind):
        alpha, beta = attribute(hard, "alpha", 0.2), attribute(hard, "beta", 0.5)
        if near(alpha, 1 / 6, "float32") and near(beta, 0.5, "float32"):
            yield Found("HardSwish", (x,))
        return
    clip = bounds(gate, version)
    if clip is None or clip[0] != 0 or not near(number * clip[1], 1.0, kind):
        return
    for scale, offset, source in affine(clip[2]):
        alpha, beta = number * scale, number * offset
        if source is x and near(alpha, 1 / 6, kind) and near(beta, 0.5, kind):
            yield Found("HardSwish", (x,))
            yield Found("HardSigmoid", (x,), _hard_attributes(alpha, beta), times_input=True)


def _gelu(x: ir.Value, gate: ir.Value, number: float, kind: str) -> Iterator[Found]:
    for scale, offset, source in affine(gate):
        curve = producer(source, "Erf", "Tanh")
        if curve is None or curve.inputs[0] is None:
            continue
        if not near(number * scale, 0.5, kind) or not near(number * offset, 0.5, kind):
            continue
        if curve.op_type == "Erf":
            if any(
                inner is x and plus == 0 and near(slope, math.sqrt(0.5), kind)
                for slope, plus, inner in affine(curve.inputs[0])
            ):
                yield Found("Gelu", (x,))
        elif _is_gelu_tanh(curve.inputs[0], x, kind):
            yield Found("Gelu", (x,), (ir.AttrString("approximate", "tanh"),))


def _is_gelu_tanh(value: ir.Value, x: ir.Value, kind: str) -> bool:
    """``√(2/π) · (x + 0.044715 · x³)``, or the same with x taken out of the sum."""
    node = producer(value, "Mul", "Div")
    if node is None:
        return False
    number, others = factors(node)
    if not near(number, _GELU_TANH, kind):
        return False
    if len(others) == 2 and any(o is x for o in others):  # x · (1 + 0.044715 · x²)
        rest = others[1] if others[0] is x else others[0]
        parts = split_scalar(producer(rest, "Add"))
        return parts is not None and near(parts[1], 1.0, kind) and _is_power(parts[0], x, 2, _GELU_CUBE, kind)
    total = producer(others[0], "Add") if len(others) == 1 else None
    if total is None:
        return False
    a, b = total.inputs
    rest_ = b if a is x else a if b is x else None
    return rest_ is not None and _is_power(rest_, x, 3, _GELU_CUBE, kind)


def _is_power(value: ir.Value, x: ir.Value, exponent: int, wanted: float, kind: str) -> bool:
    """``wanted · x^exponent``, as a product or with Pow."""
    node = producer(value, "Mul", "Div")
    if node is None:
        return False
    number, others = factors(node)
    degree = 0
    for other in others:
        power = producer(other, "Pow")
        square = producer(other, "Mul")
        if other is x:
            degree += 1
        elif power is not None and power.inputs[0] is x and (k := scalar(power.inputs[1])) in (2.0, 3.0):
            degree += int(k)
        elif square is not None and square.inputs[0] is x and square.inputs[1] is x:
            degree += 2
        else:
            return False
    return degree == exponent and near(number, wanted, kind)


# ------------------------------------------------------------------------------------------------- quotients
def _logistic(node: ir.Node, version: int) -> Iterator[Found]:
    """Cases 5 and 6."""
    above, below = (None, node.inputs[0]) if is_op(node, "Reciprocal") else node.inputs
    x = _negated_exponent(below)
    if x is None or _tiny_values_matter(x, node.outputs[0]):
        return
    if above is None or scalar(above) == 1:
        yield Found("Sigmoid", (x,))
    elif above is x:
        yield Found("Sigmoid", (x,), times_input=True)


def _tiny_values_matter(x: ir.Value, result: ir.Value) -> bool:
    """Case 13."""
    dims = dims_of(x)
    if dims is None or len(dims) < 3 or any(is_op(reader, "Log") for reader in result.consumers()):
        return True
    others = dims[2:] if isinstance(dims[1], int) else dims[1:]
    return math.prod(d if isinstance(d, int) else _OPEN for d in others) < _FEWEST


def _negated_exponent(value: ir.Value | None) -> ir.Value | None:
    """x of ``1 + exp(-x)``."""
    parts = split_scalar(producer(value, "Add"))
    e = producer(parts[0], "Exp") if parts is not None and parts[1] == 1 else None
    if e is None or e.inputs[0] is None:
        return None
    minus = producer(e.inputs[0], "Neg")
    if minus is not None:
        return minus.inputs[0]
    return next((x for scale, offset, x in affine(e.inputs[0]) if (scale, offset) == (-1, 0)), None)


_FINDERS: dict[str, tuple[Finder, ...]] = {
    "Mul": (_self_gated, _hard_sigmoid),
    "Div": (_self_gated, _hard_sigmoid, _logistic),
    "Clip": (_hard_sigmoid,),
    "Min": (_hard_sigmoid,),
    "Max": (_hard_sigmoid,),
    "Reciprocal": (_logistic,),
}


class RecognizeGates(FormulaRule):
    """The rule (see the module's docstring)."""

    name = "recognize_gates"
    finders: ClassVar[Mapping[str, tuple[Finder, ...]]] = _FINDERS
