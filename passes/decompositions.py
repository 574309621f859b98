"""The formulas that ``decompose`` writes, one function for each operator. A function answers None where it cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import (
    Array,
    attribute,
    constant,
    constant_value,
    dims_of,
    dtype_of,
    input_or_none,
    static_shape,
)
from edgeopt.passes.pattern import reduced_axes

_SELU = (1.67326319217681884765625, 1.05070102214813232421875)
_AXES_ARE_INPUTS = {"ReduceSum": 13}  # the other reductions: 18


class Writer:
    """Writes nodes that take the place of one node.

    Args:
        node: The node.
        version: The opset.
    """

    def __init__(self, node: ir.Node, version: int) -> None:
        assert node.inputs[0] is not None
        self.node, self.version = node, version
        self.x: ir.Value = node.inputs[0]
        self.dtype = dtype_of(self.x)
        self.nodes: list[ir.Node] = []

    def __call__(self, op: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A new node of one output; attributes that are lists, numbers or text."""
        name = f"{self.node.outputs[0].name}/{len(self.nodes)}_{op}"
        attrs = [ir.convenience.convert_attribute(k, v) for k, v in attributes.items()]
        self.nodes.append(ir.Node("", op, inputs=list(inputs), attributes=attrs, outputs=[ir.Value(name=name)]))
        return self.nodes[-1].outputs[0]

    def stored(self, array: Array, name: str = "constant") -> ir.Value:
        """A constant."""
        return constant_value(f"{self.node.outputs[0].name}/{name}", array)

    def number(self, value: float) -> ir.Value:
        """A scalar of the type of x."""
        return self.stored(np.array(value, self.dtype), f"number_{value:.6g}")

    def given(self, name: str, default: Any) -> Any:
        """An attribute of the node."""
        return attribute(self.node, name, default)

    def reduce(self, op: str, value: ir.Value, axes: Sequence[int], keep: int = 1) -> ir.Value:
        """A reduction with its axes where the opset has them."""
        if self.version < _AXES_ARE_INPUTS.get(op, 18):
            return self(op, value, axes=list(axes), keepdims=keep)
        return self(op, value, self.stored(np.array(axes, np.int64), "axes"), keepdims=keep)

    def below_zero(self) -> ir.Value:
        """``max(-x, 0)``."""
        return self("Relu", self("Neg", self.x))

    def root(self, variance: ir.Value, epsilon: ir.Value) -> ir.Value:
        """``√(v + ε)``."""
        return self("Sqrt", self("Add", variance, epsilon))


Formula = Callable[[Writer], ir.Value | None]


# ----------------------------------------------------------------------------------------------- activations
def _hard_sigmoid(w: Writer) -> ir.Value:
    line = w("Add", w("Mul", w.x, w.number(w.given("alpha", 0.2))), w.number(w.given("beta", 0.5)))
    if w.version < 11:
        return w("Clip", line, min=0.0, max=1.0)
    return w("Clip", line, w.number(0), w.number(1))


def _hard_swish(w: Writer) -> ir.Value:
    return w("Mul", w.x, w("HardSigmoid", w.x, alpha=1 / 6, beta=0.5))


def _mish(w: Writer) -> ir.Value:
    return w("Mul", w.x, w("Tanh", w("Softplus", w.x)))


def _softplus(w: Writer) -> ir.Value:
    e = w("Exp", w("Neg", w("Abs", w.x)))
    return w("Add", w("Relu", w.x), w("Log", w("Add", e, w.number(1))))


def _softsign(w: Writer) -> ir.Value:
    return w("Div", w.x, w("Add", w("Abs", w.x), w.number(1)))


def _swish(w: Writer) -> ir.Value:
    alpha = float(w.given("alpha", 1.0))
    return w("Mul", w.x, w("Sigmoid", w.x if alpha == 1 else w("Mul", w.x, w.number(alpha))))


def _gelu(w: Writer) -> ir.Value:
    if w.given("approximate", "none") == "tanh":
        cube = w("Mul", w("Mul", w("Mul", w.x, w.x), w.x), w.number(0.044715))
        curve = w("Tanh", w("Mul", w("Add", w.x, cube), w.number(math.sqrt(2 / math.pi))))
    else:
        curve = w("Erf", w("Mul", w.x, w.number(math.sqrt(0.5))))
    return w("Mul", w("Mul", w.x, w("Add", curve, w.number(1))), w.number(0.5))


def _exponential(w: Writer, alpha: float, divisor: float = 1.0, factor: float = 1.0) -> ir.Value:
    """``factor · (relu(x) + alpha · (exp(min(x, 0) / divisor) - 1))``."""
    below = w("Neg", w.below_zero())
    curve = w("Exp", below if divisor == 1 else w("Div", below, w.number(divisor)))
    total = w("Add", w("Relu", w.x), w("Mul", w("Sub", curve, w.number(1)), w.number(alpha)))
    return total if factor == 1 else w("Mul", total, w.number(factor))


def _elu(w: Writer) -> ir.Value:
    return _exponential(w, float(w.given("alpha", 1.0)))


def _celu(w: Writer) -> ir.Value:
    alpha = float(w.given("alpha", 1.0))
    return _exponential(w, alpha, alpha)


def _selu(w: Writer) -> ir.Value:
    return _exponential(w, float(w.given("alpha", _SELU[0])), factor=float(w.given("gamma", _SELU[1])))


def _leaky_relu(w: Writer) -> ir.Value:
    return w("Sub", w("Relu", w.x), w("Mul", w.below_zero(), w.number(w.given("alpha", 0.01))))


