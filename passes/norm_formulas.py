"""Reading the formula of a normalization: shared by the passes that recognize them.

The formulas are ``d / √(v + ε) · γ + β`` and its relatives, d = x - m, with m the mean of x over some axes and v the
mean of d² over the same axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, Dims, constant, constant_tensor, dims_of, dtype_of, is_op, only_consumer, static_shape
from edgeopt.passes.pattern import dtype_name, inner_nodes, new_node, producer, reduced, scalar, split_scalar
from edgeopt.rewrite import Rewrite


@dataclass(frozen=True)
class Norm:
    """``(x - m) / √(v + ε)`` (centred) or ``x / √(mean(x²) + ε)``, over ``axes``; and γ and β where already known."""

    x: ir.Value
    axes: tuple[int, ...]
    epsilon: float
    centred: bool
    scale: ir.Value | None = None
    bias: ir.Value | None = None


def fitted(array: Array, shape: tuple[int, ...], target: tuple[int, ...]) -> Array:
    """The constant spread over ``shape``, which it broadcasts to, and then of shape ``target``."""
    own = array.reshape(array.shape[max(0, array.ndim - len(shape)) :])  # further axes in front are of size 1
    return np.ascontiguousarray(np.broadcast_to(own, shape).reshape(target))


def fits(value: ir.Value, shape: tuple[int, ...], rank: int) -> bool:
    """Whether a factor has one number for each element of ``shape`` (a constant: or fewer), at no higher rank."""
    tensor = constant_tensor(value)
    if tensor is None:
        return static_shape(value) == shape
    own = tuple(tensor.shape.numpy())
    if len(own) > rank:
        return False
    padded = (1,) * (len(shape) - len(own)) + own
    extra, kept = padded[: len(padded) - len(shape)], padded[len(padded) - len(shape) :]
    return all(d == 1 for d in extra) and all(a in (1, b) for a, b in zip(kept, shape, strict=True))


def scale_or_shift(last: ir.Node, op: str, shape: tuple[int, ...]) -> tuple[ir.Value | None, ir.Node]:
    """γ or β of the Mul or Add that alone reads the last node, and that node; else None and the last node itself."""
    reader = only_consumer(last.outputs[0])
    if reader is None or not is_op(reader, op) or reader.graph is not last.graph:
        return None, last
    others = [v for v in reader.inputs if v is not last.outputs[0]]
    dims = dims_of(last.outputs[0])
    if len(others) != 1 or others[0] is None or dims is None or not fits(others[0], shape, len(dims)):
        return None, last
    return others[0], reader


def channel_shape(dims: Dims) -> tuple[int, ...] | None:
    """``[1, C, 1, …]`` of a tensor with C channels; None if C is open."""
    channels = dims[1]
    return (1, channels, *(1,) * (len(dims) - 2)) if isinstance(channels, int) else None


def channel_affine(
    scale: ir.Value | None, bias: ir.Value | None, shape: tuple[int, ...], x: ir.Value
) -> tuple[Array, Array] | None:
    """γ and β as one number for each channel, where they are constant or missing."""
    dtype = dtype_of(x)
    found = [np.full(1, k, dtype) if v is None else constant(v) for v, k in ((scale, 1), (bias, 0))]
    if found[0] is None or found[1] is None:
        return None
    return fitted(found[0], shape, (shape[1],)), fitted(found[1], shape, (shape[1],))


def _uncast(value: ir.Value | None) -> ir.Value | None:
    """The value before a Cast between float16 and float32; else the value itself."""
    node = producer(value, "Cast")
    source = node.inputs[0] if node is not None else None
    if node is None or source is None:
        return value
    kinds = {dtype_name(source), dtype_name(node.outputs[0])}
    return source if kinds == {"float16", "float32"} else value


def _inverse_root(value: ir.Value | None) -> tuple[ir.Value, float] | str | None:
    """v and ε of ``1 / √(v + ε)``; a text if it looks like it but is not."""
    node = producer(_uncast(value), "Reciprocal", "Div", "Pow")
    if node is None:
        return None
    if node.op_type == "Pow":
        return _with_epsilon(node.inputs[0]) if scalar(node.inputs[1]) == -0.5 else None
    if node.op_type == "Div" and scalar(node.inputs[0]) != 1:
        return None
    return _root(node.inputs[-1])


def _root(value: ir.Value | None) -> tuple[ir.Value, float] | str | None:
    """v and ε of ``√(v + ε)``."""
    node = producer(_uncast(value), "Sqrt", "Pow")
    if node is None:
        shifted = split_scalar(producer(value, "Add"))
        if shifted is not None and producer(shifted[0], "Sqrt") is not None and _is_variance(shifted[0]):
            return "it adds its epsilon to the root, not inside of it"
        return None
    if node.op_type == "Pow" and scalar(node.inputs[1]) != 0.5:
        return None
    return _with_epsilon(node.inputs[0])


def _is_variance(value: ir.Value) -> bool:
    root = value.producer()
    inner = root.inputs[0] if root is not None and root.inputs else None
    return producer(inner, "ReduceMean") is not None


def _with_epsilon(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    parts = split_scalar(producer(value, "Add"))
    return parts if parts is not None and 0 < parts[1] < math.inf else None


def _square(value: ir.Value | None) -> ir.Value | str | None:
    """d of d², or why it is another power."""
    node = producer(value, "Mul", "Pow")
    if node is None or node.inputs[0] is None:
        return None
    if node.op_type == "Mul":
        return node.inputs[0] if node.inputs[0] is node.inputs[1] else None
    exponent = scalar(node.inputs[1])
    if exponent is None:
        exponents = constant(node.inputs[1])
        exponent = float(exponents.reshape(())) if exponents is not None and exponents.size == 1 else None
    return node.inputs[0] if exponent == 2 else f"its variance is the mean of the power {exponent}, not 2"


def _difference(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """x and the axes of ``x - mean(x)``."""
    node = producer(value, "Sub")
    mean = reduced(producer(node.inputs[1], "ReduceMean"), "ReduceMean") if node is not None else None
    return mean if node is not None and mean is not None and node.inputs[0] is mean[0] else None


def _statistics(variance: ir.Value, epsilon: float) -> Norm | str | None:
    """What is normalized by this variance: the centred x, or x itself."""
    mean = reduced(producer(variance, "ReduceMean"), "ReduceMean")
    square = _square(mean[0]) if mean is not None else None
    if mean is None or square is None or isinstance(square, str):
        return square if isinstance(square, str) else None
    inner = _difference(square) or _difference(_uncast(square))
    if inner is None:
        return Norm(square, mean[1], epsilon, centred=False)
    if inner[1] != mean[1]:
        return f"its mean is over the axes {list(inner[1])}, its variance over {list(mean[1])}"
    return Norm(inner[0], mean[1], epsilon, centred=True)


def division(node: ir.Node) -> Norm | str | None:
    """``d / √(v + ε)`` or ``d · (1 / √(v + ε))``: cases 1 and 5."""
    if node.op_type == "Div":
        pairs = [(node.inputs[0], _root(node.inputs[1]))]
    else:
        a, b = node.inputs
        pairs = [(a, _inverse_root(b)), (b, _inverse_root(a))]
    for d, root in pairs:
        if d is None or root is None:
            continue
        if isinstance(root, str):
            return root
        norm = _statistics(*root)
        if norm is None or isinstance(norm, str):
            return norm
        if not norm.centred:
            return norm if norm.x is d else None
        own = _difference(d) or _difference(_uncast(d))
        if own is not None and own[0] is norm.x and own[1] == norm.axes:
            return norm
    return None


def scaled_and_shifted(node: ir.Node) -> Norm | None:
    """``x · s + (β - m · s)`` with ``s = γ / √(v + ε)``: case 2."""
    for scaled, rest in (node.inputs, node.inputs[::-1]):
        product, shift = producer(scaled, "Mul"), producer(rest, "Sub")
        moved = producer(shift.inputs[1], "Mul") if shift is not None else None
        if product is None or shift is None or moved is None:
            continue
        for x, s in (product.inputs, product.inputs[::-1]):
            mean = next((v for v in moved.inputs if v is not s), None) if s in moved.inputs else None
            about = reduced(producer(mean, "ReduceMean"), "ReduceMean")
            parts = producer(s, "Mul")
            if about is None or parts is None or about[0] is not x:
                continue
            for gamma, inverse in (parts.inputs, parts.inputs[::-1]):
                root = _inverse_root(inverse)
                norm = _statistics(*root) if isinstance(root, tuple) else None
                if not isinstance(norm, Norm) or not norm.centred or norm.x is not x or norm.axes != about[1]:
                    continue
                dims, beta = dims_of(norm.x), shift.inputs[0]
                shape = [d for d in (dims or ())[-len(norm.axes) :] if isinstance(d, int)]
                if dims is None or len(shape) != len(norm.axes) or gamma is None or beta is None:
                    continue
                if fits(gamma, tuple(shape), len(dims)) and fits(beta, tuple(shape), len(dims)):
                    return Norm(norm.x, norm.axes, norm.epsilon, centred=True, scale=gamma, bias=beta)
    return None


def replaced(last: ir.Node, op: str, inputs: list[ir.Value], attributes: list[ir.Attr]) -> Rewrite | None:
    """All nodes from ``last`` back to the inputs by one node."""
    nodes = inner_nodes(last, [v for v in inputs if constant_tensor(v) is None])
    if nodes is None:
        return None
    old = last.outputs[0]
    new = new_node(op, inputs, old, name=last.name, attributes=attributes)
    return Rewrite(tuple(nodes), (new,), ((old, new.outputs[0]),))