def _prelu(w: Writer) -> ir.Value:
    return w("Sub", w("Relu", w.x), w("Mul", w.below_zero(), w.node.inputs[1]))


def _thresholded_relu(w: Writer) -> ir.Value | None:
    if w.version < 9:
        return None
    return w("Where", w("Greater", w.x, w.number(w.given("alpha", 1.0))), w.x, w.number(0))


# ------------------------------------------------------------------------------------------------ reductions
def _softmax(w: Writer) -> ir.Value | None:
    parts = _centred(w)
    if parts is None:
        return None
    e = w("Exp", parts[0])
    return w("Div", e, w.reduce("ReduceSum", e, parts[1]))


def _log_softmax(w: Writer) -> ir.Value | None:
    parts = _centred(w)
    if parts is None:
        return None
    return w("Sub", parts[0], w("Log", w.reduce("ReduceSum", w("Exp", parts[0]), parts[1])))


def _centred(w: Writer) -> tuple[ir.Value, list[int]] | None:
    """``x - max(x)``, and the axis; before opset 13 only over the last axis, where it means the same."""
    dims = dims_of(w.x)
    if not dims:
        return None
    axis = int(w.given("axis", -1 if w.version >= 13 else 1)) % len(dims)
    if w.version < 13 and axis != len(dims) - 1:
        return None
    return w("Sub", w.x, w.reduce("ReduceMax", w.x, [axis])), [axis]


def _reduction(before: str | None, after: str | None) -> Formula:
    def write(w: Writer) -> ir.Value | None:
        axes = reduced_axes(w.node)
        if not axes:
            return None
        value = w("Mul", w.x, w.x) if before == "Mul" else w(before, w.x) if before is not None else w.x
        total = w.reduce("ReduceSum", value, axes, int(w.given("keepdims", 1)))
        return total if after is None else w(after, total)

    return write


# -------------------------------------------------------------------------------------------- normalizations
def _layer_norm(w: Writer) -> ir.Value | None:
    return _normalized(w, centred=True)


def _rms_norm(w: Writer) -> ir.Value | None:
    return _normalized(w, centred=False)


def _normalized(w: Writer, *, centred: bool) -> ir.Value | None:
    dims = dims_of(w.x)
    if not dims or w.given("stash_type", 1) != 1 or any(v.uses() or v.is_graph_output() for v in w.node.outputs[1:]):
        return None
    first = int(w.given("axis", -1)) % len(dims)
    axes = list(range(first, len(dims)))
    narrow = w.dtype == np.float16
    x = w("Cast", w.x, to=1) if narrow else w.x
    epsilon = w.stored(np.array(w.given("epsilon", 1e-5), np.float32 if narrow else w.dtype), "epsilon")
    d = w("Sub", x, w.reduce("ReduceMean", x, axes)) if centred else x
    variance = w.reduce("ReduceMean", w("Mul", d, d), axes)
    result = w("Div", d, w.root(variance, epsilon))
    result = w("Mul", w("Cast", result, to=10) if narrow else result, w.node.inputs[1])
    bias = input_or_none(w.node, 2)
    return result if bias is None else w("Add", result, bias)


def _instance_norm(w: Writer) -> ir.Value | None:
    dims = dims_of(w.x)
    scale, bias = (constant(v) for v in w.node.inputs[1:3])
    if dims is None or len(dims) < 3 or scale is None or bias is None:
        return None
    axes = list(range(2, len(dims)))
    shape = (-1, *(1,) * len(axes))
    d = w("Sub", w.x, w.reduce("ReduceMean", w.x, axes))
    variance = w.reduce("ReduceMean", w("Mul", d, d), axes)
    result = w("Div", d, w.root(variance, w.number(w.given("epsilon", 1e-5))))
    result = w("Mul", result, w.stored(scale.reshape(shape), "scale"))
    return w("Add", result, w.stored(bias.reshape(shape), "bias"))


def _group_norm(w: Writer) -> ir.Value | None:
    dims = dims_of(w.x)
    scale, bias = (constant(v) for v in w.node.inputs[1:3])
    if dims is None or len(dims) < 3 or scale is None or bias is None or w.version < 21:
        return None
    groups, shape = int(w.given("num_groups", 1)), (-1, *(1,) * (len(dims) - 2))
    grouped = w("Reshape", w.x, w.stored(np.array([0, groups, -1], np.int64), "grouped"))
    one, zero = (w.stored(np.full(groups, k, w.dtype), name) for k, name in ((1, "ones"), (0, "zeros")))
    result = w("InstanceNormalization", grouped, one, zero, epsilon=float(w.given("epsilon", 1e-5)))
    fixed = static_shape(w.x)
    back = w.stored(np.array(fixed, np.int64), "shape") if fixed is not None else w("Shape", w.x)
    result = w("Mul", w("Reshape", result, back), w.stored(scale.reshape(shape), "scale"))
    return w("Add", result, w.stored(bias.reshape(shape), "bias"))


FORMULAS: dict[str, Formula] = {
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Mish": _mish,
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Swish": _swish,
    "Gelu": _gelu,
    "Elu": _elu,
    "Celu": _celu,
    "Selu": _selu,
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "ThresholdedRelu": _thresholded_relu,
    "Softmax": _softmax,
    "LogSoftmax": _log_softmax,
    "ReduceL1": _reduction("Abs", None),
    "ReduceL2": _reduction("Mul", "Sqrt"),
    "ReduceSumSquare": _reduction("Mul", None),
    "ReduceLogSum": _reduction(None, "Log"),
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
}
"""By operator, down to those that every runtime has."""
